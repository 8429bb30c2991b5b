"""What the kernel says about the rules of a chain, byte for byte, whoever wrote them: for comparing writers."""

from __future__ import annotations

from collections.abc import Iterator
from typing import NamedTuple

from felix.dataplane.netlink.apply import NetlinkSocket
from felix.dataplane.netlink.message import (
    attribute,
    message,
    nfnetlink_header,
    parse_attribute_list,
    parse_attributes,
    parse_messages,
)
from felix.dataplane.nft.types import TABLE

_SUBSYSTEM, _INET = 10 << 8, 1
_GETRULE, _GETCHAIN, _GETSET, _GETSETELEM = _SUBSYSTEM | 7, _SUBSYSTEM | 4, _SUBSYSTEM | 10, _SUBSYSTEM | 13
_TABLE_ATTRIBUTE = attribute(1, TABLE.encode() + b"\0")
_SET_NAME, _SET_FLAGS, _SET_HANDLE, _SET_ID = 2, 3, 16, 10
_ANONYMOUS = 1
_LOOKUP_SET = 1

Attributes = tuple[tuple[int, bytes], ...]


class DumpedSet(NamedTuple):
    """A set without its name: what it was declared with, and its elements in the order of their bytes."""

    attributes: Attributes
    elements: tuple[bytes, ...]


class DumpedRule(NamedTuple):
    """One rule. expressions: name and attributes of each; a look into an anonymous set has that instead of its name.

    others: userdata and what else there is beside handles and names.
    """

    expressions: tuple[tuple[str, tuple[tuple[int, bytes | DumpedSet], ...]], ...]
    others: Attributes


class DumpedTable(NamedTuple):
    """A table without handles and numbers of uses: chains and named sets by name, rules by chain."""

    chains: dict[str, Attributes]
    sets: dict[str, Attributes]
    rules: dict[str, list[DumpedRule]]


def dump_table(socket: NetlinkSocket) -> DumpedTable:
    """Returns our table."""
    anonymous: dict[bytes, DumpedSet] = {}
    named: dict[str, Attributes] = {}
    for parts in _dump(socket, _GETSET, _TABLE_ATTRIBUTE):
        kept = tuple((type_, value) for type_, value in parts if type_ not in (_SET_NAME, _SET_HANDLE, _SET_ID))
        name = dict(parts)[_SET_NAME]
        if int.from_bytes(dict(parts).get(_SET_FLAGS, b""), "big") & _ANONYMOUS:
            anonymous[name] = DumpedSet(kept, tuple(sorted(_elements(socket, name))))
        else:
            named[_text(name)] = kept
    chains = {
        _text(dict(parts)[3]): tuple((type_, value) for type_, value in parts if type_ not in (2, 3, 6, 11))
        for parts in _dump(socket, _GETCHAIN, b"")
        if dict(parts)[1] == TABLE.encode() + b"\0"
    }
    rules: dict[str, list[DumpedRule]] = {name: [] for name in chains}
    for parts in _dump(socket, _GETRULE, _TABLE_ATTRIBUTE):
        others = tuple((type_, value) for type_, value in parts if type_ not in (2, 3, 4, 6))
        found = tuple(_expressions(dict(parts).get(4, b""), anonymous))
        rules[_text(dict(parts)[2])].append(DumpedRule(found, others))
    return DumpedTable(chains, named, rules)


def _expressions(
    buffer: bytes, anonymous: dict[bytes, DumpedSet]
) -> Iterator[tuple[str, tuple[tuple[int, bytes | DumpedSet], ...]]]:
    for _, element in parse_attribute_list(buffer):
        parts = parse_attributes(element)
        name = _text(parts[1])
        inside: list[tuple[int, bytes | DumpedSet]] = list(parse_attribute_list(parts.get(2, b"")))
        if name == "lookup":
            inside = [
                (type_, anonymous.get(value, value) if type_ == _LOOKUP_SET and isinstance(value, bytes) else value)
                for type_, value in inside
            ]
        yield name, tuple(inside)


def _elements(socket: NetlinkSocket, name: bytes) -> Iterator[bytes]:
    for parts in _dump(socket, _GETSETELEM, _TABLE_ATTRIBUTE + attribute(2, name)):
        for type_, value in parts:
            if type_ == 3:
                yield from (element for _, element in parse_attribute_list(value))


def _dump(socket: NetlinkSocket, type_: int, body: bytes) -> Iterator[Attributes]:
    for datagram in socket.dump(message(type_, 0, nfnetlink_header(_INET) + body)):
        for one in parse_messages(datagram):
            yield tuple(parse_attribute_list(one.body, 4))


def _text(value: bytes) -> str:
    return value.rstrip(b"\0").decode()
