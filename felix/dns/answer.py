"""From a question to the sections of its answer, out of the zone.

Two manners: the RFCs' (1034, 2181, 2308, 8020), and with `is_compat` Mesos-DNS's, where that differs:

    SOA, NS             answered for any name in the authority section; RFC: for the domain itself, as answers
    nothing of the type SRV, SOA, NS: empty; a name with nothing but names below it: NXDOMAIN; RFC: NODATA, with SOA
    PTR                 NXDOMAIN, always; RFC: names of the addresses that are known here
    `.*` in a name      is left out; RFC: is a name like others
    EDNS                is not seen (`respond`)
"""

from __future__ import annotations

import struct
from collections.abc import Iterable, Sequence
from dataclasses import dataclass, field

import dns.ipv4
import dns.ipv6
import dns.name
import dns.rcode
import dns.rdata
import dns.rdataclass
import dns.rdatatype
import dns.rrset

from felix.dns.names import clean_wild, is_below
from felix.dns.zone import Datum, Zone

_IN = dns.rdataclass.IN
_ANY = dns.rdatatype.ANY
_SOA = dns.rdatatype.SOA
_NS = dns.rdatatype.NS
_SRV = dns.rdatatype.SRV
_PTR = dns.rdatatype.PTR
_TYPE_BY_TEXT = {
    "A": dns.rdatatype.A,
    "AAAA": dns.rdatatype.AAAA,
    "SRV": dns.rdatatype.SRV,
    "PTR": dns.rdatatype.PTR,
}
_TEXT_BY_TYPE: dict[int, str] = {number: text for text, number in _TYPE_BY_TEXT.items()}
ADDED_MOST = 256
"""So many targets of services bring their addresses with them; of others they have to be asked for."""
_REVERSE = ("in-addr.arpa", "ip6.arpa")


@dataclass(slots=True)
class Origin:
    """One domain that is served here. serial grows with each change. is_loaded: whether its source has said all once.

    ttl: of every record. negative_ttl: how long a no may be remembered. All in seconds.
    """

    name: str
    ttl: int = 60
    negative_ttl: int = 60
    mname: str = "ns1.mesos"
    rname: str = "root.ns1.mesos"
    refresh: int = 60
    retry: int = 600
    expire: int = 86400
    serial: int = 1
    is_loaded: bool = False

    def note_change(self, now_s: float) -> None:
        """The serial is that of a later version: the time, or one more where that is not later."""
        self.serial = max(self.serial + 1, int(now_s)) & 0xFFFFFFFF


@dataclass(slots=True)
class Sections:
    """What an answer consists of. origin: whose it is. names: on which it depends.

    has_soa_last: whether the packet's last record but OPT is an SOA.
    """

    origin: Origin
    rcode: int = dns.rcode.NOERROR
    answer: list[dns.rrset.RRset] = field(default_factory=list)
    authority: list[dns.rrset.RRset] = field(default_factory=list)
    additional: list[dns.rrset.RRset] = field(default_factory=list)
    names: list[str] = field(default_factory=list)
    has_soa_last: bool = False


@dataclass(frozen=True, slots=True)
class Answerer:
    """Answers out of `zone` for `origins`. srv_weight: of every SRV record; their priority is 0."""

    zone: Zone
    origins: Sequence[Origin]
    is_compat: bool = False
    srv_weight: int = 1

    def find_origin(self, name: str) -> Origin | None:
        """Returns the domain that `name` is of, also for names of addresses that are known here; None if not ours."""
        for origin in self.origins:
            if is_below(name, origin.name):
                return origin
        if not self.is_compat and name.endswith(_REVERSE):
            for datum in self.zone.find(name, "PTR"):
                for origin in self.origins:
                    if is_below(datum.value, origin.name):
                        return origin
        return None

    def find_no(self, name: str, qtype: int) -> int | None:
        """Returns the code of the answer when that is a no of the usual kind; None when `answer` has to look."""
        if self.is_compat or qtype in {_SOA, _NS, _ANY} or self.zone.find(name, _TEXT_BY_TYPE.get(qtype, "")):
            return None
        exists = self.zone.has_name(name) or self.zone.has_below(name) or any(one.name == name for one in self.origins)
        return dns.rcode.NOERROR if exists else dns.rcode.NXDOMAIN

    def answer(self, origin: Origin, name: str, qtype: int) -> Sections:
        """Returns the answer to a question of class IN for a name of `origin`, all of it, however long."""
        looked_up = clean_wild(name) if self.is_compat else name
        owner = dns.name.from_text(name)
        found = Sections(origin, names=[looked_up])
        if qtype in {_SOA, _NS}:
            self._answer_origin(found, owner, name, qtype)
        elif not (self.is_compat and qtype == _PTR):
            self._answer_records(found, owner, looked_up, qtype)
            if qtype == _ANY and name == origin.name and not self.is_compat:
                found.answer += [self._make_soa(owner, origin), self._make_ns(owner, origin)]
        if found.answer or (self.is_compat and qtype in {_SRV, _SOA, _NS}):
            return found
        return self._answer_nothing(found, owner, looked_up, qtype)

    def _answer_origin(self, found: Sections, owner: dns.name.Name, name: str, qtype: int) -> None:
        origin = found.origin
        make = self._make_soa if qtype == _SOA else self._make_ns
        if self.is_compat:
            found.authority.append(make(owner, origin))
        elif name == origin.name:
            found.answer.append(make(owner, origin))
            found.has_soa_last = qtype == _SOA
            if qtype == _NS:
                self._add_addresses(found, [origin.mname])

    def _answer_records(self, found: Sections, owner: dns.name.Name, name: str, qtype: int) -> None:
        texts = self.zone.find_types(name) if qtype == _ANY else [_TEXT_BY_TYPE.get(qtype, "")]
        targets: list[str] = []
        for text in texts:
            if text and (datums := self.zone.find(name, text)):
                found.answer.append(self._make_set(owner, text, datums, found.origin.ttl))
                if text == "SRV":
                    targets += [datum.value for datum in datums]
        if targets:
            self._add_addresses(found, list(dict.fromkeys(targets))[:ADDED_MOST])

    def _add_addresses(self, found: Sections, targets: Iterable[str]) -> None:
        for target in targets:
            found.names.append(target)
            for text in ("A", "AAAA"):
                datums = self.zone.find(target, text)
                if datums and self.is_compat:
                    datums = datums[:1]
                if datums:
                    owner = dns.name.from_text(target)
                    found.additional.append(self._make_set(owner, text, datums, found.origin.ttl))

    def _answer_nothing(self, found: Sections, owner: dns.name.Name, name: str, qtype: int) -> Sections:
        origin = found.origin
        exists = self.zone.has_name(name)
        if self.is_compat:
            exists = exists and qtype != _PTR
        else:
            exists = exists or name == origin.name or self.zone.has_below(name)
        found.rcode = dns.rcode.NOERROR if exists else dns.rcode.NXDOMAIN
        # The name of an address is a domain of its own: what else its neighbourhood holds is not known here.
        apex = dns.name.from_text(origin.name) if is_below(name, origin.name) else owner
        found.authority.append(self._make_soa(apex, origin, min(origin.ttl, origin.negative_ttl)))
        found.has_soa_last = True
        return found

    def _make_set(self, owner: dns.name.Name, text: str, datums: Iterable[Datum], ttl: int) -> dns.rrset.RRset:
        rrset = dns.rrset.RRset(owner, _IN, _TYPE_BY_TEXT[text])
        rrset.ttl = ttl
        for datum in datums:
            rrset.items[self._make_rdata(text, datum)] = None
        return rrset

    def _make_rdata(self, text: str, datum: Datum) -> dns.rdata.Rdata:
        match text:
            case "A":
                return _make(dns.rdatatype.A, dns.ipv4.inet_aton(datum.value))
            case "AAAA":
                return _make(dns.rdatatype.AAAA, dns.ipv6.inet_aton(datum.value))
            case "PTR":
                return _make(_PTR, pack_name(datum.value))
        return _make(_SRV, struct.pack("!HHH", 0, self.srv_weight, datum.port) + pack_name(datum.value))

    def _make_soa(self, owner: dns.name.Name, origin: Origin, ttl: int | None = None) -> dns.rrset.RRset:
        # Mesos-DNS repeats the TTL as the last field and never uses SOAMinttl.
        least = origin.ttl if self.is_compat else origin.negative_ttl
        times = struct.pack("!IIIII", origin.serial, origin.refresh, origin.retry, origin.expire, least)
        rdata = _make(_SOA, pack_name(origin.mname) + pack_name(origin.rname) + times)
        return dns.rrset.from_rdata(owner, origin.ttl if ttl is None else ttl, rdata)

    def _make_ns(self, owner: dns.name.Name, origin: Origin) -> dns.rrset.RRset:
        return dns.rrset.from_rdata(owner, origin.ttl, _make(_NS, pack_name(origin.mname)))


def _make(rtype: dns.rdatatype.RdataType, wire: bytes) -> dns.rdata.Rdata:
    return dns.rdata.from_wire(_IN, rtype, wire, 0, len(wire))


def pack_name(name: str) -> bytes:
    """Returns a name in the form of packets, not compressed."""
    return b"".join(bytes((len(label),)) + label.encode() for label in name.split(".")) + b"\0"
