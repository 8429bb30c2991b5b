"""How many new connections one source may open: what is over that is dropped before it is tracked for good.

The sets that remember sources are of a bounded size; when one is full, further sources are not limited. IPv6 sources
count by their /64, for whoever has one address has all of them; but those in the pools are workloads, which have their
own address alone and share a /64 with each other.

One rate is for all workloads of the host. Rates for some are chains of their own, one for each rate, which a map leads
to; endpoints with the same rate share chain and sets, and no budget, for the sets remember endpoint and source.
"""

from __future__ import annotations

from felix.calc.desired import POOLS, SourceRate
from felix.dataplane.nft.base import FIRST_OF_CONNECTION, drop
from felix.dataplane.nft.nat import net_set
from felix.dataplane.nft.types import FloodConfig, Lines, NftConfig, ObjectName

_SOURCES = {4: "flood-sources4", 6: "flood-sources6"}
FLOOD_TO = "flood-to"
"""The map that leads new connections towards an interface to the chain of its rate."""

FLOOD_HOOK = "flood-endpoints"
_TYPES = {4: "ipv4_addr", 6: "ipv6_addr"}
_INSIDE = f"@{net_set(POOLS, 6)}"
_CHECKS = (
    (4, "", "ip saddr"),
    (6, f"ip6 saddr {_INSIDE} ", "ip6 saddr"),
    (6, f"ip6 saddr != {_INSIDE} ", "ip6 saddr & ffff:ffff:ffff:ffff::"),
)
"""Family, condition, and what a source is."""
_CHECK = "flood-check"
_PRIORITY = 9  # behind all policy, before connections are counted
_NFT_BURST = 5
_COUNTER = "flooding"


def flood_objects(flood: FloodConfig) -> dict[ObjectName, Lines]:
    """Returns the sets that remember sources; none when nothing is limited."""
    if not flood.per_s:
        return {}
    return {ObjectName("set", _SOURCES[version]): _declare(_TYPES[version], flood.sources) for version in (4, 6)}


def render_floods(config: NftConfig) -> dict[str, Lines]:
    """Returns the chains that look at new connections of workloads, in either direction."""
    flood = config.flood
    if not flood.per_s:
        return {}
    limit = _limit(flood.per_s, flood.burst)
    checks = [
        f"{which}update @{_SOURCES[version]} {{ {key} {limit} }} {drop(_COUNTER)}" for version, which, key in _CHECKS
    ]
    prefixes = config.interface_prefixes
    from_workload = [f'{FIRST_OF_CONNECTION} iifname "{prefix}*" goto {_CHECK}' for prefix in prefixes]
    to_workload = [f'{FIRST_OF_CONNECTION} oifname "{prefix}*" goto {_CHECK}' for prefix in prefixes]
    return {
        _CHECK: tuple(checks),
        "flood-forward": (_hook("forward"), *from_workload, *to_workload),
        "flood-input": (_hook("input"), *from_workload),
    }


def rate_chain(rate: SourceRate) -> str:
    """Returns the name of the chain for a rate of single endpoints."""
    return f"flood-{rate.per_s}-{rate.burst}"


def rate_objects(rate: SourceRate) -> dict[ObjectName, Lines]:
    """Returns the sets that this chain remembers sources in.

    No two rates share one: an element keeps the rate with which it was made for as long as its source goes on.
    """
    size = FloodConfig().sources
    return {
        ObjectName("set", f"{rate_chain(rate)}-{version}"): _declare(f"ifname . {_TYPES[version]}", size)
        for version in (4, 6)
    }


def render_rate(rate: SourceRate) -> Lines:
    """Returns the lines of this chain."""
    limit, chain = _limit(rate.per_s, rate.burst), rate_chain(rate)
    return tuple(
        f"{which}update @{chain}-{version} {{ oifname . {key} {limit} }} {drop(_COUNTER)}"
        for version, which, key in _CHECKS
    )


def render_flood_hook() -> dict[str, Lines]:
    """Returns the chain that leads to those of rates."""
    return {FLOOD_HOOK: (_hook("forward"), f"{FIRST_OF_CONNECTION} oifname vmap @{FLOOD_TO}")}


def _declare(type_: str, size: int) -> Lines:
    return (f"type {type_}", f"size {size}", "flags dynamic,timeout", "timeout 60s")


def _limit(per_s: int, burst: int) -> str:
    return f"limit rate over {per_s}/second burst {burst if burst != _NFT_BURST else burst + 1} packets"


def _hook(hook: str) -> str:
    return f"type filter hook {hook} priority {_PRIORITY}; policy accept;"
