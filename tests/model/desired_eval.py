"""What desired state says about a packet: a small interpreter, to be compared with the reference and with kernels."""

from __future__ import annotations

from collections.abc import Mapping

from felix.calc.desired import (
    Action,
    CompiledPolicy,
    CompiledRule,
    EntityMatch,
    IcmpMatch,
    LocalEndpoint,
    PortMember,
    PortRange,
    SetRef,
    Stack,
)
from felix.model.net import Net
from felix.policy.host_settings import HostSettings
from felix.policy.packet import Packet
from felix.policy.staged import is_staged
from tests.model.desired_mirror import DesiredMirror


def is_allowed(desired: DesiredMirror, packet: Packet) -> bool:
    """Returns whether a forwarded packet passes: egress of the endpoint that owns its source, ingress of the other."""
    source = find_endpoint(desired, packet.source_net)
    destination = find_endpoint(desired, packet.destination_net)
    is_wrapped = source is not None and HostSettings().is_encapsulated(packet)
    if is_wrapped or (source is not None and not _passes(desired, source.egress, packet, is_ingress=False)):
        return False
    return destination is None or _passes(desired, destination.ingress, packet, is_ingress=True)


def find_endpoint(desired: DesiredMirror, address: Net) -> LocalEndpoint | None:
    """Returns the endpoint that owns an address, if any."""
    return next((endpoint for endpoint in desired.endpoints.values() if address in endpoint.addresses), None)


def _passes(desired: DesiredMirror, stack: Stack, packet: Packet, *, is_ingress: bool) -> bool:
    for tier in stack.tiers:
        decision = None
        for key in tier.policies:
            if is_staged(key.kind):
                continue
            decision = _decide(desired, desired.policies[key], packet, is_ingress=is_ingress)
            if decision is not None:
                break
        if decision is None:
            decision = tier.default_action
        if decision is not Action.PASS:
            return decision is Action.ALLOW
    for key in stack.profiles:
        if key in desired.policies:
            decision = _decide(desired, desired.policies[key], packet, is_ingress=is_ingress)
            if decision in (Action.ALLOW, Action.DENY):
                return decision is Action.ALLOW
    return False


def _decide(desired: DesiredMirror, policy: CompiledPolicy, packet: Packet, *, is_ingress: bool) -> Action | None:
    for rule in policy.ingress if is_ingress else policy.egress:
        if rule.action is not Action.LOG and _matches(desired, rule, packet):
            return rule.action
    return None


def _matches(desired: DesiredMirror, rule: CompiledRule, packet: Packet) -> bool:
    source = PortMember(packet.source_net, packet.protocol, packet.source_port or 0)
    destination = PortMember(packet.destination_net, packet.protocol, packet.destination_port or 0)
    return (
        rule.ip_version in (None, packet.version)
        and rule.protocol in (None, packet.protocol)
        and rule.not_protocol != packet.protocol
        and (rule.icmp is None or _has_icmp(rule.icmp, packet))
        and (rule.not_icmp is None or not _has_icmp(rule.not_icmp, packet))
        and _matches_side(desired.sets, rule.source, packet.source_net)
        and _matches_side(desired.sets, rule.destination, packet.destination_net)
        and _matches_port(desired, rule.source, source, has_port=packet.source_port is not None)
        and _matches_port(desired, rule.destination, destination, has_port=packet.destination_port is not None)
    )


def _matches_port(desired: DesiredMirror, side: EntityMatch, end: PortMember, *, has_port: bool) -> bool:
    port = end.port if has_port else None
    is_wanted = side.ports is not None or side.port_sets
    return (
        not is_wanted
        or _has_port(side.ports or (), port)
        or any(end in desired.port_sets[set_id] for set_id in side.port_sets)
    ) and not (
        _has_port(side.not_ports, port) or any(end in desired.port_sets[set_id] for set_id in side.not_port_sets)
    )


def _has_icmp(match: IcmpMatch, packet: Packet) -> bool:
    return match.type == packet.icmp_type and match.code in (None, packet.icmp_code)


def _matches_side(sets: Mapping[str, set[Net]], side: EntityMatch, address: Net) -> bool:
    return (
        (side.nets is None or any(net.__contains__(address) for net in side.nets))
        and not any(net.__contains__(address) for net in side.not_nets)
        and all(_is_member(sets[ref.id], ref, address) for ref in side.sets)
        and not any(_is_member(sets[ref.id], ref, address) for ref in side.not_sets)
    )


def _is_member(members: set[Net], ref: SetRef, address: Net) -> bool:
    """As a kernel would do it: the hash set always, the prefix set only where the reference says that there is one."""
    if address in members:
        return True
    has_prefixes = ref.nets4 if address.version == 4 else ref.nets6
    return has_prefixes and any(net.__contains__(address) for net in members if not net.is_address)


def _has_port(ranges: tuple[PortRange, ...], port: int | None) -> bool:
    return port is not None and any(first <= port <= last for first, last in ranges)
