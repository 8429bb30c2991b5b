"""Which tracked connections have one of some addresses."""

from __future__ import annotations

import functools
import re
import zlib
from collections.abc import Collection, Iterator
from pathlib import Path
from typing import NamedTuple

from felix.dataplane.conntrack.render import (
    CT_NEW,
    CTA_ID,
    CTA_TUPLE_IP,
    CTA_TUPLE_MASTER,
    CTA_TUPLE_ORIG,
    CTA_TUPLE_PROTO,
    CTA_TUPLE_REPLY,
    CTA_ZONE,
    NFGENMSG_BYTES,
    render_dump,
    render_dumps_of,
    render_removal,
)
from felix.dataplane.conntrack.types import OpenFlow
from felix.dataplane.netlink.apply import NetlinkSocket
from felix.dataplane.netlink.message import Message, attribute, nested, parse_attributes, parse_messages
from felix.model.net import Net
from felix.model.values import PORT_PROTOCOLS
from felix.policy.packet import Packet

_ADDRESS_TYPES = (1, 2, 3, 4)  # CTA_IP_V4_SRC, V4_DST, V6_SRC, V6_DST


def read_removals(socket: NetlinkSocket, addresses: Collection[Net]) -> list[bytes]:
    """Returns a removal request for every entry with one of `addresses` in any place of its two tuples; one dump.

    Blocks; raises what `NetlinkSocket.dump` raises.
    """
    packed = frozenset(address.packed for address in addresses)
    # Half a million entries are too many to take apart in Python: bytes that occur nowhere need not be parsed.
    has_candidate = re.compile(b"|".join(re.escape(one) for one in sorted(packed)), re.DOTALL).search
    removals = []
    for datagram in socket.dump(render_dump(), keep=lambda datagram: has_candidate(datagram) is not None):
        for one in parse_messages(datagram):
            if one.type == CT_NEW and has_candidate(one.body) is not None:
                removals += _find_removal(one, packed)
    return removals


def _find_removal(one: Message, packed: frozenset[bytes]) -> list[bytes]:
    payloads = parse_attributes(one.body, NFGENMSG_BYTES)
    original = payloads.get(CTA_TUPLE_ORIG)
    if original is None or not any(
        _has_address(payloads.get(tuple_, b""), packed) for tuple_ in (CTA_TUPLE_ORIG, CTA_TUPLE_REPLY)
    ):
        return []
    return [_render_removal_of(one, payloads)]


def _render_removal_of(one: Message, payloads: dict[int, bytes]) -> bytes:
    attributes = nested(CTA_TUPLE_ORIG, payloads[CTA_TUPLE_ORIG])
    for type_ in (CTA_ZONE, CTA_ID):  # the id: a new connection with the same tuple is none of ours
        if type_ in payloads:
            attributes += attribute(type_, payloads[type_])
    return render_removal(one.body[0], attributes)


def _has_address(tuple_: bytes, packed: frozenset[bytes]) -> bool:
    addresses = parse_attributes(parse_attributes(tuple_).get(CTA_TUPLE_IP, b""))
    return any(addresses.get(type_) in packed for type_ in _ADDRESS_TYPES)


# --- Flows, for revoking ---

_COUNT = Path("/proc/sys/net/netfilter/nf_conntrack_count")
_FEW_ENTRIES = 2000  # are read sooner than the kernel walks once more through the places for all that there could be
_FILTERED_MOST = 4  # addresses that are asked for one by one; each is a walk of the kernel through its whole table
_FAMILY_VERSION = {2: 4, 10: 6}
_CTA_PROTO_NUM, _CTA_PROTO_SRC_PORT, _CTA_PROTO_DST_PORT = 1, 2, 3
_CTA_PROTO_ICMP = {4: (5, 6), 6: (8, 9)}  # type, code
_ICMP_OF = {4: 1, 6: 58}
_SOURCE, _DESTINATION = {4: 1, 6: 3}, {4: 2, 6: 4}
# Where the kernel puts the source address of a tuple that begins at 0, and what stands directly before it.
_SOURCE_AT = 12
_SOURCE_HEAD = {2: b"\x08\x00\x01\x00", 10: b"\x14\x00\x03\x00"}
_SOURCE_BYTES = {2: 4, 10: 16}


def read_flows(socket: NetlinkSocket, addresses: Collection[Net]) -> Iterator[OpenFlow]:
    """Yields every tracked connection that one of `addresses` opened, or that leads to one of them; maybe twice.

    Leads to: behind a translation of destinations. Blocks; raises what `NetlinkSocket.dump` raises.
    """
    if _count_entries() <= _FEW_ENTRIES:
        packed = frozenset(one.packed for one in addresses)
        for datagram in socket.dump(render_dump(), keep=functools.partial(_has_wanted, packed)):
            yield from _find_flows(datagram, packed)
        return
    for version in (4, 6):
        wanted = frozenset(one.packed for one in addresses if one.version == version)
        if not wanted:
            continue
        if version == 4 and len(wanted) <= _FILTERED_MOST:
            requests = [request for one in addresses if one.version == 4 for request in render_dumps_of(one)]
        else:
            requests = [render_dump(version)]
        for request in requests:
            # Half a million entries may not lie in memory: what is not wanted goes as it comes.
            datagrams = socket.dump(request, keep=functools.partial(_has_wanted, wanted))
            for datagram in datagrams:
                yield from _find_flows(datagram, wanted)


def _count_entries() -> int:
    """Returns how many connections are tracked in the network namespace of this thread."""
    try:
        return int(_COUNT.read_bytes())
    except (OSError, ValueError):
        return _FEW_ENTRIES + 1


def read_part(socket: NetlinkSocket, part: int, parts: int) -> list[OpenFlow]:
    """Returns the tracked connections of that part, 0 to `parts` - 1: each has its part for as long as it lives.

    Blocks; raises what `NetlinkSocket.dump` raises.
    """
    found: dict[bytes, OpenFlow] = {}

    def take(datagram: bytes) -> bool:
        for one in parse_messages(datagram):
            if _is_entry(one) and _find_part(one.body, parts) == part:
                flow = _parse_flow(one)
                if flow is not None:
                    found[flow.removal] = flow
        return False  # half a million entries may not lie in memory

    for version in (4, 6):
        socket.dump(render_dump(version), keep=take)
    return list(found.values())


def _is_entry(one: Message) -> bool:
    return one.type == CT_NEW and len(one.body) >= NFGENMSG_BYTES + 4 and one.body[0] in _FAMILY_VERSION


def _find_part(body: bytes, parts: int) -> int:
    length = body[NFGENMSG_BYTES] | body[NFGENMSG_BYTES + 1] << 8  # of the tuple that opened it
    return zlib.crc32(body[NFGENMSG_BYTES : NFGENMSG_BYTES + length]) % parts


def _has_wanted(wanted: frozenset[bytes], datagram: bytes) -> bool:
    return any(_is_wanted(one, wanted) for one in parse_messages(datagram))


def _find_flows(datagram: bytes, wanted: frozenset[bytes]) -> Iterator[OpenFlow]:
    for one in parse_messages(datagram):
        if _is_wanted(one, wanted):
            flow = _parse_flow(one)
            if flow is not None:
                yield flow


def _is_wanted(one: Message, wanted: frozenset[bytes]) -> bool:
    """Whether one of the two sides may be wanted; looks at a few bytes of an entry as kernels write it."""
    body = one.body
    if one.type != CT_NEW or len(body) < NFGENMSG_BYTES + 4 or body[0] not in _SOURCE_HEAD:
        return False
    head, width = _SOURCE_HEAD[body[0]], _SOURCE_BYTES[body[0]]
    reply_at = NFGENMSG_BYTES + ((body[4] | body[5] << 8) + 3 & ~3)
    for start in (NFGENMSG_BYTES, reply_at):
        at = start + _SOURCE_AT
        if body[at - 4 : at] != head or body[at : at + width] in wanted:
            return True  # of another form, which is taken apart in peace, or wanted
    return False


class _Tuple(NamedTuple):
    source: Net
    destination: Net
    protocol: int
    parts: dict[int, bytes]


def _parse_flow(one: Message) -> OpenFlow | None:
    version = _FAMILY_VERSION[one.body[0]]
    payloads = parse_attributes(one.body, NFGENMSG_BYTES)
    original, reply = _parse_tuple(version, payloads, CTA_TUPLE_ORIG), _parse_tuple(version, payloads, CTA_TUPLE_REPLY)
    if original is None or reply is None:
        return None
    removal = _render_removal_of(one, payloads)
    answer = _make_packet(reply, reply.destination, _CTA_PROTO_DST_PORT, reply)
    announced = _parse_tuple(version, payloads, CTA_TUPLE_MASTER)
    if announced is not None:
        return OpenFlow(_make_packet(announced, announced.destination, _CTA_PROTO_DST_PORT, announced), answer, removal)
    packet = _make_packet(original, reply.source, _CTA_PROTO_SRC_PORT, reply)
    first = _make_packet(original, original.destination, _CTA_PROTO_DST_PORT, original)
    return OpenFlow(packet, answer, removal, None if first == packet else first)


def _parse_tuple(version: int, payloads: dict[int, bytes], type_: int) -> _Tuple | None:
    parts = parse_attributes(payloads.get(type_, b""))
    ends = parse_attributes(parts.get(CTA_TUPLE_IP, b""))
    protocol = parse_attributes(parts.get(CTA_TUPLE_PROTO, b""))
    source, destination = ends.get(_SOURCE[version]), ends.get(_DESTINATION[version])
    if source is None or destination is None or _CTA_PROTO_NUM not in protocol:
        return None
    length = 32 if version == 4 else 128
    return _Tuple(
        Net(version, int.from_bytes(source, "big"), length),
        Net(version, int.from_bytes(destination, "big"), length),
        protocol[_CTA_PROTO_NUM][0],
        protocol,
    )


def _make_packet(opened: _Tuple, destination: Net, port_type: int, port_of: _Tuple) -> Packet:
    version = opened.source.version
    packet = Packet(version, opened.source.value, destination.value, opened.protocol)
    if opened.protocol in PORT_PROTOCOLS:
        ports = opened.parts.get(_CTA_PROTO_SRC_PORT, b""), port_of.parts.get(port_type, b"")
        return packet._replace(
            source_port=int.from_bytes(ports[0], "big"), destination_port=int.from_bytes(ports[1], "big")
        )
    if opened.protocol == _ICMP_OF[version]:
        type_, code = _CTA_PROTO_ICMP[version]
        return packet._replace(
            icmp_type=int.from_bytes(opened.parts.get(type_, b""), "big"),
            icmp_code=int.from_bytes(opened.parts.get(code, b""), "big"),
        )
    return packet
