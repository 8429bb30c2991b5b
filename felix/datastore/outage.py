"""How a peer's failures are told: the first at once, then one a minute, and the end of them."""

from __future__ import annotations

LOG_EVERY_S = 60.0


class Outage:
    """Failures in a row of one activity. `failure` is the text of the latest, empty when all is well."""

    __slots__ = ("_logged_at", "count", "failure")

    def __init__(self) -> None:
        self.count = 0
        self.failure = ""
        self._logged_at = -LOG_EVERY_S

    def note_failed(self, error: Exception, now: float) -> bool:
        """Returns whether this failure is worth a line in the log; at most one is within a minute."""
        self.count += 1
        self.failure = str(error)
        if now - self._logged_at < LOG_EVERY_S:
            return False
        self._logged_at = now
        return True

    def note_well(self) -> int:
        """Returns how many failures have ended, 0 if none."""
        ended, self.count, self.failure = self.count, 0, ""
        return ended
