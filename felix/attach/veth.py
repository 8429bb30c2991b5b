"""What one container interface is to be: names, addresses, gateways; and what can be wrong with that."""

from __future__ import annotations

import re
from dataclasses import dataclass

from felix.errors import Blame, DataError, FelixError, Remedy
from felix.model.net import Net, parse_net

HOST_MAC = "ee:ee:ee:ee:ee:ee"
"""Of every host end, as Calico has it: a container that moves needs no new neighbour entries."""

GATEWAY_V4 = parse_net("169.254.1.1")
"""Stands on no interface; the host end answers for it (proxy ARP), and a permanent neighbour makes asking needless."""

MTU_LEAST = 68
MTU_LEAST_IPV6 = 1280
MTU_MOST = 65535

_NAME = re.compile(r"[!-$&-.0-9;-~]{1,15}")  # printable, without blank, "%", "/" and ":"
_RESERVED_NAMES = frozenset({"all", "default", ".", "..", "lo"})  # of /proc/sys, and the one that every namespace has
_MAC = re.compile(r"[0-9a-fA-F]{2}(:[0-9a-fA-F]{2}){5}")


class NoNamespace(DataError):
    """What was given as a container's network namespace is missing, is none, or is the agent's own."""


class Taken(FelixError):
    """An interface of the name already exists and is not ours to change; nothing was changed."""

    blame = Blame.DATA
    remedy = Remedy.IGNORE


@dataclass(frozen=True, slots=True)
class VethSpec:
    """All of one container interface.

    host_end: name on the host, at most 15 characters. interface: name inside, "eth0".
    mac: of the container's end; empty: the kernel's choice. mtu: of both ends; 0: the kernel's default.
    addresses: /32 and /128, the preferred source first; may be empty.
    default_route: whether the container's default routes go here. The way to the gateways (their permanent neighbours,
    and the route to the IPv4 one) is there in any case, so that whoever comes after may add routes through them.
    forwarding: whether the container's namespace forwards packets between its interfaces.
    """

    host_end: str
    interface: str
    mac: str = ""
    addresses: tuple[Net, ...] = ()
    mtu: int = 0
    default_route: bool = True
    forwarding: bool = False
    host_mac: str = HOST_MAC

    @property
    def has_ipv6(self) -> bool:
        """Whether one of the addresses is an IPv6 address."""
        return any(address.version == 6 for address in self.addresses)

    @property
    def gateways(self) -> tuple[Net, ...]:
        """The next hops of the families that have an address, IPv4 first: 169.254.1.1, the host end's link-local."""
        versions = {address.version for address in self.addresses}
        both = (GATEWAY_V4, link_local_of(self.host_mac))
        return tuple(gateway for gateway in both if gateway.version in versions)


@dataclass(frozen=True, slots=True)
class Veth:
    """A container interface as it is.

    host_index, index: interface numbers of the host end in the agent's namespace, and inside. mac, mtu: inside.
    is_new: False when it was there already (and was completed where need be).
    """

    host_index: int
    index: int
    mac: str
    mtu: int
    is_new: bool


def link_local_of(mac: str) -> Net:
    """Returns the IPv6 address that the kernel gives to an interface with this MAC address (RFC 4291, modified EUI-64).

    fe80::ecee:eeff:feee:eeee for `HOST_MAC`. Raises ValueError when `mac` is none.
    """
    octets = pack_mac(mac)
    identifier = bytes([octets[0] ^ 2]) + octets[1:3] + b"\xff\xfe" + octets[3:]
    return Net(6, int.from_bytes(b"\xfe\x80" + bytes(6) + identifier, "big"), 128)


def pack_mac(mac: str) -> bytes:
    """Returns the six bytes; raises ValueError when `mac` is none."""
    if _MAC.fullmatch(mac) is None:
        raise ValueError(f"{mac!r} is no MAC address; it is written as ee:ee:ee:ee:ee:ee")
    return bytes.fromhex(mac.replace(":", ""))


def format_mac(octets: bytes) -> str:
    """Returns the usual text of a MAC address."""
    return octets.hex(":")


def find_problem(spec: VethSpec) -> str | None:
    """Returns why `spec` cannot be made on any host, or None."""
    for field, name in (("host_end", spec.host_end), ("interface", spec.interface)):
        if _NAME.fullmatch(name) is None or name in _RESERVED_NAMES:
            return f"{field}: {name!r} cannot name an interface: 1 to 15 characters without blank, '/', ':' and '%'"
    for field, mac in (("mac", spec.mac), ("host_mac", spec.host_mac)):
        problem = _find_mac_problem(mac) if mac or field == "host_mac" else None
        if problem is not None:
            return f"{field}: {problem}"
    least = MTU_LEAST_IPV6 if spec.has_ipv6 else MTU_LEAST
    if spec.mtu and not least <= spec.mtu <= MTU_MOST:
        return f"mtu: {spec.mtu} is not between {least} and {MTU_MOST} (0: the kernel's default)"
    seen: set[Net] = set()
    for address in spec.addresses:
        if not address.is_address:
            return f"addresses: {address} is a prefix; a container has single addresses (/32, /128)"
        if address in seen:
            return f"addresses: {address} stands there twice"
        seen.add(address)
    return None


def _find_mac_problem(mac: str) -> str | None:
    try:
        octets = pack_mac(mac)
    except ValueError as error:
        return str(error)
    if octets[0] & 1 or not any(octets):
        return f"{mac} is a group address or zero; an interface needs a unicast address"
    return None
