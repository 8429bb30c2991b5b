"""Which pools a request may use, which addresses are reserved, and where in a pool the next block is made. Pure."""

from __future__ import annotations

import hashlib
import operator
from bisect import bisect_right
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import NamedTuple

from felix.errors import DataError
from felix.ipam.faults import NoPool
from felix.model.net import Net, parse_net
from felix.model.networks import IPPoolSpec
from felix.selector.parse import parse

WORKLOAD = "Workload"


class Pool(NamedTuple):
    """A pool as stored under `key` at `revision`."""

    name: str
    net: Net
    spec: IPPoolSpec
    key: str = ""
    revision: int = 0


@dataclass(frozen=True, slots=True)
class PoolRequest:
    """For whom pools are chosen. pools: names or prefixes that were asked for; empty: whichever fit by themselves."""

    version: int
    pools: tuple[str, ...] = ()
    use: str = WORKLOAD
    node_labels: Mapping[str, str] = field(default_factory=dict)
    namespace_labels: Mapping[str, str] = field(default_factory=dict)


def choose_pools(pools: Iterable[Pool], request: PoolRequest) -> tuple[Pool, ...]:
    """Returns the pools of which addresses may be given, in the order in which they are tried: as asked for, by name.

    Pools asked for need not select node or namespace. Raises NoPool, saying why each pool was left out.
    """
    ordered = sorted((pool for pool in pools if pool.net.version == request.version), key=lambda pool: pool.name)
    if request.pools:
        ordered = _find_named(ordered, request)
    reason_by_pool = {pool.name: _find_obstacle(pool, request) for pool in ordered}
    chosen = tuple(pool for pool in ordered if not reason_by_pool[pool.name])
    if not chosen or (request.pools and len(chosen) < len(ordered)):
        left_out = "; ".join(f"{name} {reason}" for name, reason in reason_by_pool.items() if reason)
        raise NoPool(f"no IPv{request.version} pool can be used: {left_out or 'there is none, felix apply one'}")
    return chosen


def selects_node(pool: Pool, labels: Mapping[str, str]) -> bool:
    """Whether a host with these labels may have blocks of the pool."""
    return _matches(pool.spec.node_selector, labels)


def find_pool(pools: Iterable[Pool], net: Net) -> Pool | None:
    """Returns the enabled pool in which `net` lies."""
    return next((pool for pool in pools if not pool.spec.disabled and operator.contains(pool.net, net)), None)


def _find_named(pools: Sequence[Pool], request: PoolRequest) -> list[Pool]:
    found: dict[str, Pool] = {}
    missing = []
    for text in request.pools:
        net = _find_net(text)
        if net is not None and net.version != request.version:
            continue
        pool = next((one for one in pools if text == one.name or net == one.net), None)
        if pool is not None:
            found[pool.name] = pool
        elif net is not None:
            missing.append(text)
    unknown = [text for text in request.pools if _find_net(text) is None and text not in found]
    if missing or (unknown and not found):
        raise NoPool(f"there is no IPv{request.version} pool {', '.join(missing or unknown)}; see felix get ippool")
    return list(found.values())


def _find_obstacle(pool: Pool, request: PoolRequest) -> str:
    """Returns why the pool may not be used, empty when it may."""
    spec = pool.spec
    if spec.disabled:
        return "is disabled"
    if request.use not in spec.allowed_uses:
        return f"is not for {request.use} (allowedUses: {', '.join(spec.allowed_uses)})"
    if request.pools:
        return ""
    if spec.assignment_mode == "Manual":
        return "is used when asked for only (assignmentMode: Manual)"
    if not selects_node(pool, request.node_labels):
        return f"does not select the host (nodeSelector: {spec.node_selector})"
    if not _matches(spec.namespace_selector, request.namespace_labels):
        return f"does not select the namespace (namespaceSelector: {spec.namespace_selector})"
    return ""


def _matches(selector: str, labels: Mapping[str, str]) -> bool:
    try:
        return not selector or parse(selector).matches(labels)
    except DataError:
        return False


def _find_net(text: str) -> Net | None:
    try:
        return parse_net(text)
    except ValueError:
        return None


class Reserved:
    """Addresses that nobody gets who does not ask for them by name: prefixes, joined to ranges."""

    def __init__(self, nets: Iterable[Net] = ()) -> None:
        self._ranges: dict[int, list[tuple[int, int]]] = {4: [], 6: []}
        for net in sorted(nets):
            ranges = self._ranges[net.version]
            if ranges and net.value <= ranges[-1][1] + 1:
                ranges[-1] = (ranges[-1][0], max(ranges[-1][1], net.last))
            else:
                ranges.append((net.value, net.last))

    def contains(self, version: int, value: int) -> bool:
        """Whether an address is reserved."""
        return self.find_end(version, value, value) is not None

    def test(self, version: int) -> Callable[[int], bool]:
        """Returns what says whether an address of that family is reserved."""
        return lambda value: self.contains(version, value)

    def find_end(self, version: int, first: int, last: int) -> int | None:
        """Returns the last address of the range that holds all from `first` to `last`, None when none does."""
        ranges = self._ranges[version]
        index = bisect_right(ranges, (first, 1 << 128)) - 1
        return ranges[index][1] if index >= 0 and last <= ranges[index][1] else None

    def count(self, net: Net) -> int:
        """Returns how many addresses of a prefix are reserved."""
        ranges = self._ranges[net.version]
        return sum(max(0, min(last, net.last) - max(first, net.value) + 1) for first, last in ranges)


def find_free_block(pool: Pool, host: str, busy: Iterable[Net], reserved: Reserved) -> Net | None:
    """Returns a block of the pool that overlaps none of `busy` and is not reserved as a whole; None when all are.

    Hosts start at different places, so that they seldom want the same block, and each always at the same.
    """
    net, length = pool.net, pool.spec.block_size
    size = 1 << (net.bits - length)
    count = 1 << (length - net.length)
    taken = _Taken(one for one in busy if one.version == net.version)
    start = int.from_bytes(hashlib.sha256(host.encode()).digest()[:16], "big") % count
    for first, last in ((start, count), (0, start)):
        index = first
        while index < last:
            low = net.value + index * size
            end = taken.find_end(low, low + size - 1)
            if end is None:
                end = reserved.find_end(net.version, low, low + size - 1)
            if end is None:
                return Net(net.version, low, length)
            index = max(index + 1, (end + 1 - net.value) // size)
    return None


class _Taken:
    """Blocks that exist, to jump over."""

    def __init__(self, nets: Iterable[Net]) -> None:
        ordered = sorted(nets, key=lambda net: (net.value, -net.last))
        # a block inside another one says nothing new
        self._nets: list[tuple[int, int]] = []
        for net in ordered:
            if not self._nets or net.last > self._nets[-1][1]:
                self._nets.append((net.value, net.last))

    def find_end(self, first: int, last: int) -> int | None:
        """Returns the end of the last of those that overlap the range, None when none does."""
        index = bisect_right(self._nets, (last, 1 << 128)) - 1
        return self._nets[index][1] if index >= 0 and self._nets[index][1] >= first else None
