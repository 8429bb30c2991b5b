"""The lab's one echo server: it listens inside many namespaces and sends back what it receives.

A program of its own (standard library only, run by path), so that it starts in milliseconds and outlives the command
that asked for a listener. Control: one JSON object per connection to a Unix socket, answered by one JSON object.

    {"op": "listen", "netns": "/run/netns/x", "protocol": "tcp", "port": 80}   both families, all addresses
    {"op": "close", "netns": "/run/netns/x"}                                   all listeners and connections there
    {"op": "list"}
"""

from __future__ import annotations

import ctypes
import json
import os
import selectors
import socket
import sys
import threading
from dataclasses import dataclass, field

_CLONE_NEWNET = 0x40000000
_libc = ctypes.CDLL(None, use_errno=True)


@dataclass(slots=True)
class Place:
    """What the server holds open in one namespace."""

    sockets: set[socket.socket] = field(default_factory=set)
    listening: dict[tuple[str, int], socket.socket] = field(default_factory=dict)


class Responder:
    """Serves until its control socket's file is replaced or it is killed."""

    def __init__(self, control_path: str) -> None:
        self._selector = selectors.DefaultSelector()
        self._place_by_netns: dict[str, Place] = {}
        self._control = socket.socket(socket.AF_UNIX, socket.SOCK_STREAM)
        self._control.bind(control_path)
        self._control.listen(64)
        self._selector.register(self._control, selectors.EVENT_READ, "")

    def serve(self) -> None:
        """Never returns."""
        while True:
            for key, _ in self._selector.select():
                ready = key.fileobj
                assert isinstance(ready, socket.socket)
                if ready is self._control:
                    self._answer(ready.accept()[0])
                else:
                    self._echo(ready, key.data)

    def _answer(self, connection: socket.socket) -> None:
        with connection:
            connection.settimeout(2.0)
            try:
                request = json.loads(connection.makefile("rb").readline())
                answer = self._obey(request)
            except (OSError, ValueError, KeyError) as failure:
                answer = {"error": str(failure)}
            try:
                connection.sendall(json.dumps(answer).encode() + b"\n")
            except OSError:
                return

    def _obey(self, request: dict[str, str | int]) -> dict[str, object]:
        match request["op"]:
            case "listen":
                self._listen(str(request["netns"]), str(request["protocol"]), int(request["port"]))
            case "close":
                self._close(str(request["netns"]))
            case "list":
                return {netns: sorted(place.listening) for netns, place in self._place_by_netns.items()}
            case other:
                raise ValueError(f"unknown operation {other!r}")
        return {}

    def _listen(self, netns: str, protocol: str, port: int) -> None:
        place = self._place_by_netns.setdefault(netns, Place())
        if (protocol, port) in place.listening:
            return
        kind = {"tcp": socket.SOCK_STREAM, "udp": socket.SOCK_DGRAM}[protocol]
        listener = _make_socket(netns, kind)
        try:
            listener.setsockopt(socket.IPPROTO_IPV6, socket.IPV6_V6ONLY, 0)
            listener.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
            listener.bind(("::", port))
            if protocol == "tcp":
                listener.listen(256)
        except OSError:
            listener.close()
            raise
        place.listening[protocol, port] = listener
        self._watch(listener, netns)

    def _close(self, netns: str) -> None:
        place = self._place_by_netns.pop(netns, Place())
        for held in list(place.sockets):
            self._selector.unregister(held)
            held.close()

    def _watch(self, held: socket.socket, netns: str) -> None:
        held.setblocking(False)
        self._place_by_netns[netns].sockets.add(held)
        self._selector.register(held, selectors.EVENT_READ, netns)

    def _echo(self, ready: socket.socket, netns: str) -> None:
        if ready.fileno() < 0:
            return
        try:
            if ready.type == socket.SOCK_DGRAM:
                message, sender = ready.recvfrom(65536)
                ready.sendto(message, sender)
                return
            if ready in self._place_by_netns[netns].listening.values():
                self._watch(ready.accept()[0], netns)
                return
            message = ready.recv(65536)
            if message:
                ready.sendall(message)
                return
        except BlockingIOError:
            return
        except OSError:
            if ready.type == socket.SOCK_DGRAM:
                return
        self._selector.unregister(ready)
        self._place_by_netns[netns].sockets.discard(ready)
        ready.close()


def _make_socket(netns: str, kind: int) -> socket.socket:
    made: list[socket.socket] = []

    def enter() -> None:
        descriptor = os.open(netns, os.O_RDONLY)
        if _libc.setns(descriptor, _CLONE_NEWNET) == 0:
            made.append(socket.socket(socket.AF_INET6, kind))
        os.close(descriptor)

    thread = threading.Thread(target=enter)
    thread.start()
    thread.join()
    if not made:
        raise ValueError(f"cannot enter {netns}")
    return made[0]


if __name__ == "__main__":
    Responder(sys.argv[1]).serve()
