"""Named ports as sets: who brings what, shared by equal selectors and names, told once."""

from __future__ import annotations

import pytest

from felix.calc.compile import NamedPorts
from felix.calc.desired import DesiredDelta, PortMember
from felix.calc.port_sets import EndpointPorts, NamedPort, PortSets
from felix.model.keys import ResourceKey
from felix.model.net import parse_net
from felix.selector.parse import parse

WEB = ResourceKey("WorkloadEndpoint", "default", "web")
OTHER = ResourceKey("WorkloadEndpoint", "default", "other")
POLICY = ResourceKey("GlobalNetworkPolicy", "", "p")
HTTP = NamedPorts(parse("role == 'web'"), "http")
ADDRESSES = (parse_net("10.0.0.1"), parse_net("fd00::1"))


def ports(*named: tuple[str, int, int]) -> EndpointPorts:
    return EndpointPorts(ADDRESSES, tuple(NamedPort(*one) for one in named))


def members(protocol: int, port: int) -> set[PortMember]:
    return {PortMember(address, protocol, port) for address in ADDRESSES}


@pytest.fixture
def sets() -> PortSets:
    sets = PortSets()
    sets.set_item(WEB, ports(("http", 6, 80), ("dns", 17, 53)), {"role": "web"}, ())
    sets.set_item(OTHER, ports(("http", 6, 81)), {"role": "other"}, ())
    sets.acquire(HTTP, POLICY)
    return sets


def flush(sets: PortSets) -> DesiredDelta:
    delta = DesiredDelta()
    sets.pop_changes(delta)
    return delta


def test_port_set_has_the_ports_of_that_name_of_selected_endpoints_alone(sets: PortSets) -> None:
    delta = flush(sets)
    assert delta.port_sets == {HTTP.id: True}
    assert delta.port_members[HTTP.id].added == members(6, 80)


def test_port_set_follows_ports_labels_and_endpoints(sets: PortSets) -> None:
    flush(sets)
    sets.set_item(WEB, ports(("http", 6, 80), ("http", 17, 80)), {"role": "web"}, ())
    assert flush(sets).port_members[HTTP.id].added == members(17, 80)
    sets.set_item(OTHER, ports(("http", 6, 80)), {"role": "web"}, ())
    assert not flush(sets)  # both have the same: nothing new
    sets.drop_item(WEB)
    assert flush(sets).port_members[HTTP.id].removed == members(17, 80)
    sets.set_item(OTHER, ports(("http", 6, 80)), {}, ("p",))
    assert flush(sets).port_members[HTTP.id].removed == members(6, 80)
    sets.set_parent_labels("p", {"role": "web"})
    assert flush(sets).port_members[HTTP.id].added == members(6, 80)


def test_port_set_released_and_acquired_between_flushes_is_not_told(sets: PortSets) -> None:
    flush(sets)
    sets.release(HTTP.id, POLICY)
    sets.acquire(HTTP, OTHER)
    assert not flush(sets)
    sets.release(HTTP.id, OTHER)
    assert flush(sets).port_sets == {HTTP.id: None}
    assert len(sets) == 0


def test_port_sets_of_one_selector_and_several_names_live_apart(sets: PortSets) -> None:
    dns = NamedPorts(HTTP.selector, "dns")
    flush(sets)
    sets.acquire(dns, POLICY)
    delta = flush(sets)
    assert (delta.port_sets, delta.port_members[dns.id].added) == ({dns.id: True}, members(17, 53))
    sets.release(HTTP.id, POLICY)
    flush(sets)
    sets.set_item(WEB, ports(("dns", 17, 54)), {"role": "web"}, ())
    change = flush(sets).port_members[dns.id]
    assert (change.added, change.removed) == (members(17, 54), members(17, 53))
