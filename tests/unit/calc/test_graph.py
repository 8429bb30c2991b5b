"""What the graph says beside desired state, and what it costs; desired state itself is in `test_graph_states`."""

from __future__ import annotations

import sys
from collections.abc import Callable

import msgspec
import pytest

from felix.calc.desired import DENY_ALL, DesiredDelta
from felix.calc.graph import CalcGraph
from felix.calc.stats import ClusterTotals
from felix.model.cluster import NodeSpec
from felix.model.keys import BlockKey, ResourceKey
from felix.model.metadata import Metadata
from felix.model.net import parse_net
from felix.model.policies import StagedNetworkPolicySpec
from felix.model.records import (
    AllocationBlock,
    EntityRule,
    GlobalNetworkPolicy,
    Node,
    Rule,
    StagedNetworkPolicy,
    WorkloadEndpoint,
)
from tests.unit.calc.states import (
    HOST,
    Records,
    affinity,
    global_policy,
    network_policy,
    network_set,
    profile,
    tier,
    workload,
)

WEB_KEY = ResourceKey("WorkloadEndpoint", "default", "web")
WEB = workload("web", ips="10.0.0.1/32", labels="role=web", profiles="base")


def load(graph: CalcGraph, *parts: Records) -> DesiredDelta:
    for records in parts:
        for key, record in records.items():
            graph.on_update(key, record)
    return graph.flush()


def test_endpoint_rewritten_at_a_new_revision_is_told_again_alone() -> None:
    graph = CalcGraph(HOST)
    load(graph, profile("base", "Allow"))
    graph.on_update(WEB_KEY, WEB[WEB_KEY], revision=7)
    assert [endpoint and endpoint.revision for endpoint in graph.flush().endpoints.values()] == [7]
    graph.on_update(WEB_KEY, WEB[WEB_KEY], revision=7)
    assert not graph.flush()
    graph.on_update(WEB_KEY, WEB[WEB_KEY], revision=9)
    delta = graph.flush()
    assert [endpoint and endpoint.revision for endpoint in delta.endpoints.values()] == [9]
    assert (delta.sets, delta.members, delta.policies) == ({}, {}, {})


def test_endpoint_with_bad_parts_keeps_the_good_ones_and_names_the_others() -> None:
    graph = CalcGraph(HOST)
    record = WEB[WEB_KEY]
    assert isinstance(record, WorkloadEndpoint)
    spec = msgspec.structs.replace(record.spec, mac="not a mac", ip_networks=("10.0.0.0/24", "10.0.0.1", "fd00::1/128"))
    delta = load(graph, {WEB_KEY: msgspec.structs.replace(record, spec=spec)})
    endpoint = delta.endpoints[WEB_KEY]
    assert endpoint is not None
    assert endpoint.mac is None
    assert list(map(str, endpoint.addresses)) == ["10.0.0.1/32", "fd00::1/128"]
    assert [problem.field for problem in graph.pop_problems()[WEB_KEY]] == ["spec.ipNetworks[0]", "spec.mac"]


def test_endpoint_mac_in_another_spelling_is_told_in_one() -> None:
    graph = CalcGraph(HOST)
    record = WEB[WEB_KEY]
    assert isinstance(record, WorkloadEndpoint)
    spec = msgspec.structs.replace(record.spec, mac="02-00-5E-00-53-AF")
    endpoint = load(graph, {WEB_KEY: msgspec.structs.replace(record, spec=spec)}).endpoints[WEB_KEY]
    assert endpoint is not None
    assert endpoint.mac == "02:00:5e:00:53:af"


def test_rule_that_cannot_be_used_denies_in_its_place_and_is_named() -> None:
    graph = CalcGraph(HOST)
    key = ResourceKey("GlobalNetworkPolicy", "", "p")
    record = global_policy("p", ingress="Allow")[key]
    assert isinstance(record, GlobalNetworkPolicy)
    bad = Rule("Allow", source=EntityRule(selector="role =="))
    spec = msgspec.structs.replace(record.spec, ingress=(Rule("Log"), bad, Rule("Allow")))
    policy = load(graph, WEB, {key: msgspec.structs.replace(record, spec=spec)}).policies[key]
    assert policy is not None
    assert policy.ingress[1] == DENY_ALL
    assert policy.ingress[2] != DENY_ALL
    (problem,) = graph.pop_problems()[key]
    assert (problem.subject, problem.field) == (
        "/calico/resources/v3/projectcalico.org/globalnetworkpolicies/p",
        "spec.ingress[1]",
    )
    load(graph, {key: record})
    assert graph.pop_problems() == {key: ()}


def test_policy_whose_selector_cannot_be_read_counts_as_missing_and_is_named() -> None:
    graph = CalcGraph(HOST)
    key = ResourceKey("GlobalNetworkPolicy", "", "p")
    delta = load(graph, WEB, global_policy("p", "role =="))
    assert not delta.policies
    assert [problem.field for problem in graph.pop_problems()[key]] == ["spec.selector"]
    load(graph, {key: global_policy("p")[key]})
    assert graph.pop_problems() == {key: ()}


def test_set_flag_flip_tells_only_the_policies_that_name_the_set() -> None:
    graph = CalcGraph(HOST)
    load(
        graph,
        WEB,
        global_policy("one", ingress="Allow:role == 'db'"),
        global_policy("two", ingress="Deny:role == 'db'"),
        global_policy("other", ingress="Allow:role == 'x'"),
    )
    delta = load(graph, network_set("nets", "192.0.2.0/24 192.0.2.128/25", "role=db"))
    assert {key.name for key in delta.policies} == {"one", "two"}
    assert (delta.sets, delta.endpoints) == ({}, {})
    delta = load(graph, network_set("nets", "192.0.2.0/24", "role=db"))
    assert not delta
    delta = load(graph, network_set("nets", "192.0.2.1", "role=db"))
    assert {key.name for key in delta.policies} == {"one", "two"}


def test_kinds_that_decide_nothing_change_nothing() -> None:
    graph = CalcGraph(HOST)
    graph.pop_bgp_inputs()
    metadata = Metadata(name="s", namespace="default")
    staged = StagedNetworkPolicy(metadata=metadata, spec=StagedNetworkPolicySpec(types=("Ingress",)))
    graph.on_update(ResourceKey("StagedNetworkPolicy", "default", "s"), staged)
    block = parse_net("10.65.0.0/26")
    graph.on_update(BlockKey(block), AllocationBlock(cidr=str(block)))
    assert not graph.flush()
    assert (graph.pop_problems(), graph.pop_bgp_inputs()) == ({}, None)


def test_bgp_inputs_are_a_picture_told_once_per_change() -> None:
    graph = CalcGraph(HOST)
    first = graph.pop_bgp_inputs()
    assert first is not None
    assert (first.hostname, dict(first.nodes), first.blocks) == (HOST, {}, ())
    key = ResourceKey("Node", "", "h2")
    node = Node(metadata=Metadata(name="h2", labels={"rack": "a"}), spec=NodeSpec())
    load(graph, {key: node}, affinity("10.65.1.0/26"), affinity("10.65.0.0/26"), affinity("10.65.2.0/26", "h2"))
    second = graph.pop_bgp_inputs()
    assert second is not None
    assert dict(second.nodes) == {"h2": node}
    assert list(map(str, second.blocks)) == ["10.65.0.0/26", "10.65.1.0/26"]
    load(graph, {key: node})
    assert graph.pop_bgp_inputs() is None
    graph.on_update(key, None)
    third = graph.pop_bgp_inputs()
    assert third is not None
    assert (dict(second.nodes), dict(third.nodes)) == ({"h2": node}, {})


def test_stats_count_what_is_used_here_and_what_the_cluster_has() -> None:
    graph = CalcGraph(HOST)
    load(
        graph,
        WEB,
        workload("far", "h2", ips="10.0.0.2/32"),
        profile("base", "Allow"),
        tier("t"),
        global_policy("p", ingress="Allow:role == 'db'"),
        network_policy("unused", "role == 'nobody'", "Allow:role == 'x'"),
        network_set("nets", "192.0.2.0/24"),
    )
    stats = graph.stats()
    assert (stats.local_endpoints, stats.policies, stats.selectors, stats.set_items) == (1, 1, 1, 3)
    assert stats.cluster == ClusterTotals(
        hosts=0, host_endpoints=0, workload_endpoints=2, tiers=1, policies=2, profiles=1
    )


def test_settle_in_slices_leaves_nothing_for_the_flush_and_ends_in_the_same() -> None:
    parts = [WEB, *(global_policy(f"p{number}", ingress=f"Allow:role == 'r{number}'") for number in range(10))]
    sliced, whole = CalcGraph(HOST), CalcGraph(HOST)
    for records in parts:
        for key, record in records.items():
            sliced.on_update(key, record)
    slices = 1
    while not sliced.settle(limit=3):
        slices += 1
    assert slices == 4
    assert sliced.flush() == load(whole, *parts)


def count_calls(act: Callable[[], object]) -> int:
    """Returns how many Python functions are called while `act` runs: a cost that no other load disturbs."""
    calls = 0

    def on_event(frame: object, event: str, argument: object) -> None:
        nonlocal calls
        calls += event == "call"

    sys.setprofile(on_event)
    try:
        act()
    finally:
        sys.setprofile(None)
    return calls


def make_cluster(size: int) -> list[Records]:
    parts = [
        workload(f"w{n}", HOST if n % 4 == 0 else "h2", ips=f"10.1.{n >> 8}.{n & 255}/32", labels=f"app=a{n}")
        for n in range(size)
    ]
    parts += [
        global_policy(f"p{n}", f"app == 'a{n}'", ingress=f"Allow:app == 'a{n + 1}'", order=n) for n in range(size // 4)
    ]
    parts += [network_set(f"n{n}", f"10.2.{n}.0/24", "app=a5") for n in range(size // 20)]
    return parts


def count_calls_of_change(size: int, change: Records) -> int:
    graph = CalcGraph(HOST)
    load(graph, *make_cluster(size))
    return count_calls(lambda: load(graph, change))


@pytest.mark.parametrize(
    "change",
    [
        workload("new", ips="10.9.0.1/32", labels="app=a0"),
        workload("new", "h2", ips="10.9.0.1/32", labels="app=a1"),
        global_policy("p8", "app == 'a8'", ingress="Deny:app == 'a9'", order=3),
        network_set("n1", "172.16.0.0/12 10.2.1.0/24", "app=a5"),
        tier("new", 5),
    ],
    ids=["local endpoint", "remote endpoint", "policy", "network set", "tier"],
)
def test_one_change_in_a_cluster_eight_times_larger_costs_the_same(change: Records) -> None:
    small, large = (count_calls_of_change(size, change) for size in (100, 800))
    assert large <= small * 1.5 + 20


def test_endpoint_that_goes_is_leaving_until_it_was_told_unless_another_names_its_interface() -> None:
    graph = CalcGraph(HOST)
    successor = ResourceKey("WorkloadEndpoint", "default", "web2")
    load(graph, WEB)
    graph.on_update(WEB_KEY, None)
    assert graph.settle()
    assert graph.find_leaving() == ["cali-web"]
    graph.on_update(successor, WEB[WEB_KEY])
    assert graph.settle()
    assert graph.find_leaving() == []
    graph.on_update(successor, None)
    graph.flush()
    assert graph.find_leaving() == []
