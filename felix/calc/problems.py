"""What is wrong with the objects that calculation uses, as a state: changes are handed out once."""

from __future__ import annotations

from felix.errors import Problem
from felix.model.keys import Key


class ProblemBoard:
    """The problems of each key as they are now, and the keys for which they changed since they were last popped."""

    __slots__ = ("_problems_by_key", "_told_by_key")

    def __init__(self) -> None:
        self._problems_by_key: dict[Key, tuple[Problem, ...]] = {}
        self._told_by_key: dict[Key, tuple[Problem, ...]] = {}  # what was popped last, for changed keys only

    def set(self, key: Key, problems: tuple[Problem, ...]) -> None:
        """Exactly `problems` are wrong with `key` from now on; none clears it."""
        before = self._problems_by_key.get(key, ())
        if problems == before:
            return
        self._told_by_key.setdefault(key, before)
        if problems:
            self._problems_by_key[key] = problems
        else:
            del self._problems_by_key[key]

    def pop_changes(self) -> dict[Key, tuple[Problem, ...]]:
        """Returns the problems, possibly none, of every key for which they differ from what was returned before."""
        told, self._told_by_key = self._told_by_key, {}
        now = self._problems_by_key
        return {key: now.get(key, ()) for key, before in told.items() if now.get(key, ()) != before}

    def __len__(self) -> int:
        return len(self._problems_by_key)
