"""Single situations of the tunnel plan: races between writing, reading and the news."""

from __future__ import annotations

import pytest

from felix.calc.desired import OwnVtep, RemoteVtep
from felix.dataplane.netlink.message import Refusal
from felix.dataplane.tunnels.plan import TunnelPlan
from felix.dataplane.tunnels.types import (
    ChangeDevice,
    Device,
    DeviceEvent,
    DeviceFound,
    Item,
    ItemEvent,
    Kind,
    MakeDevice,
    Parent,
    PutItem,
    RemoveDevice,
    RemoveItem,
    TunnelPlanned,
    TunnelResult,
    TunnelState,
    Worth,
)
from felix.model.net import parse_net

MAC, OTHER_MAC = bytes.fromhex("660000000001"), bytes.fromhex("660000000002")
LOCAL, OUTER, ELSEWHERE = parse_net("192.0.2.1"), parse_net("192.0.2.2"), parse_net("192.0.2.3")
OWN = OwnVtep(parse_net("10.1.0.1"), MAC.hex(":"), LOCAL, 4096, 4789, 0)
REMOTE = RemoteVtep(parse_net("10.2.0.1"), OTHER_MAC.hex(":"), OUTER)
DEVICE = Device(4096, 4789, 0, True, LOCAL, False, MAC, 1450, True, False)
ADDRESS = Item(Kind.ADDRESS, 4, OWN.address or LOCAL, 32)
ENTRY = Item(Kind.ENTRY, 4, OTHER_MAC)
NEIGHBOUR = Item(Kind.NEIGHBOUR, 4, REMOTE.address)
ITEMS: dict[Item, Worth] = {ADDRESS: None, ENTRY: OUTER, NEIGHBOUR: OTHER_MAC}


def event(item: Item, worth: Worth = None, *, is_there: bool = True, port: int = 0) -> ItemEvent:
    return ItemEvent(7, item._replace(version=0), worth, is_there, port)


def settled() -> TunnelPlan:
    """A plan with one tunnel and one remote end, which found everything in place."""
    plan = TunnelPlan()
    plan.on_delta({4: OWN}, {(4, "far"): REMOTE})
    plan.on_parent(4, Parent(2, 1500))
    read(plan)
    assert plan.is_settled
    return plan


def read(plan: TunnelPlan, device: Device | None = DEVICE) -> None:
    plan.start_read()
    found = [event(item, worth) for item, worth in ITEMS.items()]
    plan.replace_believed(TunnelState({4: DeviceFound(7, "vxlan", device)}, found))


def done(planned: TunnelPlanned) -> TunnelResult:
    return TunnelResult((None,) * len(planned))


def test_plan_before_first_read_is_empty() -> None:
    plan = TunnelPlan()
    plan.on_delta({4: OWN}, {})
    assert plan.plan_additions(True) == plan.plan_removals(True) == ()
    assert plan.needs_read


def test_entry_that_somebody_changed_while_it_was_written_is_read_back() -> None:
    plan = settled()
    assert plan.on_event(event(ENTRY, is_there=False))
    planned = plan.plan_additions(True)
    assert planned == (PutItem(7, ENTRY, OUTER),)
    plan.on_event(event(ENTRY, OUTER))  # the echo
    plan.on_event(event(ENTRY, ELSEWHERE))
    plan.absorb(planned, done(planned))
    assert plan.needs_read


def test_echo_of_own_write_is_no_news_and_asks_for_no_read() -> None:
    plan = settled()
    plan.on_event(event(ENTRY, is_there=False))
    planned = plan.plan_additions(True)
    assert not plan.on_event(event(ENTRY, OUTER))
    plan.absorb(planned, done(planned))
    assert plan.is_settled


def test_change_during_a_read_counts_on_top_of_it() -> None:
    plan = settled()
    plan.start_read()
    plan.on_event(event(NEIGHBOUR, is_there=False))
    plan.replace_believed(
        TunnelState({4: DeviceFound(7, "vxlan", DEVICE)}, [event(item, worth) for item, worth in ITEMS.items()])
    )
    assert plan.plan_additions(True) == (PutItem(7, NEIGHBOUR, OTHER_MAC),)


def test_events_lost_during_a_read_make_it_count_for_nothing() -> None:
    plan = settled()
    plan.start_read()
    plan.mark_unknown()
    plan.replace_believed(TunnelState())
    assert plan.needs_read
    assert plan.has_device(4)


def test_address_with_another_prefix_goes_first_and_is_not_removed_without_permission() -> None:
    plan = settled()
    plan.on_event(event(ADDRESS, is_there=False))
    wide = ADDRESS._replace(length=24)
    plan.on_event(event(wide))
    assert plan.plan_additions(True) == (RemoveItem(7, wide), PutItem(7, ADDRESS, None))
    assert plan.plan_additions(False) == (PutItem(7, ADDRESS, None),)


@pytest.mark.parametrize(
    ("found", "does_change"),
    [
        (DEVICE._replace(mac=OTHER_MAC), True),
        (DEVICE._replace(mtu=1400), True),
        (DEVICE._replace(local=OUTER), True),
        (DEVICE._replace(is_learning=True), True),
        (DEVICE._replace(is_up=False), True),
        (DEVICE._replace(vni=5), False),
        (DEVICE._replace(port=5), False),
        (DEVICE._replace(bound=3), False),
        (DEVICE._replace(is_plain=False), False),
    ],
)
def test_device_is_changed_where_it_can_be_and_made_anew_elsewhere(found: Device, does_change: bool) -> None:
    plan = settled()
    read(plan, found)
    planned = plan.plan_additions(True)
    if does_change:
        assert planned == (ChangeDevice(4, 7, found, DEVICE),)
    else:
        assert planned == (RemoveDevice(4, 7), MakeDevice(4, DEVICE))
        assert plan.plan_additions(False) == ()
    plan.absorb(planned, done(planned))
    assert plan.needs_read  # what went with it


def test_device_bound_to_the_interface_of_the_own_address_will_do() -> None:
    plan = settled()
    read(plan, DEVICE._replace(bound=2))
    assert plan.is_settled
    plan.on_parent(4, Parent(3, 1500))
    assert plan.plan_additions(True) == (RemoveDevice(4, 7), MakeDevice(4, DEVICE))


def test_refused_item_is_named_and_waits_for_a_retry() -> None:
    plan = settled()
    plan.on_event(event(ENTRY, is_there=False))
    planned = plan.plan_additions(True)
    plan.absorb(planned, TunnelResult((Refusal(28, "no room"),)))
    assert plan.is_settled
    assert plan.plan_additions(True) == ()
    assert dict(plan.find_reasons())["vxlan.calico"].endswith("entry 66:00:00:00:00:02 refused: no room")
    plan.retry_failed()
    assert plan.needs_read


def test_device_that_went_takes_what_is_on_it_out_of_every_plan() -> None:
    plan = settled()
    assert plan.on_event(DeviceEvent(7, "vxlan.calico", None))
    assert not plan.has_device(4)
    assert plan.plan_additions(True) == (MakeDevice(4, DEVICE),)
    plan.on_delta({4: None}, {(4, "far"): None})
    assert plan.plan_removals(True) == ()


def test_end_of_a_tunnel_that_two_hosts_have_is_the_first_ones_in_any_order() -> None:
    plan = settled()
    plan.on_delta({}, {(4, "able"): REMOTE._replace(outer=ELSEWHERE)})
    assert plan.plan_additions(True) == (PutItem(7, ENTRY, ELSEWHERE),)
    assert [(loser.name, rival.name) for loser, rival in plan.rivals.items()] == [("far", "able")]
    plan.on_delta({}, {(4, "far"): REMOTE._replace(mac="66:00:00:00:00:03")})  # the address is still the same
    assert [loser.name for loser in plan.rivals] == ["far"]
    plan.on_delta({}, {(4, "able"): None})
    assert not plan.rivals
    third = bytes.fromhex("660000000003")
    assert set(plan.plan_additions(True)) == {
        PutItem(7, Item(Kind.ENTRY, 4, third), OUTER),
        PutItem(7, NEIGHBOUR, third),
    }
    assert plan.plan_removals(True) == (RemoveItem(7, ENTRY),)
