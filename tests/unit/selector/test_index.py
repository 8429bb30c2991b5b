"""Who matches what: changes as told, and nothing left behind."""

from __future__ import annotations

from collections.abc import Mapping

import pytest

from felix.selector.index import LabelIndex
from felix.selector.parse import Selector, parse

AB = parse("a in {'b1', 'b2'}")
Change = tuple[str, str, bool]


@pytest.fixture
def index() -> LabelIndex[str]:
    return LabelIndex()


def starts(selector: Selector, *items: str) -> list[Change]:
    return [(selector.id, item, True) for item in items]


def stops(selector: Selector, *items: str) -> list[Change]:
    return [(selector.id, item, False) for item in items]


def assert_empty(index: LabelIndex[str]) -> None:
    index.pop_changes()
    left = {name: value for name, value in vars(index).items() if value}
    assert left == {}


def test_index_labels_first_tells_starts_and_stops_and_ends_empty(index: LabelIndex[str]) -> None:
    index.set_item("x", {"a": "b1"})
    index.add_selector(parse("a == 'other'"))
    assert index.pop_changes() == []
    index.add_selector(AB)
    assert index.pop_changes() == starts(AB, "x")
    index.set_item("x", {"a": "b2"})
    assert index.pop_changes() == []
    index.set_item("x", {"a": "b3"})
    assert index.pop_changes() == stops(AB, "x")
    has_a, has_c = parse("has(a)"), parse("has(c)")
    index.add_selector(has_a)
    index.add_selector(has_c)
    assert index.pop_changes() == starts(has_a, "x")
    index.set_item("x", {"a": "b1", "c": ""})
    assert sorted(index.pop_changes()) == sorted(starts(AB, "x") + starts(has_c, "x"))
    index.drop_item("x")
    assert sorted(index.pop_changes()) == sorted(stops(AB, "x") + stops(has_a, "x") + stops(has_c, "x"))
    for selector in (AB, has_a, has_c, parse("a == 'other'")):
        index.drop_selector(selector.id)
    assert_empty(index)


def test_index_selector_replaced_by_one_filed_elsewhere_stops_the_old_match(index: LabelIndex[str]) -> None:
    old, new = parse("a == 'b1'"), parse("c != 'd'")
    index.add_selector(old)
    index.set_item("x", {"a": "b1", "c": "d"})
    assert index.pop_changes() == starts(old, "x")
    index.drop_selector(old.id)
    index.add_selector(new)
    assert index.pop_changes() == stops(old, "x")


def test_index_set_selector_changed_keeps_the_common_items(index: LabelIndex[str]) -> None:
    new = parse("a in {'b2', 'b3'}")
    for number in (1, 2, 3):
        index.set_item(f"x{number}", {"a": f"b{number}"})
    index.add_selector(AB)
    assert sorted(index.pop_changes()) == starts(AB, "x1", "x2")
    index.drop_selector(AB.id)
    index.add_selector(new)
    assert sorted(index.items_matching(new.id)) == ["x2", "x3"]
    assert sorted(index.pop_changes()) == sorted(stops(AB, "x1", "x2") + starts(new, "x2", "x3"))


@pytest.mark.parametrize("selector_first", [True, False])
@pytest.mark.parametrize(
    ("text", "labels", "expected"),
    [
        ("c != 'd'", {}, True),
        ("c not in {'d'}", {"a": "b"}, True),
        ("!has(c)", {"a": "b"}, True),
        ("all()", {}, True),
        ("a in {'x'} && has(b)", {"a": "x", "b": ""}, True),
        ("has(b) && a in {'x'}", {"a": "x", "b": ""}, True),
        ("a in {'x'} && has(b)", {"a": "x"}, False),
        ("a == 'x' || a == 'y'", {"a": "y"}, True),
        ("a == 'x' && a == 'y'", {"a": "y"}, False),
        ("a in {}", {"a": ""}, False),
    ],
)
def test_index_any_arrival_order_finds_the_same(
    text: str, labels: dict[str, str], expected: bool, selector_first: bool
) -> None:
    index: LabelIndex[str] = LabelIndex()
    selector = parse(text)
    if selector_first:
        index.add_selector(selector)
    index.set_item("x", labels)
    index.add_selector(selector)
    assert index.pop_changes() == (starts(selector, "x") if expected else [])
    index.drop_selector(selector.id)
    index.drop_item("x")
    assert_empty(index)


def test_index_unknown_things_dropped_changes_nothing(index: LabelIndex[str]) -> None:
    index.drop_item("x")
    index.drop_selector("nobody")
    index.drop_parent("nobody")
    assert list(index.items_matching("nobody")) == []
    assert list(index.selectors_matching("nobody")) == []
    assert_empty(index)


def test_index_parent_labels_are_inherited_overridden_and_withdrawn(index: LabelIndex[str]) -> None:
    selector = parse("a == 'p'")
    index.add_selector(selector)
    index.set_item("x", {}, ["p1", "p2"])
    index.set_item("own", {"a": "mine"}, ["p1"])
    assert index.pop_changes() == []
    index.set_parent_labels("p1", {"a": "p"})
    assert index.pop_changes() == starts(selector, "x")
    index.set_parent_labels("p2", {"a": "q"})  # the later parent wins
    assert index.effective_labels("x") == {"a": "q"}
    assert index.pop_changes() == stops(selector, "x")
    index.set_item("x", {}, ["p2", "p1"])
    assert index.pop_changes() == starts(selector, "x")
    index.drop_parent("p1")
    assert index.pop_changes() == stops(selector, "x")
    index.set_parent_labels("p2", {})
    index.set_item("own", {"a": "p"}, ["p1"])
    assert index.pop_changes() == starts(selector, "own")
    index.set_parent_labels("p1", {"a": "no matter"})
    assert index.pop_changes() == []
    for item in ("x", "own"):
        index.drop_item(item)
    index.drop_parent("p1")
    index.drop_selector(selector.id)
    assert_empty(index)


def test_index_parent_named_twice_is_left_once(index: LabelIndex[str]) -> None:
    index.set_item("x", {}, ["p", "p"])
    index.set_item("x", {}, ["q", "q"])
    index.drop_item("x")
    assert_empty(index)


def test_index_change_and_change_back_between_reads_is_not_told(index: LabelIndex[str]) -> None:
    index.add_selector(AB)
    index.set_item("x", {"a": "b1"})
    index.set_item("x", {})
    assert index.pop_changes() == []
    index.set_item("x", {"a": "b1"})
    index.pop_changes()
    index.drop_item("x")
    index.set_item("x", {"a": "b2"})
    assert index.pop_changes() == []


class CountingSelector(Selector):
    """A selector that knows how often it was asked."""

    __slots__ = ("asked",)

    def __init__(self, text: str) -> None:
        plain = parse(text)
        super().__init__(plain.root, plain.text)
        self.asked = 0

        def count(labels: Mapping[str, str]) -> bool:
            self.asked += 1
            return plain.matches(labels)

        self.matches = count


def test_index_many_items_with_equal_labels_cost_one_evaluation(index: LabelIndex[str]) -> None:
    selector = CountingSelector("a != 'x'")
    index.add_selector(selector)
    for number in range(100):
        index.set_item(f"x{number}", {"a": "b"})
    assert selector.asked == 1
    assert index.label_sets_count == 1
    assert len(index.pop_changes()) == 100


def test_index_selector_is_not_asked_about_labels_it_cannot_match(index: LabelIndex[str]) -> None:
    before, after = CountingSelector("a == 'b7' && has(c)"), CountingSelector("a in {'b7', 'b8'}")
    index.add_selector(before)
    for number in range(50):
        index.set_item(f"x{number}", {"a": f"b{number}", "c": ""})
    index.add_selector(after)
    assert before.asked == 1
    assert after.asked == 2
