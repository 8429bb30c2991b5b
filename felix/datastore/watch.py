"""Follows one range of the store forever: one snapshot, one watch, and the care that neither dies unnoticed."""

from __future__ import annotations

import asyncio
import logging
import random
from collections.abc import Callable
from dataclasses import dataclass
from typing import NoReturn

from felix.clock import monotonic_s
from felix.datastore.etcd import EtcdClient
from felix.datastore.faults import EtcdUnavailable
from felix.datastore.merge import Merge
from felix.datastore.outage import Outage
from felix.datastore.read import WatchStream
from felix.datastore.types import StreamItem
from felix.errors import PeerError, ResyncRequired

log = logging.getLogger(__name__)


@dataclass(frozen=True, slots=True)
class WatchPace:
    """How patient a watch is.

    probe_s: silence after which the server is asked for a sign of life; after as much again the watch is given up.
    first_s, most_s: after the n-th failure in a row the next attempt follows within `first_s * 2 ** n`, at most
    `most_s`, anywhere in that time (full jitter), so that a thousand hosts do not come back at once.
    """

    probe_s: float = 6.0
    first_s: float = 0.1
    most_s: float = 10.0
    page_keys: int = 1000

    def delay_s(self, failures: int, fraction: float) -> float:
        """Returns the wait after that many failures (≥ 1) in a row; `fraction`, 0 to 1, places it."""
        return fraction * min(self.most_s, self.first_s * 2.0 ** min(failures, 30))


class DatastoreWatch:
    """Hands every change between `start` and `end` (exclusive) to `sink`, in order, through every failure of etcd.

    See `Merge` for what the items promise. `sink` must not wait. For health: `is_connected`, `last_heard_at`
    (monotonic seconds of the last word from etcd, 0 before it), `failure`, and how often it resynced and connected.
    """

    def __init__(
        self,
        client: EtcdClient,
        start: str,
        end: str,
        sink: Callable[[StreamItem], None],
        pace: WatchPace | None = None,
    ) -> None:
        self.is_connected = False
        self.last_heard_at = 0.0
        self.resyncs = 0
        self.connects = 0
        self._client = client
        self._range = (start, end)
        self._sink = sink
        self._pace = pace or WatchPace()
        self._merge = Merge()
        self._outage = Outage()
        self._restarts = 0  # snapshots in a row that no working watch followed

    @property
    def keys_count(self) -> int:
        """How many keys are in the range, as far as was delivered."""
        return self._merge.keys_count

    @property
    def failure(self) -> str:
        """Why nothing can be heard of etcd at present; empty when all is well."""
        return "" if self.is_connected else self._outage.failure

    async def run(self) -> NoReturn:
        """Follows the range until cancelled. Raises only what is a bug."""
        self._hand_on(self._merge.expect_snapshot("start"))
        while True:
            try:
                if self._merge.needs_snapshot:
                    await self._read_snapshot()
                await self._follow()
            except ResyncRequired as error:
                self._note_failure(error)
                self._hand_on(self._merge.expect_snapshot(str(error)))
                # etcd answers again, so how long it was away says nothing; how often it made us start over does
                failures = self._restarts = self._restarts + 1
            except PeerError as error:
                self._note_failure(error)
                failures = self._outage.count
                if self._merge.needs_snapshot:  # half a snapshot at an older revision is of no use
                    self._hand_on(self._merge.expect_snapshot(str(error)))
            await asyncio.sleep(self._pace.delay_s(failures, random.random()))

    async def _read_snapshot(self) -> None:
        """The merge has a whole snapshot at one revision."""
        async for page in self._client.pages(*self._range, page_keys=self._pace.page_keys):
            self.last_heard_at = monotonic_s()
            self._hand_on(self._merge.on_page(page))
        self.resyncs += 1

    async def _follow(self) -> NoReturn:
        """Hands on changes from where the merge is until the watch ends, and raises why it did."""
        async with self._client.watch(*self._range, self._merge.resume_revision) as stream:
            header = stream.header
            if header.revision + 1 < self._merge.resume_revision:
                # a member that lags, or a store that went back in time: etcd would wait in silence for either
                header = await self._client.get_header(self._range[0])
            self._merge.check_store(header)
            self._note_connected()
            while True:
                await self._follow_once(stream)
                # not before: etcd creates a watch that it cannot serve, and then cancels it
                self._restarts = 0
                if ended := self._outage.note_well():
                    log.info("etcd watch is back after %d failures", ended)

    async def _follow_once(self, stream: WatchStream) -> None:
        batch = await stream.read(self._pace.probe_s)
        if batch is None:
            await stream.request_progress()
            batch = await stream.read(self._pace.probe_s)
        if batch is None:
            raise EtcdUnavailable(f"watch at {self._client.endpoint}: silent for {2 * self._pace.probe_s:g} s")
        self.last_heard_at = monotonic_s()
        self._hand_on(self._merge.on_batch(batch))

    def _hand_on(self, items: list[StreamItem]) -> None:
        for item in items:
            self._sink(item)

    def _note_connected(self) -> None:
        self.connects += 1
        self.is_connected = True
        self.last_heard_at = monotonic_s()

    def _note_failure(self, error: PeerError) -> None:
        self.is_connected = False
        if self._outage.note_failed(error, monotonic_s()):
            log.warning("etcd watch interrupted (failure %d in a row): %s", self._outage.count, error)
