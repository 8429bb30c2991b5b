"""Who owns a thing that several claim: an interface name, an address. The lowest key wins, whatever came first."""

from __future__ import annotations

from bisect import insort
from collections.abc import Hashable, Iterable
from typing import Generic, TypeVar

from felix.model.keys import ResourceKey

T = TypeVar("T", bound=Hashable)


class Claims(Generic[T]):
    """Claims of keys on things; each claimed thing has one winner, the lowest key that claims it."""

    __slots__ = ("_claimants_by_thing", "_things_by_claimant")

    def __init__(self) -> None:
        self._claimants_by_thing: dict[T, list[ResourceKey]] = {}  # in order, never empty
        self._things_by_claimant: dict[ResourceKey, tuple[T, ...]] = {}

    def set_claims(self, claimant: ResourceKey, things: Iterable[T]) -> set[ResourceKey]:
        """`claimant` claims exactly `things` (may be none). Returns the others whose winner of a thing changed."""
        wanted = tuple(dict.fromkeys(things))
        before = self._things_by_claimant.get(claimant, ())
        if wanted:
            self._things_by_claimant[claimant] = wanted
        else:
            self._things_by_claimant.pop(claimant, None)
        touched: set[ResourceKey] = set()
        for thing in before:
            if thing not in wanted:
                touched.update(self._release(claimant, thing))
        for thing in wanted:
            if thing not in before:
                touched.update(self._claim(claimant, thing))
        return touched

    def find_winner(self, thing: T) -> ResourceKey | None:
        """Returns who owns `thing`, or None if nobody claims it."""
        claimants = self._claimants_by_thing.get(thing)
        return claimants[0] if claimants else None

    def __len__(self) -> int:
        return len(self._claimants_by_thing)

    def _claim(self, claimant: ResourceKey, thing: T) -> list[ResourceKey]:
        claimants = self._claimants_by_thing.setdefault(thing, [])
        insort(claimants, claimant)
        # Every loser names the winner in its report, so a new winner is news for all of them.
        return claimants[1:] if claimants[0] == claimant else []

    def _release(self, claimant: ResourceKey, thing: T) -> list[ResourceKey]:
        claimants = self._claimants_by_thing[thing]
        had_won = claimants[0] == claimant
        claimants.remove(claimant)
        if not claimants:
            del self._claimants_by_thing[thing]
        return list(claimants) if had_won else []
