"""Any text is a selector or a SelectorError, and every selector has one canonical form."""

from __future__ import annotations

from hypothesis import given, settings
from hypothesis import strategies as st

from felix.selector.parse import Selector, SelectorError, parse
from tests.property.test_selector_index import LABELS, TEXTS

WORDS = """a b has( has ( ) all() global() all( in not contains starts with ends == != = ! && || & | { } , 'x' "y" 'z "
; é in{ label/with.all-of_it 0""".split()


def find_selector(text: str) -> Selector | None:
    try:
        return parse(text)
    except SelectorError as error:
        fault = error
    assert 0 <= fault.position <= len(text)
    assert fault.reason
    return None


@given(st.one_of(st.text(max_size=20), st.lists(st.sampled_from(WORDS), max_size=10).map(" ".join)))
@settings(max_examples=500, deadline=None)
def test_selector_any_text_parses_or_is_refused_with_a_place(text: str) -> None:
    selector = find_selector(text)
    if selector is not None:
        assert selector.matches({}) in (True, False)
        assert parse(selector.text) is selector


@given(TEXTS, LABELS)
@settings(max_examples=300, deadline=None)
def test_selector_canonical_text_is_the_same_object_and_keeps_the_meaning(text: str, labels: dict[str, str]) -> None:
    selector = parse(text)
    assert parse(selector.text) is selector
    assert parse(text.replace(" ", "  ")) is selector
    assert parse(f"!({text})").matches(labels) is not selector.matches(labels)
    if selector.matches(labels):
        for label, values in selector.restrictions.items():
            assert label in labels
            assert values is None or labels[label] in values


@given(st.text(st.one_of(st.characters(), st.sampled_from("a1_./- \t\n!")), max_size=10))
@settings(max_examples=300, deadline=None)
def test_selector_label_names_are_exactly_those_of_the_alphabet(text: str) -> None:
    name = text.strip(" \t\r\n")
    is_name = bool(name) and all(letter.isascii() and (letter.isalnum() or letter in "_./-") for letter in name)
    expression = f"{text}=='x'"
    if not name.startswith("!"):
        assert (find_selector(expression) is not None) is is_name
