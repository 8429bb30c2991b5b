"""Tunnels and what is reached by them, in the cycles of the driver."""

from __future__ import annotations

import asyncio

import pytest

from felix.calc.desired import ClusterRoute, DesiredDelta, OwnVtep, RemoteVtep
from felix.dataplane.nft.types import Culprit
from felix.dataplane.routes.types import RouteKey
from felix.dataplane.tunnels.types import DEVICE_BY_VERSION, Device, Item, Kind
from felix.errors import PeerError
from felix.model.net import Net, parse_address, parse_net
from tests.unit.dataplane.fake_world import FakeWorld, Rig

MAC, OTHER_MAC = "66:00:00:00:00:01", "66:00:00:00:00:02"
OWN_HOST = {4: parse_address("192.0.2.1"), 6: parse_address("2001:db8::1")}
OWN_VTEP = {4: parse_address("10.1.0.1"), 6: parse_address("fd01::1")}
VTEP = {4: parse_address("10.2.0.1"), 6: parse_address("fd02::1")}
OTHER_HOST = {4: parse_address("192.0.2.2"), 6: parse_address("2001:db8::2")}
FAR = {4: parse_net("10.2.0.0/26"), 6: parse_net("fd02::/122")}
NEAR = {4: parse_net("10.3.0.0/26"), 6: parse_net("fd03::/122")}
both = pytest.mark.parametrize("version", [4, 6])


def tunnel(version: int, mtu: int = 0) -> DesiredDelta:
    """Returns both ends of a tunnel, a block behind it, and one of a host in the same subnet."""
    delta = DesiredDelta()
    delta.own_vteps[version] = OwnVtep(OWN_VTEP[version], MAC, OWN_HOST[version], 4096, 4789, mtu)
    delta.remote_vteps[version, "far"] = RemoteVtep(VTEP[version], OTHER_MAC, OTHER_HOST[version])
    delta.cluster_routes[FAR[version]] = ClusterRoute("far", VTEP[version], None)
    delta.cluster_routes[NEAR[version]] = ClusterRoute("near", None, OTHER_HOST[version])
    return delta


def no_tunnel(version: int) -> DesiredDelta:
    delta = DesiredDelta()
    delta.own_vteps[version] = None
    delta.remote_vteps[version, "far"] = None
    delta.cluster_routes.update({FAR[version]: None, NEAR[version]: None})
    return delta


def hops(world: FakeWorld) -> dict[Net, tuple[str, Net | None]]:
    """Returns interface and gateway of every route of ours."""
    names = {link: name for link, (name, _) in world.host.links.items()}
    return {
        key.net: (names[one.value.interface], one.value.gateway)
        for key, held in world.host.table.items()
        for one in held
        if one.is_ours
    }


def wanted_hops(version: int, parent: str = "eth0") -> dict[Net, tuple[str, Net | None]]:
    device = DEVICE_BY_VERSION[version]
    to_gateway = {VTEP[6]: (device, None)} if version == 6 else {}
    return {FAR[version]: (device, VTEP[version]), NEAR[version]: (parent, OTHER_HOST[version]), **to_gateway}


def device(world: FakeWorld, version: int) -> Device:
    found = world.tunnels.held[DEVICE_BY_VERSION[version]].device
    assert found is not None
    return found


@pytest.fixture
async def world() -> FakeWorld:
    """A host with two uplinks, the first of which has its addresses."""
    world = FakeWorld()
    world.host.set_link(2, "eth0", True)
    world.host.set_link(3, "eth1", True)
    world.mtu_by_link[3] = 9000
    for address in OWN_HOST.values():
        world.move_address(2, address)
    return world


async def settle(rig: Rig) -> None:
    """Waits until all that was told is in the kernel."""
    await rig.until(
        lambda: rig.cycles[-1:] != [] and rig.cycles[-1].is_settled and rig.revision <= rig.cycles[-1].revision
    )


async def start(rig: Rig, *versions: int) -> None:
    await rig.start()
    for version in versions:
        rig.tell(tunnel(version))
    await settle(rig)


@both
async def test_tunnel_gets_its_device_what_is_on_it_and_routes_by_it(rig: Rig, world: FakeWorld, version: int) -> None:
    await start(rig, version)
    await rig.until(lambda: hops(world) == wanted_hops(version))
    assert device(world, version).mtu == {4: 1450, 6: 1430}[version]
    own, mac = OWN_VTEP[version], bytes.fromhex(OTHER_MAC.replace(":", ""))
    assert world.tunnels.held[DEVICE_BY_VERSION[version]].items == {
        Item(Kind.ADDRESS, 0, own, own.length): None,
        Item(Kind.ENTRY, 0, mac): OTHER_HOST[version],
        Item(Kind.NEIGHBOUR, 0, VTEP[version]): mac,
    }
    rig.tell(no_tunnel(version))
    await settle(rig)
    await rig.until(lambda: not world.tunnels.held)
    assert hops(world) == {}


async def test_what_is_right_is_not_written_again_after_a_restart(rig: Rig, world: FakeWorld) -> None:
    await start(rig, 4, 6)
    await rig.until(lambda: hops(world) == wanted_hops(4) | wanted_hops(6))
    await settle(rig)
    second = Rig(world)
    world.steps.clear()
    try:
        await second.driver.start()
        second.tell(tunnel(4))
        second.tell(tunnel(6))
        second.driver.on_in_sync()
        second.run()
        await settle(second)
        assert world.writes == []
    finally:
        await second.stop()


async def test_stale_device_stays_until_desired_state_is_complete(rig: Rig, world: FakeWorld) -> None:
    world.tunnels.make("vxlan.calico", Device(4096, 4789, 0, True, None, True, b"\2\0\0\0\0\1", 1450, True, False))
    world.show_devices()
    await rig.driver.start()
    rig.run()
    rig.tell(tunnel(6))
    await asyncio.sleep(0.05)
    assert "tunnels" not in world.writes
    rig.driver.on_in_sync()
    await rig.until(lambda: list(world.tunnels.held) == ["vxlan-v6.calico"])


@both
async def test_own_address_that_moves_takes_direct_routes_and_mtu_along(
    rig: Rig, world: FakeWorld, version: int
) -> None:
    await start(rig, version)
    before = world.tunnels.held[DEVICE_BY_VERSION[version]].link
    world.move_address(3, OWN_HOST[version])
    await rig.until(lambda: hops(world) == wanted_hops(version, "eth1"))
    await rig.until(lambda: device(world, version).mtu == {4: 8950, 6: 8930}[version])
    assert world.tunnels.held[DEVICE_BY_VERSION[version]].link == before
    world.mtu_by_link[3] = 4000
    world.set_link(3, "eth1")
    await rig.until(lambda: device(world, version).mtu == {4: 3950, 6: 3930}[version])


@both
async def test_device_that_somebody_removes_comes_back_with_everything(
    rig: Rig, world: FakeWorld, version: int
) -> None:
    await start(rig, version)
    name = DEVICE_BY_VERSION[version]
    await rig.until(lambda: len(world.tunnels.held[name].items) == 3)
    world.tunnels.remove(name)
    world.show_devices()
    await rig.until(lambda: name in world.tunnels.held and len(world.tunnels.held[name].items) == 3)
    await rig.until(lambda: hops(world) == wanted_hops(version))
    await settle(rig)


async def test_refused_device_is_a_problem_until_the_kernel_takes_it(rig: Rig, world: FakeWorld) -> None:
    world.tunnels.is_refusing = True
    await rig.start()
    rig.tell(tunnel(4))
    await rig.until(lambda: any("Tunnel(vxlan.calico)" in problems for problems in rig.problems()))
    problem = next(problems for problems in rig.problems() if problems)["Tunnel(vxlan.calico)"]
    assert problem == "the kernel does not take what is needed: device refused: not here"
    assert hops(world) == {NEAR[4]: ("eth0", OTHER_HOST[4])}
    world.tunnels.is_refusing = False
    await rig.until(lambda: hops(world) == wanted_hops(4))
    await rig.until(lambda: list(rig.problems())[-1] == {})


async def test_interface_that_has_the_name_is_left_alone_and_named(rig: Rig, world: FakeWorld) -> None:
    world.tunnels.make("vxlan.calico", None, "bridge")
    world.show_devices()
    await start(rig, 4)
    assert hops(world) == {NEAR[4]: ("eth0", OTHER_HOST[4])}
    assert "is a bridge device and not ours" in list(rig.problems())[-1]["Tunnel(vxlan.calico)"]
    assert world.tunnels.held["vxlan.calico"].kind == "bridge"
    world.tunnels.remove("vxlan.calico")
    world.show_devices()
    await rig.until(lambda: hops(world) == wanted_hops(4))
    await rig.until(lambda: list(rig.problems())[-1] == {})


async def test_host_that_has_its_own_address_nowhere_says_so(rig: Rig, world: FakeWorld) -> None:
    world.addresses.clear()
    await start(rig, 4)
    assert "no interface of this host has 192.0.2.1" in list(rig.problems())[-1]["Tunnel(vxlan.calico)"]
    assert NEAR[4] not in hops(world)
    world.move_address(3, OWN_HOST[4])
    await rig.until(lambda: hops(world) == wanted_hops(4, "eth1"))


async def test_of_hosts_with_one_address_the_first_counts_and_the_other_is_named(rig: Rig, world: FakeWorld) -> None:
    await start(rig, 4)
    delta = DesiredDelta()
    delta.remote_vteps[4, "zoe"] = RemoteVtep(VTEP[4], "66:00:00:00:00:03", OTHER_HOST[4])
    rig.tell(delta)
    await rig.until(lambda: any("Node(zoe)" in problems for problems in rig.problems()))
    entries = [item for item in world.tunnels.held["vxlan.calico"].items if item.kind is Kind.ENTRY]
    assert [item.subject for item in entries] == [bytes.fromhex(OTHER_MAC.replace(":", ""))]
    delta = DesiredDelta()
    delta.remote_vteps[4, "far"] = None
    rig.tell(delta)
    third = Item(Kind.ENTRY, 0, bytes.fromhex("660000000003"))
    await rig.until(lambda: third in world.tunnels.held["vxlan.calico"].items)
    await rig.until(lambda: list(rig.problems())[-1] == {})


@pytest.mark.parametrize("step", ["read_tunnels", "tunnels"])
async def test_step_that_fails_is_made_up_for(rig: Rig, world: FakeWorld, step: str) -> None:
    await rig.start()
    world.failures_by_step[step] = [PeerError("no answer"), OSError(105, "no buffer space")]
    rig.tell(tunnel(4))
    await rig.until(lambda: hops(world) == wanted_hops(4))
    assert world.news is not None
    world.news.on_lost()
    await settle(rig)


async def test_lost_news_are_made_up_for_by_a_read(rig: Rig, world: FakeWorld) -> None:
    await start(rig, 4)
    await rig.until(lambda: len(world.tunnels.held["vxlan.calico"].items) == 3)
    world.tunnels.held["vxlan.calico"].items.clear()
    assert world.news is not None
    world.news.on_lost()
    await rig.until(lambda: len(world.tunnels.held["vxlan.calico"].items) == 3)


async def test_endpoint_elsewhere_is_reached_by_its_own_route_and_here_by_its_interface(
    rig: Rig, world: FakeWorld
) -> None:
    world.host.set_link(5, "calia", True)
    await start(rig, 4)
    borrowed = parse_address("10.1.0.7")
    delta = DesiredDelta()
    delta.cluster_routes[borrowed] = ClusterRoute("far", VTEP[4], None)
    rig.tell(delta)
    await rig.until(lambda: hops(world).get(borrowed) == ("vxlan.calico", VTEP[4]))
    key = RouteKey(borrowed, 0)
    world.host.put(key, world.host.table[key][0]._replace(is_ours=False))
    world.deliver()
    await rig.until(lambda: world.host.table[key][0].is_ours)


@both
async def test_device_is_guarded_from_before_it_stands_until_it_is_gone(
    rig: Rig, world: FakeWorld, version: int
) -> None:
    seen: list[bool] = []

    def look(_: str) -> None:
        if world.tunnels.held:
            seen.append(is_guarded(world))

    world.before_step = look
    await start(rig, version)
    await rig.until(lambda: hops(world) == wanted_hops(version))
    world.failures_by_step["routes"] = [PeerError("no answer")]  # then nothing of the tunnel is removed yet
    rig.tell(no_tunnel(version))
    await rig.until(lambda: not world.tunnels.held and not is_guarded(world))
    await settle(rig)
    assert seen
    assert all(seen)


async def test_without_its_guard_no_tunnel_is_made(rig: Rig, world: FakeWorld) -> None:
    world.nft.is_refused = lambda line: "tunnelled" in line and "saddr" in line
    await rig.start()
    rig.tell(tunnel(4))
    await rig.until(lambda: any("vxlan-input" in str(problems) for problems in rig.problems()))
    assert not world.tunnels.held
    world.nft.is_refused = lambda line: False
    assert world.news is not None
    world.news.on_foreign_table(Culprit(1, "nft"))
    await rig.until(lambda: hops(world) == wanted_hops(4))
    assert is_guarded(world)


def is_guarded(world: FakeWorld) -> bool:
    return world.nft.table is not None and bool(world.nft.table.rules.get("vxlan-input"))
