"""How long a watch waits before it tries again: by failures in a row, and anew once etcd answers."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager

import pytest

from felix.datastore.etcd import EtcdClient
from felix.datastore.faults import Compacted, EtcdUnavailable
from felix.datastore.read import WatchStream
from felix.datastore.types import InSync, RangePage, ResyncStarted, StreamItem
from felix.datastore.watch import DatastoreWatch, WatchPace


class ScriptedClient(EtcdClient):
    """An etcd whose snapshot is always empty, and whose watches fail one after another as told."""

    def __init__(self, faults: list[BaseException]) -> None:
        self._faults = faults

    async def pages(self, start: str, end: str, page_keys: int = 0, *, revision: int = 0) -> AsyncIterator[RangePage]:
        yield RangePage((), 10, more=False, cluster_id=1)

    @asynccontextmanager
    async def watch(self, start: str, end: str, revision: int) -> AsyncIterator[WatchStream]:
        if fault := self._faults.pop(0):
            raise fault
        yield WatchStream.__new__(WatchStream)


async def test_watch_that_must_start_over_waits_by_how_often_it_had_to_not_by_how_long_etcd_was_away() -> None:
    away, compacted = EtcdUnavailable("away"), Compacted("gone", 5)
    client = ScriptedClient([away, away, away, compacted, compacted, away, asyncio.CancelledError()])
    items: list[StreamItem] = []
    noted: list[int] = []

    class NotedPace(WatchPace):
        """Never waits, and notes what it was asked."""

        def delay_s(self, failures: int, fraction: float) -> float:
            noted.append(failures)
            return 0.0

    with pytest.raises(asyncio.CancelledError):
        await DatastoreWatch(client, "/a", "/b", items.append, NotedPace()).run()

    assert noted == [1, 2, 3, 1, 2, 6]
    assert [type(item) for item in items] == [ResyncStarted, InSync] * 3
