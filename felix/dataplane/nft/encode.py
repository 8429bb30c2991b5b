"""Lines of rules, in nft's words, as expressions of the kernel: the same that libnftables makes of them. Pure.

Known are the words that Felix renders often. A line that has any other word, or a known one in another place, is not
encoded, and who wants it written asks libnftables. Nothing is guessed: the contract tests write every line that Felix
renders both ways and compare what the kernel then has.
"""

from __future__ import annotations

import functools
import itertools
import re
import sys
from collections.abc import Iterable, Sequence
from typing import NamedTuple

from felix.dataplane.nft import expressions as to
from felix.dataplane.nft.fields import (
    ARPHRD_ETHER,
    FAMILIES,
    FIELDS,
    Field,
    set_type,
    set_userdata,
    verdict_userdata,
)
from felix.dataplane.nft.literals import (
    AnonymousSet,
    NotEncodable,
    SetElement,
    pad,
    read_bits,
    read_interface,
    read_number,
    read_range,
    read_set,
    read_value,
)
from felix.model.net import parse_net

_COMMENT = re.compile(r' comment "([A-Za-z0-9_.:/()=,; -]{1,127})"$')
_WORD = re.compile(r'"[^"]*"|[^\s"]+')
_NAME = re.compile(r"[A-Za-z0-9_.-]{1,127}")
_PREFIX = re.compile(r'"([A-Za-z0-9_.:/ +-]{1,127})"')
_RATE = re.compile(r"([1-9][0-9]{0,8})/(second|minute|hour|day|week)")
_VERDICTS = {"accept": to.ACCEPT, "drop": to.DROP, "return": to.RETURN}
_LEADING = {"jump": to.JUMP, "goto": to.GOTO}
_LEVEL_INFO = 6
_SEVERAL = -1  # protocols
_USUAL_BURST = 5
_WORDS_BY_FIRST = {
    field.split()[0]: sorted({len(other.split()) for other in FIELDS if other.split()[0] == field.split()[0]})
    for field in FIELDS
}


class SetLookup(NamedTuple):
    """A look into an anonymous set, whose name nobody knows before it is made."""

    set: AnonymousSet
    is_inverted: bool = False


class EncodedRule(NamedTuple):
    """One rule. expressions: in their order; userdata: its comment, or nothing."""

    expressions: tuple[bytes | SetLookup, ...]
    userdata: bytes = b""


def encode_rule(line: str) -> EncodedRule:
    """Returns what libnftables would make of `line`. Raises NotEncodable."""
    userdata = b""
    found = _COMMENT.search(line)
    if found is not None:
        text = to.name(found[1])
        userdata = bytes((0, len(text))) + text
        line = line[: found.start()]
    return EncodedRule(_encode_words(line), userdata)


@functools.lru_cache(maxsize=512)
def _encode_words(line: str) -> tuple[bytes | SetLookup, ...]:
    words = _WORD.findall(line)
    if not words or " ".join(words) != line:
        raise NotEncodable(line)
    return tuple(_Rule(words).encode())


class _Alone(NamedTuple):
    """A comparison with one value of a header of the transport: two that are neighbours become one."""

    field: Field
    operator: int
    value: bytes
    position: int


class _Rule:
    """The words of one line, and what has been made of those before `_at`."""

    def __init__(self, words: Sequence[str]) -> None:
        self._words = words
        self._at = 0
        self._made: list[bytes | SetLookup] = []
        self._family: int | None = None
        self._implied_family: int | None = None
        self._protocol: int | None = None
        self._is_ethernet = False
        self._alone: list[_Alone] = []
        self._is_ended = False

    def encode(self) -> list[bytes | SetLookup]:
        while self._at < len(self._words):
            if self._is_ended:
                raise NotEncodable(self._words[self._at])
            if not self._match() and not self._act():
                raise NotEncodable(self._words[self._at])
        self._join_neighbours()
        return self._made

    # --- Words ---

    def _peek(self) -> str:
        return self._words[self._at] if self._at < len(self._words) else ""

    def _take(self) -> str:
        if self._at >= len(self._words):
            raise NotEncodable("the line ends too early")
        self._at += 1
        return self._words[self._at - 1]

    def _skip(self, *words: str) -> bool:
        """Returns whether these words come next, which then are behind."""
        end = self._at + len(words)
        if tuple(self._words[self._at : end]) != words:
            return False
        self._at = end
        return True

    def _take_name(self) -> str:
        name = self._take()
        if not _NAME.fullmatch(name):
            raise NotEncodable(name)
        return name

    # --- Conditions ---

    def _match(self) -> bool:
        field = self._find_field()
        if field is None:
            return False
        fields = [field]
        while self._skip("."):
            field = self._find_field()
            if field is None:
                raise NotEncodable("no field behind a dot")
            fields.append(field)
        self._need(fields)
        if len(fields) > 1:
            self._look_up(tuple(fields))
        elif self._skip("vmap"):
            self._look_up_verdict(fields[0])
        else:
            self._compare(fields[0])
        return True

    def _find_field(self) -> Field | None:
        for count in _WORDS_BY_FIRST.get(self._peek(), ()):
            field = FIELDS.get(" ".join(self._words[self._at : self._at + count]))
            if field is not None:
                self._at += count
                return field
        return None

    def _need(self, fields: Iterable[Field]) -> None:
        """The packet is known to have all these fields: what says so comes before what looks at them."""
        for field in fields:
            if field.needs_protocol and self._protocol in (None, _SEVERAL):
                raise NotEncodable("a tracked port without protocol")
            if field.implied_family not in (None, self._implied_family or field.implied_family):
                raise NotEncodable("two families")
            self._implied_family = self._implied_family or field.implied_family
            if field.needs_link and not self._is_ethernet:
                self._is_ethernet = True
                self._made += [
                    to.load_meta(to.META_IIFTYPE),
                    to.compare(to.EQUAL, ARPHRD_ETHER.to_bytes(2, sys.byteorder)),
                ]
            if field.family is not None and field.family != self._family:
                if self._is_ethernet or (field.protocol is not None and self._protocol is not None):
                    raise NotEncodable("nft knows the family by other means")
                self._note_family(field.family)
                self._made += [
                    to.load_meta(to.META_NFPROTO), to.compare(to.EQUAL, bytes((FAMILIES[field.family],)))
                ]  # fmt: skip
            if field.protocol is not None and field.protocol != self._protocol:
                self._note_protocol(field.protocol)
                self._made += [to.load_meta(to.META_L4PROTO), to.compare(to.EQUAL, bytes((field.protocol,)))]

    def _note_family(self, family: int) -> None:
        if self._family is not None or self._implied_family not in (None, family):
            raise NotEncodable("two families, or one said twice")
        self._family = self._implied_family = family

    def _note_protocol(self, protocol: int) -> None:
        if self._protocol is not None:
            raise NotEncodable("two protocols, or one said twice")
        self._protocol = protocol

    def _look_up(self, fields: tuple[Field, ...]) -> None:
        is_inverted = self._skip("!=")
        words = 0
        for field in fields:
            self._made.append(field.load(to.register_at(words)))
            words += (field.size_bytes + 3) // 4
        if self._peek().startswith("@"):
            self._made.append(to.look_up(self._take_set(), is_inverted=is_inverted))
            return
        elements = []
        for item in self._take_items():
            values = item.split(" . ")
            if len(values) != len(fields):
                raise NotEncodable(item)
            key = b"".join(pad(read_value(field, value)) for field, value in zip(fields, values, strict=True))
            elements.append(SetElement(key))
        userdata = set_userdata(fields)
        self._made.append(
            SetLookup(AnonymousSet(set_type(fields), 4 * words, userdata, tuple(elements), len(elements)), is_inverted)
        )

    def _look_up_verdict(self, field: Field) -> None:
        self._made.append(field.load(to.FIRST_REGISTER))
        if self._peek().startswith("@"):
            self._made.append(to.look_up(self._take_set(), is_map=True))
            return
        if field.kind != "bits":
            raise NotEncodable("vmap")
        elements = []
        for item in self._take_items():
            value, _, verdict = item.partition(" : ")
            if verdict not in _VERDICTS:
                raise NotEncodable(item)
            elements.append(SetElement(read_bits(field, value), verdict=_VERDICTS[verdict]))
        userdata = verdict_userdata(field.order)
        made = AnonymousSet(field.type, field.size_bytes, userdata, tuple(elements), len(elements), is_map=True)
        self._made.append(SetLookup(made))

    def _take_set(self) -> str:
        name = self._take()[1:]
        if not _NAME.fullmatch(name):
            raise NotEncodable(name)
        return name

    def _take_items(self) -> list[str]:
        """Takes `{ a, b }`."""
        if self._take() != "{":
            raise NotEncodable("a set was expected")
        items: list[list[str]] = [[]]
        while (word := self._take()) != "}":
            items[-1].append(word.removesuffix(","))
            if word.endswith(","):
                items.append([])
        if not all(items):
            raise NotEncodable("an empty element")
        return [" ".join(item) for item in items]

    def _compare(self, field: Field) -> None:
        if field.kind == "bits":
            self._compare_bits(field)
            return
        is_inverted = self._skip("!=")
        if self._peek().startswith("@"):
            self._made += [field.load(to.FIRST_REGISTER), to.look_up(self._take_set(), is_inverted=is_inverted)]
        elif self._peek() == "{":
            found = read_set(field, self._take_items())
            if field is FIELDS["meta l4proto"] and not is_inverted:
                self._note_protocol(_SEVERAL)
            self._made += [field.load(to.FIRST_REGISTER), SetLookup(found, is_inverted)]
        else:
            self._compare_value(field, self._take(), to.UNEQUAL if is_inverted else to.EQUAL)

    def _compare_bits(self, field: Field) -> None:
        zero = bytes(field.size_bytes)
        self._made.append(field.load(to.FIRST_REGISTER))
        is_inverted = self._skip("!")
        if field is FIELDS["tcp flags"] and not is_inverted:
            raise NotEncodable("tcp flags")
        if is_inverted:
            self._made += [to.mask(read_bits(field, self._take())), to.compare(to.EQUAL, zero)]
            return
        bits = 0
        for one in self._take().split(","):
            bits |= int.from_bytes(read_bits(field, one), sys.byteorder)
        self._made += [to.mask(bits.to_bytes(field.size_bytes, sys.byteorder)), to.compare(to.UNEQUAL, zero)]

    def _compare_value(self, field: Field, text: str, operator: int) -> None:
        match field.kind:
            case "name":
                self._made += [field.load(to.FIRST_REGISTER), to.compare(operator, read_interface(text))]
            case "index" | "mac":
                if field.kind == "mac" or text != "0" or operator != to.EQUAL:
                    raise NotEncodable(text)
                self._made += [field.load(to.FIRST_REGISTER), to.compare(operator, bytes(4))]
            case "version":
                if text != str(field.family) or operator != to.EQUAL:
                    raise NotEncodable(text)
                value = bytes((int(text) << 4,))
                self._made += [field.load(to.FIRST_REGISTER), to.mask(b"\xf0"), to.compare(operator, value)]
            case "address4" | "address6" if "/" in text:
                self._compare_prefix(field, text, operator)
            case _:
                first, last = read_range(field, text)
                if first != last:
                    self._compare_range(field, first, last, operator)
                else:
                    self._compare_one(field, first, operator)

    def _compare_prefix(self, field: Field, text: str, operator: int) -> None:
        net = parse_net(text)
        if net.version != (4 if field.kind == "address4" else 6) or net.is_address or not net.length:
            raise NotEncodable(text)
        value = read_range(field, text)[0]
        size_bytes = net.length // 8
        if net.length % 8:
            bits = (((1 << net.length) - 1) << (net.bits - net.length)).to_bytes(net.bits // 8, "big")
            self._made += [field.load(to.FIRST_REGISTER), to.mask(bits), to.compare(operator, value)]
        elif field.header >= 0:
            load = to.load_payload(field.header, field.offset, size_bytes)
            self._made += [load, to.compare(operator, value[:size_bytes])]
        else:
            self._made += [field.load(to.FIRST_REGISTER), to.compare(operator, value[:size_bytes])]

    def _compare_range(self, field: Field, first: bytes, last: bytes, operator: int) -> None:
        self._made.append(field.load(to.FIRST_REGISTER))
        if operator == to.UNEQUAL:
            self._made.append(to.outside(first, last))
        else:
            self._made += [to.compare(to.AT_LEAST, first), to.compare(to.AT_MOST, last)]

    def _compare_one(self, field: Field, value: bytes, operator: int) -> None:
        if operator == to.EQUAL and field is FIELDS["meta nfproto"]:
            families = {number: family for family, number in FAMILIES.items()}
            if value[0] not in families:
                raise NotEncodable("a family")
            self._note_family(families[value[0]])
        if operator == to.EQUAL and field is FIELDS["meta l4proto"]:
            self._note_protocol(value[0])
        if field.header == to.TRANSPORT_HEADER:
            self._alone.append(_Alone(field, operator, value, len(self._made)))
        self._made += [field.load(to.FIRST_REGISTER), to.compare(operator, value)]

    def _join_neighbours(self) -> None:
        """Comparisons of bytes that lie side by side are one, as libnftables has it: in the order of their places."""
        alone = sorted(self._alone, key=lambda one: one.field.offset)
        joined = False
        for one, next_one in itertools.pairwise(alone):
            is_beside = one.field.offset + one.field.size_bytes == next_one.field.offset
            if not is_beside or one.operator != next_one.operator:
                continue
            if joined or next_one.position != one.position + 2 or one.operator != to.EQUAL:
                raise NotEncodable("comparisons of neighbours")
            joined = True
            size_bytes = one.field.size_bytes + next_one.field.size_bytes
            load = to.load_payload(one.field.header, one.field.offset, size_bytes)
            self._made[one.position : one.position + 4] = [load, to.compare(to.EQUAL, one.value + next_one.value)]

    # --- What is done ---

    def _act(self) -> bool:
        word = self._take()
        if word in _VERDICTS:
            self._made.append(to.decide(_VERDICTS[word]))
            self._is_ended = True
        elif word in _LEADING:
            self._made.append(to.decide(_LEADING[word], self._take_name()))
            self._is_ended = True
        elif word == "counter" and self._skip("name"):
            name = self._take()
            if name[:1] != '"' or not _NAME.fullmatch(name[1:-1]):
                raise NotEncodable(name)
            self._made.append(to.count(name[1:-1]))
        elif word == "notrack":
            self._made.append(to.notrack())
        elif word == "limit" and self._skip("rate"):
            self._limit()
        elif word == "log" and self._skip("prefix"):
            found = _PREFIX.fullmatch(self._take())
            if found is None or not self._skip("level", "info"):
                raise NotEncodable("log")
            self._made.append(to.log(found[1], _LEVEL_INFO))
        elif word == "ct" and self._skip("count", "over"):
            self._made.append(to.connections_over(read_number(self._take(), 4)))
        elif word == "reject":
            self._reject()
        else:
            return False
        return True

    def _limit(self) -> None:
        is_over = self._skip("over")
        found = _RATE.fullmatch(self._take())
        if found is None:
            raise NotEncodable("limit rate")
        burst = _USUAL_BURST
        if self._skip("burst"):
            burst = read_number(self._take(), 4)
            if not burst or not self._skip("packets"):
                raise NotEncodable("burst")
        self._made.append(to.limit(int(found[1]), to.UNIT_S[found[2]], burst, is_over=is_over))

    def _reject(self) -> None:
        if self._skip("with", "tcp", "reset"):
            if self._protocol != FIELDS["tcp sport"].protocol:
                raise NotEncodable("reset of what is not known to be TCP")
            self._made.append(to.reset())
        elif self._made:
            raise NotEncodable("reject behind conditions")
        else:
            self._made.append(to.reject())
        self._is_ended = True
