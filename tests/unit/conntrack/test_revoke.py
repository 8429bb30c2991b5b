"""Whose connections are looked at after which change."""

from __future__ import annotations

import dataclasses

from felix.calc.desired import (
    Action,
    CompiledPolicy,
    CompiledRule,
    DesiredDelta,
    EntityMatch,
    LocalEndpoint,
    MemberDelta,
    PortDelta,
    PortMember,
    SetRef,
    Stack,
)
from felix.dataplane.conntrack.revoke import RevocationPlan
from felix.model.keys import ResourceKey
from felix.model.net import Net, parse_address, parse_net
from tests.support.desired import NO_STACK, local_endpoint

PROFILE = ResourceKey("Profile", "", "p")
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
    assert plan.take() == {MINE}
    return plan


def looked_at(plan: RevocationPlan, delta: DesiredDelta) -> frozenset[Net]:
    plan.on_delta(delta, delta.endpoints)
    plan.commit()
    return plan.take() if plan.has_due else frozenset()


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
    assert plan.take() == {MINE}
    plan.put_back({MINE})
    assert plan.take() == {MINE}


def test_table_that_was_another_one_makes_everybody_due() -> None:
    plan = settled_plan(rule(Action.ALLOW))
    plan.note_all()
    plan.commit()
    assert plan.take() == {MINE}
    assert not plan.has_due
