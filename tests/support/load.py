"""Load of a bounded size and time between places of a lab: streams, floods, and how long answers take beside them."""

from __future__ import annotations

import contextlib
import itertools
import os
import socket
import struct
import threading
import time
from collections.abc import Iterator
from contextlib import closing, contextmanager

from felix.policy.packet import ICMP, TCP
from tests.support.flows import Site, make_checksum, make_icmp, open_raw

_FAMILY = {4: socket.AF_INET, 6: socket.AF_INET6}
_ports = itertools.cycle(range(39000, 47000))
_WAIT_S = 5.0
_CHUNK = bytes(16_384)
_FRAME_BYTES = 1514
_PAYLOAD_BYTES = {4: 1448, 6: 1428}
"""Of a whole frame, with TCP's time stamps."""


def measure_stream(source: Site, target: Site, version: int, *, skip_bytes: int, seconds: float) -> float:
    """Returns bits of Ethernet frames per second that a TCP connection brings, after its first `skip_bytes`."""
    port = next(_ports)
    server = target.place.call(lambda: socket.socket(_FAMILY[version], socket.SOCK_STREAM))
    client = source.place.call(lambda: socket.socket(_FAMILY[version], socket.SOCK_STREAM))
    with closing(server), closing(client):
        server.settimeout(_WAIT_S)
        client.settimeout(_WAIT_S)
        server.bind((target.address(version), port))
        server.listen()
        client.bind((source.address(version), 0))
        client.connect((target.address(version), port))
        connection, _ = server.accept()
        ended = threading.Event()
        sender = threading.Thread(target=_send, args=(client, ended))
        sender.start()
        try:
            with connection:
                connection.settimeout(_WAIT_S)
                return _receive(connection, skip_bytes, seconds) * _FRAME_BYTES / _PAYLOAD_BYTES[version]
        finally:
            ended.set()
            sender.join()


def measure_datagrams(
    source: Site, target: Site, version: int, *, per_s: int, skip_bytes: int, seconds: float
) -> float:
    """Returns bits of Ethernet frames per second that come to the target, after the first `skip_bytes` of them.

    The source sends `per_s` whole frames a second.
    """
    payload = bytes(_FRAME_BYTES - 14 - 8 - (20 if version == 4 else 40))
    port = next(_ports)
    receiver = target.place.call(lambda: socket.socket(_FAMILY[version], socket.SOCK_DGRAM))
    sender = source.place.call(lambda: socket.socket(_FAMILY[version], socket.SOCK_DGRAM))
    ended = threading.Event()

    def send() -> None:
        started = time.monotonic()
        sent = 0
        while not ended.wait(0.002):
            due = int(per_s * (time.monotonic() - started))
            for _ in range(min(due - sent, per_s // 50)):  # what is too late already is not sent at once
                with contextlib.suppress(OSError):
                    sender.sendto(payload, (target.address(version), port))
            sent = due

    with closing(receiver), closing(sender):
        receiver.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, 4 << 20)
        receiver.settimeout(_WAIT_S)
        receiver.bind((target.address(version), port))
        sender.bind((source.address(version), 0))
        thread = threading.Thread(target=send)
        thread.start()
        try:
            return _receive(receiver, skip_bytes, seconds) * _FRAME_BYTES / len(payload)
        finally:
            ended.set()
            thread.join()


def _send(client: socket.socket, ended: threading.Event) -> None:
    with contextlib.suppress(OSError):  # the other end is gone
        while not ended.is_set():
            client.sendall(_CHUNK)


def _receive(connection: socket.socket, skip_bytes: int, seconds: float) -> float:
    skipped = 0
    while skipped < skip_bytes:
        skipped += len(connection.recv(65536))
    started = now = time.monotonic()
    count = 0
    while now - started < seconds:
        count += len(connection.recv(65536))
        now = time.monotonic()
    return count * 8 / (now - started)


def count_delivered(source: Site, target: Site, version: int, count: int, seconds: float) -> int:
    """Returns how many of `count` datagrams, sent evenly over `seconds`, come to `target`."""
    port = next(_ports)
    receiver = target.place.call(lambda: socket.socket(_FAMILY[version], socket.SOCK_DGRAM))
    sender = source.place.call(lambda: socket.socket(_FAMILY[version], socket.SOCK_DGRAM))
    with closing(receiver), closing(sender):
        receiver.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, 4 << 20)
        receiver.bind((target.address(version), port))
        sender.bind((source.address(version), 0))
        started = time.monotonic()
        for number in range(count):
            late_s = started + number * seconds / count - time.monotonic()
            if late_s > 0:
                time.sleep(late_s)
            sender.sendto(b"x", (target.address(version), port))
        receiver.settimeout(0.2)
        delivered = 0
        with contextlib.suppress(TimeoutError):
            while True:
                receiver.recv(16)
                delivered += 1
        return delivered


def count_openings(source: Site, target: Site, version: int, count: int) -> int:
    """Returns how many of `count` new connections, each of one datagram, come to `target`."""
    port = next(_ports)
    receiver = target.place.call(lambda: socket.socket(_FAMILY[version], socket.SOCK_DGRAM))
    with closing(receiver):
        receiver.bind((target.address(version), port))
        for _ in range(count):
            with closing(source.place.call(lambda: socket.socket(_FAMILY[version], socket.SOCK_DGRAM))) as sender:
                sender.bind((source.address(version), 0))
                sender.sendto(b"x", (target.address(version), port))
        receiver.settimeout(0.5)
        delivered = 0
        with contextlib.suppress(TimeoutError):
            while delivered < count:
                receiver.recv(16)
                delivered += 1
        return delivered


def open_connections(source: Site, target: Site, version: int, port: int, count: int) -> list[socket.socket]:
    """Returns those of `count` TCP connections that come about; they stay open."""
    opened = []
    for _ in range(count):
        client = source.place.call(lambda: socket.socket(_FAMILY[version], socket.SOCK_STREAM))
        client.settimeout(0.5)
        try:
            client.bind((source.address(version), 0))
            client.connect((target.address(version), port))
            opened.append(client)
        except OSError:
            client.close()
    return opened


@contextmanager
def flooding(kind: str, source: Site, target: Site, *, per_s: int, seconds: float) -> Iterator[None]:
    """While inside, and for so many seconds at most, the source sends `syn`, `udp` or `icmp` packets at that rate.

    Every packet is a new connection: ports and identifiers are all different.
    """
    protocol = {"syn": TCP, "udp": 17, "icmp": ICMP}[kind]
    sender = open_raw(source.place, 4, protocol)
    sender.bind((source.ipv4, 0))
    ended = threading.Event()

    def flood() -> None:
        started = time.monotonic()
        sent = 0
        while not ended.is_set() and (elapsed := time.monotonic() - started) < seconds:
            while sent < per_s * elapsed:
                with contextlib.suppress(OSError):
                    sender.sendto(_make_packet(kind, source, target, sent), (target.ipv4, 0))
                sent += 1
            time.sleep(0.002)

    thread = threading.Thread(target=flood)
    thread.start()
    try:
        yield
    finally:
        ended.set()
        thread.join()
        sender.close()


def _make_packet(kind: str, source: Site, target: Site, number: int) -> bytes:
    ports = 1024 + number % 60_000, 1 + number // 60_000 % 60_000
    if kind == "icmp":
        return make_icmp(ICMP, 8, 0, os.urandom(8))
    if kind == "udp":
        return struct.pack("!HHHH", *ports, 8, 0)
    segment = struct.pack("!HHIIBBHHH", *ports, number, 0, 5 << 4, 2, 8192, 0, 0)
    ends = socket.inet_aton(source.ipv4) + socket.inet_aton(target.ipv4)
    checksum = make_checksum(ends + struct.pack("!HH", TCP, len(segment)) + segment)
    return segment[:16] + struct.pack("!H", checksum) + segment[18:]


def measure_answers(source: Site, target: Site, port: int, count: int) -> list[float]:
    """Returns how many seconds each of `count` questions to the echo at that UDP port took, in order of length.

    One that is not answered within a second counts as one second.
    """
    took = []
    client = source.place.call(lambda: socket.socket(socket.AF_INET, socket.SOCK_DGRAM))
    with closing(client):
        client.settimeout(1.0)
        client.bind((source.ipv4, 0))
        client.connect((target.ipv4, port))
        for _ in range(count):
            mark = os.urandom(8)
            started = time.monotonic()
            client.send(mark)
            try:
                while client.recv(64) != mark:
                    pass
                took.append(time.monotonic() - started)
            except TimeoutError:
                took.append(1.0)
            time.sleep(0.01)
    return sorted(took)


def read_conntrack(site: Site) -> int:
    """Returns how many connections a host tracks."""
    return int(site.place.run(["cat", "/proc/sys/net/netfilter/nf_conntrack_count"]).stdout)
