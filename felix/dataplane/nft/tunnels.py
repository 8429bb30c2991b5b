"""Packets of VXLAN tunnels on the host's own interfaces: taken from known hosts only, and past policy of the host.

What comes out of a tunnel is whatever its sender wrote into it, with any source. So who may send is decided here,
before policy of host endpoints, which in turn does not stop what passes between known hosts. Nothing of it is tracked:
each flow inside has a port of its own outside, and would be a connection of its own beside the one inside.
"""

from __future__ import annotations

from collections.abc import Collection, Iterator

from felix.calc.desired import TUNNEL_PEERS
from felix.dataplane.nft.base import drop
from felix.dataplane.nft.nat import net_set
from felix.dataplane.nft.types import Lines

TUNNEL_PREFIX = "vxlan-"
TUNNEL_GUARD = "vxlan-input"
"""The chain without which anybody's packets come out of a tunnel."""
_WORD = {4: "ip", 6: "ip6"}


def render_tunnels(port: int, versions: Collection[int]) -> dict[str, Lines]:
    """Returns the chains that are wanted while there are tunnels of these families on that UDP port."""
    if not versions:
        return {}
    return {
        "vxlan-prerouting": (_hook("prerouting", -300), *_lines(port, versions, "saddr", "notrack")),
        "vxlan-output": (_hook("output", -300), *_lines(port, versions, "daddr", "notrack")),
        TUNNEL_GUARD: (
            _hook("input", -1),
            *(
                f"{_WORD[version]} saddr != @{net_set(TUNNEL_PEERS, version)} udp dport {port} {drop('tunnelled')}"
                for version in sorted(versions)
            ),
        ),
    }


def render_tunnel_passes(port: int, versions: Collection[int], *, is_inward: bool) -> Lines:
    """Returns lines that let tunnel packets from known hosts, or to them, past policy of host endpoints."""
    return tuple(_lines(port, versions, "saddr" if is_inward else "daddr", "accept"))


def _lines(port: int, versions: Collection[int], side: str, statement: str) -> Iterator[str]:
    for version in sorted(versions):
        yield f"{_WORD[version]} {side} @{net_set(TUNNEL_PEERS, version)} udp dport {port} {statement}"


def _hook(hook: str, priority: int) -> str:
    return f"type filter hook {hook} priority {priority}; policy accept;"
