"""Where addresses are found: own blocks, a new one, one reclaimed, one borrowed; or why there are none. Pure."""

from __future__ import annotations

import hashlib
import itertools
import operator
from collections.abc import Iterator, Sequence
from datetime import UTC, datetime

from felix.errors import DataError
from felix.ipam.block import Block, host_affinity, is_host, new_block, take
from felix.ipam.draft import OPERATIONS_LIMIT, StoredBlock
from felix.ipam.faults import Exhausted
from felix.ipam.pools import (
    Pool,
    PoolRequest,
    choose_pools,
    find_free_block,
    find_pool,
    selects_node,
)
from felix.ipam.types import Plan, Request, Situation
from felix.model.net import Net

RECLAIM_AGE_S = 60.0
"""How long a host has an empty block before another may take it, so that it can use what it has just claimed."""


class Finder:
    """Collects addresses for one request; what it took already is taken."""

    def __init__(self, situation: Situation, request: Request, now: float) -> None:
        self._situation = situation
        self._request = request
        self._now = now
        self._plan = Plan()
        self._handle = situation.handle
        self._blocks = dict(situation.blocks)
        self._claimed = set(situation.affinities)
        self._loser_by_block: dict[Net, str] = {}

    def find(self, version: int, count: int) -> bool:
        """`count` addresses of a family are taken; False: all blocks have to be known. Raises NoPool, Exhausted."""
        situation, request = self._situation, self._request
        pools = choose_pools(
            situation.pools,
            PoolRequest(version, request.pools, request.use, situation.node_labels, request.namespace_labels),
        )
        self._leave_strays(version)
        left = self._take_from(self._own_blocks(pools), count, is_own=True)
        if not left:
            return True
        if not situation.is_whole:
            return False
        left = self._take_from(self._new_blocks(version, pools), left, is_own=True)
        if left and not situation.config.strict_affinity:
            left = self._take_from(self._others_blocks(pools), left, is_own=False)
        if left:
            raise Exhausted(self._explain(version, pools, count))
        return True

    def find_block(self, address: Net) -> StoredBlock | None:
        """Returns the block around an address, as it is after what was taken already; None when none is known."""
        return next((one for one in self._blocks.values() if operator.contains(one.net, address)), None)

    def finish(self) -> Plan:
        """Returns everything as one transaction. Raises DataError when it is more than etcd takes at once."""
        if self._request.handle and self._plan.addresses:
            self._plan.draft.set_handle(self._handle)
        if self._plan.draft.size > OPERATIONS_LIMIT:
            raise DataError(
                f"{len(self._plan.addresses)} addresses are too many for one request; ask for fewer at once"
            )
        self._plan.blocks = self._blocks
        return self._plan

    def create(self, net: Net) -> StoredBlock:
        """Returns an empty block of the host, which is not stored yet."""
        moment = datetime.fromtimestamp(self._now, UTC).strftime("%Y-%m-%dT%H:%M:%SZ")
        return StoredBlock(net, 0, new_block(net, self._request.host, moment, int(self._now * 1e9)))

    def note(self, stored: StoredBlock, block: Block, ordinals: Sequence[int], *, is_own: bool) -> None:
        """The plan gives these addresses of a block, which is `block` then."""
        draft = self._plan.draft
        draft.set_block(stored, block)
        pool = find_pool(self._situation.pools, block.net)
        if pool is not None and pool.key:
            draft.guard(pool.key, pool.revision)
        if block.net in self._loser_by_block:
            draft.drop_affinity(self._loser_by_block[block.net], block.net)
        if is_own:
            self._claimed.add(block.net)
            affinity = self._situation.affinities.get(block.net)
            draft.confirm_affinity(self._request.host, block.net, affinity)
        self._handle = self._handle.plus(str(block.net), len(ordinals))
        self._blocks[block.net] = StoredBlock(block.net, stored.revision, block)
        bits = block.net.bits
        self._plan.addresses += [Net(block.net.version, block.net.value + ordinal, bits) for ordinal in ordinals]

    def _take_from(self, candidates: Iterator[StoredBlock], count: int, *, is_own: bool) -> int:
        """Returns how many addresses are still missing after the candidates."""
        if not count:
            return 0
        for stored in candidates:
            block = stored.block
            if block is None:
                continue
            taken, ordinals = take(block, count, self._request.holder, self._situation.reserved.test(block.net.version))
            if ordinals:
                self.note(stored, taken, ordinals, is_own=is_own)
                count -= len(ordinals)
            if not count:
                break
        return count

    def _leave_strays(self, version: int) -> None:
        """The host gives up its empty blocks in pools that do not select it any more."""
        if self._request.pools:
            return
        for stored in self._claimed_blocks():
            block, net = stored.block, stored.net
            pool = next((one for one in self._situation.pools if operator.contains(one.net, net)), None)
            if block is None or pool is None or net.version != version or not block.is_empty:
                continue
            if block.host == self._request.host and not selects_node(pool, self._situation.node_labels):
                self._plan.draft.drop_block(stored)
                self._plan.draft.drop_affinity(block.host, net)

    def _own_blocks(self, pools: Sequence[Pool]) -> Iterator[StoredBlock]:
        own = host_affinity(self._request.host)
        for stored in self._claimed_blocks():
            if _is_in(pools, stored.net) and stored.block is not None and stored.block.affinity == own:
                yield stored

    def _claimed_blocks(self) -> Iterator[StoredBlock]:
        for net in sorted(self._claimed):
            if net in self._blocks:
                yield self._blocks[net]

    def _new_blocks(self, version: int, pools: Sequence[Pool]) -> Iterator[StoredBlock]:
        """Yields blocks that this host does not have yet, as many as it may: claimed before, new, reclaimed."""
        situation = self._situation
        if not situation.config.auto_allocate_blocks:
            return
        for net in sorted(situation.affinities):
            # claimed and never made, by somebody who died in between
            if net.version == version and _is_in(pools, net) and not self._overlaps(net):
                yield self.create(net)
        room = situation.config.block_limit - sum(net.version == version for net in situation.affinities)
        yield from itertools.islice(self._unheld_blocks(pools), max(0, room))

    def _unheld_blocks(self, pools: Sequence[Pool]) -> Iterator[StoredBlock]:
        for pool in pools:
            busy = set(self._blocks)
            while free := find_free_block(pool, self._request.host, busy, self._situation.reserved):
                busy.add(free)
                yield self.create(free)
        for stored in self._blocks_of(pools):
            block = stored.block
            if block is not None and block.host == self._request.host and block.net not in self._situation.affinities:
                yield stored  # the host's, but its claim was lost
            elif block is not None and self._is_reclaimable(block):
                self._loser_by_block[block.net] = block.host
                yield StoredBlock(block.net, stored.revision, self.create(block.net).block)

    def _is_reclaimable(self, block: Block) -> bool:
        if not block.is_empty or not block.host or block.host == self._request.host:
            return False
        try:
            claimed = datetime.fromisoformat(block.claimed_at or "1970-01-01T00:00:00Z")
        except ValueError:
            return False
        return self._now - claimed.timestamp() >= RECLAIM_AGE_S if claimed.tzinfo else False

    def _others_blocks(self, pools: Sequence[Pool]) -> Iterator[StoredBlock]:
        """Yields blocks of others and of nobody, in an order of this host's own, so that lenders share the load."""
        own = host_affinity(self._request.host)
        for stored in self._blocks_of(pools):
            block = stored.block
            if block is not None and block.affinity != own and (block.affinity is None or is_host(block.affinity)):
                yield stored

    def _blocks_of(self, pools: Sequence[Pool]) -> list[StoredBlock]:
        found = [one for one in self._blocks.values() if _is_in(pools, one.net)]
        return sorted(found, key=lambda one: hashlib.sha256(f"{self._request.host} {one.net}".encode()).digest())

    def _overlaps(self, net: Net) -> bool:
        return any(net.overlaps(one) for one in self._blocks)

    def _explain(self, version: int, pools: Sequence[Pool], count: int) -> str:
        """Returns why there is nothing left, with figures of each pool."""
        config, host = self._situation.config, self._request.host
        figures = "; ".join(self._explain_pool(pool) for pool in pools)
        held = sum(net.version == version for net in self._situation.affinities)
        notes = ""
        if not config.auto_allocate_blocks:
            notes += "; new blocks are not made by themselves (autoAllocateBlocks: false)"
        elif held >= config.block_limit:
            notes += f"; {host} has {held} blocks and may have {config.block_limit}"
        if config.strict_affinity:
            notes += "; blocks of other hosts may not be used (strictAffinity: true)"
        return f"no IPv{version} address is left for {host}, which wants {count}: {figures}{notes}"

    def _explain_pool(self, pool: Pool) -> str:
        inside = [one.block for one in self._situation.blocks.values() if _is_in([pool], one.net)]
        blocks = [block for block in inside if block is not None]
        unreadable = f" ({len(inside) - len(blocks)} more cannot be read)" if len(inside) > len(blocks) else ""
        used = sum(block.size - len(block.free) for block in blocks)
        others = sum(len(block.free) for block in blocks if block.host != self._request.host)
        total = 1 << (pool.net.bits - pool.net.length)
        return (
            f"pool {pool.name} ({pool.net}): {used} of {total} addresses in use, "
            f"{self._situation.reserved.count(pool.net)} reserved, {len(blocks)} blocks{unreadable}, "
            f"{others} free in blocks of others"
        )


def _is_in(pools: Sequence[Pool], net: Net) -> bool:
    return any(operator.contains(pool.net, net) for pool in pools)
