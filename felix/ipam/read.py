"""Reading what address management stands on: in as few round trips as can be, each at one revision. Shell."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from typing import Protocol

from felix.datastore.messages import prefix_end
from felix.datastore.types import Compare, KeyValue, Op, RangeOp, RangePage, TxnResult
from felix.ipam.audit import Inventory
from felix.ipam.draft import StoredBlock
from felix.ipam.inventory import InventoryBuilder
from felix.ipam.pools import Pool, Reserved
from felix.ipam.records import Affinity, Handle, IpamConfig, parse_affinity, parse_config, parse_handle
from felix.ipam.types import Situation
from felix.model.codec import decode
from felix.model.keys import (
    HANDLES,
    IPAM,
    IPAM_CONFIG,
    AffinityKey,
    BlockKey,
    ResourceKey,
    format_handle_key,
    format_key,
    parse_key,
)
from felix.model.net import Net, parse_net
from felix.model.records import IPAMConfiguration, IPPool, IPReservation, Node

RANGES_LIMIT = 100
BLOCK_LENGTHS = {4: range(20, 33), 6: range(116, 129)}
"""How long the prefix of a block can be."""

_POOLS = format_key(ResourceKey("IPPool", "", ""))
_RESERVATIONS = format_key(ResourceKey("IPReservation", "", ""))
_NODES = format_key(ResourceKey("Node", "", ""))
ENDPOINTS = format_key(ResourceKey("WorkloadEndpoint", "", "")).rstrip("/") + "/"
INVENTORY = (f"{IPAM}assignment/", HANDLES, f"{IPAM}host/", _NODES, ENDPOINTS)
"""Prefixes of everything that an audit looks at, pools aside."""
_CONFIGURATION = format_key(ResourceKey("IPAMConfiguration", "", "default"))


class Store(Protocol):
    """What of etcd is needed here."""

    async def txn(self, compares: Sequence[Compare], success: Sequence[Op], failure: Sequence[Op] = ()) -> TxnResult:
        """Either all of `success` happened (every condition held) or all of `failure`, at one revision."""

    async def list_prefix(self, prefix: str) -> tuple[list[KeyValue], int]:
        """Returns all keys with `prefix` in key order, and the one revision at which they were read."""


async def read_ranges(store: Store, ranges: Sequence[RangeOp]) -> list[tuple[KeyValue, ...]]:
    """Returns the pairs of each range; up to 100 ranges in one round trip, at one revision."""
    found: list[tuple[KeyValue, ...]] = []
    for start in range(0, len(ranges), RANGES_LIMIT):
        result = await store.txn([], ranges[start : start + RANGES_LIMIT])
        found += [page.kvs for page in result.responses if isinstance(page, RangePage)]
    return found


async def read_situation(store: Store, host: str, handle: str) -> Situation:
    """Returns what an allocation for `host` stands on, without blocks: one round trip."""
    affinities = f"{IPAM}host/{host}/"
    ranges = [
        _prefix(_POOLS),
        _prefix(_RESERVATIONS),
        RangeOp(IPAM_CONFIG),
        RangeOp(_CONFIGURATION),
        RangeOp(format_key(ResourceKey("Node", "", host))),
        _prefix(affinities),
        RangeOp(format_handle_key(handle or "-")),
    ]
    pools, reservations, config, configuration, node, claims, handles = await read_ranges(store, ranges)
    return Situation(
        pools=read_pools(pools),
        reserved=read_reserved(reservations),
        config=read_config(config, configuration),
        node_labels=_read_labels(node),
        affinities={key.block: affinity for key, affinity in _read_claims(claims).items()},
        blocks={},
        handle=_find_handle(handle, handles) if handle else Handle(handle),
    )


async def find_config(store: Store) -> tuple[IpamConfig, KeyValue | None]:
    """Returns how addresses are given out, and Calico's own key for that, None when it is not stored."""
    config, configuration = await read_ranges(store, [RangeOp(IPAM_CONFIG), RangeOp(_CONFIGURATION)])
    return read_config(config, configuration), config[0] if config else None


async def read_blocks(store: Store, nets: Iterable[Net]) -> dict[Net, StoredBlock]:
    """Returns those of the blocks that are stored; one round trip for 100."""
    pages = await read_ranges(store, [RangeOp(format_key(BlockKey(net))) for net in nets])
    return _read_blocks(pair for page in pages for pair in page)


async def read_blocks_around(store: Store, addresses: Iterable[Net]) -> dict[Net, StoredBlock]:
    """Returns the stored blocks in which the addresses lie, whatever their pool says of blocks now."""
    return await read_blocks(store, _blocks_around(addresses))


async def read_holdings(
    store: Store, addresses: Iterable[Net], handles: Sequence[str]
) -> tuple[dict[Net, StoredBlock], dict[str, Handle]]:
    """Returns the stored blocks in which the addresses lie, and these handles: one round trip for a few of each."""
    nets = _blocks_around(addresses)
    paths = [*(format_key(BlockKey(net)) for net in nets), *map(format_handle_key, handles)]
    pages = await read_ranges(store, [RangeOp(path) for path in paths])
    blocks = _read_blocks(pair for page in pages[: len(nets)] for pair in page)
    return blocks, {name: _find_handle(name, page) for name, page in zip(handles, pages[len(nets) :], strict=True)}


async def list_blocks(store: Store, versions: Sequence[int] = (4, 6)) -> dict[Net, StoredBlock]:
    """Returns all blocks of these families."""
    found: dict[Net, StoredBlock] = {}
    for version in versions:
        pairs, _ = await store.list_prefix(f"{IPAM}assignment/ipv{version}/block/")
        found |= _read_blocks(pairs)
    return found


async def read_handles(store: Store, names: Sequence[str]) -> dict[str, Handle]:
    """Returns the handles of these names; those that are not stored have revision 0."""
    pages = await read_ranges(store, [RangeOp(format_handle_key(name)) for name in names])
    return {name: _find_handle(name, page) for name, page in zip(names, pages, strict=True)}


async def list_affinities(store: Store) -> dict[AffinityKey, Affinity]:
    """Returns all claims of blocks by hosts."""
    pairs, _ = await store.list_prefix(f"{IPAM}host/")
    return _read_claims(pairs)


def read_pools(pairs: Iterable[KeyValue]) -> tuple[Pool, ...]:
    """Returns the pools that can be read, in order of their names."""
    found = []
    for pair in pairs:
        key = parse_key(pair.key)
        if not isinstance(key, ResourceKey):
            continue
        record = decode(key, pair.value).record
        if isinstance(record, IPPool):
            found.append(Pool(key.name, parse_net(record.spec.cidr), record.spec, pair.key, pair.mod_revision))
    return tuple(found)


def read_reserved(pairs: Iterable[KeyValue]) -> Reserved:
    """Returns what the reservations that can be read reserve."""
    nets: list[Net] = []
    for pair in pairs:
        key = parse_key(pair.key)
        record = decode(key, pair.value).record if isinstance(key, ResourceKey) else None
        if isinstance(record, IPReservation):
            nets += [parse_net(text) for text in record.spec.reserved_cidrs]
    return Reserved(nets)


def read_config(config: Sequence[KeyValue], configuration: Sequence[KeyValue]) -> IpamConfig:
    """Returns how addresses are given out: as Calico's own key says, else as the IPAMConfiguration `default` says."""
    if config:
        return parse_config(config[0].value)
    for pair in configuration:
        key = parse_key(pair.key)
        record = decode(key, pair.value).record if isinstance(key, ResourceKey) else None
        if isinstance(record, IPAMConfiguration):
            spec = record.spec
            return IpamConfig(spec.strict_affinity, spec.auto_allocate_blocks, spec.max_blocks_per_host)
    return IpamConfig()


def _read_blocks(pairs: Iterable[KeyValue]) -> dict[Net, StoredBlock]:
    return {stored.net: stored for pair in pairs if (stored := _read_block(pair)) is not None}


def _blocks_around(addresses: Iterable[Net]) -> list[Net]:
    """Returns all blocks that could be around the addresses."""
    nets: dict[Net, None] = {}
    for address in addresses:
        for length in BLOCK_LENGTHS[address.version]:
            shift = address.bits - length
            nets[Net(address.version, address.value >> shift << shift, length)] = None
    return list(nets)


def _read_handle(pair: KeyValue) -> Handle:
    return parse_handle(pair.key.removeprefix(HANDLES), pair.value, pair.mod_revision)


def _read_claims(pairs: Iterable[KeyValue]) -> dict[AffinityKey, Affinity]:
    return {
        key: parse_affinity(pair.value, pair.mod_revision)
        for pair in pairs
        if isinstance(key := parse_key(pair.key), AffinityKey)
    }


def _read_block(pair: KeyValue) -> StoredBlock | None:
    key = parse_key(pair.key)
    if not isinstance(key, BlockKey):
        return None
    return StoredBlock(key.block, pair.mod_revision, pair.value)


def _find_handle(name: str, pairs: Sequence[KeyValue]) -> Handle:
    return parse_handle(name, pairs[0].value, pairs[0].mod_revision) if pairs else Handle(name)


def _read_labels(pairs: Sequence[KeyValue]) -> dict[str, str]:
    for pair in pairs:
        key = parse_key(pair.key)
        record = decode(key, pair.value).record if isinstance(key, ResourceKey) else None
        if isinstance(record, Node):
            return record.metadata.labels
    return {}


def _prefix(prefix: str) -> RangeOp:
    return RangeOp(prefix, prefix_end(prefix))


async def read_inventory(store: Store) -> Inventory:
    """Returns everything that an audit looks at, all at one revision."""
    result = await store.txn([], [_prefix(prefix) for prefix in (_POOLS, *INVENTORY)])
    pools, *others = [page.kvs for page in result.responses if isinstance(page, RangePage)]
    builder = InventoryBuilder()
    for pairs in others:
        builder.add(pairs)
    return builder.build(result.revision, read_pools(pools))
