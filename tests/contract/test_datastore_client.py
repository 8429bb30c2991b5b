"""The client against a real etcd: keys, transactions, leases, pages, watches."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Iterator

import pytest

from felix.datastore.etcd import EtcdClient, EtcdSettings
from felix.datastore.faults import Compacted, EtcdRefused, EtcdUnavailable, LeaseLost
from felix.datastore.types import Compare, DeleteOp, PutOp, RangeOp, RangePage, Target, Update
from felix.errors import DataError
from tests.support.etcd import EtcdServer, running_etcd


@pytest.fixture(scope="module")
def server() -> Iterator[EtcdServer]:
    with running_etcd() as server:
        yield server


@pytest.fixture
async def client(server: EtcdServer) -> AsyncIterator[EtcdClient]:
    client = EtcdClient(EtcdSettings((server.endpoint,), timeout_s=5.0))
    await client.delete_prefix("/")
    yield client
    await client.close()


async def test_get_after_put_and_delete_tells_what_is_there(client: EtcdClient) -> None:
    assert await client.get("/a") is None
    revision = await client.put("/a", b"1")
    pair = await client.get("/a")
    assert pair is not None
    assert (pair.key, pair.value, pair.mod_revision, pair.version) == ("/a", b"1", revision, 1)
    assert await client.delete("/a")
    assert not await client.delete("/a")
    assert await client.get("/a") is None


async def test_key_that_is_no_utf8_comes_back_as_it_is(client: EtcdClient) -> None:
    key = b"/odd/\xff\xfe".decode("utf-8", "surrogateescape")
    await client.put(key, b"x")
    kvs, _ = await client.list_prefix("/odd/")
    assert [kv.key for kv in kvs] == [key]


async def test_range_at_an_old_revision_tells_what_was_there(client: EtcdClient) -> None:
    old = await client.put("/a", b"1")
    await client.put("/a", b"2")
    page = await client.range("/a", "/b", revision=old)
    assert [kv.value for kv in page.kvs] == [b"1"]
    assert page.revision == old


async def test_pages_while_others_write_are_all_at_one_revision(client: EtcdClient) -> None:
    for number in range(25):
        await client.put(f"/p/{number:02}", b"old")
    sizes, values, revisions = [], set(), set()
    async for page in client.pages("/p/", "/p0", page_keys=10):
        await client.put("/p/99", b"new")
        await client.put("/p/20", b"new")
        sizes.append(len(page.kvs))
        values |= {kv.value for kv in page.kvs}
        revisions.add(page.revision)
    assert (sizes, values, len(revisions)) == ([10, 10, 5], {b"old"}, 1)


async def test_list_prefix_of_more_than_a_page_is_complete_and_in_order(client: EtcdClient) -> None:
    for start in range(0, 1200, 100):
        await client.txn([], [PutOp(f"/many/{number:04}", b"x") for number in range(start, start + 100)])
    kvs, revision = await client.list_prefix("/many/")
    assert [kv.key for kv in kvs] == [f"/many/{number:04}" for number in range(1200)]
    assert revision == (await client.get_header("/many/")).revision
    assert await client.delete_prefix("/many/") == 1200


async def test_txn_runs_one_side_only(client: EtcdClient) -> None:
    is_missing = Compare("/a", Target.VERSION, 0)
    first = await client.txn([is_missing], [PutOp("/a", b"1"), RangeOp("/a")], [RangeOp("/a")])
    assert first.succeeded
    assert first.responses[0] is None
    second = await client.txn([is_missing], [PutOp("/a", b"2")], [RangeOp("/a"), DeleteOp("/", "0")])
    assert not second.succeeded
    page, deleted = second.responses
    assert isinstance(page, RangePage)
    assert page.kvs[0].value == b"1"
    assert page.kvs[0].mod_revision == first.revision
    assert deleted == 1


@pytest.mark.parametrize(
    ("target", "right", "wrong"),
    [
        (Target.VALUE, b"1", b"2"),
        (Target.VERSION, 1, 2),
        (Target.MOD_REVISION, None, 1),
        (Target.CREATE_REVISION, None, 1),
    ],
)
async def test_txn_compares_every_target(
    client: EtcdClient, target: Target, right: int | bytes | None, wrong: int | bytes
) -> None:
    revision = await client.put("/a", b"1")
    assert (await client.txn([Compare("/a", target, revision if right is None else right)], [])).succeeded
    assert not (await client.txn([Compare("/a", target, wrong)], [])).succeeded


async def test_txn_that_etcd_does_not_take_is_refused(client: EtcdClient) -> None:
    with pytest.raises(EtcdRefused, match="duplicate key"):
        await client.txn([], [PutOp("/a", b"1"), PutOp("/a", b"2")])


async def test_lease_revoked_takes_its_keys_along(client: EtcdClient) -> None:
    lease = await client.grant_lease(30)
    await client.put("/leased", b"x", lease=lease)
    pair = await client.get("/leased")
    assert pair is not None
    assert pair.lease == lease
    assert await client.keep_alive(lease) == 30
    await client.revoke_lease(lease)
    assert await client.get("/leased") is None
    for act in (client.keep_alive(lease), client.revoke_lease(lease), client.put("/leased", b"x", lease=lease)):
        with pytest.raises(LeaseLost):
            await act


async def test_lease_not_kept_alive_expires_with_its_keys(client: EtcdClient) -> None:
    lease = await client.grant_lease(1)
    revision = await client.put("/leased", b"x", lease=lease)
    async with client.watch("/leased", "/leasee", revision + 1) as stream:
        batch = await stream.read(10)
    assert batch is not None
    assert [event.value for event in batch.events] == [None]


async def test_status_tells_version_and_leader(client: EtcdClient) -> None:
    status = await client.status()
    assert status.version.startswith("3.")
    assert status.leader == status.member_id
    assert status.cluster_id == (await client.get_header("/")).cluster_id


async def test_watch_from_an_old_revision_gives_history_and_then_news(client: EtcdClient) -> None:
    first = await client.put("/w/a", b"1")
    await client.put("/other", b"-")
    async with client.watch("/w/", "/w0", first) as stream:
        assert stream.header.revision == first + 1
        await client.txn([], [PutOp("/w/b", b"2"), DeleteOp("/w/a")])
        events: list[Update] = []
        while len(events) < 3:
            batch = await stream.read(5)
            assert batch is not None
            events += batch.events
            assert batch.revision == events[-1].revision
    assert sorted(events, key=lambda event: (event.revision, event.key)) == [
        Update("/w/a", b"1", first),
        Update("/w/a", None, first + 2),
        Update("/w/b", b"2", first + 2),
    ]


async def test_watch_in_silence_gives_none_and_answers_when_asked(client: EtcdClient) -> None:
    revision = await client.put("/w/a", b"1")
    async with client.watch("/w/", "/w0", revision + 1) as stream:
        assert await stream.read(0.05) is None
        await stream.request_progress()
        sign = await stream.read(5)
        assert sign is not None
        assert (sign.events, sign.revision) == ((), 0)
        await client.put("/w/a", b"2")
        news = await stream.read(5)
        assert news is not None
        assert news.events[0].value == b"2"


async def test_watch_at_a_compacted_revision_raises_with_the_oldest_one_kept(client: EtcdClient) -> None:
    first = await client.put("/w/a", b"1")
    last = await client.put("/w/a", b"2")
    await client.compact(last)
    with pytest.raises(Compacted) as caught:
        async with client.watch("/w/", "/w0", first) as stream:
            await stream.read(5)
    assert caught.value.compact_revision == last


async def test_pages_when_compacted_in_between_raise(client: EtcdClient) -> None:
    for number in range(4):
        await client.put(f"/p/{number}", b"x")
    pages = client.pages("/p/", "/p0", page_keys=2)
    await anext(pages)
    await client.compact(await client.put("/p/9", b"x"))
    with pytest.raises(Compacted):
        await anext(pages)


async def test_watch_of_more_than_a_message_holds_comes_in_whole_revisions(client: EtcdClient) -> None:
    """Etcd cuts what is larger than its request limit (1.5 MB) into fragments; half a revision must not be seen."""
    first = (await client.get_header("/big/")).revision + 1
    for _ in range(8):
        await client.txn([], [PutOp(f"/big/{number}", b"x" * 200_000) for number in range(6)])
    keys_by_revision: dict[int, list[str]] = {}
    async with client.watch("/big/", "/big0", first) as stream:
        while len(keys_by_revision) < 8:
            batch = await stream.read(10)
            assert batch is not None
            for revision in {event.revision for event in batch.events}:
                assert revision not in keys_by_revision
                keys_by_revision[revision] = [event.key for event in batch.events if event.revision == revision]
            assert batch.revision == max(keys_by_revision)
    assert all(len(keys) == 6 for keys in keys_by_revision.values())


async def test_watch_left_while_reading_leaves_nothing_behind(client: EtcdClient) -> None:
    async def follow() -> None:
        async with client.watch("/w/", "/w0", 1 << 40) as stream:
            await stream.read()

    before = asyncio.all_tasks()
    following = asyncio.create_task(follow())
    await asyncio.sleep(0.1)
    following.cancel()
    await asyncio.wait({following})
    await asyncio.sleep(0.05)
    assert {task for task in asyncio.all_tasks() - before if not task.done()} == set()


async def test_call_to_nobody_fails_soon_and_certainly_unsent() -> None:
    client = EtcdClient(EtcdSettings(("http://127.0.0.1:1",), timeout_s=5.0))
    with pytest.raises(EtcdUnavailable) as caught:
        await client.put("/a", b"1")
    assert caught.value.is_unsent
    assert "127.0.0.1:1" in str(caught.value)
    await client.close()


async def test_call_to_a_server_that_says_nothing_ends_at_its_deadline(server: EtcdServer) -> None:
    client = EtcdClient(EtcdSettings((server.endpoint,), timeout_s=0.5))
    await client.get("/a")
    server.pause()
    try:
        async with asyncio.timeout(3):
            with pytest.raises(EtcdUnavailable) as caught:
                await client.put("/a", b"1")
        assert not caught.value.is_unsent
    finally:
        server.resume()
        await client.close()


@pytest.mark.parametrize("endpoint", ["", "ftp://a:1", "host", "http://a:1/path"])
async def test_endpoint_that_cannot_be_one_is_refused(endpoint: str) -> None:
    with pytest.raises(DataError, match="etcd endpoint"):
        EtcdClient(EtcdSettings((endpoint,)))
