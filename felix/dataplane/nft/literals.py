"""Values that lines of rules name: addresses, prefixes, ranges, numbers, names, and sets of them, as bytes. Pure.

Only the forms in which Felix writes them are read; any other raises NotEncodable.
"""

from __future__ import annotations

import re
import sys
from collections.abc import Sequence
from typing import NamedTuple

from felix.dataplane.nft.fields import HOST_ORDER, NO_TYPE, Field, set_type, set_userdata
from felix.model.net import parse_net

_INTERFACE = re.compile(r'"([A-Za-z0-9_.-]{1,15})(\*?)"')
_NUMBER = re.compile(r"0|[1-9][0-9]{0,9}")
_BITS = re.compile(r"0x[0-9a-f]{1,8}")

Range = tuple[bytes, bytes]


class NotEncodable(Exception):
    """A line with words that are not known here, or not in this place."""


class SetElement(NamedTuple):
    """One element of an anonymous set. is_end: where an interval is over. verdict: what a map says, else None."""

    key: bytes
    is_end: bool = False
    is_open: bool = False
    verdict: int | None = None


class AnonymousSet(NamedTuple):
    """A set that belongs to one rule. size: as nft counts it."""

    type: int
    key_bytes: int
    userdata: bytes
    elements: tuple[SetElement, ...]
    size: int
    is_interval: bool = False
    is_map: bool = False


def pad(value: bytes) -> bytes:
    """Returns a part of a concatenated key: each begins at a multiple of four."""
    return value + bytes(-len(value) % 4)


def read_number(text: str, size_bytes: int) -> int:
    """Returns a decimal number that fits into so many bytes."""
    if not _NUMBER.fullmatch(text) or int(text) >> (8 * size_bytes):
        raise NotEncodable(text)
    return int(text)


def read_bits(field: Field, text: str) -> bytes:
    """Returns a hexadecimal number, as nft writes bits, in the order in which the field has its bytes."""
    if not _BITS.fullmatch(text) or int(text, 16) >> (8 * field.size_bytes):
        raise NotEncodable(text)
    return int(text, 16).to_bytes(field.size_bytes, sys.byteorder if field.order == HOST_ORDER else "big")


def read_interface(text: str) -> bytes:
    """Returns a quoted name as the kernel compares it; of one with a star at its end only what stands before."""
    found = _INTERFACE.fullmatch(text)
    if found is None:
        raise NotEncodable(text)
    return found[1].encode() if found[2] else found[1].encode().ljust(16, b"\0")


def read_value(field: Field, text: str) -> bytes:
    """Returns one single value."""
    first, last = read_range(field, text)
    if first != last:
        raise NotEncodable(text)
    return first


def read_range(field: Field, text: str) -> Range:
    """Returns first and last value that `text` names."""
    first, dash, last = text.partition("-")
    if not dash and "/" in text:
        return _prefix_range(field, text)
    ends = _one(field, first), _one(field, last if dash else first)
    if dash and ends[0] >= ends[1]:
        raise NotEncodable(text)
    return ends


def _prefix_range(field: Field, text: str) -> Range:
    address, _, length = text.partition("/")
    first = _one(field, address)
    bits = 8 * len(first)
    if field.kind not in ("address4", "address6") or read_number(length, 1) > bits:
        raise NotEncodable(text)
    inside = (1 << (bits - int(length))) - 1
    if int.from_bytes(first, "big") & inside:
        raise NotEncodable(text)
    return first, (int.from_bytes(first, "big") | inside).to_bytes(len(first), "big")


def _one(field: Field, text: str) -> bytes:
    if field.kind == "number":
        return read_number(text, field.size_bytes).to_bytes(field.size_bytes, "big")
    if field.kind not in ("address4", "address6") or "/" in text:
        raise NotEncodable(text)
    try:
        net = parse_net(text)
    except ValueError as error:
        raise NotEncodable(text) from error
    if len(net.packed) != field.size_bytes:
        raise NotEncodable(text)
    return net.packed


def read_set(field: Field, items: Sequence[str]) -> AnonymousSet:
    """Returns the set of these values: of intervals, if one of them is more than one value."""
    if field.type == NO_TYPE or field.kind not in ("number", "address4", "address6") or len(items) < 2:
        raise NotEncodable("a set of these")
    ranges = [read_range(field, item) for item in items]
    userdata, type_ = set_userdata((field,)), set_type((field,))
    if all(first == last for first, last in ranges):
        elements = tuple(SetElement(first) for first, _ in ranges)
        if len(set(elements)) != len(elements):
            raise NotEncodable("an element twice")
        return AnonymousSet(type_, field.size_bytes, userdata, elements, len(elements))
    if field.order == HOST_ORDER:  # nft keeps ranges of such in another order than single ones
        raise NotEncodable("a range of these")
    userdata = set_userdata((field,), is_interval=True)
    edges, size = _edges(ranges, field.size_bytes)
    return AnonymousSet(type_, field.size_bytes, userdata, tuple(edges), size, is_interval=True)


def _edges(ranges: Sequence[Range], size_bytes: int) -> tuple[list[SetElement], int]:
    """Returns starts and ends as the kernel keeps intervals, and how many nft counts."""
    edges: list[SetElement] = []
    behind = -1
    for first, last in ranges:
        start = int.from_bytes(first, "big")
        if start <= behind:  # out of order, or neighbours that nft would make one
            raise NotEncodable("ranges that touch")
        if not edges and start:
            edges.append(SetElement(bytes(size_bytes), is_end=True))
        behind = int.from_bytes(last, "big") + 1
        if behind >> (8 * size_bytes):
            edges.append(SetElement(first, is_open=True))
        else:
            edges += [SetElement(first), SetElement(behind.to_bytes(size_bytes, "big"), is_end=True)]
    return edges, len(edges) + edges[-1].is_open
