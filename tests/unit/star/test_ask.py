"""Names are looked up in threads that nobody waits for, and failures have the words that a probe tells."""

from __future__ import annotations

import asyncio
import socket
import ssl
import threading
from collections.abc import Iterator
from typing import Any

import pytest
from aiohttp import web
from aiohttp.test_utils import TestServer

from felix.star.ask import Asker, Resolver, name_failure


@pytest.fixture
def hidden_nameserver(monkeypatch: pytest.MonkeyPatch) -> Iterator[list[str]]:
    """Lookups get no answer until the test ends; yields the names that were asked for."""
    asked: list[str] = []
    answered = threading.Event()

    def look_up(host: str, *_: object, **__: object) -> list[Any]:
        asked.append(host)
        answered.wait(60)
        raise socket.gaierror("no answer")

    monkeypatch.setattr(socket, "getaddrinfo", look_up)
    yield asked
    answered.set()
    for thread in threading.enumerate():
        if thread.name.startswith("lookup-"):
            thread.join()


async def test_name_without_an_answer_ends_by_the_deadline_and_is_asked_for_once(hidden_nameserver: list[str]) -> None:
    async with Asker(0.05) as asker:
        for _ in range(3):
            assert await asker.probe("http://hidden.example:9000/") == "timeout"
            assert await asker.probe("tcp://hidden.example:9000") == "timeout"
        assert await asker.fetch("http://hidden.example:9000/") is None

    assert hidden_nameserver == ["hidden.example"], "a lookup that hangs is not started again beside itself"


async def test_name_without_an_answer_does_not_hold_up_another_name(
    hidden_nameserver: list[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    resolver = Resolver()
    hanging = [asyncio.create_task(resolver.find(f"hidden{number}.example")) for number in range(100)]
    await asyncio.sleep(0)
    address = (socket.AF_INET, socket.SOCK_STREAM, 6, "", ("10.0.0.7", 0))
    monkeypatch.setattr(socket, "getaddrinfo", lambda *_, **__: [address])

    assert await resolver.find("known.example") == [(socket.AF_INET, "10.0.0.7", 0)]

    assert len(hidden_nameserver) == 100
    for task in hanging:
        task.cancel()
    await asyncio.gather(*hanging, return_exceptions=True)


async def test_answer_that_names_another_place_is_not_followed() -> None:
    asked: list[str] = []

    async def redirect(request: web.Request) -> web.Response:
        asked.append(request.path)
        return web.json_response({"own": 1}, status=302, headers={"Location": "/elsewhere"})

    application = web.Application()
    application.router.add_get("/{name}", redirect)
    async with TestServer(application) as server, Asker(5) as asker:
        answer = await asker.fetch(str(server.make_url("/status")))

    assert asked == ["/status"]
    assert answer is not None
    assert (answer.status_code, bytes(answer.json)) == (302, b'{"own": 1}')


@pytest.mark.parametrize(
    ("error", "word"),
    [
        (TimeoutError(), "timeout"),
        (ConnectionRefusedError(), "refused"),
        (ConnectionResetError(), "reset"),
        (OSError(113, "No route to host"), "unreachable"),
        (socket.gaierror(-2, "Name or service not known"), "no-name"),
        (ssl.SSLError("bad record"), "tls"),
        (ValueError("odd"), "no-http"),
    ],
)
def test_failure_has_its_word(error: Exception, word: str) -> None:
    assert name_failure(error) == word
