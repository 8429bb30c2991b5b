"""Addresses of nodes, of the gateway and of the datastore are nobody's workload."""

from __future__ import annotations

from felix.calc.graph import CalcGraph
from felix.model.cluster import NodeAddress, NodeBgp, NodeSpec
from felix.model.endpoints import WorkloadEndpointSpec
from felix.model.keys import ResourceKey
from felix.model.net import Net, parse_net
from felix.model.records import Node, WorkloadEndpoint

ENDPOINT = ResourceKey("WorkloadEndpoint", "prod", "h1-cni-web-eth0")
NODE = ResourceKey("Node", "", "h2")
OWN = parse_net("10.65.0.1")


def endpoint(*nets: str) -> WorkloadEndpoint:
    spec = WorkloadEndpointSpec(
        node="h1",
        orchestrator="cni",
        workload="web",
        endpoint="eth0",
        interface_name="cali1",
        ip_networks=nets,
    )
    return WorkloadEndpoint(spec=spec)


def node(*addresses: str) -> Node:
    bgp = NodeBgp(ipv4_address="10.0.0.2/24")
    return Node(spec=NodeSpec(bgp=bgp, addresses=tuple(NodeAddress(address) for address in addresses)))


def addresses(graph: CalcGraph, before: tuple[Net, ...] = ()) -> tuple[Net, ...]:
    found = graph.flush().endpoints.get(ENDPOINT)
    return found.addresses if found else before


def test_endpoint_that_names_addresses_of_a_node_gets_only_its_own_in_any_order() -> None:
    for order in ((0, 1), (1, 0)):
        graph = CalcGraph("h1")
        for step in order:
            if step:
                graph.on_update(NODE, node("fd00:10::2/64"))
            else:
                graph.on_update(ENDPOINT, endpoint("10.65.0.1/32", "10.0.0.2/32", "fd00:10::2/128"))
        assert addresses(graph) == (OWN,)
        reasons = [problem.reason for problem in graph.pop_problems()[ENDPOINT]]
        assert reasons == ["is an address of Node(h2), which no workload may have"] * 2


def test_endpoint_gets_the_address_when_the_node_is_gone() -> None:
    graph = CalcGraph("h1")
    graph.on_update(NODE, node())
    graph.on_update(ENDPOINT, endpoint("10.65.0.1/32", "10.0.0.2/32"))
    assert addresses(graph) == (OWN,)
    graph.on_update(NODE, None)
    assert addresses(graph) == (OWN, parse_net("10.0.0.2"))


def test_endpoint_that_names_a_reserved_address_never_gets_it() -> None:
    graph = CalcGraph("h1", [parse_net("169.254.1.1"), parse_net("10.0.0.254")])
    graph.on_update(ENDPOINT, endpoint("10.0.0.254/32", "169.254.1.1/32", "10.65.0.1/32"))
    assert addresses(graph) == (OWN,)
    assert len(graph.pop_problems()[ENDPOINT]) == 2
