"""What happens in a simulated cluster, told to any number of listeners; one that does not listen is left behind."""

from __future__ import annotations

import asyncio
from dataclasses import dataclass

from felix.lab.mesos.state import Document

BACKLOG_MOST = 1000
LISTENERS_MOST = 256


@dataclass(frozen=True, slots=True)
class Event:
    """One thing that happened: what Mesos' operators hear of it, and what Marathon's hear; either may be nothing."""

    mesos: Document
    marathon: Document


class Feed:
    """Hands events to listeners. A listener whose backlog is full gets None, its end, and no more."""

    def __init__(self) -> None:
        self._queues: set[asyncio.Queue[Event | None]] = set()
        self.is_closed = False

    def publish(self, *, mesos: Document | None = None, marathon: Document | None = None) -> None:
        """All listeners have it before them; nobody waits."""
        for queue in list(self._queues):
            if queue.qsize() >= BACKLOG_MOST:
                self._queues.discard(queue)
                queue.put_nowait(None)
            else:
                queue.put_nowait(Event(mesos or {}, marathon or {}))

    def listen(self) -> asyncio.Queue[Event | None] | None:
        """Returns a queue of what happens from now on; None when there are too many listeners, or it is closed."""
        if self.is_closed or len(self._queues) >= LISTENERS_MOST:
            return None
        queue: asyncio.Queue[Event | None] = asyncio.Queue()
        self._queues.add(queue)
        return queue

    def leave(self, queue: asyncio.Queue[Event | None]) -> None:
        """The listener hears nothing more; harmless when repeated."""
        self._queues.discard(queue)

    def close(self) -> None:
        """All listeners end."""
        self.is_closed = True
        for queue in self._queues:
            queue.put_nowait(None)
        self._queues.clear()
