"""The parts of the simulated master that need no lab: health checks as written, listeners, groups, the relay."""

from __future__ import annotations

import asyncio
from collections.abc import Callable
from pathlib import Path
from typing import TypeVar

import pytest

from felix.errors import DataError
from felix.lab.checks import Health, HealthCheck, judge, read_checks
from felix.lab.mesos import feed
from felix.lab.mesos.feed import Feed
from felix.lab.mesos.marathon_api import render_group
from felix.lab.place import Place
from felix.lab.relay import Relay, listen_locally

T = TypeVar("T")


def test_health_check_without_anything_has_marathons_defaults() -> None:
    assert read_checks([{}], "app") == (HealthCheck("HTTP", "/", 0, 0, 300.0, 60.0, 20.0, 3, ""),)


@pytest.mark.parametrize(
    ("check", "text"),
    [
        (7, "app: healthChecks[0]: expected an object"),
        ({"protocol": "ICMP"}, "protocol: expected one of HTTP"),
        ({"path": "status"}, "path: expected text that begins with /"),
        ({"path": "/a b"}, "path: expected"),
        ({"path": "/a\r\nX: y"}, "path: expected"),
        ({"port": 70000}, "port: expected a number from 0 to 65535"),
        ({"intervalSeconds": "5"}, "intervalSeconds: expected a number"),
        ({"timeoutSeconds": True}, "timeoutSeconds: expected a number"),
        ({"protocol": "COMMAND"}, "command: expected"),
        ({"protocol": "COMMAND", "command": 7}, "command: expected"),
    ],
)
def test_health_check_that_cannot_be_used_is_refused_with_its_field(check: object, text: str) -> None:
    with pytest.raises(DataError) as refused:
        read_checks([check], "app")
    assert text in str(refused.value)


def test_task_is_healthy_when_all_checks_say_so_and_unknown_as_long_as_one_says_nothing() -> None:
    good, bad, unknown = (Health(HealthCheck(), alive) for alive in (True, False, None))
    assert judge([good, good]) is True
    assert judge([good, bad]) is False
    assert judge([bad, unknown]) is None
    assert judge([]) is None


def test_listener_that_does_not_listen_is_left_behind_and_others_are_not(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(feed, "BACKLOG_MOST", 3)
    told = Feed()
    slow, quick = told.listen(), told.listen()
    assert slow is not None
    assert quick is not None
    for number in range(10):
        told.publish(marathon={"eventType": "e", "number": number})
        event = quick.get_nowait()
        assert event is not None
        assert event.marathon["number"] == number
    heard = [slow.get_nowait() for _ in range(slow.qsize())]
    assert [event is None for event in heard] == [False, False, False, True]


def test_feed_that_is_closed_ends_its_listeners_and_takes_no_more() -> None:
    told = Feed()
    queue = told.listen()
    told.close()
    assert queue is not None
    assert queue.get_nowait() is None
    assert told.listen() is None


def test_groups_are_nested_by_their_paths() -> None:
    paths = ("web/eu/a", "web/b", "c")
    root = render_group("", {path: {"id": f"/{path}"} for path in paths}, 0.0)
    assert root["apps"] == [{"id": "/c"}]
    (web,) = root["groups"] if isinstance(root["groups"], list) else []
    assert isinstance(web, dict)
    assert (web["id"], web["apps"]) == ("/web", [{"id": "/web/b"}])
    assert render_group("web/eu", {path: {"id": f"/{path}"} for path in paths}, 0.0)["apps"] == [{"id": "/web/eu/a"}]


class Here(Place):
    """This very namespace."""

    def __init__(self) -> None:
        super().__init__("here", "", Path("/nowhere"), {})

    def call(self, function: Callable[[], T]) -> T:
        """Returns what `function` returns."""
        return function()


async def serve_upper(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
    writer.write((await reader.read()).upper())
    await writer.drain()
    writer.close()
    await writer.wait_closed()


async def ask(url: str, text: bytes) -> bytes:
    host, _, port = url.removeprefix("http://").rstrip("/").partition(":")
    reader, writer = await asyncio.open_connection(host, int(port))
    writer.write(text)
    writer.write_eof()
    answer = await reader.read()
    writer.close()
    await writer.wait_closed()
    return answer


async def test_relay_passes_on_both_ways_until_the_end() -> None:
    server = await asyncio.start_server(serve_upper, "127.0.0.1", 0)
    async with server, Relay(Here(), "127.0.0.1", server.sockets[0].getsockname()[1]) as relay:
        assert await asyncio.gather(*(ask(relay.url, b"a" * 200_000) for _ in range(5))) == [b"A" * 200_000] * 5


async def test_relay_to_nobody_closes_and_goes_on() -> None:
    with listen_locally(0) as gone:
        port = gone.getsockname()[1]
    async with Relay(Here(), "127.0.0.1", port) as relay:
        assert await ask(relay.url, b"a") == b""
        assert await ask(relay.url, b"a") == b""


async def test_relay_whose_port_is_taken_takes_another() -> None:
    with listen_locally(0) as taken:
        port = taken.getsockname()[1]
        async with Relay(Here(), "127.0.0.1", 1, port) as relay:
            assert relay.url != f"http://127.0.0.1:{port}/"
