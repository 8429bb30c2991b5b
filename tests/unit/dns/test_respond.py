"""Packets in, packets out: what the RFCs say, what Mesos-DNS did, bounds, and anything at all as a question."""

import struct
from collections.abc import Iterable

import dns.flags
import dns.message
import dns.name
import dns.opcode
import dns.rcode
import dns.rdatatype
import pytest
from hypothesis import example, given
from hypothesis import strategies as st

from felix.dns.answer import Answerer, Origin
from felix.dns.respond import Forward, Responder, ResponderOptions
from felix.dns.state import Place
from felix.dns.zone import Record, Zone

RECORDS = (
    Record("web.marathon.mesos", "A", "10.0.0.1"),
    Record("six.marathon.mesos", "AAAA", "fd00::1"),
    Record("both.marathon.mesos", "A", "10.0.0.2"),
    Record("both.marathon.mesos", "AAAA", "fd00::2"),
    Record("_web._tcp.marathon.mesos", "SRV", "web.marathon.mesos", 80),
    Record("_web._tcp.marathon.mesos", "SRV", "both.marathon.mesos", 81),
    Record("1.0.0.10.in-addr.arpa", "PTR", "web.marathon.mesos"),
    Record("ns1.mesos", "A", "10.0.0.53"),
)


class Server:
    """A responder and its zone."""

    def __init__(
        self, records: Iterable[Record] = RECORDS, *, compat: bool = False, options: ResponderOptions | None = None
    ) -> None:
        self.zone = Zone()
        self.zone.put("o", records)
        self.zone.pop_changed()
        self.origin = Origin("mesos", 60, 10, serial=7, is_loaded=True)
        self.responder = Responder(
            Answerer(self.zone, [self.origin], compat),
            options or ResponderOptions(),
            [Place("192.0.2.1", 53)],
            {"weave": [Place("192.0.2.2", 53)], "deep.weave": [Place("192.0.2.3", 53)]},
        )

    def put(self, records: Iterable[Record]) -> None:
        self.zone.put("o", records)
        self.responder.forget(self.zone.pop_changed())
        self.origin.note_change(0)

    def ask(
        self, name: str, rtype: str = "A", *, payload: int | None = None, is_tcp: bool = False, rd: bool = True
    ) -> dns.message.Message:
        """Returns the answer, asked twice: the second one out of memory says the same."""
        query = dns.message.make_query(name, rtype, use_edns=payload is not None, payload=payload or 0)
        query.flags = dns.flags.Flag(dns.flags.RD if rd else 0)
        answers = []
        for _ in range(2):
            packet = self.responder.respond(query.to_wire(), is_tcp=is_tcp)
            assert isinstance(packet, bytes)
            answer = dns.message.from_wire(packet)
            assert answer.id == query.id
            answers.append(answer)
        for section in ("question", "authority"):
            assert getattr(answers[0], section) == getattr(answers[1], section)
        assert answers[0].rcode() == answers[1].rcode()
        return answers[1]


def texts(section: Iterable[object]) -> list[str]:
    return sorted(line for rrset in section for line in str(rrset).splitlines())


@pytest.mark.parametrize(
    ("name", "rtype", "expected"),
    [
        ("web.marathon.mesos", "A", ["10.0.0.1"]),
        ("WEB.Marathon.MESOS", "A", ["10.0.0.1"]),
        ("six.marathon.mesos", "AAAA", ["fd00::1"]),
        ("both.marathon.mesos", "ANY", ["10.0.0.2", "fd00::2"]),
        ("_web._tcp.marathon.mesos", "SRV", ["0 1 80 web.marathon.mesos.", "0 1 81 both.marathon.mesos."]),
        ("1.0.0.10.in-addr.arpa", "PTR", ["web.marathon.mesos."]),
        ("mesos", "NS", ["ns1.mesos."]),
        ("mesos", "SOA", ["ns1.mesos. root.ns1.mesos. 7 60 600 86400 10"]),
    ],
)
def test_name_that_is_there_is_answered_with_authority(name: str, rtype: str, expected: list[str]) -> None:
    answer = Server().ask(name, rtype)
    assert sorted(rdata.to_text() for rrset in answer.answer for rdata in rrset) == expected
    assert answer.rcode() == dns.rcode.NOERROR
    assert answer.flags & dns.flags.AA
    assert answer.flags & dns.flags.RA
    assert not answer.authority
    assert answer.question[0].name == dns.name.from_text(name)


def test_service_brings_the_addresses_of_its_targets() -> None:
    answer = Server().ask("_web._tcp.marathon.mesos", "SRV")
    assert texts(answer.additional) == [
        "both.marathon.mesos. 60 IN A 10.0.0.2",
        "both.marathon.mesos. 60 IN AAAA fd00::2",
        "web.marathon.mesos. 60 IN A 10.0.0.1",
    ]


@pytest.mark.parametrize(
    ("name", "rtype", "rcode"),
    [
        ("none.marathon.mesos", "A", dns.rcode.NXDOMAIN),
        ("none.marathon.mesos", "SRV", dns.rcode.NXDOMAIN),
        ("below.web.marathon.mesos", "A", dns.rcode.NXDOMAIN),
        ("web.marathon.mesos", "AAAA", dns.rcode.NOERROR),
        ("web.marathon.mesos", "SRV", dns.rcode.NOERROR),
        ("web.marathon.mesos", "MX", dns.rcode.NOERROR),
        ("web.marathon.mesos", "SOA", dns.rcode.NOERROR),
        ("web.marathon.mesos", "PTR", dns.rcode.NOERROR),
        ("marathon.mesos", "A", dns.rcode.NOERROR),
        ("_tcp.marathon.mesos", "A", dns.rcode.NOERROR),
        ("mesos", "A", dns.rcode.NOERROR),
    ],
)
def test_no_is_nodata_where_the_name_exists_and_carries_the_soa_to_be_remembered_shortly(
    name: str, rtype: str, rcode: int
) -> None:
    answer = Server().ask(name, rtype)
    assert answer.rcode() == rcode
    assert not answer.answer
    assert texts(answer.authority) == ["mesos. 10 IN SOA ns1.mesos. root.ns1.mesos. 7 60 600 86400 10"]


@pytest.mark.parametrize(
    ("name", "rtype", "rcode", "authority"),
    [
        ("web.marathon.mesos", "A", dns.rcode.NOERROR, False),
        ("web.*.marathon.mesos", "A", dns.rcode.NOERROR, False),
        ("web.marathon.mesos", "AAAA", dns.rcode.NOERROR, True),
        ("web.marathon.mesos", "SRV", dns.rcode.NOERROR, False),
        ("none.marathon.mesos", "SRV", dns.rcode.NOERROR, False),
        ("none.marathon.mesos", "A", dns.rcode.NXDOMAIN, True),
        ("marathon.mesos", "A", dns.rcode.NXDOMAIN, True),
        ("web.marathon.mesos", "PTR", dns.rcode.NXDOMAIN, True),
        ("any.thing.mesos", "SOA", dns.rcode.NOERROR, True),
        ("any.thing.mesos", "NS", dns.rcode.NOERROR, True),
    ],
)
def test_compat_answers_as_mesos_dns(name: str, rtype: str, rcode: int, authority: bool) -> None:
    answer = Server(compat=True).ask(name, rtype, payload=4096)
    assert answer.rcode() == rcode
    assert bool(answer.authority) == authority
    assert answer.edns == -1
    if rtype == "A" and rcode == dns.rcode.NOERROR:
        assert answer.answer[0].name == dns.name.from_text(name)


def test_compat_does_not_answer_names_of_addresses_itself() -> None:
    query = dns.message.make_query("1.0.0.10.in-addr.arpa", "PTR").to_wire()
    assert isinstance(Server(compat=True).responder.respond(query, is_tcp=False), Forward)


def test_edns_is_answered_with_edns_and_another_version_with_badvers() -> None:
    server = Server()
    answer = server.ask("web.marathon.mesos", payload=4096)
    assert (answer.edns, answer.payload) == (0, 1232)
    query = dns.message.make_query("web.marathon.mesos", "A", use_edns=1)
    packet = server.responder.respond(query.to_wire(), is_tcp=False)
    assert isinstance(packet, bytes)
    assert dns.message.from_wire(packet).rcode() == dns.rcode.BADVERS


MANY = [Record("many.mesos", "A", f"10.0.{number >> 8}.{number & 255}") for number in range(300)]
SERVICES = [Record("_s._tcp.mesos", "SRV", f"t{number}.mesos", number) for number in range(12)]
TARGETS = [Record(f"t{number}.mesos", "AAAA", f"fd00::{number:x}") for number in range(12)]


@pytest.mark.parametrize(("payload", "limit"), [(None, 512), (100, 512), (700, 512), (1232, 1232), (60000, 1232)])
def test_answer_over_udp_that_is_too_long_is_cut_and_says_so(payload: int | None, limit: int) -> None:
    server = Server(MANY)
    query = dns.message.make_query("many.mesos", "A", use_edns=payload is not None, payload=payload or 0)
    packet = server.responder.respond(query.to_wire(), is_tcp=False)
    assert isinstance(packet, bytes)
    assert limit - 16 < len(packet) <= limit
    assert dns.message.from_wire(packet).flags & dns.flags.TC
    whole = server.ask("many.mesos", is_tcp=True)
    assert len(whole.answer[0]) == 300
    assert not whole.flags & dns.flags.TC


def test_questions_with_any_size_there_is_share_few_renderings() -> None:
    server = Server(MANY)
    for size in range(512, 1300):
        query = dns.message.make_query("many.mesos", "A", use_edns=0, payload=size)
        packet = server.responder.respond(query.to_wire(), is_tcp=False)
        assert isinstance(packet, bytes)
        assert len(packet) <= size
    assert server.responder.hits > 700


def test_additional_section_goes_first_and_that_is_no_truncation() -> None:
    answer = Server([*SERVICES, *TARGETS]).ask("_s._tcp.mesos", "SRV")
    assert len(answer.answer[0]) == 12
    assert not answer.additional
    assert not answer.flags & dns.flags.TC


def test_truncation_is_not_told_where_the_setting_says_so() -> None:
    answer = Server(MANY, options=ResponderOptions(sets_truncated=False)).ask("many.mesos")
    assert not answer.flags & dns.flags.TC
    assert 20 < len(answer.answer[0]) < 300


def test_sets_come_in_changing_order() -> None:
    server = Server(MANY[:8])
    query = dns.message.make_query("many.mesos", "A").to_wire()
    assert len({server.responder.respond(query, is_tcp=False) for _ in range(20)}) > 1


def test_change_of_a_name_is_answered_at_once_and_others_stay_in_memory() -> None:
    server = Server()
    for name, rtype in (("web.marathon.mesos", "A"), ("new.mesos", "A"), ("_web._tcp.marathon.mesos", "SRV")):
        server.ask(name, rtype)
    server.ask("a.b.mesos")
    moved = [Record("web.marathon.mesos", "A", "10.9.9.9"), *RECORDS[1:], Record("new.mesos", "A", "10.9.9.8")]
    server.put([*moved, Record("x.a.b.mesos", "A", "10.9.9.7")])
    assert server.ask("web.marathon.mesos").answer[0][0].to_text() == "10.9.9.9"
    assert server.ask("new.mesos").answer[0][0].to_text() == "10.9.9.8"
    additional = texts(server.ask("_web._tcp.marathon.mesos", "SRV").additional)
    assert "web.marathon.mesos. 60 IN A 10.9.9.9" in additional
    assert server.ask("a.b.mesos").rcode() == dns.rcode.NOERROR
    server.put(moved[:-1])
    assert server.ask("new.mesos").rcode() == dns.rcode.NXDOMAIN
    hits = server.responder.hits
    server.ask("six.marathon.mesos", "AAAA")
    server.put([*moved[:-1], Record("other.mesos", "A", "10.9.9.6")])
    server.ask("six.marathon.mesos", "AAAA")
    assert server.responder.hits == hits + 3


def test_kept_no_carries_the_serial_of_now() -> None:
    server = Server()
    for payload in (None, 1232):
        server.ask("none.mesos", payload=payload)
    server.ask("mesos", "SOA")
    server.origin.serial = 4711
    for payload in (None, 1232):
        assert " 4711 " in texts(server.ask("none.mesos", payload=payload).authority)[0]
    assert " 4711 " in texts(server.ask("mesos", "SOA").answer)[0]


def test_memory_is_bounded() -> None:
    many = [Record(f"n{number}.mesos", "A", "10.0.0.1") for number in range(100)]
    server = Server(many, options=ResponderOptions(cache_entries=10))
    for number in range(200):
        server.ask(f"n{number}.mesos")
    assert server.responder._kept_count <= 10
    assert len(server.responder._kept_by_question) <= 10


def test_domain_that_is_not_loaded_is_a_failure_and_never_a_no() -> None:
    server = Server()
    server.origin.is_loaded = False
    assert server.ask("none.mesos").rcode() == dns.rcode.SERVFAIL
    server.origin.is_loaded = True
    assert server.ask("none.mesos").rcode() == dns.rcode.NXDOMAIN


@pytest.mark.parametrize(
    ("name", "resolver"),
    [("a.weave", "192.0.2.2"), ("x.deep.weave", "192.0.2.3"), ("example.com", "192.0.2.1"), (".", "192.0.2.1")],
)
def test_other_names_are_for_the_resolvers_of_the_longest_zone(name: str, resolver: str) -> None:
    forward = Server().responder.respond(dns.message.make_query(name, "A").to_wire(), is_tcp=False)
    assert isinstance(forward, Forward)
    assert forward.resolvers[0].host == resolver


@pytest.mark.parametrize("rtype", ["AXFR", "IXFR"])
def test_transfers_are_refused(rtype: str) -> None:
    server = Server()
    query = dns.message.make_query("mesos", "A")
    query.question[0].rdtype = dns.rdatatype.from_text(rtype)
    packet = server.responder.respond(query.to_wire(), is_tcp=True)
    assert isinstance(packet, bytes)
    assert packet[3] & 15 == dns.rcode.REFUSED


def test_other_opcodes_classes_and_counts_have_their_codes() -> None:
    server = Server()
    question = b"\3web\5mesos\0" + struct.pack("!HH", 1, 1)
    for flags, counts, rest, rcode in (
        (0x2000, (1, 0, 0, 0), question, dns.rcode.NOTIMP),
        (0, (2, 0, 0, 0), question * 2, dns.rcode.FORMERR),
        (0, (0, 0, 0, 0), b"", dns.rcode.FORMERR),
        (0, (1, 0, 0, 0), question[:-1], dns.rcode.FORMERR),
        (0, (1, 0, 0, 0), question + b"x", dns.rcode.FORMERR),
        (0, (1, 0, 0, 0), b"\xc0\x0c" + question[-4:], dns.rcode.FORMERR),
        (0, (1, 0, 0, 0), question[:-2] + b"\0\3", dns.rcode.REFUSED),
        (0, (1, 0, 0, 1), question + b"x" * 5000, dns.rcode.FORMERR),
    ):
        packet = server.responder.respond(struct.pack("!HHHHHH", 99, flags, *counts) + rest, is_tcp=False)
        assert isinstance(packet, bytes)
        assert packet[:2] == b"\0\x63"
        assert packet[3] & 15 == rcode
        dns.message.from_wire(packet)


def test_answers_are_never_answered() -> None:
    response = dns.message.make_response(dns.message.make_query("web.marathon.mesos", "A")).to_wire()
    assert Server().responder.respond(response, is_tcp=False) is None


SEED = dns.message.make_query("web.marathon.mesos", "A", use_edns=0, payload=1232).to_wire()
QUESTIONS = st.builds(
    lambda labels, rtype, rclass, flags, edns, number: (
        struct.pack("!HHHHHH", number, flags, 1, 0, 0, bool(edns))
        + b"".join(bytes((len(one),)) + one for one in labels)
        + b"\0"
        + struct.pack("!HH", rtype, rclass)
        + edns
    ),
    st.lists(
        st.sampled_from([b"web", b"marathon", b"mesos", b"_web", b"_tcp", b"*"]) | st.binary(min_size=1, max_size=63),
        max_size=6,
    ),
    st.sampled_from([1, 2, 6, 12, 28, 33, 255]) | st.integers(0, 65535),
    st.sampled_from([1, 255]) | st.integers(0, 65535),
    st.integers(0, 65535),
    st.sampled_from([b"", b"\0\0\x29\x04\xd0\0\0\0\0\0\0", b"\0\0\x29\x10\0\0\0\x80\0\0\0"]) | st.binary(max_size=20),
    st.integers(0, 65535),
)
SPOILT = st.builds(
    lambda at, byte: SEED[:at] + bytes((byte,)) + SEED[at + 1 :], st.integers(0, len(SEED) - 1), st.integers(0, 255)
)


@pytest.mark.parametrize("compat", [False, True])
@given(packet=st.binary(max_size=600) | QUESTIONS | SPOILT, is_tcp=st.booleans())
@example(packet=SEED, is_tcp=False)
def test_any_packet_has_no_answer_or_a_good_one(compat: bool, packet: bytes, is_tcp: bool) -> None:
    answer = Server(compat=compat).responder.respond(packet, is_tcp=is_tcp)
    if answer is None:
        assert len(packet) < 12 or packet[2] & 0x80
        return
    if isinstance(answer, Forward):
        assert answer.packet == packet
        return
    message = dns.message.from_wire(answer)
    assert answer[:2] == packet[:2]
    assert message.flags & dns.flags.QR
    assert len(answer) <= (65535 if is_tcp else 1232)
