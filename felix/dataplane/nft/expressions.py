"""The expressions of nf_tables rules as netlink attributes (linux/netfilter/nf_tables.h), one function each. Pure.

What registers hold is in network byte order, except what the kernel itself keeps as a number of the machine: marks,
states, indexes of interfaces. Values are given as the bytes that are compared.
"""

from __future__ import annotations

import functools
import struct

from felix.dataplane.netlink.message import attribute, nested

ACCEPT, DROP, RETURN = 1, 0, -5
JUMP, GOTO = -3, -4
META_IIF, META_IIFNAME, META_OIFNAME, META_IIFTYPE, META_NFPROTO, META_L4PROTO = 4, 6, 7, 8, 15, 16
CT_STATE, CT_STATUS, CT_PROTO_DST, CT_DST_IP, CT_DST_IP6 = 0, 2, 12, 20, 22
LINK_HEADER, NETWORK_HEADER, TRANSPORT_HEADER = 0, 1, 2
EQUAL, UNEQUAL, AT_MOST, AT_LEAST = 0, 1, 3, 5
UNIT_S = {"second": 1, "minute": 60, "hour": 3600, "day": 86400, "week": 604800}

FIRST_REGISTER = 1
"""The register of what is compared alone, and where concatenations begin."""
_REGISTER_BYTES = 16
_ORIGINAL_DIRECTION = b"\0"
_OBJECT_COUNTER = 1
_LIMIT_PACKETS, _LIMIT_OVER, _COUNT_OVER, _LOOKUP_INVERTED = 0, 1, 1, 1
_REJECT_TCP_RESET, _REJECT_ANY_FAMILY, _PORT_UNREACHABLE = 1, 2, 1
_VALUE, _VERDICT = 1, 2


def number(value: int) -> bytes:
    """Returns an attribute's number: 32 bits in network byte order."""
    return struct.pack(">i" if value < 0 else ">I", value)


def name(text: str) -> bytes:
    """Returns an attribute's string."""
    return text.encode() + b"\0"


def register_at(words: int) -> int:
    """Returns the register that lies so many four-byte words behind the first."""
    return FIRST_REGISTER + words // 4 if words % 4 == 0 else 8 + words


@functools.cache
def _kind(kind: str) -> bytes:
    return attribute(1, name(kind))


def _expression(kind: str, *attributes: bytes) -> bytes:
    return nested(1, _kind(kind), nested(2, *attributes))


def _data(type_: int, value: bytes) -> bytes:
    return nested(type_, attribute(_VALUE, value))


@functools.lru_cache(maxsize=1024)
def load_payload(header: int, offset: int, size_bytes: int, register: int = FIRST_REGISTER) -> bytes:
    """Takes bytes of a header into a register."""
    place = (attribute(type_, number(value)) for type_, value in enumerate((register, header, offset, size_bytes), 1))
    return _expression("payload", *place)


@functools.lru_cache(maxsize=1024)
def load_meta(key: int, register: int = FIRST_REGISTER) -> bytes:
    """Takes what is known about the packet, such as its interface, into a register."""
    return _expression("meta", attribute(2, number(key)), attribute(1, number(register)))


@functools.lru_cache(maxsize=1024)
def load_ct(key: int, *, is_original: bool = False) -> bytes:
    """Takes what is known about the packet's connection into the first register."""
    direction = (attribute(3, _ORIGINAL_DIRECTION),) if is_original else ()
    return _expression("ct", attribute(2, number(key)), attribute(1, number(FIRST_REGISTER)), *direction)


@functools.lru_cache(maxsize=1024)
def compare(operator: int, value: bytes) -> bytes:
    """Goes on if the first register compares so with `value`."""
    return _expression("cmp", attribute(1, number(FIRST_REGISTER)), attribute(2, number(operator)), _data(3, value))


def outside(first: bytes, last: bytes) -> bytes:
    """Goes on if the first register is smaller than `first` or greater than `last`."""
    ends = _data(3, first), _data(4, last)
    return _expression("range", attribute(1, number(FIRST_REGISTER)), attribute(2, number(UNEQUAL)), *ends)


@functools.lru_cache(maxsize=1024)
def mask(bits: bytes) -> bytes:
    """Leaves only these bits in the first register."""
    places = (attribute(type_, number(value)) for type_, value in ((1, FIRST_REGISTER), (2, FIRST_REGISTER)))
    size = attribute(3, number(len(bits)))
    return _expression("bitwise", *places, size, attribute(6, number(0)), _data(4, bits), _data(5, bytes(len(bits))))


def look_up(set_: str, *, is_inverted: bool = False, is_map: bool = False, set_id: int | None = None) -> bytes:
    """Goes on if the set has what is in the registers (inverted: has not); a map's verdict is followed.

    set_id: of a set that the same transaction makes and `set_` does not name.
    """
    attributes = [attribute(1, name(set_)), attribute(2, number(FIRST_REGISTER))]
    if is_map:
        attributes.append(attribute(3, number(0)))
    if set_id is not None:
        attributes.append(attribute(4, number(set_id)))
    if is_inverted:
        attributes.append(attribute(5, number(_LOOKUP_INVERTED)))
    return _expression("lookup", *attributes)


def verdict_data(type_: int, code: int, chain: str = "") -> bytes:
    """Returns a verdict as an attribute of that type."""
    target = (attribute(2, name(chain)),) if chain else ()
    return nested(type_, nested(_VERDICT, attribute(1, number(code)), *target))


@functools.lru_cache(maxsize=1024)
def decide(code: int, chain: str = "") -> bytes:
    """Ends the rule with a verdict. chain: where JUMP and GOTO lead."""
    return _expression("immediate", attribute(1, number(0)), verdict_data(2, code, chain))


@functools.lru_cache(maxsize=1024)
def count(counter: str) -> bytes:
    """Counts the packet in a named counter."""
    return _expression("objref", attribute(1, number(_OBJECT_COUNTER)), attribute(2, name(counter)))


def log(prefix: str, level: int) -> bytes:
    """Writes a line about the packet into the kernel's log."""
    return _expression("log", attribute(2, name(prefix)), attribute(5, number(level)))


def limit(packets: int, unit_s: int, burst: int, *, is_over: bool) -> bytes:
    """Goes on while no more packets than that come; is_over: only with those that are more."""
    rate = attribute(1, struct.pack(">Q", packets)), attribute(2, struct.pack(">Q", unit_s))
    flags = attribute(5, number(_LIMIT_OVER if is_over else 0))
    return _expression("limit", *rate, attribute(3, number(burst)), attribute(4, number(_LIMIT_PACKETS)), flags)


def connections_over(most: int) -> bytes:
    """Goes on with connections that are more than `most` here at once."""
    return _expression("connlimit", attribute(1, number(most)), attribute(2, number(_COUNT_OVER)))


def reject() -> bytes:
    """Drops the packet and says that nobody listens, in the words of its family."""
    return _expression("reject", attribute(1, number(_REJECT_ANY_FAMILY)), attribute(2, bytes((_PORT_UNREACHABLE,))))


def reset() -> bytes:
    """Drops the packet and resets its TCP connection."""
    return _expression("reject", attribute(1, number(_REJECT_TCP_RESET)), attribute(2, b"\0"))


def notrack() -> bytes:
    """Leaves the packet out of connection tracking."""
    return nested(1, attribute(1, name("notrack")))
