"""`felix dns` over real sockets: asked by dnspython, by dig and over HTTP; sources come, go and come back."""

from __future__ import annotations

import asyncio
import json
import shutil
import socket
import struct
from typing import cast

import aiohttp
import dns.asyncquery
import dns.flags
import dns.message
import dns.rcode
import dns.rrset
import pytest
from prometheus_client.exposition import generate_latest

from felix.dns.config import settle_config
from felix.dns.main import DnsService
from felix.errors import EnvironmentFault
from tests.support.dns import (
    FakeMaster,
    RunningDns,
    discovery_of,
    free_port,
    make_state,
    make_task,
    running_dns,
    running_master,
    slide_task,
)
from tests.support.store import until


async def get_json(server: RunningDns, path: str) -> object:
    async with aiohttp.ClientSession() as session, session.get(server.http + path) as response:
        return json.loads(await response.read())


async def get_text(server: RunningDns, path: str) -> tuple[int, str]:
    async with aiohttp.ClientSession() as session, session.get(server.http + path) as response:
        return response.status, await response.text()


async def dig(server: RunningDns, *words: str) -> list[str]:
    program = shutil.which("dig")
    assert program is not None
    command = [program, f"@{server.host}", "-p", str(server.port), "+short", "+tries=1", "+time=5", *words]
    process = await asyncio.create_subprocess_exec(*command, stdout=asyncio.subprocess.PIPE)
    out, _ = await process.communicate()
    return sorted(out.decode().split("\n"))[1:]


async def test_the_two_lookups_of_the_slides_give_what_they_show_by_dnspython_dig_and_http() -> None:
    async with running_master(make_state(slide_task())) as master, running_dns({"masters": [master.place]}) as server:
        assert await server.values("nginx_prod.marathon.mesos") == ["10.13.17.95"]
        assert await dig(server, "nginx_prod.marathon.mesos", "A") == ["10.13.17.95"]
        assert await get_json(server, "/v1/hosts/nginx_prod.marathon.mesos") == [
            {"host": "nginx_prod.marathon.mesos.", "ip": "10.13.17.95"}
        ]
        service = "_nginx_prod._tcp.marathon.mesos"
        answer = await server.ask(service, "SRV")
        (record,) = answer.answer[0]
        target = "nginx_prod-"
        assert record.port == 8181
        assert record.target.to_text().startswith(target)
        assert [one.to_text() for one in answer.additional[0]] == ["10.13.17.95"]
        (line,) = await dig(server, service, "SRV")
        priority, weight, port, host = line.split()
        assert (priority, weight, port) == ("0", "1", "8181")
        assert await dig(server, host, "A") == ["10.13.17.95"]
        assert await get_json(server, f"/v1/services/{service}") == [
            {"service": service, "host": host, "ip": "10.13.17.95", "port": "8181"}
        ]


async def test_names_over_udp_tcp_and_both_families_are_the_same() -> None:
    task = make_task("web", "t1", addresses=["192.168.0.5", "fd00::5"])
    async with running_master(make_state(task)) as master:
        for host in ("127.0.0.1", "::1"):
            async with running_dns({"masters": [master.place]}, host=host) as server:
                for is_tcp in (False, True):
                    four = await server.ask("WEB.marathon.Mesos", is_tcp=is_tcp)
                    six = await server.ask("web.marathon.mesos", "AAAA", is_tcp=is_tcp)
                    assert four.answer[0][0].to_text() == "192.168.0.5"
                    assert four.question[0].name.to_text() == "WEB.marathon.Mesos."
                    assert six.answer[0][0].to_text() == "fd00::5"
                    assert four.flags & dns.flags.AA
                reverse = await server.values("5.0.168.192.in-addr.arpa", "PTR")
                assert reverse == ["web.marathon.mesos."]


async def test_answers_on_all_addresses_come_from_the_address_that_was_asked() -> None:
    async with (
        running_master(make_state(slide_task())) as master,
        running_dns({"masters": [master.place], "listener": "0.0.0.0"}) as server,
    ):
        query = dns.message.make_query("nginx_prod.marathon.mesos", "A")
        for address in ("127.0.0.1", "127.0.0.7"):
            answer = await dns.asyncquery.udp(query, address, port=server.port, timeout=5)  # checks the sender
            assert answer.answer[0][0].to_text() == "10.13.17.95"


async def test_serving_begins_only_with_data_and_stale_data_is_served_and_told() -> None:
    master = FakeMaster(None)
    await master.start()
    settings = {"masters": [master.place], "refreshSeconds": 1, "eventRefresh": False}
    async with running_dns(settings, waits=False) as server:
        await until(lambda: master.reads >= 1)
        with pytest.raises(ConnectionRefusedError):
            await asyncio.open_connection(server.host, server.port)
        assert (await get_text(server, "/v1/hosts/x"))[0] == 503
        assert (await get_text(server, "/readiness"))[0] == 503
        master.state = make_state(slide_task())
        await asyncio.wait_for(server.service.is_serving.wait(), 10)
        assert (await get_text(server, "/readiness"))[0] == 200
        await master.stop()
        source = server.service
        await until(lambda: 'felix_dns_source_up{source="mesos"} 0.0' in _metrics(source))
        assert await server.values("nginx_prod.marathon.mesos") == ["10.13.17.95"]
        status, text = await get_text(server, "/readiness")
        assert status == 200
        assert "stale" in text
        _, metrics = await get_text(server, "/metrics")
        stale = next(line for line in metrics.splitlines() if line.startswith("felix_dns_source_stale_seconds{"))
        assert float(stale.split()[1]) > 0
        master.state = make_state(make_task("other", "t2", addresses=["10.1.1.1"]))
        await master.start()
        await until(lambda: 'felix_dns_source_up{source="mesos"} 1.0' in _metrics(source))
        assert await server.values("other.marathon.mesos") == ["10.1.1.1"]
        assert (await server.ask("nginx_prod.marathon.mesos")).rcode() == dns.rcode.NXDOMAIN
    await master.stop()


def _metrics(service: DnsService) -> str:
    service.settle_metrics()
    return generate_latest(service.metrics.registry).decode()


async def test_an_event_of_the_master_refreshes_names_long_before_the_next_poll() -> None:
    async with (
        running_master(make_state(slide_task())) as master,
        running_dns({"masters": [master.place], "refreshSeconds": 3600}) as server,
    ):
        await until(lambda: master.subscribers == 1 and master.reads == 2)  # once more after subscribing
        master.state = make_state(slide_task(), make_task("new", "t9", addresses=["10.1.1.9"]))
        await master.announce("HEARTBEAT")
        await master.announce("TASK_ADDED")
        await until(lambda: server.service.zone.find("new.marathon.mesos", "A"))
        assert await server.values("new.marathon.mesos") == ["10.1.1.9"]
        assert master.reads == 3


async def test_a_follower_names_the_leader_who_is_asked_then() -> None:
    async with (
        running_master(make_state(slide_task()), path="/master/state.json") as leader,  # as Mesos before 2018
        running_master(make_state(leader=f"master@{leader.place}")) as follower,
        running_dns({"masters": ["127.0.0.1:1", follower.place, leader.place]}, waits=False) as server,
    ):
        await asyncio.wait_for(server.service.is_serving.wait(), 10)
        assert await server.values("nginx_prod.marathon.mesos") == ["10.13.17.95"]
        assert follower.reads == 1


@pytest.mark.parametrize("body", [b"", b"[]", b"{}", b'{"leader":5}', b"\xff", b"[" * 5000, b'{"leader":"x"}'])
async def test_a_master_that_answers_nonsense_is_told_and_nothing_is_lost(body: bytes) -> None:
    async with (
        running_master(make_state(slide_task())) as master,
        running_dns({"masters": [master.place]}) as server,
    ):
        await until(lambda: master.subscribers == 1)
        master.state = body
        await master.announce()
        await until(lambda: 'source_up{source="mesos"} 0.0' in _metrics(server.service))
        assert await server.values("nginx_prod.marathon.mesos") == ["10.13.17.95"]
        assert "127.0.0.1" in (await get_text(server, "/readiness"))[1]


class Upstream(asyncio.DatagramProtocol):
    """A resolver that answers every A question with 203.0.113.9, or one code."""

    def __init__(self, rcode: int = 0) -> None:
        self.rcode = rcode
        self.asked = 0
        self.transport: asyncio.DatagramTransport | None = None

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        self.transport = cast(asyncio.DatagramTransport, transport)

    def datagram_received(self, data: bytes, addr: tuple[str | object, int]) -> None:
        self.asked += 1
        query = dns.message.from_wire(data)
        response = dns.message.make_response(query)
        response.set_rcode(dns.rcode.Rcode(self.rcode))
        if not self.rcode:
            response.answer.append(dns.rrset.from_text(query.question[0].name, 30, "IN", "A", "203.0.113.9"))
        assert self.transport is not None
        self.transport.sendto(b"\0\0" + response.to_wire()[2:], addr)  # an answer to somebody else
        self.transport.sendto(response.to_wire(), addr)


async def start_upstream(upstream: Upstream) -> int:
    loop = asyncio.get_running_loop()
    transport, _ = await loop.create_datagram_endpoint(lambda: upstream, local_addr=("127.0.0.1", 0))
    return int(transport.get_extra_info("sockname")[1])


async def test_foreign_names_are_forwarded_past_a_dead_and_a_refusing_resolver() -> None:
    good, bad = Upstream(), Upstream(dns.rcode.REFUSED)
    ports = [await start_upstream(one) for one in (good, bad)]
    resolvers = [f"127.0.0.1:{free_port()}", f"127.0.0.1:{ports[1]}", f"127.0.0.1:{ports[0]}"]
    async with (
        running_master(make_state(slide_task())) as master,
        running_dns({"masters": [master.place], "resolvers": resolvers, "timeout": 2}) as server,
    ):
        answer = await server.ask("www.example.com")
        assert answer.answer[0][0].to_text() == "203.0.113.9"
        assert (await server.ask("www.example.com", rd=False)).rcode() == dns.rcode.REFUSED
        assert good.asked == 1
    for one in (good, bad):
        assert one.transport is not None
        one.transport.close()


async def test_all_resolvers_dead_or_silent_gives_servfail_within_the_deadline_and_own_names_go_on() -> None:
    with socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as silent:
        silent.bind(("127.0.0.1", 0))
        resolvers = [f"127.0.0.1:{free_port()}", f"127.0.0.1:{silent.getsockname()[1]}"]
        async with (
            running_master(make_state(slide_task())) as master,
            running_dns({"masters": [master.place], "resolvers": resolvers, "timeout": 1, "forwards": 3}) as server,
        ):
            foreign = [asyncio.create_task(server.ask(f"x{number}.example.com")) for number in range(5)]
            tcp = asyncio.create_task(server.ask("y.example.com", is_tcp=True))
            assert await server.values("nginx_prod.marathon.mesos") == ["10.13.17.95"]
            for answer in await asyncio.gather(*foreign, tcp):
                assert answer.rcode() == dns.rcode.SERVFAIL
                assert len(answer.question) == 1
            assert "felix_dns_forwards_under_way 0.0" in _metrics(server.service)


async def test_external_off_refuses_foreign_names() -> None:
    async with (
        running_master(make_state(slide_task())) as master,
        running_dns({"masters": [master.place], "resolvers": ["192.0.2.1"], "externalon": False}) as server,
    ):
        assert (await server.ask("www.example.com")).rcode() == dns.rcode.REFUSED


async def test_tcp_connections_beyond_the_limit_close_the_one_that_was_quiet_longest() -> None:
    async with (
        running_master(make_state(slide_task())) as master,
        running_dns({"masters": [master.place], "tcpConnections": 2}) as server,
    ):
        first = await asyncio.open_connection(server.host, server.port)
        second = await asyncio.open_connection(server.host, server.port)
        await until(lambda: "felix_dns_tcp_connections 2.0" in _metrics(server.service))
        query = dns.message.make_query("nginx_prod.marathon.mesos", "A").to_wire()
        first[1].write(struct.pack("!H", len(query)) + query)
        await first[0].readexactly(2)
        third = await asyncio.open_connection(server.host, server.port)
        with pytest.raises((asyncio.IncompleteReadError, ConnectionError)):
            await second[0].readexactly(1)
        for _, writer in (first, second, third):
            writer.close()


async def test_long_answers_are_truncated_over_udp_and_whole_over_tcp_and_by_dig() -> None:
    tasks = [make_task("web", f"t{number}", addresses=[f"10.1.0.{number}"]) for number in range(1, 201)]
    async with (
        running_master(make_state(*tasks)) as master,
        running_dns({"masters": [master.place]}) as server,
    ):
        for payload, limit in ((None, 512), (1232, 1232), (4096, 1232)):
            answer = await server.ask("web.marathon.mesos", payload=payload)
            assert answer.flags & dns.flags.TC
            assert limit - 40 < len(answer.to_wire()) <= limit
        assert len((await server.ask("web.marathon.mesos", is_tcp=True)).answer[0]) == 200
        assert len(await dig(server, "web.marathon.mesos")) == 200


async def test_listener_in_use_is_an_error_that_names_address_and_remedy() -> None:
    with socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as taken:
        taken.bind(("127.0.0.1", 0))
        port = taken.getsockname()[1]
        config = settle_config({"masters": ["127.0.0.1:1"], "listener": "127.0.0.1", "port": port}, "test")
        with pytest.raises(EnvironmentFault, match=rf"127.0.0.1:{port}.*another program.*ss -lunpt"):
            await DnsService(config).run()
    config = settle_config({"masters": ["127.0.0.1:1"], "listener": "192.0.2.77"}, "test")
    with pytest.raises(EnvironmentFault, match=r"192.0.2.77.*no such address.*ip address add"):
        await DnsService(config).run()


async def test_http_routes_answer_as_mesos_dns() -> None:
    task = make_task("web", "t1", addresses=["192.168.0.5"], discovery=discovery_of("web", ("http", 80, "tcp")))
    async with (
        running_master(make_state(task)) as master,
        running_dns({"masters": [master.place], "mesosCredentials": {"principal": "p", "secret": "hush"}}) as server,
    ):
        version = await get_json(server, "/v1/version")
        assert isinstance(version, dict)
        assert version["Service"] == "Mesos-DNS"
        assert "hush" not in (await get_text(server, "/v1/config"))[1]
        assert await get_json(server, "/v1/hosts/none.marathon.mesos") == [{"host": "", "ip": ""}]
        nothing = [{"service": "", "host": "", "ip": "", "port": ""}]
        assert await get_json(server, "/v1/services/_none._tcp.marathon.mesos") == nothing
        assert (await get_text(server, "/v1/hosts/web.marathon.mesos/ports"))[0] == 501
        listed = await get_json(server, "/v1/enumerate")
        assert isinstance(listed, dict)
        (framework,) = listed["frameworks"]
        assert framework["name"] == "marathon"
        assert {"name": "web.marathon.mesos.", "host": "192.168.0.5", "rtype": "A"} in framework["tasks"][0]["records"]
        whole = await get_json(server, "/v1/axfr")
        assert isinstance(whole, dict)
        assert whole["Domain"] == "mesos"
        assert whole["Records"]["As"]["web.marathon.mesos."] == ["192.168.0.5"]
        (srv,) = whole["Records"]["SRVs"]["_http._web._tcp.marathon.mesos."]
        assert srv.endswith(".marathon.mesos.:80")
        assert "@ NS ns1.mesos." in (await get_text(server, "/v1/zonefile"))[1]
        assert (await get_text(server, "/v1/zonefile?domain=other"))[0] == 404
