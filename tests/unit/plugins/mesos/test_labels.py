"""Labels in every form that Mesos has sent them in, and as endpoints carry them."""

import pytest

from felix.plugins.mesos.labels import BadLabels, parse_labels, render_labels, sanitise_labels

PAIRS = [{"key": "a", "value": "1"}, {"key": "b", "value": "2"}]


@pytest.mark.parametrize("value", [PAIRS, {"a": "1", "b": "2"}, {"labels": PAIRS}, {"labels": {"a": "1", "b": "2"}}])
def test_labels_are_the_same_in_every_form(value: object) -> None:
    assert parse_labels(value) == {"a": "1", "b": "2"}


@pytest.mark.parametrize("value", [None, [], {}, {"labels": None}, {"labels": []}])
def test_labels_that_are_left_out_are_none(value: object) -> None:
    assert parse_labels(value) == {}


def test_label_called_labels_is_a_label() -> None:
    assert parse_labels({"labels": "x"}) == {"labels": "x"}
    assert parse_labels({"labels": "x", "a": "1"}) == {"labels": "x", "a": "1"}


def test_label_without_value_is_empty_and_other_values_become_their_json() -> None:
    labels = parse_labels([{"key": "a"}, {"key": "b", "value": 5}, {"key": "c", "value": ["x"]}])
    assert labels == {"a": "", "b": "5", "c": '["x"]'}


def test_last_of_equal_keys_counts() -> None:
    assert parse_labels([{"key": "a", "value": "1"}, {"key": "a", "value": "2"}]) == {"a": "2"}


@pytest.mark.parametrize(
    ("value", "text"),
    [
        ("x", "labels: must be a list of keys and values or an object, not: str"),
        ([5], "labels[0]: must be an object with key and value, not: 5"),
        ([{"key": "a"}, {"value": "x"}], "labels[1]: must be an object with key and value"),
        ({"labels": [{"key": 5}]}, "labels.labels[0]: must be an object with key and value"),
        ([{"key": "a"}] * 257, "labels: has 257 labels; 256 is the most"),
    ],
)
def test_labels_that_cannot_be_used_are_refused_with_their_field(value: object, text: str) -> None:
    with pytest.raises(BadLabels) as caught:
        parse_labels(value)
    assert str(caught.value).startswith(text)


def test_written_labels_are_read_again() -> None:
    assert parse_labels(render_labels({"a": "1", "b": ""})) == {"a": "1", "b": ""}


@pytest.mark.parametrize(
    ("key", "value", "sane"),
    [
        ("DCOS_SPACE", "/a/b/c", {"DCOS_SPACE": "a.b.c"}),
        ("org.example/team", "blue team!", {"org.example.team": "blue-team"}),
        ("a//b", "x-.-y", {"a.b": "x.y"}),
        ("-.a.-", "", {"a": ""}),
        ("///", "x", {}),
        ("ключ", "x", {}),
    ],
)
def test_label_is_written_as_calico_writes_those_of_mesos(key: str, value: str, sane: dict[str, str]) -> None:
    assert sanitise_labels({key: value}) == sane
