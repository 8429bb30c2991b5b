"""Pools and hosts as nets for address translation, and external addresses of endpoints."""

from __future__ import annotations

import itertools

from hypothesis import given
from hypothesis import strategies as st

from felix.calc.desired import HOSTS, MASQUERADED, POOLS, FloatingAddress
from felix.calc.graph import CalcGraph
from felix.calc.pools import PoolNets
from felix.model.cluster import NodeAddress, NodeSpec
from felix.model.endpoints import IpNat, WorkloadEndpointSpec
from felix.model.keys import ResourceKey
from felix.model.net import Net, parse_net
from felix.model.networks import IPPoolSpec
from felix.model.records import IPPool, Node, Record, WorkloadEndpoint

_CIDRS = ("10.0.0.0/8", "10.1.0.0/16", "10.1.2.0/24", "10.1.2.3/32", "10.2.0.0/16", "fd00::/8", "fd00::1/128")
_EXTERNAL, _INTERNAL = "192.0.2.7", "10.65.0.1"


def pool(cidr: str, *, hides: bool = False) -> IPPool:
    return IPPool(spec=IPPoolSpec(cidr=cidr, nat_outgoing=hides))


def outermost(nets: list[Net]) -> set[Net]:
    return {net for net in nets if not any(other != net and other.__contains__(net) for other in nets)}


@given(
    st.lists(st.tuples(st.integers(0, 5), st.none() | st.tuples(st.sampled_from(_CIDRS), st.booleans())), max_size=30)
)
def test_nets_of_pools_by_any_path_are_the_outermost_of_those_that_are_there(
    steps: list[tuple[int, tuple[str, bool] | None]],
) -> None:
    book, told = PoolNets(), {POOLS: set[Net](), MASQUERADED: set[Net](), HOSTS: set[Net]()}
    stored: dict[int, tuple[str, bool]] = {}
    for number, wanted in steps:
        stored.pop(number, None)
        if wanted is not None:
            stored[number] = wanted
        assert (
            book.set_pool(ResourceKey("IPPool", "", str(number)), pool(wanted[0], hides=wanted[1]) if wanted else None)
            is None
        )
        for name, delta in book.pop_changes().items():
            assert delta.removed <= told[name]
            assert delta.added.isdisjoint(told[name])
            told[name] = told[name] - delta.removed | delta.added
        assert told[POOLS] == outermost([parse_net(cidr) for cidr, _ in stored.values()])
        assert told[MASQUERADED] == outermost([parse_net(cidr) for cidr, hides in stored.values() if hides])


def test_pool_that_cannot_be_read_is_none_and_named() -> None:
    book = PoolNets()
    problem = book.set_pool(ResourceKey("IPPool", "", "bad"), pool("10.0.0.0/33", hides=True))
    assert problem is not None
    assert problem.field == "spec.cidr"
    assert book.pop_changes() == {}


def test_addresses_of_hosts_come_and_go_with_their_nodes() -> None:
    graph = CalcGraph("h1")
    nodes = [ResourceKey("Node", "", name) for name in ("h1", "h2")]
    spec = NodeSpec(addresses=(NodeAddress("192.0.2.1/24"),))
    for key in nodes:
        graph.on_update(key, Node(spec=spec))
    assert graph.flush().nets[HOSTS].added == {parse_net("192.0.2.1")}
    graph.on_update(nodes[0], None)
    assert not graph.flush().nets
    graph.on_update(nodes[1], None)
    assert graph.flush().nets[HOSTS].removed == {parse_net("192.0.2.1")}


def key(name: str) -> ResourceKey:
    return ResourceKey("WorkloadEndpoint", "prod", name)


def endpoint(interface: str, address: str, external: str = "") -> WorkloadEndpoint:
    nats = (IpNat(address, external),) if external else ()
    spec = WorkloadEndpointSpec(node="h1", interface_name=interface, ip_networks=(f"{address}/32",), ip_nats=nats)
    return WorkloadEndpoint(spec=spec)


def test_external_address_is_the_lowest_keys_and_nobodys_who_claims_what_another_has_in_any_order() -> None:
    records: dict[ResourceKey, Record] = {
        key("a"): endpoint("cali1", _INTERNAL, _EXTERNAL),
        key("b"): endpoint("cali2", "10.65.0.2", _EXTERNAL),
        key("c"): endpoint("cali3", "10.65.0.3", _INTERNAL),
        key("d"): endpoint("cali4", "10.65.0.4", "192.0.2.9"),
        ResourceKey("Node", "", "h9"): Node(spec=NodeSpec(addresses=(NodeAddress("192.0.2.9"),))),
    }
    for order in itertools.permutations(records):
        graph = CalcGraph("h1")
        found = {}
        for one in order:
            graph.on_update(one, records[one])
            found.update(graph.flush().endpoints)
        floating = {one.name: endpoint.floating for one, endpoint in found.items() if endpoint is not None}
        wanted = FloatingAddress(parse_net(_EXTERNAL), parse_net(_INTERNAL))
        assert floating == {"a": (wanted,), "b": (), "c": (), "d": ()}
        assert {one for one, problems in graph.pop_problems().items() if problems} == {key("b"), key("c"), key("d")}
        graph.on_update(key("a"), None)
        found = graph.flush().endpoints
        after = found[key("b")]
        assert after is not None
        assert after.floating == (FloatingAddress(parse_net(_EXTERNAL), parse_net("10.65.0.2")),)
        other = found[key("c")]
        assert other is not None
        assert other.floating


def test_external_address_that_cannot_be_is_named_and_the_endpoint_stays() -> None:
    graph = CalcGraph("h1")
    nats = (
        IpNat("10.65.0.9", _EXTERNAL),
        IpNat(_INTERNAL, "2001:db8::1"),
        IpNat(_INTERNAL, "x"),
        IpNat(_INTERNAL, _INTERNAL),
    )
    spec = WorkloadEndpointSpec(node="h1", interface_name="cali1", ip_networks=(f"{_INTERNAL}/32",), ip_nats=nats)
    graph.on_update(key("a"), WorkloadEndpoint(spec=spec))
    found = graph.flush().endpoints[key("a")]
    assert found is not None
    assert found.floating == ()
    assert found.addresses == (parse_net(_INTERNAL),)
    assert len(graph.pop_problems()[key("a")]) == 4
