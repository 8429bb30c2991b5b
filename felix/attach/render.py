"""Container interfaces as rtnetlink messages (linux/rtnetlink.h, linux/veth.h), and links as they come back.

Packed by hand: an attach is the path of a change, and pyroute2 needs 0.3 ms for each of these (decision 4).
"""

from __future__ import annotations

import struct
from dataclasses import dataclass

from felix.attach.veth import VethSpec, pack_mac
from felix.dataplane.netlink.message import (
    NLM_F_CREATE,
    NLM_F_EXCL,
    NLM_F_REPLACE,
    Message,
    attribute,
    message,
    nested,
    parse_attributes,
)
from felix.model.net import Net

AF_INET = 2
AF_INET6 = 10
LOOPBACK_INDEX = 1  # in every namespace
STANDBY_METRIC = 2000  # behind everything that others set without a metric (IPv6: 1024)
VETH = "veth"

_RTM_NEWLINK, _RTM_DELLINK, _RTM_GETLINK = 16, 17, 18
_RTM_NEWADDR, _RTM_DELADDR, _RTM_GETADDR = 20, 21, 22
_RTM_NEWROUTE, _RTM_GETROUTE = 24, 26
_RTM_NEWNEIGH = 28
_RTM_GETNSID = 90

_IFINFOMSG = struct.Struct("=BxHiII")  # family, device type, index, flags, change
_IFADDRMSG = struct.Struct("=BBBBI")  # family, length, flags, scope, index
_RTMSG = struct.Struct("=BBBBBBBBI")  # family, dst_len, src_len, tos, table, protocol, scope, type, flags
_NDMSG = struct.Struct("=BxxxiHBB")  # family, index, state, flags, type
_NUMBER = struct.Struct("=I")
_SIGNED = struct.Struct("=i")

_IFF_UP = 1
_IFLA_ADDRESS, _IFLA_IFNAME, _IFLA_MTU, _IFLA_LINK = 1, 3, 4, 5
_IFLA_LINKINFO, _IFLA_NET_NS_FD, _IFLA_EXT_MASK, _IFLA_LINK_NETNSID = 18, 28, 29, 37
_INFO_KIND, _INFO_DATA = 1, 2
_VETH_INFO_PEER = 1
_SKIP_STATISTICS = 8
_IFA_ADDRESS, _IFA_LOCAL = 1, 2
_IFA_F_NODAD, _IFA_F_PERMANENT = 0x02, 0x80
_RTA_DST, _RTA_OIF, _RTA_GATEWAY, _RTA_PRIORITY = 1, 4, 5, 6
_TABLE_MAIN = 254
_PROTOCOL_BOOT = 3  # what `ip route add` leaves: routes of an administrator, that no routing daemon inside removes
_SCOPE_UNIVERSE, _SCOPE_LINK = 0, 253
_UNICAST = 1
_RTNH_F_ONLINK = 4
_NUD_PERMANENT = 0x80
_NDA_DST, _NDA_LLADDR = 1, 2
_NETNSA_NSID, _NETNSA_FD = 1, 3


@dataclass(frozen=True, slots=True)
class LinkFacts:
    """One interface as the kernel describes it.

    kind: "veth", "bridge", …; empty for hardware and lo. peer_index: the other end of a veth, 0 when there is none;
    peer_nsid: the number under which this namespace knows the other end's, -1 when it is this one.
    """

    index: int
    name: str
    kind: str
    mac: bytes
    mtu: int
    is_up: bool
    peer_index: int
    peer_nsid: int


@dataclass(frozen=True, slots=True)
class RouteSpec:
    """A route through one interface. destination: None for the default route of the gateway's family, which is then
    required. metric 0: the kernel's default."""

    version: int
    destination: Net | None
    gateway: Net | None
    metric: int = 0


def render_creation(spec: VethSpec, namespace_fd: int) -> bytes:
    """Returns the request for both ends at once: the host's, up, here, and the container's in the other namespace."""
    peer = _IFINFOMSG.pack(0, 0, 0, 0, 0) + _name(spec.interface) + _link_values(spec.mac, spec.mtu)
    peer += attribute(_IFLA_NET_NS_FD, _NUMBER.pack(namespace_fd))
    body = _IFINFOMSG.pack(0, 0, 0, _IFF_UP, _IFF_UP) + _name(spec.host_end) + _link_values(spec.host_mac, spec.mtu)
    kind = attribute(_INFO_KIND, VETH.encode())
    body += nested(_IFLA_LINKINFO, kind, nested(_INFO_DATA, attribute(_VETH_INFO_PEER, peer)))
    return message(_RTM_NEWLINK, NLM_F_CREATE | NLM_F_EXCL, body)


def render_link_up(index: int, mac: str = "", mtu: int = 0) -> bytes:
    """Returns the request that sets a link up, with this mac and mtu unless they are empty and 0."""
    return message(_RTM_NEWLINK, 0, _IFINFOMSG.pack(0, 0, index, _IFF_UP, _IFF_UP) + _link_values(mac, mtu))


def render_link_question(name: str) -> bytes:
    """Returns the question for one interface by name; the answer is for `parse_link`."""
    mask = attribute(_IFLA_EXT_MASK, _NUMBER.pack(_SKIP_STATISTICS))
    return message(_RTM_GETLINK, 0, _IFINFOMSG.pack(0, 0, 0, 0, 0) + _name(name) + mask)


def render_link_removal(index: int) -> bytes:
    """Returns the request that deletes an interface (of a veth: both ends)."""
    return message(_RTM_DELLINK, 0, _IFINFOMSG.pack(0, 0, index, 0, 0))


def render_namespace_question(namespace_fd: int) -> bytes:
    """Returns the question for the number under which this namespace knows another; answer for `parse_nsid`."""
    return message(_RTM_GETNSID, 0, bytes(4) + attribute(_NETNSA_FD, _NUMBER.pack(namespace_fd)))


def render_address(index: int, address: Net) -> bytes:
    """Returns the request that puts an address on a link, usable at once (no duplicate address detection)."""
    flags = 0 if address.version == 4 else _IFA_F_NODAD
    return message(_RTM_NEWADDR, NLM_F_CREATE | NLM_F_REPLACE, _render_address(index, address, flags))


def render_address_removal(index: int, address: Net) -> bytes:
    """Returns the request that takes an address from a link."""
    return message(_RTM_DELADDR, 0, _render_address(index, address, 0))


def render_address_dump(index: int) -> bytes:
    """Returns the request for the addresses of a link; kernels that do not filter answer with all."""
    return message(_RTM_GETADDR, 0, _IFADDRMSG.pack(0, 0, 0, 0, index))


def render_neighbour(index: int, address: Net, mac: str) -> bytes:
    """Returns the request for a permanent neighbour, in place of whatever is known about the address."""
    body = _NDMSG.pack(_family(address.version), index, _NUD_PERMANENT, 0, 0)
    body += attribute(_NDA_DST, address.packed) + attribute(_NDA_LLADDR, pack_mac(mac))
    return message(_RTM_NEWNEIGH, NLM_F_CREATE | NLM_F_REPLACE, body)


def plan_routes(spec: VethSpec) -> tuple[RouteSpec, ...]:
    """Returns the routes that the container needs, in the order in which the kernel takes them."""
    routes: list[RouteSpec] = []
    for gateway in spec.gateways:
        if gateway.version == 4:  # link-local addresses of IPv6 have a route to them by nature
            routes.append(RouteSpec(4, gateway, None))
        if spec.default_route:
            routes.append(RouteSpec(gateway.version, None, gateway))
    return tuple(routes)


def render_route(index: int, route: RouteSpec) -> bytes:
    """Returns the request for a route in the main table; refused (EEXIST) where one of its metric exists."""
    length = route.destination.length if route.destination else 0
    scope = _SCOPE_LINK if route.version == 4 and route.gateway is None else _SCOPE_UNIVERSE
    # Behind another interface's gateway route ours comes second, and the kernel would not find it while it checks.
    flags = _RTNH_F_ONLINK if route.version == 4 and route.gateway is not None else 0
    body = _RTMSG.pack(_family(route.version), length, 0, 0, _TABLE_MAIN, _PROTOCOL_BOOT, scope, _UNICAST, flags)
    if route.destination:
        body += attribute(_RTA_DST, route.destination.packed)
    if route.gateway:
        body += attribute(_RTA_GATEWAY, route.gateway.packed)
    if route.metric:
        body += attribute(_RTA_PRIORITY, _NUMBER.pack(route.metric))
    body += attribute(_RTA_OIF, _NUMBER.pack(index))
    return message(_RTM_NEWROUTE, NLM_F_CREATE | NLM_F_EXCL, body)


def render_route_dump(index: int, version: int) -> bytes:
    """Returns the request for a link's routes in the main table; kernels that do not filter answer with all."""
    header = _RTMSG.pack(_family(version), 0, 0, 0, _TABLE_MAIN, 0, 0, 0, 0)
    return message(_RTM_GETROUTE, 0, header + attribute(_RTA_OIF, _NUMBER.pack(index)))


def parse_link(answer: Message) -> LinkFacts:
    """Returns what the answer to `render_link_question` says."""
    _, _, index, flags, _ = _IFINFOMSG.unpack_from(answer.body)
    payloads = parse_attributes(answer.body, _IFINFOMSG.size)
    information = parse_attributes(payloads.get(_IFLA_LINKINFO, b""))
    return LinkFacts(
        index=index,
        name=_text(payloads.get(_IFLA_IFNAME, b"")),
        kind=_text(information.get(_INFO_KIND, b"")),
        mac=payloads.get(_IFLA_ADDRESS, b""),
        mtu=_number(payloads.get(_IFLA_MTU), 0),
        is_up=bool(flags & _IFF_UP),
        peer_index=_number(payloads.get(_IFLA_LINK), 0),
        peer_nsid=_number(payloads.get(_IFLA_LINK_NETNSID), -1),
    )


def parse_nsid(answer: Message) -> int:
    """Returns the number that answers `render_namespace_question`; -1: this namespace has none for it."""
    return _number(parse_attributes(answer.body, 4).get(_NETNSA_NSID), -1)


def parse_address(one: Message, index: int) -> Net | None:
    """Returns the address of a dump if it is one of this link that somebody set, for one host alone; otherwise None."""
    if one.type != _RTM_NEWADDR or len(one.body) < _IFADDRMSG.size:
        return None
    family, length, flags, scope, link = _IFADDRMSG.unpack_from(one.body)
    payloads = parse_attributes(one.body, _IFADDRMSG.size)
    packed = payloads.get(_IFA_LOCAL) or payloads.get(_IFA_ADDRESS) or b""
    is_ours_by_form = flags & _IFA_F_PERMANENT and scope == _SCOPE_UNIVERSE and length == len(packed) * 8
    if link != index or family not in (AF_INET, AF_INET6) or not is_ours_by_form:
        return None
    return Net(4 if family == AF_INET else 6, int.from_bytes(packed, "big"), length)


def parse_route(one: Message, index: int) -> RouteSpec | None:
    """Returns the route of a dump without its metric, if it goes through this link; otherwise None."""
    if one.type != _RTM_NEWROUTE or len(one.body) < _RTMSG.size:
        return None
    family, length, _, _, table, _, _, kind, _ = _RTMSG.unpack_from(one.body)
    payloads = parse_attributes(one.body, _RTMSG.size)
    if table != _TABLE_MAIN or kind != _UNICAST or _number(payloads.get(_RTA_OIF), 0) != index:
        return None
    version = 4 if family == AF_INET else 6
    destination, gateway = payloads.get(_RTA_DST), payloads.get(_RTA_GATEWAY)
    return RouteSpec(
        version,
        Net(version, int.from_bytes(destination, "big"), length) if destination and length else None,
        Net(version, int.from_bytes(gateway, "big"), len(gateway) * 8) if gateway else None,
    )


def is_pair(host: LinkFacts, inside: LinkFacts, nsid: int) -> bool:
    """Whether the two are the ends of one veth. nsid: the container's namespace as the host's knows it.

    Both numbers must fit: index 2 of one namespace is not index 2 of another.
    """
    return (
        host.kind == inside.kind == VETH
        and host.peer_index == inside.index
        and inside.peer_index == host.index
        and host.peer_nsid == nsid >= 0
    )


def _render_address(index: int, address: Net, flags: int) -> bytes:
    body = _IFADDRMSG.pack(_family(address.version), address.length, flags, _SCOPE_UNIVERSE, index)
    return body + attribute(_IFA_LOCAL, address.packed) + attribute(_IFA_ADDRESS, address.packed)


def _family(version: int) -> int:
    return AF_INET if version == 4 else AF_INET6


def _name(name: str) -> bytes:
    return attribute(_IFLA_IFNAME, name.encode() + b"\0")


def _link_values(mac: str, mtu: int) -> bytes:
    values = attribute(_IFLA_ADDRESS, pack_mac(mac)) if mac else b""
    return values + attribute(_IFLA_MTU, _NUMBER.pack(mtu)) if mtu else values


def _text(payload: bytes) -> str:
    return payload.rstrip(b"\0").decode(errors="replace")


def _number(payload: bytes | None, absent: int) -> int:
    return absent if payload is None or len(payload) != 4 else int(_SIGNED.unpack(payload)[0])
