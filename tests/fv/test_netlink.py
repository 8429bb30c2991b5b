"""Netlink sockets against the real kernel: small buffers, busy tables, lost events, both event loops."""

from __future__ import annotations

import asyncio
import errno
import struct
import threading
from collections.abc import Callable, Coroutine, Iterator
from contextlib import closing

import pytest
import uvloop

from felix.dataplane.netlink.apply import NetlinkSocket
from felix.dataplane.netlink.message import (
    NETLINK_NETFILTER,
    NETLINK_ROUTE,
    NLM_F_CREATE,
    Message,
    attribute,
    batch,
    message,
    nfnetlink_header,
    parse_messages,
)
from felix.dataplane.netlink.watch import NetlinkWatch
from felix.dataplane.routes.apply import apply_routes
from felix.dataplane.routes.read import read_routes
from felix.dataplane.routes.types import (
    RTN_BLACKHOLE,
    SCOPE_UNIVERSE,
    RouteConfig,
    RouteKey,
    RouteOperation,
    RouteValue,
    Verb,
)
from felix.errors import KernelRefused
from felix.model.net import Net
from tests.support.netns import Namespace, private_namespace

pytestmark = pytest.mark.fv

CONFIG = RouteConfig()
BLACKHOLE = RouteValue(RTN_BLACKHOLE, SCOPE_UNIVERSE, 0)


@pytest.fixture
def host() -> Iterator[Namespace]:
    with private_namespace("nl") as namespace:
        yield namespace


def blackholes(count: int, verb: Verb = Verb.REPLACE, first: int = 0x0A000000) -> tuple[RouteOperation, ...]:
    return tuple(RouteOperation(verb, RouteKey(Net(4, first + n, 32), 0), BLACKHOLE) for n in range(count))


def test_transaction_larger_than_both_buffers_is_answered_message_by_message(host: Namespace) -> None:
    def scenario() -> None:
        with closing(NetlinkSocket(NETLINK_ROUTE, buffer_bytes=4096)) as socket:
            good, refused = blackholes(500), blackholes(500, Verb.DELETE, first=0x0B000000)
            mixed = tuple(one for pair in zip(good, refused, strict=True) for one in pair)
            answers = apply_routes(socket, CONFIG, mixed).answers
        assert answers[0::2] == (None,) * 500
        assert answers[1::2] == (3,) * 500
        with closing(NetlinkSocket(NETLINK_ROUTE)) as socket:
            assert len(read_routes(socket, CONFIG)) == 500

    host.run(scenario)


def test_dump_while_the_table_changes_has_every_route_that_stayed(host: Namespace) -> None:
    def scenario() -> None:
        reader, writer = NetlinkSocket(NETLINK_ROUTE), NetlinkSocket(NETLINK_ROUTE)
        stable = blackholes(3000)
        apply_routes(writer, CONFIG, stable)
        stop = threading.Event()

        def flap() -> None:
            while not stop.is_set():
                apply_routes(writer, CONFIG, blackholes(50, first=0x0C000000))
                apply_routes(writer, CONFIG, blackholes(50, Verb.DELETE, first=0x0C000000))

        thread = threading.Thread(target=flap)
        thread.start()
        try:
            for _ in range(10):
                keys = [key for key, _ in read_routes(reader, CONFIG)]
                assert {operation.key for operation in stable} <= set(keys)
                assert len(keys) == len(set(keys))
        finally:
            stop.set()
            thread.join()
            reader.close()
            writer.close()

    host.run(scenario)


def test_refused_dump_says_so_and_socket_stays_usable(host: Namespace) -> None:
    def scenario() -> None:
        with closing(NetlinkSocket(NETLINK_ROUTE)) as socket:
            with pytest.raises(KernelRefused, match="dump refused"):
                socket.dump(message(26, 0, struct.pack("=BBBBBBBBI", 2, 32, 0, 0, 0, 0, 0, 0, 0)))
            assert read_routes(socket, CONFIG) == []

    host.run(scenario)


def test_question_is_answered_or_refused_whatever_an_abandoned_dump_left(host: Namespace) -> None:
    def question(name: bytes) -> bytes:
        return message(18, 0, struct.pack("=BxHiII", 0, 0, 0, 0, 0) + attribute(3, name + b"\0"))

    def scenario() -> None:
        with closing(NetlinkSocket(NETLINK_ROUTE)) as socket:
            answer = socket.get(question(b"lo"))
            assert isinstance(answer, Message)
            assert b"lo\0" in answer.body
            with pytest.raises(ZeroDivisionError):
                socket.dump(message(18, 0, bytes(16)), keep=lambda _: bool(1 / 0))
            assert socket.get(question(b"none")) == errno.ENODEV
            assert socket.get(question(b"lo")) == answer._replace(sequence=answer.sequence + 3)

    host.run(scenario)


def test_nfnetlink_batch_applies_whole_or_not_at_all(host: Namespace) -> None:
    new_table = 10 << 8

    def table(name: bytes) -> bytes:
        return message(new_table, NLM_F_CREATE, nfnetlink_header(1) + attribute(1, name + b"\0"))

    chain_without_table = message(
        new_table | 3, NLM_F_CREATE, nfnetlink_header(1) + attribute(1, b"none\0") + attribute(3, b"c\0")
    )

    def scenario() -> None:
        with closing(NetlinkSocket(NETLINK_NETFILTER)) as socket:
            assert socket.transact(batch(10, [table(b"one")])) == [None] * 3
            assert socket.transact(batch(10, [])) == [None] * 2
            answers = socket.transact(batch(10, [table(b"two"), chain_without_table, table(b"three")]))
            assert answers == [None, None, 2, None, None]
            assert socket.transact(batch(99, [table(b"four")]))[0] is not None

    host.run(scenario)
    assert host.execute("nft", "list tables").split() == ["table", "inet", "one"]


def run_stock(main: Callable[[], Coroutine[None, None, None]]) -> None:
    asyncio.run(main())


def run_uvloop(main: Callable[[], Coroutine[None, None, None]]) -> None:
    with asyncio.Runner(loop_factory=uvloop.new_event_loop) as runner:
        runner.run(main())


@pytest.mark.parametrize("run_loop", [run_stock, run_uvloop], ids=["asyncio", "uvloop"])
def test_watch_tells_events_and_admits_what_it_lost(
    host: Namespace, run_loop: Callable[[Callable[[], Coroutine[None, None, None]]], None]
) -> None:
    async def main() -> None:
        heard, lost = asyncio.Event(), asyncio.Event()
        seen: list[int] = []

        def on_datagram(datagram: bytes) -> None:
            seen.extend(one.port for one in parse_messages(datagram))
            heard.set()

        watch = NetlinkWatch(NETLINK_ROUTE, [7], on_datagram, lost.set, buffer_bytes=2048)
        watch.open()
        socket = NetlinkSocket(NETLINK_ROUTE)
        try:
            apply_routes(socket, CONFIG, blackholes(1))
            await asyncio.wait_for(heard.wait(), 5)
            assert seen == [socket.port]
            assert not lost.is_set()
            apply_routes(socket, CONFIG, blackholes(2000))
            await asyncio.wait_for(lost.wait(), 5)
            heard.clear()
            apply_routes(socket, CONFIG, blackholes(1, Verb.DELETE))
            await asyncio.wait_for(heard.wait(), 5)
            assert watch.overruns_count >= 1
        finally:
            watch.close()
            watch.close()
            socket.close()

    host.run(lambda: run_loop(main))
