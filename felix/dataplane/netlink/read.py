"""Opening netlink sockets and taking datagrams from them; used by the worker's socket and by the watch."""

from __future__ import annotations

import errno
import socket
from pathlib import Path

from felix.errors import ResyncRequired

SOL_NETLINK = 270
NETLINK_ADD_MEMBERSHIP = 1
NETLINK_CAP_ACK = 10
NETLINK_EXT_ACK = 11
NETLINK_GET_STRICT_CHK = 12
_SO_SNDBUFFORCE = 32
_SO_RCVBUFFORCE = 33

DATAGRAM_BYTES = 1 << 17
"""Room for one datagram. The kernel fills dumps by the size of the buffer offered, up to 32 KiB."""


def open_netlink(protocol: int, buffer_bytes: int) -> socket.socket:
    """Returns a bound netlink socket of the calling thread's network namespace.

    Both buffers are that large if allowed; error texts of the kernel are switched on.
    Raises OSError when the kernel has no such family.
    """
    sock = socket.socket(socket.AF_NETLINK, socket.SOCK_RAW | socket.SOCK_CLOEXEC, protocol)
    try:
        _set_buffer(sock, _SO_SNDBUFFORCE, socket.SO_SNDBUF, buffer_bytes)
        _set_buffer(sock, _SO_RCVBUFFORCE, socket.SO_RCVBUF, buffer_bytes)
        for option in (NETLINK_CAP_ACK, NETLINK_EXT_ACK):
            sock.setsockopt(SOL_NETLINK, option, 1)
        sock.bind((0, 0))
    except OSError:
        sock.close()
        raise
    return sock


def _set_buffer(sock: socket.socket, forced: int, ordinary: int, size_bytes: int) -> None:
    try:
        sock.setsockopt(socket.SOL_SOCKET, forced, size_bytes)
    except PermissionError:  # without CAP_NET_ADMIN: as much as the host's limits give
        sock.setsockopt(socket.SOL_SOCKET, ordinary, size_bytes)


class DatagramReader:
    """Takes datagrams of the kernel from one netlink socket into one reused buffer."""

    __slots__ = ("_buffer", "_socket", "_view")

    def __init__(self, sock: socket.socket) -> None:
        self._socket = sock
        self._buffer = bytearray(DATAGRAM_BYTES)
        self._view = memoryview(self._buffer)

    def read(self, flags: int = 0) -> bytes | None:
        """Returns the next datagram; None when there is none now (MSG_DONTWAIT) or within the socket's time limit.

        What other processes sent is skipped. Raises ResyncRequired when the kernel had to drop datagrams (ENOBUFS).
        """
        while True:
            try:
                size, address = self._socket.recvfrom_into(self._buffer, 0, flags)
            except (BlockingIOError, TimeoutError):
                return None
            except OSError as error:
                if error.errno == errno.ENOBUFS:
                    raise ResyncRequired("netlink: the receive buffer overflowed and messages were lost") from error
                raise
            if address[0] == 0:
                return bytes(self._view[:size])


def read_program(port: int) -> str:
    """Returns the name of the program behind a netlink port, empty when it has ended or the port is not its pid.

    The kernel gives the first netlink socket of a process its pid as port, and later ones any number above 2³¹.
    """
    try:
        return Path(f"/proc/{port}/comm").read_text(errors="replace").rstrip("\n")
    except OSError:
        return ""
