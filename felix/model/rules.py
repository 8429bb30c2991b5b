"""What rules of policies and profiles must satisfy so that they can be enforced as they are meant."""

from __future__ import annotations

from collections.abc import Iterator, Sequence

from felix.model.net import parse_net
from felix.model.policies import EntityRule, Icmp, Rule
from felix.model.shape import Flaw, Path
from felix.model.values import (
    ICMP_PROTOCOLS,
    PORT_PROTOCOLS,
    PROTOCOL_NAMES,
    is_port_name,
    parse_ports,
    protocol_number,
)
from felix.selector.parse import SelectorError, parse

# Matches of Calico's rules that need Kubernetes or an agent inside the workload's connections.
UNENFORCED_RULE_FIELDS = {"http": "HTTP matches need a proxy, which Felix has not"}
UNENFORCED_ENTITY_FIELDS = {
    "serviceAccounts": "service accounts need Kubernetes",
    "services": "services need Kubernetes",
}
DENIES_INSTEAD = "; the rule denies everything instead"


def find_rule_flaws(rule: Rule, path: Path) -> Iterator[Flaw]:
    """Yields why a rule cannot be enforced as it is meant; nothing for a good rule."""
    protocol = None if rule.protocol is None else protocol_number(rule.protocol)
    for name, value in (("protocol", rule.protocol), ("notProtocol", rule.not_protocol)):
        if value is not None and protocol_number(value) is None:
            yield Flaw((*path, name), value, f"expected {', '.join(PROTOCOL_NAMES)}, or a number from 1 to 255")
    for name, icmp in (("icmp", rule.icmp), ("notICMP", rule.not_icmp)):
        if icmp is not None:
            yield from _find_icmp_flaws(icmp, protocol, (*path, name))
    for name, entity in (("source", rule.source), ("destination", rule.destination)):
        yield from _find_entity_flaws(entity, protocol, (*path, name))


def find_unenforced_fields(rule: object, path: Path) -> Iterator[Flaw]:
    """Yields the fields of a rule, as plain values, that Calico knows and Felix cannot enforce."""
    if not isinstance(rule, dict):
        return
    yield from _find_named(rule, UNENFORCED_RULE_FIELDS, path)
    for name in ("source", "destination"):
        yield from _find_named(rule.get(name), UNENFORCED_ENTITY_FIELDS, (*path, name))


def find_selector_flaws(text: str, path: Path) -> Iterator[Flaw]:
    """Yields why a text is no selector; nothing for a good one, nor for the empty text."""
    try:
        parse(text)
    except SelectorError as error:
        yield Flaw(path, text, f"is no selector: {error.reason}, at character {error.position + 1}")


def find_net_flaws(nets: Sequence[str], path: Path) -> Iterator[Flaw]:
    """Yields the texts that are no prefixes."""
    for index, text in enumerate(nets):
        if not is_net(text):
            yield Flaw((*path, index), text, "expected a prefix like 10.0.0.0/8 or 2001:db8::/32")


def is_net(text: str) -> bool:
    """Whether this is a prefix or an address. Not: `10.0.0.0/255.0.0.0`, which other tools do not read."""
    try:
        parse_net(text)
    except ValueError:
        return False
    return text == text.strip() and text.partition("/")[2].isdigit() == ("/" in text)


def _find_named(entity: object, reasons: dict[str, str], path: Path) -> Iterator[Flaw]:
    if isinstance(entity, dict):
        for name, reason in reasons.items():
            if entity.get(name) is not None:
                yield Flaw((*path, name), entity[name], f"cannot be enforced: {reason}{DENIES_INSTEAD}", True)


def _find_icmp_flaws(icmp: Icmp, protocol: int | None, path: Path) -> Iterator[Flaw]:
    if icmp.code is not None and icmp.type is None:
        yield Flaw((*path, "code"), icmp.code, "an ICMP code needs an ICMP type")
    if protocol not in ICMP_PROTOCOLS:
        yield Flaw(path, "", "an ICMP match needs the rule's protocol to be ICMP or ICMPv6")


def _find_entity_flaws(entity: EntityRule, protocol: int | None, path: Path) -> Iterator[Flaw]:
    yield from find_net_flaws(entity.nets, (*path, "nets"))
    yield from find_net_flaws(entity.not_nets, (*path, "notNets"))
    for name, text in (
        ("selector", entity.selector),
        ("notSelector", entity.not_selector),
        ("namespaceSelector", entity.namespace_selector),
    ):
        if text:
            yield from find_selector_flaws(text, (*path, name))
    for name, ports in (("ports", entity.ports), ("notPorts", entity.not_ports)):
        if ports and protocol not in PORT_PROTOCOLS:
            yield Flaw((*path, name), "", "ports need the rule's protocol to be TCP, UDP, SCTP or UDPLite")
        for index, one in enumerate(ports):
            if parse_ports(one) is None and not is_port_name(one):
                reason = "expected a port from 0 to 65535, a range like 80:90, or the name of a port"
                yield Flaw((*path, name, index), one, reason)
