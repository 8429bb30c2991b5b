"""What is taken from qosControls, and what is said of values that nobody can use."""

from __future__ import annotations

import pytest

from felix.calc.desired import Bandwidth, Limits, PacketRate
from felix.calc.limits import read_limits
from felix.model.endpoints import QosControls
from felix.model.keys import ResourceKey

_KEY = ResourceKey("WorkloadEndpoint", "default", "h1-cni-w-eth0")


def read(controls: QosControls | None) -> Limits:
    limits, problems = read_limits(_KEY, controls)
    assert problems == ()
    return limits or Limits()


def test_every_field_has_its_place() -> None:
    controls = QosControls(
        ingress_bandwidth=8_000_000,
        ingress_burst=80_000,
        ingress_peakrate=16_000_000,
        ingress_minburst=1500,
        egress_bandwidth=1_000_000_000,
        ingress_packet_rate=100,
        egress_packet_rate=200,
        egress_packet_burst=50,
        ingress_max_connections=3,
        egress_max_connections=4,
        dscp="af41",
    )
    assert read(controls) == Limits(
        packets_in=PacketRate(100, 5),
        packets_out=PacketRate(200, 50),
        connections_in=3,
        connections_out=4,
        bandwidth_in=Bandwidth(8_000_000, 10_000, 16_000_000, 1500),
        bandwidth_out=Bandwidth(1_000_000_000, 12_500_000),
        dscp=34,
    )


@pytest.mark.parametrize("controls", [None, QosControls(), QosControls(ingress_bandwidth=0, egress_packet_rate=0)])
def test_no_limit_and_zero_are_no_limit(controls: QosControls | None) -> None:
    assert read_limits(_KEY, controls) == (None, ())


@pytest.mark.parametrize(("text", "number"), [("EF", 46), ("cs6", 48), (0, 0), ("63", 63), ("LE", 1), ("DF", 0)])
def test_class_has_a_name_or_a_number(text: str | int, number: int) -> None:
    assert read(QosControls(dscp=text)).dscp == number


@pytest.mark.parametrize(
    ("controls", "field"),
    [
        (QosControls(ingress_bandwidth=999), "ingressBandwidth"),
        (QosControls(egress_bandwidth=10**15 + 1), "egressBandwidth"),
        (QosControls(egress_packet_rate=10_001), "egressPacketRate"),
        (QosControls(ingress_max_connections=2**32), "ingressMaxConnections"),
        (QosControls(dscp=64), "dscp"),
        (QosControls(dscp="best"), "dscp"),
        (QosControls(dscp="٣"), "dscp"),
        (QosControls(dscp=-1), "dscp"),
    ],
)
def test_value_that_nobody_can_use_limits_nothing_and_is_named(controls: QosControls, field: str) -> None:
    limits, (problem,) = read_limits(_KEY, controls)
    assert limits is None
    assert problem.field == f"spec.qosControls.{field}"


def test_bad_value_leaves_the_others_in_force() -> None:
    limits, problems = read_limits(
        _KEY, QosControls(ingress_bandwidth=8_000_000, ingress_peakrate=8_000_000, egress_packet_rate=20_000)
    )
    assert [problem.field for problem in problems] == [
        "spec.qosControls.egressPacketRate",
        "spec.qosControls.ingressPeakrate",
    ]
    assert limits == Limits(bandwidth_in=Bandwidth(8_000_000, 100_000))
