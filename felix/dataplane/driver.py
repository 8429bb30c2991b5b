"""One apply cycle after another: the order in which the families of the dataplane turn desired state into kernel state.

    removals of routes ─▶ nft: fill, structure, dispatch ─▶ connections of reassigned addresses ─▶ links
        ─▶ tunnels ─▶ additions of routes ─▶ nft: cleanup ─▶ tunnels: what nothing leads to any more
        ─▶ connections of other addresses that left ─▶ open connections that are no longer allowed

The order is what keeps it safe: a workload is reachable only after its policy stands and its address is rid of what a
former owner had open, and nothing that is still used is removed. Before desired state is complete (`on_in_sync`) the
only thing ever written is what guards a table, where that was missing.
"""

from __future__ import annotations

import asyncio
import logging
import random
from collections.abc import Awaitable, Callable, Mapping, Sequence
from dataclasses import dataclass, field, replace
from typing import NoReturn

from felix.calc.desired import DesiredDelta
from felix.clock import monotonic_s
from felix.dataplane.addresses.types import AddressEvent
from felix.dataplane.conntrack.serve import ConnectionKeeper
from felix.dataplane.conntrack.watch import Revoker
from felix.dataplane.cycle import Cycle, EndpointReport
from felix.dataplane.endpoints import EndpointBoard
from felix.dataplane.host_board import HostBoard
from felix.dataplane.hosts import HostInterfaces
from felix.dataplane.links.plan import LinkPlan
from felix.dataplane.links.types import Link, LinkConfig, LinkEvent, LinkGone, NeighbourEvent, SettingEvent
from felix.dataplane.netlink.read import read_program
from felix.dataplane.nft.plan import NftPlan
from felix.dataplane.nft.types import ApplyResult, Culprit, FillPlan, NftConfig, SetChange, StructurePlan
from felix.dataplane.overlay import TUNNELS, Overlay
from felix.dataplane.qdiscs.plan import QdiscPlan
from felix.dataplane.qdiscs.types import TrafficEvent
from felix.dataplane.routes.plan import RoutePlan
from felix.dataplane.routes.types import RouteConfig, RouteEvent, RoutePlanned
from felix.dataplane.serve import KernelNews, KernelPort
from felix.dataplane.tunnels.types import ItemEvent, TunnelEvent, TunnelPlanned
from felix.errors import FelixError, KernelRefused, ResyncRequired
from felix.model.keys import ResourceKey
from felix.policy.packet import Packet
from felix.reconcile.retry import BackOff, RetryQueue
from felix.reconcile.throttle import Throttle

log = logging.getLogger(__name__)

NFT, ROUTES, LINKS, QDISCS = "nft", "routes", "links", "qdiscs"
_FAMILIES = (NFT, ROUTES, LINKS, TUNNELS)
_APPLY_INTERVAL_S = 0.005
_APPLY_BURST = 20
_SIGN_OF_LIFE_S = 0.5
_START_PAUSES_S = (0.5, 1.0, 2.0, 4.0, 8.0)
_PATIENCE_CYCLES = 10  # in a row that write and still leave something to do, before waits come in between


@dataclass(frozen=True, slots=True)
class DriverConfig:
    """What the families are told. revokes: whether open connections end that policy no longer allows."""

    nft: NftConfig = field(default_factory=NftConfig)
    routes: RouteConfig = field(default_factory=RouteConfig)
    links: LinkConfig = field(default_factory=LinkConfig)
    revokes: bool = True


@dataclass(frozen=True, slots=True)
class RefreshIntervals:
    """After how many seconds each family is read anew without an event asking for it. 0: never.

    Events repair at once; the intervals are for what the kernel does not announce.
    """

    nft_s: float = 180.0
    routes_s: float = 90.0
    links_s: float = 90.0


@dataclass(slots=True)
class DriverCounts:
    """What happened so far. lost_by_family: times that the kernel dropped events.

    flushed: tracked connections that went with their address. revoked: those that policy no longer allowed.
    """

    cycles: int = 0
    reads_by_family: dict[str, int] = field(default_factory=dict)
    lost_by_family: dict[str, int] = field(default_factory=dict)
    flushed: int = 0
    revoked: int = 0


class Driver:
    """Owns the plans of the kernel-facing families; `run` applies until cancelled.

    on_cycle: called after every cycle, on the loop's thread; must be quick.
    on_foreign: called with family and program (may be empty) when somebody else changed what is ours.
    """

    def __init__(
        self,
        config: DriverConfig,
        kernel: KernelPort,
        on_cycle: Callable[[Cycle], None],
        on_foreign: Callable[[str, str], None],
    ) -> None:
        self._wake = asyncio.Event()
        self._kernel = kernel
        self._on_cycle = on_cycle
        self._on_foreign = on_foreign
        self._nft = NftPlan(config.nft)
        self._has_floating = config.nft.nat.has_floating
        self._routes = RoutePlan(config.routes)
        self._links = LinkPlan(config.links)
        self._connections = ConnectionKeeper(kernel.flush, self._on_flushed)
        self._qdiscs = QdiscPlan()
        self._revoker: Revoker | None = None
        if config.revokes:
            self._revoker = Revoker(
                kernel,
                self._nft.verdicts,
                self._cut,
                self._on_revoked,
                allows_spoofing=config.nft.allows_spoofing,
            )
        self._board = EndpointBoard(self._nft, self._routes, self._links, self._qdiscs)
        self._hosts = HostInterfaces(config.nft.interface_prefixes)
        self._host_board = HostBoard(self._nft, self._hosts, self.has_interface)
        self._overlay = Overlay(self._routes, self._links, self._hosts)
        self._tunnels = self._overlay.tunnels
        self._nft_needs_read = True
        self._retries: RetryQueue[str] = RetryQueue(BackOff(first_s=0.2, most_s=30.0))
        self._refresh = RefreshIntervals()
        self._refresh_at: dict[str, float] = {}
        self._is_in_sync = False
        self._arrived: list[tuple[DesiredDelta, float]] = []
        self._cuts: list[Packet] = []  # told since the last cycle began
        self._is_closing = False
        self._cut_waiters: list[asyncio.Future[None]] = []
        self._unapplied_since: float | None = None  # arrival of the oldest change that no good cycle has seen
        self._revision = 0
        self._restless_cycles = 0
        self._write_port = 0
        self._named_ports: set[tuple[str, int]] = set()  # who changed what since the last cycle, and was named
        self._program_by_port: dict[int, str] = {}  # who changed our routes since the last cycle
        self.counts = DriverCounts()
        self.last_progress_at = monotonic_s()

    @property
    def nft(self) -> NftPlan:
        """The plan of the table, to be looked at."""
        return self._nft

    @property
    def board(self) -> EndpointBoard:
        """How each local endpoint stands."""
        return self._board

    @property
    def host_reports(self) -> Mapping[ResourceKey, EndpointReport]:
        """How each host endpoint stands."""
        return self._host_board.reports

    @property
    def routes_count(self) -> int:
        """How many routes of ours there are, as far as is known."""
        return len(self._routes.routes.believed)

    def find_tunnel_mtu(self) -> int:
        """Returns the MTU of what passes every tunnel of this host; 0: there is none, or nobody knows yet."""
        return self._overlay.find_mtu()

    def count_unclaimed(self) -> int:
        """Returns how many workload interfaces no endpoint claims; looks at all interfaces."""
        return sum(self._nft.is_unclaimed(link.name) for link in self._links.links)

    @property
    def served_interfaces(self) -> list[str]:
        """The interfaces that are there and whose packets the kernel leads to the policy of an endpoint."""
        return [name for name in self._nft.believed_interfaces if self.has_interface(name)]

    def has_interface(self, name: str) -> bool:
        """Whether there is an interface of that name."""
        return self._links.find_link(name) is not None

    async def start(self) -> None:
        """Events are received, the kernel has been read, and if there was no table of ours there is a closed one now.

        Raises EnvironmentFault, OSError, KernelRefused or PeerError when the kernel cannot be worked with.
        """
        news = KernelNews(
            self._on_links,
            self._on_routes,
            self._on_lost,
            self._on_foreign_table,
            self._on_qdiscs,
            self._on_addresses,
            self._on_tunnels,
            self._tunnels.links,
        )
        port = await self._kernel.open(news)
        self._routes.write_port = self._links.write_port = self._qdiscs.write_port = self._write_port = port
        await _insist(self._read_host)
        await _insist(lambda: self._read_tunnels(Cycle()))
        self._nft_needs_read = False  # before the read: what is announced meanwhile asks for another one
        table = await self._kernel.read_table()
        self._note_read(NFT)
        self._nft.replace_believed(table)
        if not self._nft.is_guarding:
            cycle = Cycle()
            await self._fill(cycle, self._nft.plan_fill())
            if NFT in cycle.failures:
                raise KernelRefused(
                    f"table inet felix does not guard workload interfaces, and cannot be made to: {cycle.failures[NFT]}"
                )
            state = "did not guard as ours does" if table.exists else "was missing"
            log.info("table inet felix %s: interfaces that it does not claim are closed now", state)

    def set_refresh(self, intervals: RefreshIntervals) -> None:
        """The families are read anew at these intervals, counted from now."""
        self._refresh = intervals
        for family in _FAMILIES:
            self._schedule_refresh(family)
        self._wake.set()

    def on_delta(self, delta: DesiredDelta, revision: int, arrived_at: float) -> None:
        """Desired state changed by `delta`, which arrived then (monotonic seconds) and ends at that revision."""
        if not self._links.config.has_ipv6:
            delta = _without_ipv6(delta)
        if not self._has_floating:
            delta = _without_floating(delta)
        self._arrived.append((delta, arrived_at))
        self._revision = max(self._revision, revision)
        self._wake.set()

    def on_in_sync(self) -> None:
        """Desired state is complete: from now on cycles run, and what is not wanted is removed."""
        self._is_in_sync = True
        self._wake.set()

    def oldest_wait_s(self, now: float) -> float:
        """Returns for how long the oldest change that is neither enforced nor refused has been waiting; 0: none."""
        since = self._unapplied_since
        if since is None and self._arrived:
            since = self._arrived[0][1]
        return max(self._board.oldest_wait_s(now), 0.0 if since is None else now - since)

    async def run(self) -> NoReturn:
        """Applies whenever there is something to do, the first change after quiet at once, bursts in few batches."""
        throttle = Throttle(_APPLY_INTERVAL_S, _APPLY_BURST, monotonic_s())
        while True:
            await self._wait_for_work()
            wait_s = throttle.wait_s(monotonic_s())
            if wait_s:
                await asyncio.sleep(wait_s)
            self._wake.clear()
            if self._is_in_sync:
                throttle.take(monotonic_s())
                await self._run_cycle()

    async def close(self) -> None:
        """Threads and sockets are gone, what had begun has ended; everything in the kernel stays as it is."""
        await self._connections.close()
        if self._revoker is not None:
            self._is_closing = True
            self._release_cuts(len(self._cut_waiters))
            await self._revoker.close()
        await self._kernel.close()

    # --- What wakes a cycle ---

    async def _wait_for_work(self) -> None:
        """Waits for a change, a retry or a refresh that is due; says now and then that the loop is alive."""
        while not self._wake.is_set():
            now = monotonic_s()
            self.last_progress_at = now
            look_at = now + _SIGN_OF_LIFE_S
            due_at = min([*self._refresh_at.values(), self._retries.next_due_at() or look_at, look_at])
            try:
                async with asyncio.timeout(max(0.0, due_at - now)):
                    await self._wake.wait()
            except TimeoutError:
                self._note_due(monotonic_s())
        self.last_progress_at = monotonic_s()

    def _note_due(self, now: float) -> None:
        due = self._retries.take_due(now)
        if ROUTES in due:
            self._routes.retry_failed()
        if LINKS in due:
            self._links.retry_failed()
        if TUNNELS in due:
            self._tunnels.retry_failed()
        for family in [family for family, at in self._refresh_at.items() if at <= now]:
            self._schedule_refresh(family)
            self._forget(family)
            due.append(family)
        if due:
            self._wake.set()

    def _schedule_refresh(self, family: str) -> None:
        interval_s = {NFT: self._refresh.nft_s, LINKS: self._refresh.links_s}.get(family, self._refresh.routes_s)
        if interval_s:
            self._refresh_at[family] = monotonic_s() + interval_s * (1.0 + 0.1 * random.random())
        else:
            self._refresh_at.pop(family, None)

    def _forget(self, family: str) -> None:
        if family == NFT:
            self._nft_needs_read = True
        elif family == ROUTES:
            self._routes.mark_unknown()
        elif family == TUNNELS:
            self._tunnels.mark_unknown()
        else:
            self._links.mark_unknown()

    def _on_links(self, events: Sequence[LinkEvent]) -> None:
        is_news = False
        for event in events:
            self._links.on_event(event)
            match event:
                case Link(index, name, is_up):
                    self._hosts.on_link(index, name)
                    self._routes.on_link(index, name, is_up)
                    self._qdiscs.on_link(index, name, is_up)
                    is_news = True
                case LinkGone(index):
                    self._hosts.on_link(index, None)
                    self._routes.on_link_gone(index)
                    self._qdiscs.on_link_gone(index)
                    is_news = True
                case NeighbourEvent():
                    is_news |= event.port != self._links.write_port
                case SettingEvent():
                    is_news |= not event.is_as_wanted
        is_settled = (
            not (is_news and self._overlay.look())
            and self._links.is_settled
            and self._routes.is_settled
            and self._qdiscs.is_settled
        )
        if self._board.has_link_news() or not self._hosts.is_settled or (is_news and not is_settled):
            self._wake.set()

    def _on_addresses(self, events: Sequence[AddressEvent]) -> None:
        for event in events:
            self._hosts.on_address(event)
        if self._overlay.look() or not self._hosts.is_settled:
            self._wake.set()

    def _on_tunnels(self, events: Sequence[TunnelEvent]) -> None:
        for event in events:
            if self._tunnels.on_event(event):
                self._wake.set()
                if isinstance(event, ItemEvent) and event.port != self._write_port:
                    self._name_culprit(TUNNELS, "what is on a tunnel", event.port)
        if self._overlay.look():
            self._wake.set()

    def _name_culprit(self, family: str, what: str, port: int) -> None:
        """Who has the netlink port is told as having changed something of ours, once until the next cycle."""
        if port and (family, port) not in self._named_ports:
            self._named_ports.add((family, port))
            program = read_program(port)
            log.warning("%s of ours was changed by %s", what, program or "a program that has ended")
            self._on_foreign(family, program)

    def _on_routes(self, events: Sequence[RouteEvent]) -> None:
        for event in events:
            if self._routes.on_route(event):  # echoes of own writes are not: a cycle that gets nowhere would go on
                self._wake.set()
        for port in self._routes.pop_foreign_ports() - self._program_by_port.keys():
            self._program_by_port[port] = read_program(port)  # now: it may end any moment

    def _on_qdiscs(self, events: Sequence[TrafficEvent]) -> None:
        for event in events:
            if self._qdiscs.on_event(event):
                self._wake.set()
                self._name_culprit(QDISCS, "a shaper", event.port)

    def _on_lost(self) -> None:
        self._note_lost(ROUTES)
        log.info("the kernel dropped netlink events: interfaces and routes are read again")
        self._links.mark_unknown()
        self._routes.mark_unknown()
        self._tunnels.mark_unknown()
        self._wake.set()

    def _on_foreign_table(self, culprit: Culprit) -> None:
        if culprit.pid:
            log.warning("table inet felix was changed by %s: it is read again and mended", culprit)
            self._on_foreign(NFT, culprit.name)
        else:
            self._note_lost(NFT)
            log.info("the kernel dropped events of nf_tables: table inet felix is read again")
        self._nft_needs_read = True
        if self._revoker is not None:
            self._revoker.note_all()  # even if all is well again when it is read
        self._wake.set()

    def _on_flushed(self, count: int) -> None:
        self.counts.flushed += count
        self._wake.set()

    async def _cut(self, packets: Sequence[Packet]) -> None:
        """The kernel takes up no connection by such packets any more, or the agent is about to end."""
        if self._is_closing:
            return
        waiter = asyncio.get_running_loop().create_future()
        self._cuts += packets
        self._cut_waiters.append(waiter)
        self._wake.set()
        await waiter

    def _release_cuts(self, count: int) -> None:
        """The first `count` of those who wait for cuts go on."""
        for waiter in self._cut_waiters[:count]:
            waiter.set_result(None)
        del self._cut_waiters[:count]

    def _on_revoked(self, count: int) -> None:
        self.counts.revoked += count

    def _note_lost(self, family: str) -> None:
        self.counts.lost_by_family[family] = self.counts.lost_by_family.get(family, 0) + 1

    # --- One cycle ---

    async def _run_cycle(self) -> None:
        started_at = monotonic_s()
        self._named_ports.clear()
        self._tell_culprits()
        self._take_arrived()
        cutting = len(self._cut_waiters)
        revision, cycle = self._revision, Cycle()
        if self._links.needs_read or self._routes.needs_read:
            await self._attempt((LINKS, ROUTES), cycle, self._read_links_and_routes)
        if self._nft_needs_read:
            await self._attempt((NFT,), cycle, self._read_nft)
        if self._tunnels.needs_read:
            await self._attempt((TUNNELS,), cycle, self._read_tunnels)
        self._overlay.look()
        self._nft.on_tunnel_devices(self._tunnels.standing)
        bindings, refusals = self._hosts.pop_bindings(), self._nft.problems_version
        self._nft.bind_hosts(bindings)
        if self._revoker is not None:
            self._revoker.on_hosts(bindings)
        await self._attempt((ROUTES,), cycle, self._remove_routes)
        await self._attempt((NFT,), cycle, self._apply_nft)
        if NFT not in cycle.failures:  # a route opens a way, so the gate must stand
            await self._connections.flush_inherited()
            # Both are for one thread, which takes them in this order without waiting for this loop in between.
            await asyncio.gather(
                self._attempt((LINKS,), cycle, self._apply_links),
                self._attempt((QDISCS, LINKS), cycle, self._apply_qdiscs),
                self._attempt((TUNNELS,), cycle, self._write_tunnels),
                self._attempt((ROUTES,), cycle, self._add_routes),
            )
            await self._attempt((NFT,), cycle, self._clean_nft)
        if not cycle.failures:
            await self._attempt((TUNNELS,), cycle, self._clean_tunnels)
        if not cycle.failures:  # or what ends the traffic may be missing, and entries would come again
            self._connections.flush_rest()
        if self._revoker is not None and NFT not in cycle.failures and not self._nft_needs_read:
            if self._nft.problems_version != refusals:
                self._revoker.note_all()  # what was open by rules that the kernel then refused
            self._revoker.on_applied()
        if NFT not in cycle.failures:
            self._release_cuts(cutting)
        self._settle(cycle)
        cycle.revision = 0 if cycle.failures or self._nft_needs_read else revision
        if not cycle.failures:
            self._unapplied_since = None
        cycle.duration_s = monotonic_s() - started_at
        self.counts.cycles += 1
        self._board.report(cycle, monotonic_s())
        is_news = self._host_board.report(cycle) | self._overlay.judge()
        if is_news or cycle.problems is not None:
            found = cycle.problems if cycle.problems is not None else self._board.find_problems()
            cycle.problems = {**found, **self._host_board.problems, **self._overlay.problems}
        self._on_cycle(cycle)

    def _tell_culprits(self) -> None:
        programs, self._program_by_port = self._program_by_port, {}
        for port, program in programs.items():
            log.warning("our routes were changed by %s (netlink port %d)", program or "a program that has ended", port)
            self._on_foreign(ROUTES, program)

    def _take_arrived(self) -> None:
        """The plans know all that arrived. Never within a cycle: its later steps count on what its earlier ones did,
        as chains do on the sets that were declared before them.
        """
        cuts, self._cuts = self._cuts, []
        self._nft.cut(cuts, monotonic_s())
        arrived, self._arrived = self._arrived, []
        if arrived and self._unapplied_since is None:
            self._unapplied_since = arrived[0][1]
        for delta, arrived_at in arrived:
            self._nft.on_delta(delta)
            # An endpoint that names the host's own uplink must not get routes, neighbours and switches there.
            served = {
                key: endpoint if endpoint is not None and self._nft.is_servable(endpoint) else None
                for key, endpoint in delta.endpoints.items()
            }
            self._routes.on_delta(served, delta.blocks)
            self._links.on_delta(served)
            self._qdiscs.on_delta(served)
            self._connections.on_delta(served)
            if self._revoker is not None:
                self._revoker.on_delta(delta, served)
            self._board.on_delta(delta.endpoints, arrived_at)
            self._hosts.on_delta(delta.host_endpoints)
            self._overlay.on_delta(delta)

    async def _attempt(self, families: Sequence[str], cycle: Cycle, step: Callable[[Cycle], Awaitable[None]]) -> None:
        """The step was done, or why not is a failure of its families; one that has failed before is left out."""
        if any(family in cycle.failures for family in families):
            return
        self.last_progress_at = monotonic_s()
        try:
            await step(cycle)
        except (FelixError, OSError) as error:
            for family in families:
                cycle.failures[family] = str(error)
                self._forget(family)

    def _settle(self, cycle: Cycle) -> None:
        """What could not be done is due again later, what came while the cycle ran is due at once."""
        now = monotonic_s()
        unsettled = [] if NFT in cycle.failures else self._find_unsettled()  # the others had to wait for it
        is_moving = bool(cycle.writes_by_family) and self._restless_cycles < _PATIENCE_CYCLES
        self._restless_cycles = self._restless_cycles + 1 if unsettled else 0
        for family in _FAMILIES:
            reason = cycle.failures.get(family) or self._find_refusals(family)
            if not reason and family in unsettled and not is_moving:
                reason = "what is written does not last" if cycle.writes_by_family else "something cannot be done"
            if not reason:
                self._retries.note_done(family)
            elif family in cycle.failures or not self._retries.is_waiting(family):
                wait_s = self._retries.note_failed(family, now, random.random())
                log.warning("%s: %s; tried again in %.1f s", family, reason, wait_s)
        cycle.is_settled = not cycle.failures and not len(self._retries) and not unsettled
        if any(not self._retries.is_waiting(family) for family in unsettled):
            self._wake.set()

    def _find_unsettled(self) -> list[str]:
        is_settled = {
            NFT: self._nft.is_settled and not self._nft_needs_read,
            ROUTES: self._routes.is_settled,
            LINKS: self._links.is_settled,
            TUNNELS: self._tunnels.is_settled,
        }
        return [family for family in _FAMILIES if not is_settled[family]]

    def _find_refusals(self, family: str) -> str:
        if family == ROUTES and self._routes.refusal_by_key:
            key, refusal = next(iter(self._routes.refusal_by_key.items()))
            return f"{len(self._routes.refusal_by_key)} refused, as {key.net}: {refusal.text or int(refusal)}"
        if family == LINKS and self._links.failed_count:
            return "; ".join(self._links.reason_by_interface.values())
        if family == TUNNELS and self._tunnels.refusals_count:
            return "; ".join(f"{device}: {reason}" for device, reason in self._tunnels.find_reasons())
        return ""

    # --- Reading ---

    async def _read_nft(self, _: Cycle) -> None:
        self._nft_needs_read = False  # before the read: what is announced meanwhile asks for another one
        self._nft.replace_believed(await self._kernel.read_table())
        self._note_read(NFT)
        if self._revoker is not None and not self._nft.is_settled:
            self._revoker.note_all()  # what somebody opened while the table was another one

    async def _read_links_and_routes(self, _: Cycle) -> None:
        await self._read_host()

    async def _read_host(self) -> None:
        """Interfaces, neighbours and routes are as read; what is announced meanwhile is told on top."""
        self._links.start_read()
        self._routes.start_read()
        self._qdiscs.start_read()
        self._hosts.start_read()
        found = await self._kernel.read_host()
        self._links.replace_believed(found.links, found.neighbours)
        self._routes.replace_links((link.index, link.name, link.is_up) for link in found.links)
        self._routes.replace_believed(found.routes)
        self._qdiscs.replace_believed(((link.index, link.name, link.is_up) for link in found.links), found.qdiscs)
        self._hosts.replace_believed(((link.index, link.name) for link in found.links), found.addresses)
        self._note_read(LINKS)
        self._note_read(ROUTES)

    async def _read_tunnels(self, _: Cycle) -> None:
        self._tunnels.start_read()
        self._tunnels.replace_believed(await self._kernel.read_tunnels())
        self._note_read(TUNNELS)

    def _note_read(self, family: str) -> None:
        self.counts.reads_by_family[family] = self.counts.reads_by_family.get(family, 0) + 1
        self._schedule_refresh(family)

    # --- Writing ---

    async def _apply_nft(self, cycle: Cycle) -> None:
        fill = self._nft.plan_fill()
        elements = self._nft.plan_elements(fill)
        if elements:
            await self._write_structure(cycle, elements)
        else:
            await self._fill(cycle, fill)
            await self._write_structure(cycle, self._nft.plan_structure())
        if self._nft.is_closing:
            await self._write_structure(cycle, self._nft.plan_structure())

    async def _write_structure(self, cycle: Cycle, structure: StructurePlan) -> None:
        if structure and NFT not in cycle.failures:
            result = await self._kernel.apply_structure(structure)
            self._nft.absorb_structure(structure, result)
            self._note_nft(cycle, result)

    async def _fill(self, cycle: Cycle, fill: FillPlan) -> None:
        if fill:
            result = await self._kernel.apply_fill(fill)
            self._nft.absorb_fill(fill, result)
            if fill.rebuilds and not result.error:
                log.warning(
                    "table inet felix is built anew, since %s; interfaces with policy are closed meanwhile",
                    self._nft.rebuild_reason,
                )
            self._note_nft(cycle, result)

    async def _clean_nft(self, cycle: Cycle) -> None:
        cleanup = self._nft.plan_cleanup()
        if cleanup:
            result = await self._kernel.apply_cleanup(cleanup)
            self._nft.absorb_cleanup(cleanup, result)
            self._note_nft(cycle, result)

    def _note_nft(self, cycle: Cycle, result: ApplyResult) -> None:
        cycle.note_writes(NFT, len(result.chains) + len(result.objects) + _count_elements(result.changes))
        if result.needs_read:
            self._nft_needs_read = True
        if result.error:
            cycle.failures[NFT] = result.error

    async def _remove_routes(self, cycle: Cycle) -> None:
        await self._write_routes(self._routes.plan_removals(may_delete=True), cycle)

    async def _add_routes(self, cycle: Cycle) -> None:
        await self._write_routes(self._routes.plan_additions(may_delete=True), cycle)

    async def _write_routes(self, planned: RoutePlanned, cycle: Cycle) -> None:
        if planned:
            result = await self._kernel.apply_routes(planned)
            self._routes.absorb(planned, result)
            cycle.note_writes(ROUTES, sum(answer is None for answer in result.answers))

    async def _write_tunnels(self, cycle: Cycle) -> None:
        if not self._nft.guards_tunnels:
            return  # anybody's packets would come out of it
        await self._apply_tunnels(self._tunnels.plan_additions(may_delete=True), cycle)

    async def _clean_tunnels(self, cycle: Cycle) -> None:
        await self._apply_tunnels(self._tunnels.plan_removals(may_delete=True), cycle)

    async def _apply_tunnels(self, planned: TunnelPlanned, cycle: Cycle) -> None:
        if planned:
            result = await self._kernel.apply_tunnels(planned)
            self._tunnels.absorb(planned, result)
            cycle.note_writes(TUNNELS, sum(answer is None for answer in result.answers))

    async def _apply_qdiscs(self, cycle: Cycle) -> None:
        planned = self._qdiscs.plan(may_delete=True)
        if planned:
            result = await self._kernel.apply_qdiscs(planned)
            self._qdiscs.absorb(planned, result)
            cycle.note_writes(QDISCS, result.done_count)

    async def _apply_links(self, cycle: Cycle) -> None:
        planned = self._links.plan(may_delete=True)
        if planned:
            result = await self._kernel.apply_links(planned)
            self._links.absorb(planned, result)
            neighbours = (*result.neighbours, *result.stale_neighbours)
            cycle.note_writes(LINKS, len(result.mended) + sum(answer is None for answer in neighbours))
            for mended in result.mended:
                log.debug("%s was %s, is %s", mended.path, mended.before, mended.value)


def _without_ipv6(delta: DesiredDelta) -> DesiredDelta:
    """Returns the delta without IPv6 addresses and tunnels: what is nobody's source and has no route is dropped."""
    endpoints = {
        key: endpoint
        and replace(
            endpoint,
            addresses=tuple(net for net in endpoint.addresses if net.version == 4),
            floating=tuple(one for one in endpoint.floating if one.external.version == 4),
        )
        for key, endpoint in delta.endpoints.items()
    }
    blocks = {block: wanted for block, wanted in delta.blocks.items() if block.version == 4}
    return replace(
        delta,
        endpoints=endpoints,
        blocks=blocks,
        own_vteps={version: own for version, own in delta.own_vteps.items() if version == 4},
        remote_vteps={key: end for key, end in delta.remote_vteps.items() if key[0] == 4},
        cluster_routes={net: route for net, route in delta.cluster_routes.items() if net.version == 4},
    )


def _without_floating(delta: DesiredDelta) -> DesiredDelta:
    """Returns the delta without external addresses: nothing leads to them, and there is no route for them."""
    if not any(endpoint is not None and endpoint.floating for endpoint in delta.endpoints.values()):
        return delta
    reason = "ipNATs count for nothing unless FloatingIPs is Enabled"
    endpoints = {
        key: replace(endpoint, floating=(), left_out=reason) if endpoint is not None and endpoint.floating else endpoint
        for key, endpoint in delta.endpoints.items()
    }
    return replace(delta, endpoints=endpoints)


async def _insist(read: Callable[[], Awaitable[None]]) -> None:
    """The kernel has been read, however much changes in it just then. Raises ResyncRequired if that takes too long."""
    for pause_s in _START_PAUSES_S:
        try:
            return await read()
        except ResyncRequired as error:
            log.warning("%s: much is changing on this host; read again in %g s", error, pause_s)
            await asyncio.sleep(pause_s)
    return await read()


def _count_elements(changes: list[SetChange]) -> int:
    return sum(len(change.removed) + len(change.added) for change in changes)
