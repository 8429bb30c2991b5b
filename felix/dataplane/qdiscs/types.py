"""Queueing disciplines of workload interfaces: the one kind that Felix sets, and what a plan for them consists of."""

from __future__ import annotations

from dataclasses import dataclass
from typing import NamedTuple

from felix.dataplane.netlink.message import Refusal


class Shaper(NamedTuple):
    """A token bucket filter (tc-tbf) at the root of an interface: it delays what comes too fast, up to its limit.

    rate_bytes, peak_bytes: per second; peak_bytes 0: none. burst, peak_burst: as time that the bucket lasts at its
    rate, in ticks of 64 ns, which is how the kernel keeps it. limit_bytes: how much may wait.
    """

    rate_bytes: int
    burst: int
    limit_bytes: int
    peak_bytes: int = 0
    peak_burst: int = 0


class QdiscFound(NamedTuple):
    """What stands at the root of an interface. is_ours: it carries our handle. shaper: None if it is something else."""

    link: int
    is_ours: bool
    shaper: Shaper | None


class QdiscEvent(NamedTuple):
    """One announced change of the root of an interface. found: None when it is gone. port: who asked for it."""

    link: int
    found: QdiscFound | None
    port: int


@dataclass(frozen=True, slots=True)
class QdiscPlanned:
    """Shapers to set, by interface index, and interfaces whose shaper goes."""

    shapers: tuple[tuple[int, Shaper], ...] = ()
    stale: tuple[int, ...] = ()

    def __bool__(self) -> bool:
        return bool(self.shapers or self.stale)


@dataclass(frozen=True, slots=True)
class QdiscResult:
    """What became of a plan: one answer for each entry, in order; None: done."""

    shapers: tuple[Refusal | None, ...] = ()
    stale: tuple[Refusal | None, ...] = ()
