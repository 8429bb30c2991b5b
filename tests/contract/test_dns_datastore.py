"""Names of endpoints out of a real etcd: there at once, kept while etcd is away, without bad and colliding ones."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Iterator

import aiohttp
import dns.rcode
import pytest

from felix.datastore.etcd import EtcdClient, EtcdSettings
from felix.dns.config import settle_config
from felix.dns.main import DnsService
from felix.model.codec import encode
from felix.model.endpoints import EndpointPort, WorkloadEndpoint, WorkloadEndpointSpec
from felix.model.keys import ResourceKey, format_key
from felix.model.metadata import Metadata
from tests.support.dns import RunningDns, make_state, running_dns, running_master, slide_task
from tests.support.etcd import EtcdServer, running_etcd
from tests.support.store import until


@pytest.fixture(scope="module")
def etcd() -> Iterator[EtcdServer]:
    with running_etcd() as server:
        yield server


@pytest.fixture
async def client(etcd: EtcdServer) -> AsyncIterator[EtcdClient]:
    client = EtcdClient(settings_of(etcd))
    await client.delete_prefix("/")
    yield client
    await client.close()


def settings_of(etcd: EtcdServer) -> EtcdSettings:
    return EtcdSettings((etcd.endpoint,), timeout_s=2.0)


def key_of(name: str, namespace: str = "default") -> str:
    return format_key(ResourceKey("WorkloadEndpoint", namespace, name))


def value_of(name: str, address: str, namespace: str = "default", created: str = "", **labels: str) -> bytes:
    metadata = Metadata(name=name, namespace=namespace, labels=labels, creation_timestamp=created or None)
    spec = WorkloadEndpointSpec(
        orchestrator="cni",
        workload="w",
        node="h1",
        endpoint="eth0",
        interface_name=f"cali{name}",
        ip_networks=(f"{address}/{128 if ':' in address else 32}",),
        ports=(EndpointPort(name="http", port=80, protocol="TCP"),),
    )
    return encode(WorkloadEndpoint(metadata=metadata, spec=spec))


async def test_endpoint_resolves_as_soon_as_it_is_stored_and_no_longer_once_it_is_gone(
    etcd: EtcdServer, client: EtcdClient
) -> None:
    async with running_dns({"datastore": {}}, settings_of(etcd)) as server:
        name = "web.default.felix"
        assert (await server.ask(name)).rcode() == dns.rcode.NXDOMAIN
        await client.put(key_of("a"), value_of("a", "10.65.0.2", app="web"))
        await until(lambda: server.service.zone.find(name, "A"))
        assert await server.values(name) == ["10.65.0.2"]
        answer = await server.ask(name)
        assert answer.answer[0].ttl == 5
        await client.put(key_of("b"), value_of("b", "fd00::2", app="web"))
        await client.put(key_of("a"), value_of("a", "10.65.0.3", app="web"))
        await until(lambda: server.service.zone.find(name, "A")[0].value == "10.65.0.3")
        assert await server.values(name) == ["10.65.0.3"]
        assert await server.values(name, "AAAA") == ["fd00::2"]
        (service,) = {one.split()[2] for one in await server.values("_http._tcp.web.default.felix", "SRV")}
        assert service == "80"
        (target,) = await server.values("3.0.65.10.in-addr.arpa", "PTR")
        assert await server.values(target) == ["10.65.0.3"]
        await client.delete_prefix("/")
        await until(lambda: server.service.zone.names_count == 1)
        assert (await server.ask(name)).rcode() == dns.rcode.NXDOMAIN


async def test_bad_endpoint_is_told_and_colliding_names_stay_with_the_older(
    etcd: EtcdServer, client: EtcdClient
) -> None:
    settings = {"datastore": {"names": ["{label:app}.felix"], "ttl": 1}}
    await client.put(key_of("bad"), b'{"spec": {"ipNetworks": 7}}')
    await client.put(key_of("old", "red"), value_of("old", "10.65.0.2", "red", "2020-01-01T00:00:00Z", app="web"))
    async with running_dns(settings, settings_of(etcd)) as server:
        await client.put(key_of("new", "blue"), value_of("new", "10.65.0.3", "blue", "2021-01-01T00:00:00Z", app="web"))
        await until(lambda: server.service.collisions)
        assert await server.values("web.felix") == ["10.65.0.2"]
        assert await get(server, "/v1/collisions") == [
            {"name": "web.felix", "holder": "red/old", "without": ["blue/new"]}
        ]
        (problem,) = await get(server, "/v1/problems")
        assert "default/bad" in str(problem)
        await client.delete(key_of("old", "red"))
        await until(lambda: not server.service.collisions)
        assert await server.values("web.felix") == ["10.65.0.3"]


async def get_text(server: RunningDns, path: str) -> str:
    async with aiohttp.ClientSession() as session, session.get(server.http + path) as response:
        return await response.text()


async def get(server: RunningDns, path: str) -> list[object]:
    async with aiohttp.ClientSession() as session, session.get(server.http + path) as response:
        answer = await response.json()
        assert isinstance(answer, list)
        return answer


async def test_etcd_away_leaves_the_names_and_what_changed_meanwhile_comes_with_it(
    etcd: EtcdServer, client: EtcdClient
) -> None:
    await client.put(key_of("a"), value_of("a", "10.65.0.2", app="web"))
    async with running_dns({"datastore": {}}, settings_of(etcd)) as server:
        source = server.service
        etcd.stop()
        await until(lambda: "stale" in readiness(source))
        assert await server.values("web.default.felix") == ["10.65.0.2"]
        etcd.start()
        await client.put(key_of("b"), value_of("b", "10.65.0.3", app="web"))
        await until(lambda: len(source.zone.find("web.default.felix", "A")) == 2)
        await until(lambda: "stale" not in readiness(source))


async def test_emptied_etcd_leaves_the_names_and_says_so_until_most_endpoints_are_back(
    etcd: EtcdServer, client: EtcdClient
) -> None:
    hosts = [f"e{number:02}" for number in range(12)]
    for number, one in enumerate(hosts, 2):
        await client.put(key_of(one), value_of(one, f"10.65.0.{number}", app="web"))
    async with running_dns({"datastore": {}}, settings_of(etcd)) as server:
        source, zone = server.service, server.service.zone
        await client.delete_prefix("/")
        await until(lambda: "12 of 12 endpoints would go" in readiness(source))
        await client.put(key_of("other"), value_of("other", "10.65.0.99", app="db"))
        await until(lambda: zone.find("db.default.felix", "A"))
        assert len(await server.values("web.default.felix")) == 12
        assert "felix_dns_held 12.0" in await get_text(server, "/metrics")
        for number, one in enumerate(hosts[:2], 2):
            await client.put(key_of(one), value_of(one, f"10.65.0.{number}", app="web"))
        await until(lambda: len(zone.find("web.default.felix", "A")) == 2)
        assert "would go" not in readiness(source)
        assert "felix_dns_held 0.0" in await get_text(server, "/metrics")
        await client.delete_prefix("/")
        await until(lambda: not zone.find("web.default.felix", "A"))


def readiness(service: DnsService) -> str:
    return " ".join(state.detail for state in service.health.states())


async def test_source_that_never_came_is_servfail_while_the_other_one_is_served(
    etcd: EtcdServer, client: EtcdClient
) -> None:
    dead = EtcdSettings(("127.0.0.1:1",), timeout_s=0.5)
    async with (
        running_master(make_state(slide_task())) as master,
        running_dns({"masters": [master.place], "datastore": {}}, dead) as server,
    ):
        assert await server.values("nginx_prod.marathon.mesos") == ["10.13.17.95"]
        assert (await server.ask("web.default.felix")).rcode() == dns.rcode.SERVFAIL
    del etcd, client


async def test_service_can_be_stopped_before_anything_was_read() -> None:
    service = DnsService(
        settle_config(
            {"datastore": {}, "dnson": False, "httpon": True, "httpport": 1, "httpListener": "127.0.0.1"}, "x"
        ),
        EtcdSettings(("127.0.0.1:1",), timeout_s=0.5),
    )
    running = asyncio.create_task(service.run())
    await asyncio.sleep(0)
    service.stop()
    await asyncio.wait_for(running, 5)
