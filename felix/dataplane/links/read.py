"""What interfaces and permanent neighbours the kernel has: dumps and events turned into values."""

from __future__ import annotations

import os
import struct
from collections.abc import Iterator

from felix.dataplane.links.render import (
    AF_INET,
    AF_INET6,
    IFINFOMSG,
    NDA_DST,
    NDA_LLADDR,
    NDA_PROTOCOL,
    NDMSG,
    NUD_PERMANENT,
    RTM_DELLINK,
    RTM_DELNEIGH,
    RTM_NEWLINK,
    RTM_NEWNEIGH,
    RTM_NEWNETCONF,
    render_link_dump,
    render_neighbour_dump,
)
from felix.dataplane.links.types import (
    HOST,
    Link,
    LinkConfig,
    LinkEvent,
    LinkGone,
    NeighbourEvent,
    NeighbourKey,
    NeighbourValue,
    SettingEvent,
)
from felix.dataplane.netlink.apply import NetlinkSocket
from felix.dataplane.netlink.message import Message, parse_attributes, parse_messages
from felix.model.net import Net

_IFLA_ADDRESS = 1
_IFLA_IFNAME = 3
_IFLA_MTU = 4
_IFLA_OPERSTATE = 16
_IFF_UP = 1
_IF_OPER_UNKNOWN = 0  # what kinds without a carrier (tun, dummy) say for ever
_IF_OPER_UP = 6
_NETCONFA_IFINDEX = 1
_NETCONFA_FORWARDING = 2
_NETCONFA_PROXY_NEIGH = 5
_NETCONF_ALL = -1
_NUMBER = struct.Struct("=i")


def read_links(socket: NetlinkSocket) -> list[Link]:
    """Returns every interface of the socket's namespace. Blocks; raises what `NetlinkSocket.dump` raises."""
    links = []
    for datagram in socket.dump(render_link_dump()):
        links += [link for one in parse_messages(datagram) if isinstance(link := _parse_link(one), Link)]
    return links


def read_neighbours(socket: NetlinkSocket, config: LinkConfig) -> list[tuple[NeighbourKey, NeighbourValue]]:
    """Returns every permanent neighbour, ours or not. Blocks; raises what `NetlinkSocket.dump` raises."""
    neighbours = []
    for family in (AF_INET, AF_INET6) if config.has_ipv6 else (AF_INET,):
        for datagram in socket.dump(render_neighbour_dump(family)):
            for one in parse_messages(datagram):
                event = _parse_neighbour(one, config)
                if event is not None and event.value is not None:
                    neighbours.append((event.key, event.value))
    return neighbours


def has_ipv6() -> bool:
    """Whether this kernel has IPv6 (and did not boot with it switched off)."""
    return os.path.isdir("/proc/sys/net/ipv6")


def parse_link_events(datagram: bytes, config: LinkConfig) -> Iterator[LinkEvent]:
    """Yields what a datagram says about interfaces, neighbours and their switches; skips everything else."""
    for one in parse_messages(datagram):
        event: LinkEvent | None = None
        if one.type in (RTM_NEWLINK, RTM_DELLINK):
            event = _parse_link(one)
        elif one.type in (RTM_NEWNEIGH, RTM_DELNEIGH):
            event = _parse_neighbour(one, config)
        elif one.type == RTM_NEWNETCONF:
            event = _parse_switches(one)
        if event is not None:
            yield event


def _parse_link(one: Message) -> Link | LinkGone | None:
    if one.type not in (RTM_NEWLINK, RTM_DELLINK) or len(one.body) < IFINFOMSG.size:
        return None
    family, _, index, flags, _ = IFINFOMSG.unpack_from(one.body)
    if family != 0:  # a bridge speaks of its ports in the same words; leaving a bridge is no end
        return None
    if one.type == RTM_DELLINK:
        return LinkGone(index)
    payloads = parse_attributes(one.body, IFINFOMSG.size)
    name = payloads.get(_IFLA_IFNAME, b"").rstrip(b"\0").decode(errors="surrogateescape")
    state = payloads.get(_IFLA_OPERSTATE, b"\0")[0]
    is_up = bool(flags & _IFF_UP)
    is_operational = is_up and state in (_IF_OPER_UP, _IF_OPER_UNKNOWN)
    mtu = payloads.get(_IFLA_MTU, b"")
    mtu_bytes = int(_NUMBER.unpack(mtu)[0]) if len(mtu) == _NUMBER.size else 0
    return Link(index, name, is_up, is_operational, payloads.get(_IFLA_ADDRESS, b""), mtu_bytes)


def _parse_neighbour(one: Message, config: LinkConfig) -> NeighbourEvent | None:
    if one.type not in (RTM_NEWNEIGH, RTM_DELNEIGH) or len(one.body) < NDMSG.size:
        return None
    family, index, state, _, _ = NDMSG.unpack_from(one.body)
    payloads = parse_attributes(one.body, NDMSG.size)
    address = payloads.get(NDA_DST, b"")
    if family not in (AF_INET, AF_INET6) or len(address) not in (4, 16):
        return None
    key = NeighbourKey(index, Net(4 if family == AF_INET else 6, int.from_bytes(address, "big"), len(address) * 8))
    value = None
    if one.type == RTM_NEWNEIGH and state & NUD_PERMANENT:
        is_ours = payloads.get(NDA_PROTOCOL, b"") == bytes([config.protocol])
        value = NeighbourValue(payloads.get(NDA_LLADDR, b""), is_ours)
    return NeighbourEvent(key, value, one.port)


def _parse_switches(one: Message) -> SettingEvent | None:
    payloads = parse_attributes(one.body, 4)  # behind the family, padded
    index = payloads.get(_NETCONFA_IFINDEX)
    if index is None or len(index) != 4:
        return None
    (number,) = _NUMBER.unpack(index)
    is_ipv4 = one.body[0] == AF_INET
    watched = (_NETCONFA_FORWARDING, _NETCONFA_PROXY_NEIGH) if is_ipv4 and number > 0 else (_NETCONFA_FORWARDING,)
    values = [payloads[type_] for type_ in watched if type_ in payloads]
    if number < _NETCONF_ALL or not values:  # "default" concerns interfaces to come, which are verified anyway
        return None
    return SettingEvent(HOST if number == _NETCONF_ALL else number, all(value == _NUMBER.pack(1) for value in values))
