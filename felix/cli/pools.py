"""What the commands on resources see to beside: pools of addresses stand alone, and are in use while they go."""

from __future__ import annotations

import sys
from collections.abc import Iterable, Sequence

from felix.cli.store import Document, Stored, list_stored
from felix.datastore.etcd import EtcdClient
from felix.errors import DataError
from felix.ipam.block import Block
from felix.ipam.read import list_blocks
from felix.model.keys import ResourceKey
from felix.model.net import Net, parse_net

POOL = "IPPool"


def find_overlap(key: ResourceKey, document: Document, others: Iterable[tuple[ResourceKey, Document | None]]) -> str:
    """Returns which of the others has addresses of this pool too, for people; empty: none. Two would give them out."""
    net = _net_of(document)
    for other, stored in others:
        theirs = None if other == key or stored is None else _net_of(stored)
        if net is not None and theirs is not None and net.overlaps(theirs):
            return f"shares addresses with {other}, which has {theirs}; two would give out the same, so take others"
    return ""


async def list_pools(client: EtcdClient) -> list[Stored]:
    """Returns all pools that are stored."""
    pools, _ = await list_stored(client, POOL)
    return pools


async def warn_of_use(client: EtcdClient, gone: Sequence[Stored]) -> None:
    """Standard error has a line for each of these pools that addresses in use were of."""
    nets = [(pool.key, net) for pool in gone if pool.key.kind == POOL if (net := _net_of(pool.document or {}))]
    for version in {net.version for _, net in nets}:
        blocks = await list_blocks(client, [version])
        for key, net in nets:
            used = sum(_count_used(stored.block) for block, stored in blocks.items() if block.overlaps(net))
            if used:
                print(
                    f"warning: {key}: {used} of its addresses are in use; they stay with their holders, but are not of"
                    " a pool any more: no natOutgoing, no route between hosts. `felix ipam check` lists them",
                    file=sys.stderr,
                )


def _count_used(block: Block | None) -> int:
    return 0 if block is None else len(block.allocations) - block.allocations.count(None)


def _net_of(document: Document) -> Net | None:
    spec = document.get("spec")
    cidr = spec.get("cidr") if isinstance(spec, dict) else None
    try:
        return parse_net(cidr) if isinstance(cidr, str) else None
    except DataError:
        return None
