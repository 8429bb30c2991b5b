"""What commands that serve until they are stopped have in common: the loop, and the guard of all its tasks."""

from __future__ import annotations

import asyncio
import ctypes
import logging
import sys
from collections.abc import Coroutine, Iterator

import uvloop

from felix.config.exits import ExitCode, exit_code
from felix.errors import FelixError

_M_TRIM_THRESHOLD, _M_ARENA_MAX = -1, -8  # of malloc.h
_TRIM_BYTES = 128 * 1024


def run_server(work: Coroutine[None, None, None], on_bug: str) -> int:
    """Runs `work` to its end and returns the exit code; each error of Felix is one message on standard error.

    on_bug: what the log says of any other error; the supervisor starts the program anew.
    """
    code: int = ExitCode.OK
    _bound_memory()
    try:
        with asyncio.Runner(loop_factory=uvloop.new_event_loop) as runner:
            runner.run(work)
    except* FelixError as group:
        failures = list(_leaves(group))
        for failure in failures:
            print(f"felix: {failure}", file=sys.stderr)
        code = exit_code(failures[0])
    except* Exception as group:  # the guard of all tasks: a bug in one ends the program
        logging.getLogger(__name__).critical("%s; please report this:", on_bug, exc_info=group)
        code = ExitCode.BUG
    return code


def _bound_memory() -> None:
    """What C libraries free goes back to the system, also what threads freed; a twelfth of the agent's memory."""
    mallopt = getattr(ctypes.CDLL(None), "mallopt", None)  # not every C library has it
    if mallopt is not None:
        mallopt(_M_ARENA_MAX, 1)
        mallopt(_M_TRIM_THRESHOLD, _TRIM_BYTES)


def _leaves(group: BaseExceptionGroup[FelixError]) -> Iterator[FelixError]:
    for one in group.exceptions:
        if isinstance(one, BaseExceptionGroup):
            yield from _leaves(one)
        else:
            yield one
