"""Failsafe ports as settings give them."""

from __future__ import annotations

import pytest

from felix.config.readers import read_failsafes


@pytest.mark.parametrize(
    ("text", "value"),
    [
        ("none", ()),
        ("22", ("tcp:22",)),
        ("TCP:22, udp:10.0.0.1/8:68,22", ("tcp:22", "udp:10.0.0.0/8:68")),
        ("tcp:[fd00::/8]:22,udp:fd00::1:53", ("tcp:fd00::/8:22", "udp:fd00::1/128:53")),
        (
            '[{"protocol": "tcp", "port": 22}, {"protocol": "udp", "net": "10.0.0.0/8", "port": 1}]',
            ("tcp:22", "udp:10.0.0.0/8:1"),
        ),
    ],
)
def test_failsafes_are_read_in_every_form_that_calico_has(text: str, value: tuple[str, ...]) -> None:
    assert read_failsafes(text) == value


@pytest.mark.parametrize(
    "text", ["tcp", "tcp:0", "tcp:65536", "icmp:8", "tcp:10.0.0:22", "tcp:", '[{"port": 1, "x": 2}]', "[1]", "22;23"]
)
def test_failsafes_that_mean_nothing_are_refused(text: str) -> None:
    with pytest.raises(ValueError, match=r"."):
        read_failsafes(text)
