"""From packet to packet. What was answered is kept, as bytes, until the zone changes the name.

A kept answer is the packet without number and question, so that it serves every client, however it spells the name;
its owner names point to the question. The serial of an SOA at the end is put in when it is sent.
"""

from __future__ import annotations

import contextlib
import struct
from collections import Counter
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field

import dns.exception
import dns.flags
import dns.message
import dns.name
import dns.rcode
import dns.rdataclass
import dns.rdatatype
import dns.rrset

from felix.dns.answer import Answerer, Origin, Sections, pack_name
from felix.dns.names import is_below
from felix.dns.query import Query, read_query, write_refusal
from felix.dns.state import Place

TCP_LIMIT = 65535
VARIANTS = 4  # renderings of a set of several records, each in another random order
_SOA_REST = 20  # serial, refresh, retry, expire, minimum: the end of an SOA
_OPT_SIZE = 11
_SERIAL = struct.Struct("!I")
_NUMBER = struct.Struct("!H")
_NEVER_COMPRESSED = {dns.rdatatype.A, dns.rdatatype.AAAA, dns.rdatatype.SRV}
_TRANSFERS = {dns.rdatatype.AXFR, dns.rdatatype.IXFR}


@dataclass(frozen=True, slots=True)
class ResponderOptions:
    """How answers look. udp_size: the longest over UDP, in bytes, whatever the client takes."""

    has_external: bool = True
    says_recursive: bool = True
    sets_truncated: bool = True
    udp_size: int = 1232
    cache_entries: int = 100_000


@dataclass(frozen=True, slots=True)
class Forward:
    """A question that others have to answer: the packet as it came, and whom to ask, in this order."""

    packet: bytes
    query: Query
    resolvers: tuple[Place, ...]


@dataclass(slots=True)
class _Kept:
    """Renderings of one answer: what is behind the number and before the question, what is behind the question."""

    rcode: int
    origin: Origin
    serial_at: int = 0  # in the second part, counted from its end; 0 for none
    is_single: bool = True
    packets: list[tuple[bytes, bytes]] = field(default_factory=list)
    turn: int = 0


class Responder:
    """Answers packets out of `answerer`. rcodes: how many answers of each kind there were."""

    def __init__(
        self,
        answerer: Answerer,
        options: ResponderOptions,
        resolvers: Sequence[Place] = (),
        zone_resolvers: Mapping[str, Sequence[Place]] | None = None,
    ) -> None:
        self.rcodes: Counter[int] = Counter()
        self.hits = 0
        self._answerer = answerer
        self._options = options
        self._resolvers = tuple(resolvers)
        self._zone_resolvers = {zone: tuple(places) for zone, places in (zone_resolvers or {}).items()}
        self._kept_by_question: dict[bytes, dict[tuple[bool, bool, bool, int], _Kept]] = {}
        self._questions_by_name: dict[str, set[bytes]] = {}
        self._kept_count = 0

    def respond(self, packet: bytes, *, is_tcp: bool) -> bytes | Forward | None:
        """Returns the answer, or whom to ask for it; None for what must not be answered."""
        query = read_query(packet)
        if query is None:
            return None
        if not isinstance(query, Query):
            self.rcodes[query.rcode] += 1
            return write_refusal(query)
        manner = (query.is_recursive, query.has_edns, query.has_do, self._find_limit(query, is_tcp))
        kept = self._kept_by_question.get(query.key, {}).get(manner)
        if kept is not None and (kept.is_single or len(kept.packets) >= VARIANTS):
            self.hits += 1
            self.rcodes[kept.rcode] += 1
            return self._send(kept, query)
        return self._answer(query, manner, kept, packet)

    def forget(self, names: Iterable[str]) -> None:
        """Nothing that depends on one of `names` is answered out of memory."""
        for name in names:
            for question in self._questions_by_name.pop(name, ()):
                self._kept_count -= len(self._kept_by_question.pop(question, ()))

    def fail(self, query: Query, rcode: int = dns.rcode.SERVFAIL) -> bytes:
        """Returns an answer that says nothing but why there is none."""
        self.rcodes[rcode] += 1
        flags = dns.flags.QR | (dns.flags.RD if query.is_recursive else 0) | rcode
        if self._options.says_recursive:
            flags |= dns.flags.RA
        head = struct.pack("!HHHHHH", query.id, flags, 1, 0, 0, 1 if self._has_edns(query) else 0)
        return head + query.question + (self._make_opt(query) if self._has_edns(query) else b"")

    def _answer(
        self, query: Query, manner: tuple[bool, bool, bool, int], kept: _Kept | None, packet: bytes
    ) -> bytes | Forward:
        if query.qclass not in {dns.rdataclass.IN, dns.rdataclass.ANY}:
            return self.fail(query, dns.rcode.REFUSED)
        origin = self._answerer.find_origin(query.name)
        if origin is None:
            return self._find_others(query, packet)
        if query.qtype in _TRANSFERS:
            return self.fail(query, dns.rcode.REFUSED)
        if not origin.is_loaded:
            return self.fail(query)
        code = self._answerer.find_no(query.name, query.qtype)
        if code is not None and len(no := self._say_no(query, origin, code)) <= manner[3]:
            self.rcodes[code] += 1
            return no
        sections = self._answerer.answer(origin, query.name, query.qtype)
        rendered = self._render(query, sections, manner[3])
        if kept is None:
            kept = _Kept(sections.rcode, origin, is_single=all(len(rrset) == 1 for rrset in sections.answer))
            if sections.has_soa_last:
                kept.serial_at = -_SOA_REST - (_OPT_SIZE if self._has_edns(query) else 0)
            self._keep(query, manner, kept, sections)
        kept.packets.append((rendered[2:12], rendered[12 + len(query.question) :]))
        kept.turn = len(kept.packets) - 1
        self.rcodes[kept.rcode] += 1
        return self._send(kept, query)

    def _say_no(self, query: Query, origin: Origin, code: int) -> bytes:
        """Returns the answer that there is nothing, with the SOA: too frequent, and too much alike, to be kept."""
        name_size = len(query.question) - 4
        apex = len(pack_name(origin.name)) if is_below(query.name, origin.name) else name_size
        soa = pack_name(origin.mname) + pack_name(origin.rname)
        soa += struct.pack("!IIIII", origin.serial, origin.refresh, origin.retry, origin.expire, origin.negative_ttl)
        ttl = min(origin.ttl, origin.negative_ttl)
        owner = 0xC000 | (12 + name_size - apex)  # a pointer into the question
        flags = dns.flags.QR | dns.flags.AA | code | (dns.flags.RD if query.is_recursive else 0)
        flags |= dns.flags.RA if self._options.says_recursive else 0
        head = struct.pack("!HHHHHH", query.id, flags, 1, 0, 1, 1 if query.has_edns else 0)
        record = struct.pack("!HHHIH", owner, dns.rdatatype.SOA, dns.rdataclass.IN, ttl, len(soa)) + soa
        return head + query.question + record + (self._make_opt(query) if query.has_edns else b"")

    def _keep(self, query: Query, manner: tuple[bool, bool, bool, int], kept: _Kept, sections: Sections) -> None:
        if sections.names[0] != query.name:
            return  # rare, and a change of the name would not find it
        if query.qtype == dns.rdatatype.ANY and query.name == sections.origin.name:
            return  # has an SOA that is not at its end
        if self._answerer.is_compat and query.qtype in {dns.rdatatype.SOA, dns.rdatatype.NS}:
            return
        if self._kept_count >= self._options.cache_entries:
            self._kept_by_question.clear()
            self._questions_by_name.clear()
            self._kept_count = 0
        self._kept_by_question.setdefault(query.key, {})[manner] = kept
        self._kept_count += 1
        for name in sections.names:
            self._questions_by_name.setdefault(name, set()).add(query.key)

    def _send(self, kept: _Kept, query: Query) -> bytes:
        head, tail = kept.packets[kept.turn]
        if not kept.is_single:
            kept.turn = (kept.turn + 1) % len(kept.packets)
        if at := kept.serial_at:
            tail = tail[:at] + _SERIAL.pack(kept.origin.serial) + tail[at + 4 :]
        return _NUMBER.pack(query.id) + head + query.question + tail

    def _find_others(self, query: Query, packet: bytes) -> bytes | Forward:
        options = self._options
        resolvers: Sequence[Place] = self._resolvers
        zones = [zone for zone in self._zone_resolvers if is_below(query.name, zone)]
        if zones:
            resolvers = self._zone_resolvers[max(zones, key=len)]
        is_wanted = query.is_recursive or self._answerer.is_compat
        if not options.has_external or not resolvers or not is_wanted or query.qtype in _TRANSFERS:
            return self.fail(query, dns.rcode.REFUSED)
        return Forward(packet, query, tuple(resolvers))

    def _find_limit(self, query: Query, is_tcp: bool) -> int:
        if is_tcp:
            return TCP_LIMIT
        # Steps, so that whoever asks with every size there is gets few renderings made.
        wanted = query.size if self._has_edns(query) else 512
        return max(step for step in {512, min(1232, self._options.udp_size), self._options.udp_size} if step <= wanted)

    def _has_edns(self, query: Query) -> bool:
        return query.has_edns and not self._answerer.is_compat

    def _make_opt(self, query: Query) -> bytes:
        flags = 0x8000 if query.has_do else 0
        return b"\0" + struct.pack("!HHIH", dns.rdatatype.OPT, self._options.udp_size, flags, 0)

    def _render(self, query: Query, sections: Sections, limit: int) -> bytes:
        """Returns the packet, shortened to `limit` bytes: first the additional section goes, then answers."""
        count = sum(len(rrset) for rrset in sections.answer)
        most = _count_fitting(sections.answer, limit - 12 - len(query.question))
        for additional in (sections.additional, []) if most == count else ():
            with contextlib.suppress(dns.exception.TooBig):
                return self._write(query, sections, sections.answer, additional, limit)
        fitting = self._write(query, sections, [], [], TCP_LIMIT, is_short=True)
        low, high = 0, min(most, count - 1)  # so many answers fit, so many may
        middle = high  # mostly the right one
        while low < high:
            try:
                fitting = self._write(query, sections, _take(sections.answer, middle), [], limit, is_short=True)
                low = middle
            except dns.exception.TooBig:
                high = middle - 1
            middle = (low + high + 1) // 2
        return fitting

    def _write(
        self,
        query: Query,
        sections: Sections,
        answer: Sequence[dns.rrset.RRset],
        additional: Sequence[dns.rrset.RRset],
        limit: int,
        *,
        is_short: bool = False,
    ) -> bytes:
        response = dns.message.QueryMessage(id=query.id)
        response.flags = dns.flags.Flag(dns.flags.QR | dns.flags.AA)
        if query.is_recursive:
            response.flags |= dns.flags.RD
        if self._options.says_recursive:
            response.flags |= dns.flags.RA
        if is_short and self._options.sets_truncated:
            response.flags |= dns.flags.TC
        response.set_rcode(dns.rcode.Rcode(sections.rcode))
        name, _ = dns.name.from_wire(query.question, 0)
        response.question = [
            dns.rrset.RRset(name, dns.rdataclass.RdataClass(query.qclass), dns.rdatatype.RdataType(query.qtype))
        ]
        response.answer, response.authority, response.additional = (
            list(answer),
            list(sections.authority),
            list(additional),
        )
        if self._has_edns(query):
            response.use_edns(0, dns.flags.DO if query.has_do else 0, self._options.udp_size)
        return response.to_wire(max_size=limit)


def _count_fitting(rrsets: Sequence[dns.rrset.RRset], room: int) -> int:
    """Returns how many records of all sets together have room at best; costs no more than what fits."""
    count = 0
    for rrset in rrsets:
        for rdata in rrset.items:
            # The owner is a pointer, and only some names in data are compressed.
            data = rdata.to_wire() if rrset.rdtype in _NEVER_COMPRESSED else b""
            room -= 12 + len(data or b"")
            if room < 0:
                return count
            count += 1
    return count


def _take(rrsets: Sequence[dns.rrset.RRset], count: int) -> list[dns.rrset.RRset]:
    """Returns the first `count` records of all sets together."""
    taken = []
    for rrset in rrsets:
        part = dns.rrset.RRset(rrset.name, rrset.rdclass, rrset.rdtype)
        part.ttl = rrset.ttl
        for rdata in list(rrset.items)[:count]:
            part.items[rdata] = None
        count -= len(part.items)
        if part.items:
            taken.append(part)
    return taken
