"""How addresses and blocks are given back: one transaction per block, its handles and its affinity with it. Pure."""

from __future__ import annotations

import operator
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass

from felix.ipam.block import Block, Holder, give_back, without_affinity
from felix.ipam.draft import Draft, StoredBlock
from felix.ipam.faults import Stale
from felix.ipam.plan import explain_holder
from felix.ipam.records import Handle
from felix.model.keys import BlockKey, format_key
from felix.model.net import Net

IsMeant = Callable[[Holder], bool]
"""Whether what somebody holds is to be given back."""


@dataclass(frozen=True, slots=True)
class Release:
    """An address to be given back. handle, sequence: only if it is held by that handle, given under that number.

    endpoint: only if it was given together with that endpoint, `namespace/name`; empty: whatever it was given for.
    """

    address: Net
    handle: str = ""
    sequence: int | None = None
    endpoint: str = ""


def find_ordinals(block: Block, releases: Sequence[Release]) -> list[int]:
    """Returns the ordinals of those that somebody holds. Raises Stale when one is not held as its release says."""
    found = []
    for one in releases:
        ordinal = one.address.value - block.net.value
        holder = block.find_holder(ordinal)
        if holder is None:
            continue
        if one.handle and holder.handle != one.handle:
            raise Stale(f"{one.address.address} is not held by {one.handle} any more, but by {explain_holder(holder)}")
        if one.sequence is not None and block.sequences.get(ordinal, 0) != one.sequence:
            raise Stale(f"{one.address.address} was given to {explain_holder(holder)} meanwhile")
        found.append(ordinal)
    return found


def count_leaving(block: Block, ordinals: Sequence[int]) -> dict[str, int]:
    """Returns how many of these addresses each handle loses."""
    counts: dict[str, int] = {}
    for ordinal in ordinals:
        holder = block.find_holder(ordinal)
        if holder is not None and holder.handle is not None:
            counts[holder.handle] = counts.get(holder.handle, 0) + 1
    return counts


def plan_release(
    stored: StoredBlock, ordinals: Sequence[int], handles: Mapping[str, Handle], leaving_host: str = ""
) -> Draft:
    """Returns how a readable block loses these addresses, and `leaving_host`, if it is the block's, the block.

    handles: those that hold the addresses. A block that is empty then and nobody's is deleted.
    """
    block = stored.block
    assert block is not None
    draft = Draft()
    for name, count in count_leaving(block, ordinals).items():
        if name in handles:
            draft.set_handle(handles[name].plus(str(block.net), -count))
    rest = give_back(block, ordinals)
    if leaving_host:
        draft.drop_affinity(leaving_host, block.net)
        if block.host == leaving_host:
            rest = without_affinity(rest)
    if rest.is_empty and rest.affinity is None:
        draft.drop_block(stored)
    elif rest is not block:
        draft.set_block(stored, rest)
    else:
        draft.guard(format_key(BlockKey(block.net)), stored.revision)
    return draft


def plan_take_back(
    releases: Sequence[Release], blocks: Sequence[StoredBlock], handles: Mapping[str, Handle]
) -> tuple[Draft, list[Net]]:
    """Returns how those addresses are given back that are held as their releases say, and which those are.

    blocks: around the addresses. handles: of the releases. Addresses that others hold are left to them.
    """
    draft = Draft()
    rest = dict(handles)
    released: list[Net] = []
    for stored in blocks:
        block = stored.block
        if block is None:
            continue
        wanted = [one for one in releases if one.handle and operator.contains(block.net, one.address)]
        ordinals = [one.address.value - block.net.value for one in wanted if _is_held(block, one)]
        if not ordinals:
            continue
        for name, count in count_leaving(block, ordinals).items():
            rest[name] = rest[name].plus(str(block.net), -count)
        draft.join(plan_release(stored, ordinals, {}))
        released += [_address(block, ordinal) for ordinal in ordinals]
    for name, handle in rest.items():
        if handle.counts != handles[name].counts:
            draft.set_handle(handle)
    return draft, released


def plan_release_handle(
    handle: Handle, blocks: Sequence[StoredBlock], is_meant: IsMeant | None = None
) -> tuple[Draft, list[Net]]:
    """Returns how a handle loses all its addresses in these blocks, and which those are.

    is_meant: only those of which it is true. What the handle counts there is forgotten even if it holds nothing: it was
    counted by somebody who died.
    """
    draft = Draft()
    released: list[Net] = []
    rest = handle
    for stored in blocks:
        block = stored.block
        if block is None:
            draft.guard(format_key(BlockKey(stored.net)), stored.revision)
            # of a block that cannot be read nobody knows what is held; the handle remembers it
            rest = rest if stored.problem else rest.without(str(stored.net))
            continue
        held = [(ordinal, holder) for ordinal, holder in block.held() if holder.handle == handle.name]
        ordinals = [ordinal for ordinal, holder in held if is_meant is None or is_meant(holder)]
        rest = rest.without(str(stored.net)).plus(str(stored.net), len(held) - len(ordinals))
        draft.join(plan_release(stored, ordinals, {}))
        released += [_address(block, ordinal) for ordinal in ordinals]
    if is_meant is None or rest.counts != handle.counts:
        draft.set_handle(rest)
    return draft, released


def _is_held(block: Block, release: Release) -> bool:
    """Whether the address is held as the release says."""
    ordinal = release.address.value - block.net.value
    holder = block.find_holder(ordinal)
    if holder is None or holder.handle != release.handle:
        return False
    is_same = release.sequence is None or block.sequences.get(ordinal, 0) == release.sequence
    return is_same and release.endpoint in ("", holder.endpoint)


def _address(block: Block, ordinal: int) -> Net:
    return Net(block.net.version, block.net.value + ordinal, block.net.bits)
