"""The law of revocation: open connections are judged as new ones would be; none that a change ended is forgotten."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import replace
from typing import TypeVar

from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from felix.calc.graph import CalcGraph
from felix.dataplane.addresses.types import AddressEvent
from felix.dataplane.conntrack.revoke import RevocationPlan
from felix.dataplane.hosts import HostInterfaces
from felix.dataplane.nft.plan import NftPlan
from felix.dataplane.nft.types import NftConfig
from felix.model.keys import ResourceKey
from felix.model.net import Net, parse_net
from felix.policy.evaluate import World, evaluate
from felix.policy.host import Port, evaluate_forwarded, evaluate_received, evaluate_sent
from felix.policy.host_settings import HostSettings
from felix.policy.packet import Packet, Way
from tests.model.host_worlds import host_worlds
from tests.model.worlds import PROTOCOLS, draw_packet, packets, world_updates, worlds, worlds_with_packets

HOST = "h1"
OWN = (parse_net("192.0.2.130"), parse_net("2001:db8::82"))
UPLINK = Port("eth0", frozenset(OWN))
R = TypeVar("R")


class Host:
    """What an agent on HOST knows, and whose connections it would look at."""

    def __init__(self) -> None:
        self.graph = CalcGraph(HOST)
        self.nft = NftPlan(NftConfig())
        self.revocation = RevocationPlan()
        self._interfaces = HostInterfaces(("cali",))
        self._interfaces.start_read()
        addresses = [AddressEvent(2, net, True) for net in OWN]
        self._interfaces.replace_believed([(2, UPLINK.name)], addresses)
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
        self._interfaces.on_delta(delta.host_endpoints)
        bindings = self._interfaces.pop_bindings()
        self.nft.bind_hosts(bindings)
        self.revocation.on_hosts(bindings)
        self.revocation.commit()

    @property
    def interfaces(self) -> dict[Net, str]:
        """The interface of each workload's address."""
        return {net: one.interface for one in self.nft.endpoints.values() for net in one.addresses}

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
        if looked_at is not None and not host.is_allowed(packet):
            assert {packet.source_net, packet.destination_net} & looked_at, packet
    assert not host.revocation.has_due


def _ways(packet: Packet, host: Host) -> dict[Net, Way]:
    """Returns the ways of a host that has one uplink, and an interface for each of its workloads."""
    return {
        net: Way("lo", True) if net in OWN else Way(host.interfaces.get(net, UPLINK.name))
        for net in (packet.source_net, packet.destination_net)
    }


@st.composite
def _host_cases(draw: st.DrawFn) -> tuple[World, list[tuple[Packet, Packet]]]:
    """A world with host endpoints, and packets before and after somebody's translation of their destinations."""
    world = draw(host_worlds())
    cases = []
    for _ in range(20):
        first = draw_packet(draw, world, PROTOCOLS)
        packet = first
        match draw(st.integers(0, 4)):
            case 0:
                first = packet = first._replace(source=_own(first).value)
            case 1:
                first = packet = first._replace(destination=_own(first).value)
            case 2:
                packet = first._replace(destination=_own(first).value, **_port(draw, first))
            case 3:
                other = draw_packet(draw, world, PROTOCOLS)
                if other.version == first.version:
                    packet = first._replace(destination=other.destination)
            case _:
                pass
        cases.append((first, packet))
    return world, cases


def _own(packet: Packet) -> Net:
    return OWN[packet.version == 6]


def _port(draw: st.DrawFn, packet: Packet) -> dict[str, int]:
    return {} if packet.destination_port is None else {"destination_port": draw(st.sampled_from([22, 80, 8080]))}


def _means(world: World, host: Host, first: Packet, packet: Packet) -> bool:
    source, destination = packet.source_net, packet.destination_net
    if source in OWN and destination in OWN:
        return True
    if source in OWN:
        is_own_workload = destination in host.interfaces
        return is_own_workload or evaluate_sent(world, HOST, UPLINK, first, packet).allowed
    if destination in OWN:
        assert source not in host.interfaces
        return evaluate_received(world, HOST, UPLINK, first, packet).allowed
    ports = tuple(None if net in host.interfaces else UPLINK for net in (source, destination))
    return evaluate_forwarded(world, HOST, (ports[0], ports[1]), first, packet).allowed


@settings(max_examples=80, deadline=None, suppress_health_check=list(HealthCheck))
@given(case=_host_cases())
def test_open_connection_of_a_host_endpoint_is_judged_as_its_first_packet_would_be(
    case: tuple[World, list[tuple[Packet, Packet]]],
) -> None:
    world, samples = case
    host = Host()
    host.learn(world)
    verdicts, failsafes = host.nft.verdicts, HostSettings()
    for first, packet in samples:
        if packet.destination_net in OWN and packet.source_net in host.interfaces:
            continue  # a workload and its host: no matter of host endpoints
        allowed = verdicts.is_allowed(packet, _ways(packet, host), first)
        is_answer = any(
            failsafes.is_failsafe_untracked(one, is_inward=inward) and not failsafes.is_failsafe(one, is_inward=inward)
            for one in (first, packet)
            for inward in (True, False)
        )
        if not is_answer:  # of a failsafe: it may be one in the wrong order
            assert allowed is _means(world, host, first, packet), (first, packet)
        if verdicts.is_certain(packet, first):
            assert allowed


@settings(max_examples=30, deadline=None, suppress_health_check=list(HealthCheck))
@given(data=st.data())
def test_connection_that_a_change_of_host_endpoints_ends_is_looked_at(data: st.DataObject) -> None:
    before = data.draw(host_worlds())
    after = data.draw(_host_variants(before))
    host = Host()
    host.learn(before)
    host.revocation.take()
    samples = [data.draw(packets(world)) for world in (before, after) for _ in range(4)]
    samples += [packet._replace(destination=_own(packet).value) for packet in samples]
    samples += [packet._replace(source=_own(packet).value) for packet in samples[:8]]
    opened = [one for one in samples if host.nft.verdicts.is_allowed(one, _ways(one, host))]
    host.learn(after)
    looked_at = host.revocation.take()
    for packet in opened:
        if not host.nft.verdicts.is_allowed(packet, _ways(packet, host)) and looked_at is not None:
            assert {packet.source_net, packet.destination_net} & looked_at, packet


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


@st.composite
def _host_variants(draw: st.DrawFn, world: World) -> World:
    """The same world with some other policies and network sets, perhaps with other host endpoints."""
    other = draw(host_worlds())
    return replace(
        world,
        host_endpoints=draw(st.sampled_from([world, other])).host_endpoints,
        policies=_mix(draw, world.policies, other.policies),
        network_sets=_mix(draw, world.network_sets, other.network_sets),
    )


def _mix(draw: st.DrawFn, mine: Mapping[ResourceKey, R], others: Mapping[ResourceKey, R]) -> dict[ResourceKey, R]:
    kept = {key: record for key, record in mine.items() if draw(st.integers(0, 3))}
    return {key: others[key] if key in others and not draw(st.integers(0, 2)) else kept[key] for key in kept}
