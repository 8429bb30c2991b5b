"""Nodes that say of themselves what cannot be: nobody else is harmed, and they are named."""

from __future__ import annotations

import pytest

from felix.calc.desired import TUNNEL_PEERS, RemoteVtep
from felix.calc.graph import CalcGraph
from felix.calc.tunnels import derive_mac
from felix.model.keys import ResourceKey
from felix.model.metadata import Metadata
from felix.model.net import parse_address
from felix.model.networks import IPPoolSpec
from felix.model.records import IPPool, Node
from tests.model.desired_mirror import DesiredMirror
from tests.support.tunnels import make_node

_OTHER = ResourceKey("Node", "", "h2")


class World:
    """What h1 makes of it: a pool of each family, its own node, and another one."""

    def __init__(self) -> None:
        self.graph, self.mirror = CalcGraph("h1"), DesiredMirror()
        for name, cidr in (("four", "10.65.0.0/16"), ("six", "fd00:65::/64")):
            key = ResourceKey("IPPool", "", name)
            pool = IPPool(metadata=Metadata(name=name), spec=IPPoolSpec(cidr=cidr, vxlan_mode="CrossSubnet"))
            self.graph.on_update(key, pool)
        self.put(make_node("h1", address4="192.0.2.1/24", address6="2001:db8::1/64"))

    def put(self, node: Node) -> str:
        """The node is so from now on; returns what is wrong with h2."""
        self.graph.on_update(ResourceKey("Node", "", node.metadata.name), node)
        self.mirror.on_delta(self.graph.flush())
        found = self.graph.pop_problems().get(_OTHER, ())
        return "; ".join(f"{one.value}: {one.reason}" for one in found)


def test_node_with_the_address_of_this_host_is_no_end_of_the_tunnel_until_one_of_both_has_another() -> None:
    world = World()
    copied = make_node("h2", address4="192.0.2.1/24", tunnel4="10.65.0.1")
    assert world.put(copied) == "192.0.2.1: is the address of this host, and is not reached by it"
    assert world.mirror.remote_vteps == {}
    assert TUNNEL_PEERS not in world.mirror.nets
    assert world.put(make_node("h1", address4="192.0.2.7/24")) == ""
    far = RemoteVtep(parse_address("10.65.0.1"), derive_mac("h2", 4), parse_address("192.0.2.1"))
    assert world.mirror.remote_vteps == {(4, "h2"): far}


@pytest.mark.parametrize(
    "address", ["0.0.0.0/0", "224.0.0.1/24", "127.0.0.1/8", "255.255.255.255/32", "::/0", "ff02::1/64", "::1/128"]
)
def test_node_with_an_address_that_no_host_has_is_no_end_of_the_tunnel(address: str) -> None:
    world = World()
    four = make_node("h2", address4=address, tunnel4="10.65.0.1")
    six = make_node("h2", address6=address, tunnel6="fd00:65::1")
    assert "is no address that a host can have" in world.put(six if ":" in address else four)
    assert world.mirror.remote_vteps == {}


def test_tunnel_address_that_is_a_hosts_own_is_not_led_into_the_tunnel() -> None:
    world = World()
    world.put(make_node("h3", address6="2001:db8::3/64", tunnel6="fd00:65::3"))
    wrong = make_node("h2", address6="2001:db8::2/64", tunnel6="2001:db8::3")
    assert "which must stay reachable without the tunnel" in world.put(wrong)
    assert list(world.mirror.remote_vteps) == [(6, "h3")]
    world.put(make_node("h3", address6="2001:db8::4/64", tunnel6="fd00:65::3"))
    assert sorted(world.mirror.remote_vteps) == [(6, "h2"), (6, "h3")]
