"""Sees from outside of the agent when something is in the kernel: a thread on the kernel's own announcements.

The kernel announces what a transaction did after it has been committed, so the moment of an announcement is not
before the moment from which packets are treated so. What is timed includes waking this thread: about 0.1 ms.
"""

from __future__ import annotations

import asyncio
import select
import socket
import threading
import time
from collections import Counter
from collections.abc import Iterable, Iterator
from ipaddress import IPv4Address
from types import TracebackType
from typing import NamedTuple

from felix.dataplane.netlink.message import (
    NETLINK_NETFILTER,
    NETLINK_ROUTE,
    parse_attribute_list,
    parse_attributes,
    parse_messages,
)
from felix.dataplane.netlink.read import NETLINK_ADD_MEMBERSHIP, SOL_NETLINK, open_netlink
from felix.dataplane.nft.base import CLAIMED, FROM_WORKLOAD, SOURCES4, TO_WORKLOAD
from felix.dataplane.nft.elements import name_key
from felix.dataplane.routes.types import RouteConfig

_GROUP_IPV4_ROUTE, _GROUP_IPV6_ROUTE, _GROUP_NFTABLES = 7, 11, 7
_RTM_NEWROUTE, _RTM_DELROUTE = 24, 25
_NEW_ELEMENT, _DELETED_ELEMENT, _NEW_RULE, _NEW_GENERATION = 12, 14, 6, 15
_PROTOCOL_OFFSET, _PROTOCOL = 5, RouteConfig().protocol
_ROUTE_HEADER_BYTES, _NFT_HEADER_BYTES = 12, 4

Sign = tuple[str, str, bytes]
"""One thing that the kernel announced: what (`route`, `element`, each perhaps with `-gone`, or `rule`), where, key."""


def signs_of_endpoint(interface: str, address: str) -> set[Sign]:
    """Returns all that has to be announced for a local endpoint: its way in, its way out, its source, its route.

    Its chains were there before, since the kernel takes no element that leads to a chain that is missing.
    """
    name, packed = name_key(interface), IPv4Address(address).packed
    return {
        ("route", "", packed),
        ("element", CLAIMED, name),
        ("element", FROM_WORKLOAD, name),
        ("element", TO_WORKLOAD, name),
        ("element", SOURCES4, name + packed),
    }


def signs_of_removal(interface: str, address: str) -> set[Sign]:
    """Returns all that has to be announced when that endpoint is gone."""
    return {(f"{what}-gone", where, key) for what, where, key in signs_of_endpoint(interface, address)}


class _Expected(NamedTuple):
    moment: asyncio.Future[float]
    missing: set[Sign]


class Observer:
    """Listens in the namespace of the thread that makes it, until `close`. counts: announcements so far by kind."""

    def __init__(self) -> None:
        self.counts: Counter[str] = Counter()
        self.overruns_count = 0
        self._loop = asyncio.get_running_loop()
        self._lock = threading.Lock()
        self._wanted: dict[Sign, _Expected] = {}
        self._rule: _Expected | None = None
        self._rule_part = ""
        self._route = _listen(NETLINK_ROUTE, (_GROUP_IPV4_ROUTE, _GROUP_IPV6_ROUTE))
        self._nft = _listen(NETLINK_NETFILTER, (_GROUP_NFTABLES,))
        self._stop_reader, self._stop_writer = socket.socketpair()
        self._thread = threading.Thread(target=self._listen, name="observer", daemon=True)
        self._thread.start()

    def __enter__(self) -> Observer:
        return self

    def __exit__(self, kind: type[BaseException] | None, error: BaseException | None, at: TracebackType | None) -> None:
        self.close()

    def close(self) -> None:
        """Nothing is listened to any more."""
        self._stop_writer.close()
        self._thread.join()
        for one in (self._route, self._nft, self._stop_reader):
            one.close()

    def expect(self, signs: Iterable[Sign]) -> asyncio.Future[float]:
        """Returns what becomes the moment (perf_counter seconds) when the last of `signs` was announced.

        Any number may be expected at once; a sign that is expected anew is not expected by anybody else any more.
        """
        expected = _Expected(self._loop.create_future(), set(signs))
        with self._lock:
            self._wanted.update(dict.fromkeys(expected.missing, expected))
        return expected.moment

    def expect_rule(self, part: str) -> asyncio.Future[float]:
        """Returns what becomes the moment when the first rule of a chain with `part` in its name was announced."""
        with self._lock:
            self._rule_part = part
            self._rule = _Expected(self._loop.create_future(), set())
            return self._rule.moment

    @property
    def missing(self) -> frozenset[Sign]:
        """What is expected and has not been announced."""
        with self._lock:
            return frozenset(self._wanted)

    def _listen(self) -> None:
        poll = select.poll()
        for one in (self._route, self._nft, self._stop_reader):
            poll.register(one, select.POLLIN | select.POLLHUP)
        while True:
            for descriptor, _ in poll.poll():
                if descriptor == self._stop_reader.fileno():
                    return
                is_route = descriptor == self._route.fileno()
                try:
                    datagram = (self._route if is_route else self._nft).recv(1 << 17)
                except OSError:
                    self.overruns_count += 1
                    continue
                self._take(_route_signs(datagram) if is_route else _nft_signs(datagram))

    def _take(self, signs: Iterator[Sign]) -> None:
        now = time.perf_counter()
        with self._lock:
            for sign in signs:
                self.counts[sign[0]] += 1
                expected = self._wanted.pop(sign, None)
                if expected is not None:
                    expected.missing.discard(sign)
                    if not expected.missing:
                        self._resolve(expected, now)
                elif self._rule is not None and sign[0] == "rule" and self._rule_part in sign[1]:
                    expected, self._rule = self._rule, None
                    self._resolve(expected, now)

    def _resolve(self, expected: _Expected, now: float) -> None:
        self._loop.call_soon_threadsafe(_set_moment, expected.moment, now)


def _set_moment(future: asyncio.Future[float], now: float) -> None:
    if not future.done():
        future.set_result(now)


def _listen(protocol: int, groups: Iterable[int]) -> socket.socket:
    sock = open_netlink(protocol, 64 << 20)
    for group in groups:
        sock.setsockopt(SOL_NETLINK, NETLINK_ADD_MEMBERSHIP, group)
    return sock


def _route_signs(datagram: bytes) -> Iterator[Sign]:
    for one in parse_messages(datagram):
        # the kernel makes routes of its own, as for link-local addresses, seconds after an interface came up
        if one.type in (_RTM_NEWROUTE, _RTM_DELROUTE) and one.body[_PROTOCOL_OFFSET] == _PROTOCOL:
            destination = parse_attributes(one.body, _ROUTE_HEADER_BYTES).get(1, b"")
            yield "route" if one.type == _RTM_NEWROUTE else "route-gone", "", destination


def _nft_signs(datagram: bytes) -> Iterator[Sign]:
    for one in parse_messages(datagram):
        kind = one.type & 0xFF
        if kind in (_NEW_ELEMENT, _DELETED_ELEMENT):
            attributes = parse_attributes(one.body, _NFT_HEADER_BYTES)
            where = attributes.get(2, b"").rstrip(b"\0").decode()
            for _, element in parse_attribute_list(attributes.get(3, b"")):
                key = parse_attributes(parse_attributes(element).get(1, b"")).get(1, b"")
                yield "element" if kind == _NEW_ELEMENT else "element-gone", where, key
        elif kind == _NEW_RULE:
            attributes = parse_attributes(one.body, _NFT_HEADER_BYTES)
            yield "rule", attributes.get(2, b"").rstrip(b"\0").decode(), b""
        elif kind != _NEW_GENERATION:
            yield "structure", str(kind), b""
