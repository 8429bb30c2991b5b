"""The reference meaning of policy: what happens to a packet in a given world, written to be read, not to be fast.

Everything that renders policy into a kernel has to agree with this file. It looks at stored records directly, scans
all of them for every question, and shares with calculation nothing but the conversion of texts and the sort keys.
"""

from __future__ import annotations

import enum
from collections.abc import Collection, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from typing import NamedTuple, assert_never

from felix.calc.desired import Action, IcmpMatch, PortRange
from felix.model.endpoints import EndpointPort
from felix.model.keys import ResourceKey
from felix.model.net import Net, parse_net
from felix.model.records import (
    GlobalNetworkPolicy,
    GlobalNetworkSet,
    HostEndpoint,
    IPPool,
    NetworkPolicy,
    NetworkSet,
    Node,
    Profile,
    StagedGlobalNetworkPolicy,
    StagedNetworkPolicy,
    Tier,
    WorkloadEndpoint,
)
from felix.model.values import protocol_number
from felix.policy.host_settings import HostSettings
from felix.policy.order import PolicyPlace, TierPlace, place_of_missing_tier, policy_sort_key, tier_sort_key
from felix.policy.packet import Packet
from felix.policy.rules import ScopedEntity, ScopedRule, scope_rule
from felix.policy.scope import (
    endpoint_labels,
    host_endpoint_labels,
    network_set_labels,
    network_set_parents,
    policy_selector,
)
from felix.policy.staged import is_staged, is_tried
from felix.selector.parse import Selector, SelectorError

Policy = GlobalNetworkPolicy | NetworkPolicy | StagedGlobalNetworkPolicy | StagedNetworkPolicy


class Direction(enum.Enum):
    """Seen from the endpoint: INGRESS is towards it, EGRESS away from it."""

    INGRESS = "Ingress"
    EGRESS = "Egress"


class Step(NamedTuple):
    """One thing that had a say about a packet, in order.

    endpoint, direction: whose policy. tier: empty for profiles and for the end of all.
    policy: the policy or profile, None for the end of a tier or of all. rule: its index in that direction's list, or
    None. action: what it did; LOG and PASS let the packet go on.
    """

    endpoint: ResourceKey
    direction: Direction
    tier: str
    policy: ResourceKey | None
    rule: int | None
    action: Action


class _RuleStep(NamedTuple):
    rule: int
    action: Action


class Verdict(NamedTuple):
    """Whether the packet passes, and every step that led to it; the last one decided.

    staged: what each staged policy that saw the packet would have done; one without a rule for it is not told.
    """

    allowed: bool
    trace: tuple[Step, ...]
    staged: tuple[Step, ...] = ()


@dataclass(frozen=True)
class World:
    """All records that policy depends on, by key."""

    workloads: Mapping[ResourceKey, WorkloadEndpoint] = field(default_factory=dict)
    host_endpoints: Mapping[ResourceKey, HostEndpoint] = field(default_factory=dict)
    profiles: Mapping[ResourceKey, Profile] = field(default_factory=dict)
    tiers: Mapping[ResourceKey, Tier] = field(default_factory=dict)
    policies: Mapping[ResourceKey, Policy] = field(default_factory=dict)
    network_sets: Mapping[ResourceKey, NetworkSet | GlobalNetworkSet] = field(default_factory=dict)
    settings: HostSettings = field(default_factory=HostSettings)
    pools: Mapping[ResourceKey, IPPool] = field(default_factory=dict)
    nodes: Mapping[ResourceKey, Node] = field(default_factory=dict)


def evaluate(world: World, packet: Packet, host: str | None = None) -> Verdict:
    """Returns what becomes of a packet that hosts forward: egress of its source, then ingress of its destination.

    Addresses that are no workload's have no policy of their own here. host: only workloads of this node are asked;
    None: all are, as if the packet crossed both hosts. A packet that concerns no workload is allowed.
    """
    sender, receiver = (
        None if owner is None or host not in (None, world.workloads[owner].spec.node) else owner
        for owner in (find_workload(world, packet.source_net), find_workload(world, packet.destination_net))
    )
    return evaluate_between(world, packet, sender, receiver)


def evaluate_between(world: World, packet: Packet, sender: ResourceKey | None, receiver: ResourceKey | None) -> Verdict:
    """Returns what becomes of a packet from one workload to another, whatever its addresses; None: of no workload."""
    trace: list[Step] = []
    staged: list[Step] = []
    for owner, direction in ((sender, Direction.EGRESS), (receiver, Direction.INGRESS)):
        if owner is None:
            continue
        if direction is Direction.EGRESS and world.settings.is_encapsulated(packet):
            return Verdict(False, (*trace, Step(owner, direction, "", None, None, Action.DENY)), tuple(staged))
        verdict = evaluate_endpoint(world, owner, direction, packet)
        trace.extend(verdict.trace)
        staged.extend(verdict.staged)
        if not verdict.allowed:
            return Verdict(False, tuple(trace), tuple(staged))
    return Verdict(True, tuple(trace), tuple(staged))


def evaluate_endpoint(world: World, endpoint: ResourceKey, direction: Direction, packet: Packet) -> Verdict:
    """Returns what one workload endpoint's policy says about a packet in one direction: tiers, profiles, then deny."""
    trace: list[Step] = []
    staged: list[Step] = []
    stack = find_tiers(world, endpoint, direction), find_profiles(world, endpoint)
    last = evaluate_policies(world, endpoint, direction, packet, stack=stack, trace=trace, staged=staged)
    if last is None:
        trace.append(Step(endpoint, direction, "", None, None, Action.DENY))
    return Verdict(last is Action.ALLOW, tuple(trace), tuple(staged))


Tiers = list[tuple[TierPlace, list[ResourceKey]]]


def evaluate_policies(
    world: World,
    endpoint: ResourceKey,
    direction: Direction,
    packet: Packet,
    *,
    stack: tuple[Tiers, list[ResourceKey]],
    trace: list[Step],
    staged: list[Step],
) -> Action | None:
    """Returns ALLOW or DENY as tiers and then profiles say, None if they leave it open; adds to the lists how."""
    tiers, profiles = stack
    for tier, policies in tiers:
        action = None
        for key in policies:
            steps = [
                Step(endpoint, direction, tier.name, key, number, done)
                for number, done in _find_steps(world, key, direction, packet)
            ]
            if is_staged(key.kind):
                staged += [step for step in steps if step.action is not Action.LOG]
                continue
            trace += steps
            action = steps[-1].action if steps else None
            if action not in (None, Action.LOG):
                break
        if all(is_staged(key.kind) for key in policies):
            continue
        if action in (None, Action.LOG):
            action = tier.default_action
            trace.append(Step(endpoint, direction, tier.name, None, None, action))
        if action is not Action.PASS:
            return action
    for key in profiles:
        found = list(_find_steps(world, key, direction, packet))
        trace.extend(Step(endpoint, direction, "", key, number, done) for number, done in found)
        if found and found[-1].action in (Action.ALLOW, Action.DENY):
            return found[-1].action
    return None


def find_tiers(
    world: World, endpoint: ResourceKey, direction: Direction, among: Collection[ResourceKey] | None = None
) -> Tiers:
    """Returns the tiers that are asked about an endpoint, in order, each with its policies in order (at least one).

    Staged policies are among them; a tier that has no others decides nothing.
    among: the policies that are meant; None: those that are asked about workloads.
    """
    labels = get_labels(world, endpoint)
    places_by_tier: dict[TierPlace, list[tuple[PolicyPlace, ResourceKey]]] = {}
    for key, policy in world.policies.items():
        is_meant = is_about_workloads(policy) if among is None else key in among
        if not is_meant or direction.value not in policy.spec.types:
            continue
        selector = find_selector(key, policy)
        if selector is not None and selector.matches(labels):
            place = policy_sort_key(key, policy.spec.tier, policy.spec.order)
            places_by_tier.setdefault(get_tier_place(world, place.tier), []).append((place, key))
    return [(tier, [key for _, key in sorted(places)]) for tier, places in sorted(places_by_tier.items())]


def get_tier_place(world: World, name: str) -> TierPlace:
    """Returns where a tier stands and how it ends, stored or not."""
    tier = world.tiers.get(ResourceKey("Tier", "", name))
    return tier_sort_key(name, tier.spec.order, tier.spec.default_action) if tier else place_of_missing_tier(name)


def find_selector(key: ResourceKey, policy: Policy) -> Selector | None:
    """Returns the selector of the endpoints that a policy applies to; None if nobody can tell: it counts as missing."""
    namespace_selector = ""
    if isinstance(policy, GlobalNetworkPolicy | StagedGlobalNetworkPolicy):
        namespace_selector = policy.spec.namespace_selector
    try:
        return policy_selector(key.namespace, policy.spec.selector, namespace_selector)
    except SelectorError:
        return None


def is_about_workloads(policy: Policy) -> bool:
    """Whether a policy is asked about packets of workloads: untracked and pre-DNAT ones are for hosts."""
    match policy:
        case NetworkPolicy():
            return True
        case GlobalNetworkPolicy():
            return not (policy.spec.do_not_track or policy.spec.pre_dnat)
        case StagedNetworkPolicy():
            return is_tried(policy)
        case StagedGlobalNetworkPolicy():
            return is_tried(policy) and not (policy.spec.do_not_track or policy.spec.pre_dnat)
        case _:
            assert_never(policy)


def find_profiles(world: World, endpoint: ResourceKey) -> list[ResourceKey]:
    """Returns the profiles of an endpoint that exist, in the order of its record; a missing one contributes nothing."""
    keys = [ResourceKey("Profile", "", name) for name in world.workloads[endpoint].spec.profiles]
    return [key for key in keys if key in world.profiles]


def _find_steps(world: World, key: ResourceKey, direction: Direction, packet: Packet) -> Iterator[_RuleStep]:
    """Yields the rules of a policy or profile that match, in order, up to and including the first that decides."""
    spec = world.profiles[key].spec if key.kind == "Profile" else world.policies[key].spec
    rules = spec.ingress if direction is Direction.INGRESS else spec.egress
    for number, rule in enumerate(rules):
        scoped = scope_rule(key.namespace, rule)
        if is_match(world, scoped, packet):
            yield _RuleStep(number, scoped.action)
            if scoped.action is not Action.LOG:
                return


def is_match(world: World, rule: ScopedRule, packet: Packet) -> bool:
    """Whether all conditions of a rule hold for a packet."""
    return (
        rule.ip_version in (None, packet.version)
        and rule.protocol in (None, packet.protocol)
        and (rule.not_protocol is None or rule.not_protocol != packet.protocol)
        and (rule.icmp is None or _is_icmp(rule.icmp, packet))
        and (rule.not_icmp is None or not _is_icmp(rule.not_icmp, packet))
        and _is_side_match(world, rule.source, _Side(packet.source_net, packet.protocol, packet.source_port))
        and _is_side_match(
            world, rule.destination, _Side(packet.destination_net, packet.protocol, packet.destination_port)
        )
    )


def _is_icmp(icmp: IcmpMatch, packet: Packet) -> bool:
    return packet.icmp_type == icmp.type and icmp.code in (None, packet.icmp_code)


class _Side(NamedTuple):
    """One end of a packet. port: None if the protocol has none."""

    address: Net
    protocol: int
    port: int | None


def _is_side_match(world: World, side: ScopedEntity, end: _Side) -> bool:
    address = end.address
    return (
        (side.nets is None or any(_is_inside(address, net) for net in side.nets))
        and not any(_is_inside(address, net) for net in side.not_nets)
        and (side.selector is None or is_member(world, side.selector, address))
        and (side.not_selector is None or not is_member(world, side.not_selector, address))
        and (
            (side.ports is None and not side.port_names)
            or _is_port_in(end.port, side.ports or ())
            or any(_is_named_port(world, side.selector, name, end) for name in side.port_names)
        )
        and not _is_port_in(end.port, side.not_ports)
        and not any(_is_named_port(world, side.selector, name, end) for name in side.not_port_names)
    )


def _is_named_port(world: World, selector: Selector | None, name: str, end: _Side) -> bool:
    """Whether an endpoint that the selector matches (None: any) has this address and, under `name`, this port."""
    for key, texts, ports in _find_ports(world):
        numbers = {(protocol_number(one.protocol), one.port) for one in ports if one.name == name}
        is_its = end.address in map(parse_net, texts) and (end.protocol, end.port) in numbers
        if is_its and (selector is None or selector.matches(get_labels(world, key))):
            return True
    return False


def _find_ports(world: World) -> Iterator[tuple[ResourceKey, Sequence[str], Sequence[EndpointPort]]]:
    for key, workload in world.workloads.items():
        yield key, workload.spec.ip_networks, workload.spec.ports
    for key, host_endpoint in world.host_endpoints.items():
        yield key, host_endpoint.spec.expected_ips, host_endpoint.spec.ports


def _is_inside(address: Net, net: Net) -> bool:
    # Never for the other family: a condition on nets fails for it, an exception of nets says nothing about it.
    return address.version == net.version and net.value <= address.value <= net.last


def _is_port_in(port: int | None, ranges: tuple[PortRange, ...]) -> bool:
    return port is not None and any(ports.first <= port <= ports.last for ports in ranges)


def is_member(world: World, selector: Selector, address: Net) -> bool:
    """Whether an address belongs to an endpoint, or lies in a net of a network set, that a selector matches."""
    return any(
        _is_inside(address, parse_net(text))
        for key, texts in find_nets(world)
        for text in texts
        if selector.matches(get_labels(world, key))
    )


def find_nets(world: World) -> Iterator[tuple[ResourceKey, Sequence[str]]]:
    """Yields everything that selectors can name, with its addresses or nets."""
    for key, workload in world.workloads.items():
        yield key, workload.spec.ip_networks
    for key, host_endpoint in world.host_endpoints.items():
        yield key, host_endpoint.spec.expected_ips
    for key, network_set in world.network_sets.items():
        yield key, network_set.spec.nets


def get_labels(world: World, key: ResourceKey) -> dict[str, str]:
    """Returns the effective labels of an endpoint or network set: those of its profiles in order, its own over all."""
    parents: Sequence[str]
    if key in world.workloads:
        workload = world.workloads[key]
        own, parents = endpoint_labels(workload), workload.spec.profiles
    elif key in world.host_endpoints:
        host_endpoint = world.host_endpoints[key]
        own, parents = host_endpoint_labels(host_endpoint.metadata.labels), host_endpoint.spec.profiles
    else:
        network_set = world.network_sets[key]
        own = network_set_labels(key.namespace, network_set.metadata.labels)
        parents = network_set_parents(key.namespace)
    merged: dict[str, str] = {}
    for name in parents:
        profile = world.profiles.get(ResourceKey("Profile", "", name))
        if profile is not None:
            merged.update(profile.spec.labels_to_apply)
    return merged | own


def find_workload(world: World, address: Net) -> ResourceKey | None:
    """Returns the workload that owns an address; of several that claim it, the one with the lowest key."""
    claims = [key for key, workload in world.workloads.items() if address in map(parse_net, workload.spec.ip_networks)]
    return min(claims, default=None)
