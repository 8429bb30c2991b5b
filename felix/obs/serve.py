"""The doors through which the agent is looked at: health, metrics, and the local API on a Unix socket.

Health and metrics answer anybody who reaches their address, and only read. The local API asks the kernel who is at
the other end and answers the superuser and the agent's own user alone.
"""

from __future__ import annotations

import asyncio
import os
import socket
import struct
from collections.abc import Awaitable, Callable, Mapping, Sequence
from pathlib import Path
from typing import NamedTuple

import msgspec
from aiohttp import web
from aiohttp.typedefs import Handler, Middleware
from prometheus_client import CollectorRegistry
from prometheus_client.exposition import generate_latest

from felix.errors import EnvironmentFault
from felix.obs.health import Health, render_states

Answer = Callable[[Mapping[str, str]], Awaitable[object]]
"""Takes the query of a request; returns what msgspec can encode as JSON, or a `Reply` with it."""
Act = Callable[[bytes], Awaitable[object]]
"""Takes the body of a request that changes something; returns as an `Answer` does."""

_BODY_LIMIT_BYTES = 1 << 20
_BACKLOG = 1024  # a full one refuses plug-ins at once, and a host may start many containers together
_CODE_BY_STATUS = {404: "not-found"}

_PEER_CREDENTIALS = struct.Struct("3i")
_TEXT_VERSION = "text/plain; version=0.0.4; charset=utf-8"


class Reply(NamedTuple):
    """An answer with a status of HTTP other than 200."""

    value: object
    status: int


class Door:
    """A server that listens. port: 0 for a Unix socket."""

    def __init__(self, runner: web.AppRunner) -> None:
        self._runner = runner
        addresses = [address for address in runner.addresses if isinstance(address, tuple)]
        self.port: int = addresses[0][1] if addresses else 0

    async def close(self) -> None:
        """Listens no longer; answers under way get a second to finish."""
        await self._runner.cleanup()


async def serve_health(health: Health, host: str, port: int) -> Door:
    """Serves /liveness and /readiness: 200 for yes and 503 for no, with a table of all components.

    host: empty for all addresses. port: 0 for any free one. Raises EnvironmentFault when the address is taken.
    """

    def answer(is_good: Callable[[], bool]) -> Callable[[web.Request], Awaitable[web.Response]]:
        async def handle(_: web.Request) -> web.Response:
            return web.Response(text=render_states(health.states()), status=200 if is_good() else 503)

        return handle

    handlers = {"/liveness": answer(health.is_live), "/readiness": answer(health.is_ready)}
    return await _serve_tcp("health", handlers, host, port)


async def serve_metrics(
    registry: CollectorRegistry, host: str, port: int, refresh: Callable[[], Awaitable[None]] | None = None
) -> Door:
    """Serves /metrics in the text format of Prometheus; host, port and errors as `serve_health`.

    refresh: awaited before each answer, for what is only read when somebody asks; must not raise.
    """

    async def handle(_: web.Request) -> web.Response:
        if refresh is not None:
            await refresh()
        return web.Response(body=generate_latest(registry), headers={"Content-Type": _TEXT_VERSION})

    return await _serve_tcp("metrics", {"/metrics": handle}, host, port)


async def serve_local_api(
    path: Path, answer_by_path: Mapping[str, Answer], act_by_path: Mapping[str, Act] | None = None
) -> Door:
    """Serves requests on the Unix socket at `path`, as GET `/v1/status` and POST `/v1/attach`, in JSON.

    The folder is made if missing; a socket that a dead agent left is replaced. Raises EnvironmentFault when another
    agent answers there, or when the socket cannot be made.
    """
    if _is_answering(path):
        raise EnvironmentFault(f"another agent answers on {path}; stop it, or give this one another RunDir")
    routes = [web.get(route, _show(answer)) for route, answer in answer_by_path.items()]
    routes += [web.post(route, _do(act)) for route, act in (act_by_path or {}).items()]
    runner = await _prepare(routes, [_admit])
    try:
        _make_folder(path.parent)
        await web.UnixSite(runner, str(path), backlog=_BACKLOG).start()
        _keep_to_owner(path)
    except OSError as error:
        await runner.cleanup()
        hint = "; run felix as root" if isinstance(error, PermissionError) else ""
        raise EnvironmentFault(f"local API cannot listen on {path}: {error.strerror or error}{hint}") from error
    return Door(runner)


def _show(answer: Answer) -> Handler:
    async def handle(request: web.Request) -> web.StreamResponse:
        return _respond(await answer(request.query))

    return handle


def _do(act: Act) -> Handler:
    async def handle(request: web.Request) -> web.StreamResponse:
        return _respond(await act(await request.read()))

    return handle


@web.middleware
async def _admit(request: web.Request, handler: Handler) -> web.StreamResponse:
    """Only who may ask is answered, and every answer is JSON, also those that aiohttp would give."""
    uid = _peer_uid(request)
    if uid not in {0, os.geteuid()}:
        return _json({"error": f"user {uid} may not ask this agent; ask as root", "code": "forbidden"}, status=403)
    try:
        return await handler(request)
    except web.HTTPException as error:
        code = _CODE_BY_STATUS.get(error.status, "invalid")
        return _json({"error": f"{request.method} {request.path}: {error.reason}", "code": code}, status=error.status)


def _respond(value: object) -> web.Response:
    return _json(value.value, value.status) if isinstance(value, Reply) else _json(value)


async def _serve_tcp(
    what: str, handlers: Mapping[str, Callable[[web.Request], Awaitable[web.Response]]], host: str, port: int
) -> Door:
    runner = await _prepare([web.get(path, handler) for path, handler in handlers.items()])
    try:
        await web.TCPSite(runner, host or None, port, reuse_address=True).start()
    except OSError as error:
        await runner.cleanup()
        raise EnvironmentFault(
            f"{what} cannot be served on {host or '*'}:{port}: {error}; stop what has it, or set another port"
        ) from error
    return Door(runner)


async def _prepare(routes: Sequence[web.RouteDef], middlewares: Sequence[Middleware] = ()) -> web.AppRunner:
    application = web.Application(client_max_size=_BODY_LIMIT_BYTES, middlewares=middlewares)
    application.router.add_routes(routes)
    runner = web.AppRunner(application, handle_signals=False, access_log=None, shutdown_timeout=1.0)
    await runner.setup()
    return runner


def _json(value: object, status: int = 200) -> web.Response:
    return web.Response(body=msgspec.json.encode(value) + b"\n", content_type="application/json", status=status)


def _peer_uid(request: web.Request) -> int:
    """Returns the user at the other end of a Unix socket, as the kernel noted it at connect; -1 when unknown."""
    connection = request.get_extra_info("socket")
    if connection is None:
        return -1
    packed = connection.getsockopt(socket.SOL_SOCKET, socket.SO_PEERCRED, _PEER_CREDENTIALS.size)
    _, uid, _ = _PEER_CREDENTIALS.unpack(packed)
    return int(uid)


def _make_folder(path: Path) -> None:
    path.mkdir(mode=0o755, parents=True, exist_ok=True)


def _keep_to_owner(path: Path) -> None:
    path.chmod(0o600)


def _is_answering(path: Path) -> bool:
    with socket.socket(socket.AF_UNIX, socket.SOCK_STREAM) as probe:
        probe.settimeout(1.0)
        return probe.connect_ex(str(path)) == 0


async def keep_pulse(beat: Callable[[float], None], interval_s: float) -> None:
    """Calls `beat` every `interval_s` with the seconds by which the event loop was late; runs until cancelled."""
    loop = asyncio.get_running_loop()
    due = loop.time() + interval_s
    while True:
        await asyncio.sleep(max(0.0, due - loop.time()))
        now = loop.time()
        beat(max(0.0, now - due))
        due = now + interval_s
