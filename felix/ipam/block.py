"""One block of addresses: who holds which, what is given next. Pure arithmetic on the value that Calico stores.

A block is a value: every change returns another one. Each change counts the sequence number up, and an address
remembers the number under which it was given, so that who releases it can say which giving is meant.
"""

from __future__ import annotations

import functools
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass, field, replace

import msgspec

from felix.errors import Problem
from felix.model.codec import decode
from felix.model.keys import BlockKey, format_key
from felix.model.net import Net, format_address
from felix.model.networks import AllocationBlock
from felix.model.shape import simplify

NODE = "node"
"""The attribute that says for which host an address was given."""
ENDPOINT = "endpoint"
"""The attribute that names the endpoint which was made with the address, as `namespace/name`."""
USE = "felix.use"
"""The attribute that says how an address is used that Felix gave: without endpoint for ever, or one will come."""
IPAM_ONLY = "ipam-only"
PENDING = "pending"
HOST_PREFIX = "host:"
_KNOWN = frozenset(
    """cidr affinity affinityClaimTime allocations unallocated attributes deleted sequenceNumber
    sequenceNumberForAllocation hostAffinity""".split()
)


@dataclass(frozen=True, slots=True)
class Holder:
    """Who holds addresses. handle: None when nobody can ask by it. unknown: what else is stored, kept as it is."""

    handle: str | None = None
    attributes: Mapping[str, str] = field(default_factory=dict)
    unknown: Mapping[str, object] = field(default_factory=dict)

    @property
    def node(self) -> str:
        """The host for which the address was given; empty when that is not known."""
        return self.attributes.get(NODE, "")

    @property
    def endpoint(self) -> str:
        """The endpoint that was made with the address, as `namespace/name`; empty when none was."""
        return self.attributes.get(ENDPOINT, "")


@dataclass(frozen=True, slots=True)
class Block:
    """The addresses of `net`, by their ordinal from 0.

    affinity: `host:<name>`, another owner, or None. claimed_at: RFC 3339, since when, or None. allocations: index
    into `holders`, or None when free. free: ordinals in the order in which they are given. sequences: under which
    number each held address was given. unknown: further fields, kept as they are.
    """

    net: Net
    affinity: str | None
    claimed_at: str | None
    allocations: tuple[int | None, ...]
    free: tuple[int, ...]
    holders: tuple[Holder, ...]
    sequence: int
    sequences: Mapping[int, int]
    unknown: Mapping[str, object] = field(default_factory=dict)

    @property
    def size(self) -> int:
        """The number of addresses."""
        return len(self.allocations)

    @property
    def is_empty(self) -> bool:
        """Whether nobody holds an address."""
        return len(self.free) == len(self.allocations)

    @property
    def host(self) -> str:
        """The host whose block it is; empty when it is no host's."""
        return (self.affinity or "").removeprefix(HOST_PREFIX) if is_host(self.affinity) else ""

    def address(self, ordinal: int) -> str:
        """Returns the text of an address."""
        return format_address(self.net.version, self.net.value + ordinal)

    def find_holder(self, ordinal: int) -> Holder | None:
        """Returns who holds an address, None when it is free."""
        index = self.allocations[ordinal]
        return None if index is None else self.holders[index]

    def held(self) -> Iterable[tuple[int, Holder]]:
        """Yields ordinal and holder of each address that somebody holds, in their order."""
        for ordinal, index in enumerate(self.allocations):
            if index is not None:
                yield ordinal, self.holders[index]


def host_affinity(host: str) -> str:
    """Returns the affinity of a block that is `host`'s."""
    return HOST_PREFIX + host


def is_host(affinity: str | None) -> bool:
    """Whether an affinity names a host."""
    return affinity is not None and affinity.startswith(HOST_PREFIX)


def new_block(net: Net, host: str, claimed_at: str, sequence: int) -> Block:
    """Returns an empty block of `host`. sequence: nanoseconds since 1970, so that no earlier block had its numbers."""
    size = 1 << (net.bits - net.length)
    return Block(net, host_affinity(host), claimed_at, (None,) * size, tuple(range(size)), (), sequence, {})


def take(block: Block, count: int, holder: Holder, is_reserved: Callable[[int], bool]) -> tuple[Block, tuple[int, ...]]:
    """Returns the block of which `holder` has up to `count` more addresses, and their ordinals; may be none.

    Given first is what has been free longest. is_reserved: says whether an address, as an integer, must not be given.
    """
    chosen: list[int] = []
    for ordinal in block.free:
        if len(chosen) == count:
            break
        if not is_reserved(block.net.value + ordinal):
            chosen.append(ordinal)
    return (_give(block, chosen, holder) if chosen else block), tuple(chosen)


def take_ordinal(block: Block, ordinal: int, holder: Holder) -> Block | None:
    """Returns the block of which `holder` has that address, None when somebody holds it."""
    return None if block.allocations[ordinal] is not None else _give(block, [ordinal], holder)


def give_back(block: Block, ordinals: Sequence[int]) -> Block:
    """Returns the block in which these addresses are free; those given back last are given out last."""
    going = [ordinal for ordinal in dict.fromkeys(ordinals) if block.allocations[ordinal] is not None]
    if not going:
        return block
    allocations = list(block.allocations)
    for ordinal in going:
        allocations[ordinal] = None
    used = sorted({index for index in allocations if index is not None})
    place_by_index = {index: place for place, index in enumerate(used)}
    return replace(
        block,
        allocations=tuple(None if index is None else place_by_index[index] for index in allocations),
        free=(*block.free, *going),
        holders=tuple(block.holders[index] for index in used),
        sequence=block.sequence + 1,
        sequences={ordinal: number for ordinal, number in block.sequences.items() if ordinal not in going},
    )


def without_affinity(block: Block) -> Block:
    """Returns the block as nobody's; who holds its addresses keeps them."""
    return replace(block, affinity=None, claimed_at=None, sequence=block.sequence + 1)


def count_by_handle(block: Block) -> dict[str, int]:
    """Returns how many addresses each handle has in the block; handles without any are missing."""
    counts: dict[str, int] = {}
    for _, holder in block.held():
        if holder.handle is not None:
            counts[holder.handle] = counts.get(holder.handle, 0) + 1
    return counts


@functools.lru_cache(maxsize=512)
def parse_block(net: Net, value: bytes) -> Block | Problem:
    """Returns the block that is stored as `value` under the key of `net`, or why it cannot be used.

    The order of free addresses is mended: those that somebody holds are left out, those that are missing come last.
    """
    key = BlockKey(net)
    decoded = decode(key, value)
    record = decoded.record
    if not isinstance(record, AllocationBlock):
        return decoded.problems[0]
    size = 1 << (net.bits - net.length)
    if len(record.allocations) != size:
        reason = f"expected {size} entries, one per address"
        return Problem(format_key(key), "allocations", str(len(record.allocations)), reason)
    for ordinal, index in enumerate(record.allocations):
        if index is not None and not 0 <= index < len(record.attributes):
            reason = f"expected the number of one of {len(record.attributes)} attributes"
            return Problem(format_key(key), f"allocations[{ordinal}]", str(index), reason)
    document = msgspec.convert(simplify(msgspec.json.decode(value)), dict[str, object])
    attributes = document.get("attributes")
    return Block(
        net=net,
        affinity=record.affinity or _old_affinity(document),
        claimed_at=_text(document.get("affinityClaimTime")),
        allocations=record.allocations,
        free=_mend_free(record),
        holders=tuple(_parse_holder(one) for one in (attributes if isinstance(attributes, list) else [])),
        sequence=record.sequence_number,
        sequences={
            int(ordinal): number
            for ordinal, number in (record.sequence_number_for_allocation or {}).items()
            if ordinal.isdecimal()
        },
        unknown={name: item for name, item in document.items() if name not in _KNOWN},
    )


def render_block(block: Block) -> bytes:
    """Returns the JSON that is stored, all of Calico's fields and those kept from before."""
    document: dict[str, object] = {**block.unknown, "cidr": str(block.net), "affinity": block.affinity}
    if block.claimed_at is not None:
        document["affinityClaimTime"] = block.claimed_at
    document |= {
        "allocations": block.allocations,
        "unallocated": block.free,
        "attributes": [_render_holder(holder) for holder in block.holders],
        "deleted": False,
        "sequenceNumber": block.sequence,
        "sequenceNumberForAllocation": {str(ordinal): number for ordinal, number in sorted(block.sequences.items())},
    }
    return msgspec.json.encode(document)


def clean_handle(handle: str) -> str:
    """Returns a handle as it is asked for: a migration of old once wrote some with a line behind them."""
    return handle.partition("\r")[0]


def _give(block: Block, ordinals: Sequence[int], holder: Holder) -> Block:
    holders = block.holders
    index = next((place for place, one in enumerate(holders) if one == holder), len(holders))
    if index == len(holders):
        holders = (*holders, holder)
    allocations = list(block.allocations)
    for ordinal in ordinals:
        allocations[ordinal] = index
    gone = set(ordinals)
    return replace(
        block,
        allocations=tuple(allocations),
        free=tuple(ordinal for ordinal in block.free if ordinal not in gone),
        holders=holders,
        sequence=block.sequence + 1,
        sequences={**block.sequences, **dict.fromkeys(ordinals, block.sequence)},
    )


def _mend_free(record: AllocationBlock) -> tuple[int, ...]:
    free = {ordinal for ordinal, index in enumerate(record.allocations) if index is None}
    listed = [ordinal for ordinal in dict.fromkeys(record.unallocated) if ordinal in free]
    if len(listed) == len(free):
        return tuple(listed)
    return (*listed, *sorted(free.difference(listed)))


def _old_affinity(document: Mapping[str, object]) -> str | None:
    host = document.get("hostAffinity")
    return host_affinity(host) if isinstance(host, str) and host else None


def _parse_holder(value: object) -> Holder:
    document = value if isinstance(value, dict) else {}
    handle, secondary = document.get("handle_id"), document.get("secondary")
    return Holder(
        handle=clean_handle(handle) if isinstance(handle, str) else None,
        attributes=secondary if isinstance(secondary, dict) else {},
        unknown={name: item for name, item in document.items() if name not in {"handle_id", "secondary"}},
    )


def _render_holder(holder: Holder) -> dict[str, object]:
    secondary = dict(holder.attributes) or None
    return {**holder.unknown, "handle_id": holder.handle, "secondary": secondary}


def _text(value: object) -> str | None:
    return value if isinstance(value, str) else None
