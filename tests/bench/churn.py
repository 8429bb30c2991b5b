"""Endpoints that come and go all the time: how long each takes while so many others do, and what the agent uses."""

from __future__ import annotations

import asyncio
import time
from collections import deque
from collections.abc import Sequence
from dataclasses import dataclass, field

from tests.bench import world
from tests.bench.arena import Arena
from tests.bench.figures import Figure, quantile, summarize
from tests.bench.observer import Observer, signs_of_endpoint, signs_of_removal

PER_SECOND = 150
_LIFE_S = 0.4
_SEEN_WITHIN_S = 20.0


@dataclass(slots=True)
class _Churn:
    """A run. free: numbers of interfaces that have no endpoint. creations, deletions: seconds from write to kernel."""

    arena: Arena
    observer: Observer
    free: deque[int]
    creations: list[float] = field(default_factory=list)
    deletions: list[float] = field(default_factory=list)

    async def live(self) -> None:
        """An endpoint has come, been there for a while, and is gone."""
        number = self.free.popleft()
        one = world.local_endpoint(number)
        client = self.arena.client
        seen = self.observer.expect(signs_of_endpoint(one.interface, one.address))
        began_at = time.perf_counter()
        await client.put(one.key, one.value)
        self.creations.append(await self._wait(seen) - began_at)
        await asyncio.sleep(_LIFE_S)
        gone = self.observer.expect(signs_of_removal(one.interface, one.address))
        began_at = time.perf_counter()
        await client.delete(one.key)
        self.deletions.append(await self._wait(gone) - began_at)
        self.free.append(number)

    async def _wait(self, moment: asyncio.Future[float]) -> float:
        try:
            async with asyncio.timeout(_SEEN_WITHIN_S):
                return await moment
        except TimeoutError as error:
            raise AssertionError(f"never announced; {self.arena.read_log()}") from error


async def run(arena: Arena, numbers: Sequence[int], seconds: float) -> list[Figure]:
    """Returns p50 and p99 of creations and deletions together, and the share of one processor that the agent used.

    numbers: of interfaces without endpoint; if there are fewer than come within a second, fewer come.
    """
    assert arena.agent is not None
    rate = min(PER_SECOND, len(numbers))
    loop = asyncio.get_running_loop()
    with Observer() as observer:
        churn = _Churn(arena, observer, deque(numbers))
        cpu_s, began_at = arena.agent.cpu_s, loop.time()
        async with asyncio.TaskGroup() as group:
            for count in range(int(seconds * rate)):
                await asyncio.sleep(max(0.0, began_at + count / rate - loop.time()))
                group.create_task(churn.live())
        elapsed_s = loop.time() - began_at
        used = (arena.agent.cpu_s - cpu_s) / elapsed_s
    both = [*churn.creations, *churn.deletions]
    name = f"{rate} creates and {rate} deletes a second for {seconds:g} s"
    detail = {
        **summarize(churn.creations, "create_"),
        **summarize(churn.deletions, "delete_"),
        "per_second": len(both) / elapsed_s,
    }
    return [
        Figure("churn", f"{name}, p50", "ms", 1000 * quantile(both, 0.5), None, None, "", detail),
        Figure("churn", "the same, p99", "ms", 1000 * quantile(both, 0.99), 100.0),
        Figure("churn", "the same, processors that the agent used", "", used, 1.0),
    ]
