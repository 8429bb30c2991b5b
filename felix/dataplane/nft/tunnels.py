"""Packets of VXLAN tunnels on the host's own interfaces: taken from known hosts only, and past policy of the host.

What comes out of a tunnel is whatever its sender wrote into it, with any source. So who may send is decided here,
before policy of host endpoints, which in turn does not stop what passes between known hosts. Nothing of it is tracked:
each flow inside has a port of its own outside, and would be a connection of its own beside the one inside.
"""

from __future__ import annotations

from collections.abc import Collection, Iterator, Mapping

from felix.calc.desired import TUNNEL_PEERS
from felix.dataplane.nft.base import drop
from felix.dataplane.nft.match import render_address
from felix.dataplane.nft.nat import net_set
from felix.dataplane.nft.types import Lines
from felix.model.net import Net

TUNNEL_PREFIX = "vxlan-"
TUNNEL_GUARD = "vxlan-input"
"""The chain without which anybody's packets come out of a tunnel."""
_WORD = {4: "ip", 6: "ip6"}


def render_tunnels(port: int, owns: Mapping[int, Net], guarded: Collection[int]) -> dict[str, Lines]:
    """Returns the chains that are wanted while there are tunnels on that UDP port.

    owns: this host's own address in each family that is to have one. guarded: the families in which there may be one.
    """
    if not guarded:
        return {}
    return {
        "vxlan-prerouting": (_hook("prerouting", -300), *_to_host(port, owns, "notrack")),
        "vxlan-output": (_hook("output", -300), *_lines(port, owns, "daddr", "notrack")),
        TUNNEL_GUARD: (
            _hook("input", -1),
            *(
                f"{_WORD[version]} saddr != @{net_set(TUNNEL_PEERS, version)} udp dport {port} {drop('tunnelled')}"
                for version in sorted(guarded)
            ),
        ),
    }


def render_tunnel_passes(port: int, owns: Mapping[int, Net], hook: str) -> Lines:
    """Returns lines that let tunnel packets from known hosts, or to them, past policy of host endpoints at that hook.

    Before it is known where a packet goes, only those to this host's own address are the tunnel's.
    """
    match hook:
        case "prerouting":
            return tuple(_to_host(port, owns, "accept"))
        case "input":
            return tuple(_lines(port, owns, "saddr", "accept"))
        case "output":
            return tuple(_lines(port, owns, "daddr", "accept"))
        case _:
            return ()


def _lines(port: int, versions: Collection[int], side: str, statement: str) -> Iterator[str]:
    for version in sorted(versions):
        yield f"{_WORD[version]} {side} @{net_set(TUNNEL_PEERS, version)} udp dport {port} {statement}"


def _to_host(port: int, owns: Mapping[int, Net], statement: str) -> Iterator[str]:
    for version, own in sorted(owns.items()):
        word, address = _WORD[version], render_address(version, own.value)
        peers = net_set(TUNNEL_PEERS, version)
        yield f"{word} saddr @{peers} {word} daddr {address} udp dport {port} {statement}"


def _hook(hook: str, priority: int) -> str:
    return f"type filter hook {hook} priority {priority}; policy accept;"
