"""A consumer of the datastore's stream for tests: keeps the state and everything it was told."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Callable
from contextlib import asynccontextmanager, suppress

from felix.datastore.etcd import EtcdClient
from felix.datastore.types import InSync, ResyncStarted, StreamItem, Update
from felix.datastore.watch import DatastoreWatch, WatchPace

QUICK = WatchPace(probe_s=0.3, first_s=0.02, most_s=0.2, page_keys=3)


class Recorder:
    """A sink that applies what it is given; `wait` until what it knows satisfies a condition."""

    def __init__(self) -> None:
        self.items: list[StreamItem] = []
        self.values: dict[str, bytes] = {}
        self._changed = asyncio.Event()

    def __call__(self, item: StreamItem) -> None:
        self.items.append(item)
        match item:
            case Update(key, None):
                del self.values[key]
            case Update(key, value) if value is not None:
                self.values[key] = value
        self._changed.set()

    @property
    def updates(self) -> list[Update]:
        return [item for item in self.items if isinstance(item, Update)]

    @property
    def in_syncs(self) -> int:
        return sum(isinstance(item, InSync) for item in self.items)

    @property
    def resyncs(self) -> int:
        return sum(isinstance(item, ResyncStarted) for item in self.items)

    async def wait(self, condition: Callable[[], object], timeout_s: float = 15.0) -> None:
        """Returns once `condition` holds, looking after every item. Raises TimeoutError with what was seen."""
        try:
            async with asyncio.timeout(timeout_s):
                while not condition():
                    self._changed.clear()
                    await self._changed.wait()
        except TimeoutError as error:
            raise TimeoutError(f"last items: {self.items[-5:]}") from error


async def until(condition: Callable[[], object], timeout_s: float = 15.0) -> None:
    """Returns once `condition` holds, looking again every few milliseconds. Raises TimeoutError."""
    async with asyncio.timeout(timeout_s):
        while True:
            if condition():
                return
            await asyncio.sleep(0.005)


@asynccontextmanager
async def following(client: EtcdClient, start: str, end: str) -> AsyncIterator[tuple[DatastoreWatch, Recorder]]:
    """Gives a watch that runs and has been in sync once, and what it hands on; stopped afterwards."""
    recorder = Recorder()
    watch = DatastoreWatch(client, start, end, recorder, QUICK)
    running = asyncio.create_task(watch.run())
    try:
        await until(lambda: (watch.is_connected and recorder.in_syncs == 1) or running.done())
        yield watch, recorder
    finally:
        running.cancel()
        with suppress(asyncio.CancelledError):
            await running
