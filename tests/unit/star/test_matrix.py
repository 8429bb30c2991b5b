"""Who reaches whom, out of what probes answer; and whether that is what was expected."""

from __future__ import annotations

import msgspec
import pytest

from felix.star.example import EXAMPLE_RESOURCES, EXAMPLE_RESPONSES
from felix.star.faults import BadInput
from felix.star.matrix import Edge, Matrix, Response, draw_matrix
from felix.star.resources import RESOURCES_MOST, Resource, decode_resource, decode_resources


def _answer(name: str, *targets: dict[str, object], status: int = 200) -> Response:
    return Response(_url(name), status, msgspec.Raw(msgspec.json.encode({"status": {"targets": targets}})))


def _url(name: str) -> str:
    return f"http://{name.lower()}:9000/status"


def _to(name: str, reachable: bool, **more: object) -> dict[str, object]:
    return {"url": _url(name), "reachable": reachable, **more}


def _resource(name: str, group: str = "", **expected: bool) -> Resource:
    return Resource(name, _url(name), group=group, expected=expected)


def _states(matrix: Matrix) -> dict[str, str]:
    return {edge.source + edge.target: edge.state for edge in matrix.edges}


def _verdicts(matrix: Matrix) -> dict[str, str]:
    return {edge.source + edge.target: edge.verdict for edge in matrix.edges}


def test_matrix_of_the_example_is_that_of_the_original() -> None:
    matrix = draw_matrix(EXAMPLE_RESOURCES, EXAMPLE_RESPONSES)

    assert [(node.id, node.state) for node in matrix.nodes] == [
        ("A", "answering"), ("B", "answering"), ("C", "answering"), ("D", "answering"), ("E", "silent"),
    ]  # fmt: skip
    reachable = {pair for pair, state in _states(matrix).items() if state == "reachable"}
    assert reachable == {"AB", "AC", "AD", "BA", "BD"}
    assert set(_states(matrix)) - reachable == {"BC", "CA", "CB", "CD", "DA", "DB"}
    assert (matrix.summary.reachable, matrix.summary.blocked, matrix.summary.verdict) == (5, 6, "")


def test_node_that_was_not_asked_yet_is_pending() -> None:
    assert [node.state for node in draw_matrix([_resource("A")], {}).nodes] == ["pending"]


def test_edge_not_tried_yet_is_pending_but_of_an_original_probe_it_is_blocked() -> None:
    resources = [_resource("A"), _resource("B"), _resource("C")]
    answer = _answer("A", _to("B", False, outcome="pending"), _to("C", False))

    assert _states(draw_matrix(resources, {"A": answer})) == {"AB": "pending", "AC": "blocked"}


def test_edge_tells_why_it_is_blocked() -> None:
    matrix = draw_matrix([_resource("A"), _resource("B")], {"A": _answer("A", _to("B", False, outcome="timeout"))})

    assert matrix.edges == [Edge("A", "B", "blocked", "timeout")]


def test_edge_of_a_tcp_target_leads_to_the_resource_of_that_place() -> None:
    resources = [_resource("A"), _resource("B")]
    tcp = {"url": "tcp://b:9000", "reachable": True, "outcome": "ok"}

    assert _states(draw_matrix(resources, {"A": _answer("A", tcp)})) == {"AB": "reachable"}
    both = _answer("A", _to("B", False), tcp)
    assert _states(draw_matrix(resources, {"A": both})) == {"AB": "blocked"}, "the very URL goes first"


def test_targets_outside_or_at_oneself_are_not_drawn() -> None:
    answer = _answer("A", _to("A", True), _to("Z", True), {"url": "tcp://nowhere", "reachable": True})

    assert draw_matrix([_resource("A")], {"A": answer}).edges == []


def test_answer_with_an_error_status_counts() -> None:
    matrix = draw_matrix([_resource("A"), _resource("B")], {"A": _answer("A", _to("B", True), status=500)})

    assert _states(matrix) == {"AB": "reachable"}


@pytest.mark.parametrize("body", [b"[]", b"3", b'{"status":null}', b'{"status":{"targets":[{"url":1}]}}', b"[" * 5000])
def test_answer_that_is_no_status_has_no_edges(body: bytes) -> None:
    matrix = draw_matrix([_resource("A"), _resource("B")], {"A": Response(_url("A"), 200, msgspec.Raw(body))})

    assert (matrix.nodes[0].state, matrix.edges) == ("answering", [])


def test_answer_as_in_the_examples_of_the_documentation_is_understood() -> None:
    flat = msgspec.Raw(msgspec.json.encode({"targets": [_to("B", True)]}))

    matrix = draw_matrix([_resource("A"), _resource("B")], {"A": Response(_url("A"), 200, flat)})

    assert _states(matrix) == {"AB": "reachable"}


def test_expected_matrix_marks_each_direction_and_sums_up_by_group() -> None:
    resources = [
        _resource("A", "one", B=True, C=False),
        _resource("B", "one", A=True, C=False),
        _resource("C", "two", A=False, gone=True),
    ]
    answers = {
        "A": _answer("A", _to("B", True), _to("C", True)),
        "B": _answer("B", _to("A", False, outcome="timeout")),
        "C": _answer("C", _to("A", False), _to("B", False)),
    }

    matrix = draw_matrix(resources, answers)

    assert _verdicts(matrix) == {"AB": "right", "AC": "wrong", "BA": "wrong", "BC": "unknown", "CA": "right", "CB": ""}
    assert [(group.name, group.right, group.wrong, group.unknown, group.verdict) for group in matrix.groups] == [
        ("one", 1, 2, 1, "wrong"),
        ("two", 1, 0, 0, "right"),
    ]
    assert matrix.summary.verdict == "wrong"


def test_expected_of_a_silent_source_is_unknown_never_right() -> None:
    matrix = draw_matrix([_resource("A", B=False), _resource("B")], {"A": None, "B": None})

    assert _verdicts(matrix) == {"AB": "unknown"}
    assert matrix.summary.verdict == "unknown"


def test_matrix_as_json_leaves_out_what_does_not_apply() -> None:
    matrix = draw_matrix([_resource("A", B=False), _resource("B", A=True)], {"A": _answer("A", _to("B", True))})

    assert msgspec.json.decode(msgspec.json.encode(matrix))["edges"] == [
        {"from": "A", "to": "B", "state": "reachable", "expected": False, "verdict": "wrong"},
        {"from": "B", "to": "A", "state": "unknown", "expected": True, "verdict": "unknown"},
    ]


@pytest.mark.parametrize(
    ("body", "reason"),
    [
        (b"{", "JSON"),
        (b"[]", "Expected `object`"),
        (b'{"id":"A"}', "url"),
        (b'{"id":"","url":"http://a/"}', "empty"),
        (b'{"id":"A","url":"tcp://a:1"}', "scheme 'tcp'"),
        (b'{"id":"A","url":"file:///etc/passwd"}', "scheme 'file'"),
        (b'{"id":"a\\u0000b","url":"http://a/"}', "printable"),
        (b'{"id":"A","url":"http://a/","expected":{"B":"yes"}}', "expected"),
        (b'{"id":"A","url":"http://a/","x":' + b"[" * 5000, "JSON object"),
    ],
)
def test_resource_that_cannot_be_used_is_refused(body: bytes, reason: str) -> None:
    with pytest.raises(BadInput, match=reason):
        decode_resource(body)


def test_resource_of_the_original_is_taken_and_unknown_keys_are_ignored() -> None:
    assert decode_resource(b'{"id":"A","url":"http://a/status","colour":1}') == Resource("A", "http://a/status")


def test_resources_too_many_are_refused() -> None:
    many = msgspec.json.encode([Resource(str(number), "http://a/") for number in range(RESOURCES_MOST + 1)])

    with pytest.raises(BadInput, match=f"{RESOURCES_MOST + 1} resources"):
        decode_resources(many)
