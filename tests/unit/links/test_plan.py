"""What a plan for links contains, without any kernel."""

from __future__ import annotations

import pytest

from felix.dataplane.links.plan import LinkPlan
from felix.dataplane.links.render import is_safe_name
from felix.dataplane.links.types import (
    HOST,
    Link,
    LinkConfig,
    LinkGone,
    LinkPlanned,
    LinkResult,
    LinkState,
    NeighbourEvent,
    NeighbourKey,
    NeighbourValue,
    SettingEvent,
)
from felix.dataplane.netlink.message import Refusal
from felix.model.net import parse_address
from tests.support.desired import endpoint_key, local_endpoint

MAC = "02:00:00:00:00:0a"
VALUE = NeighbourValue(bytes.fromhex("02000000000a"), True)
KEY = NeighbourKey(5, parse_address("10.1.0.1"))
UP = Link(5, "calia", True, True, b"\xee" * 6)
DOWN = Link(5, "calia", False, False, b"\xee" * 6)


def plan_with(*links: Link, has_host_forwarding: bool = False) -> LinkPlan:
    plan = LinkPlan(LinkConfig(has_host_forwarding=has_host_forwarding), write_port=77)
    endpoint = local_endpoint("a", "calia", "10.1.0.1", mac=MAC)
    plan.on_delta({endpoint.key: endpoint})
    plan.start_read()
    plan.replace_believed(links, ())
    return plan


def carry_out(plan: LinkPlan) -> LinkPlanned:
    planned = plan.plan(may_delete=True)
    result = LinkResult({}, (), (None,) * len(planned.neighbours), (None,) * len(planned.stale_neighbours))
    plan.absorb(planned, result)
    return planned


def test_plan_before_first_read_is_empty() -> None:
    plan = LinkPlan(LinkConfig())
    assert not plan.plan(may_delete=True)
    assert not plan.is_settled


def test_plan_for_interface_that_is_up_holds_settings_and_neighbour_once() -> None:
    plan = plan_with(UP, has_host_forwarding=True)
    planned = carry_out(plan)
    assert [settings.link for settings in planned.settings] == [HOST, 5]
    assert planned.neighbours == ((KEY, VALUE),)
    assert not plan.plan(may_delete=True)
    assert plan.is_settled


def test_plan_for_interface_that_is_down_or_absent_is_empty() -> None:
    assert not plan_with(DOWN).plan(may_delete=True)
    assert not plan_with().plan(may_delete=True)


def test_interface_that_changed_while_being_written_is_verified_again() -> None:
    plan = plan_with(UP)
    planned = plan.plan(may_delete=True)
    plan.on_event(DOWN)
    plan.on_event(UP)
    plan.absorb(planned, LinkResult({}, (), (None,), ()))
    again = plan.plan(may_delete=True)
    assert [settings.link for settings in again.settings] == [5]
    assert again.neighbours == ((KEY, VALUE),)


def test_failed_settings_wait_for_the_interface_or_a_retry() -> None:
    plan = plan_with(UP)
    planned = plan.plan(may_delete=True)
    plan.absorb(planned, LinkResult({5: "read-only"}, (), (Refusal(100, "down"),), ()))
    assert plan.reason_by_interface["calia"]
    assert plan.failed_count == 2
    assert plan.is_settled
    assert not plan.plan(may_delete=True)
    plan.retry_failed()
    assert plan.plan(may_delete=True) == planned
    plan.absorb(planned, LinkResult({5: "read-only"}, (), (Refusal(100, "down"),), ()))
    plan.on_event(DOWN)
    plan.on_event(UP)
    assert plan.plan(may_delete=True) == planned


def test_echo_of_own_write_is_no_news_and_foreign_change_is() -> None:
    plan = plan_with(UP)
    carry_out(plan)
    plan.on_event(NeighbourEvent(KEY, None, port=77))
    assert plan.is_settled
    plan.on_event(NeighbourEvent(KEY, None, port=5))
    assert plan.plan(may_delete=True).neighbours == ((KEY, VALUE),)


def test_switch_event_that_says_what_is_wanted_causes_no_work() -> None:
    plan = plan_with(UP)
    carry_out(plan)
    plan.on_event(SettingEvent(5, True))
    assert plan.is_settled
    plan.on_event(SettingEvent(5, False))
    assert [settings.link for settings in plan.plan(may_delete=True).settings] == [5]


def test_events_during_a_read_count_more_than_what_was_read() -> None:
    plan = plan_with(UP)
    carry_out(plan)
    plan.start_read()
    plan.on_event(LinkGone(5))
    plan.replace_believed([UP], [(KEY, VALUE)])
    assert plan.find_link("calia") is None
    assert plan.is_settled


def test_states_are_told_once_per_change() -> None:
    plan = plan_with(UP)
    assert plan.pop_states() == {endpoint_key("a"): LinkState.UP}
    plan.on_event(Link(5, "calia", True, True, b""))
    assert plan.pop_states() == {}
    plan.on_event(Link(5, "calia", True, False, b""))
    assert plan.pop_states() == {endpoint_key("a"): LinkState.DOWN}
    plan.on_event(Link(5, "other", True, True, b""))
    assert plan.pop_states() == {endpoint_key("a"): LinkState.ABSENT}


def test_name_taken_by_new_index_before_the_old_end_was_told_belongs_to_the_new() -> None:
    plan = plan_with(UP)
    carry_out(plan)
    plan.on_event(Link(9, "calia", True, True, b""))
    assert [settings.link for settings in carry_out(plan).settings] == [9]
    plan.on_event(LinkGone(5))
    assert plan.is_settled
    link = plan.find_link("calia")
    assert link is not None
    assert link.index == 9


def test_of_two_claims_on_an_interface_the_lowest_key_counts() -> None:
    plan = plan_with(UP)
    plan.on_delta({endpoint_key("0"): local_endpoint("0", "calia", "10.1.0.2", mac=MAC)})
    assert [key.address.address for key, _ in carry_out(plan).neighbours] == ["10.1.0.2"]
    plan.on_delta({endpoint_key("0"): None})
    planned = carry_out(plan)
    assert [key.address.address for key, _ in planned.neighbours] == ["10.1.0.1"]
    assert [key.address.address for key in planned.stale_neighbours] == ["10.1.0.2"]


@pytest.mark.parametrize("name", ["all", "default", ".", "..", "lo", "a/b", "a b", "", "sixteencharacter", "x\n"])
def test_names_that_do_not_mean_one_interface_are_not_safe(name: str) -> None:
    assert not is_safe_name(name)


def test_unsafe_name_is_reported_and_gets_no_settings() -> None:
    plan = plan_with(Link(8, "default", True, True, b""))
    endpoint = local_endpoint("b", "default", "10.1.0.7", mac=MAC)
    plan.on_delta({endpoint.key: endpoint})
    assert not plan.plan(may_delete=True)
    assert "default" in plan.reason_by_interface
