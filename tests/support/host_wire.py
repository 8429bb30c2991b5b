"""The wire of `wire`, and the host at its middle as sender and receiver: what comes in for itself, what it sends."""

from __future__ import annotations

import contextlib
import socket
import struct
import time
from collections.abc import Iterator, Sequence
from functools import partial
from typing import NamedTuple

from felix.model.net import parse_address, parse_net
from felix.policy.journey import HOST
from felix.policy.packet import ICMP, ICMPV6, SCTP, TCP, UDP, UDPLITE, Packet
from tests.support.law import HOST_ADDRESSES
from tests.support.packets import build_frame, is_refusal, read_dscp, read_packet, read_segment
from tests.support.wire import ENDS, UPLINK, Wire, one_processor

_RECEIVED = (TCP, UDP, ICMP, ICMPV6, SCTP, UDPLITE, 47, 4)
_FAMILIES = {4: socket.AF_INET, 6: socket.AF_INET6}
_ETHERNET_BYTES = 14
_PACKET_OUTGOING = 4
_PATIENCE_S = 10.0
_SO_RCVBUFFORCE = 33
_IP_HDRINCL, _IPV6_HDRINCL = 3, 36
_SENTINEL_SOURCE = parse_net("192.0.2.201").value
# Failsafes: whatever policy says, the first reaches the host and the second leaves it.
_TO_HOST = Packet(4, _SENTINEL_SOURCE, HOST_ADDRESSES[0].value, UDP, 9, 68)
_FROM_HOST = Packet(4, HOST_ADDRESSES[0].value, _SENTINEL_SOURCE, UDP, 9, 53)
# Every denied packet is to be answered, however many there are at once.
_UNLIMITED = """
net.ipv4.icmp_ratemask=0 net.ipv4.icmp_msgs_per_sec=1000000 net.ipv4.icmp_msgs_burst=10000
net.ipv6.icmp.ratemask=127 net.ipv6.icmp.ratelimit=0
"""


class Entry(NamedTuple):
    """A packet that goes in at the far end of an interface, or is the host's own (HOST)."""

    packet: Packet
    place: str


class Seen(NamedTuple):
    """What has become of a packet. place: where it came out, an interface or HOST; None: nowhere.

    packet: as it was seen there. dscp: the class that it was marked with, where it came out at an interface.
    answered_at: the interface at which its sender was told that it was refused; empty: it was not told.
    """

    place: str | None = None
    packet: Packet | None = None
    dscp: int = 0
    answered_at: str = ""


class HostWire(Wire):
    """The host has HOST_ADDRESSES at its uplink, and listens to every protocol."""

    def listen(self) -> None:
        """The host receives, and can send; call it once."""
        self.host.execute("sysctl", "-q", "-w", *_UNLIMITED.split())
        for net in HOST_ADDRESSES:
            self.host.ip(f"addr add {net} dev {UPLINK}" + (" nodad" if net.version == 6 else ""))
        self._senders = {version: self.host.run(partial(_open_sender, version)) for version in _FAMILIES}
        self._receivers = [
            self.host.run(partial(socket.socket, _FAMILIES[version], socket.SOCK_RAW, protocol))
            for version in _FAMILIES
            for protocol in _RECEIVED
            if protocol != {4: ICMPV6, 6: ICMP}[version]
        ]
        for one in (*self._senders.values(), *self._receivers):
            self.stack.callback(one.close)
        for one in self._receivers:
            one.setblocking(False)
            one.setsockopt(socket.SOL_SOCKET, _SO_RCVBUFFORCE, 4 << 20)
        self.socket.setsockopt(socket.SOL_SOCKET, _SO_RCVBUFFORCE, 4 << 20)

    def try_entries(self, entries: Sequence[Entry]) -> list[Seen]:
        """Returns what has become of each packet.

        It is known by the number that is last in it, which no translation of addresses changes.
        """
        self._number %= 60_000  # it is the identification of IPv4 packets, too
        first = self._number + 1
        with one_processor():
            for entry in entries:
                self._send(entry)
            self._send(Entry(_TO_HOST, UPLINK))
            received = self._collect_at_host(first, self._number)
            self._send(Entry(_FROM_HOST, HOST))
            outside, answered = self._collect_outside(first, self._number)
        numbers = range(first, first + len(entries))
        arrived = outside | received
        return [arrived.get(one, Seen())._replace(answered_at=answered.get(one, "")) for one in numbers]

    _number = 0

    def _send(self, entry: Entry) -> None:
        self._number += 1
        frame = build_frame(entry.packet, self._number, ENDS)
        if entry.place != HOST:
            self.socket.sendto(frame, (f"far-{entry.place}", 0))
            return
        target = entry.packet.destination_net.address
        with contextlib.suppress(PermissionError):
            self._senders[entry.packet.version].sendto(frame[_ETHERNET_BYTES:], (target, 0))

    def _collect_at_host(self, first: int, last: int) -> dict[int, Seen]:
        arrived: dict[int, Seen] = {}
        deadline = time.monotonic() + _PATIENCE_S
        while last not in arrived:
            assert time.monotonic() < deadline, "the last packet did not reach the host: the wire is broken"
            for one in self._receivers:
                arrived.update((number, seen) for number, seen in _drain(one) if first <= number <= last)
        return arrived

    def _collect_outside(self, first: int, last: int) -> tuple[dict[int, Seen], dict[int, str]]:
        """Returns what came out by number, and where it was told of what was refused."""
        arrived: dict[int, Seen] = {}
        answered: dict[int, str] = {}
        while last not in arrived:
            try:
                frame, (interface, _, kind, *_) = self.socket.recvfrom(65535)
            except TimeoutError:
                raise AssertionError("the last packet did not leave the host: the wire is broken") from None
            number = _read_number(frame)
            if kind == _PACKET_OUTGOING or not first <= number <= last:
                continue
            datagram, place = frame[_ETHERNET_BYTES:], interface.removeprefix("far-")
            packet = read_packet(datagram)
            if is_refusal(packet):
                answered[number] = place
            else:
                arrived[number] = Seen(place, packet, read_dscp(datagram))
        return arrived, answered


def _open_sender(version: int) -> socket.socket:
    sender = socket.socket(_FAMILIES[version], socket.SOCK_RAW, socket.IPPROTO_RAW)
    if version == 4:
        sender.setsockopt(socket.IPPROTO_IP, _IP_HDRINCL, 1)
    else:
        sender.setsockopt(socket.IPPROTO_IPV6, _IPV6_HDRINCL, 1)
    return sender


def _drain(receiver: socket.socket) -> Iterator[tuple[int, Seen]]:
    """Yields number and packet of what was received; IPv6 comes without its header."""
    with contextlib.suppress(BlockingIOError):
        while True:
            octets, sender = receiver.recvfrom(65535)
            if receiver.family == socket.AF_INET:
                packet = read_packet(octets)
            else:
                source = parse_address(sender[0].partition("%")[0]).value
                packet = read_segment(Packet(6, source, HOST_ADDRESSES[1].value, receiver.proto), octets)
            yield _read_number(octets), Seen(HOST, packet)


def _read_number(packet: bytes) -> int:
    return int(struct.unpack(">I", packet[-4:])[0]) if len(packet) >= 4 else -1
