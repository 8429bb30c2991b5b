"""Writes status back: of each endpoint when it changes, of the agent at intervals. Forwarding never waits for it.

The agent's status key is the host's lease too: while it lives, nobody gives the host up. It is written only while no
fence keeps the host out, in the same transaction that looks.
"""

from __future__ import annotations

import asyncio
import logging
import random
from collections.abc import Awaitable, Callable
from dataclasses import dataclass
from itertools import islice
from typing import NoReturn

from felix.clock import monotonic_s, wall_s
from felix.datastore.etcd import EtcdClient
from felix.datastore.faults import LeaseLost
from felix.datastore.fence import Fence, is_absent, parse_fence
from felix.datastore.outage import Outage
from felix.datastore.status import EndpointState, StatusKeys, WorkloadId, render_agent_status, render_endpoint_status
from felix.datastore.types import Compare, DeleteOp, Op, PutOp, RangeOp, RangePage
from felix.errors import PeerError
from felix.model.keys import format_fence_key
from felix.reconcile.delta import DeltaTracker
from felix.reconcile.retry import BackOff

log = logging.getLogger(__name__)

BATCH_KEYS = 100  # etcd takes 128 operations in a transaction unless told otherwise
_REREAD_S = 180.0
_SILENT_LOOK_S = 30.0  # how often a host that reports nothing looks whether it was given up


@dataclass(frozen=True, slots=True)
class ReportSettings:
    """What is reported, and how often.

    interval_s, ttl_s: the agent's own status is written every interval and dies after ttl; interval 0: both
    keys are gone.
    delay_s: shortest time between two transactions of endpoint status, each for up to a hundred endpoints.
    """

    hostname: str
    region: str = "no-region"
    interval_s: float = 30.0
    ttl_s: float = 90.0
    delay_s: float = 1.0


async def find_fence(client: EtcdClient, hostname: str) -> Fence | None:
    """Returns the fence that keeps a host out, None when there is none."""
    pair = await client.get(format_fence_key(hostname))
    return parse_fence(pair) if pair is not None else None


class AgentReporter:
    """Keeps the agent's status key, which is the host's lease, alive as long as the agent is.

    A host with interval 0 says nothing, so that nobody can miss its word: both keys are gone. It still looks whether it
    was given up. clean: makes that nothing of the host is left, in etcd and in the kernel; may raise PeerError.
    on_admitted: called whenever the host has said that it lives.
    """

    def __init__(
        self,
        client: EtcdClient,
        settings: ReportSettings,
        clean: Callable[[Fence], Awaitable[None]] | None = None,
        on_admitted: Callable[[], None] = lambda: None,
    ) -> None:
        self.outage = Outage()
        self.fence: Fence | None = None
        self._is_admitted = False
        self._client = client
        self._settings = settings
        self._keys = StatusKeys(settings.hostname, settings.region)
        self._clean = clean
        self._on_admitted = on_admitted
        self._started_at = monotonic_s()
        self._lease = 0
        self._is_first = True

    @property
    def refusal(self) -> str:
        """Why no container may be attached to this host now; empty when it may."""
        if self.fence is not None:
            return f"{self.fence}; it has to clean up first"
        return "" if self._is_admitted else "this host has not been able to say in etcd yet that it lives"

    async def run(self) -> NoReturn:
        """Reports until cancelled. The key is left to its lease, so that a restart is no outage."""
        while True:
            wait_s = self._settings.interval_s or _SILENT_LOOK_S
            try:
                await self.report_once()
                self.outage.note_well()
            except PeerError as error:
                wait_s = min(5.0, wait_s)
                if self.outage.note_failed(error, monotonic_s()):
                    log.warning("agent status cannot be written: %s", error)
            await asyncio.sleep(wait_s * (1.0 + 0.1 * random.random()))

    async def report_once(self) -> None:
        """Both status keys are written, and one of them lives for the whole ttl from now.

        A host that was given up has cleaned up before, and its fence went in the transaction that wrote them.
        """
        self.fence = await self._write(None)
        while self.fence is not None:
            if self._clean is not None:
                await self._clean(self.fence)
            self.fence = await self._write(self.fence)
        self._is_admitted = True
        self._on_admitted()

    async def _write(self, fence: Fence | None) -> Fence | None:
        """Returns the fence, other than `fence`, that kept the keys from being written; None: they are."""
        try:
            return await self._try_write(fence)
        except LeaseLost:  # the agent was paused, or etcd lost its data
            self._lease = 0
            return await self._try_write(fence)

    async def _try_write(self, fence: Fence | None) -> Fence | None:
        key = format_fence_key(self._settings.hostname)
        compares: list[Compare] = [fence.stands() if fence else is_absent(key)]
        operations = await self._plan_write()
        if fence is not None:
            operations.append(DeleteOp(key))
        result = await self._client.txn(compares, operations, [RangeOp(key)])
        if result.succeeded:
            self._is_first = False
            return None
        (page,) = result.responses
        found = page.kvs if isinstance(page, RangePage) else ()
        # gone meanwhile, by hand or by the collector: there is nothing to stand up to any more
        return parse_fence(found[0]) if found else await self._try_write(None)

    async def _plan_write(self) -> list[Op]:
        if not self._settings.interval_s:
            return [DeleteOp(self._keys.agent), DeleteOp(self._keys.agent_last)] if self._is_first else []
        if self._lease:
            await self._client.keep_alive(self._lease)
        else:
            self._lease = await self._client.grant_lease(max(1, round(self._settings.ttl_s)))
        value = render_agent_status(wall_s(), monotonic_s() - self._started_at, is_first=self._is_first)
        return [PutOp(self._keys.agent, value, self._lease), PutOp(self._keys.agent_last, value)]


class EndpointReporter:
    """Keeps the status keys of this host's endpoints as they should be; holds one value per key, never a history.

    Nothing is deleted, and nothing of an earlier life looked for, before `on_in_sync`.
    """

    def __init__(self, client: EtcdClient, settings: ReportSettings) -> None:
        self.outage = Outage()
        self._client = client
        self._delay_s = settings.delay_s
        self._keys = StatusKeys(settings.hostname, settings.region)
        self._tracker: DeltaTracker[str, bytes] = DeltaTracker()
        self._has_work = asyncio.Event()
        self._is_in_sync = False
        self._read_at: float | None = None
        self._backoff = BackOff(first_s=0.5, most_s=30.0)
        self.writes_count = 0  # keys written or deleted
        self.failures_count = 0  # attempts that failed and were made again

    @property
    def pending_count(self) -> int:
        """How many keys are still to be written or deleted."""
        return self._tracker.updates_count + self._tracker.deletes_count

    def set_workload(self, name: WorkloadId, state: EndpointState) -> None:
        """The status of a workload endpoint will be `state`."""
        self._want(self._keys.workload(name), state)

    def drop_workload(self, name: WorkloadId) -> None:
        """The status of a workload endpoint will be gone."""
        self._want(self._keys.workload(name), None)

    def set_host_endpoint(self, name: str, state: EndpointState) -> None:
        """The status of a host endpoint will be `state`."""
        self._want(self._keys.host_endpoint(name), state)

    def drop_host_endpoint(self, name: str) -> None:
        """The status of a host endpoint will be gone."""
        self._want(self._keys.host_endpoint(name), None)

    def on_in_sync(self) -> None:
        """Every endpoint of this host has been set: keys of others may go from now on."""
        self._is_in_sync = True
        self._has_work.set()

    async def run(self) -> NoReturn:
        """Writes until cancelled; one transaction at a time, `delay_s` apart."""
        while True:
            try:
                async with asyncio.timeout(_REREAD_S):
                    await self._has_work.wait()
            except TimeoutError:
                self._read_at = None  # somebody else may have changed our keys; nobody tells us
            self._has_work.clear()
            wait_s = self._delay_s
            try:
                if self._is_in_sync and (self._read_at is None or monotonic_s() - self._read_at > _REREAD_S):
                    await self._read()
                await self._write_some()
                if ended := self.outage.note_well():
                    log.info("endpoint status is written again after %d failures", ended)
            except PeerError as error:
                self._has_work.set()
                self.failures_count += 1
                wait_s = self._backoff.delay_s(self.outage.count + 1, random.random())
                if self.outage.note_failed(error, monotonic_s()):
                    log.warning("status of %d endpoints cannot be written: %s", self.pending_count, error)
            await asyncio.sleep(wait_s)

    async def _read(self) -> None:
        """What is stored is known."""
        found: list[tuple[str, bytes]] = []
        for prefix in (self._keys.workloads, self._keys.host_endpoints):
            kvs, _ = await self._client.list_prefix(prefix)
            found += [(kv.key, kv.value) for kv in kvs]
        self._tracker.replace_believed(found)
        self._read_at = monotonic_s()

    async def _write_some(self) -> None:
        """A batch of what is pending is done, in one transaction; none if nothing is pending."""
        puts = list(islice(self._tracker.pending_updates(), BATCH_KEYS))
        may_delete = self._read_at is not None
        deletes = list(islice(self._tracker.pending_deletes(), BATCH_KEYS - len(puts))) if may_delete else []
        if not puts and not deletes:
            return
        operations: list[Op] = [PutOp(key, value) for key, value in puts]
        operations += [DeleteOp(key) for key in deletes]
        await self._client.txn([], operations)
        self.writes_count += len(operations)
        for key, value in puts:
            self._tracker.note_present(key, value)
        for key in deletes:
            self._tracker.note_absent(key)
        if self._tracker.updates_count or (may_delete and self._tracker.deletes_count):
            self._has_work.set()

    def _want(self, key: str, state: EndpointState | None) -> None:
        if state is None:
            self._tracker.drop_desired(key)
        else:
            self._tracker.set_desired(key, render_endpoint_status(state))
        self._has_work.set()
