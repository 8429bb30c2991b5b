"""What the fake nf_tables and the real one have in common: each test runs on both."""

from __future__ import annotations

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from felix.calc.desired import (
    Action,
    CompiledPolicy,
    CompiledRule,
    DesiredDelta,
    EntityMatch,
    LocalEndpoint,
    MemberDelta,
    PortRange,
    SetRef,
    Stack,
    StackTier,
)
from felix.dataplane.nft.apply import Kernel, NftCalls, NftWorker, apply_structure, apply_teardown
from felix.dataplane.nft.base import CLAIMED, COUNTERS, FROM_WORKLOAD
from felix.dataplane.nft.elements import name_key
from felix.dataplane.nft.names import EGRESS, INGRESS, address_set, policy_chain, stack_chain
from felix.dataplane.nft.plan import NftPlan
from felix.dataplane.nft.read import read_counters, read_table
from felix.dataplane.nft.render import render_table
from felix.dataplane.nft.stack import CLOSED, closed_lines
from felix.dataplane.nft.types import (
    Count,
    Element,
    ElementShape,
    KernelTable,
    NftConfig,
    NftPort,
    ObjectName,
    SetChange,
    StructurePlan,
    TableWrite,
)
from felix.model.keys import ResourceKey
from felix.model.net import Net, parse_net
from tests.contract.conftest import Run
from tests.model.nft_worlds import drive, endpoint

WEB = ResourceKey("GlobalNetworkPolicy", "", "default.web")
OTHER = ResourceKey("GlobalNetworkPolicy", "", "default.other")
STACK = Stack((StackTier("default", (WEB,), Action.DENY),), ())
OTHER_STACK = Stack((StackTier("default", (OTHER,), Action.DENY),), ())
ALLOW = CompiledRule(Action.ALLOW)


def _allow_port(port: int) -> CompiledPolicy:
    match = EntityMatch(ports=(PortRange(port, port),))
    return CompiledPolicy((CompiledRule(Action.ALLOW, protocol=6, destination=match),), (ALLOW,))


def _started(*endpoints: LocalEndpoint) -> NftPlan:
    plan = NftPlan(NftConfig())
    plan.replace_believed(KernelTable())
    delta = DesiredDelta(policies={WEB: _allow_port(80), OTHER: _allow_port(81)})
    delta.endpoints.update({one.key: one for one in endpoints})
    plan.on_delta(delta)
    return plan


def _believed(port: NftPort, plan: NftPlan) -> None:
    """What the plan believes is what the kernel has: reading it changes nothing."""
    assert plan.is_settled
    plan.replace_believed(read_table(port))
    assert plan.is_settled


def test_endpoint_comes_changes_and_goes_leaving_nothing(run: Run) -> None:
    def body(port: NftPort) -> None:
        one, two = endpoint(1, STACK, STACK), endpoint(2, STACK, OTHER_STACK)
        plan = _started(one)
        drive(port, plan)
        _believed(port, plan)
        assert plan.is_enforced(one.key)
        plan.on_delta(DesiredDelta(endpoints={two.key: two}))
        drive(port, plan)
        _believed(port, plan)
        moved = LocalEndpoint(one.key, "cali9", two.addresses, None, OTHER_STACK, STACK, 2)
        plan.on_delta(DesiredDelta(endpoints={one.key: moved, two.key: None}))
        drive(port, plan)
        _believed(port, plan)
        plan.on_delta(DesiredDelta(endpoints={one.key: None}, policies={WEB: None, OTHER: None}))
        drive(port, plan)
        _believed(port, plan)
        empty = NftPlan(NftConfig())
        empty.replace_believed(read_table(port))
        assert empty.is_settled

    run(body)


def test_endpoint_with_known_stack_touches_no_structure(run: Run) -> None:
    def body(port: NftPort) -> None:
        plan = _started(endpoint(1, STACK, STACK))
        drive(port, plan)
        two = endpoint(2, STACK, STACK)
        plan.on_delta(DesiredDelta(endpoints={two.key: two}))
        assert not plan.plan_fill()
        structure = plan.plan_structure()
        assert structure.chains == ()
        assert sum(len(change.added) for change in structure.dispatch) == 5
        drive(port, plan)
        _believed(port, plan)

    run(body)


@pytest.mark.parametrize("present", [False, True])
def test_refused_rule_closes_its_chain_and_nothing_else(run: Run, present: bool) -> None:
    def body(port: NftPort) -> None:
        good = ("tcp dport 80 accept",)
        poison = ("ip saddr @no-such-set accept",)
        names = [f"policy-in-{number}" for number in range(9)]
        drive(port, _started())
        port.run(render_table((), [(name, good) for name in names] if present else ()))
        chains = tuple((name, poison if number == 5 else good) for number, name in enumerate(names))
        result = apply_structure(port, StructurePlan(chains, frozenset(names) if present else frozenset(), ()))
        assert not result.error
        assert list(result.closed) == ["policy-in-5"]
        assert sorted(result.chains) == sorted(set(names) - {"policy-in-5"})
        table = read_table(port)
        assert table.chains["policy-in-8"] == good
        assert table.chains["policy-in-5"] == CLOSED

    run(body)


def test_poisoned_policy_closes_its_endpoints_only_and_heals(run: Run) -> None:
    def body(port: NftPort) -> None:
        one, two = endpoint(1, STACK, STACK), endpoint(2, OTHER_STACK, OTHER_STACK)
        plan = _started(one, two)
        source = EntityMatch(sets=(SetRef("nowhere", False, False),))
        poisoned = CompiledPolicy((CompiledRule(Action.ALLOW, source=source),), (ALLOW,))
        plan.on_delta(DesiredDelta(policies={WEB: poisoned}))
        drive(port, plan)
        chain = policy_chain(INGRESS, WEB)
        assert plan.closed_chains() == [(chain, WEB, [one.key])]
        table = read_table(port)
        assert table.chains[chain] == CLOSED
        assert table.chains[policy_chain(INGRESS, OTHER)] != CLOSED
        assert plan.is_settled
        plan.on_delta(DesiredDelta(policies={WEB: _allow_port(80)}))
        drive(port, plan)
        assert plan.closed_chains() == []
        _believed(port, plan)

    run(body)


def test_too_deep_stack_closes_its_endpoint_only(run: Run) -> None:
    def body(port: NftPort) -> None:
        tiers = []
        delta = DesiredDelta()
        for number in range(20):
            key = ResourceKey("GlobalNetworkPolicy", "", f"pass{number}")
            delta.policies[key] = CompiledPolicy((CompiledRule(Action.PASS, protocol=6),), ())
            tiers.append(StackTier(f"t{number}", (key,), Action.DENY))
        good, deep = endpoint(1, STACK, STACK), endpoint(2, Stack(tuple(tiers), ()), STACK)
        plan = _started(good, deep)
        plan.on_delta(delta)
        for _ in range(3):
            drive(port, plan)
        assert plan.is_settled
        assert plan.is_enforced(good.key)
        assert not plan.is_enforced(deep.key)
        assert list(plan.problems) == [deep.key]
        table = read_table(port)
        assert name_key("cali1") in table.elements[FROM_WORKLOAD]
        assert name_key("cali2") not in table.elements[FROM_WORKLOAD]
        assert name_key("cali2") not in table.elements[CLAIMED]

    run(body)


def test_changed_stack_switches_its_element_in_one_transaction(run: Run) -> None:
    def body(port: NftPort) -> None:
        one = endpoint(1, STACK, STACK)
        plan = _started(one)
        drive(port, plan)
        moved = LocalEndpoint(one.key, one.interface, one.addresses, None, STACK, OTHER_STACK, 2)
        plan.on_delta(DesiredDelta(endpoints={one.key: moved}))
        (change,) = plan.plan_structure().dispatch
        assert change.set == FROM_WORKLOAD
        assert change.removed == (Element(name_key("cali1"), stack_chain(EGRESS, STACK)),)
        assert change.added == (Element(name_key("cali1"), stack_chain(EGRESS, OTHER_STACK)),)
        drive(port, plan)
        _believed(port, plan)

    run(body)


@pytest.mark.parametrize(
    "damage",
    [
        "flush chain inet felix gate-from",
        "flush chain inet felix forward-egress",
        "delete table inet felix",
        "add table inet felix\ntable inet felix {\n\tchain stranger {\n\t\taccept\n\t}\n}",
        "add table inet felix\ntable inet felix {\n\tset stranger {\n\t\ttype ipv4_addr\n\t}\n}",
        "add table inet felix\ntable inet felix {\n\tchain gate-to {\n\t\taccept\n\t}\n}",
        "add table inet felix\ndelete table inet felix\nadd table inet felix\n"
        "table inet felix {\n\tset claimed {\n\t\ttype ipv4_addr\n\t}\n}",
        "add table inet felix\ndelete table inet felix\nadd table inet felix\n"
        "table inet felix {\n\tchain output {\n\t\ttype filter hook input priority 0; policy accept;\n\t}\n}",
    ],
)
def test_damaged_table_is_repaired_to_what_it_was(run: Run, damage: str) -> None:
    def body(port: NftPort) -> None:
        plan = _started(endpoint(1, STACK, STACK), endpoint(2, OTHER_STACK, STACK))
        drive(port, plan)
        before = read_table(port)
        assert port.run(damage) == ""
        plan.replace_believed(read_table(port))
        assert not plan.is_settled
        drive(port, plan)
        _believed(port, plan)
        after = read_table(port)
        assert (after.chains, after.objects, after.elements) == (before.chains, before.objects, before.elements)

    run(body)


def test_foreign_elements_are_removed_and_missing_ones_restored(run: Run) -> None:
    def body(port: NftPort) -> None:
        plan = _started(endpoint(1, STACK, STACK))
        drive(port, plan)
        key = Element(name_key("cali1"))
        port.change([SetChange(CLAIMED, ElementShape.NAME, (key,), (Element(name_key("cali7")),))])
        plan.replace_believed(read_table(port))
        assert not plan.is_settled
        drive(port, plan)
        _believed(port, plan)

    run(body)


def test_stale_belief_is_noticed_and_asks_for_a_read(run: Run) -> None:
    def body(port: NftPort) -> None:
        one = endpoint(1, STACK, STACK)
        plan = _started(one)
        drive(port, plan)
        port.change([SetChange(CLAIMED, ElementShape.NAME, (Element(name_key("cali1")),), ())])
        plan.on_delta(DesiredDelta(endpoints={one.key: None}))
        assert any(result.needs_read for result in drive(port, plan))
        plan.replace_believed(read_table(port))
        drive(port, plan)
        _believed(port, plan)

    run(body)


def _covers(outer: Net, inner: Net) -> bool:
    return outer.version == inner.version and outer.value <= inner.value <= inner.last <= outer.last


@st.composite
def _disjoint_members(draw: st.DrawFn) -> set[Net]:
    """Yields prefixes of a small space, the outermost only, with single addresses beside and inside them."""
    members: set[Net] = set()
    for text in draw(
        st.lists(
            st.sampled_from(
                "0.0.0.0/0 0.0.0.0/1 128.0.0.0/1 224.0.0.0/3 10.0.0.0/8 10.0.0.0/24 10.0.1.0/24 10.0.2.0/23 "
                "255.255.255.254/31 0.0.0.0/31 ::/0 8000::/1 fd00::/64 fd00:0:0:1::/64 ffff::/16".split()
            ),
            max_size=8,
        )
    ):
        net = parse_net(text)
        if not any(_covers(other, net) for other in members):
            members = {other for other in members if not _covers(net, other)} | {net}
    singles = st.sampled_from("10.0.0.1 10.0.1.255 255.255.255.255 0.0.0.0 fd00::1 ffff::".split())
    return members | {parse_net(text) for text in draw(st.lists(singles, max_size=4))}


@pytest.mark.fv
@settings(max_examples=40, deadline=None, suppress_health_check=list(HealthCheck))
@given(steps=st.lists(_disjoint_members(), min_size=2, max_size=6))
def test_members_after_any_changes_are_what_the_real_kernel_has(worker: NftWorker, steps: list[set[Net]]) -> None:
    def body(port: NftPort) -> None:
        apply_teardown(port)
        plan = _started()
        plan.on_delta(DesiredDelta(sets={"s": True}))
        members: set[Net] = set()
        for wanted in steps:
            plan.on_delta(DesiredDelta(members={"s": MemberDelta(wanted - members, members - wanted)}))
            members = wanted
            for result in drive(port, plan):
                assert not result.refused
                assert not result.error
            _believed(port, plan)
            table = read_table(port)
            names = [address_set("s", shape) for shape in list(ElementShape)[:4]]
            assert sum(len(table.elements.get(name, ())) for name in names) == len(members)

    worker.call_blocking(body)


@pytest.mark.fv
def test_many_members_go_in_by_bounded_transactions(worker: NftWorker) -> None:
    def body(port: NftPort) -> None:
        apply_teardown(port)
        plan = _started()
        singles = {Net(4, 0x0A000000 + number, 32) for number in range(50_000)}
        plan.on_delta(DesiredDelta(sets={"s": True}, members={"s": MemberDelta(singles, set())}))
        drive(port, plan)
        _believed(port, plan)
        assert len(read_table(port).elements[address_set("s", ElementShape.IPV4)]) == 50_000

    worker.call_blocking(body)


@pytest.mark.fv
def test_hundred_thousand_members_and_all_addresses_around_them_come_and_go(worker: NftWorker) -> None:
    def body(port: NftPort) -> None:
        apply_teardown(port)
        plan = _started()
        plan.on_delta(DesiredDelta(sets={"s": True}))
        singles = {Net(4, 0x0A000000 + number, 32) for number in range(50_000)}
        prefixes = {Net(4, 0x0B000000 + (number << 8), 25) for number in range(50_000)}
        everything = {parse_net("0.0.0.0/0")}
        none: set[Net] = set()
        steps = ((singles | prefixes, none), (everything, prefixes), (prefixes, everything), (none, singles | prefixes))
        for added, removed in steps:
            plan.on_delta(DesiredDelta(members={"s": MemberDelta(set(added), set(removed))}))
            results = drive(port, plan)
            assert not any(result.refused or result.error for result in results)
            assert plan.is_settled
        _believed(port, plan)

    worker.call_blocking(body)


def test_counter_that_a_rule_counts_into_cannot_go_and_others_come_and_go_at_once(run: Run) -> None:
    def body(port: NftPort) -> None:
        plan = _started(endpoint(1, STACK, STACK))
        drive(port, plan)
        (used, *_) = plan.counted_by_name
        assert port.set_counters(["one", "two"], []) == ""
        assert port.set_counters(["three"], [used]) != ""
        assert port.set_counters(["three"], ["none"]) != ""
        counts = read_counters(port)
        assert {"one", "two", used} <= counts.keys()
        assert "three" not in counts
        assert port.set_counters(["three"], ["one", "two"]) == ""
        assert counts.keys() ^ read_counters(port).keys() == {"one", "two", "three"}

    run(body)


def test_counters_of_a_policy_follow_its_rules_and_go_with_it(run: Run) -> None:
    def body(port: NftPort) -> None:
        plan = _started(endpoint(1, STACK, STACK))
        drive(port, plan)
        before = set(plan.counted_by_name)
        plan.on_delta(DesiredDelta(policies={WEB: CompiledPolicy((CompiledRule(Action.DENY),), (ALLOW,))}))
        drive(port, plan)
        _believed(port, plan)
        gone, new = before - plan.counted_by_name.keys(), plan.counted_by_name.keys() - before
        assert ({name[:9] for name in gone}, {name[:8] for name in new}) == ({"in-allow-"}, {"in-deny-"})
        assert read_counters(port).keys() == {*COUNTERS, *plan.counted_by_name}
        one = endpoint(1, STACK, STACK)
        plan.on_delta(DesiredDelta(endpoints={one.key: None}, policies={WEB: None, OTHER: None}))
        drive(port, plan)
        _believed(port, plan)
        assert read_counters(port).keys() == set(COUNTERS)

    run(body)


def test_counters_are_read_by_name(run: Run) -> None:
    def body(port: NftPort) -> None:
        plan = _started()
        drive(port, plan)
        assert read_counters(port) == {name: Count(0, 0) for name in (*COUNTERS, *plan.counted_by_name)}

    run(body)


def test_object_of_stranger_with_our_name_and_other_kind_is_replaced(run: Run) -> None:
    def body(port: NftPort) -> None:
        port.run("add table inet felix\ntable inet felix {\n\tmap claimed {\n\t\ttype ifname : verdict\n\t}\n}")
        plan = _started(endpoint(1, STACK, STACK))
        plan.replace_believed(read_table(port))
        drive(port, plan)
        _believed(port, plan)
        assert ObjectName("set", "claimed") in read_table(port).objects

    run(body)


@pytest.mark.fv
def test_chain_of_which_more_is_refused_than_there_is_room_to_say_is_closed_alone(worker: NftWorker) -> None:
    def body(port: NftPort) -> None:
        kernel = Kernel(NftCalls(), buffer_bytes=1 << 16)
        try:
            drive(kernel, _started())
            bad = ("policy-in-bad", ("goto nowhere",) * 500)
            good = ("policy-in-good", ("ip saddr 192.0.2.1 accept",))
            result = apply_structure(kernel, StructurePlan((bad, good), frozenset(), (), ()))
            assert (result.error, list(result.closed), result.chains) == ("", ["policy-in-bad"], ["policy-in-good"])
            chains = read_table(port).chains
            assert chains["policy-in-bad"] == closed_lines("policy-in-bad")
            assert chains["policy-in-good"] == good[1]
            assert kernel.write(TableWrite(chains=(good,))) is None  # what is left of the answers is in nobody's way
        finally:
            kernel.close()

    worker.call_blocking(apply_teardown)
    worker.call_blocking(body)
