"""The order of a cycle, and what every failure within it comes to."""

from __future__ import annotations

import asyncio
import os

import pytest

from felix.calc.desired import Action, CompiledPolicy, CompiledRule, DesiredDelta, Stack
from felix.dataplane.cycle import EndpointCondition
from felix.dataplane.links.types import LinkConfig
from felix.dataplane.nft.types import Culprit
from felix.dataplane.routes.types import RTN_UNICAST, SCOPE_LINK, RouteKey, RouteValue
from felix.dataplane.serve import HostState
from felix.errors import KernelRefused, PeerError, ResyncRequired
from felix.model.keys import ResourceKey
from felix.model.net import parse_address
from tests.support.desired import NO_STACK, endpoint_key, local_endpoint
from tests.unit.dataplane.fake_world import FakeWorld, Rig
from tests.unit.routes.fake_kernel import Held

A = local_endpoint("a", "calia", "10.1.0.1", "fd01::1")
B = local_endpoint("b", "calib", "10.1.0.2")
PROFILE = ResourceKey("Profile", "", "tcp-only")


def guarded(name: str, interface: str, address: str) -> DesiredDelta:
    """Returns an endpoint whose profile allows TCP."""
    stack = Stack((), (PROFILE,))
    plain = local_endpoint(name, interface, address)
    delta = DesiredDelta()
    delta.policies[PROFILE] = CompiledPolicy((CompiledRule(Action.ALLOW, protocol=6),), ())
    delta.endpoints[plain.key] = type(plain)(plain.key, interface, plain.addresses, None, stack, NO_STACK, 1)
    return delta


# --- Order ---


async def test_new_endpoint_is_reachable_only_after_its_policy_stands(rig: Rig, world: FakeWorld) -> None:
    open_before_route: list[bool] = []
    world.before_step = lambda step: open_before_route.append(world.is_open("calia")) if step == "routes" else None
    await rig.start(A)
    await rig.until_up(A)
    assert world.writes == ["fill", "structure", "links", "routes"]
    assert open_before_route == [True]
    assert world.has_route("10.1.0.1")
    assert world.has_route("fd01::1")


async def test_endpoint_where_ipv6_is_switched_off_gets_no_ipv6_route_and_no_ipv6_source(world: FakeWorld) -> None:
    rig = Rig(world, LinkConfig(has_host_forwarding=False, has_ipv6=False))
    try:
        await rig.start(A)
        await rig.until_up(A)
        assert world.has_route("10.1.0.1")
        assert not world.has_route("fd01::1")
        assert rig.driver.board.endpoints[A.key].addresses == A.addresses[:1]
    finally:
        await rig.stop()


async def test_leaving_endpoint_loses_its_route_before_its_policy(rig: Rig, world: FakeWorld) -> None:
    await rig.start(A)
    await rig.until_up(A)
    world.steps.clear()
    rig.want(without=A)
    await rig.until(lambda: bool(world.flushed))
    assert world.writes == ["routes", "structure", "cleanup", "flush"]
    assert not world.is_open("calia")
    assert world.flushed == [frozenset(A.addresses)]


async def test_nothing_is_written_before_in_sync_but_a_missing_table(rig: Rig, world: FakeWorld) -> None:
    stray = RouteKey(parse_address("10.1.0.9"), 0)
    world.host.put(stray, Held(True, RouteValue(RTN_UNICAST, SCOPE_LINK, 5)))
    await rig.driver.start()
    rig.run()
    rig.want(A)
    world.set_link(6, "calib", False)
    await asyncio.sleep(0.05)
    assert world.writes == ["fill"]
    assert world.has_route("10.1.0.9")
    rig.driver.on_in_sync()
    await rig.until_up(A)
    assert not world.has_route("10.1.0.9")


async def test_start_insists_on_reading_a_host_in_which_much_changes(
    rig: Rig, world: FakeWorld, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("felix.dataplane.driver._START_PAUSES_S", (0.0, 0.0))
    reads: list[str] = []

    async def read_host_at_the_third() -> HostState:
        reads.append("host")
        if len(reads) < 3:
            raise ResyncRequired("netlink: a dump was interrupted by changes")
        return await FakeWorld.read_host(world)

    monkeypatch.setattr(world, "read_host", read_host_at_the_third)
    await rig.start(A)
    await rig.until_up(A)
    assert reads == ["host"] * 3


async def test_table_that_cannot_be_made_ends_the_start(rig: Rig, world: FakeWorld) -> None:
    world.nft.is_refused = lambda line: "hook" in line
    with pytest.raises(KernelRefused, match="does not guard"):
        await rig.driver.start()


async def test_restart_on_a_right_kernel_writes_nothing(rig: Rig, world: FakeWorld) -> None:
    await rig.start(A, B)
    await rig.until_up(A, B)
    second = Rig(world)
    world.steps.clear()
    before = world.nft.writes
    await second.start(A, B)
    await second.until_up(A, B)
    assert world.nft.writes == before
    assert "routes" not in world.steps
    await second.stop()


# --- Failures ---


@pytest.mark.parametrize("error", [PeerError("no answer"), OSError(105, "no buffer space")])
@pytest.mark.parametrize("step", ["read_host", "read_table", "fill", "structure", "cleanup", "routes", "links"])
async def test_step_that_fails_is_made_up_for(rig: Rig, world: FakeWorld, step: str, error: Exception) -> None:
    await rig.start(B)
    await rig.until_up(B)
    opened_by_route: list[bool] = []
    world.before_step = lambda one: opened_by_route.append(world.is_open("calia")) if one == "routes" else None
    world.failures_by_step[step] = [error, error]
    delta = guarded("a", "calia", "10.1.0.1")
    delta.sets["s1"] = True
    (a,) = (one for one in delta.endpoints.values() if one is not None)
    if step in ("read_host", "read_table"):
        rig.driver._forget("links" if step == "read_host" else "nft")
    rig.tell(delta)
    if step == "cleanup":
        await rig.until_up(a)
        last = DesiredDelta()
        last.endpoints[a.key], last.sets["s1"] = None, None
        rig.tell(last)
    await rig.until(lambda: not world.failures_by_step[step])
    if step == "cleanup":
        await rig.until_up(B)
        assert not world.is_open("calia")
        return
    await rig.until_up(a, B)
    assert world.has_route("10.1.0.1")
    if step in ("fill", "structure", "read_table"):  # additions waited for the gate
        assert all(opened_by_route)


async def test_refused_chain_closes_its_endpoint_alone_and_is_told_once(rig: Rig, world: FakeWorld) -> None:
    world.nft.is_refused = lambda line: "meta l4proto 6 " in line
    await rig.driver.start()
    rig.want(B)
    delta = guarded("a", "calia", "10.1.0.1")
    rig.tell(delta)
    rig.driver.on_in_sync()
    rig.run()
    await rig.until_up(B)
    for _ in range(20):
        rig.tell(DesiredDelta())
        await rig.until(lambda: rig.cycles[-1].revision == rig.revision)
    (problems,) = rig.problems()
    assert len(problems) == 1
    assert "refuses its chain" in next(iter(problems.values()))
    assert rig.driver.oldest_wait_s(1e9) == 0.0


async def test_endpoint_that_cannot_be_served_is_named_and_keeps_nobody_waiting(rig: Rig, world: FakeWorld) -> None:
    stray = local_endpoint("c", "eth0", "10.1.0.3")
    await rig.start(A, stray)
    await rig.until_up(A)
    assert rig.condition(stray) is EndpointCondition.ERROR
    assert rig.driver.oldest_wait_s(1e9) == 0.0
    assert next(rig.problems()).keys() == {str(stray.key)}
    rig.want(without=stray)
    await rig.until(lambda: list(rig.problems())[-1] == {})


async def test_change_waits_as_long_as_the_kernel_refuses_all(rig: Rig, world: FakeWorld) -> None:
    await rig.start(A)
    await rig.until_up(A)
    world.failures_by_step["structure"] = [PeerError("no answer")] * 1000
    rig.want(without=A)
    await rig.until(lambda: bool(rig.cycles[-1].failures))
    assert rig.cycles[-1].revision == 0
    assert rig.driver.oldest_wait_s(1e9) > 1e6
    assert not world.flushed  # its packets are not stopped yet: entries would come again
    world.failures_by_step.clear()
    await rig.until(lambda: bool(world.flushed))
    assert rig.driver.oldest_wait_s(1e9) == 0.0


# --- Retries and rest ---


async def test_settled_driver_rests(rig: Rig, world: FakeWorld) -> None:
    await rig.start(A, B)
    await rig.until_up(A, B)
    before, steps = len(rig.cycles), len(world.steps)
    await asyncio.sleep(0.2)
    assert len(rig.cycles) == before
    assert len(world.steps) == steps


async def test_change_without_effect_makes_no_call(rig: Rig, world: FakeWorld) -> None:
    await rig.start(A)
    await rig.until_up(A)
    steps = len(world.steps)
    rig.tell(DesiredDelta())
    await rig.until(lambda: rig.cycles[-1].revision == rig.revision)
    assert len(world.steps) == steps


async def test_refused_route_is_retried_at_growing_waits_whatever_else_happens(
    rig: Rig, world: FakeWorld, caplog: pytest.LogCaptureFixture
) -> None:
    attempts: list[float] = []
    loop = asyncio.get_running_loop()

    def refuse(step: str) -> None:
        if step == "routes":
            world.host.links[5] = ("calia", False)  # and nobody hears of it
            attempts.append(loop.time())

    world.before_step = refuse
    await rig.start(A)
    until = loop.time() + 1.5
    while loop.time() < until:  # a busy host: a cycle every 10 ms
        rig.tell(DesiredDelta())
        await asyncio.sleep(0.01)
    assert len(rig.cycles) > 30
    assert 3 <= len(attempts) <= 8
    assert len([one for one in caplog.records if "tried again" in one.getMessage()]) <= len(attempts)
    assert rig.condition(A) is EndpointCondition.ERROR
    assert rig.driver.oldest_wait_s(1e9) == 0.0
    world.before_step = lambda _: None
    world.host.links[5] = ("calia", True)
    await rig.until_up(A)


async def test_somebody_who_undoes_everything_does_not_keep_the_driver_busy(rig: Rig, world: FakeWorld) -> None:
    await rig.start(A)
    await rig.until_up(A)

    def undo() -> None:
        world.host.table.clear()
        rig.driver._routes.mark_unknown()  # without an event, every cycle finds that something is left to do

    world.after_routes = undo
    undo()
    rig.tell(DesiredDelta())
    await asyncio.sleep(1.0)
    assert 10 <= len(rig.cycles) <= 40


# --- What comes while a cycle runs ---


@pytest.mark.parametrize("step", ["fill", "structure", "links", "routes"])
async def test_change_in_the_middle_of_a_cycle_is_taken_by_the_next(rig: Rig, world: FakeWorld, step: str) -> None:
    delta = guarded("b", "calib", "10.1.0.2")
    delta.sets["s1"] = True

    def interrupt(one: str) -> None:
        if one == step and rig.revision == 1:
            rig.tell(delta)

    await rig.driver.start()
    world.before_step = interrupt
    first = guarded("a", "calia", "10.1.0.1")
    first.sets["s0"] = True  # so that there is something to fill
    rig.tell(first)
    rig.driver.on_in_sync()
    rig.run()
    await rig.until(lambda: rig.condition_of(endpoint_key("b")) is EndpointCondition.UP)
    await rig.until(lambda: rig.cycles[-1].is_settled)
    assert len(rig.cycles) <= 3
    assert all(not cycle.failures for cycle in rig.cycles)


@pytest.mark.parametrize("step", ["fill", "structure", "links", "routes"])
async def test_interface_that_comes_in_the_middle_of_a_cycle_is_no_error_of_its_endpoint(
    rig: Rig, world: FakeWorld, step: str
) -> None:
    world.host.set_link(5, "calia", False)
    delta = guarded("b", "calib", "10.1.0.2")
    delta.sets["s1"] = True

    def plug_in(one: str) -> None:
        if one == step and rig.revision == 2:
            world.set_link(5, "calia")

    await rig.start(A)
    await rig.until(lambda: rig.condition(A) is EndpointCondition.DOWN)
    world.before_step = plug_in
    rig.tell(delta)
    await rig.until_up(A)
    told = [report.condition for cycle in rig.cycles if (report := cycle.endpoints.get(A.key)) is not None]
    assert told == [EndpointCondition.DOWN, EndpointCondition.UP]


async def test_interface_that_goes_while_routes_are_written_is_noticed(rig: Rig, world: FakeWorld) -> None:
    def pull(step: str) -> None:
        if step == "routes":
            world.before_step = lambda _: None
            world.set_link(5, None)

    world.before_step = pull
    await rig.start(A)
    await rig.until(lambda: rig.condition(A) is EndpointCondition.DOWN)
    world.set_link(7, "calia")
    await rig.until_up(A)
    assert world.has_route("10.1.0.1")


# --- Connections ---


async def test_reassigned_address_loses_old_connections_before_its_new_route(rig: Rig, world: FakeWorld) -> None:
    await rig.start(A)
    await rig.until_up(A)
    heir = local_endpoint("heir", "calib", "10.1.0.1")
    world.steps.clear()
    rig.want(heir, without=A)
    await rig.until_up(heir)
    assert world.steps.index("structure") < world.steps.index("flush")
    last_route = len(world.steps) - 1 - world.steps[::-1].index("routes")
    assert world.steps.index("flush") < last_route
    assert world.host.table[RouteKey(parse_address("10.1.0.1"), 0)][0].value.interface == 6
    await rig.until(lambda: len(world.flushed) == 2)
    assert world.flushed == [frozenset({parse_address("10.1.0.1")}), frozenset({parse_address("fd01::1")})]


async def test_heir_waits_for_a_flush_that_is_under_way(rig: Rig, world: FakeWorld) -> None:
    await rig.start(A, B)
    await rig.until_up(A, B)
    world.flushing.clear()
    rig.want(without=A)
    await rig.until(lambda: world.steps[-1] == "flush")
    heir = local_endpoint("heir", "calib2", "10.1.0.1")
    world.set_link(8, "calib2")
    rig.want(heir, without=B)
    await rig.until(lambda: world.is_open("calib2"))
    await asyncio.sleep(0.02)
    assert not world.has_route("10.1.0.1")
    world.flushing.set()
    await rig.until_up(heir)
    await rig.until(lambda: len(world.flushed) == 2)
    assert world.flushed == [frozenset(A.addresses), frozenset(B.addresses)]


# --- Others ---


async def test_route_that_somebody_removes_comes_back_and_he_is_named(rig: Rig, world: FakeWorld) -> None:
    await rig.start(A)
    await rig.until_up(A)
    key = RouteKey(parse_address("10.1.0.1"), 0)
    world.host.remove(key, world.host.table[key][0], port=os.getpid())
    world.deliver()
    await rig.until(lambda: world.has_route("10.1.0.1"))
    ((family, program),) = rig.foreign
    assert family == "routes"
    assert program


async def test_table_that_somebody_removes_comes_back_and_he_is_named(rig: Rig, world: FakeWorld) -> None:
    await rig.start(A)
    await rig.until_up(A)
    world.nft.table = None
    assert world.news is not None
    world.news.on_foreign_table(Culprit(7, "nft"))
    await rig.until(lambda: world.is_open("calia"))
    assert rig.foreign == [("nft", "nft")]


async def test_lost_events_are_read_anew_and_counted_but_nobody_is_blamed(rig: Rig, world: FakeWorld) -> None:
    await rig.start(A)
    await rig.until_up(A)
    assert world.news is not None
    world.host.links[5] = ("calia", False)
    world.host.table.clear()
    world.news.on_lost()
    world.news.on_foreign_table(Culprit(0, ""))
    await rig.until(lambda: rig.condition(A) is EndpointCondition.DOWN)
    assert rig.driver.counts.lost_by_family == {"routes": 1, "nft": 1}
    assert rig.foreign == []


async def test_bug_in_a_flush_ends_the_driver(rig: Rig, world: FakeWorld) -> None:
    await rig.start(A)
    await rig.until_up(A)
    world.failures_by_step["flush"] = [AssertionError("bug")]
    rig.want(without=A)
    await rig.until(lambda: "flush" in world.steps)
    rig.tell(DesiredDelta())
    with pytest.raises(AssertionError, match="bug"):
        await rig.until(lambda: False, within_s=2.0)
    rig._task = None
