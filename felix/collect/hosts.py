"""Which hosts hold something, and which of them give no sign of life. Pure.

A host's lease is its agent's status key. Its absence alone proves nothing: an agent may be down while packets flow, and
a host that never reports cannot fall silent. So a host is only ever missed that once said that it lives, and not while
this host's kernel has a route to it that BIRD learnt.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field

from felix.collect.types import HostState, Reach, World
from felix.ipam.audit import Inventory
from felix.model.net import Net


@dataclass(slots=True)
class Holding:
    """What a host holds. newest: revision of the endpoint of it that changed last; 0 without one."""

    blocks: set[Net] = field(default_factory=set)
    newest: int = 0


def find_holdings(inventory: Inventory) -> dict[str, Holding]:
    """Returns what each host holds that holds something: endpoints, addresses, blocks, claims."""
    found: dict[str, Holding] = {}
    for endpoint in inventory.endpoints.values():
        if endpoint.host:
            one = found.setdefault(endpoint.host, Holding())
            one.newest = max(one.newest, endpoint.revision)
    for net, stored in inventory.blocks.items():
        block = stored.block
        if block is None:
            continue
        if block.host:
            found.setdefault(block.host, Holding()).blocks.add(net)
        for holder in block.holders:
            if holder.node:
                found.setdefault(holder.node, Holding())
    for key in inventory.affinities:
        found.setdefault(key.host, Holding())
    return found


def judge_hosts(world: World, holdings: Mapping[str, Holding], reach: Reach) -> Iterator[tuple[str, HostState]]:
    """Yields the hosts that hold something, or stand behind a fence, and give no sign of life."""
    for host in sorted({*holdings, *world.fences}):
        if host in world.alive:
            continue
        if host in world.fences and host not in holdings:
            yield host, HostState.FENCED
        elif host in world.reported and host in holdings:
            is_reachable = not holdings[host].blocks.isdisjoint(reach.routes)
            yield host, HostState.REACHABLE if is_reachable else HostState.SILENT
