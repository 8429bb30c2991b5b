"""Real packets from inside a namespace: one-off TCP, UDP and ICMP probes, and connections to keep. Shell."""

from __future__ import annotations

import os
import socket
import struct
import time
from dataclasses import dataclass

from felix.errors import DataError
from felix.lab.namespace import call_inside

PROTOCOLS = ("tcp", "udp", "icmp")
_TYPE_BY_PROTOCOL = {"tcp": socket.SOCK_STREAM, "udp": socket.SOCK_DGRAM}
_ECHO_REQUEST = {socket.AF_INET: 8, socket.AF_INET6: 128}
_ECHO_REPLY = {socket.AF_INET: 0, socket.AF_INET6: 129}


@dataclass(frozen=True, slots=True)
class ProbeResult:
    """What became of a probe.

    outcome: `ok` (an answer came back from the other end), `timeout`, `refused`, `unreachable` or `reset`.
    """

    outcome: str
    elapsed_s: float

    @property
    def ok(self) -> bool:
        """Whether data went there and back."""
        return self.outcome == "ok"


def probe(namespace: str, address: str, port: int, protocol: str, timeout_s: float) -> ProbeResult:
    """Sends a few bytes from inside to `address` and waits for the echo; `port` means nothing for ICMP.

    Each probe is a connection of its own to those that track connections, by ICMP too.
    """
    started = time.monotonic()
    try:
        if protocol == "icmp":
            _echo_icmp(namespace, address, timeout_s)
        else:
            with open_connection(namespace, address, port, protocol, timeout_s) as connection:
                echo(connection, timeout_s)
        outcome = "ok"
    except TimeoutError:
        outcome = "timeout"
    except ConnectionRefusedError:
        outcome = "refused"
    except ConnectionError:
        outcome = "reset"
    except OSError:
        outcome = "unreachable"
    return ProbeResult(outcome, time.monotonic() - started)


def open_connection(namespace: str, address: str, port: int, protocol: str, timeout_s: float) -> socket.socket:
    """Returns a connected TCP or UDP socket of the namespace; raises OSError as connect does."""
    if protocol not in _TYPE_BY_PROTOCOL:
        raise DataError(f"protocol {protocol!r}: probes know {', '.join(PROTOCOLS)}")
    connection = _make_socket(namespace, _family(address), _TYPE_BY_PROTOCOL[protocol], 0)
    try:
        connection.settimeout(timeout_s)
        connection.connect((address, port))
    except BaseException:
        connection.close()
        raise
    return connection


def echo(connection: socket.socket, timeout_s: float = 1.0) -> None:
    """Bytes went to the responder at the other end and came back; raises OSError otherwise."""
    message = os.urandom(8)
    connection.settimeout(timeout_s)
    connection.sendall(message)
    received = b""
    while message not in received:
        chunk = connection.recv(64)
        if not chunk:
            raise ConnectionResetError("the other end closed the connection")
        received += chunk


def _echo_icmp(namespace: str, address: str, timeout_s: float) -> None:
    family = _family(address)
    protocol = socket.IPPROTO_ICMP if family == socket.AF_INET else socket.IPPROTO_ICMPV6
    mark = os.urandom(16)
    header = struct.pack("!BBH2sH", _ECHO_REQUEST[family], 0, 0, os.urandom(2), 1)
    packet = header + mark
    if family == socket.AF_INET:  # for ICMPv6 the kernel fills in the checksum
        packet = packet[:2] + struct.pack("!H", _checksum(packet)) + packet[4:]
    deadline = time.monotonic() + timeout_s
    with _make_socket(namespace, family, socket.SOCK_RAW, protocol) as raw:
        raw.settimeout(timeout_s)
        raw.connect((address, 0))
        raw.send(packet)
        while True:
            raw.settimeout(max(deadline - time.monotonic(), 0.001))
            answer = raw.recv(512)
            body = answer[(answer[0] & 0x0F) * 4 :] if family == socket.AF_INET else answer
            if body[0] == _ECHO_REPLY[family] and body[8:] == mark:
                return


def _make_socket(namespace: str, family: int, kind: int, protocol: int) -> socket.socket:
    return call_inside(namespace, lambda: socket.socket(family, kind, protocol))


def _family(address: str) -> socket.AddressFamily:
    return socket.AF_INET6 if ":" in address else socket.AF_INET


def _checksum(packet: bytes) -> int:
    words: tuple[int, ...] = struct.unpack(f"!{len(packet) // 2}H", packet)
    total = sum(words)
    total = (total >> 16) + (total & 0xFFFF)
    return ~(total + (total >> 16)) & 0xFFFF
