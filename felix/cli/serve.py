"""What commands that serve until they are stopped have in common: the loop, and the guard of all its tasks."""

from __future__ import annotations

import asyncio
import logging
import sys
from collections.abc import Coroutine, Iterator

import uvloop

from felix.config.exits import ExitCode, exit_code
from felix.errors import FelixError


def run_server(work: Coroutine[None, None, None], on_bug: str) -> int:
    """Runs `work` to its end and returns the exit code; each error of Felix is one message on standard error.

    on_bug: what the log says of any other error; the supervisor starts the program anew.
    """
    code: int = ExitCode.OK
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


def _leaves(group: BaseExceptionGroup[FelixError]) -> Iterator[FelixError]:
    for one in group.exceptions:
        if isinstance(one, BaseExceptionGroup):
            yield from _leaves(one)
        else:
            yield one
