"""Which items match which selectors, kept up to date as items, parents and selectors come and go.

Items with equal effective labels share one label set, and every selector is evaluated once per label set. Both sides
are filed under labels and values, so that a new label set meets only selectors that could match it, and a new
selector only label sets that it could match. Whatever is added and removed again leaves nothing behind.
"""

from __future__ import annotations

from collections.abc import Collection, Hashable, Iterable, Iterator, Mapping, Sequence
from typing import Generic, NamedTuple, TypeVar

from felix.selector.parse import Selector

Item = TypeVar("Item", bound=Hashable)
Value = TypeVar("Value")
Member = TypeVar("Member", bound=Hashable)

_NO_LABELS: Mapping[str, str] = {}


class _LabelSet(Generic[Item]):
    """One set of effective labels: the items that have it now (never none) and the selectors that match it."""

    __slots__ = ("items", "key", "labels", "selectors")

    def __init__(self, key: frozenset[tuple[str, str]]) -> None:
        self.key = key
        self.labels = dict(key)
        self.items: dict[Item, None] = {}  # dictionaries, not sets: they keep the order of arrival
        self.selectors: dict[str, None] = {}


class _Entry(NamedTuple, Generic[Item]):
    """One item as it was set, and the label set it has at present."""

    labels: dict[str, str]
    parents: tuple[str, ...]
    label_set: _LabelSet[Item]


class _Filing(NamedTuple):
    """Where a selector is filed: under one label, with the values it may have (None: any). No label: everywhere."""

    label: str | None
    values: frozenset[str] | None


class _Filed(NamedTuple, Generic[Item]):
    """One selector, where it is filed, and the label sets that it matches."""

    selector: Selector
    filing: _Filing
    label_sets: dict[_LabelSet[Item], None]


class LabelIndex(Generic[Item]):
    """Items with labels and ordered parents, selectors, and the changes of who matches what.

    Effective labels are those of the parents in order, a later one overriding an earlier one, then the item's own
    over all. A parent that is not known contributes nothing and may become known later.
    """

    def __init__(self) -> None:
        self._entry_by_item: dict[Item, _Entry[Item]] = {}
        self._labels_by_parent: dict[str, dict[str, str]] = {}
        self._items_by_parent: dict[str, dict[Item, None]] = {}
        self._set_by_key: dict[frozenset[tuple[str, str]], _LabelSet[Item]] = {}
        self._sets_by_value_by_label: dict[str, dict[str, dict[_LabelSet[Item], None]]] = {}
        self._filed_by_id: dict[str, _Filed[Item]] = {}
        self._ids_by_value_by_label: dict[str, dict[str | None, dict[str, None]]] = {}
        self._ids_everywhere: dict[str, None] = {}
        self._pending: dict[tuple[str, Item], bool] = {}

    def __len__(self) -> int:
        return len(self._entry_by_item)

    @property
    def label_sets_count(self) -> int:
        """How many distinct label sets the items have."""
        return len(self._set_by_key)

    def set_item(self, item: Item, labels: Mapping[str, str], parents: Sequence[str] = ()) -> None:
        """`item` has exactly these own labels and these parents, in this order."""
        entry = self._entry_by_item.get(item)
        now = tuple(parents)
        if entry is not None and entry.labels == labels and entry.parents == now:
            return
        if entry is None or entry.parents != now:
            for parent in dict.fromkeys(entry.parents) if entry else ():
                if parent not in now:
                    self._leave_parent(parent, item)
            for parent in now:
                self._items_by_parent.setdefault(parent, {})[item] = None
        self._place(item, dict(labels), now)

    def drop_item(self, item: Item) -> None:
        """`item` is not there, and matches nothing; nothing happens if it was not."""
        entry = self._entry_by_item.pop(item, None)
        if entry is None:
            return
        for parent in dict.fromkeys(entry.parents):
            self._leave_parent(parent, item)
        for selector_id in entry.label_set.selectors:
            self._note(selector_id, item, started=False)
        self._leave_label_set(entry.label_set, item)

    def set_parent_labels(self, parent: str, labels: Mapping[str, str]) -> None:
        """Items with this parent inherit exactly `labels` from it."""
        if self._labels_by_parent.get(parent, _NO_LABELS) == labels:
            return
        if labels:
            self._labels_by_parent[parent] = dict(labels)
        else:
            self._labels_by_parent.pop(parent, None)
        for item in self._items_by_parent.get(parent, {}):
            entry = self._entry_by_item[item]
            self._place(item, entry.labels, entry.parents)

    def drop_parent(self, parent: str) -> None:
        """Items with this parent inherit nothing from it; they still name it."""
        self.set_parent_labels(parent, {})

    def add_selector(self, selector: Selector) -> None:
        """`selector` is watched. Adding it again changes nothing: one `drop_selector` ends it."""
        if selector.id in self._filed_by_id:
            return
        filed: _Filed[Item] = _Filed(selector, self._choose_filing(selector), {})
        self._filed_by_id[selector.id] = filed
        self._file(selector.id, filed.filing)
        for label_set in self._find_label_sets(filed.filing):
            if selector.matches(label_set.labels):
                label_set.selectors[selector.id] = None
                filed.label_sets[label_set] = None
                for item in label_set.items:
                    self._note(selector.id, item, started=True)

    def drop_selector(self, selector_id: str) -> None:
        """The selector is not watched and no item matches it; nothing happens if it was not."""
        filed = self._filed_by_id.pop(selector_id, None)
        if filed is None:
            return
        self._unfile(selector_id, filed.filing)
        for label_set in filed.label_sets:
            del label_set.selectors[selector_id]
            for item in label_set.items:
                self._note(selector_id, item, started=False)

    def pop_changes(self) -> list[tuple[str, Item, bool]]:
        """Returns (selector id, item, whether it began to match) for what is not as it was at the last call.

        At most one entry per pair; a match that began and ended in between is not told, nor one that ended and began.
        """
        changes = [(selector_id, item, started) for (selector_id, item), started in self._pending.items()]
        self._pending.clear()
        return changes

    def effective_labels(self, item: Item) -> Mapping[str, str]:
        """Returns the labels of `item` with what it inherits; not to be changed. Raises KeyError if it is not there."""
        return self._entry_by_item[item].label_set.labels

    def items_matching(self, selector_id: str) -> Iterator[Item]:
        """Yields the items that match the selector now; none if it is not watched."""
        filed = self._filed_by_id.get(selector_id)
        for label_set in filed.label_sets if filed else ():
            yield from label_set.items

    def selectors_matching(self, item: Item) -> Collection[str]:
        """Returns the ids of the selectors that match `item` now; a live view, empty if the item is not there."""
        entry = self._entry_by_item.get(item)
        return entry.label_set.selectors.keys() if entry else ()

    def _note(self, selector_id: str, item: Item, *, started: bool) -> None:
        pair = (selector_id, item)
        if self._pending.pop(pair, started) is started:  # an opposite change that nobody has seen yet cancels out
            self._pending[pair] = started

    def _place(self, item: Item, labels: dict[str, str], parents: tuple[str, ...]) -> None:
        label_set = self._get_label_set(self._merge(labels, parents))
        before = self._entry_by_item.get(item)
        self._entry_by_item[item] = _Entry(labels, parents, label_set)
        if before is not None and before.label_set is label_set:
            return
        label_set.items[item] = None
        old = before.label_set.selectors if before else {}
        for selector_id in old:
            if selector_id not in label_set.selectors:
                self._note(selector_id, item, started=False)
        for selector_id in label_set.selectors:
            if selector_id not in old:
                self._note(selector_id, item, started=True)
        if before is not None:
            self._leave_label_set(before.label_set, item)

    def _merge(self, labels: dict[str, str], parents: tuple[str, ...]) -> Mapping[str, str]:
        inherited = [known for parent in parents if (known := self._labels_by_parent.get(parent))]
        if not inherited:
            return labels
        merged: dict[str, str] = {}
        for part in (*inherited, labels):
            merged.update(part)
        return merged

    def _leave_parent(self, parent: str, item: Item) -> None:
        items = self._items_by_parent[parent]
        del items[item]
        if not items:
            del self._items_by_parent[parent]

    def _get_label_set(self, labels: Mapping[str, str]) -> _LabelSet[Item]:
        key = frozenset(labels.items())
        label_set = self._set_by_key.get(key)
        if label_set is None:
            label_set = self._set_by_key[key] = _LabelSet(key)
            self._meet_selectors(label_set)
        return label_set

    def _meet_selectors(self, label_set: _LabelSet[Item]) -> None:
        for label, value in label_set.labels.items():
            self._sets_by_value_by_label.setdefault(label, {}).setdefault(value, {})[label_set] = None
        for selector_id in self._find_selector_ids(label_set):
            filed = self._filed_by_id[selector_id]
            if filed.selector.matches(label_set.labels):
                label_set.selectors[selector_id] = None
                filed.label_sets[label_set] = None

    def _leave_label_set(self, label_set: _LabelSet[Item], item: Item) -> None:
        del label_set.items[item]
        if label_set.items:
            return
        del self._set_by_key[label_set.key]
        for selector_id in label_set.selectors:
            del self._filed_by_id[selector_id].label_sets[label_set]
        for label, value in label_set.labels.items():
            _discard(self._sets_by_value_by_label, label, value, label_set)

    def _choose_filing(self, selector: Selector) -> _Filing:
        """The restriction that the fewest label sets of today satisfy; it stays chosen, so that removal finds it."""
        if selector.is_impossible:
            return _Filing("", frozenset())
        best, best_cost = _Filing(None, None), (len(self._set_by_key) + 1, 0, False, "")
        for label, values in selector.restrictions.items():
            filing = _Filing(label, values)
            # On a tie: values before mere presence, and a particular label before one that everything has.
            width = len(values) if values is not None else 1 << 30
            cost = (self._count_label_sets(filing), width, label.startswith("projectcalico.org/"), label)
            if cost < best_cost:
                best, best_cost = filing, cost
        return best

    def _count_label_sets(self, filing: _Filing) -> int:
        sets_by_value = self._sets_by_value_by_label.get(filing.label or "", {})
        values: Iterable[str] = sets_by_value if filing.values is None else filing.values
        return sum(len(sets_by_value.get(value, ())) for value in values)

    def _find_label_sets(self, filing: _Filing) -> Iterator[_LabelSet[Item]]:
        if filing.label is None:
            yield from self._set_by_key.values()
            return
        sets_by_value = self._sets_by_value_by_label.get(filing.label, {})
        values: Iterable[str] = sets_by_value if filing.values is None else sorted(filing.values)
        for value in values:
            yield from sets_by_value.get(value, ())

    def _find_selector_ids(self, label_set: _LabelSet[Item]) -> Iterator[str]:
        yield from self._ids_everywhere
        for label, value in label_set.labels.items():
            ids_by_value = self._ids_by_value_by_label.get(label)
            if ids_by_value is not None:
                yield from ids_by_value.get(None, ())
                yield from ids_by_value.get(value, ())

    def _file(self, selector_id: str, filing: _Filing) -> None:
        if filing.label is None:
            self._ids_everywhere[selector_id] = None
            return
        for value in (None,) if filing.values is None else filing.values:
            self._ids_by_value_by_label.setdefault(filing.label, {}).setdefault(value, {})[selector_id] = None

    def _unfile(self, selector_id: str, filing: _Filing) -> None:
        if filing.label is None:
            del self._ids_everywhere[selector_id]
            return
        for value in (None,) if filing.values is None else filing.values:
            _discard(self._ids_by_value_by_label, filing.label, value, selector_id)


def _discard(index: dict[str, dict[Value, dict[Member, None]]], label: str, value: Value, member: Member) -> None:
    """Removes a member from its bucket, and every bucket that is empty then."""
    by_value = index[label]
    del by_value[value][member]
    if not by_value[value]:
        del by_value[value]
        if not by_value:
            del index[label]
