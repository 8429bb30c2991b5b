"""A kernel's nf_tables for tests: takes the texts and element changes that Felix writes, refuses what a kernel would,
and can say what becomes of a packet.

It knows the language of `fake_nft_rules` and nothing else; the contract tests hold it against the real kernel.
"""

from __future__ import annotations

import copy
import re
from collections import Counter
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from typing import NamedTuple

from felix.dataplane.nft.render import render_write
from felix.dataplane.nft.types import Count, ElementShape, RefusedChange, SetChange, TableWrite, WriteRefusal
from felix.errors import KernelRefused
from felix.policy.packet import Packet
from tests.model.fake_nft_rules import FakeRule, NotUnderstood, Passing, parse_rule

_HOOK = re.compile(r"type (filter|nat) hook (\w+) priority (-?\d+); policy accept;")
_JUMP_LIMIT = 16
_TRANSLATING = -100  # the priority of destination translation
_TABLE = "inet felix"


@dataclass
class FakeTable:
    """One table: hook and rules by chain, declarations by kind and name, elements by set."""

    hooks: dict[str, str] = field(default_factory=dict)
    rules: dict[str, list[FakeRule]] = field(default_factory=dict)
    objects: dict[tuple[str, str], tuple[str, ...]] = field(default_factory=dict)
    elements: dict[str, dict[bytes, str]] = field(default_factory=dict)

    def changed(self) -> FakeTable:
        """Returns a copy that may be changed without touching this one."""
        rules = {name: list(lines) for name, lines in self.rules.items()}
        return FakeTable(dict(self.hooks), rules, dict(self.objects), copy.deepcopy(self.elements))


class Fate(NamedTuple):
    """What became of a packet. passing: as it is seen at its end; None: it got nowhere.

    is_answered: it was denied, and its sender is told.
    """

    passing: Passing | None
    is_answered: bool = False


class Refused(Exception):
    """A transaction that a kernel would not take."""


@dataclass
class _Last:
    """What the rules of one base chain did to a packet beside their verdict."""

    untracks: bool = False
    translated: Packet | None = None
    dscp: int | None = None


class FakeNft:
    """Implements NftPort. writes: transactions that took effect. is_refused: says which lines it does not take."""

    def __init__(self) -> None:
        self.table: FakeTable | None = None
        self.writes = 0
        self.counts: Counter[str] = Counter()
        """Packets that each counter has seen; they stay when chains are written anew."""
        self.is_refused: Callable[[str], bool] = lambda line: False
        self.after_write: Callable[[], None] = lambda: None
        self.own_addresses: dict[int, int] = {}
        """By family the address that traffic hides behind; without one it is left as it is."""
        self._last = _Last()

    # --- NftPort ---

    def run(self, text: str) -> str:
        """See NftPort.run."""
        try:
            table = _Transaction(self.table, self.is_refused).run(text)
        except (Refused, NotUnderstood) as error:
            return str(error)
        self._commit(table)
        return ""

    def write(self, write: TableWrite) -> WriteRefusal | None:
        """See NftPort.write."""
        refusal = self.run(render_write(write))
        if not refusal:
            return None
        refused = {name: refusal for name, lines in write.chains if any(map(self.is_refused, lines))}
        return WriteRefusal(refusal, refused)

    def change(self, changes: Sequence[SetChange]) -> list[RefusedChange]:
        """See NftPort.change."""
        if self.table is None:
            return [RefusedChange(change, "No such file or directory", True) for change in changes]
        table = self.table.changed()
        refused = []
        for change in changes:
            reason = _change_elements(table, change)
            if reason:
                refused.append(RefusedChange(change, reason, reason != "Too many links"))
        if not refused:
            self._commit(table)
        return refused

    def set_counters(self, made: Sequence[str], removed: Sequence[str]) -> str:
        """See NftPort.set_counters."""
        if self.table is None:
            return "No such file or directory"
        table = self.table.changed()
        for name in removed:
            if table.objects.pop(("counter", name), None) is None:
                return f"No such file or directory: counter {name}"
        for name in made:
            table.objects[("counter", name)] = ()
        try:
            _validate(table)
        except Refused as error:
            return str(error)
        self._commit(table)
        return ""

    def list_table(self) -> str:
        """See NftPort.list_table."""
        if self.table is None:
            return ""
        lines = [f"table {_TABLE} {{"]
        for (kind, name), body in self.table.objects.items():
            lines += [f"\t{kind} {name} {{", *(f"\t\t{line}" for line in body), "\t}", ""]
        for name, rules in self.table.rules.items():
            hook = [f"\t\t{self.table.hooks[name]}"] if name in self.table.hooks else []
            lines += [f"\tchain {name} {{", *hook, *(f"\t\t{rule.line}" for rule in rules), "\t}", ""]
        return "\n".join([*lines, "}", ""])

    def dump(self, set_: str, shape: ElementShape) -> dict[bytes, str]:
        """See NftPort.dump."""
        if self.table is None or set_ not in self.table.elements:
            raise KernelRefused(f"no set {set_}")
        return dict(self.table.elements[set_])

    def count(self) -> dict[str, Count]:
        """See NftPort.count; this kernel knows no sizes."""
        objects = () if self.table is None else self.table.objects
        return {name: Count(self.counts[name], 0) for kind, name in objects if kind == "counter"}

    def _commit(self, table: FakeTable | None) -> None:
        kept = set() if table is None else {name for kind, name in table.objects if kind == "counter"}
        for name in self.counts.keys() - kept:
            del self.counts[name]
        self.table = table
        self.writes += 1
        self.after_write()

    # --- Packets ---

    def is_forwarded(
        self, packet: Packet, iif: str, oif: str, state: str = "new", translated: Packet | None = None
    ) -> bool:
        """Whether a packet that came in by `iif` leaves by `oif`. translated: what somebody's dnat makes of it."""
        return self.travel(packet, iif, lambda _: oif, state, translated).passing is not None

    def is_received(self, packet: Packet, iif: str, state: str = "new", translated: Packet | None = None) -> bool:
        """Whether a packet that came in by `iif` reaches this host's own programs."""
        return self.travel(packet, iif, lambda _: "", state, translated).passing is not None

    def is_sent(self, packet: Packet, oif: str, state: str = "new", translated: Packet | None = None) -> bool:
        """Whether a packet of this host's own programs leaves by `oif`, which it does after a translation, too."""
        return self.travel(packet, "", lambda _: oif, state, translated).passing is not None

    def travel(
        self,
        packet: Packet,
        iif: str,
        route: Callable[[Packet], str],
        state: str = "new",
        translated: Packet | None = None,
    ) -> Fate:
        """Returns what becomes of a packet that came in by `iif`; empty: the host's own.

        route: tells the interface that a packet goes to, empty: this host's own programs. translated: what somebody's
        dnat makes of it.
        """
        passing = Passing(packet, iif, "" if iif else route(packet), state)
        hook = "prerouting" if iif else "output"
        fate = self._pass(hook, passing, highest=_TRANSLATING)
        if fate.passing is not None:
            fate = self._pass(hook, _translate(fate.passing, translated), lowest=_TRANSLATING)
        if fate.passing is None:
            return fate
        passing = fate.passing._replace(oif=route(fate.passing.packet))
        fate = self._pass("forward" if passing.oif else "input", passing) if iif else Fate(passing)
        if fate.passing is None or not passing.oif:
            return fate
        return self._pass("postrouting", fate.passing)

    def _pass(self, hook: str, passing: Passing, lowest: int = -(1 << 31), highest: int = 1 << 31) -> Fate:
        """Returns the packet behind the chains with these priorities, `lowest` included."""
        if self.table is None:
            return Fate(passing)
        bases = []
        for name, line in self.table.hooks.items():
            match = _HOOK.fullmatch(line)
            assert match is not None, line
            if match[2] == hook and lowest <= int(match[3]) < highest:
                bases.append((int(match[3]), name, match[1] == "nat"))
        for _, name, is_nat in sorted(bases):
            if is_nat and (passing.state != "new" or (hook != "postrouting" and passing.original is not None)):
                continue  # who has translated a connection has decided about it
            last = self._last = _Last()
            verdict = self._verdict(name, passing)
            if verdict in ("drop", "reject"):
                return Fate(None, verdict == "reject")
            if last.untracks:
                passing = passing._replace(state="untracked")
            if last.dscp is not None:
                passing = passing._replace(dscp=last.dscp)
            if last.translated is not None and hook == "postrouting":
                passing = passing._replace(packet=last.translated)
            elif last.translated is not None:
                passing = _translate(passing, last.translated)
        return Fate(passing)

    def _verdict(self, chain: str, passing: Passing) -> str:
        """Returns `accept`, `drop`, `reject`, or `return` for a chain that has nothing to say."""
        assert self.table is not None
        for rule in self.table.rules[chain]:
            if not all(condition(passing, self.table.elements) for condition in rule.conditions):
                continue
            if rule.translation is not None:
                self._last.translated = rule.translation(passing.packet, self.table.elements, self.own_addresses)
                if self._last.translated is None:
                    continue
            self.counts.update(rule.counters)
            self._last.untracks |= rule.untracks
            if rule.dscp is not None:
                self._last.dscp = rule.dscp
            verdict = rule.verdict
            if rule.lookup is not None:
                verdict = rule.lookup(passing, self.table.elements) or ""
            action, _, target = verdict.partition(" ")
            if action in ("accept", "drop", "reject", "return"):
                return action
            if action == "goto":
                return self._verdict(target, passing)
            if action == "jump" and (result := self._verdict(target, passing)) != "return":
                return result
        return "return"


def _translate(passing: Passing, translated: Packet | None) -> Passing:
    """Returns the packet with another destination: what is not tracked keeps its own."""
    if translated is None or passing.state == "untracked":
        return passing
    return passing._replace(packet=translated, original=passing.packet)


class _Transaction:
    """One text, applied to a copy of the table."""

    def __init__(self, table: FakeTable | None, is_refused: Callable[[str], bool]) -> None:
        self._table = None if table is None else table.changed()
        self._is_refused = is_refused

    def run(self, text: str) -> FakeTable | None:
        lines = text.splitlines()
        while lines:
            line = lines.pop(0)
            words = line.split()
            match words:
                case []:
                    continue
                case ["add", "table", "inet", "felix"]:
                    self._table = self._table or FakeTable()
                case ["delete", "table", "inet", "felix"]:
                    self._get()
                    self._table = None
                case ["flush", "chain", "inet", "felix", name]:
                    self._get_chain(name).clear()
                case ["delete", "chain", "inet", "felix", name]:
                    self._get_chain(name)
                    del self._get().rules[name]
                    self._get().hooks.pop(name, None)
                case ["delete", kind, "inet", "felix", name]:
                    if self._get().objects.pop((kind, name), None) is None:
                        raise Refused(f"No such file or directory: {kind} {name}")
                    self._get().elements.pop(name, None)
                case ["table", "inet", "felix", "{"]:
                    self._table = self._table or FakeTable()
                    self._block(lines)
                case _:
                    raise NotUnderstood(line)
        if self._table is not None:
            _validate(self._table)
        return self._table

    def _block(self, lines: list[str]) -> None:
        while (line := lines.pop(0)) != "}":
            kind, name, brace = line.split()
            assert brace == "{", line
            body = []
            while (line := lines.pop(0)) != "\t}":
                body.append(line.strip())
            if kind == "chain":
                self._chain(name, body)
            else:
                self._declare(kind, name, tuple(body))

    def _declare(self, kind: str, name: str, body: tuple[str, ...]) -> None:
        table = self._get()
        if kind != "counter" and any(other == name and k not in (kind, "counter") for k, other in table.objects):
            raise Refused(f"File exists: {kind} {name}")
        if table.objects.setdefault((kind, name), body) != body:
            raise Refused(f"File exists: {kind} {name}")
        if kind != "counter":
            table.elements.setdefault(name, {})

    def _chain(self, name: str, body: list[str]) -> None:
        table = self._get()
        rules = table.rules.setdefault(name, [])
        for line in body:
            if self._is_refused(line):
                raise Refused(f"Operation not supported: {line}")
            if _HOOK.fullmatch(line):
                if rules or table.hooks.get(name, line) != line:
                    raise Refused(f"Device or resource busy: {name}")
                table.hooks[name] = line
            else:
                rules.append(parse_rule(line))

    def _get(self) -> FakeTable:
        if self._table is None:
            raise Refused("No such file or directory: table")
        return self._table

    def _get_chain(self, name: str) -> list[FakeRule]:
        if name not in self._get().rules:
            raise Refused(f"No such file or directory: chain {name}")
        return self._get().rules[name]


def _validate(table: FakeTable) -> None:
    """Raises Refused when something refers to nothing, or a packet could take too many jumps."""
    for chain, rules in table.rules.items():
        for rule in rules:
            if missing := [name for name in rule.chains if name not in table.rules]:
                raise Refused(f"No such file or directory: chain {missing} in {chain}")
            if missing := [name for name in rule.sets if name not in table.elements]:
                raise Refused(f"No such file or directory: set {missing} in {chain}")
            if missing := [name for name in rule.counters if ("counter", name) not in table.objects]:
                raise Refused(f"No such file or directory: counter {missing} in {chain}")
    for set_, elements in table.elements.items():
        if _is_translation(table, set_):
            continue
        if missing := [chain for chain in elements.values() if chain and chain not in table.rules]:
            raise Refused(f"Device or resource busy: chain {missing} in map {set_}")
    depths: dict[str, int] = {}
    for chain in table.hooks:
        if _depth(table, chain, depths, ()) > _JUMP_LIMIT:
            raise Refused("Too many links")


def _is_translation(table: FakeTable, set_: str) -> bool:
    """Whether the values of that map are addresses."""
    declaration = table.objects.get(("map", set_), ())
    return any(line.endswith("_addr") and ":" in line for line in declaration)


def _depth(table: FakeTable, chain: str, depths: dict[str, int], above: tuple[str, ...]) -> int:
    """Returns how many chains a packet can be in one below the other, this one included."""
    if chain in above:
        raise Refused(f"Too many levels of symbolic links: {chain}")
    if chain not in depths:
        below: set[str] = set()
        for rule in table.rules[chain]:
            below.update(rule.chains)
            if rule.lookup is not None:
                maps = [set_ for set_ in rule.sets if not _is_translation(table, set_)]
                below.update(target for set_ in maps for target in table.elements[set_].values())
        depths[chain] = 1 + max((_depth(table, one, depths, (*above, chain)) for one in below), default=0)
    return depths[chain]


def _change_elements(table: FakeTable, change: SetChange) -> str:
    """Changes one set; returns why a kernel would refuse, or nothing."""
    elements = table.elements.get(change.set)
    if elements is None:
        return "No such file or directory"
    for element in change.removed:
        if elements.pop(element.key, None) is None:
            return "No such file or directory"
    for element in change.added:
        if element.chain and not change.shape.is_translation and element.chain not in table.rules:
            return "No such file or directory"
        if elements.get(element.key, element.chain) != element.chain:
            return "Device or resource busy"
        width = len(element.key) // 2
        if change.shape.is_range and any(
            element.key[:width] <= other[width:] and other[:width] <= element.key[width:] and other != element.key
            for other in elements
        ):
            return "File exists"
        elements[element.key] = element.chain
    if change.shape.is_map:
        try:
            _validate(table)
        except Refused as error:
            return str(error)
    return ""
