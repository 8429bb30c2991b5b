"""What is taken from qosControls and from annotations of policies, and what is said of values nobody can use."""

from __future__ import annotations

import msgspec
import pytest

from felix.calc.desired import Bandwidth, Limits, PacketRate, SourceRate
from felix.calc.graph import CalcGraph
from felix.calc.limits import BURST_ANNOTATION, RATE_ANNOTATION, read_limits, read_source_rate
from felix.model.endpoints import QosControls
from felix.model.keys import Key, ResourceKey, format_key
from felix.model.metadata import Metadata
from felix.model.policies import GlobalNetworkPolicySpec, StagedGlobalNetworkPolicySpec
from felix.model.records import GlobalNetworkPolicy, Rule, StagedGlobalNetworkPolicy
from tests.unit.calc.states import HOST, profile, workload

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


def policy(selector: str = "all()", **annotations: str) -> GlobalNetworkPolicy:
    """Returns a policy that allows everything. annotations: `rate` and `burst`."""
    names = {"rate": RATE_ANNOTATION, "burst": BURST_ANNOTATION}
    metadata = Metadata(annotations={names[name]: value for name, value in annotations.items()})
    spec = GlobalNetworkPolicySpec(selector=selector, types=("Ingress",), ingress=(Rule("Allow"),))
    return GlobalNetworkPolicy(metadata=metadata, spec=spec)


def key(name: str, kind: str = "GlobalNetworkPolicy") -> ResourceKey:
    return ResourceKey(kind, "", f"default.{name}")


@pytest.mark.parametrize(
    ("annotations", "expected"),
    [
        ({}, None),
        ({"rate": "0"}, None),
        ({"rate": "50"}, SourceRate(50, 100)),
        ({"rate": "1000000", "burst": "1"}, SourceRate(1_000_000, 1)),
    ],
)
def test_annotations_of_a_policy_are_rate_and_burst(annotations: dict[str, str], expected: SourceRate | None) -> None:
    assert read_source_rate(key("p"), policy(**annotations)) == (expected, ())


@pytest.mark.parametrize("text", ["", "50/s", "-1", "1000001", "5.0", " 5", "٣", "1e3", "9" * 5000])
def test_annotation_that_nobody_can_use_is_named_with_policy_value_and_remedy(text: str) -> None:
    rate, (problem,) = read_source_rate(key("p"), policy(rate=text, burst="7"))
    assert rate is None
    assert problem.subject == format_key(key("p"))
    assert problem.field == f"metadata.annotations[{RATE_ANNOTATION}]"
    assert problem.value == (text if len(text) < 100 else f"{text[:99]}…")
    assert "is not a number from 0 to 1000000, such as 100; the policy is enforced" in problem.reason


def test_bad_burst_leaves_the_rate_in_force_and_burst_alone_is_named() -> None:
    rate, (problem,) = read_source_rate(key("p"), policy(rate="50", burst="0"))
    assert rate == SourceRate(50, 100)
    assert problem.field == f"metadata.annotations[{BURST_ANNOTATION}]"
    rate, (problem,) = read_source_rate(key("p"), policy(burst="7"))
    assert rate is None
    assert problem.reason == f"has no effect without {RATE_ANNOTATION}"


@pytest.mark.parametrize(
    ("name", "hint"),
    [
        ("felix/new-connection-rate-per-sourc", f"did you mean {RATE_ANNOTATION}?"),
        ("felix/new-connections-burst-per-source", f"did you mean {BURST_ANNOTATION}?"),
        ("felix/quota", f"there are {RATE_ANNOTATION} and {BURST_ANNOTATION}"),
    ],
)
def test_misspelt_annotation_is_named_with_the_right_one_and_others_hold(name: str, hint: str) -> None:
    record = GlobalNetworkPolicy(
        metadata=Metadata(annotations={RATE_ANNOTATION: "5", name: "50"}), spec=GlobalNetworkPolicySpec()
    )
    rate, (problem,) = read_source_rate(key("p"), record)
    assert rate == SourceRate(5, 100)
    assert (problem.field, problem.value) == (f"metadata.annotations[{name}]", "50")
    assert problem.reason == f"has no effect: no such annotation; {hint}"
    record = msgspec.structs.replace(record, metadata=Metadata(annotations={name: "50"}))
    rate, (problem,) = read_source_rate(key("p"), record)
    assert rate is None
    assert hint in problem.reason


def test_annotations_of_others_are_nobodys_business() -> None:
    record = GlobalNetworkPolicy(
        metadata=Metadata(annotations={"example.org/felix/rate": "x", "felix.io/rate": "y"}),
        spec=GlobalNetworkPolicySpec(),
    )
    assert read_source_rate(key("p"), record) == (None, ())


@pytest.mark.parametrize("flag", ["do_not_track", "pre_dnat"])
def test_rate_of_a_policy_for_hosts_alone_is_named(flag: str) -> None:
    spec = GlobalNetworkPolicySpec(types=("Ingress",), apply_on_forward=True)
    spec = msgspec.structs.replace(spec, **{flag: True})
    record = GlobalNetworkPolicy(metadata=Metadata(annotations={RATE_ANNOTATION: "5"}), spec=spec)
    rate, (problem,) = read_source_rate(key("p"), record)
    assert rate is None
    assert "has no effect" in problem.reason


class Told:
    """A graph with the workloads `web` and `db`, and what it has said of their rates and of policies."""

    def __init__(self) -> None:
        self._graph = CalcGraph(HOST)
        self.rates: dict[str, SourceRate | None] = {}
        self.problems: dict[Key, int] = {}
        self.policies: set[ResourceKey] = set()
        for name, address in (("web", "10.0.0.1/32"), ("db", "10.0.0.2/32")):
            for one, record in workload(name, ips=address, labels=f"role={name}", profiles="base").items():
                self._graph.on_update(one, record)
        for one, rules in profile("base", "Allow").items():
            self._graph.on_update(one, rules)

    def say(self, *records: tuple[ResourceKey, GlobalNetworkPolicy | StagedGlobalNetworkPolicy | None]) -> set[str]:
        """Returns which workloads were told anew; in `policies` is which rules were."""
        for one, record in records:
            self._graph.on_update(one, record)
        delta = self._graph.flush()
        self.policies = set(delta.policies)
        for endpoint in delta.endpoints.values():
            assert endpoint is not None
            self.rates[endpoint.key.name] = endpoint.limits.per_source if endpoint.limits else None
        self.problems |= {one: len(found) for one, found in self._graph.pop_problems().items()}
        return {one.name for one in delta.endpoints}


def test_lowest_rate_of_all_policies_that_select_an_endpoint_counts_for_it() -> None:
    told = Told()
    told.say((key("all"), policy(rate="50")), (key("web"), policy("role == 'web'", rate="50", burst="10")))
    assert told.rates == {"web": SourceRate(50, 10), "db": SourceRate(50, 100)}
    assert told.say((key("db"), policy("role == 'db'", rate="20", burst="500"))) == {"db"}
    assert told.rates["db"] == SourceRate(20, 500)
    assert told.say((key("web"), None)) == {"web"}
    assert told.rates["web"] == SourceRate(50, 100)
    assert told.say((key("all"), policy())) == {"web"}
    assert told.rates == {"web": None, "db": SourceRate(20, 500)}
    assert not any(told.problems.values())


def test_annotation_that_changes_tells_the_endpoints_of_its_policy_and_no_policy() -> None:
    graph = Told()
    graph.say((key("web"), policy("role == 'web'", rate="50")))
    assert graph.say((key("web"), policy("role == 'web'", rate="60"))) == {"web"}
    assert graph.policies == set()
    assert graph.say((key("web"), policy("role == 'web'", rate="x"))) == {"web"}
    assert graph.rates["web"] is None
    assert graph.problems[key("web")] == 1
    assert graph.say((key("web"), policy("role == 'web'", rate="60"))) == {"web"}
    assert graph.problems[key("web")] == 0


def test_rate_of_a_staged_policy_limits_nothing() -> None:
    told = Told()
    spec = StagedGlobalNetworkPolicySpec(selector="all()", types=("Ingress",))
    staged = StagedGlobalNetworkPolicy(metadata=Metadata(annotations={RATE_ANNOTATION: "5"}), spec=spec)
    told.say((key("s", "StagedGlobalNetworkPolicy"), staged))
    assert told.rates == {"web": None, "db": None}
