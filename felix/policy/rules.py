"""From a stored rule to its conditions: numbers for names, nets for texts, selectors with their namespace.

A rule that cannot be read, or that asks for what Felix cannot check, denies everything and says why: an allowance is
never wider than it was written, and a denial never narrower.
"""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass

from felix.calc.desired import Action, IcmpMatch, PortRange
from felix.errors import shorten
from felix.model.net import Net, parse_net
from felix.model.records import EntityRule, Icmp, Rule
from felix.model.values import (
    ICMP_PROTOCOLS,
    PORT_PROTOCOLS,
    PROTOCOL_NAMES,
    is_port_name,
    parse_ports,
    protocol_number,
)
from felix.policy.scope import rule_selectors
from felix.selector.parse import Selector, SelectorError


@dataclass(frozen=True, slots=True)
class ScopedEntity:
    """Conditions on one side of a packet; all that are given must hold, None is no condition.

    nets: the side is in one of them. not_nets: in none of them.
    ports, port_names: the port is in one of the ranges, or is one that an endpoint has under one of these names.
    not_ports, not_port_names: it is neither. A name counts for endpoints that `selector` matches, any without one,
    and for the protocol that the endpoint gives to it.
    selector: the address belongs to something that it matches. not_selector: to nothing that it matches.
    """

    nets: tuple[Net, ...] | None = None
    not_nets: tuple[Net, ...] = ()
    selector: Selector | None = None
    not_selector: Selector | None = None
    ports: tuple[PortRange, ...] | None = None
    not_ports: tuple[PortRange, ...] = ()
    port_names: tuple[str, ...] = ()
    not_port_names: tuple[str, ...] = ()

    @property
    def has_ports(self) -> bool:
        """Whether there is a condition on ports."""
        return bool(self.ports is not None or self.not_ports or self.port_names or self.not_port_names)


@dataclass(frozen=True, slots=True)
class ScopedRule:
    """An action, and conditions that must all hold; without any, every packet matches.

    `icmp` and `not_icmp` come with `protocol` 1 or 58. `not_icmp` holds unless type and, if given, code are the same.
    fault: why the stored rule cannot be used, empty if it can; a rule with a fault denies everything.
    """

    action: Action
    ip_version: int | None = None
    protocol: int | None = None
    not_protocol: int | None = None
    icmp: IcmpMatch | None = None
    not_icmp: IcmpMatch | None = None
    source: ScopedEntity = ScopedEntity()
    destination: ScopedEntity = ScopedEntity()
    fault: str = ""


def scope_rule(policy_namespace: str, rule: Rule) -> ScopedRule:
    """Returns the conditions of a rule of a policy in `policy_namespace` (empty: in none); never raises on bad data."""
    try:
        return _scope_rule(policy_namespace, rule)
    except (ValueError, SelectorError) as error:
        return ScopedRule(Action.DENY, fault=str(error))


def get_protocol(value: int | str) -> int:
    """Returns the protocol number 1-255 that a number, its digits or a name (any case) means; ValueError if none."""
    number = protocol_number(value)
    if number is None:
        raise ValueError(f"unknown protocol {shorten(value)!r}; give 1-255 or one of {', '.join(PROTOCOL_NAMES)}")
    return number


def get_port_range(value: int | str) -> PortRange:
    """Returns the ports that `80`, `"80"` or `"80:90"` means. ValueError for other texts."""
    ends = parse_ports(value)
    if ends is None:
        raise ValueError(f"ports {shorten(value)!r} are no number or range a:b in 0-65535, and no name of a port")
    return PortRange(*ends)


def _scope_rule(policy_namespace: str, rule: Rule) -> ScopedRule:
    if rule.ip_version not in (None, 4, 6):
        raise ValueError(f"ipVersion {rule.ip_version} is neither 4 nor 6")
    protocol = None if rule.protocol is None else get_protocol(rule.protocol)
    scoped = ScopedRule(
        action=Action(rule.action),
        ip_version=rule.ip_version,
        protocol=protocol,
        not_protocol=None if rule.not_protocol is None else get_protocol(rule.not_protocol),
        icmp=_scope_icmp(rule.icmp, protocol),
        not_icmp=_scope_icmp(rule.not_icmp, protocol),
        source=_scope_entity(policy_namespace, rule.source),
        destination=_scope_entity(policy_namespace, rule.destination),
    )
    if (scoped.source.has_ports or scoped.destination.has_ports) and protocol not in PORT_PROTOCOLS:
        raise ValueError("a rule with ports needs protocol TCP, UDP, SCTP or UDPLite")
    return scoped


def _scope_icmp(icmp: Icmp | None, protocol: int | None) -> IcmpMatch | None:
    if icmp is None:
        return None
    if protocol not in ICMP_PROTOCOLS:
        raise ValueError("a rule with icmp or notICMP needs protocol ICMP or ICMPv6")
    if icmp.type is None:
        if icmp.code is not None:
            raise ValueError("an ICMP code needs a type")
        return None
    if not 0 <= icmp.type <= 255 or not (icmp.code is None or 0 <= icmp.code <= 255):
        raise ValueError(f"ICMP type {icmp.type} or code {icmp.code} is not in 0-255")
    return IcmpMatch(icmp.type, icmp.code)


def _scope_entity(policy_namespace: str, entity: EntityRule) -> ScopedEntity:
    selector, not_selector = rule_selectors(policy_namespace, entity)
    # An empty list is a condition that was not given, as everywhere in Calico.
    return ScopedEntity(
        nets=_scope_nets(entity.nets) or None,
        not_nets=_scope_nets(entity.not_nets),
        selector=selector,
        not_selector=not_selector,
        ports=_scope_ports(entity.ports) or None,
        not_ports=_scope_ports(entity.not_ports),
        port_names=_scope_port_names(entity.ports),
        not_port_names=_scope_port_names(entity.not_ports),
    )


def _scope_nets(texts: Iterable[str]) -> tuple[Net, ...]:
    return tuple(dict.fromkeys(parse_net(text) for text in texts))


def _scope_ports(values: Iterable[int | str]) -> tuple[PortRange, ...]:
    return tuple(dict.fromkeys(get_port_range(value) for value in values if not is_port_name(value)))


def _scope_port_names(values: Iterable[int | str]) -> tuple[str, ...]:
    return tuple(dict.fromkeys(str(value) for value in values if is_port_name(value)))
