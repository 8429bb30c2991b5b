"""All records that are served, each counted by how many owners want it.

An owner (a task, an agent, an endpoint) has its records as one tuple. Whoever changes one owner touches the names of
that owner and nothing else, however many others there are. A record that two owners have is there once, until both
are gone.
"""

from __future__ import annotations

from collections.abc import Hashable, Iterable, Iterator
from typing import NamedTuple


class Record(NamedTuple):
    """One record. rtype: A, AAAA, SRV, PTR. value: address in its usual text, or the name of the target. port: SRV."""

    name: str
    rtype: str
    value: str
    port: int = 0


class Datum(NamedTuple):
    """What a record says, without its name and type."""

    value: str
    port: int = 0


def address_record(name: str, address: str) -> Record:
    """Returns the A or AAAA record for an address in its usual text."""
    return Record(name, "AAAA" if ":" in address else "A", address)


class Zone:
    """Names, their records and owners. Attributes are for reading; `pop_changed` tells what to forget."""

    def __init__(self) -> None:
        self.records_count = 0
        self._counts_by_name: dict[str, dict[Record, int]] = {}
        self._below_count_by_name: dict[str, int] = {}
        self._records_by_owner: dict[Hashable, tuple[Record, ...]] = {}
        self._changed: set[str] = set()

    @property
    def names_count(self) -> int:
        """How many names have records."""
        return len(self._counts_by_name)

    def put(self, owner: Hashable, records: Iterable[Record]) -> bool:
        """`owner` has exactly these records, repeated ones once; returns whether that is new."""
        new = tuple(dict.fromkeys(records))
        old = self._records_by_owner.get(owner, ())
        if new == old:
            return False
        if new:
            self._records_by_owner[owner] = new
        else:
            del self._records_by_owner[owner]
        old_set = set(old)
        for record in new:
            if record in old_set:
                old_set.discard(record)
            else:
                self._add(record)
        for record in old:
            if record in old_set:
                self._remove(record)
        return True

    def get_records(self, owner: Hashable) -> tuple[Record, ...]:
        """Returns what `owner` has; empty when it is not known."""
        return self._records_by_owner.get(owner, ())

    def find(self, name: str, rtype: str) -> list[Datum]:
        """Returns the record set, in order of arrival; empty when there is none."""
        return [Datum(one.value, one.port) for one in self._counts_by_name.get(name, ()) if one.rtype == rtype]

    def find_types(self, name: str) -> list[str]:
        """Returns which types of records a name has; empty when it has none."""
        return list(dict.fromkeys(one.rtype for one in self._counts_by_name.get(name, ())))

    def has_name(self, name: str) -> bool:
        """Whether a name has records."""
        return name in self._counts_by_name

    def has_below(self, name: str) -> bool:
        """Whether some name with records ends with `.name`, so that `name` exists though it may have no records."""
        return name in self._below_count_by_name

    def iterate(self, origin: str = "") -> Iterator[Record]:
        """Yields all records, or those of `origin` and below, in no particular order."""
        for name, counts in self._counts_by_name.items():
            if not origin or name == origin or name.endswith("." + origin):
                yield from counts

    def pop_changed(self) -> set[str]:
        """Returns the names that answer otherwise than at the last call, among them parents that came to be or went."""
        changed, self._changed = self._changed, set()
        return changed

    def _add(self, record: Record) -> None:
        counts = self._counts_by_name.get(record.name)
        if counts is None:
            counts = self._counts_by_name[record.name] = {}
            self._count_below(record.name, 1)
        before = counts.get(record, 0)
        counts[record] = before + 1
        if not before:
            self.records_count += 1
            self._changed.add(record.name)

    def _remove(self, record: Record) -> None:
        counts = self._counts_by_name[record.name]
        counts[record] -= 1
        if counts[record]:
            return
        del counts[record]
        self.records_count -= 1
        self._changed.add(record.name)
        if not counts:
            del self._counts_by_name[record.name]
            self._count_below(record.name, -1)

    def _count_below(self, name: str, by: int) -> None:
        """All parents of `name` have that many names more below them."""
        at = name.find(".")
        while at >= 0:
            parent = name[at + 1 :]
            count = self._below_count_by_name.get(parent, 0) + by
            if count:
                self._below_count_by_name[parent] = count
            else:
                del self._below_count_by_name[parent]
            if count == 0 or (count == 1 and by == 1):
                self._changed.add(parent)
            at = name.find(".", at + 1)
