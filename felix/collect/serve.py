"""The collector inside every agent: waits until it is elected, then looks, judges, takes back. Shell."""

from __future__ import annotations

import asyncio
import logging
import random
from collections import Counter
from collections.abc import Awaitable, Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import NoReturn

from felix.clock import monotonic_s
from felix.collect.apply import GuardBroken, collect_findings, lift_fence, make_fence, put_fence, reclaim_host
from felix.collect.lease import Deposed, Election, Office
from felix.collect.plan import Tracker
from felix.collect.read import read_world
from felix.collect.types import KINDS, Due, Finding, Graces, HostState, LostHost, Reach, World
from felix.datastore.etcd import EtcdClient
from felix.datastore.fence import Fence
from felix.datastore.outage import Outage
from felix.errors import FelixError, PeerError
from felix.obs.metrics import Metrics
from felix.reconcile.retry import BackOff

log = logging.getLogger(__name__)

LEASE_S = 30.0
_SAYINGS = {
    HostState.SILENT: "host {} gives no sign of life",
    HostState.REACHABLE: "host {} says nothing, but its routes are there: it is not given up",
    HostState.FENCED: "host {} was given up, and is not back",
}
_IDLE_S = 5.0  # how often settings are looked at while nothing is to be collected


@dataclass(frozen=True, slots=True)
class Surroundings:
    """What the agent knows and the collector asks, each time anew.

    find_graces: as settings say now. find_doubt: why what is stored must not be believed now; empty: it may.
    find_reach: what this host's kernel knows of the others.
    """

    find_graces: Callable[[], Graces]
    find_doubt: Callable[[], str]
    find_reach: Callable[[], Awaitable[Reach]]


class Collector:
    """One candidate for collecting, and the collector while it is elected. name: of this host."""

    def __init__(self, client: EtcdClient, name: str, surroundings: Surroundings, metrics: Metrics) -> None:
        self.is_leader = False
        self._client = client
        self._name = name
        self._surroundings = surroundings
        self._metrics = metrics
        self._tracker = Tracker(name)
        self._outage = Outage()
        self._said: set[str] = set()
        self._backoff = BackOff(first_s=0.5, most_s=30.0)

    async def run(self) -> NoReturn:
        """Collects whenever it is elected, until cancelled."""
        self._show(Due())
        while True:
            graces = self._surroundings.find_graces()
            if not graces.shortest_s:
                await asyncio.sleep(_IDLE_S)
                continue
            election = Election(self._client, self._name, min(LEASE_S, max(2.0, graces.shortest_s / 4)))
            try:
                async with election.hold() as office:
                    await self._preside(office)
            except Deposed as error:
                log.info("%s; another agent may collect", error)
            except FelixError as error:
                self._note_failed(error)
                await asyncio.sleep(self._backoff.delay_s(self._outage.count, random.random()))
            finally:
                self._resign()

    async def _preside(self, office: Office) -> None:
        """Looks and collects until the settings say never, or the office is lost."""
        log.info("this agent collects leaked addresses from now on")
        self.is_leader = True
        self._metrics.collector_leader.set(1)
        self._tracker = Tracker(self._name)  # a thread of an office that was lost may still be at the old one
        while (graces := self._surroundings.find_graces()).shortest_s:
            wait_s = graces.shortest_s / 2
            doubt = self._surroundings.find_doubt()
            if doubt:
                self._tracker.restart()
                self._say([f"nothing is collected: {doubt}"])
            else:
                wait_s = min(wait_s, await self._look_safely(office, graces))
            await asyncio.sleep(wait_s)

    async def _look_safely(self, office: Office, graces: Graces) -> float:
        """Returns after how long to look again at the latest; sooner than usual when etcd failed."""
        try:
            await self._look(office, graces)
            self._outage.note_well()
            return graces.shortest_s
        except Deposed:
            raise
        except PeerError as error:
            self._note_failed(error)
            return self._backoff.delay_s(self._outage.count, random.random())

    async def _look(self, office: Office, graces: Graces) -> None:
        reach = await self._surroundings.find_reach()
        now = monotonic_s()
        world = await read_world(self._client)
        due = await asyncio.to_thread(self._tracker.on_world, world, reach, graces, now)
        self._show(due)
        self._say([*due.held, *(_SAYINGS[state].format(host) for host, state in due.states.items())])
        await self._collect(due, world, office)

    async def _collect(self, due: Due, world: World, office: Office) -> None:
        """Everything that is due is done, as far as it still is."""
        acts = [
            self._put_right(due.findings, office),
            *(self._lift(fence, office) for fence in due.lift),
            *(self._reclaim(fence, world, office) for fence in due.resume),
            *(self._give_up(host, world, office) for host in due.lost),
        ]
        try:
            for act in acts:
                try:
                    await act
                except GuardBroken as error:
                    # of a host: it is back, the next look tells. Of the office: then this is not the collector.
                    if not (await self._client.txn([office.stands()], [])).succeeded:
                        raise Deposed("another agent has become the collector") from error
                    log.info("not everything was collected: %s", error)
        finally:
            for act in acts:
                act.close()

    async def _put_right(self, findings: Sequence[Finding], office: Office) -> None:
        self._count(await collect_findings(self._client, findings, [office.stands()]))

    async def _lift(self, fence: Fence, office: Office) -> None:
        if await lift_fence(self._client, fence, [office.stands()]):
            log.warning("%s; it lives and is no agent of Felix, so nothing keeps it out any more", fence)

    async def _give_up(self, host: LostHost, world: World, office: Office) -> None:
        log.error("host %s has given no sign of life for %.0f s: it is given up", host.name, host.silent_s)
        wanted = make_fence(host.name, self._name, world.endpoints_of(host.name))
        fence = await put_fence(self._client, wanted, [office.stands()])
        if fence is not None:
            await self._reclaim(fence, world, office)

    async def _reclaim(self, fence: Fence, world: World, office: Office) -> None:
        gone = await reclaim_host(self._client, fence, world.endpoints_of(fence.host), [office.stands()])
        log.warning("%s: %s", fence, gone)
        self._count({"endpoint": len(gone.endpoints), "host_address": len(gone.addresses)})

    def _note_failed(self, error: FelixError) -> None:
        if self._outage.note_failed(error, monotonic_s()):
            log.warning("leaked addresses cannot be collected: %s", error)

    def _resign(self) -> None:
        self.is_leader = False
        self._metrics.collector_leader.set(0)
        self._show(Due())

    def _show(self, due: Due) -> None:
        for kind in (*KINDS, "kept"):
            self._metrics.ipam_leaks.labels(kind).set(due.counts.get(kind, 0))
        states = Counter(due.states.values())
        for state in HostState:
            self._metrics.lost_hosts.labels(state.value).set(states[state])

    def _say(self, texts: Sequence[str]) -> None:
        """Each text is in the log once, as long as it goes on to be so."""
        for text in texts:
            if text not in self._said:
                log.warning("%s", text)
        self._said = set(texts)

    def _count(self, counts: Mapping[str, int]) -> None:
        for kind, count in counts.items():
            if count:
                self._metrics.ipam_collected_total.inc(kind, by=count)
