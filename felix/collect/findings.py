"""What is wrong and can be put right without a person, out of an audit. Pure."""

from __future__ import annotations

from collections.abc import Iterator

from felix.collect.types import AddressLeak, EmptyHandle, Finding, Orphan, WrongCount
from felix.ipam.audit import Audit, Inventory
from felix.ipam.block import count_by_handle
from felix.ipam.records import CONFIRMED
from felix.model.keys import AffinityKey
from felix.model.net import parse_address, parse_net

_BLOCKS_LIMIT = 50  # of one handle in one transaction


def find_findings(inventory: Inventory, audit: Audit) -> Iterator[Finding]:
    """Yields everything that would be put right once it has been so for long enough.

    No address while there are endpoints of which nobody knows which addresses they have.
    """
    if not inventory.unreadable_endpoints:
        for leak in audit.leaks:
            handle = inventory.handles.get(leak.handle)
            if not leak.kept:
                revision = handle.revision if handle else 0
                address, block = parse_address(leak.ip), parse_net(leak.block)
                yield AddressLeak(address, block, leak.handle, leak.sequence_number, revision)
    for name in audit.empty_handles:
        yield EmptyHandle(name, inventory.handles[name].revision)
    yield from _find_wrong_counts(inventory, audit)
    for claim in audit.orphan_affinities:
        key = AffinityKey(claim.host, parse_net(claim.block))
        affinity, stored = inventory.affinities[key], inventory.blocks.get(key.block)
        is_its_own = stored is not None and stored.block is not None and stored.block.host == key.host
        if not is_its_own or affinity.state != CONFIRMED:  # a claim that agrees with its block goes with its host
            yield Orphan(key, affinity.revision)


def _find_wrong_counts(inventory: Inventory, audit: Audit) -> Iterator[WrongCount]:
    unreadable = {str(net) for net, stored in inventory.blocks.items() if stored.problem}
    actual_by_handle: dict[str, list[tuple[str, int]]] = {}
    for count in audit.wrong_counts:
        if count.block not in unreadable:
            actual_by_handle.setdefault(count.handle, []).append((count.block, count.allocated))
    for name, blocks in sorted(actual_by_handle.items()):
        handle = inventory.handles.get(name)
        wrong = tuple((parse_net(block), number) for block, number in blocks[:_BLOCKS_LIMIT])
        yield WrongCount(name, handle.revision if handle else 0, wrong)


def count_given(inventory: Inventory) -> int:
    """Returns how many addresses somebody holds, in all blocks that can be read."""
    blocks = [stored.block for stored in inventory.blocks.values() if stored.block is not None]
    return sum(sum(count_by_handle(block).values()) for block in blocks)
