"""The law of revocation: open connections are judged as new ones would be; none that a change ended is forgotten."""

from __future__ import annotations

from collections.abc import Mapping
from typing import TypeVar

from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from felix.calc.graph import CalcGraph
from felix.dataplane.conntrack.revoke import RevocationPlan
from felix.dataplane.nft.plan import NftPlan
from felix.dataplane.nft.types import NftConfig
from felix.model.keys import ResourceKey
from felix.policy.evaluate import World, evaluate
from felix.policy.packet import Packet
from tests.model.worlds import packets, world_updates, worlds, worlds_with_packets

HOST = "h1"
R = TypeVar("R")


class Host:
    """What an agent on HOST knows, and whose connections it would look at."""

    def __init__(self) -> None:
        self.graph = CalcGraph(HOST)
        self.nft = NftPlan(NftConfig())
        self.revocation = RevocationPlan()
        self._known: set[ResourceKey] = set()

    def learn(self, world: World) -> None:
        """The datastore holds exactly `world`."""
        updates = dict(world_updates(world))
        for key in self._known - updates.keys():
            self.graph.on_update(key, None)
        for key, record in updates.items():
            self.graph.on_update(key, record)
        self._known = set(updates)
        delta = self.graph.flush()
        self.nft.on_delta(delta)
        self.revocation.on_delta(delta, delta.endpoints)
        self.revocation.commit()

    def is_allowed(self, packet: Packet) -> bool:
        return self.nft.verdicts.is_allowed(packet)


@settings(max_examples=60, deadline=None, suppress_health_check=list(HealthCheck))
@given(case=worlds_with_packets())
def test_open_connection_is_judged_as_its_first_packet_would_be(case: tuple[World, list[Packet]]) -> None:
    world, samples = case
    host = Host()
    host.learn(world)
    for packet in samples:
        assert host.is_allowed(packet) is evaluate(world, packet, HOST).allowed, packet


@settings(max_examples=60, deadline=None, suppress_health_check=list(HealthCheck))
@given(data=st.data())
def test_connection_that_a_change_ends_is_looked_at(data: st.DataObject) -> None:
    before = data.draw(worlds())
    after = data.draw(st.one_of(_variants(before), worlds()))
    host = Host()
    host.learn(before)
    assert host.revocation.has_due  # at the start everything is
    host.revocation.take()
    samples = [data.draw(packets(world)) for world in (before, after) for _ in range(6)]
    opened = [packet for packet in samples if host.is_allowed(packet)]
    host.learn(after)
    looked_at = host.revocation.take()
    for packet in opened:
        if not host.is_allowed(packet):
            assert {packet.source_net, packet.destination_net} & looked_at, packet
    assert not host.revocation.has_due


@settings(max_examples=10, deadline=None, suppress_health_check=list(HealthCheck))
@given(world=worlds())
def test_world_that_does_not_change_is_not_looked_at_again(world: World) -> None:
    host = Host()
    host.learn(world)
    host.revocation.take()
    host.learn(world)
    assert not host.revocation.has_due


@st.composite
def _variants(draw: st.DrawFn, world: World) -> World:
    """The same world without some of its network sets, policies, profiles and workloads, or with others' instead."""
    other = draw(worlds())
    return World(
        workloads=_mix(draw, world.workloads, other.workloads),
        host_endpoints=world.host_endpoints,
        profiles=_mix(draw, world.profiles, other.profiles),
        tiers=world.tiers,
        policies=_mix(draw, world.policies, other.policies),
        network_sets=_mix(draw, world.network_sets, other.network_sets),
    )


def _mix(draw: st.DrawFn, mine: Mapping[ResourceKey, R], others: Mapping[ResourceKey, R]) -> dict[ResourceKey, R]:
    kept = {key: record for key, record in mine.items() if draw(st.integers(0, 3))}
    return {key: others[key] if key in others and not draw(st.integers(0, 2)) else kept[key] for key in kept}
