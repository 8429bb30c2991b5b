"""The questions that clients ask, taken out of packets: quickly where a packet is as usual, by dnspython where not.

Source: RFC 1035 §4.1, RFC 6891 §6.1.2.
"""

from __future__ import annotations

import struct
from typing import NamedTuple

import dns.edns
import dns.exception
import dns.flags
import dns.message
import dns.name
import dns.opcode
import dns.rcode
import dns.rdataclass
import dns.rdatatype

QUERY_LIMIT = 4096
"""The longest packet that is read as a question, in bytes."""

_HEADER = struct.Struct("!HHHHHH")
_FOUR = struct.Struct("!HH")
_OPT = struct.Struct("!HHIH")  # type, payload size, extended rcode and flags, length of options
_IS_ANSWER = 0x8000
_UNUSUAL = 0xFE40  # an answer, another opcode, AA, TC, or the bit that must be zero
_RD = 0x0100
_DO = 0x8000


class Query(NamedTuple):
    """One question. question: as it was asked, in the packet's form. name: small letters, escaped, no dot at the end.

    size: the longest answer that the client takes over UDP. has_edns, has_do: what it says of itself.
    """

    id: int
    question: bytes
    name: str
    qtype: int
    qclass: int
    is_recursive: bool = False
    has_edns: bool = False
    has_do: bool = False
    size: int = 512

    @property
    def key(self) -> bytes:
        """What packets that ask the same have in common: name in small letters, type, class."""
        return self.question[:-4].lower() + self.question[-4:]


class Refusal(NamedTuple):
    """A packet that is no question, and what is to be answered. packet: as it came."""

    rcode: int
    packet: bytes


def read_query(packet: bytes) -> Query | Refusal | None:
    """Returns the question of a packet, or what is wrong with it; None for what must not be answered at all."""
    if len(packet) < _HEADER.size or packet[2] & 0x80:
        return None  # to answer answers would make two servers talk for ever
    if len(packet) > QUERY_LIMIT:
        return Refusal(dns.rcode.FORMERR, packet)
    return _read_usual(packet) or _read_any(packet)


def _read_usual(packet: bytes) -> Query | None:
    """Returns the question of a packet with one question, no compression, and nothing else but EDNS."""
    number, flags, questions, answers, authorities, additionals = _HEADER.unpack_from(packet)
    if flags & _UNUSUAL or questions != 1 or answers or authorities or additionals > 1:
        return None
    end = len(packet)
    at = _HEADER.size
    while at < end and (size := packet[at]):
        if size > 63:
            return None
        at += size + 1
    behind = at + 5
    if behind > end or at - _HEADER.size > 254:
        return None
    question = packet[_HEADER.size : behind]
    qtype, qclass = _FOUR.unpack_from(packet, at + 1)
    is_recursive = bool(flags & _RD)
    if not additionals:
        if behind != end:
            return None
        return Query(number, question, _read_name(question), qtype, qclass, is_recursive)
    if behind + 11 > end or packet[behind]:
        return None
    rtype, payload, extended, options = _OPT.unpack_from(packet, behind + 1)
    if rtype != dns.rdatatype.OPT or behind + 11 + options != end or extended >> 16:
        return None
    has_do = bool(extended & _DO)
    return Query(number, question, _read_name(question), qtype, qclass, is_recursive, True, has_do, max(512, payload))


def _read_any(packet: bytes) -> Query | Refusal:
    try:
        # Whoever signs a question gets an unsigned answer: no key is known here.
        message = dns.message.from_wire(packet, keyring=False, ignore_trailing=False)
    except (dns.exception.DNSException, ValueError, struct.error, IndexError):
        return Refusal(dns.rcode.FORMERR, packet)
    if message.opcode() != dns.opcode.QUERY:
        return Refusal(dns.rcode.NOTIMP, packet)
    if len(message.question) != 1 or message.answer:
        return Refusal(dns.rcode.FORMERR, packet)
    if message.edns > 0:
        return Refusal(dns.rcode.BADVERS, packet)
    asked = message.question[0]
    question = (asked.name.to_wire() or b"") + _FOUR.pack(asked.rdtype, asked.rdclass)
    return Query(
        message.id,
        question,
        _read_name(question),
        asked.rdtype,
        asked.rdclass,
        bool(message.flags & dns.flags.RD),
        message.edns == 0,
        bool(message.ednsflags & dns.flags.DO),
        max(512, message.payload) if message.edns == 0 else 512,
    )


def _read_name(question: bytes) -> str:
    """Returns the name of an uncompressed question; bytes that are in none of ours are escaped."""
    labels = []
    at = 0
    while size := question[at]:
        label = question[at + 1 : at + 1 + size]
        if label.isalnum() or not _NOT_PLAIN.intersection(label):
            labels.append(label.decode("latin-1"))
        else:
            labels.append("".join(chr(one) if one not in _NOT_PLAIN else f"\\{one:03d}" for one in label))
        at += size + 1
    return ".".join(labels).lower()


_NOT_PLAIN = frozenset(range(33)) | frozenset(range(127, 256)) | {ord("."), ord("\\")}


def write_refusal(refusal: Refusal) -> bytes:
    """Returns the answer to a packet that is no question: its number and flags, and nothing of its content."""
    number, flags = _FOUR.unpack_from(refusal.packet)
    kept = flags & (0x7800 | _RD)
    if refusal.rcode <= 15:
        return _HEADER.pack(number, _IS_ANSWER | kept | refusal.rcode, 0, 0, 0, 0)
    opt = b"\0" + _OPT.pack(dns.rdatatype.OPT, 1232, (refusal.rcode >> 4) << 24, 0)
    return _HEADER.pack(number, _IS_ANSWER | kept | (refusal.rcode & 15), 0, 0, 0, 1) + opt
