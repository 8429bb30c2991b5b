"""What the simulated master answers over HTTP: Mesos' state and events, Marathon's groups, apps and tasks, a page.

Who can write here runs programs as root: on the lab's fabric everything may be asked for, elsewhere only what is read.
"""

from __future__ import annotations

import asyncio
import logging
import socket
import time
from collections.abc import Callable
from importlib.resources import files

import msgspec
from aiohttp import web
from aiohttp.typedefs import Handler

from felix.errors import DataError, PeerError
from felix.lab.mesos import marathon_api as api
from felix.lab.mesos.feed import Event
from felix.lab.mesos.master import Master
from felix.lab.mesos.state import MASTER_PORT, VERSION, Document
from felix.lab.names import FABRIC_ADDRESS_V4
from felix.lab.relay import listen_locally

log = logging.getLogger(__name__)

MARATHON_PORT = 8080
_BODY_BYTES_MOST = 4 << 20
_HEARTBEAT_S = 15.0
_STUCK_S = 10.0
_SHUTDOWN_S = 1.0
_TYPE_BY_ASSET = {"index.html": "text/html", "master.css": "text/css", "master.js": "text/javascript"}
_HEADERS = {
    "Content-Security-Policy": "default-src 'none'; script-src 'self'; style-src 'self'; connect-src 'self'; "
    "base-uri 'none'; form-action 'none'; frame-ancestors 'none'",
    "Cross-Origin-Resource-Policy": "same-origin",
    "Referrer-Policy": "no-referrer",
    "X-Content-Type-Options": "nosniff",
    "Cache-Control": "no-cache",
}


class MasterServer:
    """Answers for a master, on the lab's fabric and on loopback addresses of this machine; see `open`."""

    def __init__(self, master: Master) -> None:
        self._master = master
        self._runners: list[web.AppRunner] = []
        self._assets = {name: (files("felix.lab.mesos") / "assets" / name).read_bytes() for name in _TYPE_BY_ASSET}

    async def open(self, local_port: int = 0) -> str:
        """It answers on the fabric, and to readers on 127.0.0.1; returns the address of the page there.

        local_port: 0, or if it is taken, any free one. Raises PeerError when an address cannot be had.
        """
        fabric = self._master.lab.fabric
        ports = (MASTER_PORT, MARATHON_PORT)
        sockets = fabric.call(lambda: [_listen(FABRIC_ADDRESS_V4, port) for port in ports])
        await self._serve(self._make_application(is_open=True), sockets)
        local = listen_locally(local_port)
        await self._serve(self._make_application(is_open=False), [local])
        return f"http://127.0.0.1:{local.getsockname()[1]}/"

    async def close(self) -> None:
        """It answers no more."""
        self._master.feed.close()
        await asyncio.gather(*(runner.cleanup() for runner in self._runners))
        self._runners.clear()

    async def _serve(self, application: web.Application, sockets: list[socket.socket]) -> None:
        runner = web.AppRunner(application, handle_signals=False, access_log=None, shutdown_timeout=_SHUTDOWN_S)
        await runner.setup()
        self._runners.append(runner)
        for listener in sockets:
            await web.SockSite(runner, listener).start()

    def _make_application(self, *, is_open: bool) -> web.Application:
        guards = [_answer_faults] if is_open else [_answer_faults, _refuse_writes]
        application = web.Application(client_max_size=_BODY_BYTES_MOST, middlewares=guards)
        application.router.add_routes(
            [
                web.get("/", self._show_asset),
                web.get("/assets/{name}", self._show_asset),
                web.get("/overview", self._show_overview),
                web.get("/master/state", self._show_state),
                web.get("/master/state.json", self._show_state),
                web.get("/state", self._show_state),
                web.get("/state.json", self._show_state),
                web.get("/master/health", self._show_health),
                web.post("/api/v1", self._stream_mesos),
                web.get("/ping", self._ping),
                web.get("/v2/info", self._show_info),
                web.get("/v2/events", self._stream_marathon),
                web.get("/v2/deployments", self._show_deployments),
                web.get("/v2/tasks", self._show_tasks),
                web.get("/v2/groups", self._show_group),
                web.put("/v2/groups", self._put_group),
                web.post("/v2/groups", self._put_group),
                web.get("/v2/groups/{path:.*}", self._show_group),
                web.put("/v2/groups/{path:.*}", self._put_group),
                web.delete("/v2/groups/{path:.*}", self._delete),
                web.get("/v2/apps", self._show_apps),
                web.put("/v2/apps", self._put_apps),
                web.post("/v2/apps", self._post_app),
                web.get("/v2/apps/{path:.*}", self._show_app),
                web.put("/v2/apps/{path:.*}", self._put_app),
                web.delete("/v2/apps/{path:.*}", self._delete),
            ]
        )
        application.on_response_prepare.append(_add_headers)
        return application

    # --- Mesos ---

    async def _show_state(self, _: web.Request) -> web.Response:
        return _reply(self._master.state())

    async def _show_health(self, _: web.Request) -> web.Response:
        return web.Response()

    async def _stream_mesos(self, request: web.Request) -> web.StreamResponse:
        """The operator API's SUBSCRIBE and nothing else of it: RecordIO, as long as the listener stays."""
        call = _decode(await request.read())
        if call.get("type") != "SUBSCRIBE":
            raise web.HTTPNotImplemented(text=f"the simulator knows SUBSCRIBE only, not {call.get('type')!r}\n")
        first: Document = {"type": "SUBSCRIBED", "subscribed": {"heartbeat_interval_seconds": _HEARTBEAT_S}}
        beat: Document = {"type": "HEARTBEAT"}
        return await self._stream(
            request, "application/json", _record(first), _record(beat), lambda event: _record(event.mesos)
        )

    # --- Marathon ---

    async def _ping(self, _: web.Request) -> web.Response:
        return web.Response(text="pong\n")

    async def _show_info(self, _: web.Request) -> web.Response:
        return _reply({"name": "marathon", "version": VERSION, "simulator": "felix lab mesos: no real Marathon"})

    async def _stream_marathon(self, request: web.Request) -> web.StreamResponse:
        def render(event: Event) -> bytes:
            kind = event.marathon.get("eventType")
            return f"event: {kind}\ndata: ".encode() + msgspec.json.encode(event.marathon) + b"\n\n" if kind else b""

        first = b"retry: 1000\nevent: event_stream_attached\ndata: {}\n\n"
        return await self._stream(request, "text/event-stream", first, b": still here\n\n", render)

    async def _show_deployments(self, _: web.Request) -> web.Response:
        return _reply(
            [{"id": number, "affectedApps": [f"/{path}"]} for number, path in self._master.deployments.items()]
        )

    async def _show_tasks(self, _: web.Request) -> web.Response:
        return _reply({"tasks": self._master.tasks()})

    async def _show_apps(self, _: web.Request) -> web.Response:
        return _reply({"apps": list(self._master.apps().values())})

    async def _show_app(self, request: web.Request) -> web.Response:
        path = _path(request)
        wants_tasks = path.endswith("/tasks")
        path = path.removesuffix("/tasks")
        app = self._master.apps().get(path)
        if app is None:
            return _reply({"message": f"App '/{path}' does not exist"}, 404)
        return _reply({"tasks": app["tasks"]} if wants_tasks else {"app": app})

    async def _show_group(self, request: web.Request) -> web.Response:
        path = _path(request)
        group = self._master.groups(path)
        return _reply({"message": f"Group '/{path}' does not exist"}, 404) if group is None else _reply(group)

    async def _put_group(self, request: web.Request) -> web.Response:
        document = _decode(await request.read())
        path = _path(request) or str(document.get("id", "")).strip("/")
        if not path:
            raise DataError("id: a group needs one, in its address or in its body")
        status = 201 if request.method == "POST" else 200
        return self._reply_deployment(self._master.put(path, document), status)

    async def _put_app(self, request: web.Request) -> web.Response:
        path = _path(request)
        return self._reply_deployment(self._master.put(path, _decode(await request.read()), is_app=True))

    async def _put_apps(self, request: web.Request) -> web.Response:
        try:
            documents = msgspec.json.decode(await request.read(), type=list[dict[str, object]])
        except (msgspec.DecodeError, RecursionError) as error:
            raise DataError(f"the body is no list of applications: {error}") from error
        if not documents or not all(one.get("id") for one in documents):
            raise DataError("id: every application of the list needs one")
        deployments = [self._master.put(str(one["id"]).strip("/"), one, is_app=True) for one in documents]
        return self._reply_deployment(deployments[-1])

    async def _post_app(self, request: web.Request) -> web.Response:
        document = _decode(await request.read())
        path = str(document.get("id", "")).strip("/")
        if not path:
            raise DataError("id: an application needs one")
        if path in self._master.apps():
            return _reply({"message": f"An app with id [/{path}] already exists."}, 409)
        number = self._master.put(path, document, is_app=True)
        return _reply({**self._master.apps().get(path, {"id": f"/{path}"}), "deployments": [{"id": number}]}, 201)

    async def _delete(self, request: web.Request) -> web.Response:
        try:
            number = self._master.remove(_path(request))
        except DataError as error:
            return _reply({"message": str(error)}, 404)
        return self._reply_deployment(number)

    @staticmethod
    def _reply_deployment(number: str, status: int = 200) -> web.Response:
        headers = {"Marathon-Deployment-Id": number}
        return _reply({"version": api.moment(time.time()), "deploymentId": number}, status, headers)

    # --- The page ---

    async def _show_asset(self, request: web.Request) -> web.Response:
        name = request.match_info.get("name", "index.html")
        if name not in self._assets:
            raise web.HTTPNotFound
        return web.Response(body=self._assets[name], content_type=_TYPE_BY_ASSET[name], charset="utf-8")

    async def _show_overview(self, _: web.Request) -> web.Response:
        master = self._master
        state = master.state()
        agents = [
            {"host": agent.host.name, "id": agent.id, "address": agent.host.ipv4, "problems": agent.problems[-3:]}
            for agent in master.cluster.agents
        ]
        return _reply(
            {
                "lab": master.lab.name,
                "simulator": state["simulator"],
                "agents": agents,
                "tasks": master.tasks(),
                "waiting": master.waiting(),
                "deployments": len(master.deployments),
                "failures": dict(master.failures),
            }
        )

    async def _stream(
        self,
        request: web.Request,
        content_type: str,
        first: bytes,
        beat: bytes,
        render: Callable[[Event], bytes],
    ) -> web.StreamResponse:
        """Sends what happens until the listener leaves, is stuck, is left behind, or the master ends."""
        feed = self._master.feed
        queue = feed.listen()
        if queue is None:
            raise web.HTTPServiceUnavailable(text="too many listeners\n", headers={"Retry-After": "10"})
        response = web.StreamResponse(headers={"Content-Type": content_type, "Cache-Control": "no-store"})
        try:
            await response.prepare(request)
            await _write(response, first)
            while not feed.is_closed:
                text = beat
                try:
                    async with asyncio.timeout(_HEARTBEAT_S):
                        event = await queue.get()
                except TimeoutError:
                    pass
                else:
                    if event is None:
                        break
                    text = render(event)
                if text:
                    await _write(response, text)
        except (TimeoutError, ConnectionError):
            log.info("a listener at %s went away", request.remote)
        finally:
            feed.leave(queue)
        return response


async def _write(response: web.StreamResponse, text: bytes) -> None:
    async with asyncio.timeout(_STUCK_S):
        await response.write(text)


def _listen(address: str, port: int) -> socket.socket:
    try:
        return socket.create_server((address, port), backlog=128)
    except OSError as failure:
        raise PeerError(f"the master cannot listen on {address}:{port}: {failure.strerror}") from failure


def _record(document: Document) -> bytes:
    """Returns one record of RecordIO, nothing for nothing."""
    if not document:
        return b""
    text = msgspec.json.encode(document)
    return b"%d\n%b" % (len(text), text)


def _decode(body: bytes) -> dict[str, object]:
    try:
        return msgspec.json.decode(body, type=dict[str, object])
    except (msgspec.DecodeError, RecursionError) as error:
        raise DataError(f"the body is no JSON object: {error}") from error


def _path(request: web.Request) -> str:
    return request.match_info.get("path", "").strip("/")


def _reply(value: object, status: int = 200, headers: dict[str, str] | None = None) -> web.Response:
    return web.Response(
        body=msgspec.json.encode(value),
        status=status,
        content_type="application/json",
        charset="utf-8",
        headers=headers,
    )


@web.middleware
async def _answer_faults(request: web.Request, handler: Handler) -> web.StreamResponse:
    try:
        return await handler(request)
    except DataError as error:
        return _reply({"message": str(error)}, 422)


@web.middleware
async def _refuse_writes(request: web.Request, handler: Handler) -> web.StreamResponse:
    if request.method not in {"GET", "HEAD"}:
        text = "only what is read is answered here; change things from the lab: felix lab exec fabric -- curl …\n"
        raise web.HTTPForbidden(text=text)
    return await handler(request)


async def _add_headers(_: web.Request, response: web.StreamResponse) -> None:
    for name, value in _HEADERS.items():
        response.headers.setdefault(name, value)
