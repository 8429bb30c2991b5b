"""`felix star collect`: asks probes for their status, and shows it as JSON, as a stream of events, and as a page."""

from __future__ import annotations

import asyncio
import logging
import socket
from collections.abc import Sequence
from importlib.resources import files

from aiohttp import web

from felix.star.ask import Asker
from felix.star.collector import Collector
from felix.star.example import EXAMPLE_RESOURCES, EXAMPLE_RESPONSES
from felix.star.faults import BadInput
from felix.star.matrix import draw_matrix
from felix.star.resources import Resource, decode_resource
from felix.star.serve import make_application, reply_json, say_where, serve_while

log = logging.getLogger(__name__)

LISTENERS_MOST = 64
_HEARTBEAT_S = 15.0
_STUCK_S = 10.0
_TYPE_BY_ASSET = {"index.html": "text/html", "star.css": "text/css", "star.js": "text/javascript"}


class Desk:
    """Answers what is asked of a collector."""

    def __init__(self, collector: Collector) -> None:
        self._collector = collector
        self._listeners = 0
        self._assets = {name: (files("felix.star") / "assets" / name).read_bytes() for name in _TYPE_BY_ASSET}

    def make_application(self) -> web.Application:
        """Returns the routes of the original, those that only its documentation had, and those of the live page."""
        application = make_application(
            [
                web.get("/", self._show_page),
                web.get("/assets/{name}", self._show_asset),
                web.get("/resources", self._show_resources),
                web.post("/resources", self._put_resource),
                web.get("/resources/{id:.+}", self._show_resource),
                web.delete("/resources/{id:.+}", self._remove_resource),
                web.get("/responses", self._show_responses),
                web.get("/responses/example", self._show_example_responses),
                web.get("/responses/{id:.+}", self._show_response),
                web.get("/matrix", self._show_matrix),
                web.get("/matrix/example", self._show_example_matrix),
                web.get("/events", self._stream_events),
            ]
        )
        application.on_shutdown.append(self._end_streams)
        return application

    async def _show_page(self, _: web.Request) -> web.Response:
        return self._reply_asset("index.html")

    async def _show_asset(self, request: web.Request) -> web.Response:
        name = request.match_info["name"]
        if name not in self._assets:
            raise web.HTTPNotFound
        return self._reply_asset(name)

    def _reply_asset(self, name: str) -> web.Response:
        return web.Response(body=self._assets[name], content_type=_TYPE_BY_ASSET[name], charset="utf-8")

    async def _show_resources(self, _: web.Request) -> web.Response:
        return reply_json({"resources": self._collector.resources})

    async def _put_resource(self, request: web.Request) -> web.Response:
        """As the original: 200 and the bare object; its documentation says 201 and a wrapper in one place."""
        try:
            resource = decode_resource(await request.read())
            self._collector.put(resource)
        except BadInput as error:
            raise web.HTTPBadRequest(text=f"{error}\n") from error
        return reply_json(resource)

    async def _show_resource(self, request: web.Request) -> web.Response:
        return reply_json({"resource": self._get_resource(request)})

    async def _remove_resource(self, request: web.Request) -> web.Response:
        self._collector.remove(self._get_resource(request).id)
        return web.Response(status=204)

    async def _show_responses(self, _: web.Request) -> web.Response:
        responses = self._collector.response_by_id
        return reply_json({"responses": {one.id: responses.get(one.id) for one in self._collector.resources}})

    async def _show_response(self, request: web.Request) -> web.Response:
        resource = self._get_resource(request)
        return reply_json({"response": {resource.id: self._collector.response_by_id.get(resource.id)}})

    async def _show_example_responses(self, _: web.Request) -> web.Response:
        return reply_json({"responses": EXAMPLE_RESPONSES})

    async def _show_matrix(self, _: web.Request) -> web.Response:
        return web.Response(body=self._collector.feed.text, content_type="application/json", charset="utf-8")

    async def _show_example_matrix(self, _: web.Request) -> web.Response:
        return reply_json(draw_matrix(EXAMPLE_RESOURCES, EXAMPLE_RESPONSES))

    async def _stream_events(self, request: web.Request) -> web.StreamResponse:
        """Sends the matrix now and after every change, until the listener leaves, is stuck, or the collector ends."""
        if self._listeners >= LISTENERS_MOST:
            text = f"{LISTENERS_MOST} listeners are served already\n"
            raise web.HTTPServiceUnavailable(text=text, headers={"Retry-After": "10"})
        self._listeners += 1
        try:
            response = web.StreamResponse(headers={"Content-Type": "text/event-stream", "Cache-Control": "no-store"})
            await response.prepare(request)
            await self._stream(response)
        except (TimeoutError, ConnectionError):
            log.info("a listener at %s went away", request.remote)
        finally:
            self._listeners -= 1
        return response

    async def _stream(self, response: web.StreamResponse) -> None:
        feed, seen = self._collector.feed, 0
        await response.write(b"retry: 1000\n\n")
        while not feed.is_closed:
            event = b": still here\n\n"
            if feed.version > seen:
                seen = feed.version
                event = b"event: matrix\nid: %d\ndata: %b\n\n" % (seen, feed.text)
            async with asyncio.timeout(_STUCK_S):
                await response.write(event)
            try:
                async with asyncio.timeout(_HEARTBEAT_S):
                    await feed.wait_after(seen)
            except TimeoutError:
                continue

    async def _end_streams(self, _: web.Application) -> None:
        self._collector.feed.close()

    def _get_resource(self, request: web.Request) -> Resource:
        resource = self._collector.find(request.match_info["id"])
        if resource is None:
            raise web.HTTPNotFound(text=f"no resource has the id {request.match_info['id']}\n")
        return resource


async def run_collector(
    resources: Sequence[Resource], listener: socket.socket, interval_s: float, timeout_s: float
) -> None:
    """Asks all resources and answers on `listener` until SIGTERM or SIGINT."""
    async with Asker(timeout_s) as asker:
        collector = Collector(asker.fetch, interval_s)
        for resource in resources:
            collector.put(resource)
        log.info("%d resources every %g s; page: %s", len(resources), interval_s, say_where(listener))
        await serve_while(listener, Desk(collector).make_application(), collector.run())
