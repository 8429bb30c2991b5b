"""The reference meaning of host endpoints: what becomes of a packet at the host's own interfaces. See `evaluate`.

At an interface of the host packets meet, in this order: untracked policy of the interface that they come in by; policy
before their destination may be translated; and then, by where they go, either the policy for what is to the host
itself, or that for what it passes on, with the policies of workloads on both sides and of the interface that they leave
by. What an earlier policy allows, a later one of the same interface and direction does not deny.
"""

from __future__ import annotations

import enum
from collections.abc import Iterable
from typing import NamedTuple

from felix.calc.desired import Action
from felix.model.keys import ResourceKey
from felix.model.net import Net, parse_net
from felix.model.records import GlobalNetworkPolicy, StagedGlobalNetworkPolicy
from felix.policy.evaluate import (
    Direction,
    Step,
    Tiers,
    Verdict,
    World,
    evaluate,
    evaluate_between,
    evaluate_policies,
    find_tiers,
)
from felix.policy.packet import Packet
from felix.policy.staged import is_tried

ALL_INTERFACES = "*"


class Kind(enum.Enum):
    """Where policy of host endpoints is met."""

    UNTRACKED = "doNotTrack"
    PRE_DNAT = "preDNAT"
    NORMAL = "normal"
    FORWARD = "applyOnForward"


class _Told(NamedTuple):
    """What happened so far, as in `Verdict`."""

    trace: list[Step]
    staged: list[Step]

    def decide(self, allowed: bool) -> Verdict:
        """Returns this as the verdict."""
        return Verdict(allowed, tuple(self.trace), tuple(self.staged))


class Port(NamedTuple):
    """An interface of a host: its name, and the addresses that it has."""

    name: str
    addresses: frozenset[Net] = frozenset()


def find_host_endpoint(world: World, host: str, port: Port) -> ResourceKey | None:
    """Returns the host endpoint of an interface: the lowest key of those that claim it, else the one for all."""
    named: list[ResourceKey] = []
    for_all: list[ResourceKey] = []
    for key, record in world.host_endpoints.items():
        spec = record.spec
        if spec.node != host:
            continue
        if spec.interface_name == ALL_INTERFACES:
            for_all.append(key)
        elif spec.interface_name == port.name or (
            not spec.interface_name and port.addresses & set(map(parse_net, spec.expected_ips))
        ):
            named.append(key)
    return min(named or (for_all if port.name != "lo" else []), default=None)


def evaluate_received(world: World, host: str, port: Port, packet: Packet, translated: Packet | None = None) -> Verdict:
    """Returns whether a packet from outside reaches a program of the host itself, as the first of a flow.

    translated: what the packet is after its destination was translated; None: as before.
    """
    told = _Told([], [])
    endpoint = find_host_endpoint(world, host, port)
    if endpoint is None:
        return Verdict(True, ())
    early = _evaluate_early(world, endpoint, packet, told)
    if early is not None:
        return told.decide(early)
    after = translated or packet
    if world.settings.is_failsafe(after, is_inward=True):
        return told.decide(True)
    last = _decide(world, (endpoint, Kind.NORMAL, Direction.INGRESS), after, told)
    return told.decide(last is Action.ALLOW)


def evaluate_sent(world: World, host: str, port: Port, packet: Packet, translated: Packet | None = None) -> Verdict:
    """Returns whether a packet of the host itself leaves by that interface, as the first of a flow.

    translated: what the packet is after its destination was translated; None: as before.
    """
    told = _Told([], [])
    endpoint = find_host_endpoint(world, host, port)
    if endpoint is None:
        return Verdict(True, ())
    untracked = _decide_untracked(world, endpoint, Direction.EGRESS, packet, told)
    if untracked is not None:
        return told.decide(untracked)
    after = translated or packet
    if world.settings.is_failsafe(after, is_inward=False):
        return told.decide(True)
    last = _decide(world, (endpoint, Kind.NORMAL, Direction.EGRESS), after, told)
    return told.decide(last is Action.ALLOW)


def evaluate_forwarded(
    world: World,
    host: str,
    ports: tuple[Port | None, Port | None],
    packet: Packet,
    translated: Packet | None = None,
    *,
    ends: tuple[ResourceKey | None, ResourceKey | None] | None = None,
) -> Verdict:
    """Returns whether the host passes a packet on, as the first of a flow.

    ports: where it comes in and where it leaves; None: a workload's interface.
    ends: the workloads behind these interfaces; None: those that own its addresses.
    """
    told = _Told([], [])
    after = translated or packet
    entry, exit_ = (None if port is None else find_host_endpoint(world, host, port) for port in ports)
    if entry is not None:
        early = _evaluate_early(world, entry, packet, told)
        if early is None and find_host_tiers(world, entry, Kind.FORWARD, Direction.INGRESS):
            early = _decide(world, (entry, Kind.FORWARD, Direction.INGRESS), after, told) is not Action.DENY
        if early is False:
            return told.decide(False)
    between = evaluate(world, after, host) if ends is None else evaluate_between(world, after, *ends)
    told.trace.extend(between.trace)
    told.staged.extend(between.staged)
    if not between.allowed:
        return told.decide(False)
    if exit_ is not None and find_host_tiers(world, exit_, Kind.FORWARD, Direction.EGRESS):
        last = _decide(world, (exit_, Kind.FORWARD, Direction.EGRESS), after, told)
        return told.decide(last is not Action.DENY)
    return told.decide(True)


def is_untracked(world: World, host: str, port: Port, direction: Direction, packet: Packet) -> bool:
    """Whether connection tracking does not see the packet, because untracked policy allows it."""
    endpoint = find_host_endpoint(world, host, port)
    return endpoint is not None and _decide_untracked(world, endpoint, direction, packet, _Told([], [])) is True


def decide_early(world: World, host: str, port: Port, packet: Packet) -> bool | None:
    """Returns what is decided about an incoming packet before it is known where it goes; None: nothing."""
    endpoint = find_host_endpoint(world, host, port)
    return None if endpoint is None else _evaluate_early(world, endpoint, packet, _Told([], []))


def find_host_tiers(world: World, endpoint: ResourceKey, kind: Kind, direction: Direction) -> Tiers:
    """Returns the tiers that decide about a host endpoint in one place, in order, each with its policies in order."""
    return find_tiers(world, endpoint, direction, {key for key in world.policies if kind in _kinds_of(world, key)})


def _evaluate_early(world: World, endpoint: ResourceKey, packet: Packet, told: _Told) -> bool | None:
    """Returns what is decided about an incoming packet before it is known where it goes; None: nothing."""
    untracked = _decide_untracked(world, endpoint, Direction.INGRESS, packet, told)
    if untracked is not None:
        return untracked
    if world.settings.is_failsafe(packet, is_inward=True):
        return None
    last = _decide(world, (endpoint, Kind.PRE_DNAT, Direction.INGRESS), packet, told)
    return None if last is None else last is Action.ALLOW


def _decide_untracked(
    world: World, endpoint: ResourceKey, direction: Direction, packet: Packet, told: _Told
) -> bool | None:
    if world.settings.is_failsafe_untracked(packet, is_inward=direction is Direction.INGRESS):
        return None
    last = _decide(world, (endpoint, Kind.UNTRACKED, direction), packet, told)
    return None if last is None else last is Action.ALLOW


def _decide(world: World, asked: tuple[ResourceKey, Kind, Direction], packet: Packet, told: _Told) -> Action | None:
    """Returns ALLOW or DENY, None if policy of that kind leaves it to others."""
    endpoint, kind, direction = asked
    tiers = find_host_tiers(world, endpoint, kind, direction)
    if kind in (Kind.UNTRACKED, Kind.PRE_DNAT):
        tiers = [(tier._replace(default_action=Action.PASS), policies) for tier, policies in tiers]
    profiles = find_host_profiles(world, endpoint) if kind is Kind.NORMAL else []
    last = evaluate_policies(
        world, endpoint, direction, packet, stack=(tiers, profiles), trace=told.trace, staged=told.staged
    )
    if last is None and kind is Kind.NORMAL:
        told.trace.append(Step(endpoint, direction, "", None, None, Action.DENY))
        return Action.DENY
    return last


def find_host_profiles(world: World, endpoint: ResourceKey) -> list[ResourceKey]:
    """Returns the profiles of a host endpoint that exist, in the order of its record."""
    names: Iterable[str] = world.host_endpoints[endpoint].spec.profiles
    keys = [ResourceKey("Profile", "", name) for name in names]
    return [key for key in keys if key in world.profiles]


def _kinds_of(world: World, key: ResourceKey) -> set[Kind]:
    policy = world.policies[key]
    if isinstance(policy, StagedGlobalNetworkPolicy):
        if not is_tried(policy):
            return set()
    elif not isinstance(policy, GlobalNetworkPolicy):
        return set()
    if policy.spec.do_not_track:
        return {Kind.UNTRACKED}
    if policy.spec.pre_dnat:
        return {Kind.PRE_DNAT}
    return {Kind.NORMAL, Kind.FORWARD} if policy.spec.apply_on_forward else {Kind.NORMAL}
