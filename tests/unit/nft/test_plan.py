from __future__ import annotations

import dataclasses
from collections.abc import Callable

import pytest

from felix.calc.desired import (
    Action,
    CompiledPolicy,
    CompiledRule,
    DesiredDelta,
    EntityMatch,
    MemberDelta,
    SetRef,
    Stack,
    StackTier,
)
from felix.dataplane.nft.names import EGRESS, INGRESS, address_set, policy_chain, segment_chain, stack_chain
from felix.dataplane.nft.plan import NftPlan
from felix.dataplane.nft.read import read_table
from felix.dataplane.nft.types import ElementShape, KernelTable, NftConfig, ObjectName
from felix.errors import DataError
from felix.model.keys import ResourceKey
from felix.model.net import parse_net
from felix.policy.packet import Packet
from tests.model.fake_nft import FakeNft
from tests.model.nft_worlds import drive, endpoint

_A = ResourceKey("GlobalNetworkPolicy", "", "a")
_B = ResourceKey("GlobalNetworkPolicy", "", "b")
_ALLOW = CompiledPolicy((CompiledRule(Action.ALLOW),), ())
_PASS = CompiledPolicy((CompiledRule(Action.PASS),), ())
_TIERS = (StackTier("one", (_A,), Action.DENY), StackTier("two", (_B,), Action.DENY))
_STACK = Stack(_TIERS, ())
_EMPTY = Stack((), ())


def _plan(delta: DesiredDelta) -> NftPlan:
    plan = NftPlan(NftConfig())
    plan.replace_believed(KernelTable())
    plan.on_delta(delta)
    return plan


def _lines(plan: NftPlan) -> dict[str, tuple[str, ...]]:
    return dict(plan.plan_structure().chains)


def test_tier_behind_one_that_cannot_be_passed_is_left_out() -> None:
    one = endpoint(1, _STACK, _EMPTY)
    lines = _lines(_plan(DesiredDelta(policies={_A: _ALLOW, _B: _ALLOW}, endpoints={one.key: one})))
    assert policy_chain(INGRESS, _A) in lines
    assert policy_chain(INGRESS, _B) not in lines


def test_pass_leads_to_the_chain_of_the_remaining_tiers() -> None:
    one = endpoint(1, _STACK, _EMPTY)
    lines = _lines(_plan(DesiredDelta(policies={_A: _PASS, _B: _ALLOW}, endpoints={one.key: one})))
    rest = segment_chain(INGRESS, Stack(_TIERS[1:], ()))
    assert f" goto {rest} " in lines[stack_chain(INGRESS, _STACK)][1]
    assert lines[rest][0] == f"jump {policy_chain(INGRESS, _B)}"


def test_missing_policy_denies_and_its_arrival_rewrites_the_stack() -> None:
    one = endpoint(1, _STACK, _EMPTY)
    plan = _plan(DesiredDelta(policies={_A: _PASS}, endpoints={one.key: one}))
    rest = segment_chain(INGRESS, Stack(_TIERS[1:], ()))
    assert "missing" in _lines(plan)[rest][-1]
    kernel = FakeNft()
    drive(kernel, plan)
    plan.on_delta(DesiredDelta(policies={_B: _ALLOW}))
    assert set(_lines(plan)) == {rest, policy_chain(INGRESS, _B)}


def test_changed_rules_rewrite_one_chain() -> None:
    one = endpoint(1, _STACK, _EMPTY)
    plan = _plan(DesiredDelta(policies={_A: _ALLOW, _B: _ALLOW}, endpoints={one.key: one}))
    drive(FakeNft(), plan)
    plan.on_delta(DesiredDelta(policies={_A: CompiledPolicy((CompiledRule(Action.DENY),), ())}))
    assert set(_lines(plan)) == {policy_chain(INGRESS, _A)}


def test_policy_that_begins_to_pass_moves_into_its_stacks() -> None:
    one = endpoint(1, _STACK, _EMPTY)
    plan = _plan(DesiredDelta(policies={_A: _ALLOW, _B: _ALLOW}, endpoints={one.key: one}))
    kernel = FakeNft()
    drive(kernel, plan)
    plan.on_delta(DesiredDelta(policies={_A: _PASS}))
    drive(kernel, plan)
    assert kernel.table is not None
    assert policy_chain(INGRESS, _A) not in kernel.table.rules
    assert segment_chain(INGRESS, Stack(_TIERS[1:], ())) in kernel.table.rules
    assert plan.is_settled


def test_endpoints_with_one_stack_share_its_chains() -> None:
    ends = [endpoint(number, _STACK, _STACK) for number in range(10)]
    delta = DesiredDelta(policies={_A: _ALLOW, _B: _ALLOW}, endpoints={one.key: one for one in ends})
    names = set(_lines(_plan(delta)))
    assert names == {stack_chain(INGRESS, _STACK), stack_chain(EGRESS, _STACK), policy_chain(INGRESS, _A)}


@pytest.mark.parametrize("interface", ["", "eth0", "cali-much-too-long-name", "cali/0", "caliä" * 4])
def test_unusable_interface_is_reported_and_never_dispatched(interface: str) -> None:
    one = dataclasses.replace(endpoint(1, _EMPTY, _EMPTY), interface=interface)
    plan = _plan(DesiredDelta(endpoints={one.key: one}))
    kernel = FakeNft()
    drive(kernel, plan)
    assert list(plan.problems) == [one.key]
    assert not plan.is_enforced(one.key)
    plan.on_delta(DesiredDelta(endpoints={one.key: endpoint(1, _EMPTY, _EMPTY)}))
    drive(kernel, plan)
    assert not plan.problems
    assert plan.is_enforced(one.key)


def test_interface_that_changes_hands_in_one_delta_stays_claimed() -> None:
    one, two = endpoint(1, _EMPTY, _EMPTY), dataclasses.replace(endpoint(2, _EMPTY, _EMPTY), interface="cali1")
    plan = _plan(DesiredDelta(endpoints={one.key: one}))
    kernel = FakeNft()
    drive(kernel, plan)
    plan.on_delta(DesiredDelta(endpoints={two.key: two, one.key: None}))
    changes = {change.set: change for change in plan.plan_structure().dispatch}
    assert set(changes) == {"sources4", "sources6"}


def test_prefix_set_exists_while_it_has_members_or_is_named_with_prefixes() -> None:
    name = ObjectName("set", address_set("s", ElementShape.IPV4_RANGE))
    plan = _plan(DesiredDelta(sets={"s": True}, members={"s": MemberDelta({parse_net("10.0.0.0/8")})}))
    kernel = FakeNft()
    drive(kernel, plan)
    assert kernel.table is not None
    assert name in kernel.table.objects
    rule = CompiledRule(Action.ALLOW, source=EntityMatch(sets=(SetRef("s", True, False),)))
    plan.on_delta(DesiredDelta(policies={_A: CompiledPolicy((rule,), ())}))
    plan.on_delta(DesiredDelta(members={"s": MemberDelta(set(), {parse_net("10.0.0.0/8")})}))
    drive(kernel, plan)
    assert name in kernel.table.objects
    plan.on_delta(DesiredDelta(policies={_A: None}))
    drive(kernel, plan)
    assert kernel.table is not None
    assert name not in kernel.table.objects
    plan.on_delta(DesiredDelta(sets={"s": None}))
    drive(kernel, plan)
    assert not [one for one in kernel.table.objects if one[1].startswith(("a4", "a6", "n4", "n6"))]


def test_set_that_goes_and_comes_back_before_the_next_cycle_loses_stale_members_only() -> None:
    old, new = parse_net("10.0.0.1"), parse_net("10.0.0.2")
    plan = _plan(DesiredDelta(sets={"s": True}, members={"s": MemberDelta({old})}))
    drive(FakeNft(), plan)
    plan.on_delta(DesiredDelta(sets={"s": None}))
    plan.on_delta(DesiredDelta(sets={"s": True}, members={"s": MemberDelta({new})}))
    (change,) = plan.plan_fill().changes
    assert [element.key for element in change.removed] == [old.packed]
    assert [element.key for element in change.added] == [new.packed]
    assert not plan.plan_cleanup()


@pytest.mark.parametrize("prefixes", [(), ("",), ("cali*",), ('c"',), ("much-too-long-prefix",)])
def test_config_with_unusable_prefix_is_refused(prefixes: tuple[str, ...]) -> None:
    with pytest.raises(DataError):
        NftConfig(interface_prefixes=prefixes)


def _read_after(mischief: Callable[[KernelTable], None]) -> NftPlan:
    """Returns a new run's plan that has read the table of an endpoint's host after somebody's mischief."""
    one = endpoint(1, _STACK, _EMPTY)
    fake, before = FakeNft(), NftPlan(NftConfig())
    before.replace_believed(read_table(fake))
    before.on_delta(DesiredDelta(policies={_A: _ALLOW, _B: _ALLOW}, endpoints={one.key: one}))
    drive(fake, before)
    table = read_table(fake)
    mischief(table)
    plan = NftPlan(NftConfig())
    plan.replace_believed(table)
    return plan


def _sleep(table: KernelTable) -> None:
    table.is_plain = False


def _empty_hook(table: KernelTable) -> None:
    table.chains["forward-ingress"] = table.chains["forward-ingress"][:1]


def _empty_gate(table: KernelTable) -> None:
    table.chains["gate-source"] = ()


def _be_foreign(table: KernelTable) -> None:
    table.chains = {"old": ("type filter hook forward priority 0; policy accept;",)}
    table.objects[ObjectName("set", "sources4")] = ("type ipv4_addr",)


@pytest.mark.parametrize("mischief", [_sleep, _empty_hook, _empty_gate, _be_foreign])
def test_table_that_guards_nothing_is_mended_before_anything_is_known(
    mischief: Callable[[KernelTable], None],
) -> None:
    plan = _read_after(mischief)
    assert not plan.is_guarding
    fill = plan.plan_fill()
    assert fill.chains
    assert not fill.changes


def test_table_that_guards_is_left_alone_until_everything_is_known() -> None:
    def declare_otherwise(table: KernelTable) -> None:
        table.objects[ObjectName("set", "sources4")] = ("type ifname . ipv4_addr", 'comment "of another version"')

    assert not NftPlan(NftConfig()).is_guarding
    assert _read_after(lambda _: None).is_guarding
    assert not _read_after(lambda _: None).plan_fill()
    assert _read_after(declare_otherwise).is_guarding


def test_endpoint_whose_new_chains_are_refused_does_not_keep_its_former_ones() -> None:
    one, fake, plan = endpoint(1, _STACK, _EMPTY), FakeNft(), NftPlan(NftConfig())
    plan.replace_believed(read_table(fake))
    plan.on_delta(DesiredDelta(policies={_A: _ALLOW, _B: _ALLOW}, endpoints={one.key: one}))
    drive(fake, plan)
    assert plan.is_enforced(one.key)

    tiers = tuple(StackTier(f"t{number}", (_A,), Action.DENY) for number in range(20))
    deep = dataclasses.replace(one, ingress=Stack(tiers, ()))
    plan.on_delta(DesiredDelta(policies={_A: _PASS}, endpoints={one.key: deep}))
    results = drive(fake, plan)

    table = read_table(fake)
    assert not any(result.error for result in results)
    assert [table.elements[name] for name in ("dispatch-from", "dispatch-to", "claimed", "sources4")] == [{}] * 4
    assert "closed" in plan.problems[one.key].reason
    assert plan.is_settled


def test_chain_of_an_endpoint_that_was_emptied_lets_nothing_through() -> None:
    one, fake, plan = endpoint(1, _STACK, _EMPTY), FakeNft(), NftPlan(NftConfig())
    plan.replace_believed(read_table(fake))
    plan.on_delta(DesiredDelta(policies={_A: _ALLOW, _B: _ALLOW}, endpoints={one.key: one}))
    drive(fake, plan)
    for name in ("input", "forward-egress", "forward-ingress"):
        _, leads, stops = read_table(fake).chains[name]
        assert " jump gate-" in leads
        assert stops.endswith('counter name "denied" drop')


def test_staged_policy_that_the_kernel_refuses_is_not_tried_and_denies_nothing() -> None:
    staged = ResourceKey("StagedGlobalNetworkPolicy", "", "s")
    stack = Stack((StackTier("default", (staged, _A), Action.DENY),), ())
    one = endpoint(1, stack, _EMPTY)
    rules = CompiledPolicy((CompiledRule(Action.DENY, protocol=99),), ())
    plan = _plan(DesiredDelta(policies={staged: rules, _A: _ALLOW}, endpoints={one.key: one}))
    kernel = FakeNft()
    kernel.is_refused = lambda line: "meta l4proto 99" in line
    drive(kernel, plan)
    assert plan.is_settled
    address = one.addresses[0].value
    assert kernel.is_forwarded(Packet(4, 1, address, 99), "eth0", one.interface)
    assert [key for _, key, _ in plan.closed_chains()] == [staged]
