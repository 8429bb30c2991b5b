"""What an allocation is asked for, what it stands on, and what comes out. Pure."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field

from felix.ipam.block import NODE, Holder
from felix.ipam.draft import Draft, StoredBlock
from felix.ipam.pools import (
    WORKLOAD,
    Pool,
    Reserved,
)
from felix.ipam.records import Affinity, Handle, IpamConfig
from felix.model.net import Net


@dataclass(frozen=True, slots=True)
class Request:
    """How many addresses a host wants, and for whom. handle: under which they are released, empty: none.

    attributes: stored beside them, the host's name is added. pools: names or prefixes; empty: what selects the host.
    """

    host: str
    handle: str
    ipv4: int = 0
    ipv6: int = 0
    attributes: Mapping[str, str] = field(default_factory=dict)
    pools: tuple[str, ...] = ()
    use: str = WORKLOAD
    namespace_labels: Mapping[str, str] = field(default_factory=dict)

    @property
    def holder(self) -> Holder:
        """What a block says of these addresses."""
        return Holder(self.handle or None, {**self.attributes, NODE: self.host})


@dataclass(slots=True)
class Situation:
    """What is stored. affinities: of the request's host. blocks: those of these affinities, all if `is_whole`."""

    pools: tuple[Pool, ...]
    reserved: Reserved
    config: IpamConfig
    node_labels: Mapping[str, str]
    affinities: Mapping[Net, Affinity]
    blocks: Mapping[Net, StoredBlock]
    handle: Handle
    is_whole: bool = False


@dataclass(slots=True)
class Plan:
    """A transaction, and the addresses that it gives; IPv4 and IPv6 in the order in which they were found.

    blocks: all that were known, as they are afterwards, for whoever plans on top of this.
    """

    draft: Draft = field(default_factory=Draft)
    addresses: list[Net] = field(default_factory=list)
    blocks: Mapping[Net, StoredBlock] = field(default_factory=dict)
