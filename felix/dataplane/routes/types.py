"""Routes as values: what identifies one, what can differ, and what a plan consists of."""

from __future__ import annotations

import enum
from dataclasses import dataclass
from typing import NamedTuple

from felix.dataplane.netlink.message import Refusal
from felix.model.net import Net

RTN_UNICAST = 1
RTN_BLACKHOLE = 6
BIRD_PROTOCOL = 12
"""What marks a route as BIRD's."""
SCOPE_UNIVERSE = 0
SCOPE_LINK = 253


@dataclass(frozen=True, slots=True)
class RouteConfig:
    """Where routes are kept and what marks them as ours.

    protocol: only routes that carry it are ever removed. priority4, priority6: metric; 0 becomes 1024 for IPv6.
    The default of 0 for IPv4 takes over a route that a plug-in made for the same address instead of standing behind it.
    """

    protocol: int = 80
    table: int = 254
    priority4: int = 0
    priority6: int = 1024


class RouteKey(NamedTuple):
    """What the kernel identifies a route by, within one table."""

    net: Net
    priority: int
    tos: int = 0


class RouteValue(NamedTuple):
    """Everything else about a route.

    kind: RTN_…. scope: RT_SCOPE_…, always 0 for IPv6. interface: its index, 0 for blackholes.
    extra: attributes that Felix never sets (source, metrics, ...), as type and payload, sorted; empty in
    every desired route, so whatever somebody added by hand shows as a difference.
    gateway: None if the destination itself is at the interface. is_onlink: the gateway is there whatever routes say.
    """

    kind: int
    scope: int
    interface: int
    extra: tuple[tuple[int, bytes], ...] = ()
    gateway: Net | None = None
    is_onlink: bool = False

    @property
    def is_multipath(self) -> bool:
        """Whether it has several hops at once, each with an interface of its own."""
        return self.kind == RTN_UNICAST and not self.interface


class Hop(NamedTuple):
    """The way to another host: by the interface of that name, to `gateway`; None: the destination is there itself."""

    interface: str
    gateway: Net | None


class RouteEvent(NamedTuple):
    """One announced change. value: None for a removal where only the key matters.

    is_ours: the route carries our protocol. is_replace: it took the place of another route. port: who asked for it.
    """

    is_new: bool
    is_replace: bool
    is_ours: bool
    port: int
    key: RouteKey
    value: RouteValue


class Verb(enum.Enum):
    """What to do with a route."""

    REPLACE = "replace"
    DELETE = "delete"


class RouteOperation(NamedTuple):
    """One message to the kernel: REPLACE puts `value` at `key`, DELETE removes exactly that route of ours."""

    verb: Verb
    key: RouteKey
    value: RouteValue


RoutePlanned = tuple[RouteOperation, ...]
"""Operations in the order in which they must reach the kernel. Empty: no system call."""


@dataclass(frozen=True, slots=True)
class RouteResult:
    """What became of a plan: one answer for each operation, in order; None: done."""

    answers: tuple[Refusal | None, ...]
