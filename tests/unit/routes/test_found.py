"""Histories in which the generated laws once found the table wrong at the end; see `test_laws`."""

from __future__ import annotations

from felix.dataplane.routes.types import RTN_UNICAST, SCOPE_LINK, SCOPE_UNIVERSE, RouteKey, RouteValue
from felix.model.net import parse_address
from tests.unit.routes.fake_kernel import Held
from tests.unit.routes.test_laws import RouteLaws

A4, B4 = RouteKey(parse_address("10.1.0.1"), 0), RouteKey(parse_address("10.1.0.2"), 0)
A6 = RouteKey(parse_address("fd01::1"), 1024)


def begin(*, is_settled: bool = True) -> RouteLaws:
    laws = RouteLaws()
    laws.start(is_settled)
    return laws


def through(link: int, scope: int = SCOPE_UNIVERSE, extra: tuple[tuple[int, bytes], ...] = ()) -> Held:
    return Held(True, RouteValue(RTN_UNICAST, scope, link, extra))


def test_refused_write_beside_a_strangers_route_leaves_nothing_once_nobody_wants_it() -> None:
    laws = begin()
    laws.begin_write(False, False)
    laws.want_endpoint("a", "calia", ["10.1.0.1", "10.1.0.2"])
    laws.write_hear_then_absorb(0, 7, False)
    laws.kernel.put(B4, through(5), append=True)
    laws.begin_write(False, False)
    laws.change_link(5, "calia", False)
    laws.write_hear_then_absorb(1, 6, True)
    laws.teardown()


def test_replaced_route_of_which_only_one_was_known_leaves_nothing() -> None:
    laws = begin(is_settled=False)
    laws.begin_read()
    laws.change_link(5, "calib", False)
    laws.hear_some_events(4)
    strange = RouteKey(A4.net, 7)
    laws.kernel.links[5] = ("calib", True)
    laws.kernel.put(strange, Held(False, through(5).value))
    laws.kernel.put(strange, through(6), append=True)
    laws.hear_some_events(4)
    laws.kernel.put(strange, through(5))
    laws.change_link(5, "calia", False)
    laws.teardown()


def test_removal_from_before_our_own_write_is_no_news_after_it() -> None:
    laws = begin()
    laws.change_link(5, "calia", False)
    laws.begin_read()
    laws.kernel.remove(B4, through(6, SCOPE_LINK))
    laws.drop_endpoint("a")
    laws.end_read(False)
    laws.begin_write(False, False)
    laws.write_then_absorb_later()
    while laws.kernel.queue and laws.plan.is_routed(B4.net):
        laws.hear_some_events(1)
    laws.drop_endpoint("b")
    laws.teardown()


def test_stranger_who_writes_twice_at_one_key_hides_no_other_route_there() -> None:
    laws = begin()
    base, other = through(5), through(5, extra=((8, b"mtu"),))
    laws.kernel.put(A6, Held(False, base.value))
    laws.kernel.put(A6, other, append=True)
    laws.kernel.put(A6, Held(False, base.value))
    laws.kernel.put(A6, base, append=True)
    laws.teardown()


def test_one_of_two_equal_routes_that_goes_leaves_the_other_known() -> None:
    laws = begin()
    laws.begin_read()
    laws.kernel.put(A6, through(6), append=True)
    laws.kernel.put(A6, through(6))
    laws.lose_events()
    laws.end_read(False)
    laws.kernel.remove(A6, through(6))
    laws.want_endpoint("a", "calia", [])
    laws.begin_read()
    laws.teardown()
