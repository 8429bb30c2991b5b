"""Netlink messages as bytes: packing and parsing for every netlink family, without any socket.

Layouts are those of linux/netlink.h and linux/netfilter/nfnetlink.h; numbers are in host byte order there, and inside
nfnetlink attributes in network byte order (the caller packs payloads).
"""

from __future__ import annotations

import struct
from collections.abc import Iterable, Iterator
from typing import NamedTuple

NETLINK_ROUTE = 0
NETLINK_NETFILTER = 12

NLMSG_ERROR = 2
NLMSG_DONE = 3
FIRST_FAMILY_TYPE = 16  # smaller types are control messages of netlink itself

NLM_F_REQUEST = 0x1
NLM_F_ACK = 0x4
NLM_F_DUMP_INTR = 0x10
NLM_F_REPLACE = 0x100  # in requests that create, and in the events they cause
NLM_F_EXCL = 0x200
NLM_F_CREATE = 0x400
NLM_F_APPEND = 0x800
NLM_F_DUMP = 0x300
_NLM_F_CAPPED = 0x100  # in answers
_NLM_F_ACK_TLVS = 0x200

NLA_F_NESTED = 0x8000
_NLA_TYPE_MASK = 0x3FFF

NFNL_MSG_BATCH_BEGIN = 16
NFNL_MSG_BATCH_END = 17

HEADER = struct.Struct("=IHHII")
HEADER_BYTES = HEADER.size
SEQUENCE_OFFSET = 8
FLAGS_OFFSET = 6
_ATTRIBUTE = struct.Struct("=HH")
_ERROR = struct.Struct("=i")
_NFGENMSG = struct.Struct(">BBH")
_PADDING = (b"", b"\0\0\0", b"\0\0", b"\0")
_EXT_ACK_TEXT = 1


class Message(NamedTuple):
    """One received message. flags: NLM_F_…; port: who caused it (0: the kernel by itself); body: without header."""

    type: int
    flags: int
    sequence: int
    port: int
    body: bytes


class Refusal(int):
    """A positive errno that remembers the words the kernel had for it; `text` may be empty."""

    text: str

    def __new__(cls, errno: int, text: str = "") -> Refusal:
        refusal = super().__new__(cls, errno)
        refusal.text = text
        return refusal


def attribute(type_: int, payload: bytes) -> bytes:
    """Returns one attribute, padded to four bytes. Raises ValueError for payloads over 65531 bytes."""
    length = len(payload) + 4
    if length > 0xFFFF:
        raise ValueError(f"attribute {type_} would need {length} bytes; 65535 is the most that netlink can express")
    return _ATTRIBUTE.pack(length, type_) + payload + _PADDING[length & 3]


def nested(type_: int, *attributes: bytes) -> bytes:
    """Returns one attribute that contains `attributes`, in order, each as `attribute` made it."""
    return attribute(type_ | NLA_F_NESTED, b"".join(attributes))


def message(type_: int, flags: int, body: bytes, sequence: int = 0) -> bytes:
    """Returns one request, padded to four bytes; NLM_F_REQUEST is always set.

    sequence: may stay 0 for `NetlinkSocket`, which numbers what it sends.
    """
    length = HEADER_BYTES + len(body)
    return HEADER.pack(length, type_, flags | NLM_F_REQUEST, sequence, 0) + body + _PADDING[length & 3]


def nfnetlink_header(family: int, resource: int = 0) -> bytes:
    """Returns the four bytes that begin the body of every nfnetlink message. family: AF_… or NFPROTO_…."""
    return _NFGENMSG.pack(family, 0, resource)


def batch(subsystem: int, messages: Iterable[bytes]) -> list[bytes]:
    """Returns `messages` framed as one nfnetlink transaction: all or none of them takes effect.

    The frame itself asks for no answer. subsystem: NFNL_SUBSYS_… (10: nf_tables).
    """
    frame = nfnetlink_header(0, subsystem)
    return [message(NFNL_MSG_BATCH_BEGIN, 0, frame), *messages, message(NFNL_MSG_BATCH_END, 0, frame)]


def parse_messages(buffer: bytes) -> Iterator[Message]:
    """Yields the messages of one datagram, in order; stops silently where the rest is no whole message."""
    offset, end = 0, len(buffer)
    while offset + HEADER_BYTES <= end:
        length, type_, flags, sequence, port = HEADER.unpack_from(buffer, offset)
        if length < HEADER_BYTES or offset + length > end:
            return
        yield Message(type_, flags, sequence, port, buffer[offset + HEADER_BYTES : offset + length])
        offset += (length + 3) & ~3


def parse_attributes(buffer: bytes, offset: int = 0) -> dict[int, bytes]:
    """Returns payloads by attribute type (flag bits removed), from `offset` to the end; the last of a type wins."""
    payload_by_type: dict[int, bytes] = {}
    end = len(buffer)
    while offset + 4 <= end:
        length, type_ = _ATTRIBUTE.unpack_from(buffer, offset)
        if length < 4 or offset + length > end:
            break
        payload_by_type[type_ & _NLA_TYPE_MASK] = buffer[offset + 4 : offset + length]
        offset += (length + 3) & ~3
    return payload_by_type


def parse_attribute_list(buffer: bytes, offset: int = 0) -> Iterator[tuple[int, bytes]]:
    """Yields type and payload of every attribute, in order, repeated types too (list elements)."""
    end = len(buffer)
    while offset + 4 <= end:
        length, type_ = _ATTRIBUTE.unpack_from(buffer, offset)
        if length < 4 or offset + length > end:
            return
        yield type_ & _NLA_TYPE_MASK, buffer[offset + 4 : offset + length]
        offset += (length + 3) & ~3


def parse_answer(answer: Message) -> Refusal | None:
    """Returns what an NLMSG_ERROR (or the end of a dump) says: None for success, else the errno with its text."""
    if len(answer.body) < _ERROR.size:
        return None
    (errno,) = _ERROR.unpack_from(answer.body)
    return None if errno == 0 else Refusal(-errno, _extended_text(answer))


def _extended_text(answer: Message) -> str:
    if not answer.flags & _NLM_F_ACK_TLVS:
        return ""
    offset = _ERROR.size
    if answer.type == NLMSG_ERROR:
        echoed_bytes = HEADER_BYTES
        if not answer.flags & _NLM_F_CAPPED and len(answer.body) >= offset + HEADER_BYTES:
            (echoed_bytes, *_) = HEADER.unpack_from(answer.body, offset)
        offset += (echoed_bytes + 3) & ~3
    return parse_attributes(answer.body, offset).get(_EXT_ACK_TEXT, b"").rstrip(b"\0").decode(errors="replace")
