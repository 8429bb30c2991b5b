"""Giving out and taking back addresses: read, plan, one transaction; again if somebody else was faster. Shell."""

from __future__ import annotations

import asyncio
import functools
import operator
import random
from collections.abc import Awaitable, Callable, Sequence
from dataclasses import dataclass
from typing import TypeVar

from felix.clock import Clock, sleep_s, wall_s
from felix.errors import DataError
from felix.ipam import read
from felix.ipam.block import Block, Holder
from felix.ipam.draft import OPERATIONS_LIMIT, Draft, StoredBlock
from felix.ipam.faults import Contended, NotReleasable
from felix.ipam.plan import plan_claim, plan_give
from felix.ipam.read import Store
from felix.ipam.records import Handle, IpamConfig, render_config
from felix.ipam.release import (
    IsMeant,
    Release,
    count_leaving,
    find_ordinals,
    plan_release,
    plan_release_handle,
    plan_take_back,
)
from felix.ipam.types import Request
from felix.model.keys import IPAM_CONFIG, BlockKey, format_key
from felix.model.net import Net, parse_net
from felix.reconcile.retry import BackOff

ATTEMPTS = 100
BACK_OFF = BackOff(first_s=0.001, most_s=0.1)
ORDINALS_LIMIT = 100
BLOCKS_LIMIT = 50
TOGETHER = 20
"""Requests that waited for each other and are met in one transaction at most."""
FEW = 7
"""Of so many addresses each possible block is read in one round trip; of more, all blocks."""

T = TypeVar("T")
Choose = Callable[[StoredBlock], Sequence[int]]
Beside = Callable[[Sequence[Net]], Awaitable[Draft]]
"""Takes the addresses that are about to be given; returns what is to happen in the same transaction. It is asked again
after a transaction that failed, which may be because of what it was guarded by."""
BesideRelease = Callable[[Sequence[Holder]], Draft]
"""Takes whose addresses are about to be released; returns what is to happen in the same transaction."""


@dataclass(frozen=True, slots=True)
class Pace:
    """Time and chance. sleep: waits that many seconds. fraction: 0 to 1, for jitter. wall: seconds since 1970."""

    sleep: Callable[[float], Awaitable[None]] = sleep_s
    fraction: Callable[[], float] = random.random
    wall: Clock = wall_s


@dataclass(frozen=True, slots=True, eq=False)
class _Ask:
    """A request that waits for its turn."""

    request: Request
    wanted: Sequence[Net]
    beside: Beside | None
    answer: asyncio.Future[list[Net]]

    def fail(self, error: Exception) -> None:
        """`error` is the answer, unless there is one; nobody need look at it."""
        if not self.answer.done():
            self.answer.set_exception(error)
            self.answer.exception()


class Allocator:
    """Address management on one store. Everything that an operation changes, it changes in one transaction per block,
    and all that it gives in one: whoever dies at any point leaves nothing half done.

    Operations raise what the store raises. After EtcdUnavailable nobody knows whether the last transaction happened:
    release by handle, which is right in both cases. They raise Contended when others win 100 times in a row.
    """

    def __init__(self, store: Store, pace: Pace | None = None) -> None:
        self._store = store
        self._pace = pace or Pace()
        self._lock = asyncio.Lock()  # who shares a process need not lose races against each other
        self._waiting: list[_Ask] = []

    async def auto_assign(self, request: Request) -> list[Net]:
        """The request is met in full, and its addresses are returned as /32 and /128; or nothing was given.

        Raises NoPool, Exhausted, DataError.
        """
        return await self.give(request)

    async def assign(self, request: Request, address: Net) -> None:
        """The host of the request has that address, under the request's handle. Raises AddressTaken."""
        await self.give(request, [address])

    async def give(self, request: Request, wanted: Sequence[Net] = (), beside: Beside | None = None) -> list[Net]:
        """The request is met in full, `wanted` included, and with it, in one transaction, what `beside` asks for.

        Returns all addresses, as /32 and /128; or nothing happened. Raises NoPool, Exhausted, AddressTaken, DataError,
        and what `beside` raises.
        """

        if not self._lock.locked():
            async with self._lock:
                return await self._settle(lambda: self._try_give(request, wanted, beside))
        ask = _Ask(request, wanted, beside, asyncio.get_running_loop().create_future())
        self._waiting.append(ask)
        try:
            async with self._lock:
                if not ask.answer.done():
                    await self._serve(ask)
            return ask.answer.result()
        finally:
            if ask in self._waiting:
                self._waiting.remove(ask)

    async def release(self, releases: Sequence[Release]) -> list[Net]:
        """Nobody holds these addresses; returns those that somebody held. Raises Stale, per block before any change."""
        if len(releases) > FEW:
            nets = list(await read.list_blocks(self._store, sorted({one.address.version for one in releases})))
        else:
            nets = list(await read.read_blocks_around(self._store, [one.address for one in releases]))
        released: list[Net] = []
        for net in nets:
            group = [one for one in releases if operator.contains(net, one.address)]
            for start in range(0, len(group), ORDINALS_LIMIT):
                released += await self._change(net, _choose_releases(group[start : start + ORDINALS_LIMIT]))
        return released

    async def take_back(self, releases: Sequence[Release], beside: Draft | None = None) -> list[Net]:
        """Of these addresses none is held any more as its release says; `beside` happened in the same transaction.

        Returns what was held so. What others hold is left to them. Releases without a handle release nothing.
        """

        async def attempt() -> list[Net] | None:
            names = sorted({one.handle for one in releases if one.handle})
            addresses = [one.address for one in releases if one.handle]
            blocks, handles = await read.read_holdings(self._store, addresses, names)
            draft, released = plan_take_back(releases, list(blocks.values()), handles)
            if beside is not None:
                draft.join(beside)
            return released if await self._commit(draft) else None

        async with self._lock:
            return await self._settle(attempt)

    async def touch(self, addresses: Sequence[Net]) -> None:
        """Nothing that was planned on the blocks around these addresses as they were until now will happen any more.

        For whoever got no answer to a transaction: it may still be on its way.
        """

        async def attempt() -> bool | None:
            draft = Draft()
            for stored in (await read.read_blocks_around(self._store, addresses)).values():
                if stored.block is not None:
                    draft.set_block(stored, stored.block)
            return await self._commit(draft) or None

        await self._settle(attempt)

    async def release_handle(
        self, name: str, is_meant: IsMeant | None = None, beside: BesideRelease | None = None
    ) -> list[Net]:
        """The handle holds nothing, and is gone; returns what it held. Harmless when repeated.

        is_meant: of what it holds only that of which it is true is released, and the rest goes on to count.
        beside: asked, with what is about to be released, for what is to happen in the same transaction.
        """
        released: list[Net] = []
        nets = _nets_of((await read.read_handles(self._store, [name]))[name])
        for start in range(0, max(1, len(nets)), BLOCKS_LIMIT):
            some = nets[start : start + BLOCKS_LIMIT]
            attempt = functools.partial(self._try_release_handle, name, some, is_meant, beside)
            released += await self._settle(attempt)
        return released

    async def release_host(self, host: str) -> list[Net]:
        """A lost host has neither addresses nor blocks; returns the addresses. What others borrowed of it they keep."""
        released: list[Net] = []
        for net, stored in (await read.list_blocks(self._store)).items():
            block = stored.block
            if block is not None and (block.host == host or any(holder.node == host for _, holder in block.held())):
                released += await self._empty_for(net, host)
        for key in await read.list_affinities(self._store):
            if key.host == host:
                await self._change(key.block, lambda _: (), leaving_host=host)
        return released

    async def claim_affinity(self, host: str, net: Net) -> None:
        """The block is the host's. Raises AddressTaken when it cannot be."""

        async def attempt() -> bool | None:
            found = await read.read_situation(self._store, host, "")
            found.blocks, found.is_whole = await read.list_blocks(self._store, (net.version,)), True
            return await self._commit(plan_claim(found, host, net, self._pace.wall())) or None

        await self._settle(attempt)

    async def release_affinity(self, host: str, net: Net, *, must_be_empty: bool = False) -> None:
        """The block is not the host's; it is gone if nobody holds an address of it. Raises NotReleasable."""

        def choose(stored: StoredBlock) -> Sequence[int]:
            _check_readable(stored)
            block = stored.block
            if must_be_empty and block is not None and block.host == host and not block.is_empty:
                raise NotReleasable(f"block {net} of {host} has {block.size - len(block.free)} addresses in use")
            return ()

        await self._change(net, choose, leaving_host=host)

    async def addresses_of(self, handle: str) -> list[Net]:
        """Returns the addresses that a handle holds."""
        stored = (await read.read_handles(self._store, [handle]))[handle]
        blocks = await read.read_blocks(self._store, _nets_of(stored))
        return [
            Net(net.version, net.value + ordinal, net.bits)
            for net, one in sorted(blocks.items())
            for ordinal, holder in (one.block.held() if one.block else ())
            if holder.handle == handle
        ]

    async def configure(self, change: Callable[[IpamConfig], IpamConfig]) -> IpamConfig:
        """The configuration is what `change` makes of it; returns it. Raises DataError for one that makes no sense."""

        async def attempt() -> IpamConfig | None:
            config, pair = await read.find_config(self._store)
            config = change(config)
            if not config.strict_affinity and not config.auto_allocate_blocks:
                raise DataError("strictAffinity and autoAllocateBlocks cannot both be false")
            draft = Draft()
            draft.guard(IPAM_CONFIG, pair.mod_revision if pair else 0)
            draft.value_by_key[IPAM_CONFIG] = render_config(config, pair.value if pair else None)
            return config if await self._commit(draft) else None

        return await self._settle(attempt)

    async def _try_give(self, request: Request, wanted: Sequence[Net], beside: Beside | None) -> list[Net] | None:
        """Returns the addresses of one request; None if others interfered."""
        found = await read.read_situation(self._store, request.host, request.handle)
        near = dict(await read.read_blocks(self._store, found.affinities)) if request.ipv4 or request.ipv6 else {}
        if wanted:
            near |= await read.read_blocks_around(self._store, wanted)
        found.blocks = near
        made = plan_give(found, request, wanted, self._pace.wall())
        if made is None:
            versions = {version for version, count in ((4, request.ipv4), (6, request.ipv6)) if count}
            versions |= {address.version for address in wanted}
            found.blocks, found.is_whole = await read.list_blocks(self._store, sorted(versions)), True
            made = plan_give(found, request, wanted, self._pace.wall())
            assert made is not None
        if beside is not None:
            made.draft.join(await beside(made.addresses))
        return made.addresses if await self._commit(made.draft) else None

    async def _serve(self, first: _Ask) -> None:
        """`first` has its answer, and so have those that waited with it and could be met in the same transaction.

        What has begun is waited for, also when this is cancelled: it is done for others, too.
        """
        asks = _choose_together(first, self._waiting)
        task = asyncio.create_task(self._answer(first, asks))
        try:
            await asyncio.shield(task)
        except asyncio.CancelledError:
            await asyncio.wait([task])
            raise

    async def _answer(self, first: _Ask, asks: list[_Ask]) -> None:
        try:
            if len(asks) > 1:
                await self._settle(lambda: self._try_together(asks))
            if not first.answer.done():
                request, wanted, beside = first.request, first.wanted, first.beside
                first.answer.set_result(await self._settle(lambda: self._try_give(request, wanted, beside)))
        except Exception as error:  # is for those who asked, each of whom raises it
            for ask in {id(one): one for one in (first, *asks)}.values():
                ask.fail(error)

    async def _try_together(self, asks: list[_Ask]) -> bool | None:
        """Those of `asks` that the host's own blocks can meet are met in one transaction; None if others interfered.

        What takes more leaves `asks` without an answer, what cannot be with one.
        """
        found = await read.read_situation(self._store, asks[0].request.host, "")
        names = [ask.request.handle for ask in asks if ask.request.handle]
        found.blocks, handles = await asyncio.gather(
            read.read_blocks(self._store, found.affinities), read.read_handles(self._store, names)
        )
        draft = Draft()
        addresses: dict[int, list[Net]] = {}
        for ask in list(asks):
            found.handle = handles.get(ask.request.handle, Handle(""))
            try:
                made = plan_give(found, ask.request, (), self._pace.wall())
                if made is not None and ask.beside is not None:
                    made.draft.join(await ask.beside(made.addresses))
            except Exception as error:  # is for who asked
                ask.fail(error)
                made = None
            if made is None or draft.size + made.draft.size > OPERATIONS_LIMIT:
                asks.remove(ask)
                continue
            draft.join(made.draft)
            found.blocks = made.blocks
            addresses[id(ask)] = made.addresses
        if not await self._commit(draft):
            return None
        for ask in asks:
            if not ask.answer.done():
                ask.answer.set_result(addresses[id(ask)])
        return True

    async def _try_release_handle(
        self, name: str, nets: Sequence[Net], is_meant: IsMeant | None, beside: BesideRelease | None
    ) -> list[Net] | None:
        """Returns what these blocks of the handle gave back; None if others interfered."""
        handle = (await read.read_handles(self._store, [name]))[name]
        blocks = await read.read_blocks(self._store, nets)
        found = [blocks.get(net, StoredBlock(net, 0, None)) for net in nets]
        draft, released = plan_release_handle(handle, found, is_meant)
        if beside is not None and released:
            holders = [holder for stored in found if stored.block is not None for _, holder in stored.block.held()]
            draft.join(beside([one for one in holders if one.handle == name and (is_meant is None or is_meant(one))]))
        return released if await self._commit(draft) else None

    async def _change(self, net: Net, choose: Choose, *, leaving_host: str = "") -> list[Net]:
        """The block has lost the addresses that `choose` chose, and `leaving_host` the block; returns the addresses."""

        async def attempt() -> list[Net] | None:
            stored = (await read.read_blocks(self._store, [net])).get(net, StoredBlock(net, 0, None))
            ordinals = choose(stored)
            if stored.block is None or not (ordinals or leaving_host):
                draft = Draft()
                if leaving_host and not stored.problem:
                    draft.guard(format_key(BlockKey(net)), stored.revision)
                    draft.drop_affinity(leaving_host, net)
                return [] if draft.is_empty or await self._commit(draft) else None
            handles = await read.read_handles(self._store, list(count_leaving(stored.block, ordinals)))
            draft = plan_release(stored, ordinals, handles, leaving_host)
            if not await self._commit(draft):
                return None
            return [Net(net.version, net.value + ordinal, net.bits) for ordinal in ordinals]

        return await self._settle(attempt)

    async def _empty_for(self, net: Net, host: str) -> list[Net]:
        """The block has no addresses of a lost host, and is not its block; returns the addresses."""
        released: list[Net] = []
        while some := await self._change(net, lambda stored: _ordinals_of(stored.block, host)[:ORDINALS_LIMIT]):
            released += some
        await self._change(net, lambda _: (), leaving_host=host)
        return released

    async def _commit(self, draft: Draft) -> bool:
        if draft.is_empty:
            return True
        return (await self._store.txn(draft.compares(), draft.operations())).succeeded

    async def _settle(self, attempt: Callable[[], Awaitable[T | None]]) -> T:
        """Returns the first answer of `attempt` that is not None; waits a little longer after each that is."""
        for failures in range(1, ATTEMPTS + 1):
            answer = await attempt()
            if answer is not None:
                return answer
            await self._pace.sleep(BACK_OFF.delay_s(failures, self._pace.fraction()))
        raise Contended(f"others changed the same addresses {ATTEMPTS} times in a row; try again")


def _choose_together(first: _Ask, waiting: Sequence[_Ask]) -> list[_Ask]:
    """Returns those that may be met together with the first one: of one host, none of them for certain addresses."""
    if first.wanted:
        return [first]
    chosen = {first.request.handle or id(first): first}
    for ask in waiting:
        if not ask.wanted and not ask.answer.done() and ask.request.host == first.request.host:
            chosen.setdefault(ask.request.handle or id(ask), ask)
        if len(chosen) == TOGETHER:
            break
    return list(chosen.values())


def _choose_releases(releases: Sequence[Release]) -> Choose:
    def choose(stored: StoredBlock) -> Sequence[int]:
        _check_readable(stored)
        return find_ordinals(stored.block, releases) if stored.block is not None else ()

    return choose


def _check_readable(stored: StoredBlock) -> None:
    if stored.problem is not None:
        raise NotReleasable(f"block {stored.net} cannot be read: {stored.problem}")


def _ordinals_of(block: Block | None, host: str) -> list[int]:
    return [ordinal for ordinal, holder in block.held() if holder.node == host] if block is not None else []


def _nets_of(handle: Handle) -> list[Net]:
    return [parse_net(text) for text in sorted(handle.counts)]
