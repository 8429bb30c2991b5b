"""What one apply cycle tells the rest of the agent: states of endpoints, problems, what was written. Pure."""

from __future__ import annotations

import enum
from dataclasses import dataclass, field

from felix.errors import Problem
from felix.model.keys import ResourceKey


class EndpointCondition(enum.Enum):
    """How a local endpoint stands: enforced and connected, not connected, or closed because something failed."""

    UP = "up"
    DOWN = "down"
    ERROR = "error"


@dataclass(frozen=True, slots=True)
class EndpointReport:
    """One endpoint after a cycle. is_enforced: the kernel leads its packets to its policy.

    reason: why it is not up; of one that is up, which of its limits the kernel cannot keep, mostly empty.
    """

    condition: EndpointCondition
    is_enforced: bool
    reason: str = ""


@dataclass(slots=True)
class Cycle:
    """One apply cycle.

    endpoints: those whose report changed; None: not wanted any more. latencies_s: from the arrival of each endpoint's
    change to its enforcement. writes_by_family: operations that changed the kernel; empty when nothing was to do.
    problems: of the dataplane, by policy or endpoint, all that there are now; None: as before.
    revision: everything up to this datastore revision is in the kernel; 0: unknown, something failed.
    """

    revision: int = 0
    duration_s: float = 0.0
    endpoints: dict[ResourceKey, EndpointReport | None] = field(default_factory=dict)
    latencies_s: list[float] = field(default_factory=list)
    writes_by_family: dict[str, int] = field(default_factory=dict)
    failures: dict[str, str] = field(default_factory=dict)
    problems: dict[ResourceKey, Problem] | None = None
    is_settled: bool = False

    def note_writes(self, family: str, count: int) -> None:
        """`count` more operations of `family` changed the kernel."""
        if count:
            self.writes_by_family[family] = self.writes_by_family.get(family, 0) + count
