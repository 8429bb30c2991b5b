"""Health, metrics and the local API over real sockets, under the event loop that the agent uses."""

import asyncio
import os
import socket
import struct
import urllib.error
import urllib.request
from collections.abc import Callable, Mapping
from pathlib import Path

import pytest
import uvloop

from felix.errors import EnvironmentFault
from felix.obs import serve
from felix.obs.health import Health
from felix.obs.metrics import Metrics
from felix.obs.serve import Reply, keep_pulse, serve_health, serve_local_api, serve_metrics
from felix.plugins.ask import NoAgent, Refused, ask

LOOPS: dict[str, Callable[[], asyncio.AbstractEventLoop]] = {
    "asyncio": asyncio.new_event_loop,
    "uvloop": uvloop.new_event_loop,
}


def get(port: int, path: str) -> tuple[int, str]:
    try:
        with urllib.request.urlopen(f"http://127.0.0.1:{port}{path}", timeout=5) as answer:
            return answer.status, answer.read().decode()
    except urllib.error.HTTPError as error:
        with error:
            return error.code, error.read().decode()


async def test_health_answers_follow_the_components() -> None:
    health = Health()
    part = health.component("dataplane")
    door = await serve_health(health, "127.0.0.1", 0)
    try:
        assert (await asyncio.to_thread(get, door.port, "/liveness"))[0] == 200
        status, text = await asyncio.to_thread(get, door.port, "/readiness")
        assert status == 503
        assert "dataplane" in text
        part.set_ready(True)
        assert (await asyncio.to_thread(get, door.port, "/readiness"))[0] == 200
        assert (await asyncio.to_thread(get, door.port, "/other"))[0] == 404
    finally:
        await door.close()


async def test_metrics_are_served_and_a_taken_port_is_a_fault() -> None:
    door = await serve_metrics(Metrics().registry, "127.0.0.1", 0)
    try:
        status, text = await asyncio.to_thread(get, door.port, "/metrics")
        assert status == 200
        assert "felix_resync_state 0.0" in text
        with pytest.raises(EnvironmentFault, match=f"health cannot be served on 127.0.0.1:{door.port}"):
            await serve_health(Health(), "127.0.0.1", door.port)
    finally:
        await door.close()


async def answer_status(query: Mapping[str, str]) -> object:
    return {"revision": 7, "query": dict(query)}


@pytest.mark.parametrize("loop", LOOPS)
def test_local_api_answers_its_own_user(tmp_path: Path, loop: str) -> None:
    path = tmp_path / "run" / "felix.sock"

    async def scenario() -> object:
        door = await serve_local_api(path, {"/v1/status": answer_status})
        assert path.stat().st_mode & 0o777 == 0o600
        try:
            return await asyncio.to_thread(ask, str(path), "GET", "/v1/status?a=b")
        finally:
            await door.close()

    with asyncio.Runner(loop_factory=LOOPS[loop]) as runner:
        assert runner.run(scenario()) == {"revision": 7, "query": {"a": "b"}}


async def test_local_api_refuses_another_user(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    path = tmp_path / "felix.sock"
    monkeypatch.setattr(serve, "_peer_uid", lambda request: os.geteuid() + 1)
    door = await serve_local_api(path, {"/v1/status": answer_status})
    try:
        with pytest.raises(Refused, match="may not ask"):
            await asyncio.to_thread(ask, str(path), "GET", "/v1/status")
    finally:
        await door.close()


async def test_local_api_replaces_a_dead_socket_and_leaves_a_live_one(tmp_path: Path) -> None:
    path = tmp_path / "felix.sock"
    with socket.socket(socket.AF_UNIX) as dead:
        dead.bind(str(path))
    door = await serve_local_api(path, {"/v1/status": answer_status})
    try:
        with pytest.raises(EnvironmentFault, match="another agent"):
            await serve_local_api(path, {"/v1/status": answer_status})
        assert await asyncio.to_thread(ask, str(path), "GET", "/v1/status") == {"revision": 7, "query": {}}
    finally:
        await door.close()


def test_ask_nobody_there_says_what_to_look_for(tmp_path: Path) -> None:
    with pytest.raises(NoAgent, match="is felix running"):
        ask(str(tmp_path / "felix.sock"), "GET", "/v1/status")


def test_peer_credentials_are_what_the_kernel_says() -> None:
    one, two = socket.socketpair(socket.AF_UNIX)
    with one, two:
        packed = one.getsockopt(socket.SOL_SOCKET, socket.SO_PEERCRED, struct.calcsize("3i"))
        assert struct.unpack("3i", packed) == (os.getpid(), os.geteuid(), os.getegid())


async def test_keep_pulse_beats_until_cancelled() -> None:
    beats: asyncio.Queue[float] = asyncio.Queue()
    task = asyncio.create_task(keep_pulse(beats.put_nowait, 0.001))
    assert await asyncio.wait_for(beats.get(), 5) >= 0.0
    assert await asyncio.wait_for(beats.get(), 5) >= 0.0
    task.cancel()
    with pytest.raises(asyncio.CancelledError):
        await task


async def test_local_api_takes_bodies_and_answers_every_refusal_in_json(tmp_path: Path) -> None:
    bodies: list[bytes] = []

    async def act(body: bytes) -> object:
        bodies.append(body)
        return Reply({"error": "taken", "code": "conflict"}, 409) if b"two" in body else {"done": True}

    door = await serve_local_api(tmp_path / "felix.sock", {}, {"/v1/act": act})
    path = str(tmp_path / "felix.sock")
    try:
        assert await asyncio.to_thread(ask, path, "POST", "/v1/act", {"one": 1}) == {"done": True}
        for method, route, body, status, code in (
            ("POST", "/v1/act", {"two": 2}, 409, "conflict"),
            ("GET", "/v1/act", None, 405, "invalid"),
            ("POST", "/v1/other", {}, 404, "not-found"),
            ("POST", "/v1/act", {"long": "x" * (1 << 20)}, 413, "invalid"),
        ):
            with pytest.raises(Refused) as refused:
                await asyncio.to_thread(ask, path, method, route, body)
            assert (refused.value.status, refused.value.code) == (status, code)
    finally:
        await door.close()
    assert bodies == [b'{"one": 1}', b'{"two": 2}']
