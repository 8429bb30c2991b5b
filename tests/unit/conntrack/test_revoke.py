"""Whose connections are looked at after which change."""

from __future__ import annotations

import dataclasses

from felix.calc.desired import (
    ALL_INTERFACES,
    Action,
    CompiledPolicy,
    CompiledRule,
    DesiredDelta,
    EntityMatch,
    HostStacks,
    LocalEndpoint,
    MemberDelta,
    PortDelta,
    PortMember,
    SetRef,
    Stack,
    StackTier,
)
from felix.dataplane.conntrack.revoke import RevocationPlan
from felix.model.keys import ResourceKey
from felix.model.net import Net, parse_address, parse_net
from tests.model.host_worlds import make_host_endpoint
from tests.support.desired import NO_STACK, local_endpoint

PROFILE = ResourceKey("Profile", "", "p")
POLICY = ResourceKey("GlobalNetworkPolicy", "", "guard")
DENY_ALL = CompiledPolicy((), ())
MINE = parse_address("10.1.0.1")
PEER = parse_address("10.9.0.1")


def rule(action: Action, *, is_negative: bool = False) -> CompiledRule:
    sets = (SetRef("s", nets4=False, nets6=False),)
    return CompiledRule(action, source=EntityMatch(not_sets=sets) if is_negative else EntityMatch(sets=sets))


def endpoint_with_profile() -> LocalEndpoint:
    return dataclasses.replace(local_endpoint("a", "calia", "10.1.0.1"), ingress=Stack((), (PROFILE,)))


def settled_plan(*rules: CompiledRule) -> RevocationPlan:
    plan = RevocationPlan()
    one = endpoint_with_profile()
    delta = DesiredDelta(sets={"s": True}, policies={PROFILE: CompiledPolicy(rules, ())}, endpoints={one.key: one})
    plan.on_delta(delta, delta.endpoints)
    plan.commit()
    assert plan.take() == frozenset({MINE})
    return plan


def looked_at(plan: RevocationPlan, delta: DesiredDelta) -> set[Net] | None:
    """Returns whose connections a change makes due; None: everybody's."""
    plan.on_delta(delta, delta.endpoints)
    plan.commit()
    due = plan.take() if plan.has_due else frozenset()
    return None if due is None else set(due)


def moved(*, added: tuple[Net, ...] = (), removed: tuple[Net, ...] = ()) -> DesiredDelta:
    return DesiredDelta(members={"s": MemberDelta(set(added), set(removed))})


def test_member_that_comes_to_an_allow_or_goes_from_a_deny_concerns_nobody() -> None:
    assert not looked_at(settled_plan(rule(Action.ALLOW)), moved(added=(PEER,)))
    assert not looked_at(settled_plan(rule(Action.DENY)), moved(removed=(PEER,)))
    assert not looked_at(settled_plan(rule(Action.LOG)), moved(added=(PEER,), removed=(MINE,)))


def test_member_that_goes_from_an_allow_or_comes_to_a_deny_is_looked_at_alone() -> None:
    assert looked_at(settled_plan(rule(Action.ALLOW)), moved(removed=(PEER,))) == {PEER}
    assert looked_at(settled_plan(rule(Action.DENY)), moved(added=(PEER,))) == {PEER}
    assert looked_at(settled_plan(rule(Action.PASS)), moved(added=(PEER,))) == {PEER}


def test_negated_selector_turns_the_question_round() -> None:
    assert looked_at(settled_plan(rule(Action.ALLOW, is_negative=True)), moved(added=(PEER,))) == {PEER}
    assert not looked_at(settled_plan(rule(Action.ALLOW, is_negative=True)), moved(removed=(PEER,)))


def test_prefix_or_many_members_concern_the_endpoints() -> None:
    plan = settled_plan(rule(Action.ALLOW))
    assert looked_at(plan, moved(removed=(parse_net("10.9.0.0/16"),))) == {MINE}
    many = tuple(Net(4, number, 32) for number in range(1000))
    assert looked_at(plan, moved(removed=many)) == {MINE}


def test_named_port_that_an_endpoint_loses_concerns_its_address() -> None:
    ports = CompiledRule(Action.ALLOW, protocol=6, destination=EntityMatch(port_sets=("http@x",)))
    plan = settled_plan(ports)
    delta = DesiredDelta(port_members={"http@x": PortDelta(removed={PortMember(PEER, 6, 80)})})
    assert looked_at(plan, delta) == {PEER}


def test_changed_policy_concerns_its_endpoints_and_another_one_nobody() -> None:
    plan = settled_plan(rule(Action.ALLOW))
    assert looked_at(plan, DesiredDelta(policies={PROFILE: CompiledPolicy((), ())})) == {MINE}
    other = ResourceKey("Profile", "", "other")
    assert not looked_at(plan, DesiredDelta(policies={other: CompiledPolicy((), ())}))


def test_endpoint_with_other_stack_or_address_is_looked_at_and_one_with_other_mac_not() -> None:
    plan = settled_plan(rule(Action.ALLOW))
    one = endpoint_with_profile()
    assert not looked_at(plan, DesiredDelta(endpoints={one.key: dataclasses.replace(one, mac="02:00:00:00:00:01")}))
    assert looked_at(plan, DesiredDelta(endpoints={one.key: dataclasses.replace(one, ingress=NO_STACK)})) == {MINE}
    assert not looked_at(plan, DesiredDelta(endpoints={one.key: None}))


def test_nothing_is_due_before_the_kernel_has_the_change() -> None:
    plan = settled_plan(rule(Action.ALLOW))
    plan.on_delta(DesiredDelta(policies={PROFILE: CompiledPolicy((), ())}), {})
    assert not plan.has_due
    plan.commit()
    assert plan.take() == frozenset({MINE})
    plan.put_back({MINE})
    assert plan.take() == frozenset({MINE})


def test_table_that_was_another_one_makes_everybody_due() -> None:
    plan = settled_plan(rule(Action.ALLOW))
    plan.note_all()
    plan.commit()
    assert plan.take() == frozenset({MINE})
    assert not plan.has_due


def guarded_plan(*rules: CompiledRule, is_early: bool = False) -> RevocationPlan:
    """A settled plan with a host endpoint that has the policy; is_early: before translation."""
    plan = settled_plan(*rules)
    tiers = (StackTier("default", (POLICY,), Action.PASS),)
    stacks = HostStacks(NO_STACK, NO_STACK, pre_dnat=Stack(tiers, (), Action.PASS))
    if not is_early:
        stacks = HostStacks(Stack(tiers, ()), NO_STACK)
    plan.on_delta(DesiredDelta(policies={POLICY: CompiledPolicy(rules, ())}), {})
    plan.on_hosts({"eth0": make_host_endpoint("eth0", stacks)})
    plan.commit()
    assert plan.take() is None
    return plan


def test_policy_of_a_host_endpoint_that_changes_concerns_everybody_and_others_do_not() -> None:
    plan = guarded_plan(rule(Action.ALLOW))
    assert looked_at(plan, DesiredDelta(policies={POLICY: DENY_ALL})) is None
    assert looked_at(plan, DesiredDelta(policies={PROFILE: DENY_ALL})) == {MINE}
    other = ResourceKey("GlobalNetworkPolicy", "", "other")
    assert not looked_at(plan, DesiredDelta(policies={other: DENY_ALL}))


def test_member_that_goes_from_an_allow_of_a_host_endpoint_is_looked_at_alone() -> None:
    plan = guarded_plan(rule(Action.ALLOW))
    assert looked_at(plan, moved(removed=(PEER,))) == {PEER}
    assert not looked_at(plan, moved(added=(PEER,)))
    assert looked_at(plan, moved(removed=(parse_net("10.9.0.0/16"),))) is None


def test_member_of_policy_before_translation_concerns_everybody_if_it_can_deny() -> None:
    plan = guarded_plan(rule(Action.ALLOW), is_early=True)
    assert not looked_at(plan, moved(added=(PEER,)))
    assert looked_at(plan, moved(removed=(PEER,))) is None


def test_host_endpoint_that_is_told_again_or_leaves_nothing_behind_concerns_nobody() -> None:
    plan = guarded_plan()
    same = make_host_endpoint("eth0", HostStacks(NO_STACK, NO_STACK))
    for told, has_due in ((same, True), (same, False), (None, False)):
        plan.on_hosts({"eth0": told})
        plan.commit()
        assert plan.has_due is has_due
        plan.take()
    assert not looked_at(plan, DesiredDelta(policies={POLICY: DENY_ALL}))


def test_host_endpoint_that_goes_concerns_everybody_if_there_is_one_for_all_interfaces() -> None:
    plan = guarded_plan()
    plan.on_hosts({ALL_INTERFACES: make_host_endpoint(ALL_INTERFACES, HostStacks(NO_STACK, NO_STACK))})
    plan.commit()
    plan.take()
    plan.on_hosts({"eth0": None})
    assert not plan.has_due
    plan.commit()
    assert plan.take() is None
    plan.put_back(None)
    assert plan.take() is None
    assert not plan.has_due


def test_table_that_was_another_one_makes_everybody_due_where_there_are_host_endpoints() -> None:
    plan = guarded_plan()
    plan.note_all()
    plan.commit()
    assert plan.take() is None
    assert not plan.has_due


def test_spoofed_sources_are_looked_at_where_they_count() -> None:
    one = endpoint_with_profile()
    for spoofed, seen in (((PEER,), {MINE, PEER}), ((parse_net("10.9.0.0/16"),), None)):
        for allows, expected in ((True, seen), (False, {MINE})):
            plan = RevocationPlan(allows_spoofing=allows)
            plan.commit()
            plan.take()
            delta = DesiredDelta(endpoints={one.key: dataclasses.replace(one, spoofed=spoofed)})
            assert looked_at(plan, delta) == expected
            assert looked_at(plan, DesiredDelta(policies={PROFILE: DENY_ALL})) == expected
