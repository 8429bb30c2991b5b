"""Routes and JSON of Star's two programs are those of the original, over real sockets; what is new is beside them."""

from __future__ import annotations

import asyncio
import contextlib
import json
import socket
import sys
from collections.abc import AsyncIterator, Awaitable, Callable
from typing import Any

import pytest
from aiohttp import web
from aiohttp.test_utils import TestClient, TestServer

from felix.star.ask import Asker
from felix.star.collect import LISTENERS_MOST, Desk
from felix.star.collector import Collector
from felix.star.faults import CannotListen
from felix.star.probe import Probe, make_probe_application
from felix.star.serve import open_listener, say_where

Client = TestClient[web.Request, web.Application]
_QUICK_S = 0.05
_TYPE = "application/json; charset=utf-8"


@contextlib.asynccontextmanager
async def _doing(work: Awaitable[None]) -> AsyncIterator[None]:
    task = asyncio.ensure_future(work)
    try:
        yield
    finally:
        task.cancel()
        await asyncio.gather(task, return_exceptions=True)


@contextlib.asynccontextmanager
async def _probe(*urls: str, timeout_s: float = 5.0) -> AsyncIterator[Client]:
    async with Asker(timeout_s) as asker:
        probe = Probe(urls, asker.probe, _QUICK_S)
        async with TestClient(TestServer(make_probe_application(probe))) as client, _doing(probe.run()):
            yield client


@contextlib.asynccontextmanager
async def _collector() -> AsyncIterator[Client]:
    async with Asker(5.0) as asker:
        collector = Collector(asker.fetch, _QUICK_S)
        async with TestClient(TestServer(Desk(collector).make_application())) as client, _doing(collector.run()):
            yield client


@contextlib.asynccontextmanager
async def _peer(answer: Callable[[web.Request], Awaitable[web.StreamResponse]], port: int = 0) -> AsyncIterator[str]:
    application = web.Application()
    application.router.add_get("/{anything:.*}", answer)
    async with TestServer(application, port=port) as server:
        yield str(server.make_url("/status"))


@contextlib.asynccontextmanager
async def _raw_peer(greeting: bytes) -> AsyncIterator[int]:
    """A server that says something, or nothing, and then waits."""
    ended = asyncio.Event()

    async def serve(_: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        writer.write(greeting)
        await ended.wait()
        writer.close()

    server = await asyncio.start_server(serve, "127.0.0.1", 0)
    try:
        yield server.sockets[0].getsockname()[1]
    finally:
        ended.set()
        server.close()


async def _answer_json(_: web.Request) -> web.Response:
    return web.json_response({"status": {"targets": []}})


async def _get(client: Client, path: str) -> Any:
    async with client.get(path) as answer:
        assert (answer.status, answer.headers["Content-Type"]) == (200, _TYPE)
        return await answer.json()


async def _wait_for(read: Callable[[], Awaitable[Any]], wanted: Callable[[Any], bool]) -> Any:
    value = None
    for _ in range(1000):
        value = await read()
        if wanted(value):
            return value
        await asyncio.sleep(0.02)
    raise AssertionError(f"still {value}")


async def _tried(client: Client) -> dict[str, tuple[bool, str]]:
    """Returns what a probe knows once it has tried all its targets."""

    async def read() -> Any:
        return (await _get(client, "/status"))["status"]["targets"]

    targets = await _wait_for(read, lambda targets: all(target["outcome"] != "pending" for target in targets))
    return {target["url"]: (target["reachable"], target["outcome"]) for target in targets}


def _closed_port() -> int:
    with socket.socket() as taken:
        taken.bind(("127.0.0.1", 0))
        return int(taken.getsockname()[1])


# --- The probe ---


async def test_probe_before_its_first_try_says_not_reachable_and_pending() -> None:
    probe = Probe(["http://10.0.0.1:9000/status"], lambda _: asyncio.Future(), 5.0)
    async with TestClient(TestServer(make_probe_application(probe))) as client:
        assert await _get(client, "/status") == {
            "status": {"targets": [{"url": "http://10.0.0.1:9000/status", "reachable": False, "outcome": "pending"}]}
        }


@pytest.mark.parametrize("status", [200, 301, 404, 500])
async def test_probe_of_any_answer_of_http_says_reachable(status: int) -> None:
    headers_seen: list[str] = []

    async def answer(request: web.Request) -> web.Response:
        headers_seen.append(request.headers.get("Connection", ""))
        return web.Response(status=status, headers={"Location": "http://127.0.0.1:1/"})

    async with _peer(answer) as url, _probe(url) as client:
        assert await _tried(client) == {url: (True, "ok")}
    assert set(headers_seen) == {"close"}


async def test_probe_of_what_does_not_answer_says_why() -> None:
    closed = _closed_port()
    async with _raw_peer(b"") as silent, _raw_peer(b"SSH-2.0-not http\r\n") as other:
        urls = [f"http://127.0.0.1:{port}/status" for port in (closed, silent, other)]
        urls += [f"https://127.0.0.1:{other}/", "http://no-such-host.invalid/"]
        async with _probe(*urls, timeout_s=0.5) as client:
            tried = await _tried(client)

    assert [tried[url][0] for url in urls] == [False] * 5
    assert [tried[url][1] for url in urls[:4]] == ["refused", "timeout", "no-http", "tls"]
    assert tried[urls[4]][1] in {"no-name", "timeout"}, "a machine may have no nameserver that answers"


async def test_probe_of_a_silent_target_does_not_hold_up_another() -> None:
    async with (
        _raw_peer(b"") as silent,
        _peer(_answer_json) as good,
        _probe(f"http://127.0.0.1:{silent}/", good, timeout_s=60) as client,
    ):

        async def read() -> Any:
            return (await _get(client, "/status"))["status"]["targets"]

        targets = await _wait_for(read, lambda targets: bool(targets[1]["reachable"]))
        assert targets[0]["outcome"] == "pending"


async def test_probe_of_a_connection_alone_needs_no_answer() -> None:
    closed = _closed_port()
    async with _raw_peer(b"") as silent:
        urls = [f"tcp://127.0.0.1:{silent}", f"tcp://localhost:{silent}", f"tcp://127.0.0.1:{closed}"]
        async with _probe(*urls) as client:
            assert await _tried(client) == dict(
                zip(urls, [(True, "ok"), (True, "ok"), (False, "refused")], strict=True)
            )


async def test_probe_notices_that_a_target_goes_and_comes() -> None:
    async with _peer(_answer_json) as url, _probe(url) as client:
        assert await _tried(client) == {url: (True, "ok")}
        port = int(url.split(":")[2].split("/")[0])
    async with _probe(url) as client:
        assert await _tried(client) == {url: (False, "refused")}
        async with _peer(_answer_json, port):
            await _wait_for(lambda: _tried(client), lambda tried: bool(tried[url][0]))


async def test_probe_answers_nothing_but_its_status() -> None:
    async with _probe() as client:
        assert await _get(client, "/status") == {"status": {"targets": []}}
        for path in ("/", "/status/", "/resources"):
            assert (await client.get(path)).status == 404


async def test_listener_on_the_address_of_all_takes_both_families() -> None:
    listener = open_listener("::", 0)
    port = listener.getsockname()[1]
    assert say_where(listener) == f"http://[::1]:{port}/"
    with listener:
        for address in ("127.0.0.1", "::1"):
            socket.create_connection((address, port), timeout=10).close()


async def test_listener_on_a_taken_port_says_which() -> None:
    with open_listener("127.0.0.1", 0) as listener:
        port = listener.getsockname()[1]
        with pytest.raises(CannotListen, match=rf"cannot listen on 127.0.0.1 port {port}: Address already in use"):
            open_listener("127.0.0.1", port)
    with pytest.raises(CannotListen, match=r"cannot listen on no-such-host\.invalid"):
        open_listener("no-such-host.invalid", 0)


async def test_program_asked_to_end_while_a_try_is_under_way_ends_well() -> None:
    asked = asyncio.Event()

    async def answer(_: web.Request) -> web.Response:
        asked.set()
        await asyncio.Event().wait()
        return web.Response()

    async with _peer(answer) as url:
        words = ["-m", "felix", "star", "probe", f"--urls={url}", "--http-port=0", "--http-probe-seconds=60"]
        words.append("--http-probe-timeout-seconds=60")
        process = await asyncio.create_subprocess_exec(sys.executable, *words, stdout=asyncio.subprocess.PIPE)
        await asked.wait()
        process.terminate()
        said, _ = await process.communicate()

    assert process.returncode == 0
    assert b"1 targets every 60 s; http://127.0.0.1:" in said


# --- The collector: the original's routes ---


async def test_resource_posted_comes_back_bare_with_200_and_is_listed() -> None:
    resource = {"id": "A", "url": "http://a.invalid/status"}
    async with _collector() as client:
        assert await _get(client, "/resources") == {"resources": []}
        async with client.post("/resources", data=json.dumps(resource)) as answer:
            assert (answer.status, answer.headers["Content-Type"]) == (200, _TYPE)
            assert await answer.json() == resource
        assert await _get(client, "/resources") == {"resources": [resource]}
        assert await _get(client, "/resources/A") == {"resource": resource}


async def test_resource_that_is_no_json_is_refused_with_a_plain_text() -> None:
    async with _collector() as client, client.post("/resources", data=b"{") as answer:
        assert (answer.status, answer.content_type) == (400, "text/plain")
        assert "JSON" in await answer.text()


async def test_responses_have_url_status_and_json_or_null() -> None:
    async def answer(request: web.Request) -> web.Response:
        if request.path == "/text":
            return web.Response(text="hello")
        return web.json_response({"big": 2**80, "text": "é"}, status=503 if request.path == "/bad" else 200)

    async with _peer(answer) as url, _collector() as client:
        base = url.removesuffix("/status")
        for name in ("status", "bad", "text"):
            await client.post("/resources", json={"id": name, "url": f"{base}/{name}"})
        await client.post("/resources", json={"id": "gone", "url": f"http://127.0.0.1:{_closed_port()}/"})

        async def read() -> Any:
            return (await _get(client, "/responses"))["responses"]

        responses = await _wait_for(read, lambda responses: bool(responses["status"] and responses["bad"]))
        assert responses == {
            "status": {"url": f"{base}/status", "statusCode": 200, "json": {"big": 2**80, "text": "é"}},
            "bad": {"url": f"{base}/bad", "statusCode": 503, "json": {"big": 2**80, "text": "é"}},
            "text": None,
            "gone": None,
        }
        assert await _get(client, "/responses/bad") == {"response": {"bad": responses["bad"]}}


async def test_response_that_is_endless_counts_as_none() -> None:
    sent = 0

    async def answer(request: web.Request) -> web.StreamResponse:
        nonlocal sent
        response = web.StreamResponse()
        await response.prepare(request)
        with contextlib.suppress(ConnectionError):
            while True:
                await response.write(b" " * 65536)
                sent += 65536
        return response

    async with _peer(answer) as url, Asker(60.0) as asker:
        assert await asker.fetch(url) is None
    assert sent < 64 << 20


async def test_example_is_that_of_the_original() -> None:
    async with _collector() as client:
        responses = (await _get(client, "/responses/example"))["responses"]

    assert responses["B"] == {
        "url": "http://b/status",
        "statusCode": 200,
        "json": {
            "status": {
                "targets": [
                    {"reachable": True, "url": "http://a/status"},
                    {"reachable": False, "url": "http://c/status"},
                    {"reachable": True, "url": "http://d/status"},
                ]
            }
        },
    }
    assert (sorted(responses), responses["E"]) == (["A", "B", "C", "D", "E"], None)


@pytest.mark.parametrize(
    ("path", "kind"),
    [
        ("/", "text/html"),
        ("/?example=true", "text/html"),
        ("/assets/star.css", "text/css"),
        ("/assets/star.js", "text/javascript"),
    ],
)
async def test_page_and_its_parts_are_served_with_what_a_browser_may_do(path: str, kind: str) -> None:
    async with _collector() as client, client.get(path) as answer:
        assert (answer.status, answer.content_type) == (200, kind)
        policy = answer.headers["Content-Security-Policy"]
        assert "default-src 'none'" in policy
        assert "unsafe" not in policy
        assert answer.headers["X-Content-Type-Options"] == "nosniff"
        assert "http" not in (await answer.text()).replace("http://www.w3.org/2000/svg", "").replace("http://10.", "")


@pytest.mark.parametrize(
    "path", ["/nothing", "/assets/", "/assets/nothing.js", "/assets/..%2fcollect.py", "/resources/X", "/responses/X"]
)
async def test_what_is_not_there_is_404(path: str) -> None:
    async with _collector() as client:
        assert (await client.get(path)).status == 404


# --- The collector: what is new ---


async def test_resource_removed_is_gone_everywhere() -> None:
    async with _peer(_answer_json) as url, _collector() as client:
        await client.post("/resources", json={"id": "a/b c", "url": url})
        assert (await _get(client, "/resources/a%2Fb%20c"))["resource"]["url"] == url
        assert (await client.delete("/resources/a%2Fb%20c")).status == 204
        assert (await client.delete("/resources/a%2Fb%20c")).status == 404
        assert await _get(client, "/resources") == {"resources": []}
        assert await _get(client, "/responses") == {"responses": {}}


async def test_resource_of_a_known_id_replaces_it() -> None:
    async with _collector() as client:
        for port in (1, 2):
            await client.post("/resources", json={"id": "A", "url": f"http://127.0.0.1:{port}/"})
        assert await _get(client, "/resources") == {"resources": [{"id": "A", "url": "http://127.0.0.1:2/"}]}


async def test_resource_posted_by_the_page_of_another_site_is_refused() -> None:
    resource = {"id": "A", "url": "http://127.0.0.1:1/"}
    async with _collector() as client:
        foreign = await client.post("/resources", json=resource, headers={"Origin": "http://evil.example"})
        assert foreign.status == 403
        own = await client.post("/resources", json=resource, headers={"Origin": f"http://127.0.0.1:{client.port}"})
        assert own.status == 200


async def test_matrix_compares_what_is_seen_with_what_was_expected() -> None:
    async with _collector() as client:
        url_b = "http://127.0.0.1:1/status"

        async def answer(_: web.Request) -> web.Response:
            return web.json_response({"status": {"targets": [{"url": url_b, "reachable": True, "outcome": "ok"}]}})

        async with _peer(answer) as url_a:
            a = {"id": "A", "url": url_a, "group": "one", "label": "a", "expected": {"B": False}}
            await client.post("/resources", json=a)
            await client.post("/resources", json={"id": "B", "url": url_b, "group": "one"})
            matrix = await _wait_for(
                lambda: _get(client, "/matrix"),
                lambda matrix: [n["state"] for n in matrix["nodes"]] == ["answering", "silent"],
            )

    assert matrix["nodes"][0] == {"id": "A", "label": "a", "group": "one", "url": url_a, "state": "answering"}
    assert matrix["edges"] == [{"from": "A", "to": "B", "state": "reachable", "expected": False, "verdict": "wrong"}]
    counts = {"nodes": 2, "answering": 1, "reachable": 1, "blocked": 0, "right": 0, "wrong": 1, "unknown": 0}
    assert matrix["summary"] == {"name": "", **counts, "verdict": "wrong"}
    assert matrix["groups"] == [{"name": "one", **counts, "verdict": "wrong"}]


async def _read_event(answer: Any) -> dict[str, str]:
    """Returns the fields of the next event; comments are skipped."""
    fields: dict[str, str] = {}
    while "data" not in fields:
        async with asyncio.timeout(20):
            line = (await answer.content.readline()).decode().rstrip("\n")
        name, _, value = line.partition(": ")
        if name:
            fields[name] = value
    return fields


async def test_events_tell_the_matrix_now_and_after_a_change() -> None:
    async with _collector() as client, client.get("/events") as answer:
        assert (answer.status, answer.content_type) == (200, "text/event-stream")
        first = await _read_event(answer)
        assert (first["event"], first["id"], json.loads(first["data"])["nodes"]) == ("matrix", "1", [])

        await client.post("/resources", json={"id": "A", "url": "http://127.0.0.1:1/"})

        second = json.loads((await _read_event(answer))["data"])
        assert [node["id"] for node in second["nodes"]] == ["A"]


async def test_events_have_a_bounded_number_of_listeners_and_places_become_free() -> None:
    async with _collector() as client:
        answers = [await client.get("/events") for _ in range(LISTENERS_MOST)]
        assert {answer.status for answer in answers} == {200}
        async with client.get("/events") as answer:
            assert (answer.status, answer.headers["Retry-After"]) == (503, "10")

        answers[0].close()

        async def is_free() -> bool:
            await client.post("/resources", json={"id": "A", "url": "http://127.0.0.1:1/", "label": str(is_free)})
            async with client.get("/events") as answer:
                return answer.status == 200

        await _wait_for(is_free, bool)
        for answer in answers:
            answer.close()
