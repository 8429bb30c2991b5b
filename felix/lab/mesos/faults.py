"""Failures to order: what a simulated agent does wrong, and where. Used by tests; without orders nothing happens."""

from __future__ import annotations

from collections.abc import Mapping

from felix.errors import PeerError

STEPS = ("prepare", "fork", "isolate", "exec", "status", "cleanup")


class InjectedFailure(PeerError):
    """A step fails because a test wants it to."""


class AgentCrash(BaseException):
    """The agent is gone in the middle of a step: nothing is undone, as after SIGKILL."""


class Faults:
    """Which steps fail, how, and how often still. A step is checked before and after it is done."""

    def __init__(self, times_by_step: Mapping[str, int] | None = None, *, is_crash: bool = False) -> None:
        self._times_by_step = dict(times_by_step or {})
        self._is_crash = is_crash

    def check(self, step: str) -> None:
        """Returns unless that step, `fork` or `after-fork`, is to fail now."""
        left = self._times_by_step.get(step, 0)
        if left <= 0:
            return
        self._times_by_step[step] = left - 1
        if self._is_crash:
            raise AgentCrash(step)
        raise InjectedFailure(f"{step} fails because it was told to")
