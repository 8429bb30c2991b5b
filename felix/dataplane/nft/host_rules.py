"""What differs in rules at the host's own interfaces: failsafes ahead of policy, and how a rule says what it says.

Before connection tracking, Allow means that the packet is not tracked. On a later hook the same rules are asked again,
silently, so that what they allowed needs no mark on the packet: for untracked packets as they are, for packets whose
destination was translated meanwhile by what connection tracking remembers of it.
"""

from __future__ import annotations

import re
from collections.abc import Iterable, Iterator

from felix.calc.desired import Action, CompiledRule, EntityMatch, PortRange
from felix.dataplane.nft.match import render_matches
from felix.dataplane.nft.names import (
    FORWARD_EGRESS,
    FORWARD_INGRESS,
    HOST_EGRESS,
    PRE_DNAT,
    PRE_DNAT_AGAIN,
    UNTRACKED_EGRESS,
    UNTRACKED_EGRESS_AGAIN,
    UNTRACKED_INGRESS,
    UNTRACKED_INGRESS_AGAIN,
    is_inward,
)
from felix.dataplane.nft.statements import deny_statement
from felix.dataplane.nft.types import NftConfig
from felix.model.net import Net
from felix.policy.host_settings import HOST_DISCOVERY_TYPES, Failsafe

_UNTRACKED = (UNTRACKED_INGRESS, UNTRACKED_EGRESS)
_AGAIN = (PRE_DNAT_AGAIN, UNTRACKED_INGRESS_AGAIN, UNTRACKED_EGRESS_AGAIN)
_UNANSWERED = (*_UNTRACKED, *_AGAIN, PRE_DNAT, HOST_EGRESS)
_NUMBERS = {"tcp": 6, "udp": 17, "sctp": 132, "udplite": 136}
_ADDRESS = re.compile(r"\b(ip6?) daddr\b")
_PORT = re.compile(r"\b(tcp|udp|sctp|udplite) dport (!= )?(\{[^}]*\}|\S+)")
_LOOK_UP = re.compile(r"daddr \. |\. \w+ dport|\. th dport")  # a concatenation, which tracked ports cannot be part of


def allow_statement(direction: str) -> str:
    """Returns what Allow says on that way."""
    return "notrack accept" if direction in _UNTRACKED else "accept"


def deny_statement_on(config: NftConfig, direction: str) -> str:
    """Returns what Deny says on that way: packets are answered only where the kernel lets rules answer."""
    return "drop" if direction in _UNANSWERED else deny_statement(config)


def is_silent(direction: str) -> bool:
    """Whether rules on that way neither log nor count: they have done so on an earlier hook."""
    return direction in _AGAIN


def matches_on(direction: str, rule: CompiledRule) -> Iterator[str]:
    """Yields the conditions of a rule on that way, as `render_matches` does; none if it says nothing there."""
    if rule.action is Action.LOG and is_silent(direction):
        return
    for text in render_matches(rule):
        if direction != PRE_DNAT_AGAIN:
            yield text
        elif not _LOOK_UP.search(text):
            yield from _as_tracked(text)
        elif rule.action is Action.PASS:
            yield ""  # passes more than it should, so less is allowed; the others are left out for the same end


def render_failsafes(config: NftConfig, direction: str) -> list[str]:
    """Returns lines that accept what no policy may stop on that way."""
    if direction in (FORWARD_INGRESS, FORWARD_EGRESS):
        return []
    inward = is_inward(direction)
    types = ", ".join(map(str, HOST_DISCOVERY_TYPES))
    lines = [f"icmpv6 type {{ {types} }} accept"]
    rules = config.failsafes_in if inward else config.failsafes_out
    lines += _render_ports(rules, is_source=inward, is_answer=False)
    if direction in _UNTRACKED:  # nobody knows what is an answer
        rules = config.failsafes_out if inward else config.failsafes_in
        lines += _render_ports(rules, is_source=inward, is_answer=True)
    return lines


def _render_ports(rules: Iterable[Failsafe], *, is_source: bool, is_answer: bool) -> Iterator[str]:
    ports_by_place: dict[tuple[int, Net | None], list[PortRange]] = {}
    for rule in rules:
        ports_by_place.setdefault((rule.protocol, rule.net), []).append(PortRange(rule.port, rule.port))
    for (protocol, net), ports in ports_by_place.items():
        nets = None if net is None else (net,)
        ranges = tuple(ports)
        source = EntityMatch(nets=nets if is_source else None, ports=ranges if is_answer else None)
        destination = EntityMatch(nets=None if is_source else nets, ports=None if is_answer else ranges)
        meant = CompiledRule(Action.ALLOW, protocol=protocol, source=source, destination=destination)
        for match in render_matches(meant):
            yield f"{match} accept"


def _as_tracked(text: str) -> list[str]:
    """Returns conditions that together say about a packet's first destination what `text` says about that it has.

    Several where nft has no set of tracked ports.
    """
    return _with_tracked_ports(_ADDRESS.sub(r"ct original \1 daddr", text))


def _with_tracked_ports(text: str) -> list[str]:
    """Returns the same about the port alone: what is wanted, and what is not, one after the other."""
    found = _PORT.search(text)
    if found is None:
        return [text]
    word, negation, values = found[1], found[2], found[3].strip("{} ").split(", ")
    said = f"meta l4proto {_NUMBERS[word]} "
    front = "" if f"{word} sport" in text or said in text else said
    if negation:
        terms = [front + " ".join(f"ct original proto-dst != {value}" for value in values)]
    else:
        terms = [f"{front}ct original proto-dst {value}" for value in values]
    before, after = text[: found.start()], text[found.end() :]
    if f"{word} sport" in after:  # nft reads a tracked port only behind what says of which protocol, and lists it so
        before, after = f"{before}{after.lstrip()} ", ""
    return [one for term in terms for one in _with_tracked_ports(before + term + after)]
