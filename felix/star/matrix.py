"""Who reaches whom, as the page shows it: nodes, directed edges, and how both compare with what was expected.

An edge leads from n to m when n's targets have one with the URL of m; this is the original's rule. A `tcp://` target
belongs to the resource of that host and port. What belongs to no resource, or to n itself, is not shown.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping, Sequence

import msgspec

from felix.star.faults import BadInput
from felix.star.resources import Resource
from felix.star.targets import PENDING, parse_place

REACHABLE, BLOCKED, UNKNOWN = "reachable", "blocked", "unknown"
ANSWERING, SILENT = "answering", "silent"
RIGHT, WRONG = "right", "wrong"


class Response(msgspec.Struct, frozen=True, rename="camel"):
    """What a resource answered: any status, with a body that is JSON."""

    url: str
    status_code: int
    json: msgspec.Raw


class Node(msgspec.Struct, frozen=True):
    """One resource. state: `answering`, `silent` (no JSON came), or `pending` (not asked yet)."""

    id: str
    label: str
    group: str
    url: str
    state: str


class Edge(msgspec.Struct, frozen=True, omit_defaults=True, rename={"source": "from", "target": "to"}):
    """One direction between two nodes, by id.

    state: `reachable`, `blocked`, `pending` (not tried yet), or `unknown` (something is expected, nobody tells).
    outcome: the probe's own word for it, may be empty. verdict: `right`, `wrong`, `unknown`; empty if nothing is
    expected.
    """

    source: str
    target: str
    state: str
    outcome: str = ""
    expected: bool | None = None
    verdict: str = ""


class Summary(msgspec.Struct):
    """Counts of nodes and of edges that leave them. verdict: the worst of any edge; empty if nothing is expected."""

    name: str = ""
    nodes: int = 0
    answering: int = 0
    reachable: int = 0
    blocked: int = 0
    right: int = 0
    wrong: int = 0
    unknown: int = 0
    verdict: str = ""


class Matrix(msgspec.Struct):
    """All that the page shows. Order: nodes as the resources, edges by their nodes, groups by their first node."""

    summary: Summary
    groups: list[Summary]
    nodes: list[Node]
    edges: list[Edge]


class Seen(msgspec.Struct):
    """One target in a probe's answer; probes of the original tell no outcome."""

    url: str
    reachable: bool
    outcome: str = ""


class _Status(msgspec.Struct):
    targets: list[Seen]


class _Answer(msgspec.Struct):
    """A probe's answer; the examples in the original's documentation have no `status` around the targets."""

    status: _Status | None = None
    targets: list[Seen] | None = None


def read_targets(response: Response) -> list[Seen]:
    """Returns the targets that a probe's answer tells of; empty when it tells of none."""
    try:
        answer = msgspec.json.decode(response.json, type=_Answer)
    except (msgspec.DecodeError, RecursionError):
        return []
    return answer.status.targets if answer.status else answer.targets or []


def draw_matrix(resources: Sequence[Resource], response_by_id: Mapping[str, Response | None]) -> Matrix:
    """Returns what the page shows. response_by_id: None for who does not answer; without entry: not asked yet."""
    nodes = [_draw_node(resource, response_by_id) for resource in resources]
    finder = _Finder(resources)
    edges = [
        edge
        for resource in resources
        for edge in _draw_edges(resource, resources, finder.find(response_by_id.get(resource.id)))
    ]
    return Matrix(*_summarise(nodes, edges), nodes, edges)


def _draw_node(resource: Resource, response_by_id: Mapping[str, Response | None]) -> Node:
    if resource.id not in response_by_id:
        state = PENDING
    else:
        state = SILENT if response_by_id[resource.id] is None else ANSWERING
    return Node(resource.id, resource.label or resource.id, resource.group, resource.url, state)


class _Finder:
    """Finds the resources that the targets of an answer mean."""

    def __init__(self, resources: Iterable[Resource]) -> None:
        self._ids_by_url: dict[str, list[str]] = {}
        self._ids_by_place: dict[tuple[str, int], list[str]] = {}
        for resource in resources:
            self._ids_by_url.setdefault(resource.url, []).append(resource.id)
            place = parse_place(resource.url)
            self._ids_by_place.setdefault((place.host, place.port), []).append(resource.id)

    def find(self, response: Response | None) -> dict[str, Seen]:
        """Returns targets by the id of their resource; the one with the very URL goes before a `tcp://` one."""
        targets = [] if response is None else read_targets(response)
        found = {one: target for target in targets for one in self._find_place(target.url)}
        return found | {one: target for target in targets for one in self._ids_by_url.get(target.url, ())}

    def _find_place(self, url: str) -> Sequence[str]:
        if not url.startswith("tcp://"):
            return ()
        try:
            place = parse_place(url)
        except BadInput:
            return ()
        return self._ids_by_place.get((place.host, place.port), ())


def _draw_edges(source: Resource, resources: Sequence[Resource], target_by_id: Mapping[str, Seen]) -> Iterator[Edge]:
    for resource in resources:
        target, expected = target_by_id.get(resource.id), source.expected.get(resource.id)
        if resource.id == source.id or (target is None and expected is None):
            continue
        state = UNKNOWN if target is None else _state(target)
        outcome = "" if target is None or state in {REACHABLE, PENDING} else target.outcome
        yield Edge(source.id, resource.id, state, outcome, expected, _judge(state, expected))


def _state(target: Seen) -> str:
    if target.reachable:
        return REACHABLE
    return PENDING if target.outcome == PENDING else BLOCKED


def _judge(state: str, expected: bool | None) -> str:
    if expected is None:
        return ""
    if state not in {REACHABLE, BLOCKED}:
        return UNKNOWN
    return RIGHT if (state == REACHABLE) == expected else WRONG


def _summarise(nodes: Sequence[Node], edges: Sequence[Edge]) -> tuple[Summary, list[Summary]]:
    total = Summary()
    group_by_name = {node.group: Summary(node.group) for node in nodes}
    group_by_id = {node.id: group_by_name[node.group] for node in nodes}
    for node in nodes:
        for summary in (total, group_by_id[node.id]):
            summary.nodes += 1
            summary.answering += node.state == ANSWERING
    for edge in edges:
        for summary in (total, group_by_id[edge.source]):
            summary.reachable += edge.state == REACHABLE
            summary.blocked += edge.state == BLOCKED
            summary.right += edge.verdict == RIGHT
            summary.wrong += edge.verdict == WRONG
            summary.unknown += edge.verdict == UNKNOWN
    groups = list(group_by_name.values())
    for summary in (total, *groups):
        summary.verdict = next((word for word in (WRONG, UNKNOWN, RIGHT) if getattr(summary, word)), "")
    return total, groups
