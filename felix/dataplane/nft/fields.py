"""What a rule may look at: where it is in a packet, what has to be known first, and what nft calls its type. Pure.

Numbers of types, and the userdata by which nft knows again what an anonymous set was about, are those of nftables 1.0.6
(datatype.h, proto.c); other versions read them too.
"""

from __future__ import annotations

import struct
from collections.abc import Callable
from typing import NamedTuple

from felix.dataplane.nft import expressions as to

ARPHRD_ETHER = 1
_PAYLOAD_TYPE, _META_TYPE, _CT_TYPE, _CONCATENATION_TYPE = 7, 9, 12, 13
NETWORK_ORDER, HOST_ORDER, NO_ORDER = 2, 1, 0
NO_TYPE = 0  # what is in no set
_TYPE_BITS = 6
_KEY_ORDER, _DATA_ORDER, _MERGES, _KEY_TYPEOF, _DATA_TYPEOF, _DATA_INTERVAL = 0, 1, 2, 3, 4, 6
OPEN_END = b"\x01\x04" + struct.pack("=I", 1)
"""Userdata of an element that reaches the last value there is."""


def _userdata(type_: int, value: bytes) -> bytes:
    return bytes((type_, len(value))) + value


def _userdata_number(type_: int, value: int) -> bytes:
    return _userdata(type_, struct.pack("=I", value))


class Field(NamedTuple):
    """One thing that is compared. load: takes it into a register; None where the kernel has no such expression.

    size_bytes, type: of the value; kind: how nft writes it. family, protocol: what a packet must be to have it, else
    None. needs_link: only frames of Ethernet have it. needs_protocol: which it is has to be said before.
    implied_family: of the connection; nothing checks it, but a packet cannot be of the other. header, offset: where
    payload is, else -1. meaning: nft's userdata for sets of it. order: of its bytes.
    """

    kind: str
    size_bytes: int
    type: int
    load: Callable[[int], bytes]
    meaning: bytes
    order: int
    family: int | None = None
    protocol: int | None = None
    needs_link: bool = False
    needs_protocol: bool = False
    implied_family: int | None = None
    header: int = -1
    offset: int = -1


FAMILIES = {4: 2, 6: 10}
"""What the kernel calls the families (NFPROTO_…)."""


def _payload(kind: str, size_bytes: int, type_: int, place: tuple[int, int], description: tuple[int, int]) -> Field:
    """Returns a field of a header. place: which, and where in it. description: nft's numbers of protocol and field."""

    def load(register: int) -> bytes:
        return to.load_payload(*place, size_bytes, register)

    inside = _userdata_number(0, description[0]) + _userdata_number(1, description[1])
    meaning = _userdata_number(0, _PAYLOAD_TYPE) + _userdata(1, inside)
    return Field(kind, size_bytes, type_, load, meaning, NETWORK_ORDER, header=place[0], offset=place[1])


def _meta(kind: str, key: int, size_bytes: int, type_: int, order: int = HOST_ORDER) -> Field:
    def load(register: int) -> bytes:
        return to.load_meta(key, register)

    meaning = _userdata_number(0, _META_TYPE) + _userdata(1, _userdata_number(0, key))
    return Field(kind, size_bytes, type_, load, meaning, order)


def _ct(kind: str, key: int, size_bytes: int, type_: int, order: int, *, is_original: bool = False) -> Field:
    def load(register: int) -> bytes:
        assert register == to.FIRST_REGISTER
        return to.load_ct(key, is_original=is_original)

    inside = _userdata_number(0, key) + _userdata_number(1, 0)
    meaning = _userdata_number(0, _CT_TYPE) + _userdata(1, inside)
    return Field(kind, size_bytes, type_, load, meaning, order, needs_protocol=key == to.CT_PROTO_DST)


# By nft's own numbers for protocols and their fields (enum proto_desc_id and the templates of proto.c).
_PORTS = {"tcp": (6, 8), "udp": (17, 6), "udplite": (136, 7), "sctp": (132, 10)}
_ADDRESSES: dict[str, tuple[int, int, int, int, tuple[int, int], tuple[int, int]]] = {
    "ip": (4, 4, 7, 12, (12, 11), (16, 12)),
    "ip6": (6, 16, 8, 13, (8, 8), (24, 9)),
}
_ICMP = {"icmp": (4, 1, 4, 14, 32), "icmpv6": (6, 58, 14, 29, 33)}

FIELDS: dict[str, Field] = {
    "iif": _meta("index", to.META_IIF, 4, NO_TYPE),
    "iifname": _meta("name", to.META_IIFNAME, 16, 41),
    "oifname": _meta("name", to.META_OIFNAME, 16, 41),
    "meta nfproto": _meta("number", to.META_NFPROTO, 1, NO_TYPE),
    "meta l4proto": _meta("number", to.META_L4PROTO, 1, 12),
    "ether saddr": _payload("mac", 6, 9, (to.LINK_HEADER, 6), (0, 0))._replace(needs_link=True),
    "tcp flags": _payload("bits", 1, 15, (to.TRANSPORT_HEADER, 13), (8, 8))._replace(protocol=6),
    "ct state": _ct("bits", to.CT_STATE, 4, 26, HOST_ORDER),
    "ct status": _ct("bits", to.CT_STATUS, 4, 28, HOST_ORDER),
    "ct original proto-dst": _ct("number", to.CT_PROTO_DST, 2, 13, NETWORK_ORDER, is_original=True),
    "ct original ip daddr": _ct("address4", to.CT_DST_IP, 4, 7, NETWORK_ORDER, is_original=True)._replace(
        implied_family=4
    ),
    "ct original ip6 daddr": _ct("address6", to.CT_DST_IP6, 16, 8, NETWORK_ORDER, is_original=True)._replace(
        implied_family=6
    ),
}
"""By nft's words for them."""
for _word, (_version, _size_bytes, _type, _about, *_ends) in _ADDRESSES.items():
    for _end, (_offset, _number) in zip(("saddr", "daddr"), _ends, strict=True):
        _place = to.NETWORK_HEADER, _offset
        _field = _payload(f"address{_version}", _size_bytes, _type, _place, (_about, _number))
        FIELDS[f"{_word} {_end}"] = _field._replace(family=_version)
    _field = _payload("version", 1, NO_TYPE, (to.NETWORK_HEADER, 0), (_about, 1))
    FIELDS[f"{_word} version"] = _field._replace(family=_version)
for _word, (_protocol, _about) in _PORTS.items():
    for _position, _end in enumerate(("sport", "dport")):
        _field = _payload("number", 2, 13, (to.TRANSPORT_HEADER, 2 * _position), (_about, 1 + _position))
        FIELDS[f"{_word} {_end}"] = _field._replace(protocol=_protocol)
for _word, (_version, _protocol, _about, *_types) in _ICMP.items():
    for _position, (_end, _type) in enumerate(zip(("type", "code"), _types, strict=True)):
        _field = _payload("number", 1, _type, (to.TRANSPORT_HEADER, _position), (_about, 1 + _position))
        FIELDS[f"{_word} {_end}"] = _field._replace(family=_version, protocol=_protocol)


def set_type(fields: tuple[Field, ...]) -> int:
    """Returns nft's number for the type of a set of these, concatenated."""
    type_ = 0
    for field in fields:
        type_ = type_ << _TYPE_BITS | field.type
    return type_


def set_userdata(fields: tuple[Field, ...], *, is_interval: bool = False) -> bytes:
    """Returns what nft keeps beside an anonymous set of these, so that it can list it."""
    order = fields[0].order if len(fields) == 1 else NO_ORDER
    merges = _userdata_number(_MERGES, 1) if is_interval else b""
    return _userdata_number(_KEY_ORDER, order) + merges + _userdata(_KEY_TYPEOF, _meaning(fields))


def _meaning(fields: tuple[Field, ...]) -> bytes:
    if len(fields) == 1:
        return fields[0].meaning
    parts = b"".join(_userdata(position, field.meaning) for position, field in enumerate(fields))
    return _userdata_number(0, _CONCATENATION_TYPE) + _userdata(1, parts)


# --- Sets with a name ---

_UNKNOWN_PARTS = _userdata_number(0, _CONCATENATION_TYPE) + _userdata(1, b"")
_UNKNOWN_VERDICT = _userdata_number(0, 1) + _userdata(1, b"")


def declared_userdata(order: int, data_order: int | None = None, *, is_concatenation: bool = False) -> bytes:
    """Returns what nft keeps beside a set that was declared by its type. data_order: of a map's values; None: a set."""
    userdata = _userdata_number(_KEY_ORDER, NO_ORDER if is_concatenation else order)
    if data_order is not None:
        userdata += _userdata_number(_DATA_ORDER, data_order)
    if is_concatenation:
        userdata += _userdata(_KEY_TYPEOF, _UNKNOWN_PARTS)
    if data_order is not None:
        userdata += _userdata_number(_DATA_INTERVAL, 0)
    return userdata


def verdict_userdata(order: int) -> bytes:
    """Returns what nft keeps beside an anonymous map from such values to verdicts."""
    orders = _userdata_number(_KEY_ORDER, order) + _userdata_number(_DATA_ORDER, 0)
    return orders + _userdata(_DATA_TYPEOF, _UNKNOWN_VERDICT) + _userdata_number(_DATA_INTERVAL, 0)
