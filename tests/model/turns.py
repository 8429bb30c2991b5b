"""An event loop in which nothing happens by itself: whenever everybody waits, somebody else decides who goes on.

Time passes only when nobody can go on; threads are none: what is given to one is done at once. So a run is a function
of the decisions.
"""

from __future__ import annotations

import asyncio
import selectors
from collections.abc import Callable
from concurrent.futures import Future, ThreadPoolExecutor
from typing import Any


class InlineExecutor(ThreadPoolExecutor):
    """Does everything at once, in the thread that asks."""

    def submit(self, call: Callable[..., Any], /, *args: Any, **kwargs: Any) -> Future[Any]:
        future: Future[Any] = Future()
        try:
            future.set_result(call(*args, **kwargs))
        except Exception as error:
            future.set_exception(error)
        return future


class _Selector(selectors.DefaultSelector):
    """Asks `go_on` instead of waiting; when that says that nobody can, the time that would be waited passes."""

    def __init__(self) -> None:
        super().__init__()
        self.now = 1000.0
        self.go_on: Callable[[], bool] = lambda: False

    def select(self, timeout: float | None = None) -> list[tuple[selectors.SelectorKey, int]]:
        if (timeout is None or timeout > 0) and not self.go_on():
            assert timeout is not None, "everybody waits for ever"
            self.now += timeout
        return super().select(0)


class TurnLoop(asyncio.SelectorEventLoop):
    """The loop. go_on: called when everybody waits; lets somebody go on, or returns False: then time passes."""

    def __init__(self) -> None:
        self._turns = _Selector()
        super().__init__(self._turns)
        self.set_default_executor(InlineExecutor())

    def time(self) -> float:
        return self._turns.now

    def set_go_on(self, go_on: Callable[[], bool]) -> None:
        self._turns.go_on = go_on
