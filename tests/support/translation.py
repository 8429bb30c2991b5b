"""From which address others see packets come, and whether they can answer."""

from __future__ import annotations

import itertools
import os
import socket
from contextlib import closing

from tests.support.flows import Site

_FAMILY = {4: socket.AF_INET, 6: socket.AF_INET6}
_ports = itertools.cycle(range(31000, 39000))
_WAIT_S = 2.0


def read_source(
    source: Site, target: Site, version: int, kind: int = socket.SOCK_DGRAM, *, to: str = ""
) -> tuple[str, int]:
    """Returns address and port that `target` sees when `source` sends, after its answer has come back.

    to: the address that is sent to, if not the target's own. Raises TimeoutError when nothing comes, there or back.
    """
    port = next(_ports)
    mark = os.urandom(8)
    to = to or target.address(version)
    server = target.place.call(lambda: socket.socket(_FAMILY[version], kind))
    client = source.place.call(lambda: socket.socket(_FAMILY[version], kind))
    with closing(server), closing(client):
        server.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        server.settimeout(_WAIT_S)
        client.settimeout(_WAIT_S)
        server.bind((target.address(version), port))
        if kind == socket.SOCK_STREAM:
            server.listen()
        client.bind((source.address(version), 0))
        client.connect((to, port))
        client.sendall(mark)
        if kind == socket.SOCK_STREAM:
            connection, peer = server.accept()
            with connection:
                connection.settimeout(_WAIT_S)
                connection.sendall(connection.recv(64))
                answer = client.recv(64)
        else:
            message, peer = server.recvfrom(64)
            server.sendto(message, peer)
            answer = client.recv(64)
        assert answer == mark
        return str(peer[0]), int(peer[1])


def is_answered(source: Site, target: Site, version: int, *, to: str = "") -> bool:
    """Returns whether what `source` sends comes to `target` and the answer comes back."""
    try:
        read_source(source, target, version, to=to)
    except (TimeoutError, OSError):
        return False
    return True
