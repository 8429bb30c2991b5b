"""The only place that asks what time it is. Everything else gets `now` as an argument or a `Clock`."""

from __future__ import annotations

import asyncio
import time
from collections.abc import Callable

Clock = Callable[[], float]
"""Returns seconds that never go back; the origin means nothing."""


def monotonic_s() -> float:
    """Returns seconds that never go back, of the same kind as the event loop's own time."""
    return time.monotonic()


def wall_s() -> float:
    """Returns seconds since 1970-01-01 UTC; for texts and status, never for durations."""
    return time.time()


async def sleep_s(seconds: float) -> None:
    """Waits for that many seconds; cancellable."""
    await asyncio.sleep(seconds)
