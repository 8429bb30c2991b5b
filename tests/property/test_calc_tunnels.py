"""Tunnels by any path are as a plain calculation over everything stored says."""

from __future__ import annotations

import random
from collections.abc import Mapping
from typing import Literal

from hypothesis import given
from hypothesis import strategies as st

from felix.calc.desired import TUNNEL_PEERS, ClusterRoute, OwnVtep, RemoteVtep
from felix.calc.graph import CalcGraph
from felix.calc.tunnels import TunnelSettings, derive_mac
from felix.model.keys import BlockKey, Key, ResourceKey
from felix.model.metadata import Metadata
from felix.model.net import Net, parse_address, parse_net
from felix.model.networks import AllocationAttribute, AllocationBlock, IPPoolSpec
from felix.model.records import IPPool, Node, Record
from tests.model.desired_mirror import DesiredMirror
from tests.property.test_calc_graph import find_leftovers
from tests.support.tunnels import make_node

OWN = "h1"
HOSTS = (OWN, "h2", "h3")
POOLS = {"p4": "10.65.0.0/16", "p4in": "10.65.1.0/24", "q4": "10.66.0.0/16", "p6": "fd00:65::/64"}
BLOCKS = ("10.65.0.0/30", "10.65.0.4/30", "10.65.1.0/30", "10.66.0.0/30", "10.66.0.4/32", "fd00:65::/126")
TUNNELS4 = ("", "10.65.0.1", "10.65.0.5", "10.66.0.4", "10.99.0.1", "192.0.2.2")
TUNNELS6 = ("", "fd00:65::1", "fd00:65::9", "2001:db8::2")
OUTERS4 = ("", "192.0.2.1/24", "192.0.2.2/24", "198.51.100.3/24", "192.0.2.4", "224.0.0.1/24")
OUTERS6 = ("", "2001:db8::1/64", "2001:db8::2/64", "2001:db8:1::3/64", "fe80::1/64")
MACS = ("", "", "02:00:5e:00:53:01", "nonsense")
EXTERNALS = (parse_net("192.0.2.0/28"), parse_net("2001:db8:9::/64"))

Records = dict[Key, Record]
Mode = Literal["Always", "CrossSubnet", "Never"]


def draw_records(choice: random.Random) -> Records:
    """Returns a small cluster: few names and few values, so that they meet each other."""
    records: Records = {}
    for name, cidr in POOLS.items():
        if choice.random() < 0.8:
            mode: Mode = choice.choice(["Always", "CrossSubnet", "Never"])
            records[ResourceKey("IPPool", "", name)] = IPPool(
                metadata=Metadata(name=name), spec=IPPoolSpec(cidr=cidr, vxlan_mode=mode)
            )
    for name in HOSTS:
        if choice.random() < 0.85:
            records[ResourceKey("Node", "", name)] = make_node(
                name,
                address4=choice.choice(OUTERS4),
                address6=choice.choice(OUTERS6),
                tunnel4=choice.choice(TUNNELS4),
                tunnel6=choice.choice(TUNNELS6),
                mac4=choice.choice(MACS),
            )
    for text in BLOCKS:
        net = parse_net(text)
        if choice.random() < 0.8:
            nodes = [*HOSTS, "", "gone"]
            count = net.last - net.value + 1
            records[BlockKey(net)] = AllocationBlock(
                text,
                choice.choice([f"host:{choice.choice(nodes[:3])}", None, "virtual:load-balancer"]),
                tuple(choice.choice([None, *range(len(nodes))]) for _ in range(count)),
                attributes=tuple(AllocationAttribute(None, {"node": node} if node else None) for node in nodes),
                deleted=choice.random() < 0.1,
            )
    return records


class Oracle:
    """What should be, by looking at everything."""

    def __init__(self, records: Records, settings: TunnelSettings) -> None:
        self.nodes = {
            key[2]: one for key, one in records.items() if isinstance(key, ResourceKey) and isinstance(one, Node)
        }
        self.pools = sorted(
            (-parse_net(one.spec.cidr).length, key[2], parse_net(one.spec.cidr), one.spec.vxlan_mode)
            for key, one in records.items()
            if isinstance(key, ResourceKey) and isinstance(one, IPPool)
        )
        self.blocks = {
            key.block: one
            for key, one in records.items()
            if isinstance(key, BlockKey) and isinstance(one, AllocationBlock) and not one.deleted
        }
        self.settings = settings
        self.own = {family: own for family in (4, 6) if (own := self.find_own(family))}
        self.remote = {
            (family, name): vtep
            for family in self.own
            for name in self.nodes
            if (vtep := self.find_remote(family, name))
        }

    def said(self, family: int, name: str) -> tuple[Net | None, str, str, str]:
        """Returns the own address, it with its length, the tunnel's, and the MAC."""
        spec = self.nodes[name].spec
        assert spec.bgp is not None
        text = spec.bgp.ipv4_address if family == 4 else spec.bgp.ipv6_address
        tunnel = spec.ipv4_vxlan_tunnel_addr if family == 4 else spec.ipv6_vxlan_tunnel_addr
        mac = spec.vxlan_tunnel_mac_addr if family == 4 else ""
        mac = mac if ":" in mac else derive_mac(name, family)
        is_usable = text and not text.startswith(("224.", "fe80:"))
        return parse_address(text.partition("/")[0]) if is_usable else None, text, tunnel, mac

    def find_own(self, family: int) -> OwnVtep | None:
        enabled = self.settings.is_enabled
        wanted = any(net.version == family and mode != "Never" for _, _, net, mode in self.pools)
        if family == 6 and not self.settings.has_ipv6:
            return None
        if enabled is False or OWN not in self.nodes or not (wanted or (enabled is True and family == 4)):
            return None
        outer, _, tunnel, mac = self.said(family, OWN)
        if outer is None:
            return None
        return OwnVtep(parse_address(tunnel) if tunnel else None, mac, outer, 4096, 4789, 0)

    def find_remote(self, family: int, name: str) -> RemoteVtep | None:
        outer, _, tunnel, mac = self.said(family, name)
        if name == OWN or outer in (None, self.own[family].parent) or not tunnel:
            return None
        if parse_address(tunnel) in (self.said(family, other)[0] for other in self.nodes):
            return None
        others = [other for other in self.nodes if other != name and (other == OWN or other < name)]
        for other in others:
            _, _, address, its_mac = self.said(family, other)
            if (address and address == tunnel) or (its_mac == mac and (address or other == OWN)):
                return None
        return RemoteVtep(parse_address(tunnel), mac, outer)

    def find_routes(self) -> dict[Net, ClusterRoute]:
        claims: dict[Net, list[tuple[int, str]]] = {}
        for net, block in self.blocks.items():
            affinity = block.affinity or ""
            host = affinity.removeprefix("host:") if affinity.startswith("host:") else ""
            if host:
                claims.setdefault(net, []).append((2, host))
            for ordinal, index in enumerate(block.allocations):
                node = (block.attributes[index].secondary or {}).get("node") if index is not None else None
                if node and node != host:
                    claims.setdefault(Net(net.version, net.value + ordinal, net.bits), []).append((0, node))
        for name in self.nodes:
            for family in (4, 6):
                tunnel = self.said(family, name)[2]
                if tunnel and self.host_around(parse_address(tunnel)) != name:
                    claims.setdefault(parse_address(tunnel), []).append((1, name))
        return {net: route for net, said in claims.items() if (route := self.find_route(net, min(said)[1]))}

    def host_around(self, net: Net) -> str:
        around = [
            one for one in self.blocks if one.__contains__(net) and (self.blocks[one].affinity or "")[:5] == "host:"
        ]
        return (self.blocks[max(around, key=lambda one: one.length)].affinity or "")[5:] if around else ""

    def find_route(self, net: Net, name: str) -> ClusterRoute | None:
        modes = [mode for _, _, pool, mode in self.pools if pool.__contains__(net)]
        if net.version not in self.own or name == OWN or name not in self.nodes or not modes or modes[0] == "Never":
            return None
        outer = self.said(net.version, name)[0]
        subnet = parse_net(self.said(net.version, OWN)[1])
        is_beside = outer not in (None, self.own[net.version].parent) and subnet.__contains__(outer)
        if modes[0] == "CrossSubnet" and is_beside:
            return ClusterRoute(name, None, outer)
        remote = self.remote.get((net.version, name))
        return ClusterRoute(name, remote.address, None) if remote else None

    def find_peers(self) -> set[Net]:
        nets = {one.outer for one in self.remote.values()}
        nets |= {net for net in self.settings.externals if net.version in self.own}
        return {net for net in nets if not any(other != net and other.__contains__(net) for other in nets)}


def check(mirror: DesiredMirror, records: Mapping[Key, Record], settings: TunnelSettings) -> None:
    oracle = Oracle(dict(records), settings)
    assert mirror.own_vteps == oracle.own
    assert mirror.remote_vteps == oracle.remote
    assert mirror.cluster_routes == oracle.find_routes()
    assert mirror.nets.get(TUNNEL_PEERS, set()) == oracle.find_peers()


@given(st.integers(0, 2**32), st.sampled_from([None, None, True, False]))
def test_tunnels_by_any_path_are_as_calculated_from_everything(seed: int, is_enabled: bool | None) -> None:
    choice = random.Random(seed)
    settings = TunnelSettings(is_enabled, externals=EXTERNALS, has_ipv6=choice.random() < 0.8)
    graph, mirror = CalcGraph(OWN), DesiredMirror()
    graph.tunnels.configure(settings)
    stored: Records = {}
    for _ in range(4):
        stage = draw_records(choice)
        for key in sorted({**stored, **stage}, key=lambda _: choice.random()):
            if choice.random() < 0.3:
                continue
            record = stage.get(key)
            graph.on_update(key, record)
            if record is None:
                stored.pop(key, None)
            else:
                stored[key] = record
            if choice.random() < 0.3:
                mirror.on_delta(graph.flush())
                check(mirror, stored, settings)
                graph.pop_problems()
    for key in sorted(stored, key=lambda _: choice.random()):
        graph.on_update(key, None)
    graph.tunnels.configure(TunnelSettings())
    mirror.on_delta(graph.flush())
    graph.pop_problems()
    assert mirror == DesiredMirror()
    assert find_leftovers(graph) == []
