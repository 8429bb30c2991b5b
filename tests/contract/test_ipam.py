"""Address management on the fake store and on a real etcd: what is stored, what others may write, what is refused."""

from __future__ import annotations

import asyncio
from collections import Counter
from collections.abc import Sequence

import msgspec
import pytest

from felix.datastore.types import Compare, DeleteOp, PutOp, RangeOp, RangePage, Target
from felix.errors import DataError
from felix.ipam.apply import Allocator, Pace
from felix.ipam.draft import Draft
from felix.ipam.faults import AddressTaken, Exhausted, NoPool, Stale
from felix.ipam.read import Store
from felix.ipam.release import Release
from felix.ipam.types import Request
from felix.model.codec import decode
from felix.model.keys import parse_key
from felix.model.net import Net, parse_address, parse_net
from tests.support.ipam import check_laws, config, pool, read_blocks, resource

NOW = 1_700_000_000.0
BLOCK = "/calico/ipam/v2/assignment/ipv4/block/10.0.0.0-26"
AFFINITY = "/calico/ipam/v2/host/h1/ipv4/block/10.0.0.0-26"
HANDLE = "/calico/ipam/v2/handle/net.c1"


class Stage:
    """A store, and allocators on it whose clock stands."""

    def __init__(self, store: Store) -> None:
        self.store = store
        self.now = NOW

    def allocator(self) -> Allocator:
        return Allocator(self.store, Pace(wall=lambda: self.now))

    async def put(self, *pairs: tuple[str, object]) -> None:
        for key, value in pairs:
            text = value if isinstance(value, bytes) else msgspec.json.encode(value)
            await self.store.txn([], [PutOp(key, text)])

    async def give(self, host: str = "h1", handle: str = "net.c1", ipv4: int = 1, ipv6: int = 0) -> list[str]:
        found = await self.allocator().auto_assign(Request(host, handle, ipv4, ipv6))
        return [one.address for one in found]

    async def values(self) -> dict[str, bytes]:
        pairs, _ = await self.store.list_prefix("/calico/ipam/")
        return {pair.key: pair.value for pair in pairs}

    async def document(self, key: str) -> dict[str, object]:
        found: dict[str, object] = msgspec.json.decode((await self.values())[key])
        return found

    async def check(self) -> None:
        check_laws(await self.values())


@pytest.fixture
def stage(store: Store) -> Stage:
    return Stage(store)


async def test_store_runs_one_branch_whole_and_says_what_it_found(stage: Stage) -> None:
    store = stage.store
    absent = Compare("/a", Target.MOD_REVISION, 0)
    first = await store.txn([absent], [PutOp("/a", b"1"), PutOp("/b", b"2")])
    assert (first.succeeded, first.responses) == (True, (None, None))
    again = await store.txn([absent], [PutOp("/a", b"3")], [RangeOp("/a", "/c"), RangeOp("/x")])
    assert not again.succeeded
    found, nothing = again.responses
    assert isinstance(found, RangePage)
    assert [(kv.key, kv.value, kv.mod_revision) for kv in found.kvs] == [
        ("/a", b"1", first.revision),
        ("/b", b"2", first.revision),
    ]
    assert isinstance(nothing, RangePage)
    assert (nothing.kvs, again.revision) == ((), first.revision)
    exact = Compare("/a", Target.MOD_REVISION, first.revision)
    last = await store.txn([exact, Compare("/a", Target.VALUE, b"1")], [DeleteOp("/a"), PutOp("/b", b"4")])
    assert (last.succeeded, last.responses, last.revision) == (True, (1, None), first.revision + 1)
    pairs, revision = await store.list_prefix("/")
    assert [(kv.key, kv.value, kv.create_revision, kv.version) for kv in pairs] == [("/b", b"4", first.revision, 2)]
    assert revision == last.revision


async def test_first_address_of_a_host_stores_block_affinity_and_handle_as_calico_does(stage: Stage) -> None:
    await stage.put(pool("p", "10.0.0.0/26"))
    assert await stage.give() == ["10.0.0.0"]
    seed = int(NOW * 1e9)
    assert await stage.document(BLOCK) == {
        "cidr": "10.0.0.0/26",
        "affinity": "host:h1",
        "affinityClaimTime": "2023-11-14T22:13:20Z",
        "allocations": [0] + [None] * 63,
        "unallocated": list(range(1, 64)),
        "attributes": [{"handle_id": "net.c1", "secondary": {"node": "h1"}}],
        "deleted": False,
        "sequenceNumber": seed + 1,
        "sequenceNumberForAllocation": {"0": seed},
    }
    assert await stage.document(AFFINITY) == {"state": "confirmed", "deleted": False}
    assert await stage.document(HANDLE) == {"block": {"10.0.0.0/26": 1}, "deleted": False}
    for path, value in (await stage.values()).items():
        key = parse_key(path)
        assert key is None or decode(key, value).problems == ()


async def test_block_laid_by_hand_in_calicos_form_is_used_and_released_with_its_unknown_fields_kept(
    stage: Stage,
) -> None:
    held = {"handle_id": "k8s.old", "secondary": {"node": "h1", "pod": "x"}, "alternate": {"pod": "y"}}
    block = {
        "cidr": "10.0.0.0/30",
        "affinity": "host:h1",
        "strictAffinity": False,
        "allocations": [None, 0, None, None],
        "unallocated": [3, 0, 2],
        "attributes": [held],
        "deleted": False,
        "sequenceNumber": 41,
        "sequenceNumberForAllocation": {"1": 40},
    }
    key = "/calico/ipam/v2/assignment/ipv4/block/10.0.0.0-30"
    await stage.put(
        pool("p", "10.0.0.0/24"),
        (key, block),
        ("/calico/ipam/v2/host/h1/ipv4/block/10.0.0.0-30", {"state": "confirmed"}),
        ("/calico/ipam/v2/handle/k8s.old", {"block": {"10.0.0.0/30": 1}, "deleted": False}),
    )
    assert await stage.give(ipv4=2) == ["10.0.0.3", "10.0.0.0"]
    stored = await stage.document(key)
    mine = {"handle_id": "net.c1", "secondary": {"node": "h1"}}
    assert stored["attributes"] == [held, mine]
    assert stored["allocations"] == [1, 0, None, 1]
    assert (stored["unallocated"], stored["sequenceNumber"], stored["strictAffinity"]) == ([2], 42, False)
    await stage.check()
    assert [one.address for one in await stage.allocator().release_handle("k8s.old")] == ["10.0.0.1"]
    stored = await stage.document(key)
    assert (stored["attributes"], stored["allocations"]) == ([mine], [0, None, None, 0])
    assert stored["unallocated"] == [2, 1]
    await stage.check()


@pytest.mark.parametrize("missing", ["unallocated", "attributes", "sequenceNumberForAllocation"])
async def test_empty_block_with_nulls_as_go_writes_them_is_used(stage: Stage, missing: str) -> None:
    block = {
        "cidr": "10.0.0.0/26",
        "affinity": "host:h1",
        "allocations": [None] * 64,
        "unallocated": list(range(64)),
        "attributes": [],
        "sequenceNumberForAllocation": {},
        "sequenceNumber": 7,
        missing: None,
    }
    await stage.put(pool("p", "10.0.0.0/26"), (BLOCK, block), (AFFINITY, {"state": "pending", "deleted": False}))
    assert await stage.give() == ["10.0.0.0"]
    await stage.check()


@pytest.mark.parametrize("state", ["pending", "confirmed", "pendingDeletion"])
async def test_affinity_left_without_a_block_by_somebody_who_died_is_taken_up(stage: Stage, state: str) -> None:
    await stage.put(pool("p", "10.0.0.0/16"), (AFFINITY, {"state": state, "deleted": False}))
    assert await stage.give() == ["10.0.0.0"]
    await stage.check()


async def test_addresses_are_given_again_as_late_as_possible(stage: Stage) -> None:
    await stage.put(pool("p", "10.0.0.0/30", blockSize=30))
    assert await stage.give(ipv4=2) == ["10.0.0.0", "10.0.0.1"]
    await stage.allocator().release([Release(parse_address("10.0.0.0"))])
    assert await stage.give(handle="net.c2", ipv4=3) == ["10.0.0.2", "10.0.0.3", "10.0.0.0"]
    await stage.check()


async def test_allocators_at_the_same_time_give_different_addresses(stage: Stage) -> None:
    await stage.put(pool("p4", "10.0.0.0/24", blockSize=28), pool("p6", "fd00::/64"))
    answers = await asyncio.gather(*(stage.give(f"h{number % 4}", f"net.c{number}", 1, 1) for number in range(40)))
    given = Counter(address for answer in answers for address in answer)
    assert len(given) == 80
    await stage.check()
    released = await asyncio.gather(*(stage.allocator().release_handle(f"net.c{number}") for number in range(40)))
    assert sum(map(len, released)) == 80
    assert not any(block.holders for block in read_blocks(await stage.values()).values())
    await stage.check()


async def test_request_for_both_families_gives_nothing_when_one_has_nothing_left(stage: Stage) -> None:
    await stage.put(pool("p4", "10.0.0.0/26"), pool("p6", "fd00::/126", blockSize=126))
    await stage.give("h1", "net.c1", 0, 4)
    before = await stage.values()
    with pytest.raises(Exhausted) as refused:
        await stage.give("h1", "net.c2", 1, 1)
    assert str(refused.value) == (
        "no IPv6 address is left for h1, which wants 1: pool p6 (fd00::/126): 4 of 4 addresses in use, "
        "0 reserved, 1 blocks, 0 free in blocks of others"
    )
    assert await stage.values() == before


async def test_full_pool_lends_addresses_unless_affinity_is_strict(stage: Stage) -> None:
    await stage.put(pool("p", "10.0.0.0/30", blockSize=30), config(strict=True))
    assert await stage.give("h1", "net.c1") == ["10.0.0.0"]
    with pytest.raises(Exhausted, match=r"3 free in blocks of others; blocks of other hosts may not be used"):
        await stage.give("h2", "net.c2")
    await stage.put(config())
    assert await stage.give("h2", "net.c2") == ["10.0.0.1"]
    await stage.check()
    await stage.allocator().release_host("h1")
    (block,) = read_blocks(await stage.values()).values()
    assert (block.affinity, [holder.handle for _, holder in block.held()]) == (None, ["net.c2"])
    assert await stage.allocator().release_handle("net.c2") == [parse_address("10.0.0.1")]
    assert set(await stage.values()) == {"/calico/ipam/v2/config"}


async def test_empty_block_of_another_host_is_taken_over_only_after_a_minute(stage: Stage) -> None:
    await stage.put(pool("p", "10.0.0.0/30", blockSize=30), config(strict=True))
    await stage.give("h1", "net.c1")
    await stage.allocator().release_handle("net.c1")
    stage.now += 59
    with pytest.raises(Exhausted):
        await stage.give("h2", "net.c2")
    stage.now += 1
    assert await stage.give("h2", "net.c2") == ["10.0.0.0"]
    (block,) = read_blocks(await stage.values()).values()
    assert block.host == "h2"
    await stage.check()


async def test_limit_of_blocks_and_blocks_not_made_by_themselves_are_told(stage: Stage) -> None:
    await stage.put(pool("p", "10.0.0.0/28", blockSize=31), config(strict=True, most=2))
    assert len(await stage.give(ipv4=4)) == 4
    with pytest.raises(Exhausted, match="h1 has 2 blocks and may have 2"):
        await stage.give(handle="net.c2")
    await stage.put(config(strict=True, auto=False))
    with pytest.raises(Exhausted, match="autoAllocateBlocks: false"):
        await stage.give("h2", "net.c2")
    await stage.allocator().claim_affinity("h2", parse_net("10.0.0.14/31"))
    await stage.allocator().claim_affinity("h2", parse_net("10.0.0.14/31"))
    assert await stage.give("h2", "net.c2") == ["10.0.0.14"]
    with pytest.raises(AddressTaken, match=r"block 10.0.0.14/31 exists and is not of h3: h2"):
        await stage.allocator().claim_affinity("h3", parse_net("10.0.0.14/31"))
    with pytest.raises(AddressTaken, match="is no block of an enabled pool"):
        await stage.allocator().claim_affinity("h3", parse_net("10.0.0.8/30"))
    await stage.check()


async def test_reserved_addresses_are_given_only_by_name(stage: Stage) -> None:
    reservation = resource("IPReservation", "r", {"reservedCIDRs": ["10.0.0.0/31", "10.0.0.4/30"]})
    await stage.put(pool("p", "10.0.0.0/29", blockSize=30), reservation)
    assert await stage.give(ipv4=2) == ["10.0.0.2", "10.0.0.3"]
    with pytest.raises(Exhausted, match="6 reserved"):
        await stage.give(handle="net.c2")
    await stage.allocator().assign(Request("h2", "net.c2"), parse_address("10.0.0.5"))
    assert [one.address for one in await stage.allocator().addresses_of("net.c2")] == ["10.0.0.5"]
    await stage.check()


async def test_address_by_name_that_is_taken_or_in_no_pool_is_refused_with_its_holder(stage: Stage) -> None:
    await stage.put(pool("p", "10.0.0.0/26"), pool("off", "10.9.0.0/26", disabled=True))
    allocator = stage.allocator()
    await allocator.assign(Request("h1", "net.c1", attributes={"pod": "web"}), parse_address("10.0.0.9"))
    with pytest.raises(AddressTaken, match=r"10.0.0.9 is in use: handle net.c1 \(node h1, pod web\)"):
        await allocator.assign(Request("h2", "net.c2"), parse_address("10.0.0.9"))
    for address in ("10.9.0.1", "11.0.0.1"):
        with pytest.raises(AddressTaken, match="is in no enabled pool"):
            await allocator.assign(Request("h2", "net.c2"), parse_address(address))
    await stage.put(config(strict=True))
    with pytest.raises(AddressTaken, match=r"in block 10.0.0.0/26 of h1, and affinity is strict"):
        await allocator.assign(Request("h2", "net.c2"), parse_address("10.0.0.10"))
    await stage.check()


async def test_release_of_an_address_given_anew_meanwhile_is_refused(stage: Stage) -> None:
    await stage.put(pool("p", "10.0.0.0/32", blockSize=32))
    address = parse_address("10.0.0.0")
    await stage.give()
    old = read_blocks(await stage.values())["10.0.0.0/32"].sequences[0]
    assert await stage.allocator().release([Release(address, "net.c1", old)]) == [address]
    assert await stage.allocator().release([Release(address)]) == []
    await stage.give()
    with pytest.raises(Stale, match=r"10.0.0.0 was given to handle net.c1 .* meanwhile"):
        await stage.allocator().release([Release(address, "net.c1", old)])
    with pytest.raises(Stale, match=r"is not held by net.c9 any more, but by handle net.c1"):
        await stage.allocator().release([Release(address, "net.c9")])
    await stage.check()


async def test_pools_are_chosen_by_selector_use_and_request(stage: Stage) -> None:
    await stage.put(
        pool("a", "10.1.0.0/26", nodeSelector="zone == 'east'"),
        pool("b", "10.2.0.0/26", assignmentMode="Manual"),
        pool("c", "10.3.0.0/26", disabled=True),
        pool("d", "10.4.0.0/26", allowedUses=["Tunnel"]),
        pool("e", "10.5.0.0/26", namespaceSelector="team == 'red'"),
        resource("Node", "h1", {}, labels={"zone": "west"}),
    )
    with pytest.raises(NoPool) as refused:
        await stage.give()
    assert str(refused.value) == (
        "no IPv4 pool can be used: a does not select the host (nodeSelector: zone == 'east'); "
        "b is used when asked for only (assignmentMode: Manual); c is disabled; "
        "d is not for Workload (allowedUses: Tunnel); "
        "e does not select the namespace (namespaceSelector: team == 'red')"
    )
    allocator = stage.allocator()
    for asked, wanted in ((("a",), "10.1.0.0"), (("10.2.0.0/26",), "10.2.0.0")):
        (given,) = await allocator.auto_assign(Request("h1", "net.c1", 1, pools=asked))
        assert given.address == wanted
    (given,) = await allocator.auto_assign(Request("h1", "net.c1", 1, namespace_labels={"team": "red"}))
    assert given.address == "10.5.0.0"
    for asked, reason in (
        (("c",), "c is disabled"),
        (("x",), "there is no IPv4 pool x"),
        (("9.0.0.0/8",), "9.0.0.0/8"),
    ):
        with pytest.raises(NoPool, match=reason):
            await allocator.auto_assign(Request("h1", "net.c1", 1, pools=asked))
    await stage.check()


async def test_host_gives_up_empty_blocks_of_a_pool_that_no_longer_selects_it(stage: Stage) -> None:
    await stage.put(pool("a", "10.1.0.0/26"), resource("Node", "h1", {}))
    await stage.give()
    await stage.allocator().release_handle("net.c1")
    await stage.put(pool("a", "10.1.0.0/26", nodeSelector="has(gpu)"), pool("b", "10.2.0.0/26"))
    assert await stage.give() == ["10.2.0.0"]
    assert list(read_blocks(await stage.values())) == ["10.2.0.0/26"]
    await stage.check()


async def test_block_that_cannot_be_read_is_left_alone_and_the_next_one_used(stage: Stage) -> None:
    await stage.put(pool("p", "10.0.0.0/25"), (BLOCK, b'{"cidr": 7}'), (AFFINITY, {"state": "confirmed"}))
    assert await stage.give() == ["10.0.0.64"]
    assert (await stage.values())[BLOCK] == b'{"cidr": 7}'
    with pytest.raises(DataError, match="cannot be read"):
        await stage.allocator().release([Release(parse_address("10.0.0.1"))])


async def test_handle_that_counts_more_than_there_is_is_gone_after_its_release(stage: Stage) -> None:
    await stage.put(
        pool("p", "10.0.0.0/26"), (HANDLE, {"block": {"10.0.0.0/26": 3, "10.7.0.0/26": 1, "x": 2}, "deleted": False})
    )
    await stage.give()
    assert len(await stage.allocator().release_handle("net.c1")) == 1
    assert HANDLE not in await stage.values()


async def test_addresses_of_many_blocks_come_and_go_at_once(stage: Stage) -> None:
    await stage.put(pool("p", "10.0.0.0/16", blockSize=32), config(most=1000))
    given = await stage.give(ipv4=30)
    assert len(set(given)) == 30
    with pytest.raises(DataError, match="too many for one request"):
        await stage.give(handle="net.c2", ipv4=70)
    for number in range(3):
        await stage.give(handle="net.c2", ipv4=25 + number)
    assert len(await stage.allocator().release_handle("net.c2")) == 78
    released = await stage.allocator().release([Release(parse_address(one)) for one in given])
    assert len(released) == 30
    await stage.check()


@pytest.mark.parametrize(("host", "handle"), [("", "a"), ("h/1", "a"), ("h1", "a/b")])
async def test_name_that_would_make_another_key_is_refused(stage: Stage, host: str, handle: str) -> None:
    await stage.put(pool("p", "10.0.0.0/26"))
    with pytest.raises(DataError, match="slash"):
        await stage.give(host, handle)


async def test_requests_that_wait_for_each_other_are_met_together_and_fail_alone(stage: Stage) -> None:
    await stage.put(pool("p", "10.0.0.0/24"))
    allocator = stage.allocator()
    written: dict[str, list[str]] = {}

    async def give(number: int) -> list[Net]:
        async def beside(addresses: Sequence[Net]) -> Draft:
            if number % 7 == 3:
                raise DataError(f"request {number} cannot be")
            draft = Draft()
            draft.put(f"/beside/{number}", ",".join(one.address for one in addresses).encode(), 0)
            return draft

        request = Request("h1", f"net.c{number}", 6 if number == 20 else 1, pools=("nowhere",) if number == 10 else ())
        wanted = [parse_address("10.0.0.200")] if number == 5 else []
        return await allocator.give(request, wanted, beside)

    answers = await asyncio.gather(*(give(number) for number in range(80)), return_exceptions=True)
    for number, answer in enumerate(answers):
        if number == 10:
            assert isinstance(answer, NoPool)
        elif number % 7 == 3:
            assert str(answer) == f"request {number} cannot be"
        else:
            assert isinstance(answer, list)
            written[f"/beside/{number}"] = [one.address for one in answer]
    pairs, _ = await stage.store.list_prefix("/beside/")
    assert {pair.key: pair.value.decode().split(",") for pair in pairs} == written
    assert "10.0.0.200" in written["/beside/5"]
    given = [address for addresses in written.values() for address in addresses]
    assert len(set(given)) == len(given) == len(written) + 6
    await stage.check()


async def test_address_is_taken_back_only_from_who_is_named(stage: Stage) -> None:
    await stage.put(pool("p", "10.0.0.0/24"))
    allocator = stage.allocator()
    mine = await allocator.give(Request("h1", "net.c1", 2))
    other = await allocator.give(Request("h2", "net.c1", 1))
    draft = Draft()
    draft.put("/beside", b"done", 0)
    asked = [Release(mine[0], "net.c1"), Release(mine[1], "net.c2"), Release(other[0], "")]
    assert await allocator.take_back(asked, draft) == mine[:1]
    assert await allocator.release_handle("net.c1", lambda holder: holder.node == "h1") == mine[1:]
    assert await allocator.addresses_of("net.c1") == other
    assert await allocator.release_handle("net.c1", lambda holder: holder.node == "h1") == []
    await stage.check()
    assert await allocator.release_handle("net.c1") == other
    await stage.check()
