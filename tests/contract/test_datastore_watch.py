"""The watch against a real etcd that dies, hangs, forgets and changes."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Iterator
from contextlib import asynccontextmanager

import pytest
import uvloop

from felix.datastore.etcd import EtcdClient, EtcdSettings
from felix.datastore.faults import EtcdUnavailable
from felix.datastore.types import ClusterChanged, DeleteOp, InSync, PutOp, ResyncStarted, Update
from tests.support.etcd import EtcdServer, running_cluster, running_etcd
from tests.support.relay import relayed
from tests.support.store import following, until

START, END = "/w/", "/w0"


@pytest.fixture(scope="module")
def server() -> Iterator[EtcdServer]:
    with running_etcd() as server:
        yield server


@pytest.fixture
async def client(server: EtcdServer) -> AsyncIterator[EtcdClient]:
    async with connected(server.endpoint) as client:
        await client.delete_prefix("/")
        yield client


@asynccontextmanager
async def connected(*endpoints: str) -> AsyncIterator[EtcdClient]:
    client = EtcdClient(EtcdSettings(endpoints, timeout_s=2.0))
    try:
        yield client
    finally:
        await client.close()


async def test_watch_of_a_filled_range_gives_everything_then_in_sync_then_news(client: EtcdClient) -> None:
    for number in range(8):
        await client.put(f"/w/{number}", b"old")
    revision = await client.put("/other", b"x")
    async with following(client, START, END) as (watch, recorder):
        assert recorder.items[0] == ResyncStarted("start")
        assert recorder.items[-1] == InSync(revision)
        assert len(recorder.updates) == 8
        await client.txn([], [PutOp("/w/9", b"new"), DeleteOp("/w/0")])
        await recorder.wait(lambda: "/w/9" in recorder.values and "/w/0" not in recorder.values)
        assert watch.is_connected
        assert watch.keys_count == 8


async def test_watch_when_the_server_crashes_and_comes_back_resumes_without_resync(
    server: EtcdServer, client: EtcdClient
) -> None:
    await client.put("/w/a", b"1")
    async with following(client, START, END) as (watch, recorder):
        server.stop()
        await until(lambda: watch.failure)
        assert not watch.is_connected
        server.start()
        async with connected(server.endpoint) as other:
            await other.put("/w/a", b"2")
            await other.put("/w/b", b"3")
        await recorder.wait(lambda: recorder.values == {"/w/a": b"2", "/w/b": b"3"})
        assert (recorder.in_syncs, recorder.resyncs) == (1, 1)
        assert len(recorder.updates) == 3
        assert watch.connects == 2


async def test_watch_cut_off_during_a_compaction_relists_once_and_gives_only_differences(
    server: EtcdServer, client: EtcdClient
) -> None:
    for number in range(8):
        await client.put(f"/w/{number}", b"old")
    async with (
        relayed(server) as relay,
        connected(relay.endpoint) as cut_off,
        following(cut_off, START, END) as (_, recorder),
    ):
        first = len(recorder.items)
        await relay.cut()
        await client.txn([], [PutOp("/w/1", b"new"), DeleteOp("/w/2")])
        last = await client.put("/other", b"x")
        await client.compact(last)
        await relay.mend()
        await recorder.wait(lambda: recorder.in_syncs == 2)
        told = recorder.items[first:]
        assert [type(item) for item in told] == [ResyncStarted, Update, Update, InSync]
        assert told[1:] == [Update("/w/1", b"new", last - 1), Update("/w/2", None, last), InSync(last)]


async def test_watch_of_a_server_that_hangs_is_noticed_and_loses_nothing(
    server: EtcdServer, client: EtcdClient
) -> None:
    async with following(client, START, END) as (watch, recorder):
        server.pause()
        try:
            await until(lambda: watch.failure)
        finally:
            server.resume()
        assert "silent" in watch.failure or "Deadline" in watch.failure
        await client.put("/w/a", b"1")
        await recorder.wait(lambda: recorder.values == {"/w/a": b"1"})
        assert recorder.in_syncs == 1


async def test_watch_through_a_black_hole_is_noticed_and_loses_nothing(server: EtcdServer, client: EtcdClient) -> None:
    async with (
        relayed(server) as relay,
        connected(relay.endpoint) as cut_off,
        following(cut_off, START, END) as (watch, recorder),
    ):
        relay.swallow()
        await client.put("/w/a", b"1")
        await until(lambda: watch.failure)
        await relay.cut()
        await relay.mend()
        await recorder.wait(lambda: recorder.values == {"/w/a": b"1"})
        assert recorder.in_syncs == 1


async def test_watch_in_silence_stays_as_it_is(client: EtcdClient) -> None:
    async with following(client, START, END) as (watch, recorder):
        heard_at = watch.last_heard_at
        await until(lambda: watch.last_heard_at > heard_at + 1.0)
        assert (watch.connects, recorder.in_syncs, watch.failure) == (1, 1, "")


async def test_watch_of_a_replaced_store_tells_so_before_it_deletes() -> None:
    with running_etcd() as server:
        async with connected(server.endpoint) as client:
            await client.put("/w/a", b"1")
            async with following(client, START, END) as (_, recorder):
                server.stop()
                server.replace()
                server.start()
                await recorder.wait(lambda: recorder.in_syncs == 2)
                told = recorder.items[recorder.items.index(InSync(2)) + 1 :]
                assert [type(item) for item in told] == [ResyncStarted, ClusterChanged, Update, InSync]
                assert recorder.values == {}


async def test_watch_of_a_cluster_outlives_any_member(server: EtcdServer) -> None:
    with running_cluster(3) as members:
        async with connected(*(one.endpoint for one in members)) as client:
            async with asyncio.timeout(20):
                await put_until_done(client, "/w/a", b"0")
            async with following(client, START, END) as (_, recorder):
                latest: list[bytes] = []
                for number, victim in enumerate(members):
                    latest.append(b"%d" % number)
                    victim.stop()
                    async with asyncio.timeout(20):
                        await put_until_done(client, "/w/a", latest[-1])
                    await recorder.wait(lambda: recorder.values["/w/a"] == latest[-1])
                    victim.start()
                assert recorder.in_syncs == 1


async def test_watch_of_a_member_without_its_cluster_is_noticed_and_loses_nothing() -> None:
    with running_cluster(3) as members:
        alone, *others = members
        async with connected(alone.endpoint) as client:
            async with asyncio.timeout(20):
                await put_until_done(client, "/w/a", b"0")
            async with following(client, START, END) as (watch, recorder):
                for other in others:
                    other.stop()
                await until(lambda: "no leader" in watch.failure)
                for other in others:
                    other.start()
                async with asyncio.timeout(20):
                    await put_until_done(client, "/w/a", b"1")
                await recorder.wait(lambda: recorder.values == {"/w/a": b"1"})
                assert recorder.in_syncs == 1


async def put_until_done(client: EtcdClient, key: str, value: bytes) -> None:
    """`key` holds `value`; an election may take a few attempts."""
    while True:
        try:
            await client.put(key, value)
        except EtcdUnavailable:
            await asyncio.sleep(0.05)
        else:
            return


async def test_call_with_a_dead_first_endpoint_uses_the_other(server: EtcdServer) -> None:
    for _ in range(4):  # the order of endpoints is drawn
        async with connected("http://127.0.0.1:1", server.endpoint) as client:
            await client.put("/w/a", b"1")
            assert await client.get("/w/a") is not None
            assert client.endpoint in server.endpoint


def test_watch_under_uvloop_works_as_well(server: EtcdServer) -> None:
    async def scenario() -> None:
        async with connected(server.endpoint) as client, following(client, START, END) as (_, recorder):
            await client.put("/w/uv", b"1")
            await recorder.wait(lambda: recorder.values.get("/w/uv") == b"1")

    uvloop.run(scenario())
