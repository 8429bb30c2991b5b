"""Single flows between containers, as short texts, as the packet that policy is asked about, and as real packets.

A text reads `[4|6] [SOURCE] PROTOCOL [NUMBER[/CODE]] [from PORT] [to TARGET]`:

    tcp 80                      from `client` to `near` and to `far`, each in both families
    6 guest udp 53 to far       one family, one source, one target
    tcp 80 from 5000            with this source port
    icmp 8/1                    ICMP type and code (`icmp` is IPv4, `icmp6` IPv6); code 0 unless given
    ip 253                      a bare IP protocol
"""

from __future__ import annotations

import errno
import itertools
import os
import socket
import struct
import time
from collections.abc import Iterator, Mapping
from contextlib import closing
from typing import NamedTuple

from felix.lab.place import Place
from felix.model.net import parse_address
from felix.policy.packet import ICMP, ICMPV6, TCP, UDP, Packet

OPEN_S, SHUT_S = 2.0, 0.3
"""How long an answer is waited for when it should come, and when it should not."""

_NUMBER = {"tcp": TCP, "udp": UDP, "icmp": ICMP, "icmp6": ICMPV6}
_ONLY_FAMILY = {"icmp": 4, "icmp6": 6}
_KIND = {"tcp": socket.SOCK_STREAM, "udp": socket.SOCK_DGRAM}
_FAMILY = {4: socket.AF_INET, 6: socket.AF_INET6}
_DROPPED = (errno.EPERM, errno.EHOSTUNREACH, errno.ENETUNREACH)  # by the sender's own firewall; nobody is there
_ECHOED = {(ICMP, 8, 0): 0, (ICMPV6, 128, 0): 129}
_RESET_ON_CLOSE = struct.pack("ii", 1, 0)  # so that the same ports can be used again at once
_ports = itertools.cycle(range(10000, 30000))


class Site(NamedTuple):
    """A place with its addresses; either may be empty."""

    place: Place
    ipv4: str
    ipv6: str

    def address(self, version: int) -> str:
        """Returns the address of that family."""
        return self.ipv4 if version == 4 else self.ipv6


class Flow(NamedTuple):
    """One flow. number: destination port, ICMP type or IP protocol, by `protocol`. source_port: 0 if it has none."""

    source: str
    target: str
    version: int
    protocol: str
    number: int
    code: int
    source_port: int

    def __str__(self) -> str:
        ports = f" from {self.source_port}" if self.source_port else ""
        code = f"/{self.code}" if self.code else ""
        return f"{self.version} {self.source} {self.protocol} {self.number}{code}{ports} to {self.target}"


def parse_flows(text: str) -> Iterator[Flow]:
    """Yields every flow that the text means; see above."""
    words = text.split()
    versions = [int(words.pop(0))] if words[0] in ("4", "6") else [4, 6]
    source = "client" if words[0] in (*_NUMBER, "ip") else words.pop(0)
    protocol, number, *rest = words
    options = dict(zip(rest[::2], rest[1::2], strict=True))
    value, _, code = number.partition("/")
    targets = [options["to"]] if "to" in options else ["near", "far"]
    if protocol in _ONLY_FAMILY:
        versions = [_ONLY_FAMILY[protocol]]
    for version, target in itertools.product(versions, targets):
        port = int(options.get("from", next(_ports))) if protocol in _KIND else 0
        yield Flow(source, target, version, protocol, int(value), int(code or 0), port)


def make_packet(flow: Flow, sites: Mapping[str, Site]) -> Packet:
    """Returns the first packet of the flow."""
    source, target = (parse_address(sites[name].address(flow.version)).value for name in (flow.source, flow.target))
    packet = Packet(flow.version, source, target, _NUMBER.get(flow.protocol, flow.number))
    if flow.protocol in _KIND:
        return packet._replace(source_port=flow.source_port, destination_port=flow.number)
    if flow.protocol in _ONLY_FAMILY:
        return packet._replace(icmp_type=flow.number, icmp_code=flow.code)
    return packet


def is_passing(flow: Flow, sites: Mapping[str, Site], timeout_s: float) -> bool:
    """Returns whether it works with real packets. TCP, UDP, ICMP echo: there and back; others: whether it arrived."""
    source, target = sites[flow.source], sites[flow.target]
    ends = source.address(flow.version), target.address(flow.version)
    try:
        if flow.protocol in _KIND:
            return _is_echoed(flow, source.place, ends, timeout_s)
        return _is_delivered(flow, (source.place, target.place), ends, timeout_s)
    except TimeoutError:
        return False
    except OSError as error:
        if error.errno in _DROPPED:
            return False
        raise


def _is_echoed(flow: Flow, place: Place, ends: tuple[str, str], timeout_s: float) -> bool:
    mark = os.urandom(8)
    with place.call(lambda: socket.socket(_FAMILY[flow.version], _KIND[flow.protocol])) as sender:
        sender.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        if flow.protocol == "tcp":
            sender.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, _RESET_ON_CLOSE)
        sender.settimeout(timeout_s)
        sender.bind((ends[0], flow.source_port))
        sender.connect((ends[1], flow.number))
        sender.sendall(mark)
        return sender.recv(64) == mark


def _is_delivered(flow: Flow, places: tuple[Place, Place], ends: tuple[str, str], timeout_s: float) -> bool:
    number = _NUMBER.get(flow.protocol, flow.number)
    mark = os.urandom(16)
    payload = mark if flow.protocol == "ip" else make_icmp(number, flow.number, flow.code, mark)
    answer = _ECHOED.get((number, flow.number, flow.code)) if flow.protocol != "ip" else None
    sender = open_raw(places[0], flow.version, number)
    with closing(sender), closing(open_raw(places[1], flow.version, number)) as receiver:
        sender.bind((ends[0], 0))
        sender.sendto(payload, (ends[1], 0))
        if answer is None:
            return receive_mark(receiver, mark, timeout_s)
        return receive_mark(sender, mark, timeout_s, answer)


def open_raw(place: Place, version: int, protocol: int) -> socket.socket:
    """Returns a raw socket inside; protocol 255 sends whole IP packets."""
    return place.call(lambda: socket.socket(_FAMILY[version], socket.SOCK_RAW, protocol))


def make_icmp(protocol: int, type_: int, code: int, mark: bytes) -> bytes:
    """Returns an ICMP message with an identifier of its own; for ICMPv6 the kernel fills in the checksum."""
    message = struct.pack("!BBH", type_, code, 0) + os.urandom(4) + mark
    if protocol == ICMPV6:
        return message
    return message[:2] + struct.pack("!H", make_checksum(message)) + message[4:]


def make_checksum(message: bytes) -> int:
    """Returns the Internet checksum of an even number of bytes."""
    words: tuple[int, ...] = struct.unpack(f"!{len(message) // 2}H", message)
    total = sum(words)
    total = (total >> 16) + (total & 0xFFFF)
    return ~(total + (total >> 16)) & 0xFFFF


def receive_mark(receiver: socket.socket, mark: bytes, timeout_s: float, icmp_type: int | None = None) -> bool:
    """Returns whether a packet with `mark` comes to a raw socket, of that ICMP type if given."""
    deadline = time.monotonic() + timeout_s
    while (left_s := deadline - time.monotonic()) > 0:
        receiver.settimeout(left_s)
        try:
            packet = receiver.recv(65536)
        except TimeoutError:
            return False
        body = packet[(packet[0] & 0x0F) * 4 :] if receiver.family == socket.AF_INET else packet
        if mark in body and icmp_type in (None, body[0]):
            return True
    return False
