"""When to apply: the first change after quiet at once, a burst in few large batches."""

from __future__ import annotations


class Throttle:
    """A token bucket: each apply costs a token, tokens come back at a steady rate.

    With the bucket full, `burst` applies run back to back; after that one every `interval_s`, each taking along
    everything that gathered meanwhile.
    """

    __slots__ = ("_burst", "_filled_at", "_interval_s", "_tokens")

    def __init__(self, interval_s: float, burst: int, now: float) -> None:
        self._interval_s = interval_s
        self._burst = burst
        self._tokens = float(burst)
        self._filled_at = now

    def wait_s(self, now: float) -> float:
        """Returns how many seconds to wait before the next apply may start; 0 if it may start now."""
        self._refill(now)
        return max(0.0, (1.0 - self._tokens) * self._interval_s)

    def take(self, now: float) -> None:
        """An apply starts now; it is paid for even if nobody waited long enough."""
        self._refill(now)
        self._tokens -= 1.0

    def _refill(self, now: float) -> None:
        self._tokens = min(float(self._burst), self._tokens + (now - self._filled_at) / self._interval_s)
        self._filled_at = now
