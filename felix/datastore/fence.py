"""The fence of a host that was given up as lost: what stands in etcd until the host has cleaned up. Pure."""

from __future__ import annotations

import enum
from dataclasses import dataclass
from datetime import UTC, datetime

import msgspec

from felix.datastore.types import Compare, KeyValue, Target
from felix.model.keys import LOST_HOSTS, format_fence_key

_NAMES_LIMIT = 100


class FenceState(enum.Enum):
    """How far somebody came: endpoints and addresses are being taken, or all of them were."""

    CLEANING = "cleaning"
    DONE = "done"


@dataclass(frozen=True, slots=True)
class Fence:
    """Why a host may not take part.

    at: RFC 3339. by: the host, or person, that gave it up. endpoints: which it had, a hundred at most, with namespace.
    created: revision at which it was put up, 0 when not stored.
    """

    host: str
    at: str = ""
    by: str = ""
    state: FenceState = FenceState.CLEANING
    endpoints: tuple[str, ...] = ()
    created: int = 0

    @property
    def key(self) -> str:
        """Its key."""
        return format_fence_key(self.host)

    def stands(self) -> Compare:
        """Returns the condition that this fence, no other and no none, is there."""
        return Compare(self.key, Target.CREATE_REVISION, self.created)

    def __str__(self) -> str:
        return f"{self.host} was given up as lost at {self.at or 'an unknown time'} by {self.by or 'somebody'}"


def is_absent(key: str) -> Compare:
    """Returns the condition that a key is not there."""
    return Compare(key, Target.VERSION, 0)


def format_time(wall_s: float) -> str:
    """Returns RFC 3339 in UTC. wall_s: seconds since 1970."""
    return datetime.fromtimestamp(wall_s, UTC).strftime("%Y-%m-%dT%H:%M:%SZ")


def render_fence(fence: Fence) -> bytes:
    """Returns the JSON that is stored."""
    return msgspec.json.encode(
        {
            "at": fence.at,
            "by": fence.by,
            "state": fence.state.value,
            "endpoints": fence.endpoints[:_NAMES_LIMIT],
        }
    )


def parse_fence(pair: KeyValue) -> Fence:
    """Returns the stored fence; one that cannot be read is a fence all the same."""
    host = pair.key.removeprefix(LOST_HOSTS)
    try:
        document = msgspec.json.decode(pair.value)
    except (ValueError, RecursionError):
        document = None
    if not isinstance(document, dict):
        return Fence(host, created=pair.create_revision)
    names = document.get("endpoints")
    return Fence(
        host,
        _text(document.get("at")),
        _text(document.get("by")),
        FenceState.DONE if document.get("state") == FenceState.DONE.value else FenceState.CLEANING,
        tuple(_text(name) for name in names) if isinstance(names, list) else (),
        pair.create_revision,
    )


def _text(value: object) -> str:
    return value if isinstance(value, str) else ""
