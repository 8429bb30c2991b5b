"""What this host's routing daemon has to know of the cluster, as one frozen picture."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from types import MappingProxyType
from typing import TypeVar

from felix.model.keys import ResourceKey
from felix.model.net import Net
from felix.model.records import BGPConfiguration, BGPFilter, BGPPeer, IPPool, Node

R = TypeVar("R", Node, BGPConfiguration, BGPPeer, BGPFilter, IPPool)
BGP_KINDS = frozenset({"Node", "BGPConfiguration", "BGPPeer", "BGPFilter", "IPPool"})


@dataclass(frozen=True, slots=True)
class BgpInputs:
    """All records that decide about BGP, by name, as they were at one moment.

    hostname: the name of this host's Node, which `nodes` may lack. blocks: allocation blocks of this host, sorted.
    """

    hostname: str
    nodes: Mapping[str, Node]
    configurations: Mapping[str, BGPConfiguration]
    peers: Mapping[str, BGPPeer]
    filters: Mapping[str, BGPFilter]
    pools: Mapping[str, IPPool]
    blocks: tuple[Net, ...]


class BgpBoard:
    """The records that decide about BGP as they are now, and whether they changed since the last picture."""

    def __init__(self, hostname: str) -> None:
        self._hostname = hostname
        self._nodes: dict[str, Node] = {}
        self._configurations: dict[str, BGPConfiguration] = {}
        self._peers: dict[str, BGPPeer] = {}
        self._filters: dict[str, BGPFilter] = {}
        self._pools: dict[str, IPPool] = {}
        self._blocks: dict[Net, None] = {}
        self._is_changed = True  # no record at all is a picture too: it takes away what an earlier run left

    @property
    def nodes_count(self) -> int:
        """How many nodes the cluster has."""
        return len(self._nodes)

    def set_record(self, key: ResourceKey, record: object) -> None:
        """`record` is stored under `key`; None or something of another kind: nothing is."""
        match key.kind:
            case "Node":
                self._put(self._nodes, Node, key.name, record)
            case "BGPConfiguration":
                self._put(self._configurations, BGPConfiguration, key.name, record)
            case "BGPPeer":
                self._put(self._peers, BGPPeer, key.name, record)
            case "BGPFilter":
                self._put(self._filters, BGPFilter, key.name, record)
            case "IPPool":
                self._put(self._pools, IPPool, key.name, record)

    def set_block(self, block: Net, *, is_own: bool) -> None:
        """`block` is one of this host's allocation blocks, or is none of them."""
        if is_own == (block in self._blocks):
            return
        self._is_changed = True
        if is_own:
            self._blocks[block] = None
        else:
            del self._blocks[block]

    def pop_inputs(self) -> BgpInputs | None:
        """Returns the picture of now, or None if nothing changed since the last one."""
        if not self._is_changed:
            return None
        self._is_changed = False
        return BgpInputs(
            hostname=self._hostname,
            nodes=_freeze(self._nodes),
            configurations=_freeze(self._configurations),
            peers=_freeze(self._peers),
            filters=_freeze(self._filters),
            pools=_freeze(self._pools),
            blocks=tuple(sorted(self._blocks)),
        )

    def _put(self, shelf: dict[str, R], kind: type[R], name: str, record: object) -> None:
        if not isinstance(record, kind):
            self._is_changed |= shelf.pop(name, None) is not None
        elif shelf.get(name) != record:
            self._is_changed = True
            shelf[name] = record


def _freeze(shelf: Mapping[str, R]) -> Mapping[str, R]:
    """Returns an unchangeable copy, sorted by name, so that equal pictures are read in equal order."""
    return MappingProxyType(dict(sorted(shelf.items())))
