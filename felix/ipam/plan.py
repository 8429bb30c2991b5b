"""Which addresses a request gets, from what is stored. Pure.

The answer is one transaction; if anything that it stands on changes meanwhile, it is made anew.
"""

from __future__ import annotations

import operator
from collections.abc import Sequence

from felix.errors import DataError
from felix.ipam.block import Holder, host_affinity, take_ordinal
from felix.ipam.draft import Draft
from felix.ipam.faults import AddressTaken, NotInPool
from felix.ipam.find import Finder
from felix.ipam.pools import (
    find_pool,
)
from felix.ipam.types import Plan, Request, Situation
from felix.model.keys import BlockKey, format_key
from felix.model.net import Net


def plan_give(situation: Situation, request: Request, wanted: Sequence[Net], now: float) -> Plan | None:
    """Returns how the host gets these addresses and, as the request says, so many more of each family.

    None when that takes a look at all blocks, not only the host's and those that could be around the addresses. Blocks
    that do not exist are made. now: seconds since 1970.

    Raises NoPool, Exhausted with figures, DataError for requests that are too large, and AddressTaken when one of
    `wanted` is in no pool, somebody holds it, or affinity is strict and its block is another's.
    """
    _check_names(request)
    finder = Finder(situation, request, now)
    for address in wanted:
        if not _take_one(finder, situation, request, address):
            return None
    for version, count in ((4, request.ipv4), (6, request.ipv6)):
        if count and not finder.find(version, count):
            return None
    return finder.finish()


def _take_one(finder: Finder, situation: Situation, request: Request, address: Net) -> bool:
    """One address is taken; False: all blocks have to be known."""
    pool = find_pool(situation.pools, address)
    if pool is None:
        raise NotInPool(f"{address.address} is in no enabled pool; see felix get ippool")
    stored = finder.find_block(address)
    if stored is None:
        if not situation.is_whole:
            return False
        stored = finder.create(_check_vacant(situation, _block_around(address, pool.spec.block_size)))
    block = stored.block
    if block is None:
        raise AddressTaken(f"{address.address} is in a block that cannot be read: {stored.problem}")
    is_own = block.affinity == host_affinity(request.host)
    if situation.config.strict_affinity and not is_own:
        owner = block.host or block.affinity or "no host"
        raise AddressTaken(f"{address.address} is in block {block.net} of {owner}, and affinity is strict")
    taken = take_ordinal(block, address.value - block.net.value, request.holder)
    if taken is None:
        holder = block.find_holder(address.value - block.net.value)
        raise AddressTaken(f"{address.address} is in use: {explain_holder(holder)}")
    finder.note(stored, taken, [address.value - block.net.value], is_own=is_own)
    return True


def plan_claim(situation: Situation, host: str, net: Net, now: float) -> Draft:
    """Returns how `host` gets a block without addresses of it; nothing to write when it has it. All blocks are known.

    Raises AddressTaken when the block is another's, and when it is not one that a pool is divided into.
    """
    pool = find_pool(situation.pools, net)
    if pool is None or pool.spec.block_size != net.length:
        raise AddressTaken(f"{net} is no block of an enabled pool; see felix get ippool -o yaml")
    draft = Draft()
    stored = situation.blocks.get(net)
    if stored is None:
        stored = Finder(situation, Request(host, ""), now).create(_check_vacant(situation, net))
        assert stored.block is not None
        draft.set_block(stored, stored.block)
    elif stored.block is None or stored.block.affinity != host_affinity(host):
        owner = (stored.block.host or stored.block.affinity or "nobody") if stored.block else stored.problem
        raise AddressTaken(f"block {net} exists and is not of {host}: {owner}")
    else:
        draft.guard(format_key(BlockKey(net)), stored.revision)
    draft.confirm_affinity(host, net, situation.affinities.get(net))
    return draft


def _check_names(request: Request) -> None:
    if not request.host or "/" in request.host:
        raise DataError(f"host {request.host!r}: give the name of a host, without a slash")
    if "/" in request.handle:
        raise DataError(f"handle {request.handle!r}: give a name without a slash")


def _check_vacant(situation: Situation, net: Net) -> Net:
    for other in situation.blocks:
        if operator.contains(other, net) or operator.contains(net, other):
            raise AddressTaken(f"block {net} cannot be made, it overlaps with block {other}")
    return net


def explain_holder(holder: Holder | None) -> str:
    """Returns who holds an address, for people."""
    if holder is None:
        return "nobody"
    rest = ", ".join(f"{name} {value}" for name, value in sorted(holder.attributes.items()))
    return f"handle {holder.handle or 'none'}" + (f" ({rest})" if rest else "")


def _block_around(address: Net, length: int) -> Net:
    shift = address.bits - length
    return Net(address.version, address.value >> shift << shift, length)
