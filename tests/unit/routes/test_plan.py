"""Single situations of the route plan: races between writing, reading and the news."""

from __future__ import annotations

from felix.dataplane.netlink.message import Refusal
from felix.dataplane.routes.plan import RoutePlan
from felix.dataplane.routes.types import (
    RTN_BLACKHOLE,
    RTN_UNICAST,
    SCOPE_LINK,
    SCOPE_UNIVERSE,
    Hop,
    RouteConfig,
    RouteEvent,
    RouteKey,
    RouteOperation,
    RouteResult,
    RouteValue,
    Verb,
)
from felix.model.net import parse_net
from tests.support.desired import endpoint_key, local_endpoint

KEY = RouteKey(parse_net("10.1.0.1"), 0)
VALUE = RouteValue(RTN_UNICAST, SCOPE_LINK, 5)
OTHER = RouteValue(RTN_UNICAST, SCOPE_LINK, 6)
REPLACE = (RouteOperation(Verb.REPLACE, KEY, VALUE),)
DONE = RouteResult((None,))


def removed(port: int = 9) -> RouteEvent:
    return RouteEvent(False, False, True, port, KEY, VALUE)


def plan_with(*routes: tuple[RouteKey, RouteValue]) -> RoutePlan:
    """A plan that wants 10.1.0.1 on calia (5, up) and has read `routes`."""
    plan = RoutePlan(RouteConfig(), write_port=77)
    plan.replace_links([(5, "calia", True), (6, "calib", True)])
    plan.on_delta({endpoint_key("a"): local_endpoint("a", "calia", "10.1.0.1")}, {})
    plan.start_read()
    plan.replace_believed(routes)
    return plan


def test_plan_before_first_read_is_empty() -> None:
    plan = RoutePlan(RouteConfig())
    plan.on_delta({}, {parse_net("10.1.0.0/26"): True})
    assert plan.plan_removals(True) == plan.plan_additions(True) == ()
    assert plan.needs_read


def test_what_is_already_right_is_not_written() -> None:
    plan = plan_with((KEY, VALUE))
    assert plan.plan_additions(True) == ()
    assert plan.is_settled


def test_route_removed_by_somebody_while_it_was_being_written_is_written_again() -> None:
    plan = plan_with()
    planned = plan.plan_additions(True)
    assert planned == REPLACE
    assert plan.on_route(removed())
    plan.absorb(planned, DONE)
    assert plan.plan_additions(True) == REPLACE


def test_link_that_flapped_while_its_route_was_being_written_gets_it_again() -> None:
    plan = plan_with()
    planned = plan.plan_additions(True)
    plan.on_link(5, "calia", False)
    plan.on_link(5, "calia", True)
    plan.absorb(planned, DONE)
    assert plan.plan_additions(True) == REPLACE


def test_link_that_flapped_during_a_read_gets_its_routes_again() -> None:
    plan = plan_with((KEY, VALUE))
    plan.start_read()
    plan.on_link(5, "calia", False)
    plan.on_link(5, "calia", True)
    plan.replace_believed([(KEY, VALUE)])  # perhaps read before the flap
    assert plan.plan_additions(True) == REPLACE


def test_late_echo_of_own_write_changes_nothing() -> None:
    plan = plan_with()
    plan.absorb(plan.plan_additions(True), DONE)
    plan.on_delta({endpoint_key("a"): None}, {})
    plan.absorb(plan.plan_removals(True), DONE)
    assert not plan.on_route(RouteEvent(True, False, True, 77, KEY, VALUE))
    assert plan.is_settled


def test_events_lost_during_a_read_make_it_count_for_nothing() -> None:
    plan = plan_with((KEY, VALUE))
    plan.start_read()
    plan.mark_unknown()
    plan.replace_believed([])
    assert plan.needs_read


def test_name_taken_by_new_index_before_the_old_end_was_told_moves_the_route() -> None:
    plan = plan_with((KEY, VALUE))
    plan.on_link(9, "calia", True)
    moved = (RouteOperation(Verb.REPLACE, KEY, VALUE._replace(interface=9)),)
    assert plan.plan_additions(True) == moved
    plan.absorb(moved, DONE)
    plan.on_link_gone(5)
    assert plan.is_settled


def test_foreign_route_in_place_of_ours_is_replaced_and_elsewhere_is_not_ours() -> None:
    plan = plan_with((KEY, VALUE))
    assert plan.on_route(RouteEvent(True, True, False, 9, KEY, OTHER))
    assert plan.plan_additions(True) == REPLACE
    settled = plan_with((KEY, VALUE))
    elsewhere = RouteKey(parse_net("10.77.0.0/16"), 0)
    assert not settled.on_route(RouteEvent(True, True, False, 9, elsewhere, OTHER))
    assert settled.is_settled


def test_two_routes_at_one_key_lose_the_wrong_one_first_and_only_with_permission() -> None:
    plan = plan_with((KEY, OTHER), (KEY, VALUE))
    assert plan.plan_additions(may_delete=False) == ()
    assert plan.plan_additions(may_delete=True) == (RouteOperation(Verb.DELETE, KEY, OTHER),)


def test_refused_route_waits_for_a_change_of_its_interface_or_a_retry() -> None:
    plan = plan_with()
    refused = RouteResult((Refusal(13, "no"),))
    plan.absorb(plan.plan_additions(True), refused)
    assert plan.plan_additions(True) == ()
    assert dict(plan.refusal_by_key) == {KEY: 13}
    plan.retry_failed()
    assert plan.plan_additions(True) == REPLACE
    plan.absorb(REPLACE, refused)
    plan.on_link(5, "calia", False)
    plan.on_link(5, "calia", True)
    assert plan.plan_additions(True) == REPLACE


def test_of_two_claims_on_an_address_the_lowest_key_counts_in_any_order() -> None:
    first, second = local_endpoint("a", "calia", "10.1.0.1"), local_endpoint("b", "calib", "10.1.0.1")
    for order in ((first, second), (second, first)):
        plan = plan_with()
        plan.on_delta({endpoint_key("a"): None}, {})
        for endpoint in order:
            plan.on_delta({endpoint.key: endpoint}, {})
        assert plan.plan_additions(True) == REPLACE
        plan.absorb(REPLACE, DONE)
        plan.on_delta({first.key: None}, {})
        assert plan.plan_removals(True) == ()
        assert plan.plan_additions(True) == (RouteOperation(Verb.REPLACE, KEY, OTHER),)


def test_link_that_went_during_a_read_stays_gone_whatever_was_read() -> None:
    plan = plan_with((KEY, VALUE))
    plan.start_read()
    plan.on_link_gone(5)
    plan.replace_links([(5, "calia", True), (6, "calib", True)])
    plan.replace_believed([(KEY, VALUE)])
    assert plan.plan_additions(True) == ()
    assert plan.is_settled


def test_who_changed_our_routes_is_told_once() -> None:
    plan = plan_with((KEY, VALUE))
    plan.on_route(removed(port=4711))
    assert plan.pop_foreign_ports() == {4711}
    assert plan.pop_foreign_ports() == set()


def test_replace_where_somebody_wrote_too_is_read_back() -> None:
    plan = plan_with((KEY, VALUE))
    plan.on_route(RouteEvent(True, True, False, 9, KEY, OTHER))  # his route first,
    plan.on_route(RouteEvent(True, False, True, 9, KEY, OTHER))  # then one of our protocol behind it
    plan.absorb(plan.plan_additions(True), DONE)  # replaced his, not the second
    assert plan.needs_read
    plan.start_read()
    plan.replace_believed([(KEY, VALUE), (KEY, OTHER)])
    assert plan.plan_additions(True) == (RouteOperation(Verb.DELETE, KEY, OTHER),)


# --- Ways to other hosts ---

BLOCK = parse_net("10.3.0.0/26")
GATEWAY = parse_net("10.3.0.1")
BY_GATEWAY = RouteValue(RTN_UNICAST, SCOPE_UNIVERSE, 6, (), GATEWAY, True)


def test_way_to_another_host_moves_in_one_step_and_comes_back_with_its_interface() -> None:
    plan = plan_with((KEY, VALUE))
    key = RouteKey(BLOCK, 0)
    plan.on_hops({BLOCK: Hop("calib", GATEWAY)})
    assert plan.plan_additions(True) == (RouteOperation(Verb.REPLACE, key, BY_GATEWAY),)
    plan.absorb(plan.plan_additions(True), DONE)
    plan.on_hops({BLOCK: Hop("calia", GATEWAY)})
    moved = BY_GATEWAY._replace(interface=5)
    assert plan.plan_removals(True) == ()
    assert plan.plan_additions(True) == (RouteOperation(Verb.REPLACE, key, moved),)
    plan.absorb(plan.plan_additions(True), DONE)
    plan.on_link(5, "calia", False)
    assert plan.plan_additions(True) == ()
    plan.on_link(5, "calia", True)
    assert RouteOperation(Verb.REPLACE, key, moved) in plan.plan_additions(True)


def test_own_endpoint_counts_before_a_way_elsewhere_and_that_before_a_blackhole() -> None:
    plan = plan_with((KEY, VALUE))
    plan.on_hops({KEY.net: Hop("calib", GATEWAY), BLOCK: Hop("calib", GATEWAY)})
    plan.on_delta({}, {BLOCK: True})
    assert plan.plan_additions(True) == (RouteOperation(Verb.REPLACE, RouteKey(BLOCK, 0), BY_GATEWAY),)
    plan.on_delta({endpoint_key("a"): None}, {})
    plan.on_hops({BLOCK: None})
    blackhole = RouteValue(RTN_BLACKHOLE, SCOPE_UNIVERSE, 0)
    assert set(plan.plan_additions(True)) == {
        RouteOperation(Verb.REPLACE, KEY, BY_GATEWAY),
        RouteOperation(Verb.REPLACE, RouteKey(BLOCK, 0), blackhole),
    }


def test_route_to_a_gateway_is_written_before_routes_by_it() -> None:
    plan = plan_with((KEY, VALUE))
    gateway = parse_net("fd03::1")
    plan.on_hops({parse_net("fd03::/122"): Hop("calib", gateway), gateway: Hop("calib", None)})
    assert [operation.key.net for operation in plan.plan_additions(True)] == [gateway, parse_net("fd03::/122")]


def test_route_with_several_hops_is_read_back_before_it_is_mended() -> None:
    plan = plan_with((KEY, VALUE))
    several = RouteValue(RTN_UNICAST, SCOPE_LINK, 0, ((9, b"two"),))
    assert plan.on_route(RouteEvent(True, False, True, 9, KEY, several))
    assert plan.needs_read
