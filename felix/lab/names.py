"""Names and addresses of everything in a lab, computed from its name and the number of a host. Pure.

Every namespace starts with `fx-<lab>-`; a lab's name has no dash, so no lab's prefix is another's.
"""

from __future__ import annotations

import hashlib
import re
from dataclasses import dataclass
from typing import NamedTuple

from felix.errors import DataError
from felix.model.net import Net, parse_net

MAX_HOSTS = 250
POOL_V4 = parse_net("192.168.0.0/16")
POOL_V6 = parse_net("fd00:192:168::/64")
FABRIC_V4 = parse_net("10.0.0.0/24")
FABRIC_V6 = parse_net("fd00:10::/64")
FABRIC_ADDRESS_V4 = "10.0.0.254"
FABRIC_ADDRESS_V6 = "fd00:10::fe"
FAR_V4 = parse_net("10.0.1.0/24")
FAR_V6 = parse_net("fd00:11::/64")
FAR_ADDRESS_V4 = "10.0.1.254"
FAR_ADDRESS_V6 = "fd00:11::fe"
RESOLVER_V4 = "169.254.1.53"  # the name server of each host, for its containers; never leaves the host
GATEWAY_V4 = "169.254.1.1"
GATEWAY_V6 = "fe80::ecee:eeff:feee:eeee"  # the link-local address that a host end's MAC address gives
HOST_END_MAC = "ee:ee:ee:ee:ee:ee"
AS_NUMBER = 64512
ETCD_PORT = 2379

_LAB_NAME = re.compile(r"[a-z][a-z0-9]{0,23}")
_PLACE_NAME = re.compile(r"[a-z0-9]([a-z0-9.-]{0,61}[a-z0-9])?")


class Subnet(NamedTuple):
    """A part of the fabric: its bridge, its prefixes, and the addresses that lead out of it."""

    bridge: str
    ipv4: Net
    ipv6: Net
    gateway_v4: str
    gateway_v6: str


NEAR = Subnet("fabric", FABRIC_V4, FABRIC_V6, FABRIC_ADDRESS_V4, FABRIC_ADDRESS_V6)
FAR = Subnet("far", FAR_V4, FAR_V6, FAR_ADDRESS_V4, FAR_ADDRESS_V6)
"""Where all hosts are, unless every other one is apart from them, behind a router."""


@dataclass(frozen=True, slots=True)
class HostAddresses:
    """What one virtual host is called on the fabric, where it is there, and the two blocks that are its own."""

    name: str
    ipv4: str
    ipv6: str
    block_v4: Net
    block_v6: Net
    subnet: Subnet = NEAR


def check_lab_name(name: str) -> str:
    """Returns `name` when it can name a lab; raises DataError otherwise."""
    if not _LAB_NAME.fullmatch(name):
        raise DataError(f"lab name {name!r}: use 1 to 24 of a-z and 0-9, a letter first, as in 'demo'")
    return name


def check_workload_name(name: str) -> str:
    """Returns `name` when it can name a workload; raises DataError otherwise."""
    if not _PLACE_NAME.fullmatch(name):
        raise DataError(f"workload name {name!r}: use 1 to 63 of a-z, 0-9, dot and dash, no dash or dot at the ends")
    return name


def namespace_prefix(lab: str) -> str:
    """Returns what the names of all namespaces of this lab start with."""
    return f"fx-{check_lab_name(lab)}-"


def host_addresses(number: int, *, is_apart: bool = False) -> HostAddresses:
    """Returns names and addresses of host `number`, counted from 1 to MAX_HOSTS.

    is_apart: whether hosts with even numbers are in a subnet of their own.
    """
    if not 1 <= number <= MAX_HOSTS:
        raise DataError(f"a lab has 1 to {MAX_HOSTS} hosts, not {number}")
    subnet = FAR if is_apart and number % 2 == 0 else NEAR
    return HostAddresses(
        name=f"h{number}",
        ipv4=Net(4, subnet.ipv4.value + number, 32).address,
        ipv6=Net(6, subnet.ipv6.value + number, 128).address,
        block_v4=Net(4, POOL_V4.value + (number << 8), 26),
        block_v6=Net(6, POOL_V6.value + (number << 16), 122),
        subnet=subnet,
    )


def host_end(workload: str) -> str:
    """Returns the interface name of a workload's host end: `cali` and 11 characters that depend on its name only."""
    return "cali" + hashlib.sha256(workload.encode()).hexdigest()[:11]


def workload_mac(workload: str) -> str:
    """Returns the locally administered MAC address of a workload's end, the same each time it is created."""
    digest = hashlib.sha256(b"mac" + workload.encode()).digest()
    return ":".join(f"{byte:02x}" for byte in (0x02, *digest[:5]))
