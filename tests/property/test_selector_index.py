"""The index against a linear scan, for any order of arrivals, changes and departures."""

from __future__ import annotations

from hypothesis import given, settings
from hypothesis import strategies as st

from felix.selector.index import LabelIndex
from felix.selector.parse import Selector, parse

NAMES = st.sampled_from(["a", "b", "c"])
VALUES = st.sampled_from(["", "x", "y", "xy"])
LABELS = st.dictionaries(NAMES, VALUES, max_size=3)
SETS = st.lists(VALUES, max_size=3).map(lambda values: "{" + ", ".join(f"'{value}'" for value in values) + "}")
ATOMS = st.one_of(
    st.builds(
        "{} {} '{}'".format, NAMES, st.sampled_from(["==", "!=", "contains", "starts with", "ends with"]), VALUES
    ),
    st.builds("{} {} {}".format, NAMES, st.sampled_from(["in", "not in"]), SETS),
    st.builds("has({})".format, NAMES),
    st.just("all()"),
)
TEXTS = st.recursive(
    ATOMS,
    lambda inner: st.one_of(
        st.builds("({} && {})".format, inner, inner),
        st.builds("({} || {})".format, inner, inner),
        st.builds("!({})".format, inner),
    ),
    max_leaves=5,
)
ITEMS = st.sampled_from(["i1", "i2", "i3"])
PARENTS = st.sampled_from(["p1", "p2"])
STEPS = st.one_of(
    st.tuples(st.just("set_item"), ITEMS, LABELS, st.lists(PARENTS, max_size=3)),
    st.tuples(st.just("drop_item"), ITEMS),
    st.tuples(st.just("set_parent"), PARENTS, LABELS),
    st.tuples(st.just("drop_parent"), PARENTS),
    st.tuples(st.just("add"), TEXTS),
    st.tuples(st.just("drop"), st.integers(0, 10)),
    st.tuples(st.just("pop")),
)


class Scan:
    """The same as the index, by looking at everything every time."""

    def __init__(self) -> None:
        self.items: dict[str, tuple[dict[str, str], list[str]]] = {}
        self.parents: dict[str, dict[str, str]] = {}
        self.selectors: dict[str, Selector] = {}

    def effective(self, item: str) -> dict[str, str]:
        labels, parents = self.items[item]
        merged: dict[str, str] = {}
        for parent in parents:
            merged |= self.parents.get(parent, {})
        return merged | labels

    def matches(self) -> set[tuple[str, str]]:
        return {
            (selector.id, item)
            for selector in self.selectors.values()
            for item in self.items
            if selector.matches(self.effective(item))
        }


def take_step(step: tuple[object, ...], index: LabelIndex[str], scan: Scan) -> None:
    match step:
        case ("set_item", str(item), dict(labels), list(parents)):
            index.set_item(item, labels, parents)
            scan.items[item] = (labels, parents)
        case ("drop_item", str(item)):
            index.drop_item(item)
            scan.items.pop(item, None)
        case ("set_parent", str(parent), dict(labels)):
            index.set_parent_labels(parent, labels)
            scan.parents[parent] = labels
        case ("drop_parent", str(parent)):
            index.drop_parent(parent)
            scan.parents.pop(parent, None)
        case ("add", str(text)):
            index.add_selector(parse(text))
            scan.selectors[parse(text).id] = parse(text)
        case ("drop", int(number)) if scan.selectors:
            selector_id = sorted(scan.selectors)[number % len(scan.selectors)]
            index.drop_selector(selector_id)
            del scan.selectors[selector_id]


def pop_into(seen: set[tuple[str, str]], index: LabelIndex[str]) -> None:
    for selector_id, item, started in index.pop_changes():
        assert ((selector_id, item) in seen) is not started, "a start of what matched, or a stop of what did not"
        (seen.add if started else seen.discard)((selector_id, item))


@given(st.lists(STEPS, max_size=40))
@settings(max_examples=300, deadline=None)
def test_index_after_any_steps_agrees_with_a_scan_and_empties(steps: list[tuple[object, ...]]) -> None:
    index: LabelIndex[str] = LabelIndex()
    scan = Scan()
    seen: set[tuple[str, str]] = set()
    for step in steps:
        take_step(step, index, scan)
        expected = scan.matches()
        assert {(id_, item) for id_ in scan.selectors for item in index.items_matching(id_)} == expected
        assert {(id_, item) for item in scan.items for id_ in index.selectors_matching(item)} == expected
        assert {item: dict(index.effective_labels(item)) for item in scan.items} == {
            item: scan.effective(item) for item in scan.items
        }
        if step == ("pop",):
            pop_into(seen, index)
            assert seen == expected
    for item in list(scan.items):
        index.drop_item(item)
    for selector_id in list(scan.selectors):
        index.drop_selector(selector_id)
    for parent in list(scan.parents):
        index.drop_parent(parent)
    pop_into(seen, index)
    assert seen == set()
    assert [name for name, value in vars(index).items() if value] == []
