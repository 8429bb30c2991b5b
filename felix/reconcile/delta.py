"""Desired minus believed: the one data structure behind every reconciler of Felix.

It knows nothing of kernels. Its owner says what is wanted, what was read, and what was done; it answers what is left
to do. Every question costs what its answer costs, never what is tracked in total.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping
from types import MappingProxyType
from typing import Generic, TypeVar

K = TypeVar("K")
V = TypeVar("V")


class DeltaTracker(Generic[K, V]):
    """Desired and believed state of one kind of object, and the difference between them.

    An update is pending for a key whose desired value is not believed to be there; a delete is pending for a key
    that is believed to be there and not desired. Values are compared with `==`.
    """

    __slots__ = ("_believed", "_deletes", "_desired", "_updates")

    def __init__(self) -> None:
        self._desired: dict[K, V] = {}
        self._believed: dict[K, V] = {}
        self._updates: dict[K, None] = {}  # dictionaries, not sets: they keep the order of arrival
        self._deletes: dict[K, None] = {}

    @property
    def desired(self) -> Mapping[K, V]:
        """What is wanted, by key; a live, read-only view."""
        return MappingProxyType(self._desired)

    @property
    def believed(self) -> Mapping[K, V]:
        """What is thought to be there, by key; a live, read-only view."""
        return MappingProxyType(self._believed)

    def set_desired(self, key: K, value: V) -> None:
        """`key` is wanted with `value` from now on."""
        self._desired[key] = value
        self._settle(key)

    def drop_desired(self, key: K) -> None:
        """`key` is not wanted from now on; nothing happens if it was not."""
        self._desired.pop(key, None)
        self._settle(key)

    def replace_desired(self, desired: Mapping[K, V]) -> None:
        """Exactly `desired` is wanted from now on. Costs the size of both; not for change paths."""
        for key in [key for key in self._desired if key not in desired]:
            self.drop_desired(key)
        for key, value in desired.items():
            self.set_desired(key, value)

    def note_present(self, key: K, value: V) -> None:
        """`key` was written or seen with `value`."""
        self._believed[key] = value
        self._settle(key)

    def note_absent(self, key: K) -> None:
        """`key` was removed, or seen to be missing."""
        self._believed.pop(key, None)
        self._settle(key)

    def replace_believed(self, believed: Iterable[tuple[K, V]]) -> None:
        """Exactly `believed` was read; everything else is believed to be missing. Costs the size of both."""
        self._believed = dict(believed)
        self._updates = {k: None for k, v in self._desired.items() if k not in self._believed or self._believed[k] != v}
        self._deletes = {k: None for k in self._believed if k not in self._desired}

    @property
    def updates_count(self) -> int:
        """How many updates are pending."""
        return len(self._updates)

    @property
    def deletes_count(self) -> int:
        """How many deletes are pending."""
        return len(self._deletes)

    @property
    def is_settled(self) -> bool:
        """Whether nothing is pending."""
        return not self._updates and not self._deletes

    def pending_updates(self) -> Iterator[tuple[K, V]]:
        """Yields key and wanted value of every pending update, oldest first; do not change the tracker meanwhile."""
        for key in self._updates:
            yield key, self._desired[key]

    def pending_deletes(self) -> Iterator[K]:
        """Yields the key of every pending delete, oldest first; do not change the tracker meanwhile."""
        yield from self._deletes

    def _settle(self, key: K) -> None:
        wanted, there = key in self._desired, key in self._believed
        if wanted and not (there and self._believed[key] == self._desired[key]):
            self._updates.setdefault(key)
        else:
            self._updates.pop(key, None)
        if there and not wanted:
            self._deletes.setdefault(key)
        else:
            self._deletes.pop(key, None)
