"""One apply cycle after another: the order in which the families of the dataplane turn desired state into kernel state.

    removals of routes ─▶ nft: fill, structure, dispatch ─▶ links ─▶ additions of routes ─▶ nft: cleanup ─▶ conntrack

The order is what keeps it safe: a workload is reachable only after its policy stands, and nothing that is still used
is removed. Before desired state is complete (`on_in_sync`) the only thing ever written is the guard of a table that had
none.
"""

from __future__ import annotations

import asyncio
import logging
import random
from collections.abc import Awaitable, Callable
from dataclasses import dataclass, field
from typing import NoReturn

from felix.calc.desired import DesiredDelta
from felix.clock import monotonic_s
from felix.dataplane.conntrack.apply import apply_conntrack
from felix.dataplane.conntrack.plan import ConntrackPlan, ConntrackPlanned
from felix.dataplane.conntrack.types import ConntrackResult
from felix.dataplane.cycle import Cycle
from felix.dataplane.endpoints import EndpointBoard
from felix.dataplane.links import watch as links_watch
from felix.dataplane.links.apply import apply_links
from felix.dataplane.links.plan import LinkPlan
from felix.dataplane.links.read import read_links, read_neighbours
from felix.dataplane.links.types import Link, LinkConfig
from felix.dataplane.netlink.message import NETLINK_NETFILTER, NETLINK_ROUTE
from felix.dataplane.netlink.serve import NetlinkWorker
from felix.dataplane.netlink.watch import NetlinkWatch
from felix.dataplane.nft.apply import NftWorker, apply_cleanup, apply_fill, apply_structure
from felix.dataplane.nft.plan import NftPlan
from felix.dataplane.nft.read import read_table
from felix.dataplane.nft.types import ApplyResult, Culprit, NftConfig, SetChange
from felix.dataplane.nft.watch import NftWatch
from felix.dataplane.routes import watch as routes_watch
from felix.dataplane.routes.apply import apply_routes
from felix.dataplane.routes.plan import RoutePlan
from felix.dataplane.routes.read import read_routes
from felix.dataplane.routes.types import RouteConfig, RoutePlanned
from felix.errors import FelixError
from felix.reconcile.retry import BackOff, RetryQueue
from felix.reconcile.throttle import Throttle

log = logging.getLogger(__name__)

_APPLY_INTERVAL_S = 0.01
_APPLY_BURST = 10
_NFT, _ROUTES, _LINKS = "nft", "routes", "links"


@dataclass(frozen=True, slots=True)
class DriverConfig:
    """What the families are told, and after how many seconds each is read anew without an event asking for it.

    0: never. Events repair at once; the intervals are for what the kernel does not announce.
    """

    nft: NftConfig = field(default_factory=NftConfig)
    routes: RouteConfig = field(default_factory=RouteConfig)
    links: LinkConfig = field(default_factory=LinkConfig)
    nft_refresh_s: float = 180.0
    routes_refresh_s: float = 90.0
    links_refresh_s: float = 90.0


class Driver:
    """Owns plans, workers and watches of the kernel-facing families; `run` applies until cancelled.

    on_cycle: called after every cycle that did or tried something, on the loop's thread; must be quick.
    on_foreign: called with family and program when somebody else changed what is ours.
    """

    def __init__(
        self, config: DriverConfig, on_cycle: Callable[[Cycle], None], on_foreign: Callable[[str, str], None]
    ) -> None:
        self._config = config
        self._on_cycle = on_cycle
        self._on_foreign = on_foreign
        self._nft = NftPlan(config.nft)
        self._routes = RoutePlan(config.routes)
        self._links = LinkPlan(config.links)
        self._conntrack = ConntrackPlan()
        self._conntrack_worker = NetlinkWorker(NETLINK_NETFILTER, "conntrack")
        self._flush: asyncio.Task[None] | None = None
        self._board = EndpointBoard(self._nft, self._routes, self._links)
        self._nft_worker = NftWorker()
        self._netlink = NetlinkWorker(NETLINK_ROUTE, "netlink")
        groups = (*links_watch.GROUPS, *routes_watch.GROUPS)
        self._watch = NetlinkWatch(NETLINK_ROUTE, groups, self._on_datagram, self._on_overrun)
        self._nft_watch = NftWatch(self._on_foreign_nft)
        self._nft_needs_read = True
        self._wake = asyncio.Event()
        self._retries: RetryQueue[str] = RetryQueue(BackOff(first_s=0.2, most_s=30.0))
        self._refresh_at: dict[str, float] = {}
        self._is_in_sync = False
        self._arrived: list[tuple[DesiredDelta, float]] = []
        self._revision = 0
        self.last_progress_at = monotonic_s()
        self.overruns_count = 0
        self.flushed_count = 0
        self.reads_by_family: dict[str, int] = {}

    @property
    def nft(self) -> NftPlan:
        """The plan of the table, to be looked at."""
        return self._nft

    @property
    def board(self) -> EndpointBoard:
        """How each local endpoint stands."""
        return self._board

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
        self._watch.open()
        self._nft_watch.open()
        port = await self._netlink.open()
        self._routes.write_port = self._links.write_port = port
        await self._read_links_and_routes()
        table = await self._nft_worker.call(read_table)
        self._note_read(_NFT)
        self._nft.replace_believed(table)
        self._nft_needs_read = False
        if not self._nft.is_guarding:
            cycle = Cycle()
            await self._fill(cycle)
            state = "did not guard as ours does" if table.exists else "was missing"
            log.info("table inet felix %s: interfaces that it does not claim are closed now", state)

    def on_delta(self, delta: DesiredDelta, revision: int, arrived_at: float) -> None:
        """Desired state changed by `delta`, which arrived then (monotonic seconds) and ends at that revision."""
        self._arrived.append((delta, arrived_at))
        self._revision = max(self._revision, revision)
        self._wake.set()

    def on_in_sync(self) -> None:
        """Desired state is complete: from now on cycles run, and what is not wanted is removed."""
        self._is_in_sync = True
        self._wake.set()

    def oldest_wait_s(self, now: float) -> float:
        """Returns for how long the oldest change of an endpoint that is not enforced yet has been waiting; 0: none."""
        waits = (now - arrived_at for delta, arrived_at in self._arrived if delta.endpoints)
        return max(self._board.oldest_wait_s(now), next(waits, 0.0))

    async def run(self) -> NoReturn:
        """Applies whenever there is something to do, the first change after quiet at once, bursts in few batches."""
        throttle = Throttle(_APPLY_INTERVAL_S, _APPLY_BURST, monotonic_s())
        while True:
            await self._wait_for_work()
            wait_s = throttle.wait_s(monotonic_s())
            if wait_s:
                await asyncio.sleep(wait_s)
            if self._is_in_sync:
                throttle.take(monotonic_s())
                self._wake.clear()
                await self._run_cycle()
            else:
                self._wake.clear()

    async def close(self) -> None:
        """Threads and sockets are gone, what had begun has ended; everything in the kernel stays as it is."""
        if self._flush is not None:
            await asyncio.wait([self._flush])
        self._watch.close()
        self._nft_watch.close()
        self._nft_worker.close()
        self._netlink.close()
        self._conntrack_worker.close()

    # --- What wakes a cycle ---

    async def _wait_for_work(self) -> None:
        """Waits for a change, a retry or a refresh that is due; says every few seconds that the loop is alive."""
        while not self._wake.is_set():
            now = monotonic_s()
            self.last_progress_at = now
            due_at = min([*self._refresh_at.values(), self._retries.next_due_at() or now + 5.0, now + 5.0])
            try:
                async with asyncio.timeout(max(0.0, due_at - now)):
                    await self._wake.wait()
            except TimeoutError:
                self._note_due(monotonic_s())
        self.last_progress_at = monotonic_s()

    def _note_due(self, now: float) -> None:
        due = self._retries.take_due(now)
        if _ROUTES in due:
            self._routes.retry_failed()
        if _LINKS in due:
            self._links.retry_failed()
        for family in [family for family, at in self._refresh_at.items() if at <= now]:
            self._refresh_at[family] = now + self._interval_s(family)
            self._forget(family)
            due.append(family)
        if due:
            self._wake.set()

    def _interval_s(self, family: str) -> float:
        config = self._config
        intervals = {_NFT: config.nft_refresh_s, _ROUTES: config.routes_refresh_s, _LINKS: config.links_refresh_s}
        return intervals[family]

    def _forget(self, family: str) -> None:
        if family == _NFT:
            self._nft_needs_read = True
        elif family == _ROUTES:
            self._routes.mark_unknown()
        else:
            self._links.mark_unknown()

    def _on_datagram(self, datagram: bytes) -> None:
        for news in links_watch.feed(self._links, datagram):
            if isinstance(news, Link):
                self._routes.on_link(news.index, news.name, news.is_up)
            else:
                self._routes.on_link_gone(news.index)
        routes_watch.feed(self._routes, datagram)
        if not (self._links.is_settled and self._routes.is_settled) or self._board.has_link_news():
            self._wake.set()

    def _on_overrun(self) -> None:
        self.overruns_count += 1
        log.info("the kernel dropped netlink events: interfaces and routes are read again")
        self._links.mark_unknown()
        self._routes.mark_unknown()
        self._wake.set()

    def _on_foreign_nft(self, culprit: Culprit) -> None:
        log.warning("table inet felix was changed by %s: it is read again and mended", culprit)
        self._on_foreign(_NFT, culprit.name)
        self._nft_needs_read = True
        self._wake.set()

    # --- One cycle ---

    async def _run_cycle(self) -> None:
        started_at = monotonic_s()
        self._take_arrived()
        revision, cycle = self._revision, Cycle()
        await self._attempt(_LINKS, cycle, self._read_what_is_unknown)
        await self._attempt(_ROUTES, cycle, self._remove_routes)
        await self._attempt(_NFT, cycle, self._apply_nft)
        if _NFT not in cycle.failures:  # a route opens a way, so the gate must stand
            await self._attempt(_LINKS, cycle, self._apply_links)
            await self._attempt(_ROUTES, cycle, self._add_routes)
        await self._attempt(_NFT, cycle, self._clean_nft)
        self._flush_connections()
        self._settle(cycle)
        cycle.revision = 0 if cycle.failures else revision
        cycle.duration_s = monotonic_s() - started_at
        self._board.report(cycle, monotonic_s())
        self._on_cycle(cycle)

    def _take_arrived(self) -> None:
        """The plans know all that arrived. Never within a cycle: its later steps count on what its earlier ones did,
        as chains do on the sets that were declared before them.
        """
        arrived, self._arrived = self._arrived, []
        for delta, arrived_at in arrived:
            self._nft.on_delta(delta)
            # An endpoint that names the host's own uplink must not get routes, neighbours and switches there.
            served = {
                key: endpoint if endpoint is not None and self._nft.is_servable(endpoint) else None
                for key, endpoint in delta.endpoints.items()
            }
            self._routes.on_delta(served, delta.blocks)
            self._links.on_delta(served)
            self._conntrack.on_delta(served)
            self._board.on_delta(delta.endpoints, arrived_at)

    async def _attempt(self, family: str, cycle: Cycle, step: Callable[[Cycle], Awaitable[None]]) -> None:
        try:
            await step(cycle)
        except (FelixError, OSError) as error:
            cycle.failures[family] = str(error)
            self._forget(family)

    def _settle(self, cycle: Cycle) -> None:
        now = monotonic_s()
        trouble = dict(cycle.failures)
        if self._routes.refusal_by_key:
            key, refusal = next(iter(self._routes.refusal_by_key.items()))
            trouble.setdefault(_ROUTES, f"{len(self._routes.refusal_by_key)} refused, as {key.net}: {refusal.text}")
        if self._links.failed_count:
            trouble.setdefault(_LINKS, "; ".join(self._links.reason_by_interface.values()))
        is_left = not (self._nft.is_settled and self._routes.is_settled and self._links.is_settled)
        if is_left and not trouble and not cycle.writes_by_family:
            trouble[_NFT] = "something is left to do and nothing could be done"
        for family in (_NFT, _ROUTES, _LINKS):
            if family in trouble:
                wait_s = self._retries.note_failed(family, now, random.random())
                log.warning("%s: %s; tried again in %.1f s", family, trouble[family], wait_s)
            else:
                self._retries.note_done(family)
        cycle.is_settled = not trouble and not is_left
        if is_left and not trouble:  # something came while the cycle ran
            self._wake.set()

    # --- Reading ---

    async def _read_what_is_unknown(self, _: Cycle) -> None:
        if self._nft_needs_read:
            self._nft_needs_read = False  # before the read: what is announced meanwhile asks for another one
            try:
                self._nft.replace_believed(await self._nft_worker.call(read_table))
            except FelixError:
                self._nft_needs_read = True
                raise
            self._note_read(_NFT)
        if self._links.needs_read or self._routes.needs_read:
            await self._read_links_and_routes()

    async def _read_links_and_routes(self) -> None:
        """Interfaces, neighbours and routes are as read; what is announced meanwhile is told on top."""
        self._links.start_read()
        self._routes.start_read()
        try:
            found_links, neighbours, found_routes = await self._netlink.call(
                lambda socket: (
                    read_links(socket),
                    read_neighbours(socket, self._config.links),
                    read_routes(socket, self._config.routes),
                )
            )
        except (FelixError, OSError):
            self._links.mark_unknown()
            self._routes.mark_unknown()
            raise
        self._links.replace_believed(found_links, neighbours)
        self._routes.replace_links((link.index, link.name, link.is_up) for link in found_links)
        self._routes.replace_believed(found_routes)
        self._note_read(_LINKS)
        self._note_read(_ROUTES)

    def _note_read(self, family: str) -> None:
        self.reads_by_family[family] = self.reads_by_family.get(family, 0) + 1
        interval_s = self._interval_s(family)
        if interval_s:
            self._refresh_at[family] = monotonic_s() + interval_s * (1.0 + 0.1 * random.random())

    # --- Writing ---

    async def _apply_nft(self, cycle: Cycle) -> None:
        await self._fill(cycle)
        await self._write_structure(cycle)
        if self._nft.is_closing:
            await self._write_structure(cycle)

    async def _write_structure(self, cycle: Cycle) -> None:
        structure = self._nft.plan_structure()
        if structure and _NFT not in cycle.failures:
            result = await self._nft_worker.call(apply_structure, structure)
            self._nft.absorb_structure(structure, result)
            self._note_nft(cycle, result)

    async def _fill(self, cycle: Cycle) -> None:
        fill = self._nft.plan_fill()
        if fill:
            result = await self._nft_worker.call(apply_fill, fill)
            self._nft.absorb_fill(fill, result)
            self._note_nft(cycle, result)

    async def _clean_nft(self, cycle: Cycle) -> None:
        if _NFT in cycle.failures:
            return
        cleanup = self._nft.plan_cleanup()
        if cleanup:
            result = await self._nft_worker.call(apply_cleanup, cleanup)
            self._nft.absorb_cleanup(cleanup, result)
            self._note_nft(cycle, result)

    def _note_nft(self, cycle: Cycle, result: ApplyResult) -> None:
        cycle.note_writes(_NFT, len(result.chains) + len(result.objects) + _count_elements(result.changes))
        if result.closed or result.refused:
            self._board.has_refusals = True
        if result.needs_read:
            self._nft_needs_read = True
        if result.error:
            cycle.failures[_NFT] = result.error

    async def _remove_routes(self, cycle: Cycle) -> None:
        await self._write_routes(self._routes.plan_removals(may_delete=True), cycle)

    async def _add_routes(self, cycle: Cycle) -> None:
        await self._write_routes(self._routes.plan_additions(may_delete=True), cycle)

    async def _write_routes(self, planned: RoutePlanned, cycle: Cycle) -> None:
        if planned:
            result = await self._netlink.call(apply_routes, self._config.routes, planned)
            self._routes.absorb(planned, result)
            cycle.note_writes(_ROUTES, len(planned))

    async def _apply_links(self, cycle: Cycle) -> None:
        planned = self._links.plan(may_delete=True)
        if planned:
            result = await self._netlink.call(apply_links, self._config.links, planned)
            self._links.absorb(planned, result)
            cycle.note_writes(_LINKS, len(result.mended) + len(planned.neighbours) + len(planned.stale_neighbours))
            for mended in result.mended:
                log.debug("%s was %s, is %s", mended.path, mended.before, mended.value)

    def _flush_connections(self) -> None:
        """Connections of addresses that left are being removed; nothing waits for it, a huge table takes seconds."""
        if self._flush is None or self._flush.done():
            planned = self._conntrack.plan()
            if planned:
                self._flush = asyncio.create_task(self._flush_now(planned), name="conntrack")

    async def _flush_now(self, planned: ConntrackPlanned) -> None:
        try:
            result = await self._conntrack_worker.call(apply_conntrack, planned)
        except OSError as error:
            result = ConntrackResult(0, f"the kernel's netfilter netlink: {error.strerror}")
        self._conntrack.absorb(planned, result)
        if result.reason:
            log.warning("conntrack: %s; connections of %d former addresses may live on", result.reason, len(planned))
        self.flushed_count += result.removed_count
        self._wake.set()  # more addresses may have left meanwhile


def _count_elements(changes: list[SetChange]) -> int:
    return sum(len(change.removed) + len(change.added) for change in changes)
