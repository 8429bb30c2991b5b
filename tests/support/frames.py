"""Frames as a workload would send them that is not who it says: any source address, by a packet socket on its eth0."""

from __future__ import annotations

import ipaddress
import os
import socket
import struct

from felix.lab.place import Place
from tests.support.flows import make_checksum, open_raw, receive_mark

HOST_END = bytes.fromhex("ee" * 6)
PROTOCOL = 253  # an IP protocol for experiments, which nobody answers
_ETHERTYPE = {4: 0x0800, 6: 0x86DD}
_ARP = 0x0806


def send_frame(place: Place, ethertype: int, body: bytes, target: bytes = HOST_END) -> None:
    """The frame has left the workload's eth0."""
    with place.call(lambda: socket.socket(socket.AF_PACKET, socket.SOCK_RAW)) as sender:
        sender.bind(("eth0", 0))
        source: bytes = sender.getsockname()[4]
        sender.send(target + source + struct.pack("!H", ethertype) + body)


def send_packet(place: Place, source: str, target: str, payload: bytes, protocol: int = PROTOCOL) -> None:
    """An IP packet from `source`, whoever that is, has left the workload."""
    version = 6 if ":" in source else 4
    send_frame(place, _ETHERTYPE[version], make_packet(source, target, payload, protocol))


def make_packet(source: str, target: str, payload: bytes, protocol: int = PROTOCOL) -> bytes:
    """Returns an IP packet with hop limit 255, as neighbour discovery wants it."""
    ends = ipaddress.ip_address(source).packed + ipaddress.ip_address(target).packed
    if len(ends) == 32:
        return struct.pack("!IHBB", 6 << 28, len(payload), protocol, 255) + ends + payload
    head = struct.pack("!BBHHHBBH", 0x45, 0, 20 + len(payload), 1, 0, 255, protocol, 0)
    checksum = make_checksum(head + ends)
    return head[:10] + struct.pack("!H", checksum) + ends + payload


def make_icmpv6(source: str, target: str, type_: int, body: bytes) -> bytes:
    """Returns an ICMPv6 message with its checksum; `body` is what follows the checksum, an even number of bytes."""
    message = struct.pack("!BBH", type_, 0, 0) + body
    ends = ipaddress.ip_address(source).packed + ipaddress.ip_address(target).packed
    checksum = make_checksum(ends + struct.pack("!II", len(message), 58) + message)
    return message[:2] + struct.pack("!H", checksum) + message[4:]


def make_udp(source: str, target: str, ports: tuple[int, int], payload: bytes) -> bytes:
    """Returns a datagram with its checksum; `payload` is an even number of bytes."""
    length = 8 + len(payload)
    ends = ipaddress.ip_address(source).packed + ipaddress.ip_address(target).packed
    head = struct.pack("!HHH", *ports, length)
    checksum = make_checksum(ends + struct.pack("!II", length, 17) + head + b"\0\0" + payload)
    return head + struct.pack("!H", checksum or 0xFFFF) + payload


def send_arp_claim(place: Place, address: str, mac: bytes) -> None:
    """The workload has told its host, unasked, that `address` is at `mac`."""
    packed = ipaddress.ip_address(address).packed
    body = struct.pack("!HHBBH", 1, 0x0800, 6, 4, 2) + mac + packed + HOST_END + packed
    send_frame(place, _ARP, body)


def send_arp_request(place: Place, sender: str, target: str) -> None:
    """The workload has asked its host for `target`, in the name of `sender`."""
    ends = [ipaddress.ip_address(address).packed for address in (sender, target)]
    with place.call(lambda: socket.socket(socket.AF_PACKET, socket.SOCK_RAW)) as probe:
        probe.bind(("eth0", 0))
        mac: bytes = probe.getsockname()[4]
    body = struct.pack("!HHBBH", 1, 0x0800, 6, 4, 1) + mac + ends[0] + bytes(6) + ends[1]
    send_frame(place, _ARP, body, b"\xff" * 6)


def is_arriving(sender: Place, source: str, receiver: Place, target: str, timeout_s: float) -> bool:
    """Returns whether a packet of `sender` that says it comes from `source` reaches `receiver`."""
    mark = os.urandom(16)
    with open_raw(receiver, 6 if ":" in source else 4, PROTOCOL) as raw:
        send_packet(sender, source, target, mark)
        return receive_mark(raw, mark, timeout_s)
