"""What one nft rule means for one packet: the subset of nft's language that Felix writes, and an error for the rest."""

from __future__ import annotations

import ipaddress
import re
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import NamedTuple

from felix.policy.packet import ICMP, ICMPV6, SCTP, TCP, UDP, UDPLITE, Packet

_TOKEN = re.compile(r'"[^"]*"|[{},]|[^\s{},]+')
_PROTOCOLS = {"tcp": TCP, "udp": UDP, "sctp": SCTP, "udplite": UDPLITE, "icmp": ICMP, "icmpv6": ICMPV6}
_FAMILIES = {"ip": 4, "ip6": 6}
_NFPROTO = {4: 2, 6: 10}
STATES = {"invalid": 1, "established": 2, "related": 4, "new": 8, "untracked": 64}


class Passing(NamedTuple):
    """A packet on its way through one hook. iif, oif: empty where there is none. state: one of STATES.

    original: as connection tracking saw it first, where its destination was translated since.
    dscp: the class that it was marked with.
    """

    packet: Packet
    iif: str = ""
    oif: str = ""
    state: str = "new"
    original: Packet | None = None
    dscp: int = 0

    @property
    def tracked(self) -> Packet | None:
        """The packet as connection tracking saw it first; None if it does not."""
        return None if self.state == "untracked" else self.original or self.packet


Sets = Mapping[str, Mapping[bytes, str]]
Condition = Callable[[Passing, Sets], bool]
Lookup = Callable[[Passing, Sets], str | None]
Translation = Callable[[Packet, Sets, Mapping[int, int]], Packet | None]
"""Returns a packet with another address, None if the rule says nothing about it; the third is the host's own addresses
by family. A source port that is any that is free is None.
"""


@dataclass(frozen=True)
class FakeRule:
    """One rule, understood.

    lookup: a verdict map. verdict: `accept`, `reject`, `jump x`, `vmap`, or empty to go on.
    untracks: whether it says so before. dscp: the class that it marks with.
    """

    line: str
    conditions: tuple[Condition, ...]
    verdict: str
    lookup: Lookup | None
    sets: tuple[str, ...]
    chains: tuple[str, ...]
    counters: tuple[str, ...]
    untracks: bool = False
    translation: Translation | None = None
    dscp: int | None = None


class NotUnderstood(ValueError):
    """The line is outside of the language that Felix is known to write."""


def parse_rule(line: str) -> FakeRule:
    """Returns the meaning of one line of a chain. Raises NotUnderstood."""
    return _Parser(line).parse()


class _Parser:
    def __init__(self, line: str) -> None:
        self._line = line
        self._tokens = _TOKEN.findall(line)
        self._conditions: list[Condition] = []
        self._sets: list[str] = []
        self._chains: list[str] = []
        self._counters: list[str] = []
        self._verdict = ""
        self._untracks = False
        self._lookup: Lookup | None = None
        self._translation: Translation | None = None
        self._dscp: int | None = None

    def parse(self) -> FakeRule:
        while self._tokens:
            if self._verdict and self._tokens[0] != "comment":
                self._fail()
            self._statement(self._take())
        sets, chains, counters = tuple(self._sets), tuple(self._chains), tuple(self._counters)
        return FakeRule(
            self._line,
            tuple(self._conditions),
            self._verdict,
            self._lookup,
            sets,
            chains,
            counters,
            self._untracks,
            self._translation,
            self._dscp,
        )

    def _statement(self, word: str) -> None:
        match word:
            case "accept" | "drop" | "return":
                self._verdict = word
            case "jump" | "goto":
                self._chains.append(self._take())
                self._verdict = f"{word} {self._chains[-1]}"
            case "reject":
                if self._is_next("with"):
                    self._take()
                    self._take()
                self._verdict = "reject"
            case "limit":
                self._limit()
            case "update":
                self._update()
            case "log":
                self._expect("prefix")
                self._take_quoted()
                self._expect("level")
                self._expect("info")
            case "counter":
                self._expect("name")
                self._counters.append(self._take_quoted())
            case "comment":
                self._take_quoted()
            case "meta":
                self._meta(self._take())
            case "ip" | "ip6":
                self._address(_FAMILIES[word], self._take())
            case "tcp" if self._is_next("flags"):
                self._continued()
            case "tcp" | "udp" | "sctp" | "udplite":
                self._port(_PROTOCOLS[word], self._take())
            case "icmp" | "icmpv6":
                self._icmp(word, self._take())
            case "iifname" | "oifname":
                self._interface(word)
            case "ct":
                self._track(self._take())
            case "iif":
                self._expect("0")
                self._conditions.append(lambda passing, _: not passing.iif)
            case "notrack":
                self._untracks = True
            case "masquerade" | "snat" | "dnat":
                self._translate(word)
            case _:
                self._fail()

    def _limit(self) -> None:
        """A rate that is never exceeded: this kernel has no clock."""
        self._expect("rate")
        if self._is_next("over"):
            self._conditions.append(lambda passing, sets: False)
        self._take()
        if self._is_next("burst"):
            self._take()
            self._expect("packets")

    def _update(self) -> None:
        """A source that is never over its rate."""
        self._sets.append(self._take()[1:])
        while not self._is_next("}"):
            self._take()
        self._conditions.append(lambda passing, sets: False)

    def _continued(self) -> None:
        """What goes on with a connection of which nothing is known: here every packet opens one."""
        while not (token := self._take()).startswith("@"):
            pass
        self._sets.append(token[1:])
        self._conditions.append(lambda passing, sets: False)

    def _translate(self, word: str) -> None:
        self._verdict = "accept"
        is_random = self._tokens[-1] == "fully-random"
        words = [token for token in self._tokens if token != "fully-random"]
        self._tokens.clear()
        match words:
            case [family, "to", other, "daddr" | "saddr" as side, "map", name] if family == other:
                self._sets.append(name[1:])
                self._translation = _by_map(_FAMILIES[family], side, name[1:])
            case [family, "to", target] if word == "snat" and is_random:
                version = _FAMILIES[family]
                address = target.partition("]")[0][1:] if target.startswith("[") else target
                value = int(ipaddress.ip_address(address.partition(":")[0] if version == 4 else address))
                self._translation = _behind({version: value})
            case [] | ["to", _] if word == "masquerade" and is_random:
                self._translation = _behind(None)
            case _:
                self._fail()

    # --- Tokens ---

    def _fail(self) -> None:
        raise NotUnderstood(f"{self._line!r} from {self._tokens[:3]}")

    def _take(self) -> str:
        if not self._tokens:
            self._fail()
        return str(self._tokens.pop(0))

    def _take_quoted(self) -> str:
        token = self._take()
        if len(token) < 2 or token[0] != '"' or token[-1] != '"':
            self._fail()
        return token[1:-1]

    def _expect(self, token: str) -> None:
        if self._take() != token:
            self._fail()

    def _is_next(self, token: str) -> bool:
        if self._tokens and self._tokens[0] == token:
            self._tokens.pop(0)
            return True
        return False

    def _values(self) -> list[str]:
        if not self._is_next("{"):
            return [self._take()]
        items: list[list[str]] = [[]]
        while not self._is_next("}"):
            if self._is_next(","):
                items.append([])
            else:
                items[-1].append(self._take())
        return [" ".join(item) for item in items]

    def _numbers(self) -> tuple[bool, list[tuple[int, int]]]:
        is_negated = self._is_next("!=")
        ranges = []
        for text in self._values():
            first, _, last = text.partition("-")
            ranges.append((int(first), int(last or first)))
        return is_negated, ranges

    # --- Conditions ---

    def _when(self, get_value: Callable[[Packet], int | None], is_negated: bool, ranges: list[tuple[int, int]]) -> None:
        def holds(passing: Passing, _: Sets) -> bool:
            value = get_value(passing.packet)
            return value is not None and any(first <= value <= last for first, last in ranges) is not is_negated

        self._conditions.append(holds)

    def _meta(self, what: str) -> None:
        match what:
            case "nfproto":
                self._when(lambda packet: _NFPROTO[packet.version], *self._numbers())
            case "l4proto":
                self._when(lambda packet: packet.protocol, *self._numbers())
            case _:
                self._fail()

    def _address(self, version: int, what: str) -> None:
        if what == "version":
            self._expect(str(version))
            self._conditions.append(lambda passing, _: passing.packet.version == version)
            return
        if what == "dscp":
            self._expect("set")
            self._dscp = int(self._take(), 16)
            self._conditions.append(lambda passing, _: passing.packet.version == version)
            return
        if what not in ("saddr", "daddr"):
            self._fail()
        if self._is_next("."):
            self._address_and_port(version, what[0])
            return
        is_negated = self._is_next("!=")
        values = self._values()
        self._conditions.append(_in_addresses(version, what, values, is_negated))
        self._sets += [value[1:] for value in values if value.startswith("@")]

    def _address_and_port(self, version: int, side: str) -> None:
        for token in ("meta", "l4proto", "."):
            self._expect(token)
        protocol = _PROTOCOLS[self._take()]
        self._expect(f"{side}port")
        is_negated = self._is_next("!=")
        set_ = self._take()[1:]
        self._sets.append(set_)

        def holds(passing: Passing, sets: Sets) -> bool:
            packet = passing.packet
            if packet.version != version or packet.protocol != protocol:
                return False
            net = packet.source_net if side == "s" else packet.destination_net
            port = packet.source_port if side == "s" else packet.destination_port
            key = net.packed + bytes((protocol, 0, 0, 0)) + (port or 0).to_bytes(2, "big") + bytes(2)
            return (key in sets[set_]) is not is_negated

        self._conditions.append(holds)

    def _port(self, protocol: int, side: str) -> None:
        if side not in ("sport", "dport"):
            self._fail()

        def get_port(packet: Packet) -> int | None:
            if packet.protocol != protocol:
                return None
            return packet.source_port if side == "sport" else packet.destination_port

        if self._is_next("."):
            self._port_pair(protocol)
            return
        self._when(get_port, *self._numbers())

    def _port_pair(self, protocol: int) -> None:
        self._expect("udp")
        self._expect("dport")
        pairs = [tuple(map(int, value.split(" . "))) for value in self._values()]
        self._conditions.append(
            lambda passing, _: (
                passing.packet.protocol == protocol
                and (passing.packet.source_port, passing.packet.destination_port) in pairs
            )
        )

    def _icmp(self, word: str, what: str) -> None:
        version = 4 if word == "icmp" else 6

        def get_number(packet: Packet, name: str) -> int | None:
            if packet.version != version or packet.protocol != _PROTOCOLS[word]:
                return None
            return packet.icmp_type if name == "type" else packet.icmp_code

        if not self._is_next("."):
            self._when(lambda packet: get_number(packet, what), *self._numbers())
            return
        for token in (word, "code"):
            self._expect(token)
        is_negated = self._is_next("!=")
        pairs = [tuple(map(int, value.split(" . "))) for value in self._values()]

        def holds(passing: Passing, _: Sets) -> bool:
            pair = (get_number(passing.packet, "type"), get_number(passing.packet, "code"))
            return None not in pair and (pair in pairs) is not is_negated

        self._conditions.append(holds)

    def _interface(self, word: str) -> None:
        def get_name(passing: Passing) -> str:
            return passing.iif if word == "iifname" else passing.oif

        if self._is_next("."):
            self._source(get_name)
            return
        if self._is_next("vmap"):
            map_ = self._take()[1:]
            self._sets.append(map_)

            def look_up(passing: Passing, sets: Sets) -> str | None:
                chain = sets[map_].get(_padded(get_name(passing)))
                return None if chain is None else f"goto {chain}"

            self._lookup, self._verdict = look_up, "vmap"
            return
        is_negated = self._is_next("!=")
        token = self._take()
        if token.startswith("@"):
            self._sets.append(token[1:])
            self._conditions.append(
                lambda passing, sets: (_padded(get_name(passing)) in sets[token[1:]]) is not is_negated
            )
            return
        name = token.strip('"')
        if name.endswith("*"):
            self._conditions.append(lambda passing, _: get_name(passing).startswith(name[:-1]) is not is_negated)
        else:
            self._conditions.append(lambda passing, _: (get_name(passing) == name) is not is_negated)

    def _mac(self) -> None:
        """Whether the frame has another MAC than it should: packets here come without frames, and as they should."""
        self._expect("saddr")
        self._expect("!=")
        self._sets.append(self._take()[1:])
        self._conditions.append(lambda passing, sets: False)

    def _source(self, get_name: Callable[[Passing], str]) -> None:
        if self._is_next("ether"):
            self._mac()
            return
        version = _FAMILIES[self._take()]
        self._expect("saddr")
        is_negated = self._is_next("!=")
        set_ = self._take()[1:]
        self._sets.append(set_)

        def holds(passing: Passing, sets: Sets) -> bool:
            if passing.packet.version != version:
                return False
            key = _padded(get_name(passing)) + passing.packet.source_net.packed
            return (key in sets[set_]) is not is_negated

        self._conditions.append(holds)

    def _track(self, word: str) -> None:
        match word:
            case "state":
                self._state()
            case "status":
                if self._is_next("!"):  # every packet is the first of its connection
                    self._expect("0x8")
                    return
                self._expect("0x20")
                self._conditions.append(lambda passing, _: passing.original is not None)
            case "original":
                self._original(self._take())
            case "count":  # it does not remember connections
                self._expect("over")
                self._take()
                self._conditions.append(lambda passing, sets: False)
            case _:
                self._fail()

    def _original(self, word: str) -> None:
        before = len(self._conditions)
        if word == "proto-dst":
            is_negated, ranges = self._numbers()
            self._when(lambda packet: packet.destination_port, is_negated, ranges)
        else:
            self._address(_FAMILIES[word], self._take())
        holds = self._conditions.pop()
        assert len(self._conditions) == before

        def holds_of_original(passing: Passing, sets: Sets) -> bool:
            return passing.tracked is not None and holds(passing._replace(packet=passing.tracked), sets)

        self._conditions.append(holds_of_original)

    def _state(self) -> None:
        if not self._is_next("vmap"):
            wanted = {int(self._take(), 16)}
            while self._is_next(","):
                wanted.add(int(self._take(), 16))
            self._conditions.append(lambda passing, _: STATES[passing.state] in wanted)
            return
        verdicts = dict(value.split(" : ") for value in self._values())
        by_state = {int(state, 16): verdict for state, verdict in verdicts.items()}
        self._lookup, self._verdict = lambda passing, _: by_state.get(STATES[passing.state]), "vmap"


def _by_map(version: int, side: str, name: str) -> Translation:
    def translate(packet: Packet, sets: Sets, own: Mapping[int, int]) -> Packet | None:
        net = packet.source_net if side == "saddr" else packet.destination_net
        found = sets[name].get(net.packed) if packet.version == version else None
        if found is None:
            return None
        value = int(found, 16)
        return packet._replace(source=value) if side == "saddr" else packet._replace(destination=value)

    return translate


def _behind(values: Mapping[int, int] | None) -> Translation:
    """Returns a translation of sources to these addresses by family; None: to the host's own."""

    def translate(packet: Packet, sets: Sets, own: Mapping[int, int]) -> Packet | None:
        value = (own if values is None else values).get(packet.version)
        return None if value is None else packet._replace(source=value, source_port=None)

    return translate


def _padded(name: str) -> bytes:
    return name.encode().ljust(16, b"\0")


def _in_addresses(version: int, side: str, values: list[str], is_negated: bool) -> Condition:
    ranges = [_parse_range(value) for value in values if not value.startswith("@")]
    names = [value[1:] for value in values if value.startswith("@")]
    width = 4 if version == 4 else 16

    def holds(passing: Passing, sets: Sets) -> bool:
        packet = passing.packet
        if packet.version != version:
            return False
        value = packet.source if side == "saddr" else packet.destination
        key = value.to_bytes(width, "big")
        is_inside = any(first <= value <= last for first, last in ranges) or any(
            key in sets[name] or any(len(one) > width and one[:width] <= key <= one[width:] for one in sets[name])
            for name in names
        )
        return is_inside is not is_negated

    return holds


def _parse_range(text: str) -> tuple[int, int]:
    first, _, last = text.partition("-")
    if last:
        return int(ipaddress.ip_address(first)), int(ipaddress.ip_address(last))
    network = ipaddress.ip_network(text)
    return int(network.network_address), int(network.broadcast_address)
