"""Ends what is tracked of addresses that changed hands: before the new owner is reachable, or later in peace. Shell."""

from __future__ import annotations

import asyncio
import logging
from collections.abc import Awaitable, Callable, Mapping

from felix.calc.desired import LocalEndpoint
from felix.dataplane.conntrack.plan import ConntrackPlan, ConntrackPlanned
from felix.dataplane.conntrack.types import ConntrackResult
from felix.model.keys import ResourceKey

log = logging.getLogger(__name__)


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

    def on_delta(self, endpoints: Mapping[ResourceKey, LocalEndpoint | None]) -> None:
        """These endpoints are wanted from now on, or not any more (None)."""
        self._plan.on_delta(endpoints)

    async def flush_inherited(self) -> None:
        """No connection of a former owner is left for the addresses that have a new one; waits for it."""
        if not self._plan.has_inherited:
            return
        if self._task is not None:
            await asyncio.wait([self._task])
        if planned := self._plan.plan_inherited():
            await self._flush_now(planned)

    def flush_rest(self) -> None:
        """Connections of addresses that left are being removed; nothing waits for it, a huge table takes seconds."""
        if self._task is not None:
            if not self._task.done():
                return
            self._task.result()  # whatever it raised is a bug, and ends the agent
            self._task = None
        if planned := self._plan.plan():
            self._task = asyncio.create_task(self._flush_now(planned), name="conntrack")

    async def close(self) -> None:
        """What had begun has ended."""
        if self._task is not None:
            await asyncio.wait([self._task])

    async def _flush_now(self, planned: ConntrackPlanned) -> None:
        result = await self._flush(planned)
        self._plan.absorb(planned, result)
        if result.reason:
            log.warning("conntrack: %s; connections of %d former addresses may live on", result.reason, len(planned))
        self._on_flushed(result.removed_count)
