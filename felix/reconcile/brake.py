"""Mass deletion is held: an emptied or replaced datastore looks like one in which everything was deleted on purpose.

Nobody can tell the two apart from what is stored, so a person has to. What an endpoint loses when it goes is harmless
if its interface has gone too; so only endpoints that still have one count.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import NamedTuple

TOLERATED_ENDPOINTS = 10
"""So many endpoints may always go at once, and up to half of all."""

_NAMED = 5


class Hold(NamedTuple):
    """A deletion that waits to be confirmed. leaving: interfaces, sorted, of the endpoints that would go.

    in_force: how many endpoints with an interface there are, those included.
    """

    leaving: tuple[str, ...]
    in_force: int

    def __str__(self) -> str:
        more = ", ..." if len(self.leaving) > _NAMED else ""
        names = ", ".join(self.leaving[:_NAMED])
        return f"{len(self.leaving)} of {self.in_force} endpoints would go at once ({names}{more})"


def find_hold(leaving: Sequence[str], in_force: int) -> Hold | None:
    """Returns why these endpoints must not go without a person's word, None if they may."""
    if len(leaving) <= TOLERATED_ENDPOINTS or 2 * len(leaving) <= in_force:
        return None
    return Hold(tuple(sorted(leaving)), in_force)
