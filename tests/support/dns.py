"""What tests of names share: states of a Mesos master, a master that serves them, a server of names that runs."""

from __future__ import annotations

import asyncio
import socket
from collections.abc import AsyncIterator, Mapping, Sequence
from contextlib import asynccontextmanager, suppress

import dns.asyncquery
import dns.flags
import dns.message
import msgspec
from aiohttp import web

from felix.datastore.etcd import EtcdSettings
from felix.dns.config import settle_config
from felix.dns.main import DnsService

LEADER = "master@10.0.0.1:5050"


def make_task(
    name: str,
    task_id: str,
    *,
    agent: str = "20150101-S0",
    ports: str = "",
    discovery: Mapping[str, object] | None = None,
    addresses: Sequence[str] = (),
    labels: Mapping[str, str] | None = None,
    state: str = "TASK_RUNNING",
) -> dict[str, object]:
    """Returns one task of a state."""
    status: dict[str, object] = {"state": "TASK_RUNNING", "timestamp": 1.0}
    if addresses:
        infos = [{"ip_addresses": [{"ip_address": one} for one in addresses]}]
        status["container_status"] = {"network_infos": infos}
    if labels:
        status["labels"] = [{"key": key, "value": value} for key, value in labels.items()]
    task: dict[str, object] = {
        "framework_id": "f",
        "id": task_id,
        "name": name,
        "slave_id": agent,
        "state": state,
        "resources": {"cpus": 1, "ports": ports} if ports else {"cpus": 1},
        "statuses": [status],
    }
    if discovery is not None:
        task["discovery"] = discovery
    return task


def make_state(
    *tasks: Mapping[str, object],
    framework: str = "marathon",
    agents: Mapping[str, str] | None = None,
    leader: str = LEADER,
) -> dict[str, object]:
    """Returns a state with one framework. agents: addresses by id; one of 10.0.0.2 by default."""
    hosts = agents or {"20150101-S0": "10.0.0.2"}
    return {
        "leader": leader,
        "slaves": [{"id": one, "hostname": "h", "pid": f"slave(1)@{_bracket(at)}:5051"} for one, at in hosts.items()],
        "frameworks": [
            {"id": "f", "name": framework, "hostname": "h", "pid": "scheduler-1@10.0.0.9:25501", "tasks": list(tasks)}
        ],
        "completed_frameworks": [],
    }


def _bracket(host: str) -> str:
    return f"[{host}]" if ":" in host else host


def discovery_of(name: str, *ports: tuple[str, int, str]) -> dict[str, object]:
    """Returns a DiscoveryInfo; ports are name, number, protocol."""
    listed = [{"name": one, "number": number, "protocol": protocol} for one, number, protocol in ports]
    return {"visibility": "FRAMEWORK", "name": name, "ports": {"ports": listed}}


def slide_task() -> dict[str, object]:
    """Returns the task of the slides: nginx_prod at 10.13.17.95, port 8181."""
    found = discovery_of("nginx_prod", ("", 8181, "tcp"))
    return make_task("nginx_prod", "nginx.1", discovery=found, addresses=["10.13.17.95"])


class FakeMaster:
    """A Mesos master, as far as its state and its events are asked for. state: what is answered; None: 503."""

    def __init__(self, state: Mapping[str, object] | bytes | None) -> None:
        self.state = state
        self.reads = 0
        self.port = 0
        self.path = "/master/state"
        self._streams: list[web.StreamResponse] = []
        self._runner: web.AppRunner | None = None

    @property
    def place(self) -> str:
        return f"127.0.0.1:{self.port}"

    async def start(self) -> None:
        application = web.Application()
        application.router.add_get("/master/{name}", self._answer_state)
        application.router.add_post("/api/v1", self._answer_events)
        self._runner = web.AppRunner(application, access_log=None, shutdown_timeout=0.1)
        await self._runner.setup()
        await web.TCPSite(self._runner, "127.0.0.1", self.port).start()
        self.port = self._runner.addresses[0][1]

    async def stop(self) -> None:
        if self._runner is not None:
            await self._runner.cleanup()
            self._runner = None

    async def announce(self, kind: str = "TASK_UPDATED") -> None:
        """Whoever subscribed is told of an event."""
        body = msgspec.json.encode({"type": kind})
        for stream in self._streams:
            await stream.write(str(len(body)).encode() + b"\n" + body)

    @property
    def subscribers(self) -> int:
        return len(self._streams)

    async def _answer_state(self, request: web.Request) -> web.Response:
        if request.path != self.path:
            return web.Response(status=404)
        self.reads += 1
        if self.state is None:
            return web.Response(status=503)
        if isinstance(self.state, bytes):
            return web.Response(body=self.state)
        state = {**self.state}
        if state.get("leader") == LEADER:
            state["leader"] = f"master@{self.place}"
        return web.Response(body=msgspec.json.encode(state), content_type="application/json")

    async def _answer_events(self, request: web.Request) -> web.StreamResponse:
        stream = web.StreamResponse()
        await stream.prepare(request)
        self._streams.append(stream)
        with suppress(asyncio.CancelledError, ConnectionError):
            await asyncio.sleep(3600)
        return stream


@asynccontextmanager
async def running_master(
    state: Mapping[str, object] | bytes | None, path: str = "/master/state"
) -> AsyncIterator[FakeMaster]:
    """Gives a master that answers; gone afterwards."""
    master = FakeMaster(state)
    master.path = path
    await master.start()
    try:
        yield master
    finally:
        await master.stop()


def free_port(host: str = "127.0.0.1") -> int:
    """Returns a port on which nobody listened just now, neither over TCP nor over UDP."""
    family = socket.AF_INET6 if ":" in host else socket.AF_INET
    while True:
        with socket.socket(family, socket.SOCK_STREAM) as tcp, socket.socket(family, socket.SOCK_DGRAM) as udp:
            tcp.bind((host, 0))
            port = int(tcp.getsockname()[1])
            with suppress(OSError):
                udp.bind((host, port))
                return port


class RunningDns:
    """A server of names, and how to ask it."""

    def __init__(self, service: DnsService, port: int, host: str) -> None:
        self.service = service
        self.port = port
        self.host = host

    @property
    def http(self) -> str:
        assert self.service.http is not None
        return f"http://127.0.0.1:{self.service.http.port}"

    async def ask(
        self, name: str, rtype: str = "A", *, is_tcp: bool = False, payload: int | None = None, rd: bool = True
    ) -> dns.message.Message:
        """Returns the answer. payload: of EDNS, None for none."""
        flags = dns.flags.Flag(dns.flags.RD if rd else 0)
        query = dns.message.make_query(name, rtype, use_edns=payload is not None, payload=payload or 0, flags=flags)
        ask = dns.asyncquery.tcp if is_tcp else dns.asyncquery.udp
        return await ask(query, self.host, timeout=10, port=self.port)

    async def values(self, name: str, rtype: str = "A") -> list[str]:
        """Returns the records of the answer section as text, sorted."""
        message = await self.ask(name, rtype)
        return sorted(rdata.to_text() for rrset in message.answer for rdata in rrset)


@asynccontextmanager
async def running_dns(
    settings: Mapping[str, object], etcd: EtcdSettings | None = None, *, host: str = "127.0.0.1", waits: bool = True
) -> AsyncIterator[RunningDns]:
    """Gives a server that serves (unless not `waits`), on free ports of loopback; gone afterwards."""
    port = free_port(host)
    ports = {"port": port, "httpport": free_port(), "listener": host, "httpListener": "127.0.0.1"}
    service = DnsService(settle_config({"resolvers": [], **ports, **settings}, "test"), etcd)
    running = asyncio.create_task(service.run())
    try:
        if waits:
            served = asyncio.create_task(service.is_serving.wait())
            await asyncio.wait({running, served}, return_when=asyncio.FIRST_COMPLETED, timeout=20)
            served.cancel()
            if running.done():
                await running
            assert service.is_serving.is_set(), "does not serve within 20 s"
        yield RunningDns(service, port, host)
    finally:
        service.stop()
        await running
