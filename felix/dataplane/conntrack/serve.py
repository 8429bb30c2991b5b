"""Ends what is tracked of addresses that changed hands: before the new owner is reachable, or later in peace. Shell."""

from __future__ import annotations

import asyncio
import contextlib
import logging
from collections.abc import Awaitable, Callable, Mapping

from felix.calc.desired import LocalEndpoint
from felix.clock import monotonic_s
from felix.dataplane.conntrack.plan import ConntrackPlan, ConntrackPlanned
from felix.dataplane.conntrack.types import ConntrackResult
from felix.model.keys import ResourceKey

log = logging.getLogger(__name__)

# A flush is a walk of the kernel through its whole table, 10 ms for one of the usual size without any entry.
_REST_PER_WALK = 9.0
_REST_MOST_S = 1.0


class ConnectionKeeper:
    """flush: removes what is planned, and says what became of it. on_flushed: told how many entries went.

    It is time for `flush_rest` again then: more addresses may have left meanwhile.
    """

    def __init__(
        self, flush: Callable[[ConntrackPlanned], Awaitable[ConntrackResult]], on_flushed: Callable[[int], None]
    ) -> None:
        self._flush = flush
        self._on_flushed = on_flushed
        self._plan = ConntrackPlan()
        self._task: asyncio.Task[None] | None = None
        self._rest_until = 0.0
        self._is_urgent = asyncio.Event()

    def on_delta(self, endpoints: Mapping[ResourceKey, LocalEndpoint | None]) -> None:
        """These endpoints are wanted from now on, or not any more (None)."""
        self._plan.on_delta(endpoints)

    async def flush_inherited(self) -> None:
        """No connection of a former owner is left for the addresses that have a new one; waits for it."""
        if not self._plan.has_inherited:
            return
        await self._finish()
        if planned := self._plan.plan_inherited():
            await self._flush_now(planned)

    def flush_rest(self) -> None:
        """Connections of addresses that left are being removed; nothing waits for it, a huge table takes seconds.

        Many that leave one after the other are removed together: nine tenths of the time are rest.
        """
        if self._task is not None:
            if not self._task.done():
                return
            self._task.result()  # whatever it raised is a bug, and ends the agent
            self._task = None
        if planned := self._plan.plan():
            self._task = asyncio.create_task(self._flush_rested(planned), name="conntrack")

    async def close(self) -> None:
        """What had begun has ended."""
        await self._finish()

    async def _finish(self) -> None:
        if self._task is not None:
            self._is_urgent.set()
            await asyncio.wait([self._task])
            self._is_urgent.clear()

    async def _flush_rested(self, planned: ConntrackPlanned) -> None:
        with contextlib.suppress(TimeoutError):
            async with asyncio.timeout(max(0.0, self._rest_until - monotonic_s())):
                await self._is_urgent.wait()
        await self._flush_now(planned)

    async def _flush_now(self, planned: ConntrackPlanned) -> None:
        started_at = monotonic_s()
        result = await self._flush(planned)
        now = monotonic_s()
        self._rest_until = now + min(_REST_MOST_S, _REST_PER_WALK * (now - started_at))
        self._plan.absorb(planned, result)
        if result.reason:
            log.warning("conntrack: %s; connections of %d former addresses may live on", result.reason, len(planned))
        self._on_flushed(result.removed_count)
