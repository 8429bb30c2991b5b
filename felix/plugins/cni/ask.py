"""Asking the agent on behalf of one call: within its deadline, and with CNI's codes for what goes wrong."""

from __future__ import annotations

import time

from felix.plugins.ask import NoAgent, Refused, ask
from felix.plugins.cni.refusal import DECODING_FAILURE, TRY_AGAIN_LATER, CniError, code_for

_FIRST_PAUSE_S = 0.02
_LONGEST_PAUSE_S = 0.5
_GRACE_S = 1.0  # how much longer we wait than the agent may take: it undoes what it began, and says so


class Unclear(CniError):
    """Nobody knows whether the agent did what it was asked for: it was asked, and went away."""


class Agent:
    """The agent, for one call. timeout_s: how long all questions of the call may take together.

    has_repeated: whether something had to be asked for again that the agent may have done at the first time.
    """

    __slots__ = ("_deadline", "_path", "has_repeated")

    def __init__(self, path: str, timeout_s: float) -> None:
        self.has_repeated = False
        self._path = path
        self._deadline = time.monotonic() + timeout_s

    @property
    def left_s(self) -> float:
        """How much of the time is left, 0 when none is."""
        return max(0.0, self._deadline - time.monotonic())

    def act(self, route: str, body: dict[str, object], *, is_repeatable: bool = True) -> dict[str, object]:
        """Returns what the agent answers to POST `route`; the agent is told how long it may take.

        Asks again while nobody answers and while the agent is not ready, until time is up; what is not repeatable,
        only as long as the agent cannot have begun it. Raises CniError; Unclear when the agent may have begun it and
        could not say how that ended.
        """
        pause_s, is_unclear = _FIRST_PAUSE_S, False
        while True:
            try:
                timed = {**body, "deadline_s": max(0.05, self.left_s)}
                return _object(ask(self._path, "POST", route, timed, self.left_s + _GRACE_S), route)
            except NoAgent as error:
                is_unclear = is_unclear or error.is_sent
                failure = (Unclear if is_unclear else CniError)(TRY_AGAIN_LATER, str(error))
            except Refused as error:
                failure = _failure(error)
                if error.code != "unavailable":
                    raise failure from error
                if is_unclear:
                    failure = Unclear(failure.code, str(failure))
            if self.left_s <= pause_s or (is_unclear and not is_repeatable):
                raise failure
            self.has_repeated = is_unclear
            time.sleep(pause_s)
            pause_s = min(2 * pause_s, _LONGEST_PAUSE_S)

    def look(self, route: str) -> dict[str, object]:
        """Returns what the agent answers to GET `route`, asked once. Raises CniError."""
        try:
            return _object(ask(self._path, "GET", route, None, max(0.05, self.left_s)), route)
        except NoAgent as error:
            raise CniError(TRY_AGAIN_LATER, str(error)) from error
        except Refused as error:
            raise _failure(error) from error


def _failure(refused: Refused) -> CniError:
    details = "\n".join(refused.differences)
    return CniError(code_for(refused.code), str(refused), details, refused.code)


def _object(answer: object, route: str) -> dict[str, object]:
    if not isinstance(answer, dict):
        raise CniError(DECODING_FAILURE, f"the agent's answer to {route} is no object: {str(answer)[:60]}")
    return answer
