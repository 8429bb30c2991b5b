"""What routes the kernel has: dumps and events turned into values; foreign routes are left out early."""

from __future__ import annotations

import struct
from collections.abc import Collection, Iterator
from socket import if_indextoname

from felix.dataplane.netlink.apply import NetlinkSocket
from felix.dataplane.netlink.message import HEADER, HEADER_BYTES, NLM_F_REPLACE, Message, parse_attributes
from felix.dataplane.routes.render import (
    AF_INET,
    AF_INET6,
    RTA_DST,
    RTA_GATEWAY,
    RTA_OIF,
    RTA_PRIORITY,
    RTM_DELROUTE,
    RTM_NEWROUTE,
    RTMSG,
    RTNH_F_ONLINK,
    render_dump,
    render_question,
)
from felix.dataplane.routes.types import (
    RTN_UNICAST,
    RouteConfig,
    RouteEvent,
    RouteKey,
    RouteValue,
)
from felix.errors import FelixError
from felix.model.net import Net
from felix.policy.packet import Way

_RTA_CACHEINFO = 12
_RTA_TABLE = 15
_RTA_PREF = 20
_IDENTITY = frozenset({RTA_DST, RTA_GATEWAY, RTA_OIF, RTA_PRIORITY, _RTA_TABLE, _RTA_CACHEINFO})
_MEDIUM_PREFERENCE = b"\0"  # the kernel adds it to every IPv6 route
_RTM_F_CLONED = 0x200
_TYPE = 7  # of the fields of RTMSG
_OWN_TYPES = frozenset({2, 3, 4, 5})  # local, broadcast, anycast, multicast
_LINK_LOCAL, _LINK_LOCAL_BITS = 0xFE80 >> 6, 118
_NUMBER = struct.Struct("=I")


def read_routes(socket: NetlinkSocket, config: RouteConfig) -> list[tuple[RouteKey, RouteValue]]:
    """Returns every route of our protocol in our table, both families; a key may come more than once.

    Blocks; for a worker thread. Raises what `NetlinkSocket.dump` raises.
    """
    routes: list[tuple[RouteKey, RouteValue]] = []
    for version in (4, 6):
        for datagram in socket.dump(render_dump(config, version)):
            routes += [(event.key, event.value) for event in parse_route_events(datagram, config) if event.is_ours]
    return routes


def read_ways(socket: NetlinkSocket, addresses: Collection[Net]) -> dict[Net, Way]:
    """Returns by which interface this host sends to each address, and which are its own; asks the kernel about each.

    Blocks; for a worker thread. An address about which there is no answer, or to which no way leads, is left out.
    """
    ways = {}
    for address in addresses:
        try:
            answer = socket.get(render_question(address))
        except (FelixError, OSError):
            continue
        if not isinstance(answer, Message) or answer.type != RTM_NEWROUTE or len(answer.body) < RTMSG.size:
            continue
        index = _number(parse_attributes(answer.body, RTMSG.size), RTA_OIF, 0)
        try:
            name = if_indextoname(index) if index else ""
        except OSError:
            continue  # it went meanwhile
        is_own = RTMSG.unpack_from(answer.body)[_TYPE] in _OWN_TYPES
        if is_own or not _is_link_local(address):  # of those there are as many as there are links
            ways[address] = Way(name, is_own)
    return ways


def parse_route_events(datagram: bytes, config: RouteConfig) -> Iterator[RouteEvent]:
    """Yields the messages of a datagram that can concern us: routes of our protocol, and foreign ones that replaced
    something, both in our table. Everything else costs one look at its header.
    """
    offset, end = 0, len(datagram)
    while offset + HEADER_BYTES + RTMSG.size <= end:
        length, type_, flags, _, port = HEADER.unpack_from(datagram, offset)
        if length < HEADER_BYTES:
            return
        if type_ in (RTM_NEWROUTE, RTM_DELROUTE):
            is_ours = datagram[offset + HEADER_BYTES + 5] == config.protocol
            is_replace = type_ == RTM_NEWROUTE and bool(flags & NLM_F_REPLACE)
            if is_ours or is_replace:
                route = _parse_route(datagram[offset + HEADER_BYTES : offset + length], config)
                if route is not None:
                    yield RouteEvent(type_ == RTM_NEWROUTE, is_replace, is_ours, port, *route)
        offset += (length + 3) & ~3


def _is_link_local(address: Net) -> bool:
    return address.version == 6 and address.value >> _LINK_LOCAL_BITS == _LINK_LOCAL


def _parse_route(body: bytes, config: RouteConfig) -> tuple[RouteKey, RouteValue] | None:
    family, length, source_length, tos, table, _, scope, kind, flags = RTMSG.unpack_from(body)
    if family not in (AF_INET, AF_INET6) or flags & _RTM_F_CLONED:
        return None
    payloads = parse_attributes(body, RTMSG.size)
    if _number(payloads, _RTA_TABLE, table) != config.table:
        return None
    version = 4 if family == AF_INET else 6
    destination = Net(version, int.from_bytes(payloads.get(RTA_DST, b""), "big"), length)
    # The kernel hangs IPv6 blackholes on the loopback interface; for us they are on none.
    index = _number(payloads, RTA_OIF, 0) if kind == RTN_UNICAST else 0
    extra = sorted(
        (type_, payload)
        for type_, payload in payloads.items()
        if type_ not in _IDENTITY and not (type_ == _RTA_PREF and payload == _MEDIUM_PREFERENCE)
    )
    if source_length:
        extra.append((-1, bytes([source_length])))
    packed = payloads.get(RTA_GATEWAY)
    gateway = None if packed is None else Net(version, int.from_bytes(packed, "big"), len(packed) * 8)
    value = RouteValue(kind, scope, index, tuple(extra), gateway, bool(flags & RTNH_F_ONLINK))
    return RouteKey(destination, _number(payloads, RTA_PRIORITY, 0), tos), value


def _number(payloads: dict[int, bytes], type_: int, default: int) -> int:
    payload = payloads.get(type_)
    return default if payload is None or len(payload) != 4 else int(_NUMBER.unpack(payload)[0])
