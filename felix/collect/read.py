"""Reading everything that the collector judges: page by page at one revision, understood in a thread. Shell."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Iterable, Sequence
from typing import Protocol

from felix.collect.hosts import find_holdings
from felix.collect.types import World
from felix.datastore.fence import parse_fence
from felix.datastore.messages import prefix_end
from felix.datastore.status import StatusKeys
from felix.datastore.types import Compare, KeyValue, Op, RangeOp, RangePage, TxnResult
from felix.ipam.audit import StoredEndpoint
from felix.ipam.inventory import InventoryBuilder
from felix.ipam.read import ENDPOINTS, INVENTORY, read_ranges
from felix.model.keys import LOST_HOSTS

PAGE_KEYS = 200


class Source(Protocol):
    """What of etcd is needed here."""

    async def txn(self, compares: Sequence[Compare], success: Sequence[Op], failure: Sequence[Op] = ()) -> TxnResult:
        """Either all of `success` happened (every condition held) or all of `failure`, at one revision."""

    async def list_prefix(self, prefix: str) -> tuple[list[KeyValue], int]:
        """Returns all keys with `prefix` in key order, and the one revision at which they were read."""

    def pages(self, start: str, end: str, page_keys: int = ..., *, revision: int = 0) -> AsyncIterator[RangePage]:
        """Yields the whole range page by page, all at `revision` (0: the newest at the first page)."""


async def read_world(source: Source) -> World:
    """Returns what is stored at one revision, and which hosts live; the loop breathes all the time."""
    fences, revision = await source.list_prefix(LOST_HOSTS)
    builder = InventoryBuilder()
    for prefix in INVENTORY:
        async for page in source.pages(prefix, prefix_end(prefix), PAGE_KEYS, revision=revision):
            await asyncio.to_thread(builder.add, page.kvs)
    inventory = builder.build(revision)
    fence_by_host = {fence.host: fence for fence in map(parse_fence, fences)}
    holdings = await asyncio.to_thread(find_holdings, inventory)
    hosts = sorted({*holdings, *inventory.hosts, *fence_by_host})
    alive, reported = await _read_signs(source, hosts)
    return World(inventory, alive, reported, fence_by_host)


async def read_endpoints(source: Source, host: str) -> dict[str, StoredEndpoint]:
    """Returns the workload endpoints of a host, by key."""
    builder = InventoryBuilder()
    async for page in source.pages(ENDPOINTS, prefix_end(ENDPOINTS), PAGE_KEYS):
        await asyncio.to_thread(builder.add, page.kvs)
    return {key: one for key, one in builder.build(0).endpoints.items() if one.host == host}


async def _read_signs(source: Source, hosts: Iterable[str]) -> tuple[frozenset[str], frozenset[str]]:
    """Returns which hosts have a lease that lives, and which said once that they live."""
    keys = {host: StatusKeys(host) for host in hosts}
    ranges = [RangeOp(key) for one in keys.values() for key in (one.agent, one.agent_last)]
    found = {pair.key for pairs in await read_ranges(source, ranges) for pair in pairs}
    return (
        frozenset(host for host, one in keys.items() if one.agent in found),
        frozenset(host for host, one in keys.items() if one.agent_last in found),
    )
