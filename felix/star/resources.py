"""What a collector asks, as people and programs give it: the original's `{id, url}`, and what the page shows of it."""

from __future__ import annotations

import msgspec

from felix.star.faults import BadInput
from felix.star.targets import parse_place

RESOURCES_MOST = 256
_NAME_LENGTH_MOST = 128


class Resource(msgspec.Struct, frozen=True, omit_defaults=True):
    """One probe that is asked.

    label: what the page calls it (empty: its id). group: the stage or network that the page shows it in. expected:
    by id of another resource, whether this one should reach it; those not named may be either.
    """

    id: str
    url: str
    label: str = ""
    group: str = ""
    expected: dict[str, bool] = {}


def decode_resource(body: bytes) -> Resource:
    """Returns the resource of a JSON object; keys that nobody knows are ignored. Raises BadInput."""
    try:
        resource = msgspec.json.decode(body, type=Resource)
    except (msgspec.DecodeError, RecursionError) as error:
        raise BadInput(f"a resource is a JSON object with id and url: {error}") from error
    return _check(resource)


def decode_resources(body: bytes) -> list[Resource]:
    """Returns the resources of a JSON array, as --resources-file has it; raises BadInput."""
    try:
        resources = msgspec.json.decode(body, type=list[Resource])
    except (msgspec.DecodeError, RecursionError) as error:
        raise BadInput(f"resources are a JSON array of objects with id and url: {error}") from error
    if len(resources) > RESOURCES_MOST:
        raise BadInput(f"{len(resources)} resources, a collector takes {RESOURCES_MOST}")
    return [_check(resource) for resource in resources]


def _check(resource: Resource) -> Resource:
    for name, value in (("id", resource.id), ("label", resource.label), ("group", resource.group)):
        if len(value) > _NAME_LENGTH_MOST or not value.isprintable():
            raise BadInput(f"{name} {value[:40]!r} must be printable and have at most {_NAME_LENGTH_MOST} characters")
    if not resource.id.strip():
        raise BadInput("id must not be empty")
    if len(resource.expected) > RESOURCES_MOST:
        raise BadInput(
            f"resource {resource.id}: expected names {len(resource.expected)} ids, {RESOURCES_MOST} are taken"
        )
    parse_place(resource.url, schemes=("http", "https"))
    return resource
