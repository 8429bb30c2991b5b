"""Chains of features on the fake nf_tables and on the real one: they come and go whole and are read as written."""

from __future__ import annotations

from dataclasses import replace

import pytest

from felix.calc.desired import (
    ALL_INTERFACES,
    HOSTS,
    MASQUERADED,
    POOLS,
    TUNNEL_PEERS,
    Bandwidth,
    DesiredDelta,
    FloatingAddress,
    HostStacks,
    Limits,
    MemberDelta,
    OwnVtep,
    PacketRate,
    SourceRate,
    Stack,
)
from felix.dataplane.nft.plan import NftPlan
from felix.dataplane.nft.read import read_table
from felix.dataplane.nft.types import FloodConfig, KernelTable, NatConfig, NftConfig, NftPort
from felix.model.net import parse_address, parse_net
from felix.policy.packet import Packet
from tests.contract.conftest import Run
from tests.model.fake_nft import FakeNft
from tests.model.host_worlds import make_host_endpoint
from tests.model.nft_worlds import drive, endpoint

_EMPTY = Stack((), ())


def _started(config: NftConfig, port: NftPort, delta: DesiredDelta | None = None) -> NftPlan:
    plan = NftPlan(config)
    plan.replace_believed(read_table(port))
    plan.on_delta(delta or DesiredDelta())
    _drive(port, plan)
    return plan


def _drive(port: NftPort, plan: NftPlan) -> None:
    for result in drive(port, plan):
        assert not result.error
        assert not result.closed
        assert not result.refused
        assert not result.skipped
    assert plan.is_settled
    plan.replace_believed(read_table(port))
    assert plan.is_settled


def _nets(added: str = "", removed: str = "") -> MemberDelta:
    return MemberDelta({parse_net(text) for text in added.split()}, {parse_net(text) for text in removed.split()})


def _without_extras(port: NftPort) -> KernelTable:
    _started(NftConfig(), port)
    return read_table(port)


def test_tunnels_come_change_and_go_leaving_nothing(run: Run) -> None:
    def body(port: NftPort) -> None:
        before = _without_extras(port)
        plan = _started(NftConfig(), port, DesiredDelta(nets={TUNNEL_PEERS: _nets("192.0.2.2 2001:db8::2")}))
        assert read_table(port) == before
        endpoint = make_host_endpoint(ALL_INTERFACES, HostStacks(_EMPTY, _EMPTY, untracked_ingress=_EMPTY))
        plan.bind_hosts({ALL_INTERFACES: endpoint})
        _drive(port, plan)
        with_host = read_table(port)
        own = OwnVtep(None, "66:00:00:00:00:01", parse_net("192.0.2.1"), 4096, 4789, 0)
        for version in (4, 6):
            plan.on_delta(DesiredDelta(own_vteps={version: own}))
            _drive(port, plan)
        plan.on_delta(DesiredDelta(nets={TUNNEL_PEERS: _nets("198.51.100.0/24 192.0.2.3", "192.0.2.2")}))
        _drive(port, plan)
        table = read_table(port)
        assert len(table.chains["vxlan-input"]) == 3
        assert len(table.elements["vxlan4"]) == 2
        plan.on_delta(DesiredDelta(own_vteps={4: None, 6: None}))
        _drive(port, plan)
        assert read_table(port) == with_host

    run(body)


EVERY_NAT = [
    NatConfig(),
    NatConfig(parse_address("203.0.113.9"), (1024, 2048), True, "eth+", True),
    NatConfig(parse_address("2001:db8::9"), (5000, 5000), False, "bond0.7", True),
]


@pytest.mark.parametrize("nat", EVERY_NAT, ids=["plain", "ipv4", "ipv6"])
def test_pools_come_change_and_go_leaving_nothing(run: Run, nat: NatConfig) -> None:
    def body(port: NftPort) -> None:
        before = _without_extras(port)
        plan = _started(NftConfig(nat=nat), port)
        assert read_table(port) == before
        everything = "10.65.0.0/16 10.70.0.1 fd65::/64"
        plan.on_delta(DesiredDelta(nets={POOLS: _nets(everything + " 10.66.0.0/16"), MASQUERADED: _nets(everything)}))
        _drive(port, plan)
        plan.on_delta(DesiredDelta(nets={HOSTS: _nets("192.0.2.1 2001:db8::1")}))
        _drive(port, plan)
        table = read_table(port)
        assert "nat-postrouting" in table.chains
        assert len(table.elements["pools4"]) == 3
        plan.on_delta(DesiredDelta(nets={MASQUERADED: _nets("10.64.0.0/10", "10.65.0.0/16 10.70.0.1")}))
        _drive(port, plan)
        plan.on_delta(DesiredDelta(nets={MASQUERADED: _nets("", "10.64.0.0/10")}))
        _drive(port, plan)
        assert not any("ip saddr" in line for line in read_table(port).chains["nat-postrouting"])
        plan.on_delta(DesiredDelta(nets={MASQUERADED: _nets("", "fd65::/64")}))
        _drive(port, plan)
        assert read_table(port) == before

    run(body)


EVERY_LIMIT = Limits(
    packets_in=PacketRate(100, 5),
    packets_out=PacketRate(10_000, 10_000),
    connections_in=5,
    connections_out=4_294_967_295,
    bandwidth_in=Bandwidth(10**9, 10**6),
    bandwidth_out=Bandwidth(8 * 1024 * 1024, 65536),
    dscp=46,
    per_source=SourceRate(50, 5),
)
FLOATING = tuple(
    FloatingAddress(parse_net(external), parse_net(internal))
    for external, internal in (
        ("192.0.2.7", "10.1.0.1"),
        ("192.0.2.6", "10.1.0.1"),
        ("2001:db8::7", "fd02::1"),
    )
)
CHANGES = [
    replace(Limits(), packets_out=PacketRate(1, 1)),
    replace(Limits(), connections_in=1),
    replace(Limits(), connections_out=1),
    replace(Limits(), packets_in=PacketRate(1, 1)),
    replace(EVERY_LIMIT, connections_in=6),
    replace(EVERY_LIMIT, per_source=SourceRate(50, 6)),
    replace(Limits(), per_source=SourceRate(1, 1_000_000)),
    replace(Limits(), bandwidth_out=Bandwidth(8000, 10)),
    None,
]


def test_limits_and_external_addresses_come_change_and_go_leaving_nothing(run: Run) -> None:
    def body(port: NftPort) -> None:
        before = _without_extras(port)
        plan = _started(NftConfig(nat=NatConfig(has_floating=True)), port)
        bare = endpoint(1, _EMPTY, _EMPTY)
        full = replace(bare, limits=EVERY_LIMIT, floating=FLOATING)
        other = replace(endpoint(2, _EMPTY, _EMPTY), limits=EVERY_LIMIT)
        for limits in CHANGES:
            plan.on_delta(DesiredDelta(endpoints={full.key: full, other.key: other}))
            _drive(port, plan)
            table = read_table(port)
            assert table.elements["floating-in4"].keys() == {b"\xc0\0\2\6", b"\xc0\0\2\7"}
            assert table.elements["floating-out4"] == {parse_net("10.1.0.1").packed: "c0000206"}
            changed = replace(bare, limits=limits, floating=FLOATING[:1])
            plan.on_delta(DesiredDelta(endpoints={full.key: changed, other.key: replace(other, limits=limits)}))
            _drive(port, plan)
            assert read_table(port).elements["floating-out4"] == {parse_net("10.1.0.1").packed: "c0000207"}
        plan.on_delta(DesiredDelta(endpoints={full.key: None, other.key: None}))
        _drive(port, plan)
        assert read_table(port) == before

    run(body)


def test_limit_that_changes_writes_one_chain(run: Run) -> None:
    def body(port: NftPort) -> None:
        ends = [replace(endpoint(number, _EMPTY, _EMPTY), limits=EVERY_LIMIT) for number in range(5)]
        plan = _started(NftConfig(), port, DesiredDelta(endpoints={one.key: one for one in ends}))
        changed = replace(ends[0], limits=replace(EVERY_LIMIT, connections_out=7))
        plan.on_delta(DesiredDelta(endpoints={changed.key: changed}))
        assert not plan.plan_fill()
        structure = plan.plan_structure()
        assert [lines for _, lines in structure.extras] == [("ct count over 7 goto limit-refuse",)]
        assert not structure.chains
        assert not structure.dispatch
        _drive(port, plan)

    run(body)


def test_rate_per_source_that_changes_writes_a_chain_two_sets_and_the_elements_of_its_endpoints(run: Run) -> None:
    def body(port: NftPort) -> None:
        ends = [replace(endpoint(n, _EMPTY, _EMPTY), limits=Limits(per_source=SourceRate(50, 100))) for n in range(5)]
        plan = _started(NftConfig(), port, DesiredDelta(endpoints={one.key: one for one in ends}))
        changed = [replace(one, limits=Limits(per_source=SourceRate(60, 100))) for one in ends[:2]]
        plan.on_delta(DesiredDelta(endpoints={one.key: one for one in changed}))
        fill = plan.plan_fill()
        assert [name.name for name, _ in fill.objects] == ["flood-60-100-4", "flood-60-100-6"]
        structure = plan.plan_structure()
        assert [chain for chain, _ in structure.extras] == ["flood-60-100"]
        assert not structure.chains
        assert [(change.set, len(change.added)) for change in structure.dispatch] == [("flood-to", 2)]
        _drive(port, plan)
        plan.on_delta(DesiredDelta(endpoints={one.key: one for one in ends}))
        _drive(port, plan)
        assert "flood-60-100" not in read_table(port).chains

    run(body)


def test_classes_come_change_and_go_leaving_nothing(run: Run) -> None:
    def body(port: NftPort) -> None:
        before = _without_extras(port)
        plan = _started(NftConfig(), port, DesiredDelta(nets={POOLS: _nets("10.65.0.0/16")}))
        ends = [replace(endpoint(number, _EMPTY, _EMPTY), limits=Limits(dscp=number % 2 * 46)) for number in range(4)]
        plan.on_delta(DesiredDelta(endpoints={one.key: one for one in ends}))
        _drive(port, plan)
        assert {name for name in read_table(port).chains if name.startswith("dscp")} == {
            "dscp-0",
            "dscp-46",
            "dscp-forward",
        }
        for one in ends:
            changed = replace(one, limits=Limits(dscp=7))
            plan.on_delta(DesiredDelta(endpoints={one.key: changed}))
            _drive(port, plan)
        assert {name for name in read_table(port).chains if name.startswith("dscp")} == {"dscp-7", "dscp-forward"}
        plan.on_delta(DesiredDelta(endpoints={one.key: None for one in ends}))
        _drive(port, plan)
        assert read_table(port) == before

    run(body)


@pytest.mark.parametrize("burst", [5, 100])
def test_sources_are_limited_from_the_start_by_the_setting(run: Run, burst: int) -> None:
    def body(port: NftPort) -> None:
        before = _without_extras(port)
        config = NftConfig(("cali", "tap"), flood=FloodConfig(50, burst))
        _started(config, port)
        assert {"flood-check", "flood-forward", "flood-input"} <= read_table(port).chains.keys()
        again = NftPlan(config)
        again.replace_believed(read_table(port))
        assert again.is_settled
        _started(NftConfig(), port)
        assert read_table(port).chains.keys() == before.chains.keys()
        assert read_table(port).objects == before.objects

    run(body)


def test_restart_with_other_settings_writes_only_what_they_change(run: Run) -> None:
    def body(port: NftPort) -> None:
        delta = DesiredDelta(nets={POOLS: _nets("10.65.0.0/16"), MASQUERADED: _nets("10.65.0.0/16")})
        _started(NftConfig(), port, delta)
        plan = NftPlan(NftConfig())
        plan.replace_believed(read_table(port))
        plan.on_delta(delta)
        assert plan.is_settled
        plan = NftPlan(NftConfig(nat=NatConfig(ports=(1, 2))))
        plan.replace_believed(read_table(port))
        plan.on_delta(delta)
        assert not plan.plan_fill()
        assert [name for name, _ in plan.plan_structure().extras] == ["nat-postrouting"]
        assert not plan.plan_structure().chains
        _drive(port, plan)

    run(body)


def test_chain_that_the_kernel_does_not_take_is_left_out_named_and_tried_again() -> None:
    kernel, plan = FakeNft(), NftPlan(NftConfig())
    plan.replace_believed(KernelTable())
    kernel.is_refused = lambda line: "masquerade" in line
    one = endpoint(1, _EMPTY, _EMPTY)
    delta = DesiredDelta(nets={POOLS: _nets("10.65.0.0/16"), MASQUERADED: _nets("10.65.0.0/16")})
    plan.on_delta(replace(delta, endpoints={one.key: one}))
    drive(kernel, plan)
    assert plan.is_settled
    assert plan.is_enforced(one.key)
    assert not plan.problems
    assert "nat-postrouting" in plan.shortfalls
    assert kernel.table is not None
    assert "nat-postrouting" not in kernel.table.rules

    kernel.is_refused = lambda line: False
    plan.replace_believed(read_table(kernel))
    drive(kernel, plan)
    assert plan.is_settled
    assert not plan.shortfalls
    assert "nat-postrouting" in kernel.table.rules


def test_limit_that_the_kernel_does_not_take_is_left_out_and_named_on_its_endpoints_alone() -> None:
    kernel, plan = FakeNft(), NftPlan(NftConfig())
    plan.replace_believed(KernelTable())
    kernel.is_refused = lambda line: "ct count" in line
    counted = replace(endpoint(1, _EMPTY, _EMPTY), limits=Limits(connections_in=5, packets_out=PacketRate(5, 5)))
    rated = replace(endpoint(2, _EMPTY, _EMPTY), limits=Limits(packets_out=PacketRate(5, 5)))
    plan.on_delta(DesiredDelta(endpoints={counted.key: counted, rated.key: rated}))
    drive(kernel, plan)
    assert plan.is_settled
    assert plan.is_enforced(counted.key)
    assert not plan.problems
    assert "Operation not supported" in plan.find_shortfall(counted)
    assert plan.find_shortfall(rated) == ""
    plan.on_delta(DesiredDelta(endpoints={counted.key: None}))
    assert not plan.shortfalls


def test_rate_per_source_that_the_kernel_does_not_take_is_named_on_endpoints_that_have_it_alone() -> None:
    kernel, plan = FakeNft(), NftPlan(NftConfig())
    plan.replace_believed(KernelTable())
    kernel.is_refused = lambda line: "update @" in line
    calm = replace(endpoint(1, _EMPTY, _EMPTY), limits=Limits(per_source=SourceRate(50, 100)))
    marked = replace(endpoint(2, _EMPTY, _EMPTY), limits=Limits(dscp=46, connections_in=5))
    plan.on_delta(DesiredDelta(endpoints={calm.key: calm, marked.key: marked}))
    drive(kernel, plan)
    assert plan.is_settled
    assert plan.is_enforced(calm.key)
    assert plan.find_shortfall(calm).startswith("not limited as wanted, the kernel refuses flood-50-100: ")
    assert plan.find_shortfall(marked) == ""
    kernel.is_refused = lambda line: False
    plan.replace_believed(read_table(kernel))
    drive(kernel, plan)
    assert plan.find_shortfall(calm) == ""


def test_cut_connections_are_read_as_written_and_go_without_a_trace(run: Run) -> None:
    addresses = ((4, "10.1.0.1", "10.9.0.1"), (6, "fd01::1", "fd09::1"))
    answers = [Packet(v, parse_address(a).value, parse_address(b).value, 6, 80, 40000) for v, a, b in addresses]

    def body(port: NftPort) -> None:
        plan = _started(NftConfig(), port)
        before = read_table(port)
        plan.cut(answers, 0.0)
        _drive(port, plan)
        restarted = NftPlan(NftConfig())
        restarted.replace_believed(read_table(port))
        restarted.cut((), 0.0)
        assert restarted.is_settled
        assert len(read_table(port).elements["cut6"]) == 1
        restarted.cut((), 10_000.0)
        _drive(port, restarted)
        assert read_table(port) == before

    run(body)
