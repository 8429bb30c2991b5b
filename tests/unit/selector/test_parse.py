"""The grammar and meaning of selectors, vector by vector."""

from __future__ import annotations

import re

import pytest

from felix.selector.parse import NESTING_LIMIT, Selector, SelectorError, parse
from felix.selector.tokens import LABEL_LIMIT

BOTH = {"a": "a1", "b": "b1"}

MATCHES: list[tuple[str, dict[str, str], bool]] = [
    ("a == 'a'", {"a": "a"}, True),
    ('a == "a"', {"a": "a"}, True),
    ("a == 'a'", {"a": "b"}, False),
    ("a == 'a'", {}, False),
    ('a != "b"', {"a": "a"}, True),
    ('a != "a"', {}, True),
    ('a != "a"', {"a": "a"}, False),
    ('a in {"a"}', {"a": "a"}, True),
    ('a in {"a", "b"}', {"a": "a"}, True),
    ('a in {"a"}', {"a": "b"}, False),
    ('a in {"a", "b"}', {"a": "b"}, True),
    ('a in {"a", "b"}', {"a": "c"}, False),
    ('a in {"a", "b"}', {}, False),
    ('!a in {"a"}', {"a": "b"}, True),
    ('a not in {"d", "e"}', {"a": "a"}, True),
    ('a not in {"d", "e"}', {}, True),
    ('a not in {"a"}', {"a": "a"}, False),
    ("a in {}", {"a": ""}, False),
    ("a not in {}", {"a": "x"}, True),
    ("has(a)", {"a": "b"}, True),
    ("has(a)", {"a": ""}, True),
    ("has(a)", {}, False),
    ("!has(a)", {"b": "b"}, True),
    ("!has(a)", {"a": "b"}, False),
    ("! has(a)", {"a": "b"}, False),
    ("!!! has(a)", {"a": "b"}, False),
    ("!!!has(a)", {"a": "b"}, False),
    ("!! ! has(a)", {"a": "b"}, False),
    ("! !!has(a)", {"a": "b"}, False),
    ("!!has(b)", {"a": "b"}, False),
    ("all()", {}, True),
    (" all()", {"a": "b"}, True),
    ("a=='a1' && b=='b1'", BOTH, True),
    ("a=='a1' && b!='b1'", BOTH, False),
    ("a!='a1' && b=='b1'", BOTH, False),
    ("a!='a1' && b!='b1'", BOTH, False),
    ("a!='a1' && !b=='b1'", BOTH, False),
    ("!a=='a1' && b=='b1'", BOTH, False),
    ("has(a) && !has(b)", {"a": "a"}, True),
    ("!has(b) && has(a)", {"a": "a"}, True),
    ("!(!has(a) || has(b))", {"a": "a"}, True),
    ("!(has(b) || !has(a))", {"a": "a"}, True),
    ("a=='a1' || b=='b1'", BOTH, True),
    ("a=='a1' || b!='b1'", BOTH, True),
    ("a!='a1' || b=='b1'", BOTH, True),
    ("a!='a1' || b!='b1'", BOTH, False),
    ("! a=='a1' || ! b=='b1'", BOTH, False),
    ("a=='b' || c=='d' && e=='f'", {"a": "b"}, True),
    ("(a=='b' || c=='d') && e=='f'", {"a": "b"}, False),
    ("a contains 'b'", {"a": "abc"}, True),
    ("a contains 'b'", {"a": "xyz"}, False),
    ("a contains ''", {}, False),
    ("a contains ''", {"a": ""}, True),
    ("a starts with 'ab'", {"a": "abc"}, True),
    ("a starts with 'bc'", {"a": "abc"}, False),
    ("a starts  with 'ab'", {}, False),
    ("a ends with 'bc'", {"a": "abc"}, True),
    ("a ends with 'ab'", {"a": "abc"}, False),
    ("a ends with 'ab'", {}, False),
    ("global()", {"a": "b"}, True),
    ("global()", {"projectcalico.org/namespace": "n"}, False),
    ("has(a) && has(b) && has(c)", {"a": "", "b": "", "c": ""}, True),
    ("has(a) && has(b) && has(c)", {"a": "", "b": ""}, False),
    ("has(a) || has(b) || has(c)", {"c": ""}, True),
    ("has(a) || has(b) || has(c)", {"d": ""}, False),
]


@pytest.mark.parametrize(("text", "labels", "expected"), MATCHES)
def test_selector_on_labels_matches_as_told_and_its_negation_does_not(
    text: str, labels: dict[str, str], expected: bool
) -> None:
    assert parse(text).matches(labels) is expected
    assert parse(f"!({text})").matches(labels) is not expected


@pytest.mark.parametrize("text", ["", " ", "\t\n", "all()", " all()"])
def test_selector_empty_or_all_matches_everything(text: str) -> None:
    assert parse(text) is parse("all()")
    assert parse(text).matches({})
    assert parse(text).matches({"a": "b"})


BAD = """
b == b|'b1' == b|b|a b|!|()|(has(a)|has(a))|has(a) has(b)|has()|has('a')|has (a)|all ()|all(a)|a in {'b',}|a in {,'b'}
a in {'b' 'c'}|a in {b}|a in ['b']|a notin {'c'}|a not {'c'}|a = 'b'|a == b|a == 'b' == 'c'|a=='b' &&|&& a=='b'
a=='b' & c=='d'|a=='b' and c=='d'|a == "b'|a$ == 'x'|HAS(a)|a IN {'b'}|true|a == 'b';|a in {'b'|a in|a ==|a !
a contains|a contains {'b'}|a starts 'b'|a starts with|a ends with b|a with 'b'|has(a|has(a b)|global|global(x)|é == 'x'
# comment|a not  not in {'b'}|{}|}|,|'a'|a == 'it's'
""".strip().replace("\n", "|")


@pytest.mark.parametrize("text", [*BAD.split("|"), "a == 'b\nc'", "a | b", "a == 'b' || ", "|| a == 'b'"])
def test_selector_malformed_raises_with_position_and_reason(text: str) -> None:
    with pytest.raises(SelectorError) as caught:
        parse(text)
    assert 0 <= caught.value.position <= len(text)
    assert caught.value.reason
    assert f"at character {caught.value.position + 1}" in str(caught.value)


def test_selector_malformed_in_the_middle_names_the_place() -> None:
    with pytest.raises(SelectorError, match=re.escape("expected '}', found 'c', at character 11")) as caught:
        parse("a in {'b' c")
    assert caught.value.position == 10


GOOD = [
    "a in{'b'}",
    "a not  in{'c'}",
    "a\t==\n'b'",
    "a\r\n== 'b'",
    "1 == 'x'",
    "-a == 'x'",
    "kubernetes.io/foo-bar_1 == 'x'",
    "a/b.c == 'x'",
    "a == 'it is \"so\"'",
    'a == "it\'s"',
    "a == ''",
    "a == 'é'",
    "in == 'x'",
    "not in {'x'}",
    "in in {'x'}",
    "has == 'x'",
    "all == 'x'",
    "global != 'x'",
    "contains contains 'x'",
    "starts starts with 'x'",
    "has( a )",
    "all( )",
    "global(\t)",
    "a in {}",
    r"a == '\t\n\\'",
    "(" * 12 + "has(a)" + ")" * 12,
]


@pytest.mark.parametrize("text", GOOD)
def test_selector_unusual_but_legal_parses_and_its_text_parses_to_the_same(text: str) -> None:
    selector = parse(text)
    assert parse(selector.text) is selector


def test_selector_backslash_in_a_literal_is_a_backslash() -> None:
    assert parse(r"a == '\t'").matches({"a": "\\t"})
    assert not parse(r"a == '\t'").matches({"a": "\t"})


SAME = [
    ["a == 'b'", 'a=="b"', " a  ==\t'b' ", "(a == 'b')", "((a == 'b'))"],
    ["a != 'b'", 'a!="b"'],
    ["a in {'b'}", 'a in{"b"}', "a in { 'b', 'b' }"],
    ["a in {'c', 'b'}", "a in {'b','c'}"],
    ["a != 'b' && c == 'd'", "(a != 'b' && c == 'd')", "(a != 'b') && (c == 'd')"],
    ["a != 'b' || c == ''", "((a != 'b') || c == '')"],
    ["!a == 'b' || c == ''", "!(a == 'b') || c == ''", "!!!a == 'b' || c == ''"],
    ["!all()", "!( all())"],
    ["has(a) && has(b) && has(c)", "has(a) && (has(b) && has(c))"],
    ["!(!(has(a)))", "has(a)"],
]


@pytest.mark.parametrize("texts", SAME)
def test_selector_written_differently_is_one_object_with_one_id(texts: list[str]) -> None:
    assert len({id(parse(text)) for text in texts}) == 1
    assert len({parse(text).id for text in texts}) == 1


def test_selector_different_expressions_have_different_ids() -> None:
    selectors = {parse(texts[0]) for texts in SAME} | {parse("has(b) && has(a)"), parse("has(a) && has(b)")}
    assert len({selector.id for selector in selectors}) == len(SAME) + 2
    assert len({selector.text for selector in selectors}) == len(SAME) + 2


@pytest.mark.parametrize("text", GOOD)
def test_selector_id_is_fit_to_name_a_set(text: str) -> None:
    assert re.fullmatch(r"s[a-z0-9]{23}", parse(text).id)


def test_selector_id_is_stable_over_releases() -> None:
    # Sets in the kernel carry this id: a different one would make an upgrade rewrite all of them.
    assert parse("a == 'b'").id == "slxeont5wxp5xbkq4w6kqu47"


def test_selector_nested_to_the_limit_works_and_beyond_it_is_refused() -> None:
    deep = "!(has(a) || " * NESTING_LIMIT + "has(b)" + ")" * NESTING_LIMIT
    assert isinstance(parse(deep), Selector)
    assert parse(deep).matches({"b": ""}) is True
    with pytest.raises(SelectorError, match="parentheses inside one another"):
        parse(f"({deep})")


def test_selector_long_chains_need_no_deep_stack() -> None:
    assert parse(" || ".join(f"a == '{n}'" for n in range(20_000))).matches({"a": "19999"})
    assert parse("!" * 20_001 + "has(a)").matches({})


def test_selector_label_longer_than_the_limit_is_refused() -> None:
    assert parse(f"has({'x' * LABEL_LIMIT})")
    with pytest.raises(SelectorError, match="at most 512"):
        parse(f"has({'x' * (LABEL_LIMIT + 1)})")


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        ("a == 'x'", {"a": {"x"}}),
        ("a in {'x', 'y'}", {"a": {"x", "y"}}),
        ("has(a)", {"a": None}),
        ("a starts with 'x'", {"a": None}),
        ("a != 'x'", {}),
        ("a not in {'x'}", {}),
        ("!has(a)", {}),
        ("all()", {}),
        ("a == 'x' && has(b) && c != 'z'", {"a": {"x"}, "b": None}),
        ("has(a) && a in {'x', 'y'} && a in {'y', 'z'}", {"a": {"y"}}),
        ("a == 'x' && a == 'y'", {"a": set()}),
        ("a == 'x' || a == 'y'", {"a": {"x", "y"}}),
        ("a == 'x' || has(a)", {"a": None}),
        ("a == 'x' || b == 'y'", {}),
        ("(a == 'x' && has(b)) || (a == 'y' && has(c))", {"a": {"x", "y"}}),
        ("!(a == 'x' && has(b))", {}),
    ],
)
def test_selector_restrictions_are_what_every_match_must_have(text: str, expected: dict[str, set[str] | None]) -> None:
    assert parse(text).restrictions == expected
    assert parse(text).is_impossible is (expected == {"a": set()})
