"""Elements of sets and maps: desired minus believed for each, and which of them have something to do."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping

from felix.dataplane.nft.types import Element, ElementShape, SetChange
from felix.reconcile.delta import DeltaTracker


class MemberBook:
    """Elements by set. Cost follows the change: a set with nothing to do is not looked at."""

    def __init__(self) -> None:
        self._tracker_by_set: dict[str, DeltaTracker[bytes, str]] = {}
        self._shape_by_set: dict[str, ElementShape] = {}
        self._unsettled: dict[str, None] = {}

    def open_set(self, set_: str, shape: ElementShape) -> None:
        """Elements of `set_` are managed from now on; nothing happens if they were."""
        if set_ not in self._shape_by_set:
            self._shape_by_set[set_] = shape
            self._tracker(set_)
            self._note(set_)

    def close_set(self, set_: str) -> None:
        """No element of `set_` is wanted and none is removed one by one: the set itself is going."""
        if self._shape_by_set.pop(set_, None) is not None:
            self._tracker_by_set[set_].replace_desired({})
            self._unsettled.pop(set_, None)

    def has_set(self, set_: str) -> bool:
        """Whether the elements of `set_` are managed."""
        return set_ in self._shape_by_set

    def count(self, set_: str) -> int:
        """Returns how many elements of `set_` are wanted."""
        tracker = self._tracker_by_set.get(set_)
        return 0 if tracker is None else len(tracker.desired)

    def want(self, set_: str, key: bytes, chain: str = "") -> None:
        """`key` is wanted in the open set `set_`, and leads to `chain` if that is a map."""
        self._tracker_by_set[set_].set_desired(key, chain)
        self._note(set_)

    def drop(self, set_: str, key: bytes) -> None:
        """`key` is not wanted in the open set `set_`."""
        self._tracker_by_set[set_].drop_desired(key)
        self._note(set_)

    def is_wanted(self, set_: str, key: bytes) -> bool:
        """Whether `key` is wanted in `set_`, which need not exist."""
        tracker = self._tracker_by_set.get(set_)
        return tracker is not None and key in tracker.desired

    def desired(self, set_: str) -> frozenset[bytes]:
        """Returns the elements that are wanted in `set_`; for small ones."""
        tracker = self._tracker_by_set.get(set_)
        return frozenset() if tracker is None else frozenset(tracker.desired)

    def believed(self, set_: str) -> Iterable[bytes]:
        """Returns the elements that are believed to be in `set_`, which may be closed."""
        tracker = self._tracker_by_set.get(set_)
        return () if tracker is None else tracker.believed

    def is_there(self, set_: str, key: bytes) -> bool:
        """Whether `key` is wanted and believed to be there as wanted."""
        tracker = self._tracker_by_set[set_]
        return key in tracker.desired and tracker.believed.get(key) == tracker.desired[key]

    def is_believed(self, set_: str, key: bytes) -> bool:
        """Whether `key` is believed to be there, wanted or not."""
        return key in self._tracker_by_set[set_].believed

    def replace_believed(self, elements_by_set: Mapping[str, Mapping[bytes, str]]) -> None:
        """Exactly these elements were read."""
        for set_ in list(self._tracker_by_set):
            if set_ not in self._shape_by_set and set_ not in elements_by_set:
                del self._tracker_by_set[set_]
        for set_ in {*self._tracker_by_set, *elements_by_set}:
            self._tracker(set_).replace_believed(elements_by_set.get(set_, {}).items())
            self._note(set_)

    def note_set_gone(self, set_: str) -> None:
        """`set_` is not in the kernel any more, and none of its elements."""
        if set_ in self._shape_by_set:
            self._tracker_by_set[set_].replace_believed(())
            self._note(set_)
        else:
            self._tracker_by_set.pop(set_, None)

    def pending(self, sets: Iterable[str] | None = None) -> Iterator[SetChange]:
        """Yields what is to do: for all open sets, or for those given."""
        for set_ in [name for name in (self._unsettled if sets is None else sets) if name in self._unsettled]:
            tracker = self._tracker_by_set[set_]
            gone = [Element(key, tracker.believed[key]) for key in tracker.pending_deletes()]
            new = [Element(key, chain) for key, chain in tracker.pending_updates()]
            # A key of a map gets another chain by going and coming within one transaction.
            gone += [Element(key, tracker.believed[key]) for key, _ in new if key in tracker.believed]
            yield SetChange(set_, self._shape_by_set[set_], tuple(gone), tuple(new))

    def unsettled_sets(self) -> list[str]:
        """Returns the open sets that have something to do."""
        return list(self._unsettled)

    def note_done(self, change: SetChange) -> None:
        """The kernel has taken `change`."""
        tracker = self._tracker_by_set.get(change.set)
        if tracker is None:
            return
        for key, _ in change.removed:
            tracker.note_absent(key)
        for key, chain in change.added:
            tracker.note_present(key, chain)
        self._note(change.set)

    def _tracker(self, set_: str) -> DeltaTracker[bytes, str]:
        tracker = self._tracker_by_set.get(set_)
        if tracker is None:
            tracker = self._tracker_by_set[set_] = DeltaTracker()
        return tracker

    def _note(self, set_: str) -> None:
        if set_ in self._shape_by_set and not self._tracker_by_set[set_].is_settled:
            self._unsettled[set_] = None
        else:
            self._unsettled.pop(set_, None)
