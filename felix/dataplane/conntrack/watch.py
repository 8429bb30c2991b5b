"""Ends open connections that policy no longer allows, soon after the kernel has ceased to allow new ones. Shell."""

from __future__ import annotations

import asyncio
import logging
import random
from collections.abc import Awaitable, Callable, Collection, Container, Iterable, Iterator, Mapping, Sequence
from typing import Protocol

from felix.calc.desired import DesiredDelta, LocalEndpoint, LocalHostEndpoint
from felix.clock import monotonic_s
from felix.dataplane.conntrack.revoke import RevocationPlan
from felix.dataplane.conntrack.types import ConntrackResult, FlowsRead, OpenFlow
from felix.model.keys import ResourceKey
from felix.model.net import Net
from felix.policy.packet import TCP, Packet, Way
from felix.reconcile.retry import BackOff

log = logging.getLogger(__name__)

_INTERVAL_S = 0.2  # between two looks at the least, and never more than half of the time
_SLICE_FLOWS = 200  # judged before the loop breathes
_SLICE_WAYS = 200  # asked for at once, by the thread that also writes routes
_PART_FLOWS = 20_000  # lie in memory at once
_BACKOFF = BackOff(first_s=0.5, most_s=30.0)


class FlowPort(Protocol):
    """What revoking needs of a kernel; no call raises."""

    async def find_flows(self, addresses: Collection[Net]) -> FlowsRead:
        """See `conntrack.apply.find_flows`."""

    async def remove_flows(self, flows: Sequence[OpenFlow]) -> ConntrackResult:
        """See `conntrack.apply.remove_flows`."""

    async def find_part(self, part: int, parts: int) -> FlowsRead:
        """See `conntrack.apply.find_part`."""

    async def count_flows(self) -> int:
        """See `conntrack.apply.count_flows`."""

    async def find_ways(self, addresses: Collection[Net]) -> Mapping[Net, Way]:
        """Returns how the host sends to each of the addresses; those to which it cannot are left out."""


class Judge(Protocol):
    """What policy says about first packets. first: a packet before a translation of its destination."""

    def is_certain(self, packet: Packet, first: Packet | None = None) -> bool:
        """Whether it passes, whichever interfaces lead to its two ends, and whosever they are."""

    def is_allowed(self, packet: Packet, ways: Mapping[Net, Way] = ..., first: Packet | None = None) -> bool:
        """Whether it passes with these ways to its two ends."""


class Revoker:
    """Looks at connections of whom a change concerned, and removes those that `judge` denies.

    judge: asked with the first packet of a flow. allows_spoofing: whether endpoints use other sources than their own.
    cut: packets as these do not take up TCP connections any more when it returns, or the agent is about to end.
    on_removed: told how many entries went.
    """

    def __init__(
        self,
        kernel: FlowPort,
        judge: Judge,
        cut: Callable[[Sequence[Packet]], Awaitable[None]],
        on_removed: Callable[[int], None],
        *,
        allows_spoofing: bool = False,
    ) -> None:
        self._kernel = kernel
        self._verdicts = judge
        self._cut = cut
        self._on_removed = on_removed
        self._plan = RevocationPlan(allows_spoofing=allows_spoofing)
        self._task: asyncio.Task[None] | None = None
        self._failures = 0
        self._rest_until = 0.0
        self._is_closing = asyncio.Event()

    def on_delta(self, delta: DesiredDelta, served: Mapping[ResourceKey, LocalEndpoint | None]) -> None:
        """Desired state changes; of its endpoints only those in `served` with a value are connected."""
        self._plan.on_delta(delta, served)

    def on_hosts(self, endpoint_by_interface: Mapping[str, LocalHostEndpoint | None]) -> None:
        """These interfaces have these host endpoints from now on, or none."""
        self._plan.on_hosts(endpoint_by_interface)

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
            reason = await self._look_at(addresses)
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

    async def _look_at(self, addresses: frozenset[Net] | None) -> str:
        """Connections of `addresses` (None: all) that are not allowed are gone; returns why not, or nothing."""
        if addresses is not None:
            return await self._judge(await self._kernel.find_flows(addresses)) if addresses else ""
        parts = 1 + await self._kernel.count_flows() // _PART_FLOWS
        for part in range(parts):
            reason = await self._judge(await self._kernel.find_part(part, parts))
            if reason or self._is_closing.is_set():
                return reason
        return ""

    async def _judge(self, read: FlowsRead) -> str:
        """Those of the connections that are not allowed are gone; returns why not, or nothing."""
        suspects = []
        for number, flow in enumerate(read.flows, 1):
            if not self._verdicts.is_certain(flow.packet, flow.first):
                suspects.append(flow)
            if number % _SLICE_FLOWS == 0:
                await asyncio.sleep(0)
        if not suspects:
            return read.reason
        ways = await self._find_ways(suspects)
        denied = []
        for number, flow in enumerate(suspects, 1):
            if not self._verdicts.is_allowed(flow.packet, ways, flow.first):
                denied.append(flow)
            if number % _SLICE_FLOWS == 0:
                await asyncio.sleep(0)
        if not denied:
            return read.reason
        answers = [flow.answer for flow in denied if flow.answer.protocol == TCP]
        ways.update(await self._find_ways(denied, of_answers=True, known=ways))
        if returning := [answer for answer in answers if self._verdicts.is_allowed(answer, ways)]:
            await self._cut(returning)  # first: the next segment may come at once
        result = await self._kernel.remove_flows(denied)
        log.info("%d open connections are no longer allowed: %d are cut", len(denied), result.removed_count)
        self._on_removed(result.removed_count)
        return read.reason or result.reason

    async def _find_ways(
        self, flows: Iterable[OpenFlow], *, of_answers: bool = False, known: Container[Net] = ()
    ) -> dict[Net, Way]:
        packets = [flow.answer if of_answers else flow.packet for flow in flows]
        ends = dict.fromkeys(net for packet in packets for net in (packet.source_net, packet.destination_net))
        ways: dict[Net, Way] = {}
        for some in _batched([net for net in ends if net not in known], _SLICE_WAYS):
            ways.update(await self._kernel.find_ways(some))
        return ways


def _batched(nets: Sequence[Net], size: int) -> Iterator[Sequence[Net]]:
    """Yields the nets in order, `size` at once."""
    for start in range(0, len(nets), size):
        yield nets[start : start + size]
