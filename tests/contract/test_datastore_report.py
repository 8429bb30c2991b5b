"""Status as it arrives in a real etcd."""

from __future__ import annotations

import asyncio
import json
from collections.abc import AsyncIterator, Coroutine, Iterator
from contextlib import asynccontextmanager, suppress
from dataclasses import replace

import pytest

from felix.datastore.etcd import EtcdClient, EtcdSettings
from felix.datastore.fence import Fence, render_fence
from felix.datastore.report import AgentReporter, EndpointReporter, ReportSettings
from felix.datastore.status import EndpointState, StatusKeys, WorkloadId
from felix.errors import PeerError
from felix.model.keys import format_fence_key
from tests.support.etcd import EtcdServer, running_etcd
from tests.support.store import following, until

SETTINGS = ReportSettings("h1", interval_s=0.1, ttl_s=2.0, delay_s=0.01)
KEYS = StatusKeys("h1")
FENCE = format_fence_key("h1")
A, B = WorkloadId("cni", "default/a", "eth0"), WorkloadId("cni", "default/b", "eth0")


@pytest.fixture(scope="module")
def server() -> Iterator[EtcdServer]:
    with running_etcd() as server:
        yield server


@pytest.fixture
async def client(server: EtcdServer) -> AsyncIterator[EtcdClient]:
    client = EtcdClient(EtcdSettings((server.endpoint,), timeout_s=2.0))
    await client.delete_prefix("/")
    yield client
    await client.close()


@asynccontextmanager
async def running(work: Coroutine[object, object, object]) -> AsyncIterator[None]:
    task = asyncio.create_task(work)
    try:
        yield
    finally:
        task.cancel()
        with suppress(asyncio.CancelledError):
            await task


async def read_states(client: EtcdClient) -> dict[str, str]:
    kvs, _ = await client.list_prefix("/calico/felix/")
    return {kv.key: json.loads(kv.value)["status"] for kv in kvs}


async def test_agent_status_is_leased_and_its_copy_is_not(client: EtcdClient) -> None:
    reporter = AgentReporter(client, SETTINGS)
    await reporter.report_once()
    status, last = await client.get(KEYS.agent), await client.get(KEYS.agent_last)
    assert status is not None
    assert last is not None
    assert status.lease
    assert not last.lease
    assert json.loads(status.value)["first_update"] is True
    await reporter.report_once()
    again = await client.get(KEYS.agent)
    assert again is not None
    assert again.lease == status.lease
    assert json.loads(again.value)["first_update"] is False


async def test_agent_status_after_its_lease_was_lost_is_written_anew(client: EtcdClient) -> None:
    reporter = AgentReporter(client, SETTINGS)
    await reporter.report_once()
    status = await client.get(KEYS.agent)
    assert status is not None
    await client.revoke_lease(status.lease)
    async with running(reporter.run()), following(client, KEYS.agent, KEYS.agent + "0") as (_, recorder):
        await recorder.wait(lambda: KEYS.agent in recorder.values)


async def test_host_that_was_given_up_cleans_up_first_and_then_its_lease_and_the_fence_change_at_once(
    client: EtcdClient,
) -> None:
    cleaned: list[Fence] = []
    seen: list[str] = []

    async def clean(fence: Fence) -> None:
        assert await client.get(KEYS.agent) is None
        seen.append(reporter.refusal)
        cleaned.append(fence)

    reporter = AgentReporter(client, SETTINGS, clean)
    assert "has not been able to say" in reporter.refusal
    await client.put(FENCE, render_fence(Fence("h1", "2026-01-01T00:00:00Z", "h2")))
    await reporter.report_once()
    assert [(one.host, one.by) for one in cleaned] == [("h1", "h2")]
    assert seen == ["h1 was given up as lost at 2026-01-01T00:00:00Z by h2; it has to clean up first"]
    assert (reporter.refusal, reporter.fence) == ("", None)
    assert await client.get(FENCE) is None
    assert await client.get(KEYS.agent) is not None


async def test_host_that_cannot_clean_up_stays_out_and_tries_again(client: EtcdClient) -> None:
    tries: list[Fence] = []

    async def clean(fence: Fence) -> None:
        tries.append(fence)
        if len(tries) == 1:
            raise PeerError("etcd went away")

    await client.put(FENCE, b"{}")
    reporter = AgentReporter(client, SETTINGS, clean)
    with pytest.raises(PeerError):
        await reporter.report_once()
    assert "given up" in reporter.refusal
    assert await client.get(KEYS.agent) is None
    await reporter.report_once()
    assert len(tries) == 2
    assert await client.get(KEYS.agent) is not None


async def test_host_that_was_given_up_while_it_was_paused_cleans_up(client: EtcdClient) -> None:
    cleaned: list[Fence] = []

    async def clean(fence: Fence) -> None:
        cleaned.append(fence)

    reporter = AgentReporter(client, SETTINGS, clean)
    await reporter.report_once()
    status = await client.get(KEYS.agent)
    assert status is not None
    await client.revoke_lease(status.lease)
    await client.put(FENCE, b"{}")
    await reporter.report_once()
    assert len(cleaned) == 1
    assert await client.get(KEYS.agent) is not None


async def test_host_that_reports_nothing_leaves_no_word_that_could_be_missed(client: EtcdClient) -> None:
    await AgentReporter(client, SETTINGS).report_once()
    silent = AgentReporter(client, replace(SETTINGS, interval_s=0.0))
    await silent.report_once()
    assert (await client.list_prefix("/calico/felix/"))[0] == []
    await client.put(FENCE, b"{}")
    await silent.report_once()
    assert await client.get(FENCE) is None
    assert (await client.list_prefix("/calico/felix/"))[0] == []


async def test_endpoint_status_follows_the_endpoint(client: EtcdClient) -> None:
    reporter = EndpointReporter(client, SETTINGS)
    async with running(reporter.run()):
        reporter.set_workload(A, EndpointState.DOWN)
        reporter.set_workload(A, EndpointState.UP)
        reporter.set_host_endpoint("eth0", EndpointState.ERROR)
        await until(lambda: reporter.pending_count == 0)
        assert await read_states(client) == {KEYS.workload(A): "up", KEYS.host_endpoint("eth0"): "error"}
        reporter.on_in_sync()
        reporter.drop_workload(A)
        await until(lambda: reporter.pending_count == 0)
        assert await read_states(client) == {KEYS.host_endpoint("eth0"): "error"}


async def test_endpoint_status_of_an_earlier_life_goes_only_after_in_sync(client: EtcdClient) -> None:
    strangers = {
        StatusKeys("h10").workload(A): b'{"status":"up"}',
        KEYS.agent: b'{"status":"not an endpoint"}',
    }
    stale = [KEYS.workload(WorkloadId("cni", f"default/old{number}", "eth0")) for number in range(250)]
    for key in [*stale, KEYS.host_endpoint("old"), KEYS.workload(B)]:
        await client.put(key, b'{"status":"up"}')
    for key, value in strangers.items():
        await client.put(key, value)
    kept = await client.get(KEYS.workload(B))
    reporter = EndpointReporter(client, SETTINGS)
    async with running(reporter.run()):
        reporter.set_workload(A, EndpointState.UP)
        await until(lambda: reporter.pending_count == 0)
        assert len(await read_states(client)) == 255
        reporter.set_workload(B, EndpointState.UP)
        await until(lambda: reporter.pending_count == 0)
        kept = await client.get(KEYS.workload(B))
        reporter.on_in_sync()
        async with following(client, "/calico/felix/", "/calico/felix0") as (_, recorder):
            await recorder.wait(lambda: recorder.values.keys() == {*strangers, KEYS.workload(A), KEYS.workload(B)})
        assert await client.get(KEYS.workload(B)) == kept


async def test_endpoint_status_while_etcd_is_away_waits_and_only_the_last_is_written(
    server: EtcdServer, client: EtcdClient
) -> None:
    reporter = EndpointReporter(client, SETTINGS)
    async with running(reporter.run()):
        server.stop()
        try:
            for number in range(100):
                reporter.set_workload(A, EndpointState.UP if number % 2 else EndpointState.DOWN)
                reporter.set_workload(B, EndpointState.DOWN)
            await until(lambda: reporter.outage.failure)
            assert reporter.pending_count == 2
        finally:
            server.start()
        await until(lambda: reporter.pending_count == 0)
        assert not reporter.outage.failure
    assert await read_states(client) == {KEYS.workload(A): "up", KEYS.workload(B): "down"}
    pair = await client.get(KEYS.workload(A))
    assert pair is not None
    assert pair.version == 1
