"""What leads to other hosts beside BIRD's routes: VXLAN tunnels, and hosts of the same subnet. Pure.

Here meet those who know a part of it: the tunnels their devices, the links their MTU, the addresses which interface has
this host's own, and the routes what is reached by which.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping

from felix.calc.desired import ClusterRoute, DesiredDelta, OwnVtep
from felix.dataplane.hosts import HostInterfaces
from felix.dataplane.links.plan import LinkPlan
from felix.dataplane.links.types import Link
from felix.dataplane.routes.plan import RoutePlan
from felix.dataplane.routes.types import Hop
from felix.dataplane.tunnels.plan import TunnelPlan
from felix.dataplane.tunnels.types import ADDED_BYTES, DEVICE_BY_VERSION, Parent
from felix.errors import Problem
from felix.model.keys import ResourceKey
from felix.model.net import Net

TUNNELS = "tunnels"


class Overlay:
    """The ways to other hosts, and what is wrong with them. It tells the plan of the routes by which hop each leads."""

    def __init__(self, routes: RoutePlan, links: LinkPlan, hosts: HostInterfaces) -> None:
        self.tunnels = TunnelPlan()
        self._routes = routes
        self._links = links
        self._hosts = hosts
        self._own_by_version: dict[int, OwnVtep] = {}
        self._route_by_net: dict[Net, ClusterRoute] = {}
        self._users_by_gateway: dict[Net, set[Net]] = {}  # IPv6: prefixes behind each other end of the tunnel
        self._ways: dict[tuple[int, bool], str | None] = {}  # by family and whether direct: the interface
        self._nets_by_way: dict[tuple[int, bool], dict[Net, None]] = {}
        self._touched: dict[Net, None] = {}
        self._problems: dict[ResourceKey, Problem] = {}

    @property
    def problems(self) -> Mapping[ResourceKey, Problem]:
        """What was wrong at the last `judge`, by device or host."""
        return self._problems

    def on_delta(self, delta: DesiredDelta) -> None:
        """This is wanted from now on, or not any more (None)."""
        self.tunnels.on_delta(delta.own_vteps, delta.remote_vteps)
        for version, own in delta.own_vteps.items():
            self._own_by_version.pop(version, None)
            if own is not None:
                self._own_by_version[version] = own
        for net, route in delta.cluster_routes.items():
            self._take_route(net, route)
        self.look()

    def look(self) -> bool:
        """The plans know where this host's own addresses are, and which interfaces lead to others; returns whether news
        of that leave something to do. To be called after any news of links, addresses or devices.
        """
        has_moved = False
        for version in DEVICE_BY_VERSION:
            link = self._find_parent(version)
            has_moved |= self.tunnels.on_parent(version, None if link is None else Parent(link.index, link.mtu))
            self._open_way(version, True, None if link is None else link.name)
            self._open_way(version, False, DEVICE_BY_VERSION[version] if self.tunnels.has_device(version) else None)
        touched, self._touched = self._touched, {}
        if touched:
            self._routes.on_hops({net: self._find_hop(net) for net in touched})
        return (has_moved and not self.tunnels.is_settled) or (bool(touched) and not self._routes.is_settled)

    def find_mtu(self) -> int:
        """Returns the MTU of what passes every tunnel of this host; 0: there is none, or nobody knows yet."""
        found = []
        for version, own in self._own_by_version.items():
            link = self._find_parent(version)
            found.append(own.mtu or (link.mtu - ADDED_BYTES[version] if link is not None else 0))
        return max(0, min(filter(None, found), default=0))

    def judge(self) -> bool:
        """`problems` are up to date; returns whether they are others than before."""
        problems = dict(self._find_problems())
        is_news = problems != self._problems
        self._problems = problems
        return is_news

    # Ways

    def _take_route(self, net: Net, route: ClusterRoute | None) -> None:
        before = self._route_by_net.pop(net, None)
        if route is not None:
            self._route_by_net[net] = route
        old, new = _find_gateway(before), _find_gateway(route)
        if old is not None and old != new:
            self._users_by_gateway[old].discard(net)
            if not self._users_by_gateway[old]:
                del self._users_by_gateway[old]
        if new is not None:
            self._users_by_gateway.setdefault(new, set()).add(net)
        for one in (net, old, new):
            if one is not None:
                self._touched[one] = None
                self._index(one)

    def _index(self, net: Net) -> None:
        for way in ((net.version, True), (net.version, False)):
            nets = self._nets_by_way.setdefault(way, {})
            if way == self._find_way(net):
                nets[net] = None
            else:
                nets.pop(net, None)

    def _find_way(self, net: Net) -> tuple[int, bool] | None:
        """Returns by which way the prefix is reached: its family, and whether that is the direct one."""
        route = self._route_by_net.get(net)
        if net in self._users_by_gateway:
            return net.version, False
        return None if route is None else (net.version, route.direct is not None)

    def _open_way(self, version: int, is_direct: bool, interface: str | None) -> None:
        way = (version, is_direct)
        if self._ways.get(way) != interface:
            self._ways[way] = interface
            self._touched.update(self._nets_by_way.get(way, {}))

    def _find_hop(self, net: Net) -> Hop | None:
        way, route = self._find_way(net), self._route_by_net.get(net)
        interface = None if way is None else self._ways.get(way)
        if interface is None:
            return None
        if route is None or net in self._users_by_gateway:
            return Hop(interface, None)
        return Hop(interface, route.direct or route.vtep)

    def _find_parent(self, version: int) -> Link | None:
        own = self._own_by_version.get(version)
        if own is None:
            return None
        links = [self._links.find_link(name) for name in self._hosts.find_holders(own.parent)]
        return next((link for link in links if link is not None and link.name not in DEVICE_BY_VERSION.values()), None)

    # Problems

    def _find_problems(self) -> Iterable[tuple[ResourceKey, Problem]]:
        for version, own in self._own_by_version.items():
            if self._ways.get((version, True)) is None:
                reason = f"no interface of this host has {own.parent.address}, as its Node says; correct the Node"
                yield _problem("Tunnel", DEVICE_BY_VERSION[version], own.parent.address, reason)
        for device, reason in self.tunnels.find_reasons():
            yield _problem("Tunnel", device, "", reason)
        for loser, rival in self.tunnels.rivals.items():
            reason = f"its end of the tunnel is not used: host {rival.name} has the same address or MAC; change one"
            yield _problem("Node", loser.name, "", reason)
        refused: dict[str, list[str]] = {}
        for key, refusal in self._routes.refusal_by_key.items():
            route = self._route_by_net.get(key.net)
            if route is not None:
                text = f"{key.net}: {refusal.text or f'errno {int(refusal)}'}"
                refused.setdefault(route.node, []).append(text)
        for node, texts in refused.items():
            more = f" and {len(texts) - 1} more" if len(texts) > 1 else ""
            yield _problem("Node", node, "", f"the kernel refuses routes to it: {texts[0]}{more}")


def _find_gateway(route: ClusterRoute | None) -> Net | None:
    """Returns the gateway that needs a route of its own.

    The kernel refuses an IPv6 gateway that a route over another interface covers, as one does that led to the same
    prefix until now. The most specific route, to the gateway itself, it always goes by.
    """
    vtep = None if route is None or route.direct is not None else route.vtep
    return vtep if vtep is not None and vtep.version == 6 else None


def _problem(kind: str, name: str, value: str, reason: str) -> tuple[ResourceKey, Problem]:
    return ResourceKey(kind, "", name), Problem(f"{kind} {name}", "", value, reason)
