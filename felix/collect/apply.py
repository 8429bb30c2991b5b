"""Taking back: leaks one by one, lost hosts step by step; every write on condition of all that speaks for it. Shell."""

from __future__ import annotations

import logging
from collections import Counter
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import replace
from typing import NamedTuple, TypeVar

from felix.clock import wall_s
from felix.collect.read import Source, read_endpoints
from felix.collect.types import AddressLeak, EmptyHandle, Finding, Orphan, WrongCount, kind_of
from felix.datastore.fence import Fence, FenceState, format_time, is_absent, parse_fence, render_fence
from felix.datastore.status import StatusKeys
from felix.datastore.types import Compare, DeleteOp, KeyValue, Op, PutOp, RangeOp, RangePage, Target, TxnResult
from felix.errors import PeerError, Remedy
from felix.ipam.apply import Allocator
from felix.ipam.audit import StoredEndpoint
from felix.ipam.block import count_by_handle
from felix.ipam.draft import Draft
from felix.ipam.faults import Stale
from felix.ipam.read import read_blocks, read_handles, read_ranges
from felix.ipam.records import CONFIRMED, parse_affinity
from felix.ipam.release import Release, find_ordinals, plan_release
from felix.model.keys import BlockKey, format_handle_key, format_key
from felix.model.net import Net
from felix.vtep.apply import clear_node

log = logging.getLogger(__name__)

BATCH = 40  # with as many conditions again, and those of the draft, still one transaction of etcd
_NAMED = 5
_ATTEMPTS = 10

T = TypeVar("T")


class Reclaimed(NamedTuple):
    """What a host lost. endpoints: `namespace/name`."""

    endpoints: tuple[str, ...]
    addresses: tuple[Net, ...]

    def __str__(self) -> str:
        more = ", ..." if len(self.endpoints) > _NAMED else ""
        names = f" ({', '.join(self.endpoints[:_NAMED])}{more})" if self.endpoints else ""
        return f"{len(self.endpoints)} endpoints{names} are gone, {len(self.addresses)} addresses are free"


class GuardBroken(PeerError):
    """What spoke for a write does not hold any more; nothing was written."""

    remedy = Remedy.RETRY


class GuardedStore:
    """A store that writes only as long as some conditions hold, and raises GuardBroken when one does not."""

    def __init__(self, source: Source, guards: Sequence[Compare]) -> None:
        self._source = source
        self.guards = tuple(guards)

    async def txn(self, compares: Sequence[Compare], success: Sequence[Op], failure: Sequence[Op] = ()) -> TxnResult:
        """See `Source.txn`. A look at something needs no condition."""
        if all(isinstance(one, RangeOp) for one in success):
            return await self._source.txn(compares, success, failure)
        looks = [RangeOp(guard.key) for guard in self.guards]
        result = await self._source.txn([*self.guards, *compares], success, [*failure, *looks])
        if result.succeeded:
            return result
        pages = result.responses[len(failure) :]
        for guard, page in zip(self.guards, pages, strict=True):
            if not _holds(guard, page.kvs if isinstance(page, RangePage) else ()):
                raise GuardBroken(f"{guard.key} has changed meanwhile")
        return TxnResult(False, result.responses[: len(failure)], result.revision)

    async def list_prefix(self, prefix: str) -> tuple[list[KeyValue], int]:
        """See `Source.list_prefix`."""
        return await self._source.list_prefix(prefix)


# --- Leaks ---


async def collect_findings(source: Source, findings: Iterable[Finding], guards: Sequence[Compare]) -> Counter[str]:
    """What was found wrong is put right, except what changed since then; returns how many of each kind were.

    Raises GuardBroken.
    """
    counts: Counter[str] = Counter()
    store = GuardedStore(source, guards)
    leaks: dict[str, list[AddressLeak]] = {}
    for one in findings:
        match one:
            case AddressLeak():
                leaks.setdefault(one.handle, []).append(one)
                continue
            case EmptyHandle(name, revision):
                key = format_handle_key(name)
                is_done = await _commit(store, [Compare(key, Target.MOD_REVISION, revision)], [DeleteOp(key)])
            case WrongCount():
                is_done = await _mend_count(store, one)
            case Orphan():
                is_done = await _mend_claim(store, one)
        counts[kind_of(one)] += is_done
    for name, group in leaks.items():
        try:
            counts["address"] += await _release(store, name, group)
        except Stale as error:
            log.info("leaked addresses of %s are kept: %s", name, error)
    return counts


async def _release(store: GuardedStore, name: str, leaks: Sequence[AddressLeak]) -> int:
    """The handle has lost these addresses; returns how many. Raises Stale when it, or one of them, changed."""
    revision = leaks[0].handle_revision
    for batch in _batches(leaks):
        revision = await _release_batch(store, name, revision, batch)
        texts = ", ".join(leak.address.address for leak in batch)
        log.warning("nobody used these addresses of %s, they are free again: %s", name, texts)
    return len(leaks)


async def _release_batch(store: GuardedStore, name: str, revision: int, leaks: Sequence[AddressLeak]) -> int:
    """The handle, which is at that revision, has lost these addresses; returns its revision then."""
    for _ in range(_ATTEMPTS):
        handle = (await read_handles(store, [name]))[name]
        if handle.revision != revision:
            raise Stale(f"handle {name} has been used meanwhile")
        draft = Draft()
        nets = {leak.block for leak in leaks}
        blocks = await read_blocks(store, nets)
        for net in nets:
            stored = blocks.get(net)
            if stored is None or stored.block is None:
                raise Stale(f"block {net} is gone, or cannot be read any more")
            mine = [Release(leak.address, name, leak.sequence) for leak in leaks if leak.block == net]
            ordinals = find_ordinals(stored.block, mine)
            part = plan_release(stored, ordinals, {})
            draft.revision_by_key |= part.revision_by_key
            draft.value_by_key |= part.value_by_key
            handle = handle.plus(str(net), -len(ordinals))
        draft.guard(format_handle_key(name), revision)
        draft.set_handle(handle)
        result = await store.txn(draft.compares(), draft.operations())
        if result.succeeded:
            return result.revision if handle.revision else 0
    raise Stale(f"others changed its blocks {_ATTEMPTS} times in a row")


async def _mend_count(store: GuardedStore, found: WrongCount) -> bool:
    """The handle counts in each block what is there, if neither it nor, since this look, a block has changed."""
    handle = (await read_handles(store, [found.handle]))[found.handle]
    blocks = await read_blocks(store, [net for net, _ in found.blocks])
    if handle.revision != found.revision:
        return False
    draft = Draft()
    for net, _ in found.blocks:
        stored = blocks.get(net)
        if stored is not None and stored.problem is not None:
            return False
        draft.guard(format_key(BlockKey(net)), stored.revision if stored else 0)
        actual = count_by_handle(stored.block).get(found.handle, 0) if stored and stored.block else 0
        handle = handle.without(str(net)).plus(str(net), actual)
    draft.set_handle(handle)
    return await _commit(store, draft.compares(), draft.operations())


async def _mend_claim(store: GuardedStore, found: Orphan) -> bool:
    """The claim agrees with its block, which is the truth: it is confirmed, or it is gone."""
    key, block_key = format_key(found.key), format_key(BlockKey(found.key.block))
    claims, blocks = await read_ranges(store, [RangeOp(key), RangeOp(block_key)])
    if not claims or claims[0].mod_revision != found.revision:
        return False
    stored = (await read_blocks(store, [found.key.block])).get(found.key.block) if blocks else None
    if stored is not None and stored.problem is not None:
        return False
    affinity = parse_affinity(claims[0].value, found.revision)
    draft = Draft()
    draft.guard(key, found.revision)
    draft.guard(block_key, stored.revision if stored else 0)
    if stored is None or stored.block is None or stored.block.host != found.key.host:
        draft.drop_affinity(found.key.host, found.key.block)
    elif affinity.state != CONFIRMED:
        draft.confirm_affinity(found.key.host, found.key.block, affinity)
    else:
        return False
    return await _commit(store, draft.compares(), draft.operations())


# --- Lost hosts ---


async def put_fence(source: Source, fence: Fence, guards: Sequence[Compare]) -> Fence | None:
    """Returns the fence that keeps the host out from now on, this one or one before; None: the host's lease lives.

    Raises GuardBroken.
    """
    host, status = fence.host, StatusKeys(fence.host).agent
    while True:
        pages = await source.txn([], [RangeOp(fence.key), RangeOp(status)])
        stored, lease = [page.kvs for page in pages.responses if isinstance(page, RangePage)]
        if lease:
            return None
        old = parse_fence(stored[0]) if stored else Fence(host)
        if stored and old.state is FenceState.CLEANING:
            return old
        store = GuardedStore(source, [*guards, is_absent(status)])
        unchanged = old.stands() if stored else is_absent(fence.key)
        result = await store.txn([unchanged], [PutOp(fence.key, render_fence(fence))])
        if result.succeeded:
            return replace(fence, created=old.created or result.revision)


def make_fence(host: str, by: str, endpoints: Mapping[str, StoredEndpoint]) -> Fence:
    """Returns a fence of now, to be put up, for a host with these endpoints."""
    return Fence(host, format_time(wall_s()), by, endpoints=tuple(one.name for one in endpoints.values()))


async def reclaim_host(
    source: Source, fence: Fence, endpoints: Mapping[str, StoredEndpoint], guards: Sequence[Compare]
) -> Reclaimed:
    """Nothing is left of a host behind a fence: first its endpoints go, then its addresses and blocks, then all is
    marked as done. Returns what went.

    Begin again after any failure. Raises GuardBroken as soon as the fence is gone or the host's lease lives.
    """
    store = GuardedStore(source, [*guards, is_absent(StatusKeys(fence.host).agent), fence.stands()])
    gone = await _clean(store, fence, endpoints)
    done = replace(fence, state=FenceState.DONE)
    if len(gone.endpoints) == len(endpoints):
        await store.txn([], [PutOp(fence.key, render_fence(done))])
    return gone


async def clean_own(source: Source, fence: Fence) -> Reclaimed:
    """Nothing is left in etcd of this host, which was given up and is back. Raises GuardBroken without the fence."""
    endpoints = await read_endpoints(source, fence.host)
    return await _clean(GuardedStore(source, [fence.stands()]), fence, endpoints)


async def lift_fence(source: Source, fence: Fence, guards: Sequence[Compare]) -> bool:
    """A host that lives, and does not know of fences, is not kept out any more; returns whether it was."""
    is_silent = (await source.txn([is_absent(StatusKeys(fence.host).agent)], [])).succeeded
    return not is_silent and await _commit(GuardedStore(source, guards), [fence.stands()], [DeleteOp(fence.key)])


async def _clean(store: GuardedStore, fence: Fence, endpoints: Mapping[str, StoredEndpoint]) -> Reclaimed:
    """The host has none of these endpoints, except those that changed, no address and no block; returns what went."""
    names: list[str] = []
    for batch in _batches(list(endpoints.items())):
        if await _delete(store, batch):
            names += [one.name for _, one in batch]
        else:
            for pair in batch:
                names += [pair[1].name] if await _delete(store, [pair]) else []
    await clear_node(store, fence.host)  # first: what it names may be given to others from now on
    return Reclaimed(tuple(names), tuple(await Allocator(store).release_host(fence.host)))


async def _delete(store: GuardedStore, endpoints: Sequence[tuple[str, StoredEndpoint]]) -> bool:
    compares = [Compare(key, Target.MOD_REVISION, one.revision) for key, one in endpoints]
    return await _commit(store, compares, [DeleteOp(key) for key, _ in endpoints])


# --- Transactions ---


async def _commit(store: GuardedStore, compares: Sequence[Compare], operations: Sequence[Op]) -> bool:
    return (await store.txn(compares, operations)).succeeded


def _holds(guard: Compare, pairs: Sequence[KeyValue]) -> bool:
    """Whether a condition holds for what was found under its key."""
    pair = pairs[0] if pairs else None
    match guard.target:
        case Target.VERSION:
            return (pair.version if pair else 0) == guard.operand
        case Target.CREATE_REVISION:
            return (pair.create_revision if pair else 0) == guard.operand
        case Target.MOD_REVISION:
            return (pair.mod_revision if pair else 0) == guard.operand
        case Target.VALUE:
            return pair is not None and pair.value == guard.operand


def _batches(items: Sequence[T]) -> Iterator[Sequence[T]]:
    for start in range(0, len(items), BATCH):
        yield items[start : start + BATCH]
