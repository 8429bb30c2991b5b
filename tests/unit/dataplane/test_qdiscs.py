"""Shapers: what is planned, what becomes of others', and a kernel that has none."""

from __future__ import annotations

from dataclasses import replace

from felix.calc.desired import Bandwidth, Limits, LocalEndpoint, Stack
from felix.dataplane.cycle import EndpointCondition
from felix.dataplane.netlink.message import Refusal
from felix.dataplane.qdiscs.plan import QdiscPlan
from felix.dataplane.qdiscs.render import device_of, make_shaper
from felix.dataplane.qdiscs.types import QdiscEvent, QdiscFound, QdiscPlanned, QdiscResult, RedirectEvent, RedirectFound
from tests.model.nft_worlds import endpoint
from tests.unit.dataplane.fake_world import FakeWorld, Rig

_PORT = 77
_BANDWIDTH = Bandwidth(10_000_000, 125_000)
_SHAPER = make_shaper(_BANDWIDTH)
_BARE = endpoint(1, Stack((), ()), Stack((), ()))
_LIMITED = replace(_BARE, limits=Limits(bandwidth_in=_BANDWIDTH))


def _plan(*found: QdiscFound, wanted: LocalEndpoint = _LIMITED) -> QdiscPlan:
    plan = QdiscPlan(_PORT)
    plan.on_delta({wanted.key: wanted})
    plan.start_read()
    plan.replace_believed([(7, "cali1", True), (8, "eth0", True)], found)
    return plan


def _carry_out(plan: QdiscPlan, refusal: Refusal | None = None) -> QdiscPlanned:
    planned = plan.plan(may_delete=True)
    answers = [(refusal,) * len(getattr(planned, name)) for name in planned.__slots__]
    plan.absorb(planned, QdiscResult(*answers))
    return planned


def test_endpoint_with_bandwidth_gets_a_shaper_and_loses_it() -> None:
    plan = _plan()
    assert _carry_out(plan) == QdiscPlanned(shapers=((7, _SHAPER),))
    assert plan.is_settled
    plan.on_delta({_BARE.key: _BARE})
    assert _carry_out(plan) == QdiscPlanned(stale=(7,))
    assert plan.is_settled


def test_shaper_of_an_earlier_run_is_left_when_it_is_right_and_replaced_or_removed_when_it_is_not() -> None:
    assert _plan(QdiscFound(7, True, _SHAPER)).is_settled
    other = _SHAPER._replace(rate_bytes=1)
    assert _carry_out(_plan(QdiscFound(7, True, other))) == QdiscPlanned(shapers=((7, _SHAPER),))
    assert _carry_out(_plan(QdiscFound(7, True, other), wanted=_BARE)) == QdiscPlanned(stale=(7,))


def test_discipline_of_others_gives_way_to_a_shaper_and_is_never_removed() -> None:
    foreign = [QdiscFound(7, False, _SHAPER), QdiscFound(8, False, None)]
    assert _carry_out(_plan(*foreign)) == QdiscPlanned(shapers=((7, _SHAPER),))
    assert _plan(*foreign, wanted=_BARE).is_settled


def test_shaper_that_somebody_deletes_or_changes_is_written_again() -> None:
    for found in (None, QdiscFound(7, False, _SHAPER), QdiscFound(7, True, _SHAPER._replace(burst=9))):
        plan = _plan(QdiscFound(7, True, _SHAPER))
        assert not plan.on_event(QdiscEvent(7, None, _PORT))
        assert plan.on_event(QdiscEvent(7, found, 5))
        assert _carry_out(plan).shapers == ((7, _SHAPER),)


def test_change_during_a_read_counts_on_top_of_it() -> None:
    plan = QdiscPlan(_PORT)
    plan.on_delta({_LIMITED.key: _LIMITED})
    plan.start_read()
    plan.on_event(QdiscEvent(7, None, 5))
    plan.replace_believed([(7, "cali1", True)], [QdiscFound(7, True, _SHAPER)])
    assert _carry_out(plan).shapers == ((7, _SHAPER),)


def test_interface_that_goes_and_comes_back_gets_its_shaper_again() -> None:
    plan = _plan()
    _carry_out(plan)
    plan.on_link_gone(7)
    assert plan.is_settled
    plan.on_link(9, "cali1")
    assert _carry_out(plan).shapers == ((9, _SHAPER),)
    plan.on_link(9, "renamed")
    plan.on_link(10, "cali1")
    assert _carry_out(plan).shapers == ((10, _SHAPER),)


def test_refused_shaper_is_named_and_tried_again_after_the_next_read() -> None:
    plan = _plan()
    _carry_out(plan, Refusal(2, "Specified qdisc kind is unknown"))
    assert plan.is_settled
    assert "Specified qdisc kind is unknown" in plan.find_shortfall("cali1")
    assert plan.find_shortfall("eth0") == ""
    plan.start_read()
    plan.replace_believed([(7, "cali1", True)], [])
    assert _carry_out(plan).shapers == ((7, _SHAPER),)
    assert plan.find_shortfall("cali1") == ""


_SENDING = replace(_BARE, limits=Limits(bandwidth_out=_BANDWIDTH))
_DEVICE = device_of("cali1")


def test_what_an_endpoint_sends_is_led_through_a_device_that_comes_and_goes_with_the_limit() -> None:
    plan = _plan(wanted=_SENDING)
    assert _carry_out(plan) == QdiscPlanned(devices=(_DEVICE,))
    plan.on_link(9, _DEVICE, True)
    assert _carry_out(plan) == QdiscPlanned(shapers=((9, _SHAPER),), redirects=((7, 9),))
    assert plan.is_settled
    plan.on_delta({_BARE.key: _BARE})
    assert _carry_out(plan) == QdiscPlanned(stale_redirects=(7,), stale=(9,), stale_devices=(9,))
    plan.on_link_gone(9)
    assert plan.is_settled


def test_device_of_an_earlier_run_is_left_or_removed_and_one_of_a_gone_interface_too() -> None:
    plan = QdiscPlan(_PORT)
    plan.on_delta({_SENDING.key: _SENDING})
    plan.start_read()
    links = [(7, "cali1", True), (9, _DEVICE, True), (10, device_of("cali2"), True)]
    plan.replace_believed(links, [QdiscFound(9, True, _SHAPER), RedirectFound(7, 9)])
    assert _carry_out(plan) == QdiscPlanned(stale_devices=(10,))
    plan.on_link_gone(10)
    plan.on_link_gone(7)
    assert _carry_out(plan) == QdiscPlanned(stale=(9,), stale_devices=(9,))


def test_device_that_somebody_deletes_or_sets_down_is_made_again_and_nothing_is_led_into_the_void() -> None:
    plan = _plan(wanted=_SENDING)
    _carry_out(plan)
    plan.on_link(9, _DEVICE, True)
    _carry_out(plan)
    plan.on_link(9, _DEVICE, False)
    assert _carry_out(plan) == QdiscPlanned(devices=(_DEVICE,))
    plan.on_link(9, _DEVICE, True)
    assert plan.is_settled
    plan.on_link_gone(9)
    assert _carry_out(plan) == QdiscPlanned(stale_redirects=(7,), devices=(_DEVICE,))
    plan.on_link(11, _DEVICE, True)
    assert _carry_out(plan) == QdiscPlanned(shapers=((11, _SHAPER),), redirects=((7, 11),))
    assert plan.on_event(RedirectEvent(7, None, 5))
    assert _carry_out(plan).redirects == ((7, 11),)
    assert plan.on_event(RedirectEvent(7, 3, 5))
    assert _carry_out(plan).redirects == ((7, 11),)


def test_refused_device_is_named_on_its_endpoint() -> None:
    plan = _plan(wanted=_SENDING)
    _carry_out(plan, Refusal(95, "Unknown device type"))
    assert plan.is_settled
    assert "ifb device: Unknown device type" in plan.find_shortfall("cali1")
    plan.on_delta({_BARE.key: _BARE})
    assert plan.find_shortfall("cali1") == ""


def test_burst_is_at_most_what_the_kernel_can_keep() -> None:
    shaper = make_shaper(Bandwidth(1_000, 536_870_912, 2_000, 1))
    assert shaper.burst * 64 < 2**32
    assert shaper.limit_bytes < 2**32
    assert make_shaper(Bandwidth(10**15, 1)).rate_bytes == 125 * 10**12


async def test_kernel_without_the_discipline_leaves_the_endpoint_up_and_says_what_is_missing(
    rig: Rig, world: FakeWorld
) -> None:
    world.lacks_shapers = True
    world.set_link(7, "cali1")
    await rig.start(_LIMITED)
    await rig.until_up(_LIMITED)
    report = rig.driver.board.reports[_LIMITED.key]
    assert report.condition is EndpointCondition.UP
    assert "Specified qdisc kind is unknown" in report.reason
    assert rig.cycles[-1].is_settled

    world.lacks_shapers = False
    rig.driver._links.mark_unknown()
    rig.want(replace(_LIMITED, revision=2))
    await rig.until(lambda: world.shapers == {7: _SHAPER})
    await rig.until(lambda: rig.driver.board.reports[_LIMITED.key].reason == "")
