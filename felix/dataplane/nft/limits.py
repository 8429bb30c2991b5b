"""Limits of endpoints as chains of their own, which only packets of such endpoints ever see. Policy's stay shared.

    from the workload: as a packet comes in, before tracking: packet rate ──▶ policy ──▶ new connections
    to the workload:   policy ──▶ packet rate, new connections

Bandwidth is a matter of `qdiscs`. What floods is stopped before it costs the host an entry of its tables; what policy
denies uses up nobody's share.
A number that some versions of nft do not list is moved by one: chains are compared as text.
"""

from __future__ import annotations

from collections.abc import Collection

from felix.calc.desired import POOLS, Limits, PacketRate
from felix.dataplane.nft.base import FIRST_OF_CONNECTION, drop
from felix.dataplane.nft.floods import FLOOD_HOOK, FLOOD_TO, rate_chain, render_flood_hook
from felix.dataplane.nft.names import limit_chain
from felix.dataplane.nft.nat import net_set
from felix.dataplane.nft.types import ElementShape, Lines

LIMITS_FROM, LIMITS_NEW, LIMITS_TO, CLASSES = "limits-from", "limits-new", "limits-to", "dscp-from"
LIMIT_MAPS = dict.fromkeys((LIMITS_FROM, LIMITS_NEW, LIMITS_TO, CLASSES, FLOOD_TO), ElementShape.NAME_CHAIN)
"""The maps that lead packets to the chains of an interface's limits: as they come in, new connections, going out; to
the chain that marks them with a class; new ones towards it, to the chain for its sources.
"""

LIMITED_COUNTER = "limited"
_REFUSE = "limit-refuse"
_NFT_BURST = 5  # what nft takes when nothing is said: some versions list it, some do not
_POLICING_PRIORITY = -299  # behind the gate for sources, before connections are tracked
_LIMIT_PRIORITY = 10  # behind all policy
_MARKING_PRIORITY = 11


def render_limits(interface: str, limits: Limits) -> dict[str, tuple[str, Lines]]:
    """Returns chain and its lines by the map that leads to it; no entry where nothing is limited."""
    from_lines = _render_packets(limits.packets_out)
    new_lines = _render_connections(limits.connections_out)
    to_lines = (
        *_render_packets(limits.packets_in),
        *(f"{FIRST_OF_CONNECTION} {line}" for line in _render_connections(limits.connections_in)),
    )
    lines_by_map = {LIMITS_FROM: from_lines, LIMITS_NEW: new_lines, LIMITS_TO: to_lines}
    return {map_: (limit_chain(map_, interface), lines) for map_, lines in lines_by_map.items() if lines}


def render_limit_hooks(used: Collection[str]) -> dict[str, Lines]:
    """Returns the chains that lead to those of interfaces. used: the maps that have elements."""
    chains: dict[str, Lines] = {}
    if LIMITS_NEW in used or LIMITS_TO in used:
        chains[_REFUSE] = ("meta l4proto 6 reject with tcp reset", drop(LIMITED_COUNTER))
    forward: list[str] = []
    if LIMITS_FROM in used:
        chains["limit-prerouting"] = (_hook("prerouting", _POLICING_PRIORITY), f"iifname vmap @{LIMITS_FROM}")
    if LIMITS_NEW in used:
        chains["limit-new"] = (f"iifname vmap @{LIMITS_NEW}",)
        chains["limit-input"] = (_hook("input", _LIMIT_PRIORITY), f"{FIRST_OF_CONNECTION} jump limit-new")
        forward.append(f"{FIRST_OF_CONNECTION} jump limit-new")
    if LIMITS_TO in used:
        forward.append(f"oifname vmap @{LIMITS_TO}")
    if CLASSES in used:
        chains["dscp-forward"] = (_hook("forward", _MARKING_PRIORITY), f"iifname vmap @{CLASSES}")
    if FLOOD_TO in used:
        chains |= render_flood_hook()
    if forward:
        chains["limit-forward"] = (_hook("forward", _LIMIT_PRIORITY), *forward)
    return chains


def needed_chains(interface: str, limits: Limits) -> set[str]:
    """Returns the chains without which the limits of an interface do not hold, those on hooks among them."""
    chain_by_map = {map_: chain for map_, (chain, _) in render_limits(interface, limits).items()}
    needed = set(chain_by_map.values())
    if LIMITS_FROM in chain_by_map:
        needed.add("limit-prerouting")
    if LIMITS_NEW in chain_by_map:
        needed |= {"limit-new", "limit-input", "limit-forward"}
    if LIMITS_TO in chain_by_map:
        needed.add("limit-forward")
    if limits.connections_in or limits.connections_out:
        needed.add(_REFUSE)
    if limits.dscp is not None:
        needed |= {class_chain(limits.dscp), "dscp-forward"}
    if limits.per_source is not None:
        needed |= {rate_chain(limits.per_source), FLOOD_HOOK}
    return needed


def class_chain(dscp: int) -> str:
    """Returns the name of the chain that marks packets with a class; endpoints share it."""
    return f"dscp-{dscp}"


def render_class(dscp: int) -> Lines:
    """Returns the lines of that chain: what stays inside the pools is left as it is."""
    inside = (f"ip daddr @{net_set(POOLS, 4)} return", f"ip6 daddr @{net_set(POOLS, 6)} return")
    return (*inside, f"ip dscp set 0x{dscp:02x}", f"ip6 dscp set 0x{dscp:02x}")


def _hook(hook: str, priority: int) -> str:
    return f"type filter hook {hook} priority {priority}; policy accept;"


def _render_packets(rate: PacketRate | None) -> Lines:
    if rate is None:
        return ()
    burst = rate.burst if rate.burst != _NFT_BURST else rate.burst + 1
    return (f"limit rate over {rate.per_s}/second burst {burst} packets {drop(LIMITED_COUNTER)}",)


def _render_connections(count: int) -> Lines:
    return (f"ct count over {count} goto {_REFUSE}",) if count else ()
