"""From stored rules to conditions."""

from __future__ import annotations

import pytest

from felix.calc.desired import Action, IcmpMatch, PortRange
from felix.model.net import parse_net
from felix.policy.rules import ScopedRule, get_port_range, get_protocol, scope_rule
from tests.unit.policy.build import make_rule


@pytest.mark.parametrize(
    ("value", "expected"),
    [("TCP", 6), ("udp", 17), ("ICMP", 1), ("ICMPv6", 58), ("SCTP", 132), ("UDPLite", 136), (47, 47), ("47", 47)],
)
def test_protocol_by_name_or_number_is_the_number(value: int | str, expected: int) -> None:
    assert get_protocol(value) == expected


@pytest.mark.parametrize("value", ["", "TCPX", 0, 256, "256", -1, "-1", "6 "])
def test_protocol_unknown_is_refused(value: int | str) -> None:
    with pytest.raises(ValueError, match="protocol"):
        get_protocol(value)


@pytest.mark.parametrize(
    ("value", "expected"), [(80, (80, 80)), ("80", (80, 80)), ("80:90", (80, 90)), ("0:65535", (0, 65535))]
)
def test_port_range_of_number_or_text_has_both_ends(value: int | str, expected: tuple[int, int]) -> None:
    assert get_port_range(value) == PortRange(*expected)


@pytest.mark.parametrize("value", ["", "http", "90:80", "80:", ":80", 65536, -1, "1:2:3", "80-90", "²"])
def test_port_range_of_anything_else_is_refused(value: int | str) -> None:
    with pytest.raises(ValueError, match="port"):
        get_port_range(value)


def test_rule_with_everything_is_converted_field_by_field() -> None:
    rule = make_rule(
        "Pass",
        ipVersion=4,
        protocol="TCP",
        notProtocol=17,
        source={"nets": ["10.1.2.3/8", "10.0.0.0/8"], "notNets": ["::1"], "selector": "has(a)", "notPorts": [1]},
        destination={"ports": ["80:90", 443], "notSelector": "has(b)"},
    )
    scoped = scope_rule("", rule)
    assert scoped.action is Action.PASS
    assert (scoped.ip_version, scoped.protocol, scoped.not_protocol) == (4, 6, 17)
    assert scoped.source.nets == (parse_net("10.0.0.0/8"),)
    assert scoped.source.not_nets == (parse_net("::1/128"),)
    assert scoped.source.selector is not None
    assert scoped.source.not_ports == (PortRange(1, 1),)
    assert scoped.destination.ports == (PortRange(80, 90), PortRange(443, 443))
    assert scoped.destination.not_selector is not None
    assert scoped.fault == ""


def test_rule_without_conditions_has_none() -> None:
    assert scope_rule("blue", make_rule("Log")) == ScopedRule(Action.LOG)
    empty = {"nets": [], "notNets": [], "ports": [], "notPorts": [], "selector": ""}
    assert scope_rule("blue", make_rule("Allow", source=empty, icmp=None)) == ScopedRule(Action.ALLOW)


def test_rule_with_icmp_keeps_type_and_code() -> None:
    scoped = scope_rule("", make_rule("Allow", protocol="ICMP", icmp={"type": 8}, notICMP={"type": 3, "code": 1}))
    assert scoped.icmp == IcmpMatch(8, None)
    assert scoped.not_icmp == IcmpMatch(3, 1)
    assert scope_rule("", make_rule("Allow", protocol=58, icmp={})) == ScopedRule(Action.ALLOW, protocol=58)


@pytest.mark.parametrize(
    "members",
    [
        {"protocol": "NOSUCH"},
        {"notProtocol": 300},
        {"source": {"nets": ["nonsense"]}},
        {"destination": {"notNets": ["10.0.0.0/33"]}},
        {"source": {"selector": "a ="}},
        {"source": {"notSelector": "("}},
        {"source": {"namespaceSelector": "&&"}},
        {"protocol": "TCP", "source": {"ports": ["a b"]}},
        {"source": {"ports": [80]}},
        {"protocol": "ICMP", "destination": {"notPorts": [80]}},
        {"icmp": {"type": 8}},
        {"protocol": "TCP", "notICMP": {"type": 8}},
        {"protocol": "ICMP", "icmp": {"code": 1}},
    ],
)
@pytest.mark.parametrize("action", ["Allow", "Deny", "Pass", "Log"])
def test_rule_that_cannot_be_used_denies_everything_and_says_why(action: str, members: dict[str, object]) -> None:
    scoped = scope_rule("", make_rule(action, **members))
    assert scoped == ScopedRule(Action.DENY, fault=scoped.fault)
    assert scoped.fault
