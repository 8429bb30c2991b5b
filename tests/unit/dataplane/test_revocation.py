"""When open connections are judged, and what becomes of those that are no longer allowed."""

from __future__ import annotations

from felix.calc.desired import CompiledPolicy, DesiredDelta
from felix.dataplane.conntrack.types import OpenFlow
from felix.dataplane.nft.types import Culprit
from felix.model.net import parse_address
from felix.policy.packet import TCP, UDP, Packet
from tests.unit.dataplane.fake_world import FakeWorld, Rig
from tests.unit.dataplane.test_driver import PROFILE, guarded

MINE, PEER = parse_address("10.1.0.1"), parse_address("10.9.0.1")
DENY_ALL = CompiledPolicy((), ())


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
    assert world.looks[-1] == {MINE}
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
