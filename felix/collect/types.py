"""What the collector looks at, and what it comes to: findings, hosts, and what is due. Pure."""

from __future__ import annotations

import enum
from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import NamedTuple

from felix.datastore.fence import Fence
from felix.ipam.audit import Inventory, StoredEndpoint
from felix.model.keys import AffinityKey
from felix.model.net import Net

KINDS = ("address", "handle", "count", "affinity")
"""What can be found wrong, as metrics name it; in the order of the findings below."""


class AddressLeak(NamedTuple):
    """An address that nobody uses. sequence, handle_revision: of this giving; whoever takes it up changes one."""

    address: Net
    block: Net
    handle: str
    sequence: int
    handle_revision: int


class EmptyHandle(NamedTuple):
    """A handle of which no block knows anything."""

    handle: str
    revision: int


class WrongCount(NamedTuple):
    """A handle that counts other than its blocks have. blocks: those, and what it really has in each."""

    handle: str
    revision: int
    blocks: tuple[tuple[Net, int], ...]


class Orphan(NamedTuple):
    """A claim of a block that contradicts the block."""

    key: AffinityKey
    revision: int


Finding = AddressLeak | EmptyHandle | WrongCount | Orphan
"""Something wrong. Equal findings are the same thing, unchanged in between."""


class Graces(NamedTuple):
    """How long something must have been so before it is dealt with, in seconds; 0: it never is."""

    leak_s: float
    lost_host_s: float

    @property
    def shortest_s(self) -> float:
        """The shorter of those that are not 0; 0 when both are."""
        return min((one for one in self if one), default=0.0)


@dataclass(frozen=True, slots=True)
class World:
    """Everything that is stored and counts here; the inventory at one revision, the signs of life a little later.

    alive: hosts whose lease lives. reported: hosts that once said that they live. fences: by host.
    """

    inventory: Inventory
    alive: frozenset[str] = frozenset()
    reported: frozenset[str] = frozenset()
    fences: Mapping[str, Fence] = field(default_factory=dict)

    def endpoints_of(self, host: str) -> dict[str, StoredEndpoint]:
        """Returns the endpoints of a host, by key."""
        return {key: one for key, one in self.inventory.endpoints.items() if one.host == host}


class Reach(NamedTuple):
    """What this host's kernel knows of others. routes: that BIRD put there. blindness: why that means nothing now."""

    routes: frozenset[Net] = frozenset()
    blindness: str = ""


class HostState(enum.Enum):
    """A host that holds something, and gives no sign of life."""

    SILENT = "silent"
    REACHABLE = "reachable"
    FENCED = "fenced"


class LostHost(NamedTuple):
    """A host to be given up. silent_s: for how long it has been silent, as this collector saw it."""

    name: str
    silent_s: float


@dataclass(frozen=True, slots=True)
class Due:
    """What is to be done now, and how things are.

    resume: fences of hosts whose cleaning somebody began. lift: fences of hosts that live and know nothing of fences.
    held: why findings, or hosts, are left alone although their time has come. counts: of what is wrong, by kind.
    """

    findings: tuple[Finding, ...] = ()
    lost: tuple[LostHost, ...] = ()
    resume: tuple[Fence, ...] = ()
    lift: tuple[Fence, ...] = ()
    held: tuple[str, ...] = ()
    counts: Mapping[str, int] = field(default_factory=dict)
    states: Mapping[str, HostState] = field(default_factory=dict)


def kind_of(finding: Finding) -> str:
    """Returns the finding's kind, as metrics name it."""
    return KINDS[(AddressLeak, EmptyHandle, WrongCount, Orphan).index(type(finding))]
