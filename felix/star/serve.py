"""What both programs of Star share as servers of HTTP: where they listen, what they answer with, how they end."""

from __future__ import annotations

import asyncio
import signal
import socket
from collections.abc import Coroutine, Iterable

import msgspec
from aiohttp import web
from aiohttp.typedefs import Handler

from felix.star.faults import CannotListen

_BODY_BYTES_MOST = 1 << 20
_SHUTDOWN_S = 1.0
SAFE_HEADERS = {
    "Content-Security-Policy": (
        "default-src 'none'; script-src 'self'; style-src 'self'; connect-src 'self'; img-src 'self' data:; "
        "base-uri 'none'; form-action 'none'; frame-ancestors 'none'"
    ),
    "Cross-Origin-Resource-Policy": "same-origin",
    "Referrer-Policy": "no-referrer",
    "X-Content-Type-Options": "nosniff",
    "Cache-Control": "no-cache",
}


def open_listener(address: str, port: int) -> socket.socket:
    """Returns a listening socket; `::` takes both families. port: 0 for any free one. Raises CannotListen."""
    try:
        family, kind, protocol, _, where = socket.getaddrinfo(
            address, port, type=socket.SOCK_STREAM, flags=socket.AI_PASSIVE
        )[0]
        listener = socket.socket(family, kind, protocol)
    except OSError as error:
        raise CannotListen(f"cannot listen on {address} port {port}: {error.strerror}") from error
    try:
        listener.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        if family == socket.AF_INET6:
            listener.setsockopt(socket.IPPROTO_IPV6, socket.IPV6_V6ONLY, int(address != "::"))
        listener.bind(where)
        listener.listen(128)
    except OSError as error:
        listener.close()
        raise CannotListen(f"cannot listen on {address} port {port}: {error.strerror}") from error
    return listener


def say_where(listener: socket.socket) -> str:
    """Returns the URL of a listening socket, for people."""
    host, port = listener.getsockname()[:2]
    shown = {"0.0.0.0": "127.0.0.1", "::": "::1"}.get(host, host)
    return f"http://[{shown}]:{port}/" if ":" in shown else f"http://{shown}:{port}/"


def make_application(routes: Iterable[web.RouteDef]) -> web.Application:
    """Returns an application in which every answer says what a browser may do with it."""
    application = web.Application(client_max_size=_BODY_BYTES_MOST, middlewares=[_refuse_foreign_pages])
    application.router.add_routes(routes)
    application.on_response_prepare.append(_add_headers)
    return application


async def serve_while(listener: socket.socket, application: web.Application, work: Coroutine[None, None, None]) -> None:
    """The application answers on `listener` and `work` is done, until SIGTERM or SIGINT; then both end in a second."""
    runner = web.AppRunner(application, handle_signals=False, access_log=None, shutdown_timeout=_SHUTDOWN_S)
    await runner.setup()
    working, ending = asyncio.create_task(work), asyncio.create_task(_wait_for_end())
    try:
        await web.SockSite(runner, listener).start()
        await asyncio.wait((working, ending), return_when=asyncio.FIRST_COMPLETED)
        if working.done():
            working.result()
    finally:
        for task in (working, ending):
            task.cancel()
        await asyncio.gather(working, ending, return_exceptions=True)
        await runner.cleanup()


def reply_json(value: object, status: int = 200) -> web.Response:
    """Returns `value` as an answer in JSON, with the content type of the original."""
    return web.Response(
        body=msgspec.json.encode(value), status=status, content_type="application/json", charset="utf-8"
    )


async def _wait_for_end() -> None:
    """Returns when SIGTERM or SIGINT comes."""
    loop, ended = asyncio.get_running_loop(), asyncio.Event()
    for number in (signal.SIGTERM, signal.SIGINT):
        loop.add_signal_handler(number, ended.set)
    try:
        await ended.wait()
    finally:
        for number in (signal.SIGTERM, signal.SIGINT):
            loop.remove_signal_handler(number)


@web.middleware
async def _refuse_foreign_pages(request: web.Request, handler: Handler) -> web.StreamResponse:
    """A page of another site, open in the browser of somebody who can reach us, changes nothing."""
    origin = request.headers.get("Origin")
    if request.method not in {"GET", "HEAD"} and origin and origin.partition("://")[2] != request.host:
        raise web.HTTPForbidden(text=f"a page of {origin} may not change anything here\n")
    return await handler(request)


async def _add_headers(_: web.Request, response: web.StreamResponse) -> None:
    for name, value in SAFE_HEADERS.items():
        response.headers.setdefault(name, value)
