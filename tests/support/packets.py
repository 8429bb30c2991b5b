"""Packets of policy as Ethernet frames: complete, with right checksums, and each one recognised where it comes out."""

from __future__ import annotations

import struct
from typing import NamedTuple

from felix.model.values import PORT_PROTOCOLS
from felix.policy.packet import ICMP, ICMPV6, UDP, UDPLITE, Packet

_ETHERTYPES = {4: 0x0800, 6: 0x86DD}
_ETHERNET_BYTES = 14
_HOP_LIMIT = 64
_SYN = 0x02
_DONT_FRAGMENT = 0x4000
_DESTINATION_OPTIONS = 60
_IPV4_OPTIONS = bytes((1, 1, 1, 0))  # three no-operations and the end of the list
_IPV6_PADDING = bytes((1, 4, 0, 0, 0, 0))
_MARK = b"felix packet "
_ICMP_ERRORS = {ICMP: (3, 11), ICMPV6: (1, 3)}
_ICMP_OPENING = {ICMP: (8, 13, 15, 17), ICMPV6: (128, 139)}
_NOBODY = {4: bytes((203, 0, 113, 9)), 6: bytes.fromhex("20010db8") + bytes(11) + b"\x09"}

Flow = tuple[int, int, int, int, int | None, int | None]


class Ends(NamedTuple):
    """MAC addresses of a frame, six bytes each."""

    source: bytes
    destination: bytes


def build_frame(packet: Packet, number: int, ends: Ends, has_options: bool = False) -> bytes:
    """Returns the frame of a packet; `number` (0-65535) makes it different from every other one.

    has_options: between addresses and transport are options that mean nothing: to whoever looks at fixed offsets.
    """
    ethernet = ends.destination + ends.source + struct.pack(">H", _ETHERTYPES[packet.version])
    segment = _segment(packet, number)
    if packet.version == 4:
        options = _IPV4_OPTIONS if has_options else b""
        return ethernet + _ipv4_header(packet.protocol, number, len(segment), _addresses(packet) + options) + segment
    protocol = packet.protocol
    if has_options:
        protocol, segment = _DESTINATION_OPTIONS, bytes((protocol, 0)) + _IPV6_PADDING + segment
    head = struct.pack(">IHBB", 6 << 28, len(segment), protocol, _HOP_LIMIT)
    return ethernet + head + _addresses(packet) + segment


def read_identity(frame: bytes) -> bytes:
    """Returns what forwarding leaves as it is: family, protocol, addresses and all that follows; empty if not IP."""
    (ethertype,) = struct.unpack_from(">H", frame, 12)
    datagram = frame[_ETHERNET_BYTES:]
    if ethertype == _ETHERTYPES[4]:
        return b"4" + datagram[9:10] + datagram[12:]
    if ethertype == _ETHERTYPES[6]:
        return b"6" + datagram[6:7] + datagram[8:]
    return b""


def read_packet(datagram: bytes) -> Packet:
    """Returns the packet that an IP datagram is, as far as its first bytes tell; without options only."""
    version = datagram[0] >> 4
    width, start = (4, 12) if version == 4 else (16, 8)
    header_bytes = (datagram[0] & 15) * 4 if version == 4 else 40
    protocol = datagram[9] if version == 4 else datagram[6]
    source, destination = datagram[start : start + width], datagram[start + width : start + 2 * width]
    packet = Packet(version, int.from_bytes(source, "big"), int.from_bytes(destination, "big"), protocol)
    return read_segment(packet, datagram[header_bytes:])


def read_segment(packet: Packet, segment: bytes) -> Packet:
    """Returns the packet with what is above IP."""
    if packet.protocol in PORT_PROTOCOLS:
        ports = struct.unpack_from(">HH", segment)
        return packet._replace(source_port=ports[0], destination_port=ports[1])
    if packet.protocol == (ICMP if packet.version == 4 else ICMPV6):
        return packet._replace(icmp_type=segment[0], icmp_code=segment[1])
    return packet


def read_dscp(datagram: bytes) -> int:
    """Returns the class that an IP datagram is marked with."""
    word: int = struct.unpack_from(">H", datagram)[0]
    return word >> 2 & 63 if datagram[0] >> 4 == 4 else word >> 6 & 63


def is_refusal(packet: Packet) -> bool:
    """Whether it tells a sender that its packet came to a closed port, which is how nft rejects."""
    return (packet.protocol, packet.icmp_type, packet.icmp_code) in ((ICMP, 3, 3), (ICMPV6, 1, 4))


def opens_flow(packet: Packet) -> bool:
    """Whether connection tracking takes the packet as the first of a flow; it calls others invalid.

    An error message or a reply to nothing is invalid (net/netfilter/nf_conntrack_proto_icmp.c, _icmpv6.c).
    """
    return packet.protocol not in _ICMP_OPENING or packet.icmp_type in _ICMP_OPENING[packet.protocol]


def reverse(packet: Packet) -> Packet:
    """Returns the packet with both ends exchanged."""
    return packet._replace(
        source=packet.destination,
        destination=packet.source,
        source_port=packet.destination_port,
        destination_port=packet.source_port,
    )


def find_flow(packet: Packet) -> Flow:
    """Returns what tells flows apart; that of the replies is another."""
    ports = packet.source_port, packet.destination_port
    if packet.protocol == UDPLITE:  # not every kernel tracks it by ports
        ports = None, None
    return (packet.version, packet.protocol, packet.source, packet.destination, *ports)


def first_packets(packets: list[Packet]) -> list[Packet]:
    """Returns the packets, in order, without those of a flow that one before them belongs to, in either direction."""
    seen: set[Flow] = set()
    first = []
    for packet in packets:
        flow = find_flow(packet)
        if flow not in seen or packet.icmp_type is not None:  # ICMP flows differ by the number in them
            first.append(packet)
            seen |= {flow, find_flow(reverse(packet))}
    return first


# --- Above IP ---


def _segment(packet: Packet, number: int) -> bytes:
    ports = struct.pack(">HH", packet.source_port or 0, packet.destination_port or 0)
    payload = _MARK + struct.pack(">I", number)
    match packet.protocol:
        case 6:
            header = ports + struct.pack(">IIBBHHH", number, 0, 5 << 4, _SYN, 64240, 0, 0)
            return _summed(packet, header + payload, 16)
        case 17:
            return _summed(packet, ports + struct.pack(">HH", 8 + len(payload), 0) + payload, 6)
        case 136:
            return _summed(packet, ports + struct.pack(">HH", 0, 0) + payload, 6)  # the sum covers all of it
        case 132:
            chunk = struct.pack(">BBHIIHHI", 1, 0, 20, number + 1, 65535, 1, 1, number)
            return ports + bytes(4) + struct.pack("<I", _crc32c(ports + bytes(8) + chunk)) + chunk
        case 1 | 58 if packet.icmp_type is not None:
            if packet.icmp_type in _ICMP_ERRORS[packet.protocol]:
                payload = _quoted(packet) + payload
            header = struct.pack(">BBHHH", packet.icmp_type, packet.icmp_code or 0, 0, number, 1)
            return _summed(packet, header + payload, 2)
        case 47:
            return struct.pack(">HH", 0, 0x6558) + payload
        case _:
            return payload


def _quoted(packet: Packet) -> bytes:
    """Returns what an ICMP error complains about: a datagram to nobody, so it belongs to no flow."""
    source = packet.destination_net.packed
    segment = struct.pack(">HHHH", 9, 9, 8, 0)
    if packet.version == 6:
        return struct.pack(">IHBB", 6 << 28, len(segment), UDP, _HOP_LIMIT) + source + _NOBODY[6] + segment
    return _ipv4_header(UDP, 0, len(segment), source + _NOBODY[4]) + segment


def _summed(packet: Packet, segment: bytes, offset: int) -> bytes:
    """Returns the segment with its checksum at `offset` (RFC 1071; RFC 8200 8.1 for the pseudo header)."""
    pseudo = b""
    if packet.protocol != ICMP:
        pseudo = _addresses(packet) + struct.pack(">II", len(segment), packet.protocol)
    value = _checksum(pseudo + segment)
    if packet.protocol in (UDP, UDPLITE) and value == 0:
        value = 0xFFFF  # zero would say that there is none
    return segment[:offset] + struct.pack(">H", value) + segment[offset + 2 :]


# --- IP ---


def _ipv4_header(protocol: int, number: int, segment_bytes: int, rest: bytes) -> bytes:
    """Returns the header; rest: addresses and options."""
    header_bytes = 12 + len(rest)
    first = 4 << 4 | header_bytes // 4
    total_bytes = header_bytes + segment_bytes
    fixed = struct.pack(">BBHHHBB", first, 0, total_bytes, number, _DONT_FRAGMENT, _HOP_LIMIT, protocol)
    return fixed + struct.pack(">H", _checksum(fixed + rest)) + rest


def _addresses(packet: Packet) -> bytes:
    return packet.source_net.packed + packet.destination_net.packed


def _checksum(octets: bytes) -> int:
    if len(octets) % 2:
        octets += b"\0"
    total: int = sum(struct.unpack(f">{len(octets) // 2}H", octets))
    while total > 0xFFFF:
        total = (total & 0xFFFF) + (total >> 16)
    return total ^ 0xFFFF


def _crc32c(octets: bytes) -> int:
    """Returns the checksum of SCTP (RFC 9260, appendix A)."""
    value = 0xFFFFFFFF
    for octet in octets:
        value ^= octet
        for _ in range(8):
            value = (value >> 1) ^ (0x82F63B78 if value & 1 else 0)
    return value ^ 0xFFFFFFFF
