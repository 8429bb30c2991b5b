"""A mapping whose changes are handed out once: what calculation concluded, against what it has told already."""

from __future__ import annotations

from collections.abc import Mapping
from types import MappingProxyType
from typing import Generic, TypeVar

K = TypeVar("K")
V = TypeVar("V")


class ChangeLog(Generic[K, V]):
    """Values by key as they are now, and the keys that differ from what was popped last. Values are never None."""

    __slots__ = ("_told_by_key", "_value_by_key")

    def __init__(self) -> None:
        self._value_by_key: dict[K, V] = {}
        self._told_by_key: dict[K, V | None] = {}  # what was told last, of touched keys only

    @property
    def values(self) -> Mapping[K, V]:
        """What is so now, by key; a live, read-only view."""
        return MappingProxyType(self._value_by_key)

    def find(self, key: K) -> V | None:
        """Returns the value of `key` as it is now, or None."""
        return self._value_by_key.get(key)

    def set(self, key: K, value: V | None) -> None:
        """`key` has `value` from now on; None: it has none."""
        before = self._value_by_key.get(key)
        if value == before:
            return
        self._told_by_key.setdefault(key, before)
        if value is None:
            del self._value_by_key[key]
        else:
            self._value_by_key[key] = value

    def find_leaving(self) -> list[V]:
        """Returns the values that were told and that the next `pop_changes` will tell as gone; costs what changed."""
        touched = self._told_by_key.items()
        return [before for key, before in touched if before is not None and key not in self._value_by_key]

    def pop_changes(self) -> dict[K, V | None]:
        """Returns the value, None if gone, of every key for which it differs from what was popped before."""
        told, self._told_by_key = self._told_by_key, {}
        now = self._value_by_key
        return {key: now.get(key) for key, before in told.items() if now.get(key) != before}

    def __len__(self) -> int:
        return len(self._value_by_key)
