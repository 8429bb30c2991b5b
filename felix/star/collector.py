"""The resources of a collector, what they answered last, and the matrix that follows from both."""

from __future__ import annotations

import asyncio
import logging
from collections.abc import Awaitable, Callable
from functools import partial

import msgspec

from felix.star.faults import BadInput
from felix.star.feed import Feed
from felix.star.matrix import Response, draw_matrix
from felix.star.resources import RESOURCES_MOST, Resource
from felix.star.rhythm import keep_rhythm

log = logging.getLogger(__name__)

_DRAWING_SHARE = 0.1
_GAP_S = 0.05

Fetch = Callable[[str], Awaitable[Response | None]]
"""Asks a URL once; None when no JSON came."""


class Collector:
    """Asks each resource again and again; at most one question to each is under way. Its `feed` has the matrix."""

    def __init__(self, fetch: Fetch, interval_s: float) -> None:
        self.feed = Feed()
        self.response_by_id: dict[str, Response | None] = {}
        self._fetch = fetch
        self._interval_s = interval_s
        self._resource_by_id: dict[str, Resource] = {}
        self._asking_by_id: dict[str, asyncio.Task[None]] = {}
        self._tasks: asyncio.TaskGroup | None = None
        self._is_changed = asyncio.Event()
        self._draw()

    @property
    def resources(self) -> list[Resource]:
        """All resources, in the order in which their ids came first."""
        return list(self._resource_by_id.values())

    def find(self, resource_id: str) -> Resource | None:
        """Returns the resource of that id."""
        return self._resource_by_id.get(resource_id)

    def put(self, resource: Resource) -> None:
        """The resource is asked from now on; one of the same id is replaced. Raises BadInput if there are too many."""
        known = self._resource_by_id.get(resource.id)
        if known is None and len(self._resource_by_id) >= RESOURCES_MOST:
            raise BadInput(f"there are {RESOURCES_MOST} resources already; remove one first")
        self._resource_by_id[resource.id] = resource
        if known is None or known.url != resource.url:
            self._forget(resource.id)
            self._start(resource)
        self._is_changed.set()

    def remove(self, resource_id: str) -> bool:
        """The resource is asked no longer, and its answer is gone; returns whether there was one."""
        if self._resource_by_id.pop(resource_id, None) is None:
            return False
        self._forget(resource_id)
        self._is_changed.set()
        return True

    async def run(self) -> None:
        """Asks all resources until cancelled, and publishes the matrix whenever it has changed."""
        try:
            async with asyncio.TaskGroup() as tasks:
                self._tasks = tasks
                for resource in self.resources:
                    self._start(resource)
                await self._keep_drawing()
        finally:
            self._tasks = None

    def _start(self, resource: Resource) -> None:
        if self._tasks is not None:
            rhythm = keep_rhythm(partial(self._ask, resource), self._interval_s)
            self._asking_by_id[resource.id] = self._tasks.create_task(rhythm)

    def _forget(self, resource_id: str) -> None:
        asking = self._asking_by_id.pop(resource_id, None)
        if asking is not None:
            asking.cancel()
        self.response_by_id.pop(resource_id, None)

    async def _ask(self, resource: Resource) -> None:
        response = await self._fetch(resource.url)
        is_first = resource.id not in self.response_by_id
        before = self.response_by_id.get(resource.id)
        if is_first or (before is None) != (response is None):
            log.info("%s %s: %s", resource.id, resource.url, "no answer" if response is None else "answers")
        if is_first or before != response:
            self.response_by_id[resource.id] = response
            self._is_changed.set()

    async def _keep_drawing(self) -> None:
        """Draws after each change; many changes at once, or a matrix that takes long to draw, are drawn less often."""
        loop = asyncio.get_running_loop()
        while True:
            await self._is_changed.wait()
            self._is_changed.clear()
            started = loop.time()
            self._draw()
            await asyncio.sleep(max(_GAP_S, (loop.time() - started) / _DRAWING_SHARE))

    def _draw(self) -> None:
        matrix = draw_matrix(self.resources, self.response_by_id)
        if self.feed.publish(msgspec.json.encode(matrix)):
            summary = matrix.summary
            log.debug("reachable %d, blocked %d, wrong %d", summary.reachable, summary.blocked, summary.wrong)
