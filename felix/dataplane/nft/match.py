"""The conditions of one rule as nft text, in exactly the form in which nft lists them.

Chains read from the kernel are compared as text, so what is written here has to come back unchanged; the contract test
writes generated rules and lists them. Scars of nft 1.0.6 that shaped this file:

- anonymous sets come back sorted, with neighbours merged, and a set of one element comes back without braces;
- `meta nfproto` in front of ICMP of the same family is left out of the listing, `ip version 4` is not;
- two `!=` terms on type and code list like NOT (type and code) but are something else; a concatenation is exact;
- `sport != 1` beside `dport != 2` is merged to NOT (both) and comes back as if it were not; one is said positively;
- `th sport 1 th dport 2` comes back as raw bytes, so ports without a protocol become one rule per protocol.
"""

from __future__ import annotations

import itertools
from collections.abc import Iterable, Iterator, Sequence
from typing import NamedTuple

from felix.calc.desired import CompiledRule, EntityMatch, IcmpMatch, PortRange, SetRef
from felix.dataplane.nft.names import address_set, port_set
from felix.dataplane.nft.types import ElementShape
from felix.model.net import Net, format_address

ICMP, TCP, UDP, ICMPV6, SCTP, UDPLITE = 1, 6, 17, 58, 132, 136
_PORTS_WORD = {TCP: "tcp", UDP: "udp", SCTP: "sctp", UDPLITE: "udplite"}
_ICMP_WORD = {ICMP: "icmp", ICMPV6: "icmpv6"}
_FAMILY = {4: "meta nfproto 2", 6: "meta nfproto 10"}
_FAMILY_BEFORE_ICMP = {4: "ip version 4", 6: "ip6 version 6"}
_ICMP_OF = {4: ICMP, 6: ICMPV6}
_ADDRESS_WORD = {4: "ip", 6: "ip6"}
_FAMILY_SAYING = ("icmp type", "icmpv6 type", "ip ", "ip6 ")
_LAST = {4: (1 << 32) - 1, 6: (1 << 128) - 1}
_LAST_PORT = 65535
_SHAPES = {4: (ElementShape.IPV4, ElementShape.IPV4_RANGE), 6: (ElementShape.IPV6, ElementShape.IPV6_RANGE)}

Range = tuple[int, int]
Terms = tuple[str, ...]


def render_matches(rule: CompiledRule) -> Iterator[str]:
    """Yields one text per nft rule that is needed; a packet matches `rule` if and only if it matches one of them.

    Nothing is yielded for a rule that can match no packet; an empty text matches every packet.
    """
    transports = list(_transports(rule))
    for version, addresses in _addresses(rule):
        for transport in transports:
            if None in (version, transport.version) or version == transport.version:
                yield _combine(version or transport.version, addresses, transport)


class _Transport(NamedTuple):
    """Conditions above IP. version: the only family they hold for, None: both. protocol: None unless it is one."""

    version: int | None
    protocol: int | None
    terms: Terms


def _combine(version: int | None, addresses: Terms, transport: _Transport) -> str:
    family: Terms = ()
    is_said = addresses or any(term.startswith(_FAMILY_SAYING) for term in transport.terms)
    if version is not None and not is_said:
        is_plain_icmp = transport.protocol == _ICMP_OF[version]
        family = (_FAMILY_BEFORE_ICMP[version] if is_plain_icmp else _FAMILY[version],)
    return " ".join((*family, *addresses, *transport.terms))


# --- Addresses ---


def _addresses(rule: CompiledRule) -> Iterator[tuple[int | None, Terms]]:
    """Yields every alternative of families and address terms; no term and None mean all packets."""
    if not (_has_addresses(rule.source) or _has_addresses(rule.destination)):
        yield rule.ip_version, ()
        return
    for version in (4, 6) if rule.ip_version is None else (rule.ip_version,):
        sources = _side(version, "saddr", rule.source)
        destinations = _side(version, "daddr", rule.destination)
        for source, destination in itertools.product(sources, destinations):
            yield version, source + destination


def _has_addresses(entity: EntityMatch) -> bool:
    return bool(entity.nets is not None or entity.not_nets or entity.sets or entity.not_sets)


def _side(version: int, side: str, entity: EntityMatch) -> list[Terms]:
    """Returns the alternatives for one side and family: empty when no packet of the family can match."""
    word = f"{_ADDRESS_WORD[version]} {side}"
    fixed: list[str] = []
    if entity.nets is not None:
        ranges = _cover(_net_ranges(version, entity.nets))
        if not ranges:
            return []
        if ranges != [(0, _LAST[version])]:
            fixed.append(f"{word} {_render_addresses(version, ranges)}")
    excluded = _cover(_net_ranges(version, entity.not_nets))
    if excluded == [(0, _LAST[version])]:
        return []
    if excluded:
        fixed.append(f"{word} != {_render_addresses(version, excluded)}")
    for reference in entity.not_sets:
        fixed += [f"{word} != @{name}" for name in _kernel_sets(version, reference)]
    choices = [[f"{word} @{name}" for name in _kernel_sets(version, reference)] for reference in entity.sets]
    return [(*fixed, *chosen) for chosen in itertools.product(*choices)]


def _kernel_sets(version: int, reference: SetRef) -> list[str]:
    address, prefix = _SHAPES[version]
    has_prefixes = reference.nets4 if version == 4 else reference.nets6
    return [address_set(reference.id, shape) for shape in ((address, prefix) if has_prefixes else (address,))]


def _net_ranges(version: int, nets: Iterable[Net]) -> list[Range]:
    return [(net.value, net.last) for net in nets if net.version == version]


def _render_addresses(version: int, ranges: Sequence[Range]) -> str:
    # A set of single addresses is a hash to nft and keeps neighbours apart; with one range in it they are merged.
    return _render_set([_render_range(version, first, last) for first, last in ranges])


def _render_range(version: int, first: int, last: int) -> str:
    size = last - first + 1
    if size & (size - 1) == 0 and first % size == 0:
        length = (32 if version == 4 else 128) - (size.bit_length() - 1)
        text = render_address(version, first)
        return text if size == 1 else f"{text}/{length}"
    return f"{render_address(version, first)}-{render_address(version, last)}"


def render_sources(nets: Iterable[Net]) -> Iterator[str]:
    """Yields one text per family that matches packets from one of the nets."""
    for version in (4, 6):
        ranges = _cover(_net_ranges(version, nets))
        if ranges == [(0, _LAST[version])]:
            yield _FAMILY[version]
        elif ranges:
            yield f"{_ADDRESS_WORD[version]} saddr {_render_addresses(version, ranges)}"


def render_address(version: int, value: int) -> str:
    """Returns an address as the C library prints it: embedded IPv4 addresses stay readable."""
    if version == 6 and (0x10000 <= value <= 0xFFFFFFFF or value >> 32 == 0xFFFF):
        return f"::{'ffff:' if value >> 32 else ''}{format_address(4, value & 0xFFFFFFFF)}"
    return format_address(version, value)


# --- Protocols, ports, ICMP ---


def _transports(rule: CompiledRule) -> Iterator[_Transport]:
    """Yields every alternative for the layer above IP."""
    if rule.protocol is not None:
        if rule.protocol != rule.not_protocol:
            yield from _one_protocol(rule, rule.protocol)
        return
    special = {*(_PORTS_WORD if _has_ports(rule) else ()), *(_ICMP_WORD if rule.icmp or rule.not_icmp else ())}
    for protocol in sorted(special):
        if protocol != rule.not_protocol:
            yield from _one_protocol(rule, protocol)
    if rule.icmp is not None or any(_wants_port(side) for side in (rule.source, rule.destination)):
        return  # what has no ICMP header or no ports does not match
    if rule.not_protocol is not None:
        special.add(rule.not_protocol)
    if special:
        others = _render_set([str(number) for number in sorted(special)])
        yield _Transport(None, None, (f"meta l4proto != {others}",))
    else:
        yield _Transport(None, None, ())


def _one_protocol(rule: CompiledRule, protocol: int) -> Iterator[_Transport]:
    has_port_sets = any(side.port_sets or side.not_port_sets for side in (rule.source, rule.destination))
    has_icmp = rule.icmp is not None or rule.not_icmp is not None
    for version in (4, 6) if has_port_sets or has_icmp else (None,):
        # Only ICMP in IPv4 and ICMPv6 in IPv6 have the header that conditions on it are about.
        is_about_icmp = has_icmp and version is not None and protocol == _ICMP_OF[version]
        if rule.icmp is not None and not is_about_icmp:
            continue
        icmp = _icmp(_ICMP_WORD[protocol], rule.icmp, rule.not_icmp) if is_about_icmp else ()
        sources = _ports(_End(version, protocol, "s"), rule.source)
        ends_apart = _excludes_one_port(rule.source)
        destinations = _ports(_End(version, protocol, "d"), rule.destination, keeps_apart=ends_apart)
        for source, destination in itertools.product(sources, destinations):
            numbers, members = source.numbers + destination.numbers, source.members + destination.members
            yield _Transport(version, protocol, (*icmp, *numbers, *members) or (f"meta l4proto {protocol}",))


class _End(NamedTuple):
    """Which port. version: None when no port set is looked into. side: `s` or `d`, as nft's words begin."""

    version: int | None
    protocol: int
    side: str


class _PortTerms(NamedTuple):
    """Terms on the port alone, and such that look into port sets; they are written in this order."""

    numbers: Terms
    members: Terms


def _has_ports(rule: CompiledRule) -> bool:
    return any(
        side.ports is not None or side.not_ports or side.port_sets or side.not_port_sets
        for side in (rule.source, rule.destination)
    )


def _wants_port(entity: EntityMatch) -> bool:
    return entity.ports is not None or bool(entity.port_sets)


def _excludes_one_port(entity: EntityMatch) -> bool:
    return [first == last for first, last in _cover(entity.not_ports)] == [True]


def _ports(end: _End, entity: EntityMatch, *, keeps_apart: bool = False) -> list[_PortTerms]:
    """Returns the alternatives for the port of one side: none when no packet can match.

    keeps_apart: no `!=` with a single port.
    """
    wanted = None if entity.ports is None else _cover((port.first, port.last) for port in entity.ports)
    is_wanted = wanted is not None or bool(entity.port_sets)
    if end.protocol not in _PORTS_WORD:
        return [] if is_wanted else [_PortTerms((), ())]
    excluded = _cover((port.first, port.last) for port in entity.not_ports)
    if excluded == [(0, _LAST_PORT)]:
        return []
    outside = [_look_up(end, set_id, "!= ") for set_id in entity.not_port_sets]
    choices = []
    if wanted is not None or not is_wanted:
        numbers = _port_numbers(end, wanted, excluded, keeps_apart=keeps_apart and _excludes_one_port(entity))
        choices += [] if numbers is None else [_PortTerms(numbers, tuple(outside))]
    numbers = _port_numbers(end, None, excluded, keeps_apart=keeps_apart and _excludes_one_port(entity))
    for set_id in entity.port_sets if numbers is not None else ():
        choices.append(_PortTerms(numbers or (), (_look_up(end, set_id, ""), *outside)))
    return choices


def _port_numbers(end: _End, wanted: list[Range] | None, excluded: list[Range], *, keeps_apart: bool) -> Terms | None:
    """Returns the terms for a port in `wanted` (None: any) and not in `excluded`; None when there is no such port."""
    if keeps_apart:
        wanted, excluded = _without([(0, _LAST_PORT)] if wanted is None else wanted, excluded[0][0]), []
    if wanted == []:
        return None
    word = f"{_PORTS_WORD[end.protocol]} {end.side}port"
    terms = []
    if wanted is not None and wanted != [(0, _LAST_PORT)]:
        terms.append(f"{word} {_render_ports(wanted)}")
    if excluded:
        terms.append(f"{word} != {_render_ports(excluded)}")
    return tuple(terms)


def _look_up(end: _End, set_id: str, negation: str) -> str:
    assert end.version is not None
    shape = ElementShape.IPV4_PORT if end.version == 4 else ElementShape.IPV6_PORT
    parts = f"{_ADDRESS_WORD[end.version]} {end.side}addr . meta l4proto . {_PORTS_WORD[end.protocol]} {end.side}port"
    return f"{parts} {negation}@{port_set(set_id, shape)}"


def _render_ports(ranges: Sequence[Range]) -> str:
    return _render_set([str(first) if first == last else f"{first}-{last}" for first, last in ranges])


def _icmp(word: str, wanted: IcmpMatch | None, excluded: IcmpMatch | None) -> Terms:
    terms = []
    if wanted is not None:
        terms.append(f"{word} type {wanted.type}")
        if wanted.code is not None:
            terms.append(f"{word} code {wanted.code}")
    if excluded is not None:
        if excluded.code is None:
            terms.append(f"{word} type != {excluded.type}")
        else:
            terms.append(f"{word} type . {word} code != {{ {excluded.type} . {excluded.code} }}")
    return tuple(terms)


# --- Sets of literals ---


def _cover(ranges: Iterable[Range] | Iterable[PortRange]) -> list[Range]:
    """Returns the same values as disjoint ranges in order, neighbours joined; empty ranges (first > last) vanish."""
    covered: list[Range] = []
    for first, last in sorted((first, last) for first, last in ranges):
        if first > last:
            continue
        if covered and first <= covered[-1][1] + 1:
            covered[-1] = (covered[-1][0], max(last, covered[-1][1]))
        else:
            covered.append((first, last))
    return covered


def _without(ranges: Iterable[Range], value: int) -> list[Range]:
    """Returns the ranges with a hole at `value`."""
    return _cover(part for first, last in ranges for part in _cut(first, last, value))


def _cut(first: int, last: int, value: int) -> list[Range]:
    return [(first, value - 1), (value + 1, last)] if first <= value <= last else [(first, last)]


def _render_set(items: Sequence[str]) -> str:
    return items[0] if len(items) == 1 else f"{{ {', '.join(items)} }}"
