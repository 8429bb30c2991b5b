"""When something is done again and again: at fixed beats that do not drift, and never twice at the same time."""

from __future__ import annotations

import asyncio
import math
from collections.abc import Awaitable, Callable

from felix.star.faults import BadInput

LONGEST_DEFAULT_TIMEOUT_S = 2.0


def next_beat(due_s: float, now_s: float, interval_s: float) -> float:
    """Returns the first beat after `now_s` of those that follow `due_s`; missed ones are not made up for."""
    return due_s + interval_s * max(1, math.ceil((now_s - due_s) / interval_s))


def pick_timeout(interval_s: float, timeout_s: float | None, option: str) -> float:
    """Returns how long one try may take: never longer than the interval, so that tries cannot pile up.

    timeout_s: what was asked for by `option`; None: the interval, at most two seconds. Raises BadInput.
    """
    if timeout_s is None:
        return min(interval_s, LONGEST_DEFAULT_TIMEOUT_S)
    if timeout_s > interval_s:
        raise BadInput(
            f"{option} {timeout_s:g} is longer than the interval of {interval_s:g} s; a shorter one is needed"
        )
    return timeout_s


async def keep_rhythm(act: Callable[[], Awaitable[None]], interval_s: float) -> None:
    """Calls `act` now and at every later beat, one call after the other; runs until cancelled."""
    loop = asyncio.get_running_loop()
    due = loop.time()
    while True:
        await act()
        due = next_beat(due, loop.time(), interval_s)
        await asyncio.sleep(due - loop.time())
