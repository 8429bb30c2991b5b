"""Ends open connections that policy no longer allows, soon after the kernel has ceased to allow new ones. Shell."""

from __future__ import annotations

import asyncio
import logging
import random
from collections.abc import Awaitable, Callable, Collection, Mapping, Sequence
from typing import Protocol

from felix.calc.desired import DesiredDelta, LocalEndpoint
from felix.clock import monotonic_s
from felix.dataplane.conntrack.revoke import RevocationPlan
from felix.dataplane.conntrack.types import ConntrackResult, FlowsRead, OpenFlow
from felix.model.keys import ResourceKey
from felix.model.net import Net
from felix.policy.packet import TCP, Packet
from felix.reconcile.retry import BackOff

log = logging.getLogger(__name__)

_INTERVAL_S = 0.2  # between two looks at the least, and never more than half of the time
_SLICE_FLOWS = 200  # judged before the loop breathes
_BACKOFF = BackOff(first_s=0.5, most_s=30.0)


class FlowPort(Protocol):
    """What revoking needs of a kernel; no call raises."""

    async def find_flows(self, addresses: Collection[Net]) -> FlowsRead:
        """See `conntrack.apply.find_flows`."""

    async def remove_flows(self, flows: Sequence[OpenFlow]) -> ConntrackResult:
        """See `conntrack.apply.remove_flows`."""

    async def find_own(self, addresses: Collection[Net]) -> frozenset[Net]:
        """Returns those of the addresses that are this host's itself."""


class Revoker:
    """Looks at connections of whom a change concerned, and removes those that `is_allowed` denies.

    is_allowed: asked with the first packet of a flow, and those of its addresses that are the host's own.
    cut: packets as these do not take up TCP connections any more when it returns, or the agent is about to end.
    on_removed: told how many entries went.
    """

    def __init__(
        self,
        kernel: FlowPort,
        is_allowed: Callable[[Packet, frozenset[Net]], bool],
        cut: Callable[[Sequence[Packet]], Awaitable[None]],
        on_removed: Callable[[int], None],
    ) -> None:
        self._kernel = kernel
        self._is_allowed = is_allowed
        self._cut = cut
        self._on_removed = on_removed
        self._plan = RevocationPlan()
        self._task: asyncio.Task[None] | None = None
        self._failures = 0
        self._rest_until = 0.0
        self._is_closing = asyncio.Event()

    def on_delta(self, delta: DesiredDelta, served: Mapping[ResourceKey, LocalEndpoint | None]) -> None:
        """Desired state changes; of its endpoints only those in `served` with a value are connected."""
        self._plan.on_delta(delta, served)

    def note_all(self) -> None:
        """The table was not what it should be for a while: anything may have been opened."""
        self._plan.note_all()

    def on_applied(self) -> None:
        """The kernel has everything that was told. What has to be judged is being judged; nothing waits for it."""
        self._plan.commit()
        if self._task is not None:
            if not self._task.done():
                return
            self._task.result()  # whatever it raised is a bug, and ends the agent
            self._task = None
        if self._plan.has_due:
            self._task = asyncio.create_task(self._work(), name="revocation")

    async def close(self) -> None:
        """What had begun has ended; what is still due stays undone."""
        self._is_closing.set()
        if self._task is not None:
            await asyncio.wait([self._task])

    async def _work(self) -> None:
        while self._plan.has_due and await self._rest():
            started_at = monotonic_s()
            addresses = self._plan.take()
            reason = await self._judge(addresses) if addresses else ""
            now = monotonic_s()
            self._rest_until = now + max(_INTERVAL_S, now - started_at)
            if reason:
                self._failures += 1
                self._rest_until = now + _BACKOFF.delay_s(self._failures, random.random())
                self._plan.put_back(addresses)
                log.warning("%s; connections that are no longer allowed may live on, looked at again", reason)
            else:
                self._failures = 0

    async def _rest(self) -> bool:
        """Returns after the pause that is due, False if the agent ends."""
        try:
            async with asyncio.timeout(max(0.0, self._rest_until - monotonic_s())):
                await self._is_closing.wait()
        except TimeoutError:
            return True
        return False

    async def _judge(self, addresses: frozenset[Net]) -> str:
        """Connections of `addresses` that are not allowed are gone; returns why not, or nothing."""
        read = await self._kernel.find_flows(addresses)
        suspects = []
        for number, flow in enumerate(read.flows, 1):
            if not self._is_allowed(flow.packet, frozenset()):
                suspects.append(flow)
            if number % _SLICE_FLOWS == 0:
                await asyncio.sleep(0)
        if not suspects:
            return read.reason
        ends = {net for flow in suspects for net in (flow.packet.source_net, flow.packet.destination_net)}
        own = await self._kernel.find_own(ends)
        denied = [flow for flow in suspects if not self._is_allowed(flow.packet, _find_ends(flow, own))]
        if not denied:
            return read.reason
        answers = [flow.answer for flow in denied if flow.answer.protocol == TCP]
        if returning := [answer for answer in answers if self._is_allowed(answer, own)]:
            await self._cut(returning)  # first: the next segment may come at once
        result = await self._kernel.remove_flows(denied)
        log.info("%d open connections are no longer allowed: %d are cut", len(denied), result.removed_count)
        self._on_removed(result.removed_count)
        return read.reason or result.reason


def _find_ends(flow: OpenFlow, own: frozenset[Net]) -> frozenset[Net]:
    return own & {flow.packet.source_net, flow.packet.destination_net} if own else own
