"""A host's address in the tunnel, on the fake store and on a real etcd: given once, kept, and taken back."""

from __future__ import annotations

import asyncio

import msgspec
import pytest

from felix.calc.graph import CalcGraph
from felix.calc.tunnels import TunnelSettings, TunnelWish, derive_mac
from felix.collect.apply import make_fence, put_fence, reclaim_host
from felix.collect.read import read_world
from felix.datastore.etcd import EtcdClient
from felix.datastore.types import DeleteOp, PutOp
from felix.errors import DataError, Problem
from felix.ipam.apply import Allocator
from felix.ipam.audit import audit
from felix.ipam.faults import NoPool
from felix.ipam.read import Store
from felix.ipam.types import Request
from felix.model.codec import decode
from felix.model.keys import ResourceKey, format_key, parse_key
from felix.vtep.apply import VtepStore, clear_node
from felix.vtep.serve import VtepKeeper
from tests.support.ipam import check_laws, pool, read_blocks, resource
from tests.support.store import until

NODE = format_key(ResourceKey("Node", "", "h1"))
SPEC = {"bgp": {"ipv4Address": "192.0.2.1/24", "ipv6Address": "2001:db8::1/64"}, "unknown": {"kept": 1}}


class Stage:
    """A store with what the host's agent calculates from it."""

    def __init__(self, store: Store) -> None:
        self.store = store
        self.vtep = VtepStore(store, "h1")

    async def put(self, *pairs: tuple[str, bytes]) -> None:
        for key, value in pairs:
            await self.store.txn([], [PutOp(key, value)])

    async def wishes(self, settings: TunnelSettings | None = None) -> dict[int, TunnelWish]:
        """Returns what an agent that has read everything would ask for."""
        graph = CalcGraph("h1")
        graph.tunnels.configure(settings or TunnelSettings())
        pairs, _ = await self.store.list_prefix("/calico/")
        for pair in pairs:
            key = parse_key(pair.key)
            if key is not None:
                graph.on_update(key, decode(key, pair.value).record)
        graph.flush()
        wishes = graph.tunnels.pop_wishes()
        assert wishes is not None
        return wishes

    async def settle(self, settings: TunnelSettings | None = None) -> list[str]:
        """Returns the addresses that the host has, as its agent would see to it."""
        wishes = await self.wishes(settings)
        found = [await self.vtep.settle(family, wish) for family, wish in wishes.items()]
        return [net.address for net in found if net is not None]

    async def spec(self) -> dict[str, object]:
        pairs, _ = await self.store.list_prefix(NODE)
        found: dict[str, object] = msgspec.json.decode(pairs[0].value)["spec"]
        return found

    async def revisions(self) -> dict[str, int]:
        pairs, _ = await self.store.list_prefix("/")
        return {pair.key: pair.mod_revision for pair in pairs}

    async def held(self) -> dict[str, dict[str, str]]:
        """Returns what is said of each address that somebody holds."""
        values = {pair.key: pair.value for pair in (await self.store.list_prefix("/calico/ipam/"))[0]}
        check_laws(values)
        return {
            block.address(ordinal): {"handle": holder.handle or "", **holder.attributes}
            for block in read_blocks(values).values()
            for ordinal, holder in block.held()
        }


@pytest.fixture
def stage(store: Store) -> Stage:
    return Stage(store)


async def start(stage: Stage, **spec: object) -> None:
    """There are two pools with VXLAN, and the host's Node."""
    await stage.put(resource("Node", "h1", {**SPEC, **spec}, labels={"rack": "1"}))
    await stage.put(pool("p4", "10.0.0.0/24", vxlanMode="Always"), pool("p6", "fd00::/120", vxlanMode="CrossSubnet"))


async def test_address_is_given_and_named_by_the_node_as_calico_does(stage: Stage) -> None:
    await start(stage)
    four, six = await stage.settle()
    assert await stage.held() == {
        four: {"handle": "vxlan-tunnel-addr-h1", "type": "vxlanTunnelAddress", "node": "h1"},
        six: {"handle": "vxlan-v6-tunnel-addr-h1", "type": "vxlanV6TunnelAddress", "node": "h1"},
    }
    assert await stage.spec() == {
        **SPEC,
        "ipv4VXLANTunnelAddr": four,
        "vxlanTunnelMACAddr": derive_mac("h1", 4),
        "ipv6VXLANTunnelAddr": six,
        "vxlanTunnelMACAddrV6": derive_mac("h1", 6),
    }


async def test_address_that_is_there_is_kept_without_a_write(stage: Stage) -> None:
    await start(stage)
    addresses = await stage.settle()
    before = await stage.revisions()
    assert await stage.settle() == addresses
    assert await stage.revisions() == before
    await stage.put(pool("p4", "10.0.0.0/24", vxlanMode="Always", disabled=True))  # gives none, and takes none back
    after = await stage.revisions()
    assert await stage.settle() == addresses
    assert await stage.revisions() == after


async def test_address_goes_with_the_last_pool_and_the_node_stays_as_it_was(stage: Stage) -> None:
    await start(stage)
    await stage.settle()
    await stage.put(pool("p4", "10.0.0.0/24", vxlanMode="Never"), pool("p6", "fd00::/120"))
    assert await stage.settle() == []
    assert await stage.held() == {}
    assert await stage.spec() == SPEC
    before = await stage.revisions()
    assert await stage.settle() == []
    assert await stage.revisions() == before


async def test_address_of_a_pool_that_goes_is_replaced_by_one_of_another(stage: Stage) -> None:
    await start(stage)
    old, six = await stage.settle()
    await stage.put(pool("p4", "10.0.0.0/24"), pool("q4", "10.1.0.0/24", vxlanMode="Always"))
    new, same = await stage.settle()
    assert (new.startswith("10.1.0."), same) == (True, six)
    assert (await stage.spec())["ipv4VXLANTunnelAddr"] == new
    assert old not in await stage.held()


async def test_node_that_forgot_or_says_what_is_not_its_own_says_what_is_held(stage: Stage) -> None:
    await start(stage)
    four, six = await stage.settle()
    for wrong in ({}, {"ipv4VXLANTunnelAddr": "10.0.0.77", "vxlanTunnelMACAddr": "02:00:5e:00:53:07"}):
        await start(stage, **wrong)
        assert await stage.settle() == [four, six]
        assert (await stage.spec())["ipv4VXLANTunnelAddr"] == four
        assert len(await stage.held()) == 2
    assert (await stage.spec())["vxlanTunnelMACAddr"] == "02:00:5e:00:53:07"  # a person's word


async def test_pool_that_does_not_select_the_host_gives_nothing(stage: Stage) -> None:
    await start(stage)
    await stage.put(pool("p4", "10.0.0.0/24", vxlanMode="Always", nodeSelector="rack == '2'"))
    await stage.put(pool("p6", "fd00::/120", vxlanMode="Always", allowedUses=["Workload"]))
    assert await stage.settle() == []
    assert await stage.held() == {}


async def test_host_without_ipv6_or_with_the_tunnel_switched_off_has_no_address_in_it(stage: Stage) -> None:
    await start(stage)
    assert len(await stage.settle(TunnelSettings(has_ipv6=False))) == 1
    assert await stage.settle(TunnelSettings(is_enabled=False)) == []
    assert await stage.held() == {}


async def test_without_a_node_nothing_is_given(stage: Stage) -> None:
    await start(stage)
    wishes = await stage.wishes()
    await stage.store.txn([], [DeleteOp(NODE)])
    with pytest.raises(DataError, match="no Node h1"):
        await stage.vtep.settle(4, wishes[4])
    assert await stage.held() == {}


async def test_pool_that_is_gone_meanwhile_is_a_fault_and_gives_nothing(stage: Stage) -> None:
    await start(stage)
    wishes = await stage.wishes()
    await stage.store.txn([], [DeleteOp(format_key(ResourceKey("IPPool", "", "p4")))])
    with pytest.raises(NoPool):
        await stage.vtep.settle(4, wishes[4])
    assert await stage.held() == {}
    assert await stage.spec() == SPEC


async def test_address_of_a_living_host_is_no_leak_and_goes_with_the_host(stage: Stage) -> None:
    await start(stage)
    await stage.settle()
    if not isinstance(stage.store, EtcdClient):
        return
    world = await read_world(stage.store)
    found = audit(world.inventory)
    assert (found.leaks, found.not_allocated, found.in_use) == ((), (), 2)
    fence = await put_fence(stage.store, make_fence("h1", "h2", {}), [])
    assert fence is not None
    gone = await reclaim_host(stage.store, fence, {}, [])
    assert len(gone.addresses) == 2
    assert await stage.held() == {}
    assert await stage.spec() == SPEC


async def test_node_without_tunnel_is_not_written(stage: Stage) -> None:
    assert not await clear_node(stage.store, "h1")
    await start(stage)
    before = await stage.revisions()
    assert not await clear_node(stage.store, "h1")
    assert await stage.revisions() == before


async def test_keeper_tells_of_exhausted_pools_and_takes_the_address_that_comes_free(stage: Stage) -> None:
    await stage.put(resource("Node", "h1", SPEC), pool("p4", "10.0.0.0/30", vxlanMode="Always"))
    allocator = Allocator(stage.store)
    await allocator.auto_assign(Request("h2", "net.c1", 4))
    told: list[tuple[Problem, ...]] = []
    keeper = VtepKeeper(stage.vtep, "h1", told.append)
    running = asyncio.create_task(keeper.run())
    keeper.on_wishes(await stage.wishes())
    await until(lambda: told)
    assert "10.0.0.0/30" in told[0][0].reason
    await allocator.release_handle("net.c1")
    await until(lambda: len(told) > 1, 30.0)
    assert told[1] == ()
    assert len(await stage.held()) == 1
    running.cancel()
    await asyncio.wait([running])
