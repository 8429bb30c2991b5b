"""The kernel as the driver sees it: what it can be asked, what it tells unasked, and in which threads."""

from __future__ import annotations

from collections.abc import Callable, Collection, Sequence
from dataclasses import dataclass
from typing import NamedTuple, Protocol

from felix.dataplane.addresses.read import parse_address_events, read_addresses
from felix.dataplane.addresses.types import AddressEvent
from felix.dataplane.addresses.watch import GROUPS as ADDRESS_GROUPS
from felix.dataplane.conntrack.apply import apply_conntrack, count_flows, find_flows, find_part, remove_flows
from felix.dataplane.conntrack.plan import ConntrackPlanned
from felix.dataplane.conntrack.types import ConntrackResult, FlowsRead, OpenFlow
from felix.dataplane.conntrack.watch import FlowPort
from felix.dataplane.links.apply import apply_links
from felix.dataplane.links.read import parse_link_events, read_links, read_neighbours
from felix.dataplane.links.types import (
    Link,
    LinkConfig,
    LinkEvent,
    LinkPlanned,
    LinkResult,
    NeighbourKey,
    NeighbourValue,
)
from felix.dataplane.links.watch import GROUPS as LINK_GROUPS
from felix.dataplane.netlink.message import NETLINK_NETFILTER, NETLINK_ROUTE
from felix.dataplane.netlink.serve import NetlinkWorker
from felix.dataplane.netlink.watch import NetlinkWatch
from felix.dataplane.nft.apply import NftCalls, NftWorker, apply_cleanup, apply_fill, apply_structure
from felix.dataplane.nft.elements import parse_counters, request_counters
from felix.dataplane.nft.read import read_table
from felix.dataplane.nft.types import ApplyResult, CleanupPlan, Count, Culprit, FillPlan, KernelTable, StructurePlan
from felix.dataplane.nft.watch import NftWatch
from felix.dataplane.qdiscs.apply import apply_qdiscs
from felix.dataplane.qdiscs.read import parse_traffic_events, read_qdiscs
from felix.dataplane.qdiscs.types import QdiscPlanned, QdiscResult, TrafficEvent, TrafficFound
from felix.dataplane.qdiscs.watch import GROUPS as QDISC_GROUPS
from felix.dataplane.routes.apply import apply_routes
from felix.dataplane.routes.read import parse_route_events, read_routes, read_ways
from felix.dataplane.routes.types import (
    BIRD_PROTOCOL,
    RouteConfig,
    RouteEvent,
    RouteKey,
    RoutePlanned,
    RouteResult,
    RouteValue,
)
from felix.dataplane.routes.watch import GROUPS as ROUTE_GROUPS
from felix.dataplane.routes.watch import is_route_datagram
from felix.dataplane.tunnels.apply import apply_tunnels
from felix.dataplane.tunnels.read import parse_tunnel_events, read_tunnels
from felix.dataplane.tunnels.types import TunnelEvent, TunnelPlanned, TunnelResult, TunnelState
from felix.errors import EnvironmentFault, PeerError
from felix.model.net import Net
from felix.policy.packet import Way

_GROUPS = (*LINK_GROUPS, *ROUTE_GROUPS, *QDISC_GROUPS, *ADDRESS_GROUPS)


@dataclass(frozen=True, slots=True)
class KernelNews:
    """Who is told what, on the loop's thread; all must be quick.

    on_links, on_routes, on_qdiscs, on_addresses, on_tunnels: what one datagram announced, in order. on_lost: some were
    dropped. on_foreign_table: somebody else changed our table. tunnel_links: interfaces that on_tunnels is for, by
    index; a live view.
    """

    on_links: Callable[[Sequence[LinkEvent]], None]
    on_routes: Callable[[Sequence[RouteEvent]], None]
    on_lost: Callable[[], None]
    on_foreign_table: Callable[[Culprit], None]
    on_qdiscs: Callable[[Sequence[TrafficEvent]], None]
    on_addresses: Callable[[Sequence[AddressEvent]], None]
    on_tunnels: Callable[[Sequence[TunnelEvent]], None]
    tunnel_links: Collection[int]


class HostState(NamedTuple):
    """What one read of links and routes found."""

    links: Sequence[Link]
    neighbours: Sequence[tuple[NeighbourKey, NeighbourValue]]
    routes: Sequence[tuple[RouteKey, RouteValue]]
    qdiscs: Sequence[TrafficFound] = ()
    addresses: Sequence[AddressEvent] = ()


class KernelPort(FlowPort, Protocol):
    """What the driver needs of a kernel: the real one below, or the fake one of the tests.

    Each call is one step in a thread; a cancelled caller does not stop what has begun. All but `close`, `flush` and
    those of FlowPort raise FelixError or OSError when it is not known what became of it: read again.
    """

    async def open(self, news: KernelNews) -> int:
        """News are told from now on; returns the netlink port by which own route and link events are known."""

    async def close(self) -> None:
        """No news come any more, and what had begun has ended."""

    async def read_table(self) -> KernelTable:
        """Returns the own table."""

    async def read_host(self) -> HostState:
        """Returns interfaces with their addresses, own neighbours and own routes."""

    async def apply_fill(self, plan: FillPlan) -> ApplyResult:
        """See `nft.apply.apply_fill`."""

    async def apply_structure(self, plan: StructurePlan) -> ApplyResult:
        """See `nft.apply.apply_structure`."""

    async def apply_cleanup(self, plan: CleanupPlan) -> ApplyResult:
        """See `nft.apply.apply_cleanup`."""

    async def apply_routes(self, planned: RoutePlanned) -> RouteResult:
        """See `routes.apply.apply_routes`."""

    async def apply_links(self, planned: LinkPlanned) -> LinkResult:
        """See `links.apply.apply_links`."""

    async def apply_qdiscs(self, planned: QdiscPlanned) -> QdiscResult:
        """See `qdiscs.apply.apply_qdiscs`."""

    async def read_tunnels(self) -> TunnelState:
        """See `tunnels.read.read_tunnels`."""

    async def apply_tunnels(self, planned: TunnelPlanned) -> TunnelResult:
        """See `tunnels.apply.apply_tunnels`."""

    async def flush(self, planned: ConntrackPlanned) -> ConntrackResult:
        """See `conntrack.apply.apply_conntrack`; raises nothing."""


class HostKernel:
    """The kernel of this process's network namespace; implements KernelPort with one thread per kernel interface."""

    def __init__(self, routes: RouteConfig, links: LinkConfig, answer_wait_s: float) -> None:
        self._route_config = routes
        self._link_config = links
        self._nft = NftWorker()
        self._netlink = NetlinkWorker(NETLINK_ROUTE, "netlink", answer_wait_s)
        self._conntrack = NetlinkWorker(NETLINK_NETFILTER, "conntrack", answer_wait_s)
        # A look at all connections may take seconds, and nobody who waits for a flush may wait for it.
        self._flows = NetlinkWorker(NETLINK_NETFILTER, "flows", answer_wait_s)
        self._watch: NetlinkWatch | None = None
        self._nft_watch: NftWatch | None = None
        self._news: KernelNews | None = None
        self._is_closed = False

    @property
    def nft_calls(self) -> NftCalls:
        """How often nf_tables was called."""
        return self._nft.calls

    async def open(self, news: KernelNews) -> int:
        """See KernelPort.open. Raises EnvironmentFault when the kernel cannot be worked with."""
        self._news = news
        self._watch = NetlinkWatch(NETLINK_ROUTE, _GROUPS, self._on_datagram, news.on_lost)
        self._nft_watch = NftWatch(news.on_foreign_table)
        try:
            self._watch.open()
            self._nft_watch.open()
            return await self._netlink.open()
        except OSError as error:
            reason = f"the kernel's netlink: {error.strerror}; Felix needs root, or CAP_NET_ADMIN at least"
            raise EnvironmentFault(reason) from error

    async def close(self) -> None:
        """See KernelPort.close."""
        self._is_closed = True
        for watch in (self._watch, self._nft_watch):
            if watch is not None:
                watch.close()
        self._nft.close()
        self._netlink.close()
        self._conntrack.close()
        self._flows.close()

    async def read_table(self) -> KernelTable:
        """See KernelPort.read_table."""
        return await self._nft.call(read_table)

    async def read_host(self) -> HostState:
        """See KernelPort.read_host."""
        return await self._netlink.call(
            lambda socket: HostState(
                read_links(socket),
                read_neighbours(socket, self._link_config),
                read_routes(socket, self._route_config),
                read_qdiscs(socket),
                read_addresses(socket),
            )
        )

    async def read_tunnels(self) -> TunnelState:
        """See KernelPort.read_tunnels."""
        return await self._netlink.call(read_tunnels)

    async def read_learnt_routes(self) -> frozenset[Net]:
        """Returns the destinations of all routes that BIRD has put into the main table."""
        learnt = RouteConfig(protocol=BIRD_PROTOCOL)
        return frozenset(key.net for key, _ in await self._netlink.call(read_routes, learnt))

    async def read_counters(self) -> dict[str, Count]:
        """Returns what the named counters of the table say; without hindrance to what is written meanwhile.

        Raises FelixError or OSError when the kernel does not tell, and after `close`.
        """
        if self._is_closed:
            raise PeerError("netlink: closed; ask again when the agent is up")
        return await self._conntrack.call(lambda socket: parse_counters(socket.dump(request_counters())))

    async def apply_fill(self, plan: FillPlan) -> ApplyResult:
        """See KernelPort.apply_fill."""
        return await self._nft.call(apply_fill, plan)

    async def apply_structure(self, plan: StructurePlan) -> ApplyResult:
        """See KernelPort.apply_structure."""
        return await self._nft.call(apply_structure, plan)

    async def apply_cleanup(self, plan: CleanupPlan) -> ApplyResult:
        """See KernelPort.apply_cleanup."""
        return await self._nft.call(apply_cleanup, plan)

    async def apply_routes(self, planned: RoutePlanned) -> RouteResult:
        """See KernelPort.apply_routes."""
        return await self._netlink.call(apply_routes, self._route_config, planned)

    async def apply_links(self, planned: LinkPlanned) -> LinkResult:
        """See KernelPort.apply_links."""
        return await self._netlink.call(apply_links, self._link_config, planned)

    async def apply_qdiscs(self, planned: QdiscPlanned) -> QdiscResult:
        """See KernelPort.apply_qdiscs."""
        return await self._netlink.call(apply_qdiscs, planned)

    async def apply_tunnels(self, planned: TunnelPlanned) -> TunnelResult:
        """See KernelPort.apply_tunnels."""
        return await self._netlink.call(apply_tunnels, planned)

    async def flush(self, planned: ConntrackPlanned) -> ConntrackResult:
        """See KernelPort.flush."""
        try:
            return await self._conntrack.call(apply_conntrack, planned)
        except OSError as error:
            return ConntrackResult(0, f"the kernel's netfilter netlink: {error.strerror}")

    async def find_flows(self, addresses: Collection[Net]) -> FlowsRead:
        """See KernelPort.find_flows."""
        try:
            return await self._flows.call(find_flows, addresses)
        except OSError as error:
            return FlowsRead(reason=f"the kernel's netfilter netlink: {error.strerror}")

    async def remove_flows(self, flows: Sequence[OpenFlow]) -> ConntrackResult:
        """See KernelPort.remove_flows."""
        try:
            return await self._flows.call(remove_flows, flows)
        except OSError as error:
            return ConntrackResult(0, f"the kernel's netfilter netlink: {error.strerror}")

    async def find_part(self, part: int, parts: int) -> FlowsRead:
        """See KernelPort.find_part."""
        try:
            return await self._flows.call(find_part, part, parts)
        except OSError as error:
            return FlowsRead(reason=f"the kernel's netfilter netlink: {error.strerror}")

    async def count_flows(self) -> int:
        """See KernelPort.count_flows."""
        return await self._flows.call(count_flows)

    async def find_ways(self, addresses: Collection[Net]) -> dict[Net, Way]:
        """See KernelPort.find_ways."""
        return await self._netlink.call(read_ways, addresses)

    def _on_datagram(self, datagram: bytes) -> None:
        assert self._news is not None
        if links := list(parse_link_events(datagram, self._link_config)):
            self._news.on_links(links)
        if addresses := list(parse_address_events(datagram)):
            self._news.on_addresses(addresses)
        if is_route_datagram(datagram) and (routes := list(parse_route_events(datagram, self._route_config))):
            self._news.on_routes(routes)
        if qdiscs := list(parse_traffic_events(datagram)):
            self._news.on_qdiscs(qdiscs)
        if tunnels := list(parse_tunnel_events(datagram, self._news.tunnel_links)):
            self._news.on_tunnels(tunnels)
