"""Serves the HTTP interface, which only reads."""

from __future__ import annotations

from collections.abc import Awaitable, Callable
from typing import Protocol

import msgspec
from aiohttp import web
from prometheus_client.exposition import generate_latest

from felix.dns.answer import Origin
from felix.dns.api import documents
from felix.dns.config import DnsConfig, describe_config
from felix.dns.endpoints import Collision
from felix.dns.mesos import ListedFramework
from felix.dns.zone import Zone
from felix.errors import EnvironmentFault
from felix.obs.health import Health, render_states
from felix.obs.metrics import DnsMetrics

_TEXT = "text/plain; version=0.0.4; charset=utf-8"


class Served(Protocol):
    """What the routes look at."""

    config: DnsConfig
    version: str
    zone: Zone
    origins: list[Origin]
    health: Health
    metrics: DnsMetrics

    @property
    def frameworks(self) -> tuple[ListedFramework, ...]:
        """Mesos' frameworks and tasks that have names."""

    @property
    def collisions(self) -> dict[str, Collision]:
        """Names that several services want."""

    @property
    def problems(self) -> list[str]:
        """What cannot have names, and why."""

    def settle_metrics(self) -> None:
        """Metrics that are counted elsewhere say what is so now."""


class HttpServer:
    """A server that listens. port: where, also when any free one was wanted."""

    def __init__(self, runner: web.AppRunner) -> None:
        self._runner = runner
        self.port: int = next(address[1] for address in runner.addresses)

    async def close(self) -> None:
        """Listens no longer."""
        await self._runner.cleanup()


async def serve_http(served: Served, host: str, port: int) -> HttpServer:
    """Serves all routes on `host`. Raises EnvironmentFault that names the address and what to do."""
    application = web.Application(client_max_size=65536)
    application.router.add_routes(_Routes(served).list_routes())
    runner = web.AppRunner(application, handle_signals=False, access_log=None, shutdown_timeout=1.0)
    await runner.setup()
    try:
        await web.TCPSite(runner, host, port, reuse_address=True).start()
    except OSError as error:
        await runner.cleanup()
        text = f"HTTP cannot be served on {host}:{port}: {error.strerror or error}"
        remedy = "give another httpListener or httpport, or stop what listens there (`ss -ltnp`)"
        raise EnvironmentFault(f"{text}; {remedy}") from error
    return HttpServer(runner)


_Handler = Callable[[web.Request], Awaitable[web.Response]]


class _Routes:
    def __init__(self, served: Served) -> None:
        self._served = served

    def list_routes(self) -> list[web.RouteDef]:
        routes: dict[str, _Handler] = {
            "/v1/version": self._version,
            "/v1/config": self._config,
            "/v1/hosts/{host}": self._hosts,
            "/v1/hosts/{host}/ports": self._ports,
            "/v1/services/{service}": self._services,
            "/v1/enumerate": self._enumerate,
            "/v1/axfr": self._axfr,
            "/v1/zonefile": self._zonefile,
            "/v1/collisions": self._collisions,
            "/v1/problems": self._problems,
            "/liveness": self._liveness,
            "/readiness": self._readiness,
            "/metrics": self._metrics,
        }
        return [web.get(path, handler) for path, handler in routes.items()]

    async def _version(self, _: web.Request) -> web.Response:
        about = {"Service": "Mesos-DNS", "URL": "https://github.com/mesosphere/mesos-dns"}
        return _json({**about, "Version": f"Felix {self._served.version}"})

    async def _config(self, _: web.Request) -> web.Response:
        return _json(describe_config(self._served.config))

    async def _hosts(self, request: web.Request) -> web.Response:
        return self._data(lambda: documents.describe_host(self._served.zone, request.match_info["host"]))

    async def _ports(self, _: web.Request) -> web.Response:
        return _json({"error": "ports of a host are not known; ask for /v1/services/_service._protocol.name"}, 501)

    async def _services(self, request: web.Request) -> web.Response:
        return self._data(lambda: documents.describe_service(self._served.zone, request.match_info["service"]))

    async def _enumerate(self, _: web.Request) -> web.Response:
        if not self._served.config.enumeration_on:
            return _json({"error": "enumerationOn is false"}, 404)
        return self._data(lambda: documents.describe_tasks(self._served.zone, self._served.frameworks))

    async def _axfr(self, request: web.Request) -> web.Response:
        origin = self._find_origin(request)
        if origin is None:
            return _no_domain()
        refresh_s = self._served.config.refresh_seconds
        return self._data(lambda: documents.describe_zone(self._served.zone, origin, refresh_s))

    async def _zonefile(self, request: web.Request) -> web.Response:
        origin = self._find_origin(request)
        if origin is None:
            return _no_domain()
        lines = documents.render_zone(self._served.zone, origin, self._served.config.srv_weight)
        return web.Response(text="\n".join(lines) + "\n")

    async def _collisions(self, _: web.Request) -> web.Response:
        return _json(documents.describe_collisions(self._served.collisions))

    async def _problems(self, _: web.Request) -> web.Response:
        return _json(self._served.problems)

    async def _liveness(self, _: web.Request) -> web.Response:
        health = self._served.health
        return web.Response(text=render_states(health.states()), status=200 if health.is_live() else 503)

    async def _readiness(self, _: web.Request) -> web.Response:
        health = self._served.health
        return web.Response(text=render_states(health.states()), status=200 if health.is_ready() else 503)

    async def _metrics(self, _: web.Request) -> web.Response:
        self._served.settle_metrics()
        body = generate_latest(self._served.metrics.registry)
        return web.Response(body=body, headers={"Content-Type": _TEXT})

    def _data(self, make: Callable[[], object]) -> web.Response:
        if not any(origin.is_loaded for origin in self._served.origins):
            return _json({"error": "no source has been read yet; see /readiness"}, 503)
        return _json(make())

    def _find_origin(self, request: web.Request) -> Origin | None:
        """Returns the domain that is asked for, the first one when none is."""
        wanted = request.query.get("domain")
        return next((one for one in self._served.origins if wanted in {None, one.name}), None)


def _no_domain() -> web.Response:
    return _json({"error": "this domain is not served here"}, 404)


def _json(value: object, status: int = 200) -> web.Response:
    return web.Response(body=msgspec.json.encode(value), content_type="application/json", status=status)
