"""Calico's own way of giving out addresses, as its steps are documented: three keys, one after the other.

Knows nothing of felix.ipam; blocks are plain JSON. Each write is guarded by the revision of its own key alone.
"""

from __future__ import annotations

import ipaddress
import json
from collections.abc import Mapping
from typing import Any

from felix.datastore.types import Compare, DeleteOp, Op, PutOp, RangeOp, RangePage, Target
from felix.ipam.read import Store

IPAM = "/calico/ipam/v2"
ATTEMPTS = 30

Document = dict[str, Any]


class CalicoIpam:
    """One host's allocator in one IPv4 pool."""

    def __init__(self, store: Store, host: str, pool: str, block_length: int) -> None:
        self._store = store
        self._host = host
        subnets = ipaddress.IPv4Network(pool).subnets(new_prefix=block_length)
        self._nets = [str(net) for net in subnets]

    async def auto_assign(self, handle: str) -> str | None:
        """Returns an address that the handle holds now; None when there is none for this host."""
        for _ in range(ATTEMPTS):
            for cidr in await self._list_claimed():
                if address := await self._try_block(cidr, handle):
                    return address
            stored, _ = await self._store.list_prefix(f"{IPAM}/assignment/ipv4/block/")
            existing = {json.loads(pair.value)["cidr"] for pair in stored}
            vacant = [cidr for cidr in self._nets if cidr not in existing]
            if not vacant:
                return None
            await self._claim(vacant[0])
        return None

    async def release(self, address: str, handle: str) -> None:
        """Nobody holds the address."""
        cidr = next(net for net in self._nets if ipaddress.ip_address(address) in ipaddress.ip_network(net))
        for _ in range(ATTEMPTS):
            block, revision = await self._get(_block_key(cidr))
            if block is None:
                return
            ordinal = int(ipaddress.ip_address(address)) - int(ipaddress.ip_network(cidr)[0])
            index = block["allocations"][ordinal]
            if index is None:
                return
            block["allocations"][ordinal] = None
            block["unallocated"].append(ordinal)
            block["sequenceNumberForAllocation"].pop(str(ordinal), None)
            if index not in block["allocations"]:
                del block["attributes"][index]
                block["allocations"] = [n - 1 if n is not None and n > index else n for n in block["allocations"]]
            is_gone = block["affinity"] is None and not block["attributes"]
            if await self._put(_block_key(cidr), None if is_gone else _counted(block), revision):
                await self._count(handle, cidr, -1)
                return

    async def _list_claimed(self) -> list[str]:
        pairs, _ = await self._store.list_prefix(f"{IPAM}/host/{self._host}/ipv4/block/")
        return [pair.key.rpartition("/")[2].replace("-", "/") for pair in pairs]

    async def _try_block(self, cidr: str, handle: str) -> str | None:
        block, revision = await self._get(_block_key(cidr))
        if block is None or block["affinity"] != f"host:{self._host}" or not block["unallocated"]:
            return None
        await self._count(handle, cidr, 1)
        ordinal = block["unallocated"].pop(0)
        attribute = {"handle_id": handle, "secondary": {"node": self._host}}
        block["attributes"] = block["attributes"] or []
        if attribute not in block["attributes"]:
            block["attributes"].append(attribute)
        block["allocations"][ordinal] = block["attributes"].index(attribute)
        block["sequenceNumberForAllocation"][str(ordinal)] = block["sequenceNumber"]
        if await self._put(_block_key(cidr), _counted(block), revision):
            return str(ipaddress.ip_network(cidr)[ordinal])
        await self._count(handle, cidr, -1)
        return None

    async def _claim(self, cidr: str) -> None:
        key = f"{IPAM}/host/{self._host}/ipv4/block/{cidr.replace('/', '-')}"
        claim, revision = await self._get(key)
        if claim is None or claim["state"] != "confirmed":
            await self._put(key, {"state": "pending", "deleted": False}, revision)
        size = ipaddress.ip_network(cidr).num_addresses
        block: Document = {
            "cidr": cidr,
            "affinity": f"host:{self._host}",
            "affinityClaimTime": "2023-11-14T22:13:20Z",
            "allocations": [None] * size,
            "unallocated": list(range(size)),
            "attributes": None,
            "sequenceNumber": 1_700_000_000_000_000_000,
            "sequenceNumberForAllocation": {},
            "deleted": False,
        }
        is_made = await self._put(_block_key(cidr), block, 0)
        found, _ = await self._get(_block_key(cidr))
        claim, revision = await self._get(key)
        if claim is None:
            return
        if is_made or (found is not None and found["affinity"] == f"host:{self._host}"):
            await self._put(key, {**claim, "state": "confirmed"}, revision)
        else:
            await self._put(key, None, revision)

    async def _count(self, handle: str, cidr: str, change: int) -> None:
        key = f"{IPAM}/handle/{handle}"
        for _ in range(ATTEMPTS):
            stored, revision = await self._get(key)
            counts: dict[str, int] = dict(stored["block"]) if stored else {}
            counts[cidr] = counts.get(cidr, 0) + change
            kept = {name: count for name, count in counts.items() if count > 0}
            if await self._put(key, {"block": kept, "deleted": False} if kept else None, revision):
                return

    async def _get(self, key: str) -> tuple[Document | None, int]:
        (page,) = (await self._store.txn([], [RangeOp(key)])).responses
        assert isinstance(page, RangePage)
        return (json.loads(page.kvs[0].value), page.kvs[0].mod_revision) if page.kvs else (None, 0)

    async def _put(self, key: str, document: Mapping[str, Any] | None, revision: int) -> bool:
        operation: Op = DeleteOp(key) if document is None else PutOp(key, json.dumps(document).encode())
        return (await self._store.txn([Compare(key, Target.MOD_REVISION, revision)], [operation])).succeeded


def _block_key(cidr: str) -> str:
    return f"{IPAM}/assignment/ipv4/block/{cidr.replace('/', '-')}"


def _counted(block: Document) -> Document:
    return {**block, "sequenceNumber": block["sequenceNumber"] + 1}
