"""Rules that we encode are, in the kernel, byte for byte those that libnftables makes of the same lines."""

from __future__ import annotations

import re
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import replace

import pytest
from hypothesis import HealthCheck, example, given, settings
from hypothesis import strategies as st

from felix.calc.desired import (
    Action,
    CompiledPolicy,
    CompiledRule,
    DesiredDelta,
    EntityMatch,
    HostStacks,
    Limits,
    LocalHostEndpoint,
    PortRange,
    SetRef,
    Stack,
    StackTier,
)
from felix.dataplane.netlink.apply import NetlinkSocket
from felix.dataplane.netlink.message import NETLINK_NETFILTER
from felix.dataplane.nft.apply import Kernel, NftWorker, apply_structure, apply_teardown
from felix.dataplane.nft.base import base_chains, declare
from felix.dataplane.nft.encode import encode_rule
from felix.dataplane.nft.host_rules import matches_on
from felix.dataplane.nft.literals import NotEncodable
from felix.dataplane.nft.names import EGRESS, INGRESS, PRE_DNAT_AGAIN
from felix.dataplane.nft.plan import NftPlan
from felix.dataplane.nft.read import read_table
from felix.dataplane.nft.render import render_write
from felix.dataplane.nft.stack import CLOSED
from felix.dataplane.nft.transaction import name_sets, pack_write
from felix.dataplane.nft.types import (
    DenyAction,
    ElementShape,
    KernelTable,
    Lines,
    NftConfig,
    NftPort,
    ObjectName,
    StructurePlan,
    TableWrite,
)
from felix.model.keys import ResourceKey
from felix.model.net import parse_net
from tests.contract.rule_dump import DumpedTable, dump_table
from tests.contract.rule_lines import find_needs, golden_chains
from tests.model.fake_nft import FakeNft
from tests.model.host_worlds import bindings, make_host_endpoint
from tests.model.nft_worlds import deltas, drive, endpoint, rules

_NOT_ENCODED = re.compile(r"\b(dnat ip|snat ip|masquerade|dscp set)|\bupdate @")
"""What goes through libnftables: rules of translation, marking and flood protection, which hardly ever change."""
_HOOK = "type "

Chains = Sequence[tuple[str, Lines]]


def _is_encoded(line: str) -> bool:
    try:
        encode_rule(line)
    except NotEncodable:
        return False
    return True


def _write_both_ways(port: NftPort, chains: Chains) -> None:
    """Asserts that a table with these chains is the same whoever writes it."""
    needs = find_needs(line for _, lines in chains for line in lines)
    declared = tuple((name, lines) for name, lines in needs.items() if name.kind != "chain")
    named = {name for name, _ in chains}
    targets = tuple((name.name, ()) for name in needs if name.kind == "chain" and name.name not in named)
    write = TableWrite(objects=declared, chains=(*targets, *chains))
    assert pack_write(write, name_sets("")) is not None
    found = []
    for is_ours in (True, False):
        assert not apply_teardown(port)
        refusal = port.write(write) if is_ours else port.run(render_write(write))
        assert not refusal, chains
        found.append((_dump(), port.list_table()))
    ours, theirs = found
    for name, dumped in theirs[0].rules.items():
        for position, rule in enumerate(dumped):
            assert ours[0].rules[name][position] == rule, dict(chains)[name]
    assert ours == theirs


def _dump() -> DumpedTable:
    socket = NetlinkSocket(NETLINK_NETFILTER)
    try:
        return dump_table(socket)
    finally:
        socket.close()


def _apart(lines: Iterable[str]) -> list[tuple[str, Lines]]:
    """Returns a chain with all these lines that are encoded, each once."""
    return [("c", tuple(line for line in dict.fromkeys(lines) if _is_encoded(line)))]


def test_lines_of_all_golden_files_are_encoded_but_for_rare_features() -> None:
    lines = {line for _, chain in golden_chains() for line in chain if not line.startswith(_HOOK)}
    assert len(lines) > 150
    assert {line for line in lines if not _is_encoded(line)} == set(filter(_NOT_ENCODED.search, lines))


@pytest.mark.fv
def test_chains_of_golden_files_are_the_same_whoever_writes_them(worker: NftWorker) -> None:
    def body(port: NftPort) -> None:
        whole = [chain for _, chain in golden_chains() if all(_is_encoded(line) for line in _rules_of(chain))]
        chains = [(f"c{number}", chain) for number, chain in enumerate(dict.fromkeys(whole))]
        assert len(chains) > 60
        _write_both_ways(port, chains)

    worker.call_blocking(body)


def _rules_of(chain: Lines) -> Lines:
    return chain[1:] if chain and chain[0].startswith(_HOOK) else chain


@pytest.mark.fv
@pytest.mark.parametrize(
    "config",
    [
        NftConfig(interface_prefixes=("cali", "tap-1"), deny=DenyAction.REJECT, allows_spoofing=True, checks_macs=True),
        NftConfig(drop_invalid=False, allows_vxlan=True),
    ],
)
def test_base_chains_are_encoded_and_the_same_whoever_writes_them(worker: NftWorker, config: NftConfig) -> None:
    worker.call_blocking(lambda port: _write_both_ways(port, list(base_chains(config).items())))


@pytest.mark.fv
def test_declared_sets_are_the_same_whoever_declares_them(worker: NftWorker) -> None:
    def body(port: NftPort) -> None:
        objects = [
            (ObjectName("map" if shape.is_map else "set", shape.name.lower()), declare(shape)) for shape in ElementShape
        ]
        write = TableWrite(objects=(*objects, (ObjectName("counter", "c"), ())))
        assert pack_write(write, name_sets("")) is not None
        apply_teardown(port)
        assert port.write(write) is None
        ours = _dump(), port.list_table()
        apply_teardown(port)
        assert not port.run(render_write(write))
        assert (_dump(), port.list_table()) == ours

    worker.call_blocking(body)


_LINES = (
    # neighbours become one comparison, unless something stands between them
    "tcp sport 1 tcp dport 2 accept",
    "udp sport 5 udp dport 6 udp dport != 7 accept",
    "tcp sport 5 tcp sport != 7 tcp dport 8 tcp dport != 9 accept",
    "icmp type 8 icmp code 0 icmp type . icmp code != { 5 . 1 } accept",
    "icmp type 8 icmp code 0 icmp type != 9 accept",
    "icmpv6 type 128 icmpv6 code 255 accept",
    "tcp sport 65535 tcp dport 0 accept",
    "sctp sport 1 sctp dport 2 accept",
    "tcp sport != 1 tcp dport 2 accept",
    "tcp sport 1 tcp dport != 2-9 accept",
    # prefixes on and off the borders of bytes, and ranges, of both families
    "ip saddr 0.0.0.0/1 ip daddr != 10.0.0.0/9 drop",
    "ip saddr 10.1.2.0/31 ip daddr 10.1.2.0/24 drop",
    "ip saddr != 10.1.0.0-10.1.0.5 ip saddr 10.0.0.0-10.255.255.254 drop",
    "ip6 saddr fc00::/7 ip6 daddr != fd00::/127 drop",
    "ip6 saddr != fd00::1-fd00::5 ip6 daddr fd00::-ffff:: drop",
    "ip6 saddr ::1.2.3.4 ip6 daddr ::ffff:1.2.3.4 drop",
    # sets of single values, of intervals, from the first value on and to the last
    "ip saddr { 0.0.0.0/8, 10.0.0.1, 128.0.0.0/1 } ip daddr { 1.1.1.1, 1.1.1.2 } drop",
    "ip6 saddr { ::1, 8000::/1 } ip6 daddr != { ::1, ::ffff:1.2.3.4 } drop",
    "tcp dport { 0-1, 3-65535 } tcp sport { 0, 65535 } drop",
    "udplite dport { 5, 10-20 } drop",
    "sctp sport != { 5, 10 } drop",
    "udp sport . udp dport { 1 . 2, 3 . 4 } drop",
    "icmp type { 1, 5 } drop",
    "icmpv6 code { 1-2, 5 } drop",
    "meta l4proto != { 1, 6, 255 } drop",
    # what is said of the family and the protocol is said once
    "ip version 4 meta l4proto 1 return",
    "ip6 version 6 meta l4proto 58 return",
    "meta nfproto 2 meta l4proto 58 return",
    "ip saddr 1.2.3.4 icmp type 8 return",
    "meta l4proto 17 udp sport 5 udp dport 5 return",
    "ip saddr . meta l4proto . udp sport != @p4-a ip daddr . meta l4proto . udp dport @p4-b return",
    "ip6 daddr @a6-a ip6 daddr != @n6-a ip6 saddr . meta l4proto . tcp sport @p6-a return",
    # what connection tracking knows
    "ct original ip daddr != { 10.0.0.1, 10.2.0.0/16 } return",
    "ct original ip6 daddr { ::1, fd00::5 } return",
    "ct original ip6 daddr fd00::1-fd00::3 tcp sport 5 return",
    "ip saddr 1.2.3.4 ct original ip daddr 10.0.0.0/9 return",
    "ct original ip6 daddr fd00::/8 ip6 saddr ::1 return",
    "meta l4proto 6 ct original proto-dst != 80 ct original proto-dst 1-5 return",
    "ct state 0x2,0x4,0x40 ct status 0x20 return",
    "ct state vmap { 0x2 : accept, 0x4 : drop, 0x8 : return }",
    "limit rate 1/week drop",
    "limit rate over 10/hour burst 1 packets drop",
    "ct count over 4294967295 drop",
    'counter name "a" counter name "b" notrack accept comment "x"',
    'iifname "eth0" oifname "eth*" iif 0 jump d',
)


@pytest.mark.fv
def test_lines_at_the_edges_are_the_same_whoever_writes_them(worker: NftWorker) -> None:
    assert [line for line in _LINES if not _is_encoded(line)] == []
    worker.call_blocking(lambda port: _write_both_ways(port, _apart(_LINES)))


@pytest.mark.parametrize(
    "line",
    [
        "",
        "accept accept",
        "accept ",
        "ip saddr 10.0.0.1/8 accept",
        "ip saddr 10.0.0.0/0 accept",
        "ip saddr 10.0.0.0/32 accept",
        "ip saddr fd00::1 accept",
        "ip saddr 10.0.0.5-10.0.0.5 accept",
        "ip saddr { 10.0.0.1 } accept",
        "ip saddr { 10.0.0.1, 10.0.0.1 } accept",
        "ip saddr { 10.0.0.0/24, 10.0.1.0/24 } accept",
        "ip saddr { 10.0.1.0/24, 10.0.0.0/24 } accept",
        "ip saddr 10.0.0.1 ip6 saddr ::1 accept",
        "ip saddr 10.0.0.1 meta nfproto 2 accept",
        "tcp dport 080 accept",
        "tcp dport 65536 accept",
        "tcp dport http accept",
        "ip saddr 10.0.0.1 ct original ip6 daddr ::1 accept",
        "ct original ip daddr 10.0.0.1 ip6 saddr ::1 accept",
        "meta l4proto 58 icmpv6 type 8 accept",
        "iifname . ether saddr @x ip saddr 10.0.0.1 accept",
        "tcp sport 1 udp dport 2 accept",
        "meta l4proto { 6, 17 } tcp dport 2 accept",
        "meta l4proto { 6, 17 } ct original proto-dst 2 accept",
        "tcp sport != 1 tcp dport != 2 accept",
        "tcp flags 0x2 accept",
        "ct original proto-dst 80 accept",
        "meta l4proto { 1-5, 7 } accept",
        "ether saddr 02:00:00:00:00:01 accept",
        'iifname "a\\*" accept',
        'iifname "a name" accept',
        'log prefix "$x" level info',
        'log prefix "x" level warn',
        "tcp dport 80 reject",
        "reject with tcp reset",
        "limit rate 0/second accept",
        'accept comment "a \\" b"',
        "jump a b",
        "ip saddr",
        "tcp dport { 80, 443",
        "ct state vmap { 0x1 : jump x }",
    ],
)
def test_line_that_could_mean_something_else_is_left_to_libnftables(line: str) -> None:
    assert not _is_encoded(line)


def test_transaction_with_one_unknown_word_is_left_whole_to_libnftables() -> None:
    good = ("c", ("accept",))
    assert pack_write(TableWrite(chains=(good,)), name_sets("")) is not None
    for write in (
        TableWrite(chains=(good, ("d", ("accept", "ip dscp set 0x2e")))),
        TableWrite(chains=(good,), rebuilds=True),
        TableWrite(chains=(good, ("d", ("type route hook output priority 0; policy accept;",)))),
        TableWrite(objects=((ObjectName("set", "s"), ("type ipv4_addr", "timeout 60s")),), chains=(good,)),
        TableWrite(removed_chains=("c",), removed_objects=(ObjectName("flowtable", "f"),)),
    ):
        assert pack_write(write, name_sets("")) is None


_VALUES = {
    "ip": "1.2.3.4|10.0.0.0/8|10.0.0.0/9|1.1.1.1-1.1.1.7|{ 1.1.1.1, 2.2.2.2 }|{ 0.0.0.0/8, 200.0.0.0/7 }|@a4-x|@n4-x",
    "ip6": "::1|fd00::/8|fd00::/9|::1-::7|{ ::1, ::2 }|{ ::/8, f000::-ffff:ffff:ffff:ffff:ffff:ffff:ffff:ffff }|@a6-x",
    "ports": "0|80|65535|1-5|{ 1, 5 }|{ 1-3, 5 }|{ 0, 60000-65535 }",
    "types": "0|8|255|1-5|{ 1, 5 }",
    "protocols": "1|6|17|58|{ 6, 17 }",
}
_FIELDS_BY_VALUES = {
    "ip": "ip saddr|ip daddr|ct original ip daddr",
    "ip6": "ip6 saddr|ip6 daddr|ct original ip6 daddr",
    "ports": "tcp sport|tcp dport|udp sport|udp dport|sctp dport|udplite sport|ct original proto-dst",
    "types": "icmp type|icmp code|icmpv6 type|icmpv6 code",
    "protocols": "meta l4proto",
}
_TERMS = (
    *(
        f"{field} {negation}{value}"
        for kind, fields in _FIELDS_BY_VALUES.items()
        for field in fields.split("|")
        for negation in ("", "!= ")
        for value in _VALUES[kind].split("|")
    ),
    "meta nfproto 2",
    "meta nfproto 10",
    "ip version 4",
    "ip6 version 6",
    "ct state 0x8",
    "ct status 0x20",
    "tcp flags ! 0x2",
    'iifname "eth*"',
    'oifname "eth0"',
    "iifname != @y",
    "iifname . ip saddr @z4",
    "iifname . ip6 saddr != @z6",
    "iifname . ether saddr @x",
    "ip daddr . meta l4proto . tcp dport @p4-x",
    "ip6 saddr . meta l4proto . udp sport != @p6-x",
    "ip saddr . tcp sport . ip daddr . tcp dport @c4",
    "udp sport . udp dport { 1 . 2, 3 . 4 }",
    "icmp type . icmp code != { 1 . 2 }",
    'counter name "a"',
    "limit rate 10/second",
    "ct count over 5",
)


@pytest.mark.fv
@settings(max_examples=30, deadline=None, suppress_health_check=list(HealthCheck))
@given(some=st.lists(st.lists(st.sampled_from(_TERMS), min_size=1, max_size=4), min_size=5, max_size=20))
@example(some=[["meta l4proto 58", "icmpv6 type 8"], ["iifname . ether saddr @x", "ip daddr 10.0.0.0/8"]])
@example(some=[["ip saddr 1.2.3.4", "ct original ip6 daddr ::1"], ["meta l4proto { 6, 17 }", "tcp dport 80"]])
def test_known_words_in_any_order_are_as_libnftables_has_them_or_left_to_it(
    worker: NftWorker, some: list[list[str]]
) -> None:
    lines = [" ".join((*terms, "drop")) for terms in some]
    worker.call_blocking(lambda port: _write_both_ways(port, _apart(lines)))


_TWICE = CompiledRule(  # its port is said twice, and each time its address became a tracked one
    Action.ALLOW,
    destination=EntityMatch(
        not_nets=(parse_net("10.0.0.0/8"),), ports=(PortRange(0, 9),), not_ports=(PortRange(5, 5),)
    ),
)


@pytest.mark.fv
@settings(max_examples=60, deadline=None, suppress_health_check=list(HealthCheck))
@given(some=st.lists(rules, min_size=1, max_size=8))
@example(some=[_TWICE])
def test_any_rule_is_encoded_and_the_same_whoever_writes_it(worker: NftWorker, some: list[CompiledRule]) -> None:
    lines = [
        f"{match} drop".lstrip()
        for direction in (INGRESS, EGRESS, PRE_DNAT_AGAIN)
        for rule in some
        for match in matches_on(direction, rule)
    ]
    assert [line for line in lines if not _is_encoded(line)] == []

    def body(port: NftPort) -> None:
        _write_both_ways(port, _apart(lines))
        assert read_table(port).chains["c"] == tuple(dict.fromkeys(lines))

    worker.call_blocking(body)


@pytest.mark.fv
@settings(max_examples=25, deadline=None, suppress_health_check=list(HealthCheck))
@given(delta=deltas(), hosts=bindings())
def test_any_table_is_the_same_whoever_writes_it(
    worker: NftWorker, delta: DesiredDelta, hosts: Mapping[str, LocalHostEndpoint | None]
) -> None:
    fake, plan = FakeNft(), NftPlan(NftConfig())
    plan.replace_believed(KernelTable())
    plan.on_delta(delta)
    plan.bind_hosts(hosts)
    drive(fake, plan)
    chains = read_table(fake).chains
    encoded = [(name, lines) for name, lines in chains.items() if all(map(_is_encoded, _rules_of(lines)))]
    left = {line for name, lines in chains.items() if (name, lines) not in encoded for line in lines}
    assert not left or any(_NOT_ENCODED.search(line) for line in left)
    worker.call_blocking(lambda port: _write_both_ways(port, encoded))


@pytest.mark.fv
def test_endpoints_policies_and_host_endpoints_come_and_go_without_libnftables(worker: NftWorker) -> None:
    def body(port: NftPort) -> None:
        apply_teardown(port)
        plan = NftPlan(NftConfig())
        plan.replace_believed(read_table(port))
        drive(port, plan)
        key, address = (
            ResourceKey("GlobalNetworkPolicy", "", "default.web"),
            EntityMatch(sets=(SetRef("s", True, True),)),
        )
        ports = EntityMatch(ports=(PortRange(80, 80), PortRange(8000, 8010)))
        stack = Stack((StackTier("default", (key,), Action.DENY),), ())
        one = replace(endpoint(1, stack, stack), limits=Limits(connections_in=5))
        texts = worker.calls.texts
        rule = CompiledRule(Action.ALLOW, protocol=6, source=address, destination=ports)
        plan.on_delta(DesiredDelta(sets={"s": True}, policies={key: CompiledPolicy((rule,), (rule,))}))
        plan.on_delta(DesiredDelta(endpoints={one.key: one}))
        plan.bind_hosts({"eth0": make_host_endpoint("eth0", HostStacks(stack, stack))})
        drive(port, plan)
        assert plan.is_enforced(one.key)
        plan.bind_hosts({"eth0": None})
        plan.on_delta(DesiredDelta(endpoints={one.key: None}, policies={key: None}, sets={"s": None}))
        drive(port, plan)
        assert plan.is_settled
        assert worker.calls.texts == texts
        again = NftPlan(NftConfig())
        again.replace_believed(read_table(port))
        assert again.is_settled

    worker.call_blocking(body)


@pytest.mark.fv
def test_rules_that_the_kernel_refuses_are_named_by_it_and_closed_at_the_second_try(worker: NftWorker) -> None:
    def body(port: NftPort) -> None:
        apply_teardown(port)
        plan = NftPlan(NftConfig())
        plan.replace_believed(KernelTable())
        drive(port, plan)
        good, poison = ("tcp dport 80 accept",), ("accept", "ip saddr @no-such-set accept")
        chains = tuple((f"c{number}", poison if number in (5, 700) else good) for number in range(900))
        runs = worker.calls.runs
        result = apply_structure(port, StructurePlan(chains))
        assert worker.calls.runs == runs + 2
        assert result.closed == dict.fromkeys(("c5", "c700"), "No such file or directory")
        assert len(result.chains) == 898
        table = read_table(port)
        assert (table.chains["c5"], table.chains["c4"]) == (CLOSED, good)

    worker.call_blocking(body)


@pytest.mark.fv
def test_transaction_that_no_socket_takes_at_once_goes_through_libnftables(
    worker: NftWorker, monkeypatch: pytest.MonkeyPatch
) -> None:
    def body(port: NftPort) -> None:
        apply_teardown(port)
        assert isinstance(port, Kernel)
        monkeypatch.setattr(port._socket, "send_limit_bytes", 2000)
        texts = worker.calls.texts
        lines = tuple(f"tcp dport {number} accept" for number in range(100))
        assert port.write(TableWrite(chains=(("c", lines),))) is None
        assert worker.calls.texts == texts + 1
        assert read_table(port).chains == {"c": lines}

    worker.call_blocking(body)


@pytest.mark.fv
def test_set_of_thousands_of_addresses_in_a_rule_is_written_in_parts_and_read_back(worker: NftWorker) -> None:
    def body(port: NftPort) -> None:
        line = f"ip saddr {{ {', '.join(f'10.{number >> 8}.{number & 255}.0/25' for number in range(9000))} }} accept"
        _write_both_ways(port, [("c", (line,))])

    worker.call_blocking(body)
