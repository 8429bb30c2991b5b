"""What the BIRD family computes with: a configuration as values, and what a running BIRD says of itself.

Every text in a `BirdContext` is one that `context` and `filters` made or checked; `render` checks it once more.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import NamedTuple

from felix.errors import Problem
from felix.model.keys import ResourceKey
from felix.model.net import Net


class Secret(str):
    """A text that is never printed: neither `repr` nor a dataclass that holds it shows what it is."""

    __slots__ = ()

    def __repr__(self) -> str:
        return "Secret(…)"


SecretKey = tuple[str, str]
"""Name of a secret and key inside it, as a BGPPeer's `secretKeyRef` has them."""


@dataclass(frozen=True, slots=True)
class BirdOptions:
    """What the host knows and the datastore does not.

    secret_by_key: passwords that may be referred to. route_protocol: the rtnetlink protocol of the agent's routes.
    interface_prefixes: of workload interfaces, which BIRD must not look at.
    """

    secret_by_key: Mapping[SecretKey, Secret] = field(default_factory=dict)
    route_protocol: int = 80
    interface_prefixes: tuple[str, ...] = ("cali",)


@dataclass(frozen=True, slots=True)
class FilterRule:
    """One rule of a BGPFilter: all `conditions` hold → `operations` are done, then `verdict` (accept or reject)."""

    conditions: tuple[str, ...]
    operations: tuple[str, ...]
    verdict: str


@dataclass(frozen=True, slots=True)
class FilterFunction:
    """One direction of one BGPFilter for one family, as a function of the configuration."""

    name: str
    origin: ResourceKey
    rules: tuple[FilterRule, ...]


@dataclass(frozen=True, slots=True)
class Family:
    """What belongs to one address family.

    pools: all pools. exported_pools: those whose addresses may be announced. unprogrammed_pools: those whose
    routes are not BIRD's to write into the kernel. own_blocks: announced, longest first.
    communities: prefix → operations that mark announced routes inside.
    reachable: (peer, gateway) of peers that are reached through a given gateway.
    """

    version: int
    pools: tuple[Net, ...]
    exported_pools: tuple[Net, ...]
    unprogrammed_pools: tuple[Net, ...]
    own_blocks: tuple[Net, ...]
    communities: tuple[tuple[Net, tuple[str, ...]], ...]
    reachable: tuple[tuple[str, str], ...]

    @property
    def bits(self) -> int:
        """The number of bits of an address: 32 or 128."""
        return 32 if self.version == 4 else 128


@dataclass(frozen=True, slots=True)
class Session:
    """One BGP session; None or 0 means that BIRD's default holds.

    name: of the protocol, the same as long as kind and address are. origin: the object that asked for it.
    is_source_fixed: whether packets come from `local_address`, which is empty otherwise.
    filter_names: of BGPFilters; imports, exports: of their functions, in order.
    is_closed: nothing passes, because a filter is unusable.
    hops: 0 for any distance; with `ttl_security` the greatest that is allowed.
    """

    name: str
    origin: ResourceKey
    version: int
    neighbor: str
    neighbor_port: int
    neighbor_as: int
    local_address: str
    local_port: int
    local_as: int
    is_source_fixed: bool = True
    is_strict_bind: bool = False
    is_passive: bool = False
    password: Secret | None = None
    is_client: bool = False
    cluster_id: str = ""
    next_hop: str = ""
    hops: int = 0
    ttl_security: bool = False
    restart_time_s: int = 0
    keepalive_time_s: int = 0
    allowed_local_as: int = 0
    filter_names: tuple[str, ...] = ()
    imports: tuple[str, ...] = ()
    exports: tuple[str, ...] = ()
    is_closed: bool = False

    @property
    def is_ebgp(self) -> bool:
        """Whether the neighbour is in another autonomous system."""
        return self.local_as != self.neighbor_as


@dataclass(frozen=True, slots=True)
class BirdContext:
    """One whole configuration of BIRD, all decisions made."""

    router_id: str
    log_classes: tuple[str, ...]
    debug: str
    ignored_interfaces: tuple[str, ...]
    workload_interfaces: tuple[str, ...]
    route_protocol: int
    families: tuple[Family, ...]
    filters: tuple[FilterFunction, ...]
    sessions: tuple[Session, ...]


class BuiltContext(NamedTuple):
    """A configuration and everything in the datastore that could not be used for it."""

    context: BirdContext
    problems: tuple[Problem, ...]


@dataclass(frozen=True, slots=True)
class ChannelState:
    """One address family of a session: routes taken in, announced, and preferred over others."""

    name: str
    state: str
    imported: int
    exported: int
    preferred: int


@dataclass(frozen=True, slots=True)
class ProtocolState:
    """One protocol of a running BIRD.

    kind: BGP, Kernel, Static, Device, Direct. state: up, start, down, stop, flush. since: ISO 8601 with zone.
    info: BIRD's own words; for BGP the session's state and the last error.
    """

    name: str
    kind: str
    state: str
    since: str
    info: str
    bgp_state: str = ""
    neighbor: str = ""
    neighbor_as: int = 0
    last_error: str = ""
    channels: tuple[ChannelState, ...] = ()

    @property
    def is_established(self) -> bool:
        """Whether this is a BGP session that exchanges routes."""
        return self.bgp_state == "Established"


@dataclass(frozen=True, slots=True)
class BirdState:
    """What a running BIRD says. digest: of the configuration it runs, empty when that is not one of ours."""

    version: str
    router_id: str
    digest: str
    protocols: tuple[ProtocolState, ...]


@dataclass(frozen=True, slots=True)
class BirdOutcome:
    """What became of one apply.

    is_current: BIRD runs exactly what was asked for, less what `problems` name.
    fault: why it does not, empty when it does; the rest of the host goes on whatever it says.
    """

    is_current: bool
    is_written: bool
    is_configured: bool
    digest: str
    problems: tuple[Problem, ...]
    fault: str = ""
