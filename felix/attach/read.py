"""Reading container interfaces back from the kernel.

By pyroute2: checks are rare, and its decoder knows every attribute. It is loaded by the first check, for it takes 60 ms
and 12 MB that an agent without checks can do without.
"""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import closing
from pathlib import Path
from typing import Any

from felix.attach.apply import Namespace, call_inside, find_link, is_veth_of, open_route_socket
from felix.attach.render import LinkFacts, plan_routes
from felix.attach.veth import VethSpec, format_mac, pack_mac
from felix.errors import KernelRefused
from felix.model.net import Net, parse_address

_IFA_F_DADFAILED = 0x08
_NUD_PERMANENT = 0x80
_TABLE_MAIN = 254


def read_veth(namespace: Namespace, spec: VethSpec) -> list[str]:
    """Returns what is missing or wrong, in plain words ("address 10.1.0.7/32 is missing on eth0"); empty: nothing.

    What others may have added (addresses, routes, neighbours, forwarding) is no difference; an empty mac and an mtu of
    0 are not compared. Works in the calling thread's namespace and blocks shortly. Raises PeerError, KernelRefused.
    """
    with closing(open_route_socket()) as outside:
        host = find_link(outside, spec.host_end)
        inside, differences = call_inside(namespace, lambda: _read_inside(namespace, spec))
        if host is None:
            return [f"interface {spec.host_end} is missing on the host", *differences]
        if inside is not None and not is_veth_of(outside, namespace, host, inside):
            differences.insert(0, f"interface {spec.interface} is not the other end of {spec.host_end}")
    return [*_compare_link(host, spec.host_mac, spec.mtu), *differences]


def _read_inside(namespace: Namespace, spec: VethSpec) -> tuple[LinkFacts | None, list[str]]:
    """In a thread inside: returns the container's end (None: missing) and what differs there."""
    from pyroute2 import IPRoute
    from pyroute2.netlink.exceptions import NetlinkError

    differences: list[str] = []
    with closing(open_route_socket()) as netlink:
        loopback, link = find_link(netlink, "lo"), find_link(netlink, spec.interface)
    if loopback is None or not loopback.is_up:
        differences.append(f"lo is down in network namespace {namespace.name}")
    if link is None:
        return None, [*differences, f"interface {spec.interface} is missing in network namespace {namespace.name}"]
    differences += _compare_link(link, spec.mac, spec.mtu)
    try:
        with IPRoute() as route_socket:
            differences += _compare_addresses(spec, list(route_socket.get_addr(index=link.index)))
            differences += _compare_routes(spec, list(route_socket.get_routes(oif=link.index, table=_TABLE_MAIN)))
            differences += _compare_neighbours(spec, list(route_socket.get_neighbours(ifindex=link.index)))
    except NetlinkError as error:
        raise KernelRefused(f"reading interface {spec.interface} in {namespace.name}: {error}") from error
    if spec.forwarding:
        switches = ["net/ipv4/ip_forward"] + ["net/ipv6/conf/all/forwarding"] * spec.has_ipv6
        off = [path for path in switches if Path("/proc/sys", path).read_text().strip() == "0"]
        differences += [f"{path} is off in network namespace {namespace.name}" for path in off]
    return link, differences


def _compare_link(link: LinkFacts, mac: str, mtu: int) -> Iterator[str]:
    if not link.is_up:
        yield f"interface {link.name} is down"
    if mac and pack_mac(mac) != link.mac:
        yield f"mac of {link.name} is {format_mac(link.mac)}, not {mac}"
    if mtu and mtu != link.mtu:
        yield f"mtu of {link.name} is {link.mtu}, not {mtu}"


def _compare_addresses(spec: VethSpec, present: list[Any]) -> Iterator[str]:
    flags_by_address: dict[Net, int] = {}
    for one in present:
        text = one.get("IFA_LOCAL") or one.get("IFA_ADDRESS")
        address = parse_address(text) if text else None
        if address is not None and address.bits == one["prefixlen"]:
            flags_by_address[address] = one.get("IFA_FLAGS") or one["flags"]
    for address in spec.addresses:
        if address not in flags_by_address:
            yield f"address {address} is missing on {spec.interface}"
        elif address.version == 6 and flags_by_address[address] & _IFA_F_DADFAILED:
            yield f"address {address} on {spec.interface} is unusable: the kernel met it elsewhere (dadfailed)"


def _compare_routes(spec: VethSpec, present: list[Any]) -> Iterator[str]:
    seen: set[tuple[str, str]] = {("link" if one["dst_len"] else "default", _route_target(one)) for one in present}
    for route in plan_routes(spec):
        if route.gateway is not None and ("default", route.gateway.address) not in seen:
            yield f"default route via {route.gateway.address} is missing on {spec.interface}"
        if route.destination is not None and ("link", route.destination.address) not in seen:
            yield f"route to {route.destination.address} is missing on {spec.interface}"


def _route_target(one: Any) -> str:
    """Returns the gateway of a default route, or the destination of one that goes straight to the link."""
    if one["dst_len"] == 0:
        return str(one.get("RTA_GATEWAY") or "")
    is_direct_address = one["dst_len"] in (32, 128) and one.get("RTA_GATEWAY") is None
    return str(one.get("RTA_DST")) if is_direct_address else ""


def _compare_neighbours(spec: VethSpec, present: list[Any]) -> Iterator[str]:
    entry_by_address = {str(one.get("NDA_DST")): one for one in present}
    for gateway in spec.gateways:
        entry = entry_by_address.get(gateway.address)
        if entry is None or not entry["state"] & _NUD_PERMANENT:
            yield f"permanent neighbour {gateway.address} is missing on {spec.interface}"
        elif entry.get("NDA_LLADDR") != spec.host_mac.lower():
            yield f"neighbour {gateway.address} on {spec.interface} is {entry.get('NDA_LLADDR')}, not {spec.host_mac}"
