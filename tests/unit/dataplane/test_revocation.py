"""When open connections are judged, and what becomes of those that are no longer allowed."""

from __future__ import annotations

from felix.calc.desired import CompiledPolicy, DesiredDelta, HostStacks
from felix.dataplane.conntrack.types import OpenFlow
from felix.dataplane.nft.types import Culprit
from felix.model.net import Net, parse_address
from felix.policy.packet import TCP, UDP, Packet, Way
from tests.model.host_worlds import make_host_endpoint
from tests.support.desired import NO_STACK
from tests.unit.dataplane.fake_world import FakeWorld, Rig
from tests.unit.dataplane.test_driver import PROFILE, guarded

MINE, PEER = parse_address("10.1.0.1"), parse_address("10.9.0.1")
DENY_ALL = CompiledPolicy((), ())
HOST = make_host_endpoint("eth0", HostStacks(NO_STACK, NO_STACK))


def flow(protocol: int, port: int = 80) -> OpenFlow:
    packet = Packet(4, PEER.value, MINE.value, protocol, 40000, port)
    return OpenFlow(packet, Packet(4, MINE.value, PEER.value, protocol, port, 40000), bytes([protocol]))


async def start(rig: Rig, world: FakeWorld) -> None:
    await rig.driver.start()
    rig.tell(guarded("a", "calia", "10.1.0.1"))
    rig.driver.on_in_sync()
    rig.run()
    await rig.until(lambda: bool(world.looks))


async def test_what_is_no_longer_allowed_is_cut_after_the_rules_stand(rig: Rig, world: FakeWorld) -> None:
    world.flows = [flow(TCP)]
    await start(rig, world)
    await rig.until(lambda: rig.cycles[-1].is_settled)
    assert world.flows
    steps = len(world.steps)
    rig.tell(DesiredDelta(policies={PROFILE: DENY_ALL}))
    await rig.until(lambda: not world.flows)
    assert "structure" in world.steps[steps:]
    assert world.looks[-1] == frozenset({MINE})
    assert rig.driver.counts.revoked == 1


async def test_start_cuts_what_policy_ceased_to_allow_meanwhile_and_nothing_else(rig: Rig, world: FakeWorld) -> None:
    world.flows = [flow(TCP), flow(UDP)]
    await start(rig, world)
    await rig.until(lambda: len(world.flows) == 1)
    assert world.flows == [flow(TCP)]


async def test_what_the_host_itself_opened_is_not_asked_about(rig: Rig, world: FakeWorld) -> None:
    world.flows, world.own = [flow(UDP)], frozenset({PEER})
    await start(rig, world)
    await rig.until(lambda: rig.cycles[-1].is_settled)
    rig.tell(DesiredDelta(policies={PROFILE: DENY_ALL}))
    await rig.until(lambda: len(world.looks) == 2)
    assert world.flows == [flow(UDP)]


async def test_what_was_opened_while_the_table_was_another_one_is_cut(rig: Rig, world: FakeWorld) -> None:
    await start(rig, world)
    await rig.until(lambda: rig.cycles[-1].is_settled)
    world.flows = [flow(UDP)]
    assert world.news is not None
    world.news.on_foreign_table(Culprit(7, "nft"))
    await rig.until(lambda: not world.flows)


async def test_look_that_failed_is_taken_again(rig: Rig, world: FakeWorld) -> None:
    await start(rig, world)
    await rig.until(lambda: rig.cycles[-1].is_settled)
    world.flows, world.flow_faults = [flow(TCP)], ["no answer"]
    rig.tell(DesiredDelta(policies={PROFILE: DENY_ALL}))
    await rig.until(lambda: not world.flows)
    assert not world.flow_faults


async def test_change_that_concerns_nobody_makes_no_look(rig: Rig, world: FakeWorld) -> None:
    await start(rig, world)
    await rig.until(lambda: rig.cycles[-1].is_settled)
    looks = len(world.looks)
    rig.tell(DesiredDelta())
    await rig.until(lambda: rig.cycles[-1].revision == rig.revision)
    assert len(world.looks) == looks


async def test_host_endpoint_that_appears_ends_what_it_denies_by_the_way_that_a_connection_takes(
    rig: Rig, world: FakeWorld
) -> None:
    """Two far ends, of which one is behind the interface with the host endpoint; and one is behind none."""
    far, other, lost, own = (parse_address(f"192.0.2.{number}") for number in (1, 2, 3, 130))
    flows = {net: _to_host(net, own) for net in (far, other, lost)}
    await start(rig, world)
    await rig.until(lambda: rig.cycles[-1].is_settled)
    world.flows = list(flows.values())
    world.ways = {far: Way("eth0"), other: Way("eth1"), own: Way("lo", True)}
    rig.tell(DesiredDelta(host_endpoints={HOST.key: HOST}))
    await rig.until(lambda: flows[far] not in world.flows)
    assert world.flows == [flows[other], flows[lost]]
    assert world.looks[-1] is None


async def test_failsafe_is_not_cut_be_it_tracked_from_its_first_packet_or_from_an_answer(
    rig: Rig, world: FakeWorld
) -> None:
    far, own = parse_address("192.0.2.1"), parse_address("192.0.2.130")
    kept = [_to_host(far, own, 22), _answered(_to_host(far, own, 22)), _answered(_to_host(own, far, 2379))]
    gone = _to_host(far, own, 23)
    await start(rig, world)
    await rig.until(lambda: rig.cycles[-1].is_settled)
    world.flows, world.ways = [*kept, gone], {far: Way("eth0"), own: Way("lo", True)}
    rig.tell(DesiredDelta(host_endpoints={HOST.key: HOST}))
    await rig.until(lambda: gone not in world.flows)
    assert world.flows == kept


def _to_host(source: Net, destination: Net, port: int = 80) -> OpenFlow:
    packet = Packet(4, source.value, destination.value, TCP, 40000, port)
    answer = Packet(4, destination.value, source.value, TCP, port, 40000)
    return OpenFlow(packet, answer, f"{source} {port}".encode())


def _answered(flow: OpenFlow) -> OpenFlow:
    return OpenFlow(flow.answer, flow.packet, b"-" + flow.removal)
