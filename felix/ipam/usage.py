"""How full pools and blocks are, and who uses addresses of whose blocks. Pure."""

from __future__ import annotations

import operator
from collections.abc import Iterable, Iterator, Mapping

import msgspec

from felix.ipam.draft import StoredBlock
from felix.ipam.pools import Pool
from felix.model.net import Net


class BlockUsage(msgspec.Struct, frozen=True, rename="camel"):
    """One block. total and used count addresses; a block that cannot be read has none used."""

    cidr: str
    affinity: str | None
    total: int
    used: int


class PoolUsage(msgspec.Struct, frozen=True, rename="camel"):
    """One pool and its blocks. name and cidr are empty for blocks that lie in no pool."""

    name: str
    cidr: str
    total: int
    used: int
    blocks: tuple[BlockUsage, ...]


class Borrowed(msgspec.Struct, frozen=True, rename="camel"):
    """An address that one host uses out of another's block. owner: affinity of the block, empty when it is nobody's."""

    address: str
    node: str
    block: str
    owner: str
    holder: str


def measure(pools: Iterable[Pool], blocks: Mapping[Net, StoredBlock]) -> list[PoolUsage]:
    """Returns the use of each pool, by name; at the end blocks that lie in no pool, if there are any."""
    left = dict(sorted(blocks.items()))
    found = []
    for pool in sorted(pools, key=lambda one: one.name):
        inside = [_measure_block(left.pop(net)) for net in list(left) if operator.contains(pool.net, net)]
        total = 1 << (pool.net.bits - pool.net.length)
        found.append(PoolUsage(pool.name, str(pool.net), total, sum(one.used for one in inside), tuple(inside)))
    if left:
        rest = tuple(map(_measure_block, left.values()))
        found.append(PoolUsage("", "", sum(one.total for one in rest), sum(one.used for one in rest), rest))
    return found


def find_borrowed(blocks: Mapping[Net, StoredBlock]) -> Iterator[Borrowed]:
    """Yields the addresses whose holder says another host than the block's, in order."""
    for _, stored in sorted(blocks.items()):
        block = stored.block
        for ordinal, holder in block.held() if block is not None else ():
            if block is not None and holder.node and holder.node != block.host:
                owner = block.host or block.affinity or ""
                yield Borrowed(block.address(ordinal), holder.node, str(block.net), owner, holder.handle or "")


def _measure_block(stored: StoredBlock) -> BlockUsage:
    total = 1 << (stored.net.bits - stored.net.length)
    block = stored.block
    if block is None:
        return BlockUsage(str(stored.net), None, total, 0)
    return BlockUsage(str(stored.net), block.affinity, total, total - len(block.free))
