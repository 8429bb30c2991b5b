"""Interfaces, what is set on them, and what a plan for them consists of."""

from __future__ import annotations

import enum
from dataclasses import dataclass, field
from typing import NamedTuple

from felix.dataplane.netlink.message import Refusal
from felix.model.net import Net

HOST = 0
"""Stands where an interface index stands, for settings of the whole host (namespace). No interface has index 0."""


@dataclass(frozen=True, slots=True)
class LinkConfig:
    """What Felix may set.

    has_host_forwarding: whether the switches for forwarding of the whole host are ours to turn on.
    has_ipv6: whether workloads have IPv6: this kernel has it, and Ipv6Support is on.
    protocol: marks our permanent neighbours; others are not removed.
    allows_spoofing: whether endpoints may send from the prefixes that they name besides their addresses.
    """

    has_host_forwarding: bool = True
    has_ipv6: bool = True
    protocol: int = 80
    allows_spoofing: bool = False


@dataclass(frozen=True, slots=True)
class Link:
    """One interface as the kernel describes it.

    is_up: administratively up: it can hold routes. is_operational: packets can pass too (the other end is up).
    mac: six bytes, or empty where the kind of interface has none. mtu: bytes of a packet that it takes whole.
    """

    index: int
    name: str
    is_up: bool
    is_operational: bool
    mac: bytes
    mtu: int = 0


@dataclass(frozen=True, slots=True)
class LinkGone:
    """There is no interface with this index any more."""

    index: int


class LinkState(enum.Enum):
    """What an endpoint's interface is like."""

    ABSENT = "absent"
    DOWN = "down"
    UP = "up"


class NeighbourKey(NamedTuple):
    """An entry of the neighbour table: the interface's index and one address."""

    link: int
    address: Net


class NeighbourValue(NamedTuple):
    """mac: six bytes. is_ours: it carries our protocol and is permanent; any other entry is not what we want."""

    mac: bytes
    is_ours: bool


@dataclass(frozen=True, slots=True)
class NeighbourEvent:
    """One announced change; value: None when the entry is gone or not permanent. port: who asked for it."""

    key: NeighbourKey
    value: NeighbourValue | None
    port: int


@dataclass(frozen=True, slots=True)
class SettingEvent:
    """Switches of an interface (HOST: of all) as somebody just set them. Only those that differ from ours matter."""

    index: int
    is_as_wanted: bool


LinkEvent = Link | LinkGone | NeighbourEvent | SettingEvent


class Sysctl(NamedTuple):
    """One value under /proc/sys. path: relative to it, `net/ipv4/conf/cali1/forwarding`."""

    path: str
    value: str


class Settings(NamedTuple):
    """Switches of one interface (HOST: of the host, with an empty name), in the order in which they must be set."""

    link: int
    name: str
    sysctls: tuple[Sysctl, ...]


@dataclass(frozen=True, slots=True)
class LinkPlanned:
    """Settings to verify and mend, neighbours to write and, after them, neighbours to remove."""

    settings: tuple[Settings, ...] = ()
    neighbours: tuple[tuple[NeighbourKey, NeighbourValue], ...] = ()
    stale_neighbours: tuple[NeighbourKey, ...] = ()

    def __bool__(self) -> bool:
        return bool(self.settings or self.neighbours or self.stale_neighbours)


class SysctlMended(NamedTuple):
    """A value that was not right and is now."""

    path: str
    before: str
    value: str


@dataclass(frozen=True, slots=True)
class LinkResult:
    """What became of a plan.

    reason_by_link: settings that could not be made, by index; the others stand. mended: what was written.
    neighbours, stale_neighbours: one answer per entry of the plan, in order; None: done.
    """

    reason_by_link: dict[int, str] = field(default_factory=dict)
    mended: tuple[SysctlMended, ...] = ()
    neighbours: tuple[Refusal | None, ...] = ()
    stale_neighbours: tuple[Refusal | None, ...] = ()
