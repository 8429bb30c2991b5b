"""Link settings as paths under /proc/sys, neighbours as rtnetlink messages, and the requests for dumps."""

from __future__ import annotations

import re
import struct

from felix.dataplane.links.types import HOST, LinkConfig, NeighbourKey, NeighbourValue, Settings, Sysctl
from felix.dataplane.netlink.message import NLM_F_CREATE, NLM_F_REPLACE, attribute, message

AF_INET = 2
AF_INET6 = 10
RTM_NEWLINK = 16
RTM_DELLINK = 17
RTM_GETLINK = 18
RTM_NEWNEIGH = 28
RTM_DELNEIGH = 29
RTM_GETNEIGH = 30
RTM_NEWNETCONF = 80
IFINFOMSG = struct.Struct("=BxHiII")  # family, device type, index, flags, change
NDMSG = struct.Struct("=BxxxiHBB")  # family, index, state, flags, type
NUD_PERMANENT = 0x80
NDA_DST = 1
NDA_LLADDR = 2
NDA_PROTOCOL = 12

# What /proc/sys takes as an interface's directory; "all" and "default" are directories of the whole host.
_SAFE_NAME = re.compile(r"[^/\s\0]{1,15}")
_RESERVED_NAMES = frozenset({"all", "default", ".", "..", "lo"})


def is_safe_name(name: str) -> bool:
    """Whether an interface name can stand in a path under /proc/sys and means that interface alone."""
    return name not in _RESERVED_NAMES and _SAFE_NAME.fullmatch(name) is not None


def render_settings(config: LinkConfig, index: int, name: str, *, is_spoofing: bool = False) -> Settings:
    """Returns what a workload interface needs; `name` must be safe.

    proxy_delay comes before proxy_arp: with the default delay the first packet waits up to half a second.
    rp_filter is a second gate behind our rules, and the only one that ARP passes: without it a workload can fill the
    host's table of neighbours with addresses of its choice. is_spoofing: the endpoint may send from others' addresses.
    route_localnet and proxy_ndp are left as they are: workloads have no business with 127.0.0.0/8, and the IPv6 gateway
    is the link-local address of the host's end. That address skips duplicate detection (accept_dad): nobody else can
    have it on a point-to-point link, and detection takes a second.
    """
    ipv4 = (
        Sysctl(f"net/ipv4/neigh/{name}/proxy_delay", "0"),
        Sysctl(f"net/ipv4/conf/{name}/proxy_arp", "1"),
        Sysctl(f"net/ipv4/conf/{name}/forwarding", "1"),
        Sysctl(f"net/ipv4/conf/{name}/rp_filter", "0" if is_spoofing else "1"),
    )
    ipv6 = (
        Sysctl(f"net/ipv6/conf/{name}/accept_ra", "0"),
        Sysctl(f"net/ipv6/conf/{name}/accept_dad", "0"),
        Sysctl(f"net/ipv6/conf/{name}/forwarding", "1"),
    )
    return Settings(index, name, ipv4 + ipv6 if config.has_ipv6 else ipv4)


def render_host_settings(config: LinkConfig) -> Settings:
    """Returns the switches of the whole host that routing between workloads and the outside needs."""
    ipv4 = (Sysctl("net/ipv4/ip_forward", "1"),)
    ipv6 = (Sysctl("net/ipv6/conf/all/forwarding", "1"),)
    return Settings(HOST, "", ipv4 + ipv6 if config.has_ipv6 else ipv4)


def render_neighbour(config: LinkConfig, key: NeighbourKey, value: NeighbourValue) -> bytes:
    """Returns the request that makes the entry permanent, in place of whatever is known about the address."""
    body = b"".join(
        (
            NDMSG.pack(_family_of(key), key.link, NUD_PERMANENT, 0, 0),
            attribute(NDA_DST, key.address.packed),
            attribute(NDA_LLADDR, value.mac),
            attribute(NDA_PROTOCOL, bytes([config.protocol])),
        )
    )
    return message(RTM_NEWNEIGH, NLM_F_CREATE | NLM_F_REPLACE, body)


def render_neighbour_removal(key: NeighbourKey) -> bytes:
    """Returns the request that removes the entry."""
    return message(
        RTM_DELNEIGH, 0, NDMSG.pack(_family_of(key), key.link, 0, 0, 0) + attribute(NDA_DST, key.address.packed)
    )


def render_link_dump() -> bytes:
    """Returns the request for all interfaces."""
    return message(RTM_GETLINK, 0, IFINFOMSG.pack(0, 0, 0, 0, 0))


def render_neighbour_dump(family: int) -> bytes:
    """Returns the request for all neighbours of a family."""
    return message(RTM_GETNEIGH, 0, NDMSG.pack(family, 0, 0, 0, 0))


def _family_of(key: NeighbourKey) -> int:
    return AF_INET if key.address.version == 4 else AF_INET6
