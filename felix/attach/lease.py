"""Addresses without an interface: given to a handle and taken back, for plug-ins that make none or their own. Shell."""

from __future__ import annotations

import logging
from collections.abc import Awaitable, Callable, Collection, Mapping, Sequence
from contextlib import nullcontext
from functools import partial

from felix.attach.check import check_addresses, check_attributes, check_handle, check_node
from felix.attach.mailbox import Debts, address_debt
from felix.attach.types import ADDRESSES_LIMIT, AllocateRequest, Code, Refusal, ReleaseRequest
from felix.attach.watch import Lanes
from felix.datastore.faults import EtcdUnavailable
from felix.ipam.apply import Allocator
from felix.ipam.block import Holder
from felix.ipam.draft import Draft
from felix.ipam.read import Store, read_blocks, read_blocks_around, read_handles
from felix.ipam.release import Release
from felix.ipam.types import Request
from felix.model.net import Net, parse_net

log = logging.getLogger(__name__)

RELEASES_LIMIT = 256


class AddressLeases:
    """Addresses of one host's handles.

    is_attached: whether a container is attached with that address. debts: get what is to be done once etcd answers.
    """

    def __init__(
        self, store: Store, allocator: Allocator, node: str, is_attached: Callable[[Net], object], debts: Debts
    ) -> None:
        self._store = store
        self._allocator = allocator
        self._node = node
        self._is_attached = is_attached
        self._debts = debts
        self._owed: dict[str, Callable[[], Awaitable[None]]] = {}
        self._lanes: Lanes[str] = Lanes()

    async def allocate(self, request: AllocateRequest) -> list[Net]:
        """The handle has all addresses of the request more than before, or none."""
        handle, wanted = check_handle(request.handle), check_addresses(request.addresses)
        check_node(request.node, self._node)
        check_attributes(request.attributes)
        if not 1 <= len(wanted) + request.ipv4 + request.ipv6 <= ADDRESSES_LIMIT:
            raise Refusal(Code.INVALID, f"ask for 1 to {ADDRESSES_LIMIT} addresses")
        asked = Request(self._node, handle, request.ipv4, request.ipv6, request.attributes, request.pools)
        async with self._lanes.enter(handle):
            await self._settle(handle)  # first: what is owed is everything that the handle has since then
            return await self._give(asked, wanted)

    async def release(self, request: ReleaseRequest) -> list[Net]:
        """What the request means is free; returns what somebody held until now. Only what is this host's is meant.

        What a container is attached with stays held: its detach frees it, when no packet can carry it any more.
        """
        wanted = check_addresses(request.addresses)
        if not wanted and not request.handle:
            raise Refusal(Code.INVALID, "give a handle, or addresses, or both")
        if len(wanted) > RELEASES_LIMIT:
            raise Refusal(Code.INVALID, f"release at most {RELEASES_LIMIT} addresses at once")
        handle = check_handle(request.handle) if request.handle else ""
        async with self._lanes.enter(handle) if handle else nullcontext():
            return await self._release(request, wanted, handle)

    async def _release(self, request: ReleaseRequest, wanted: Sequence[Net], handle: str) -> list[Net]:
        if not wanted and not request.attributes:
            has = await self._allocator.addresses_of(handle)
            if not any(self._is_attached(address) for address in has):
                return await self._allocator.release_handle(handle, lambda holder: holder.node == self._node)
        blocks = await self._read_blocks(wanted, handle)
        found = [
            Release(address, holder.handle)
            for address, holder in blocks.items()
            if holder.handle is not None
            and self._is_meant(holder, handle, request.attributes)
            and not self._is_attached(address)
        ]
        return await self.take_back([one for one in found if not wanted or one.address in wanted])

    async def find(self, handle: str) -> list[Net]:
        """Returns the addresses that a handle has."""
        return await self._allocator.addresses_of(check_handle(handle))

    async def take_back(self, releases: Sequence[Release]) -> list[Net]:
        """These addresses are free if they are held as they say; some at a time."""
        released: list[Net] = []
        for start in range(0, len(releases), ADDRESSES_LIMIT):
            released += await self._allocator.take_back(releases[start : start + ADDRESSES_LIMIT])
        return released

    def _is_meant(self, holder: Holder, handle: str, attributes: Mapping[str, str]) -> bool:
        is_own = holder.node == self._node and (not handle or holder.handle == handle)
        return is_own and attributes.items() <= holder.attributes.items()

    async def _read_blocks(self, wanted: Sequence[Net], handle: str) -> dict[Net, Holder]:
        """Returns the holders of all addresses in the blocks around these addresses, or else of a handle."""
        if wanted:
            blocks = await read_blocks_around(self._store, wanted)
        else:
            stored = (await read_handles(self._store, [handle]))[handle]
            blocks = await read_blocks(self._store, [parse_net(text) for text in stored.counts])
        return {
            Net(net.version, net.value + ordinal, net.bits): holder
            for net, one in blocks.items()
            for ordinal, holder in (one.block.held() if one.block is not None else ())
        }

    async def _give(self, asked: Request, wanted: Sequence[Net]) -> list[Net]:
        before = frozenset(await self._allocator.addresses_of(asked.handle))
        tried: set[Net] = set()

        async def note(chosen: Sequence[Net]) -> Draft:
            tried.update(chosen)
            return Draft()

        try:
            return await self._allocator.give(asked, wanted, note)
        except EtcdUnavailable as error:
            if not error.is_unsent:  # perhaps they were given; nobody has been told which
                self._owed[asked.handle] = partial(self._release_all_but, asked.handle, before, tried)
                self._debts.owe(address_debt(asked.handle), None, partial(self._pay, asked.handle))
            raise

    async def _pay(self, handle: str) -> None:
        async with self._lanes.enter(handle):
            await self._settle(handle)

    async def _settle(self, handle: str) -> None:
        """Nothing is owed for the handle; the caller has its lane."""
        undo = self._owed.get(handle)
        if undo is not None:
            await undo()
            del self._owed[handle]
            self._debts.forget(address_debt(handle))

    async def _release_all_but(self, handle: str, kept: frozenset[Net], tried: Collection[Net]) -> None:
        """The handle has nothing but `kept`, and what was tried does not arrive any more."""
        await self._allocator.touch(list(tried))
        found = await self._allocator.addresses_of(handle)
        released = await self.take_back([Release(net, handle) for net in found if net not in kept])
        if released:
            log.info("addresses of %s that nobody was told of are free again: %s", handle, _texts(released))


def _texts(nets: Sequence[Net]) -> str:
    return ", ".join(net.address for net in nets)
