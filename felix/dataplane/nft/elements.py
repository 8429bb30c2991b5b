"""Set and map elements as nf_tables netlink messages (linux/netfilter/nf_tables.h), and back.

Tools read every interval set of the namespace before they write one element; a batch of our own costs microseconds.
A range is two elements, its first address and the one behind its last, the second marked as an end; a range that
reaches the last address of its family has no second one.
"""

from __future__ import annotations

import struct
from collections.abc import Iterable, Iterator, Sequence

from felix.calc.desired import PortMember
from felix.dataplane.netlink.message import (
    NLM_F_CREATE,
    attribute,
    batch,
    message,
    nested,
    nfnetlink_header,
    parse_attribute_list,
    parse_attributes,
    parse_messages,
)
from felix.dataplane.nft.types import TABLE, Count, Element, ElementShape, SetChange
from felix.model.net import Net

SUBSYSTEM = 10
MSG_NEWSETELEM = SUBSYSTEM << 8 | 12
MSG_GETSETELEM = SUBSYSTEM << 8 | 13
MSG_DELSETELEM = SUBSYSTEM << 8 | 14
_NFPROTO_INET = 1
_MSG_GETOBJ = SUBSYSTEM << 8 | 19
_OBJ_TABLE, _OBJ_NAME, _OBJ_TYPE, _OBJ_DATA = 1, 2, 3, 4
_OBJECT_COUNTER = 1
_COUNTER_BYTES, _COUNTER_PACKETS = 1, 2
_LIST_TABLE, _LIST_SET, _LIST_ELEMENTS = 1, 2, 3
_LIST_ELEM = 1
_ELEM_KEY, _ELEM_DATA, _ELEM_FLAGS = 1, 2, 3
_DATA_VALUE, _DATA_VERDICT = 1, 2
_VERDICT_CODE, _VERDICT_CHAIN = 1, 2
_GOTO = struct.pack(">i", -4)
_INTERVAL_END = 1
_END_FLAG = attribute(_ELEM_FLAGS, struct.pack(">I", _INTERVAL_END))
_MESSAGE_ELEMENTS_BYTES = 60_000  # one attribute holds at most 65 531 bytes
NAME_BYTES = 16

KEY_BYTES = {
    ElementShape.IPV4: 4,
    ElementShape.IPV6: 16,
    ElementShape.IPV4_RANGE: 4,
    ElementShape.IPV6_RANGE: 16,
    ElementShape.IPV4_PORT: 12,  # each part begins at a multiple of four
    ElementShape.IPV6_PORT: 24,
    ElementShape.IPV4_FLOW: 16,
    ElementShape.IPV6_FLOW: 40,
    ElementShape.NAME: NAME_BYTES,
    ElementShape.NAME_IPV4: NAME_BYTES + 4,
    ElementShape.NAME_IPV6: NAME_BYTES + 16,
    ElementShape.NAME_MAC: NAME_BYTES + 8,
    ElementShape.NAME_CHAIN: NAME_BYTES,
    ElementShape.IPV4_IPV4: 4,
    ElementShape.IPV6_IPV6: 16,
}
"""Length of one key in the kernel."""


def name_key(interface: str) -> bytes:
    """Returns an interface's name as the kernel compares it. Raises ValueError if no interface can be called so.

    interface: bytes that are no UTF-8 as surrogates: the kernel takes any, and reading links keeps them so.
    """
    encoded = interface.encode("utf-8", "surrogateescape")
    if not 0 < len(encoded) < NAME_BYTES or b"\0" in encoded or b"/" in encoded:
        raise ValueError(f"{interface!r} cannot be an interface's name (1-15 bytes)")
    return encoded.ljust(NAME_BYTES, b"\0")


def address_key(net: Net) -> tuple[ElementShape, bytes]:
    """Returns which part of an address set `net` belongs into, and its key there."""
    if net.is_address:
        return (ElementShape.IPV4 if net.version == 4 else ElementShape.IPV6), net.packed
    first, last = net.packed, net.last.to_bytes(net.bits // 8, "big")
    return (ElementShape.IPV4_RANGE if net.version == 4 else ElementShape.IPV6_RANGE), first + last


def port_key(member: PortMember) -> tuple[ElementShape, bytes]:
    """Returns which part of a port set a member belongs into, and its key there."""
    shape = ElementShape.IPV4_PORT if member.address.version == 4 else ElementShape.IPV6_PORT
    return shape, member.address.packed + struct.pack(">B3xH2x", member.protocol, member.port)


def range_key(net: Net) -> tuple[ElementShape, bytes]:
    """Returns into which interval set `net` belongs, single addresses too, and its key there."""
    shape = ElementShape.IPV4_RANGE if net.version == 4 else ElementShape.IPV6_RANGE
    return shape, net.packed + net.last.to_bytes(net.bits // 8, "big")


# --- Writing ---


def pack_changes(changes: Sequence[SetChange]) -> tuple[list[bytes], list[SetChange]]:
    """Returns one transaction of netlink messages, and for each one inside it the part of `changes` it carries."""
    messages: list[bytes] = []
    parts: list[SetChange] = []
    for change in changes:
        for elements, is_removal in ((change.removed, True), (change.added, False)):
            for part in _split(change.shape, elements):
                messages.append(_pack_message(change.set, change.shape, part, is_removal=is_removal))
                parts.append(
                    SetChange(change.set, change.shape, part if is_removal else (), () if is_removal else part)
                )
    return batch(SUBSYSTEM, messages), parts


def _split(shape: ElementShape, elements: tuple[Element, ...]) -> Iterator[tuple[Element, ...]]:
    each_bytes = 2 * (KEY_BYTES[shape] + 20) if shape.is_range else KEY_BYTES[shape] + 12
    if shape.is_map:
        each_bytes += 300  # the name of a chain
    step = max(1, _MESSAGE_ELEMENTS_BYTES // each_bytes)
    for start in range(0, len(elements), step):
        yield elements[start : start + step]


def _pack_message(set_: str, shape: ElementShape, elements: Iterable[Element], *, is_removal: bool) -> bytes:
    body = b"".join(
        (
            nfnetlink_header(_NFPROTO_INET),
            attribute(_LIST_TABLE, TABLE.encode() + b"\0"),
            attribute(_LIST_SET, set_.encode() + b"\0"),
            nested(_LIST_ELEMENTS, *(_pack_element(shape, element, is_removal) for element in elements)),
        )
    )
    return message(MSG_DELSETELEM, 0, body) if is_removal else message(MSG_NEWSETELEM, NLM_F_CREATE, body)


def _pack_element(shape: ElementShape, element: Element, is_removal: bool) -> bytes:
    if shape.is_range:
        width = KEY_BYTES[shape]
        first, last = element.key[:width], element.key[width:]
        packed = nested(_LIST_ELEM, _pack_key(first))
        behind = int.from_bytes(last, "big") + 1
        if behind >> (8 * width):
            return packed
        return packed + nested(_LIST_ELEM, _END_FLAG, _pack_key(behind.to_bytes(width, "big")))
    key = _pack_key(element.key)
    if not element.chain or is_removal:
        return nested(_LIST_ELEM, key)
    if shape.is_translation:
        return nested(_LIST_ELEM, key, nested(_ELEM_DATA, attribute(_DATA_VALUE, bytes.fromhex(element.chain))))
    chain = attribute(_VERDICT_CHAIN, element.chain.encode() + b"\0")
    return nested(_LIST_ELEM, key, nested(_ELEM_DATA, nested(_DATA_VERDICT, attribute(_VERDICT_CODE, _GOTO), chain)))


def _pack_key(key: bytes) -> bytes:
    return nested(_ELEM_KEY, attribute(_DATA_VALUE, key))


# --- Reading ---


def request_elements(set_: str) -> bytes:
    """Returns the request that dumps the elements of one set or map."""
    body = (
        nfnetlink_header(_NFPROTO_INET)
        + attribute(_LIST_TABLE, TABLE.encode() + b"\0")
        + attribute(_LIST_SET, set_.encode() + b"\0")
    )
    return message(MSG_GETSETELEM, 0, body)


def request_counters() -> bytes:
    """Returns the request that dumps the named counters of our table."""
    body = (
        nfnetlink_header(_NFPROTO_INET)
        + attribute(_OBJ_TABLE, TABLE.encode() + b"\0")
        + attribute(_OBJ_TYPE, struct.pack(">I", _OBJECT_COUNTER))
    )
    return message(_MSG_GETOBJ, 0, body)


def parse_counters(datagrams: Iterable[bytes]) -> dict[str, Count]:
    """Returns counts by name of counter, of our table only."""
    count_by_name: dict[str, Count] = {}
    for datagram in datagrams:
        for one in parse_messages(datagram):
            parts = parse_attributes(one.body, 4)
            counts = parse_attributes(parts.get(_OBJ_DATA, b""))
            if parts.get(_OBJ_TABLE, b"").rstrip(b"\0") == TABLE.encode() and _COUNTER_PACKETS in counts:
                name = parts.get(_OBJ_NAME, b"").rstrip(b"\0").decode(errors="replace")
                packets, size_bytes = counts[_COUNTER_PACKETS], counts.get(_COUNTER_BYTES, b"")
                count_by_name[name] = Count(int.from_bytes(packets, "big"), int.from_bytes(size_bytes, "big"))
    return count_by_name


def parse_elements(shape: ElementShape, datagrams: Iterable[bytes]) -> dict[bytes, str]:
    """Returns what a dump says: chain or address (empty in sets) by key.

    Verdicts other than goto get a chain that no name is.
    """
    if shape.is_range:
        return _parse_ranges(KEY_BYTES[shape], datagrams)
    width = KEY_BYTES[shape]
    chain_by_key: dict[bytes, str] = {}
    for elements in _element_lists(datagrams):
        if _parse_plain(width, elements, chain_by_key):
            continue
        for _, element in parse_attribute_list(elements):
            parts = parse_attributes(element)
            key = parse_attributes(parts.get(_ELEM_KEY, b"")).get(_DATA_VALUE)
            if key is not None:
                chain_by_key[key] = _parse_chain(parts[_ELEM_DATA]) if _ELEM_DATA in parts else ""
    return chain_by_key


def _element_lists(datagrams: Iterable[bytes]) -> Iterator[bytes]:
    for datagram in datagrams:
        for one in parse_messages(datagram):
            elements = parse_attributes(one.body, 4).get(_LIST_ELEMENTS)
            if elements is not None:
                yield elements


def _parse_plain(width: int, elements: bytes, chain_by_key: dict[bytes, str]) -> bool:
    """Reads a list in which every element is a bare key; returns False, with nothing read, for any other list."""
    step = 12 + ((width + 3) & ~3)
    head = elements[:12]
    if len(elements) % step or len(head) < 12 or head[0] | head[1] << 8 != step:
        return False
    starts = range(0, len(elements), step)
    if any(elements[start : start + 12] != head for start in starts):
        return False
    chain_by_key.update((elements[start + 12 : start + 12 + width], "") for start in starts)
    return True


def _parse_chain(data: bytes) -> str:
    value = parse_attributes(data)
    if _DATA_VALUE in value:
        return value[_DATA_VALUE].hex()
    verdict = parse_attributes(value.get(_DATA_VERDICT, b""))
    chain = verdict.get(_VERDICT_CHAIN, b"").rstrip(b"\0").decode(errors="replace")
    return chain if verdict.get(_VERDICT_CODE) == _GOTO else f"?{verdict.get(_VERDICT_CODE, b'').hex()} {chain}"


def _parse_ranges(width: int, datagrams: Iterable[bytes]) -> dict[bytes, str]:
    edges: list[tuple[bytes, bool]] = []
    for elements in _element_lists(datagrams):
        edges += _parse_edges(width, elements)
    edges.sort()  # at one address the end of a range comes before the start of the next
    ranges: dict[bytes, str] = {}
    first: bytes | None = None
    for key, is_start in edges:
        if first is not None:
            last = (int.from_bytes(key, "big") - 1).to_bytes(width, "big")
            ranges[first + last] = ""
        first = key if is_start else None
    if first is not None:
        ranges[first + b"\xff" * width] = ""
    return ranges


def _parse_edges(width: int, elements: bytes) -> Iterator[tuple[bytes, bool]]:
    """Yields address and whether a range starts there; elements are a key, alone or followed by flags."""
    offset, end = 0, len(elements)
    bare = 12 + width
    while offset + bare <= end:
        size = elements[offset] | elements[offset + 1] << 8
        if size == bare:
            yield elements[offset + 12 : offset + bare], True
        elif size == bare + 8 and elements[offset + bare + 2] & 0x3F == _ELEM_FLAGS:
            yield elements[offset + 12 : offset + bare], not elements[offset + bare + 7] & _INTERVAL_END
        else:  # what a stranger added: comments, timeouts
            parts = parse_attributes(elements[offset + 4 : offset + size])
            key = parse_attributes(parts.get(_ELEM_KEY, b"")).get(_DATA_VALUE, b"")
            yield key, not int.from_bytes(parts.get(_ELEM_FLAGS, b""), "big") & _INTERVAL_END
        if size < 4:
            return
        offset += (size + 3) & ~3
