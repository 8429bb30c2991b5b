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


class RedirectFound(NamedTuple):
    """Where what comes in by an interface is led: the index of a device, by a filter of ours."""

    link: int
    device: int


class RedirectEvent(NamedTuple):
    """Our filter on an interface came (device: where it leads) or went (None). port: who asked for it."""

    link: int
    device: int | None
    port: int


TrafficEvent = QdiscEvent | RedirectEvent
TrafficFound = QdiscFound | RedirectFound


@dataclass(frozen=True, slots=True)
class QdiscPlanned:
    """What to do, in this order.

    stale_redirects: interfaces whose filter goes. devices: names of those to make, or to set up. stale: interfaces
    whose shaper goes. shapers, redirects: what to set, by interface index. stale_devices: indexes of those that go.
    """

    stale_redirects: tuple[int, ...] = ()
    devices: tuple[str, ...] = ()
    stale: tuple[int, ...] = ()
    shapers: tuple[tuple[int, Shaper], ...] = ()
    redirects: tuple[tuple[int, int], ...] = ()
    stale_devices: tuple[int, ...] = ()

    def __bool__(self) -> bool:
        return any(getattr(self, name) for name in self.__slots__)


Answers = tuple[Refusal | None, ...]


@dataclass(frozen=True, slots=True)
class QdiscResult:
    """What became of a plan: for each of its parts one answer for each entry, in order; None: done."""

    stale_redirects: Answers = ()
    devices: Answers = ()
    stale: Answers = ()
    shapers: Answers = ()
    redirects: Answers = ()
    stale_devices: Answers = ()

    @property
    def done_count(self) -> int:
        """How many entries changed the kernel."""
        return sum(answer is None for name in self.__slots__ for answer in getattr(self, name))
