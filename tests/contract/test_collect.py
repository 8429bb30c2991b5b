"""Collecting on a real etcd: who may, what is left when one dies in between, and what stops it."""

from __future__ import annotations

import asyncio
import signal
import subprocess
import sys
from collections.abc import AsyncIterator, Awaitable, Callable, Iterator, Sequence
from contextlib import AsyncExitStack, asynccontextmanager, suppress
from pathlib import Path

import pytest

from felix.attach.check import Place, check_attach
from felix.attach.etcd import EndpointStore
from felix.attach.index import AttachmentIndex
from felix.attach.types import AttachRequest, Refusal
from felix.collect import read
from felix.collect.apply import (
    GuardBroken,
    GuardedStore,
    clean_own,
    collect_findings,
    lift_fence,
    make_fence,
    put_fence,
    reclaim_host,
)
from felix.collect.lease import Deposed, Election, Office
from felix.collect.plan import Tracker
from felix.collect.read import read_world
from felix.collect.serve import Collector, Surroundings
from felix.collect.types import Due, Graces, Reach, World
from felix.datastore.etcd import EtcdClient, EtcdSettings
from felix.datastore.fence import Fence, FenceState, is_absent, parse_fence
from felix.datastore.status import StatusKeys
from felix.datastore.types import Compare, KeyValue, Op, PutOp, RangeOp, RangePage, TxnResult
from felix.ipam.apply import Allocator
from felix.ipam.types import Request
from felix.model.keys import COLLECTOR, format_fence_key, format_handle_key
from felix.model.net import Net, parse_address
from felix.obs.metrics import Metrics
from tests.support.etcd import EtcdServer, running_etcd
from tests.support.ipam import check_laws, config, pool, read_blocks, resource
from tests.support.store import until

PROGRAM = Path(__file__).with_name("collector_process.py")
FENCE = format_fence_key("h3")
ENDPOINTS = 45  # more than one batch


@pytest.fixture(scope="module")
def server() -> Iterator[EtcdServer]:
    with running_etcd() as one:
        yield one


@pytest.fixture
async def client(server: EtcdServer) -> AsyncIterator[EtcdClient]:
    async with connected(server) as client:
        await client.delete_prefix("/")
        yield client


@asynccontextmanager
async def connected(server: EtcdServer) -> AsyncIterator[EtcdClient]:
    client = EtcdClient(EtcdSettings((server.endpoint,), timeout_s=5.0))
    try:
        yield client
    finally:
        await client.close()


class Crash(Exception):
    """The process dies here."""


class Doomed:
    """An etcd whose user dies at the `last`-th write from now, before or after it took effect."""

    def __init__(self, client: EtcdClient, last: int, *, is_after: bool) -> None:
        self._client = client
        self._last = last
        self._is_after = is_after

    async def txn(self, compares: Sequence[Compare], success: Sequence[Op], failure: Sequence[Op] = ()) -> TxnResult:
        is_last = False
        if not all(isinstance(one, RangeOp) for one in success):
            self._last -= 1
            is_last = self._last == 0
        if is_last and not self._is_after:
            raise Crash
        result = await self._client.txn(compares, success, failure)
        if is_last:
            raise Crash
        return result

    async def list_prefix(self, prefix: str) -> tuple[list[KeyValue], int]:
        return await self._client.list_prefix(prefix)

    def pages(self, start: str, end: str, page_keys: int = 100, *, revision: int = 0) -> AsyncIterator[RangePage]:
        return self._client.pages(start, end, page_keys, revision=revision)


# --- Election ---


async def test_of_many_candidates_one_collects_and_the_next_when_it_leaves(server: EtcdServer) -> None:
    inside: list[int] = []
    most = 0

    async def serve(number: int) -> None:
        nonlocal most
        async with connected(server) as own, Election(own, f"h{number}", 1.0).hold():
            inside.append(number)
            most = max(most, len(inside))
            await asyncio.sleep(0)
            pair = await own.get(COLLECTOR)
            assert pair is not None
            assert pair.value == f"h{number}".encode()
            assert pair.lease
            inside.remove(number)

    async with connected(server) as one:
        await one.delete(COLLECTOR)
    await asyncio.gather(*(serve(number) for number in range(4)))
    assert most == 1


async def test_collector_that_was_paused_is_replaced_and_changes_nothing_when_it_goes_on(
    server: EtcdServer, client: EtcdClient
) -> None:
    command = [sys.executable, str(PROGRAM), server.endpoint, "1"]
    process = await asyncio.to_thread(subprocess.Popen, command, stdout=subprocess.PIPE, text=True)
    assert process.stdout is not None
    try:
        assert await asyncio.to_thread(process.stdout.readline) == "elected\n"
        process.send_signal(signal.SIGSTOP)
        async with Election(client, "next", 1.0).hold() as office:
            await GuardedStore(client, [office.stands()]).txn([], [PutOp("/written", b"next")])
            process.send_signal(signal.SIGCONT)
            assert await asyncio.to_thread(process.stdout.readline) in ("Deposed\n", "GuardBroken\n")
            pair = await client.get("/written")
            assert pair is not None
            assert pair.value == b"next"
    finally:
        process.kill()
        process.wait()
        process.stdout.close()


async def test_collector_whose_lease_is_gone_is_stopped_in_its_work(client: EtcdClient) -> None:
    async def revoke() -> None:
        pair = await client.get(COLLECTOR)
        assert pair is not None
        await client.revoke_lease(pair.lease)

    with pytest.raises(Deposed):
        await collect_for_ever(Election(client, "h1", 1.0), revoke)


async def test_collector_stops_by_its_own_clock_when_etcd_is_away_and_may_collect_again(
    server: EtcdServer, client: EtcdClient
) -> None:
    async def pause() -> None:
        server.pause()

    election = Election(client, "h1", 1.0)
    with pytest.raises(Deposed):
        await collect_for_ever(election, pause)
    server.resume()
    async with election.hold() as office:
        assert (await client.txn([office.stands()], [])).succeeded


async def collect_for_ever(election: Election, act: Callable[[], Awaitable[None]]) -> None:
    """Does something once it is the collector, and then waits."""
    async with election.hold():
        await act()
        await asyncio.Event().wait()


# --- Lost hosts ---


def endpoint(name: str, host: str, *addresses: Net) -> tuple[str, bytes]:
    """Returns key and value of an endpoint."""
    networks = [f"{one.address}/32" for one in addresses]
    spec = {"node": host, "containerID": name, "interfaceName": f"cali{name}", "ipNetworks": networks}
    return resource("WorkloadEndpoint", name, spec, namespace="d")


async def fill(client: EtcdClient) -> None:
    """h3 is lost: endpoints, an address of h1's block, two blocks of its own, of one of which h1 has borrowed."""
    for pair in (pool("p", "10.0.0.0/24", blockSize=26), config(), resource("Node", "h3", {})):
        await client.put(*pair)
    allocator = Allocator(client)
    await allocator.auto_assign(Request("h1", "net.own", 1))
    (own,) = await allocator.addresses_of("net.own")
    await allocator.assign(Request("h3", "net.guest"), parse_address(own.address.rpartition(".")[0] + ".3"))
    for number in range(ENDPOINTS):
        (address,) = await allocator.auto_assign(Request("h3", f"net.c{number}", 1))
        await client.put(*endpoint(f"e{number}", "h3", address))
    await client.put(*endpoint("other", "h1", own))
    await client.put(StatusKeys("h3").agent_last, b"{}")


async def check_clean(client: EtcdClient) -> None:
    """Nothing of h3 is left, all of h1 is, and everything agrees."""
    world = await read_world(client)
    assert {one.name for one in world.inventory.endpoints.values()} == {"d/other"}
    pairs, _ = await client.list_prefix("/calico/ipam/")
    values = {pair.key: pair.value for pair in pairs}
    check_laws(values)
    holders = {holder.handle for block in read_blocks(values).values() for _, holder in block.held()}
    assert holders == {"net.own"}
    assert not [key for key in values if key.startswith("/calico/ipam/v2/host/h3/")]
    assert world.fences["h3"].state is FenceState.DONE
    assert len(world.fences["h3"].endpoints) == ENDPOINTS


def fence_of(world: World, by: str) -> Fence:
    """Returns the fence that h3 gets."""
    return make_fence("h3", by, world.endpoints_of("h3"))


async def take(client: EtcdClient, name: str) -> Office:
    """Returns an office that was taken without asking, as after the end of a lease."""
    await client.delete(COLLECTOR)
    return Office((await client.txn([is_absent(COLLECTOR)], [PutOp(COLLECTOR, name.encode())])).revision)


@pytest.mark.parametrize("is_after", [False, True], ids=["before", "after"])
async def test_reclaim_that_is_cut_off_at_any_write_is_completed_by_the_next_collector(
    client: EtcdClient, *, is_after: bool
) -> None:
    cuts = 0
    for last in range(1, 100):
        await client.delete_prefix("/")
        await fill(client)
        doomed = Doomed(client, last, is_after=is_after)
        world, office = await read_world(client), await take(client, "h1")
        try:
            fence = await put_fence(doomed, fence_of(world, "h1"), [office.stands()])
            assert fence is not None
            await reclaim_host(doomed, fence, world.endpoints_of("h3"), [office.stands()])
        except Crash:
            cuts += 1
        else:
            await check_clean(client)
            break
        world, office = await read_world(client), await take(client, "h2")
        due = Tracker("h2").on_world(world, Reach(), Graces(10.0, 10.0), 0.0)
        fence = due.resume[0] if due.resume else None
        if fence is None and "h3" not in world.fences:
            assert due.lost == ()  # nothing was begun: the next one waits its own time
            fence = await put_fence(client, fence_of(world, "h2"), [office.stands()])
        if fence is not None:  # else all had been done
            await reclaim_host(client, fence, world.endpoints_of("h3"), [office.stands()])
        await check_clean(client)
    assert cuts >= 6


async def test_host_that_returns_in_between_stops_its_reclaim(client: EtcdClient) -> None:
    await fill(client)
    office = await take(client, "h1")
    world = await read_world(client)
    fence = await put_fence(client, fence_of(world, "h1"), [office.stands()])
    assert fence is not None
    gone = await clean_own(client, fence)  # Felix: cleans up itself, and takes the fence away
    assert (len(gone.endpoints), len(gone.addresses)) == (ENDPOINTS, ENDPOINTS + 1)
    await client.delete(FENCE)
    key, value = endpoint("e0", "h3")
    await client.put(key, value)
    await Allocator(client).auto_assign(Request("h3", "net.new", 1))
    with pytest.raises(GuardBroken):
        await reclaim_host(client, fence, world.endpoints_of("h3"), [office.stands()])
    assert await client.get(key) is not None
    assert len(await Allocator(client).addresses_of("net.new")) == 1
    assert await client.get(FENCE) is None


async def test_calico_host_that_returns_is_let_in(client: EtcdClient) -> None:
    await fill(client)
    world, office = await read_world(client), await take(client, "h1")
    fence = await put_fence(client, fence_of(world, "h1"), [office.stands()])
    assert fence is not None
    await client.put(StatusKeys("h3").agent, b"{}")  # knows nothing of fences
    world = await read_world(client)
    with pytest.raises(GuardBroken):
        await reclaim_host(client, fence, world.endpoints_of("h3"), [office.stands()])
    assert len((await read_world(client)).endpoints_of("h3")) == ENDPOINTS
    due = Tracker("h1").on_world(world, Reach(), Graces(10.0, 10.0), 0.0)
    assert (due.lift, due.resume) == ((fence,), ())
    assert await lift_fence(client, fence, [office.stands()])
    assert await client.get(FENCE) is None


async def test_host_that_lives_gets_no_fence_and_one_that_does_not_keeps_its_own(client: EtcdClient) -> None:
    world = await read_world(client)
    await client.put(StatusKeys("h3").agent, b"{}")
    assert await put_fence(client, fence_of(world, "h1"), []) is None
    assert await client.get(FENCE) is None
    await client.delete(StatusKeys("h3").agent)
    first = await put_fence(client, fence_of(world, "h1"), [])
    assert first is not None
    assert await put_fence(client, fence_of(world, "h2"), []) == first
    assert not await lift_fence(client, first, [])
    await client.put(FENCE, b"made by hand")
    pair = await client.get(FENCE)
    assert pair is not None
    assert parse_fence(pair) == Fence("h3", created=first.created)


async def test_old_collector_writes_nothing(client: EtcdClient) -> None:
    await fill(client)
    await leak(client)
    world, old = await read_world(client), await take(client, "h1")
    await take(client, "h2")
    before = await client.list_prefix("/calico/")
    due = look_twice(world)
    with pytest.raises(GuardBroken):
        await collect_findings(client, due.findings, [old.stands()])
    with pytest.raises(GuardBroken):
        await put_fence(client, fence_of(world, "h1"), [old.stands()])
    fence = await put_fence(client, fence_of(world, "h2"), [])
    assert fence is not None
    with pytest.raises(GuardBroken):
        await reclaim_host(client, fence, world.endpoints_of("h3"), [old.stands()])
    assert (await client.list_prefix("/calico/"))[0] == before[0]


# --- Leaks ---


async def leak(client: EtcdClient) -> None:
    """An address of each kind of trouble, of host h1."""
    allocator = Allocator(client)
    await allocator.auto_assign(Request("h1", "net.leaked", 2))
    await client.put(format_handle_key("net.empty"), b'{"block":{"10.0.0.0/26":1}}')
    await client.put(format_handle_key("net.own"), b'{"block":{"10.0.0.0/26":7}}')
    await client.put("/calico/ipam/v2/host/h8/ipv4/block/10.9.0.0-26", b'{"state":"pending"}')
    claims, _ = await client.list_prefix("/calico/ipam/v2/host/h1/")
    await client.put(claims[0].key, b'{"state":"pending"}')


def look_twice(world: World) -> Due:
    """Returns what is due in a world that stays as it is."""
    tracker = Tracker("h9")
    tracker.on_world(world, Reach(), Graces(10.0, 0.0), 0.0)
    return tracker.on_world(world, Reach(), Graces(10.0, 0.0), 10.0)


async def test_leaks_and_records_that_do_not_hold_are_put_right(
    client: EtcdClient, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(read, "PAGE_KEYS", 3)
    await fill(client)
    await leak(client)
    counts = await collect_findings(client, look_twice(await read_world(client)).findings, [])
    assert counts == {"address": 3, "handle": 1, "count": 1, "affinity": 2}
    pairs, _ = await client.list_prefix("/calico/ipam/")
    check_laws({pair.key: pair.value for pair in pairs})
    assert look_twice(await read_world(client)).findings == ()


async def test_given_address_that_an_attach_takes_up_is_not_taken_by_a_collector_that_saw_it_before(
    client: EtcdClient,
) -> None:
    await client.put(*pool("p", "10.0.0.0/24"))
    (address,) = await Allocator(client).auto_assign(Request("h1", "uid-1", 1, attributes={"felix.use": "pending"}))
    due = look_twice(await read_world(client))
    assert len(due.findings) == 1
    request = AttachRequest(network="net", container="c1", netns="/run/netns/c1", given=(address.address,))
    wanted = check_attach(request, Place("h1", "cali", True))
    store = EndpointStore(client, "h1", AttachmentIndex("h1"))
    await store.write(wanted, await store.look(wanted), 5, set())
    assert not await collect_findings(client, due.findings, [])
    assert await Allocator(client).addresses_of("uid-1") == [address]
    assert look_twice(await read_world(client)).findings == ()


async def test_given_address_that_was_collected_is_refused_to_an_attach(client: EtcdClient) -> None:
    await client.put(*pool("p", "10.0.0.0/24"))
    (address,) = await Allocator(client).auto_assign(Request("h1", "uid-1", 1, attributes={"felix.use": "pending"}))
    findings = look_twice(await read_world(client)).findings
    request = AttachRequest(network="net", container="c1", netns="/run/netns/c1", given=(address.address,))
    wanted = check_attach(request, Place("h1", "cali", True))
    store = EndpointStore(client, "h1", AttachmentIndex("h1"))
    known = await store.look(wanted)
    looked = client.txn

    async def overtaken(compares: Sequence[Compare], success: Sequence[Op], failure: Sequence[Op] = ()) -> TxnResult:
        if any(isinstance(one, PutOp) for one in success):
            monkey.undo()
            await collect_findings(client, findings, [])
        return await looked(compares, success, failure)

    monkey = pytest.MonkeyPatch()
    monkey.setattr(client, "txn", overtaken)
    with pytest.raises(Refusal, match="is free in block"):
        await store.write(wanted, known, 5, set())


async def test_address_that_was_given_anew_or_is_being_attached_meanwhile_is_not_taken(client: EtcdClient) -> None:
    await client.put(*pool("p", "10.0.0.0/24"))
    allocator = Allocator(client)
    for handle in ("net.anew", "net.attached", "net.leaked"):
        await allocator.auto_assign(Request("h1", handle, 1))
    due = look_twice(await read_world(client))
    addresses = await allocator.addresses_of("net.anew")
    await allocator.release_handle("net.anew")
    await allocator.assign(Request("h1", "net.anew"), addresses[0])
    pair = await client.get(format_handle_key("net.attached"))
    assert pair is not None
    await client.put(pair.key, pair.value)  # as an attach does in the transaction that writes its endpoint
    assert await collect_findings(client, due.findings, []) == {"address": 1}
    for name, count in (("net.anew", 1), ("net.attached", 1), ("net.leaked", 0)):
        assert len(await allocator.addresses_of(name)) == count


# --- All of it ---


async def test_collectors_of_two_hosts_collect_once_and_the_other_goes_on_when_the_first_ends(
    server: EtcdServer, client: EtcdClient
) -> None:
    await client.put(*pool("p", "10.0.0.0/24"))
    allocator = Allocator(client)
    metrics = {name: Metrics() for name in ("h1", "h2")}
    doubt = ["the datastore is being read"]

    async def find_reach() -> Reach:
        return Reach()

    surroundings = Surroundings(lambda: Graces(0.2, 0.0), lambda: doubt[0], find_reach)
    async with AsyncExitStack() as stack:
        tasks = {}
        for name, one in metrics.items():
            own = await stack.enter_async_context(connected(server))
            tasks[name] = asyncio.create_task(Collector(own, name, surroundings, one).run())
        await until(lambda: sum(_value(one, "felix_collector_leader") for one in metrics.values()) == 1)
        await allocator.auto_assign(Request("h7", "net.leaked", 1))
        doubt[0] = ""
        await until(lambda: sum(one.ipam_collected_total.value("address") for one in metrics.values()) == 1)
        assert await allocator.addresses_of("net.leaked") == []
        first = next(name for name, one in metrics.items() if _value(one, "felix_collector_leader"))
        await _cancel(tasks.pop(first))
        assert _value(metrics[first], "felix_collector_leader") == 0
        (second,) = tasks
        await allocator.auto_assign(Request("h7", "net.leaked", 1))
        await until(lambda: metrics[second].ipam_collected_total.value("address") >= 1)
        await _cancel(tasks[second])
    assert await client.get(COLLECTOR) is None


async def test_etcd_away_ends_an_office_and_the_collector_is_elected_again(
    server: EtcdServer, client: EtcdClient
) -> None:
    metrics = Metrics()

    async def find_reach() -> Reach:
        return Reach()

    surroundings = Surroundings(lambda: Graces(0.2, 0.0), str, find_reach)
    task = asyncio.create_task(Collector(client, "h1", surroundings, metrics).run())
    await until(lambda: _value(metrics, "felix_collector_leader") == 1)
    server.stop()
    try:
        await until(lambda: _value(metrics, "felix_collector_leader") == 0)
    finally:
        server.start()
    await until(lambda: _value(metrics, "felix_collector_leader") == 1, 30.0)
    await _cancel(task)


def _value(metrics: Metrics, name: str) -> float:
    return metrics.registry.get_sample_value(name) or 0.0


async def _cancel(task: asyncio.Task[None]) -> None:
    task.cancel()
    with suppress(asyncio.CancelledError):
        await task
