"""Which addresses are flushed, and when."""

from __future__ import annotations

from felix.dataplane.conntrack.plan import ConntrackPlan
from felix.dataplane.conntrack.types import ConntrackResult
from felix.model.net import parse_address
from tests.support.desired import endpoint_key, local_endpoint

ONE = parse_address("10.1.0.1")
TWO = parse_address("fd01::2")


def plan_with(*addresses: str) -> ConntrackPlan:
    plan = ConntrackPlan()
    endpoint = local_endpoint("a", "calia", *addresses)
    plan.on_delta({endpoint.key: endpoint})
    return plan


def test_new_endpoint_or_same_again_flushes_nothing() -> None:
    plan = plan_with("10.1.0.1", "fd01::2")
    plan.on_delta({endpoint_key("a"): local_endpoint("a", "calia", "fd01::2", "10.1.0.1", mac="02:00:00:00:00:01")})
    assert plan.plan() == frozenset()


def test_lost_address_is_flushed_once() -> None:
    plan = plan_with("10.1.0.1", "fd01::2")
    plan.on_delta({endpoint_key("a"): local_endpoint("a", "calia", "10.1.0.1")})
    planned = plan.plan()
    assert planned == {TWO}
    plan.absorb(planned, ConntrackResult(3))
    assert plan.plan() == frozenset()


def test_endpoint_gone_or_moved_to_other_interface_is_flushed() -> None:
    plan = plan_with("10.1.0.1", "fd01::2")
    plan.on_delta({endpoint_key("a"): local_endpoint("a", "calib", "10.1.0.1")})
    assert plan.plan() == {ONE, TWO}
    other = plan_with("10.1.0.1")
    other.on_delta({endpoint_key("a"): None})
    assert other.plan() == {ONE}


def test_address_passed_to_other_endpoint_in_one_delta_is_flushed() -> None:
    plan = plan_with("10.1.0.1")
    taker = local_endpoint("b", "calib", "10.1.0.1")
    plan.on_delta({taker.key: taker, endpoint_key("a"): None})
    assert plan.plan() == {ONE}


def test_what_came_while_a_flush_ran_is_left_for_the_next() -> None:
    plan = plan_with("10.1.0.1", "fd01::2")
    plan.on_delta({endpoint_key("a"): local_endpoint("a", "calia", "10.1.0.1")})
    planned = plan.plan()
    plan.on_delta({endpoint_key("a"): None})
    plan.absorb(planned, ConntrackResult(0, "no table"))
    assert plan.plan() == {ONE}
    assert plan.reason == "no table"


def test_address_lost_again_while_its_flush_ran_is_flushed_again() -> None:
    plan = plan_with("10.1.0.1")
    plan.on_delta({endpoint_key("a"): None})
    planned = plan.plan()
    plan.on_delta({endpoint_key("a"): local_endpoint("a", "calia", "10.1.0.1")})
    plan.on_delta({endpoint_key("a"): None})
    plan.absorb(planned, ConntrackResult(1))
    assert plan.plan() == {ONE}
