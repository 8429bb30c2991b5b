"""Changes of our table by others, as the kernel announces them, with the program that made them."""

from __future__ import annotations

import contextlib
import os
import socket
from collections.abc import Callable

from felix.dataplane.netlink.message import (
    HEADER,
    HEADER_BYTES,
    NETLINK_NETFILTER,
    parse_attributes,
)
from felix.dataplane.netlink.watch import NetlinkWatch
from felix.dataplane.nft.types import TABLE, Culprit

_GROUP_NFTABLES = 7
_SUBSYSTEM = 10
_MSG_NEWGEN = 15
_NFPROTO_INET = 1
_ATTR_TABLE = 1  # of tables, chains, rules, sets, elements and objects alike
_GEN_PROC_PID, _GEN_PROC_NAME = 2, 3
_TABLE_NAME = TABLE.encode() + b"\0"


class NftWatch:
    """Calls back once for each generation by which somebody else changed the table `inet felix`.

    on_foreign_change: on the loop's thread; after an overrun with an unknown culprit. Read the table then.
    Open it before the first read: what happens between a read and its use is announced.
    """

    def __init__(self, on_foreign_change: Callable[[Culprit], None]) -> None:
        self._on_foreign_change = on_foreign_change
        self._watch = NetlinkWatch(NETLINK_NETFILTER, (_GROUP_NFTABLES,), self.on_datagram, self._on_overrun)
        self._own_ports: frozenset[int] = frozenset()
        self._touched: set[int] = set()

    def open(self) -> None:
        """Foreign changes are announced from now on. Needs a running loop. Raises OSError."""
        self._watch.open()

    def close(self) -> None:
        """No callback comes any more."""
        self._watch.close()

    def on_datagram(self, datagram: bytes) -> None:
        """Takes one datagram of the nftables group: the objects of a generation, and at its end who made it."""
        offset, end = 0, len(datagram)
        while offset + HEADER_BYTES <= end:
            length, type_, _, _, port = HEADER.unpack_from(datagram, offset)
            if length < HEADER_BYTES + 4:
                return
            if port not in self._own_ports and type_ >> 8 == _SUBSYSTEM:
                self._on_message(type_ & 0xFF, port, datagram[offset + HEADER_BYTES : offset + length])
            offset += (length + 3) & ~3

    def _on_message(self, type_: int, port: int, body: bytes) -> None:
        if type_ != _MSG_NEWGEN:
            is_known = port in self._touched or body[0] != _NFPROTO_INET
            if not is_known and parse_attributes(body, 4).get(_ATTR_TABLE) == _TABLE_NAME:
                self._touched.add(port)
            return
        if port not in self._touched:
            return
        self._touched.discard(port)
        self._own_ports = find_own_ports()  # libnftables does not say which port it has, and may change it
        if port not in self._own_ports:
            generation = parse_attributes(body, 4)
            pid = int.from_bytes(generation.get(_GEN_PROC_PID, b""), "big")
            name = generation.get(_GEN_PROC_NAME, b"").rstrip(b"\0").decode(errors="replace")
            self._on_foreign_change(Culprit(pid, name))

    def _on_overrun(self) -> None:
        self._touched.clear()
        self._on_foreign_change(Culprit(0, ""))


def find_own_ports() -> frozenset[int]:
    """Returns the netlink ports of all netfilter sockets of this process."""
    ports = set()
    for name in os.listdir("/proc/self/fd"):
        with contextlib.suppress(OSError):
            if os.readlink(f"/proc/self/fd/{name}").startswith("socket:"):
                with socket.socket(fileno=os.dup(int(name))) as copy:
                    if copy.family == socket.AF_NETLINK and copy.proto == NETLINK_NETFILTER:
                        ports.add(copy.getsockname()[0])
    return frozenset(ports)
