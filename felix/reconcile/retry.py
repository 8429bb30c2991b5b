"""When to try again what failed: per key, exponential, bounded, spread by jitter. Owner of all retry times."""

from __future__ import annotations

from collections.abc import Hashable
from dataclasses import dataclass
from typing import Generic, TypeVar

K = TypeVar("K", bound=Hashable)


@dataclass(frozen=True, slots=True)
class BackOff:
    """Seconds to wait after the n-th failure in a row: `first_s` doubled each time, never more than `most_s`."""

    first_s: float = 0.1
    most_s: float = 30.0

    def delay_s(self, failures: int, fraction: float) -> float:
        """Returns the wait after that many failures (≥ 1), between half of it and all of it as `fraction` is 0 to 1."""
        whole = min(self.most_s, self.first_s * 2.0 ** min(failures - 1, 30))
        return whole * (0.5 + 0.5 * fraction)


class RetryQueue(Generic[K]):
    """Which keys failed, how often in a row, and when each is due again."""

    __slots__ = ("_backoff", "_due_at", "_failures")

    def __init__(self, backoff: BackOff) -> None:
        self._backoff = backoff
        self._failures: dict[K, int] = {}
        self._due_at: dict[K, float] = {}

    def __len__(self) -> int:
        return len(self._due_at)

    def is_waiting(self, key: K) -> bool:
        """Whether `key` failed and is not due again yet, or due and not taken."""
        return key in self._due_at

    def note_failed(self, key: K, now: float, fraction: float) -> float:
        """`key` failed once more; returns in how many seconds it is due again. `fraction`: jitter, 0 to 1."""
        self._failures[key] = self._failures.get(key, 0) + 1
        delay_s = self._backoff.delay_s(self._failures[key], fraction)
        self._due_at[key] = now + delay_s
        return delay_s

    def note_done(self, key: K) -> None:
        """`key` succeeded or is no longer wanted; its failures are forgotten."""
        self._failures.pop(key, None)
        self._due_at.pop(key, None)

    def take_due(self, now: float) -> list[K]:
        """Returns the keys that are due, and takes them off the queue; their count of failures stays."""
        due = [key for key, at in self._due_at.items() if at <= now]
        for key in due:
            del self._due_at[key]
        return due

    def next_due_at(self) -> float | None:
        """Returns the time when the next key is due, or None when nothing waits."""
        return min(self._due_at.values(), default=None)
