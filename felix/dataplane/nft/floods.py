"""How many new connections one source may open: what is over that is dropped before it is tracked for good.

The sets that remember sources are of a bounded size; when one is full, further sources are not limited. IPv6 sources
count by their /64: whoever has one address has all of them.
"""

from __future__ import annotations

from felix.dataplane.nft.base import drop
from felix.dataplane.nft.types import FloodConfig, Lines, NftConfig, ObjectName

_SOURCES = {4: "flood-sources4", 6: "flood-sources6"}
_TYPES = {4: "ipv4_addr", 6: "ipv6_addr"}
_KEYS = {4: "ip saddr", 6: "ip6 saddr & ffff:ffff:ffff:ffff::"}
_CHECK = "flood-check"
_NEW = "ct state 0x8"
_PRIORITY = 9  # behind all policy, before connections are counted
_NFT_BURST = 5
_COUNTER = "flooding"


def flood_objects(flood: FloodConfig) -> dict[ObjectName, Lines]:
    """Returns the sets that remember sources; none when nothing is limited."""
    if not flood.per_s:
        return {}
    shared = (f"size {flood.sources}", "flags dynamic,timeout", "timeout 60s")
    return {ObjectName("set", _SOURCES[version]): (f"type {_TYPES[version]}", *shared) for version in (4, 6)}


def render_floods(config: NftConfig) -> dict[str, Lines]:
    """Returns the chains that look at new connections of workloads, in either direction."""
    flood = config.flood
    if not flood.per_s:
        return {}
    burst = flood.burst if flood.burst != _NFT_BURST else flood.burst + 1
    limit = f"limit rate over {flood.per_s}/second burst {burst} packets"
    checks = [f"update @{_SOURCES[version]} {{ {_KEYS[version]} {limit} }} {drop(_COUNTER)}" for version in (4, 6)]
    prefixes = config.interface_prefixes
    from_workload = [f'{_NEW} iifname "{prefix}*" goto {_CHECK}' for prefix in prefixes]
    to_workload = [f'{_NEW} oifname "{prefix}*" goto {_CHECK}' for prefix in prefixes]
    return {
        _CHECK: tuple(checks),
        "flood-forward": (_hook("forward"), *from_workload, *to_workload),
        "flood-input": (_hook("input"), *from_workload),
    }


def _hook(hook: str) -> str:
    return f"type filter hook {hook} priority {_PRIORITY}; policy accept;"
