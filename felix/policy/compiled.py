"""What compiled policy says about one packet: the same meaning as `evaluate`, at the cost of one packet.

`evaluate` scans stored records and explains itself; this looks at what the kernel is told, so that the agent can ask it
about every open connection of an endpoint. A property test holds the two together.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Protocol

from felix.calc.desired import (
    Action,
    CompiledPolicy,
    CompiledRule,
    EntityMatch,
    IcmpMatch,
    PortMember,
    PortRange,
    SetRef,
    Stack,
)
from felix.model.keys import ResourceKey
from felix.model.net import Net
from felix.policy.evaluate import Direction
from felix.policy.packet import Packet
from felix.policy.staged import is_staged


class Members(Protocol):
    """Who is in the sets that compiled rules name."""

    def is_member(self, reference: SetRef, address: Net) -> bool:
        """Whether an address, or a prefix around it, is in the set."""

    def is_port_member(self, set_id: str, member: PortMember) -> bool:
        """Whether address, protocol and port are in the port set."""


class Closed(Protocol):
    """What of a stack only drops, because the kernel refused its rules."""

    def is_policy_closed(self, key: ResourceKey) -> bool:
        """Whether the rules of a policy or profile are a single drop."""

    def is_rest_closed(self, rest: Stack) -> bool:
        """Whether all that is left of a stack is a single drop."""


class CompiledView:
    """Compiled policies and the members of their sets; both are looked at when asked, nothing is copied."""

    __slots__ = ("_members", "_policies")

    def __init__(self, policies: Mapping[ResourceKey, CompiledPolicy], members: Members) -> None:
        self._policies = policies
        self._members = members

    def is_allowed(self, stack: Stack, direction: Direction, packet: Packet, closed: Closed | None = None) -> bool:
        """Whether `stack`, that direction's of an endpoint, lets a packet pass; a policy that is missing denies."""
        return self.decide(stack, direction, packet, closed) is Action.ALLOW

    def decide(self, stack: Stack, direction: Direction, packet: Packet, closed: Closed | None = None) -> Action | None:
        """Returns ALLOW or DENY, None where `stack` leaves it to others. Its earlier tiers are not asked.

        closed: None if the kernel has all rules.
        """
        if closed is not None and closed.is_rest_closed(stack):
            return Action.DENY
        for position, tier in enumerate(stack.tiers):
            action = None
            for key in tier.policies:
                policy = self._policies.get(key)
                if policy is None and not is_staged(key.kind):
                    return Action.DENY
                action = None if policy is None else self._decide(key, policy, direction, packet, closed)
                if action is not None:
                    break
            if action is None:
                action = tier.default_action
            if action is not Action.PASS:
                return action
            if closed is not None and closed.is_rest_closed(stack._replace(tiers=stack.tiers[position + 1 :])):
                return Action.DENY
        for key in stack.profiles:
            policy = self._policies.get(key)
            action = None if policy is None else self._decide(key, policy, direction, packet, closed)
            if action is Action.ALLOW or action is Action.DENY:
                return action
        return Action.DENY if stack.ending is Action.DENY else None

    def _decide(
        self,
        key: ResourceKey,
        policy: CompiledPolicy,
        direction: Direction,
        packet: Packet,
        closed: Closed | None,
    ) -> Action | None:
        if is_staged(key.kind):
            return None
        if closed is not None and closed.is_policy_closed(key):
            return Action.DENY
        for rule in policy.ingress if direction is Direction.INGRESS else policy.egress:
            if rule.action is not Action.LOG and self._is_match(rule, packet):
                return rule.action
        return None

    def _is_match(self, rule: CompiledRule, packet: Packet) -> bool:
        return (
            rule.ip_version in (None, packet.version)
            and rule.protocol in (None, packet.protocol)
            and rule.not_protocol != packet.protocol
            and (rule.icmp is None or _is_icmp(rule.icmp, packet))
            and (rule.not_icmp is None or not _is_icmp(rule.not_icmp, packet))
            and self._is_side_match(rule.source, packet.source_net, packet.protocol, packet.source_port)
            and self._is_side_match(rule.destination, packet.destination_net, packet.protocol, packet.destination_port)
        )

    def _is_side_match(self, side: EntityMatch, address: Net, protocol: int, port: int | None) -> bool:
        return (
            (side.nets is None or any(_is_inside(address, net) for net in side.nets))
            and not any(_is_inside(address, net) for net in side.not_nets)
            and all(self._members.is_member(reference, address) for reference in side.sets)
            and not any(self._members.is_member(reference, address) for reference in side.not_sets)
            and self._is_port_match(side, address, protocol, port)
        )

    def _is_port_match(self, side: EntityMatch, address: Net, protocol: int, port: int | None) -> bool:
        if port is None:
            return side.ports is None and not side.port_sets
        end = PortMember(address, protocol, port)
        return (
            (side.ports is None and not side.port_sets)
            or _is_in(side.ports or (), port)
            or any(self._members.is_port_member(set_id, end) for set_id in side.port_sets)
        ) and not (
            _is_in(side.not_ports, port)
            or any(self._members.is_port_member(set_id, end) for set_id in side.not_port_sets)
        )


def _is_inside(address: Net, net: Net) -> bool:
    return address.version == net.version and net.value <= address.value <= net.last


def _is_in(ranges: tuple[PortRange, ...], port: int) -> bool:
    return any(first <= port <= last for first, last in ranges)


def _is_icmp(match: IcmpMatch, packet: Packet) -> bool:
    return match.type == packet.icmp_type and match.code in (None, packet.icmp_code)
