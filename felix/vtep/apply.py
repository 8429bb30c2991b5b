"""A host's address in the tunnel in etcd: given and taken back, and what its Node says of it. Shell."""

from __future__ import annotations

import logging
from collections.abc import Mapping, Sequence

from felix.calc.tunnels import TunnelWish
from felix.datastore.types import Compare, PutOp, RangeOp, Target
from felix.errors import DataError
from felix.ipam.apply import Allocator
from felix.ipam.draft import Draft
from felix.ipam.faults import Contended
from felix.ipam.read import Store, read_ranges
from felix.ipam.release import Release
from felix.ipam.types import Request
from felix.model.keys import ResourceKey, format_fence_key, format_key
from felix.model.net import Net
from felix.vtep.plan import ALL_FIELDS, TYPE, TYPE_BY_FAMILY, find_changes, handle_of, plan_step, write_fields

log = logging.getLogger(__name__)

USE = "Tunnel"
_ATTEMPTS = 10


class VtepStore:
    """What one host's ends of the tunnel are in etcd. Methods raise what the store and the allocator raise."""

    def __init__(self, store: Store, node: str) -> None:
        self._store = store
        self._allocator = Allocator(store)
        self._node = node
        self._key = format_key(ResourceKey("Node", "", node))
        self._fence = format_fence_key(node)

    async def settle(self, family: int, wish: TunnelWish) -> Net | None:
        """The wish is true; returns the host's address, None: it has none. Writes nothing if all was well.

        Raises NoPool or Exhausted when there is no address to be had; DataError without a Node.
        """
        handle = handle_of(self._node, family)
        held = await self._allocator.addresses_of(handle)
        step = plan_step(family, wish, held)
        address = step.address
        if step.is_new:
            address = await self._give(family, wish, handle)
            log.info("VXLAN: this host's IPv%d address in the tunnel is %s", family, address.address)
        elif step.fields:
            await self._write(step.fields)
        if step.released:  # only after the Node has ceased to say so
            await self._allocator.take_back([Release(net, handle) for net in step.released])
            texts = ", ".join(net.address for net in step.released)
            log.info("VXLAN: this host no longer needs %s in the tunnel", texts)
        return address

    async def _give(self, family: int, wish: TunnelWish, handle: str) -> Net:
        async def beside(chosen: Sequence[Net]) -> Draft:
            value, revision = await self._read()
            changed = write_fields(value, find_changes(family, wish, chosen[0]))
            draft = Draft()
            draft.guard(self._fence, 0)
            draft.guard(self._key, revision)
            if changed is not None:
                draft.put(self._key, changed, revision)
            return draft

        counts = (1, 0) if family == 4 else (0, 1)
        names = tuple(name for name, _ in wish.pools)
        request = Request(self._node, handle, *counts, {TYPE: TYPE_BY_FAMILY[family]}, names, USE)
        return (await self._allocator.give(request, beside=beside))[0]

    async def _write(self, fields: Mapping[str, str]) -> None:
        for _ in range(_ATTEMPTS):
            value, revision = await self._read()
            changed = write_fields(value, fields)
            if changed is None:
                return
            guards = [Compare(self._key, Target.MOD_REVISION, revision), Compare(self._fence, Target.MOD_REVISION, 0)]
            if (await self._store.txn(guards, [PutOp(self._key, changed)])).succeeded:
                return
        raise Contended(f"others changed Node {self._node} {_ATTEMPTS} times in a row, or it was given up")

    async def _read(self) -> tuple[bytes, int]:
        (found,) = await read_ranges(self._store, [RangeOp(self._key)])
        if not found:
            raise DataError(f"there is no Node {self._node} that could say where the tunnel ends; felix apply one")
        return found[0].value, found[0].mod_revision


async def clear_node(store: Store, node: str) -> bool:
    """The Node, if there is one, names no address in the tunnel, so that the address can be another's; returns whether
    it did.
    """
    key = format_key(ResourceKey("Node", "", node))
    for _ in range(_ATTEMPTS):
        (found,) = await read_ranges(store, [RangeOp(key)])
        changed = write_fields(found[0].value, ALL_FIELDS) if found else None
        if changed is None:
            return False
        guard = Compare(key, Target.MOD_REVISION, found[0].mod_revision)
        if (await store.txn([guard], [PutOp(key, changed)])).succeeded:
            return True
    raise Contended(f"others changed Node {node} {_ATTEMPTS} times in a row")
