"""The example that the original shows with `?example=true`: A reaches all, B all but C, C and D nobody; E is silent."""

from __future__ import annotations

import msgspec

from felix.star.matrix import Response
from felix.star.resources import Resource

_TARGETS_BY_ID = {
    "A": {"b": True, "c": True, "d": True},
    "B": {"a": True, "c": False, "d": True},
    "C": {"a": False, "b": False, "d": False},
    "D": {"a": False, "b": False, "foobar": False},
}


def _url(name: str) -> str:
    return f"http://{name.lower()}/status"


def _answer(targets: dict[str, bool]) -> msgspec.Raw:
    listed = [{"reachable": reachable, "url": _url(name)} for name, reachable in targets.items()]
    return msgspec.Raw(msgspec.json.encode({"status": {"targets": listed}}))


EXAMPLE_RESOURCES = [Resource(name, _url(name)) for name in (*_TARGETS_BY_ID, "E")]
EXAMPLE_RESPONSES: dict[str, Response | None] = {
    name: Response(_url(name), 200, _answer(targets)) for name, targets in _TARGETS_BY_ID.items()
} | {"E": None}
