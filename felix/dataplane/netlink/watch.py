"""Kernel events on the event loop: the only netlink work that runs there, and it does nothing but hand over bytes."""

from __future__ import annotations

import asyncio
import logging
import select
import socket
from collections.abc import Callable, Sequence

from felix.dataplane.netlink.read import NETLINK_ADD_MEMBERSHIP, SOL_NETLINK, DatagramReader, open_netlink
from felix.errors import ResyncRequired

_log = logging.getLogger(__name__)

_DATAGRAMS_PER_WAKE = 64  # the loop breathes between; what is left wakes it again


class NetlinkWatch:
    """Multicast groups of one netlink family, received on the running loop (stock asyncio and uvloop alike).

    groups: RTNLGRP_… / NFNLGRP_… numbers. on_datagram: called with each datagram, for `parse_messages`; must be quick.
    on_overrun: called after the kernel dropped events, or the socket had to be opened anew: what events had told is
    not the whole truth any more, read again. Between `open` and a read started after it no event is missed.
    """

    def __init__(
        self,
        protocol: int,
        groups: Sequence[int],
        on_datagram: Callable[[bytes], None],
        on_overrun: Callable[[], None],
        buffer_bytes: int = 8 << 20,
    ) -> None:
        self._protocol = protocol
        self._groups = tuple(groups)
        self._on_datagram = on_datagram
        self._on_overrun = on_overrun
        self._buffer_bytes = buffer_bytes
        self._loop: asyncio.AbstractEventLoop | None = None
        self._socket: socket.socket | None = None
        self._reader: DatagramReader | None = None
        self._epoll: select.epoll | None = None
        self.overruns_count = 0

    def open(self) -> None:
        """Events are received from now on. Call it on the loop's thread. Raises OSError."""
        sock = open_netlink(self._protocol, self._buffer_bytes)
        try:
            sock.setblocking(False)
            for group in self._groups:
                sock.setsockopt(SOL_NETLINK, NETLINK_ADD_MEMBERSHIP, group)
        except OSError:
            sock.close()
            raise
        self._loop = asyncio.get_running_loop()
        self._socket, self._reader = sock, DatagramReader(sock)
        # The loop polls an epoll around the socket, not the socket: libuv stops for good polling what has an error
        # pending, and lost events are exactly that (ENOBUFS). An epoll is only ever readable.
        self._epoll = select.epoll()
        self._epoll.register(sock.fileno(), select.EPOLLIN)
        self._loop.add_reader(self._epoll.fileno(), self._on_readable)

    def close(self) -> None:
        """No callback comes any more; it may be called again."""
        if self._loop is not None and self._epoll is not None:
            self._loop.remove_reader(self._epoll.fileno())
            self._epoll.close()
        if self._socket is not None:
            self._socket.close()
        self._socket = self._reader = self._epoll = None

    def _on_readable(self) -> None:
        for _ in range(_DATAGRAMS_PER_WAKE):
            if self._reader is None:  # closed by a callback
                return
            try:
                datagram = self._reader.read(socket.MSG_DONTWAIT)
            except ResyncRequired:
                self.overruns_count += 1
                self._on_overrun()
                continue
            except OSError as error:
                self._reopen(error)
                return
            if datagram is None:
                return
            self._on_datagram(datagram)

    def _reopen(self, error: OSError) -> None:
        _log.warning("netlink events: reading failed (%s); opening a new socket and reading everything again", error)
        self.close()
        self.open()
        self.overruns_count += 1
        self._on_overrun()
