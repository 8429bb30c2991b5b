"""Whether what address management stores agrees with itself and with the endpoints that exist. Pure.

Needs no orchestrator: an address is in use if a workload endpoint or a node's tunnel has it.
"""

from __future__ import annotations

import operator
from collections import Counter
from collections.abc import Iterator, Mapping, Sequence, Set
from dataclasses import dataclass, field
from typing import NamedTuple

import msgspec

from felix.ipam.block import ENDPOINT, IPAM_ONLY, USE, Holder, count_by_handle
from felix.ipam.draft import StoredBlock
from felix.ipam.pools import Pool
from felix.ipam.records import CONFIRMED, Affinity, Handle
from felix.model.keys import AffinityKey
from felix.model.net import Net

_CALICO_ATTRIBUTES = frozenset({"node", "namespace", "pod", "timestamp"})
"""What Calico's CNI plug-in says of an address; all of its addresses have an endpoint."""
_RESERVED_HANDLES = frozenset({"windows-reserved-ipam-handle"})


class StoredEndpoint(NamedTuple):
    """What counts of an endpoint here. name: `namespace/name`. container: small letters, may be empty."""

    name: str
    host: str
    container: str
    revision: int


@dataclass(frozen=True, slots=True)
class Inventory:
    """What is stored. users_by_address: endpoints and tunnels that have an address, by name. hosts: that exist.

    endpoints: by key. unreadable_endpoints: keys of those of which nobody knows which addresses they have.
    """

    revision: int
    pools: Sequence[Pool]
    blocks: Mapping[Net, StoredBlock]
    handles: Mapping[str, Handle]
    affinities: Mapping[AffinityKey, Affinity]
    users_by_address: Mapping[Net, Sequence[str]]
    hosts: frozenset[str]
    endpoints: Mapping[str, StoredEndpoint] = field(default_factory=dict)
    unreadable_endpoints: tuple[str, ...] = ()


class _Row(msgspec.Struct, frozen=True, rename="camel"):
    """One finding; as JSON with the names of Calico's fields."""


class Leak(_Row, frozen=True):
    """An address that is given out and that nobody uses. sequence_number: of this giving, 0 when there is none.

    kept: why it is not taken back without a person's word; empty: the collector does it.
    """

    ip: str
    block: str
    handle: str
    node: str
    sequence_number: int
    reason: str
    kept: str = ""


class Use(_Row, frozen=True):
    """An address and those who use it."""

    ip: str
    users: tuple[str, ...]


class Count(_Row, frozen=True):
    """A handle that counts other than the block has."""

    handle: str
    block: str
    counted: int
    allocated: int


class Claim(_Row, frozen=True):
    """A claim of a block that does not hold, and why."""

    host: str
    block: str
    state: str
    reason: str


class Audit(_Row, frozen=True):
    """Everything that was looked at, and what is wrong. unclaimed: blocks whose host's claim is missing."""

    revision: int
    blocks: int
    allocated: int
    in_use: int
    leaks: tuple[Leak, ...] = ()
    not_allocated: tuple[Use, ...] = ()
    outside_pools: tuple[Use, ...] = ()
    duplicates: tuple[Use, ...] = ()
    empty_handles: tuple[str, ...] = ()
    wrong_counts: tuple[Count, ...] = ()
    orphan_affinities: tuple[Claim, ...] = ()
    unclaimed: tuple[Claim, ...] = ()
    unreadable: tuple[str, ...] = ()

    @property
    def problems(self) -> int:
        """How many things are wrong."""
        return sum(len(value) for name in Audit.__struct_fields__ if isinstance(value := getattr(self, name), tuple))


def audit(inventory: Inventory) -> Audit:
    """Returns what is wrong with an inventory."""
    users = inventory.users_by_address
    allocated = {
        Net(net.version, net.value + ordinal, net.bits)
        for net, stored in inventory.blocks.items()
        for ordinal, _ in (stored.block.held() if stored.block else ())
    }
    outside = [address for address in users if not _is_in_pool(inventory, address)]
    actual = _count_allocations(inventory.blocks)
    unreadable = {str(net) for net, stored in inventory.blocks.items() if stored.problem}
    return Audit(
        revision=inventory.revision,
        blocks=len(inventory.blocks),
        allocated=len(allocated),
        in_use=len(users),
        leaks=tuple(_find_leaks(inventory)),
        not_allocated=_uses(inventory, [one for one in users if one not in allocated and one not in outside]),
        outside_pools=_uses(inventory, outside),
        duplicates=_uses(inventory, [address for address, names in users.items() if len(names) > 1]),
        empty_handles=tuple(
            name
            for name, handle in sorted(inventory.handles.items())
            if name not in actual and unreadable.isdisjoint(handle.counts)
        ),
        wrong_counts=tuple(_find_wrong_counts(inventory.handles, actual)),
        orphan_affinities=tuple(_find_orphans(inventory)),
        unclaimed=tuple(_find_unclaimed(inventory)),
        unreadable=tuple(str(stored.problem) for _, stored in sorted(inventory.blocks.items()) if stored.problem),
    )


def intersect_leaks(audits: Sequence[Audit]) -> list[Leak]:
    """Returns the leaks that every audit found, given out under the same number: each was unused all the time."""
    first, *others = audits
    sets = [{(leak.ip, leak.handle, leak.sequence_number) for leak in one.leaks} for one in others]
    return [leak for leak in first.leaks if all((leak.ip, leak.handle, leak.sequence_number) in one for one in sets)]


def _find_leaks(inventory: Inventory) -> Iterator[Leak]:
    names = {one.name for one in inventory.endpoints.values()}
    containers = {one.container for one in inventory.endpoints.values() if one.container}
    for net, stored in sorted(inventory.blocks.items()):
        block = stored.block
        if block is None:
            continue
        for ordinal, holder in block.held():
            address = Net(net.version, net.value + ordinal, net.bits)
            if address in inventory.users_by_address or holder.handle in _RESERVED_HANDLES:
                continue
            is_lost = bool(holder.node) and holder.node not in inventory.hosts
            if holder.attributes.get(USE) == IPAM_ONLY and not is_lost:
                continue  # it never gets an endpoint
            reason = "its host does not exist" if is_lost else "no endpoint has it"
            kept = _explain_keeping(holder, names, containers, is_lost=is_lost)
            sequence = block.sequences.get(ordinal, 0)
            yield Leak(address.address, str(net), holder.handle or "", holder.node, sequence, reason, kept)


def _explain_keeping(holder: Holder, names: Set[str], containers: Set[str], *, is_lost: bool) -> str:
    """Returns why an unused address may be somebody's all the same; empty when it cannot be."""
    attributes = holder.attributes
    if str(attributes.get("type", "")).endswith("TunnelAddress"):
        return "it was given to a tunnel"
    if holder.handle is None or not (
        USE in attributes or ENDPOINT in attributes or attributes.keys() <= _CALICO_ATTRIBUTES
    ):
        return "nobody knows who asked for it"
    if attributes.get(USE) == IPAM_ONLY:
        return "it never gets an endpoint; it goes with its host" if is_lost else ""
    if attributes.get(ENDPOINT) in names:
        return "its endpoint is there, without it"
    if not containers.isdisjoint(holder.handle.lower().split(".")):
        return "its container has another endpoint"
    return ""


def _find_wrong_counts(handles: Mapping[str, Handle], actual: Mapping[str, Counter[str]]) -> Iterator[Count]:
    for name in sorted({*handles, *actual}):
        if name not in actual:
            continue  # told as a handle without addresses
        counted = handles[name].counts if name in handles else {}
        for block in sorted({*counted, *actual[name]}):
            if counted.get(block, 0) != actual[name][block]:
                yield Count(name, block, counted.get(block, 0), actual[name][block])


def _count_allocations(blocks: Mapping[Net, StoredBlock]) -> dict[str, Counter[str]]:
    counts: dict[str, Counter[str]] = {}
    for net, stored in blocks.items():
        for handle, count in (count_by_handle(stored.block) if stored.block else {}).items():
            counts.setdefault(handle, Counter())[str(net)] = count
    return counts


def _find_orphans(inventory: Inventory) -> Iterator[Claim]:
    for key, affinity in sorted(inventory.affinities.items()):
        stored = inventory.blocks.get(key.block)
        if stored is None:
            reason = "there is no such block"
        elif stored.block is not None and stored.block.host != key.host:
            reason = f"the block is of {stored.block.host or stored.block.affinity or 'nobody'}"
        elif key.host not in inventory.hosts:
            reason = "its host does not exist"
        elif affinity.state != CONFIRMED:
            reason = "somebody stopped half way"
        else:
            continue
        yield Claim(key.host, str(key.block), affinity.state, reason)


def _find_unclaimed(inventory: Inventory) -> Iterator[Claim]:
    for net, stored in sorted(inventory.blocks.items()):
        host = stored.block.host if stored.block else ""
        if host and AffinityKey(host, net) not in inventory.affinities:
            yield Claim(host, str(net), "", "the host does not claim its block")


def _uses(inventory: Inventory, addresses: Sequence[Net]) -> tuple[Use, ...]:
    return tuple(Use(one.address, tuple(sorted(inventory.users_by_address[one]))) for one in sorted(addresses))


def _is_in_pool(inventory: Inventory, address: Net) -> bool:
    return any(operator.contains(pool.net, address) for pool in inventory.pools)
