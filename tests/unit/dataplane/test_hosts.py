"""Which interface belongs to which host endpoint: by name, by address, for all, in any order of news."""

from __future__ import annotations

from itertools import permutations

from felix.calc.desired import ALL_INTERFACES, HostStacks, LocalHostEndpoint, Stack
from felix.dataplane.addresses.types import AddressEvent
from felix.dataplane.hosts import HostInterfaces
from felix.model.keys import ResourceKey
from felix.model.net import parse_address

_STACKS = HostStacks(Stack((), ()), Stack((), ()))
_ADDRESS = parse_address("10.0.0.7")


def _endpoint(name: str, interface: str = "", *addresses: str) -> LocalHostEndpoint:
    key = ResourceKey("HostEndpoint", "", name)
    return LocalHostEndpoint(key, interface, tuple(map(parse_address, addresses)), _STACKS)


def _want(hosts: HostInterfaces, *endpoints: LocalHostEndpoint) -> None:
    hosts.on_delta({one.key: one for one in endpoints})


def test_endpoint_by_address_has_the_interface_whatever_is_known_first() -> None:
    endpoint = _endpoint("a", "", "10.0.0.7")
    for order in permutations(range(3)):
        hosts = HostInterfaces(("cali",))
        news = (
            lambda hosts=hosts: hosts.on_link(3, "eth1"),
            lambda hosts=hosts: hosts.on_address(AddressEvent(3, _ADDRESS, True)),
            lambda hosts=hosts: _want(hosts, endpoint),
        )
        bound: dict[str, LocalHostEndpoint | None] = {}
        for position in order:
            news[position]()
            bound |= hosts.pop_bindings()
        assert bound == {"eth1": endpoint}


def test_interface_that_is_renamed_or_goes_takes_its_endpoint_along() -> None:
    hosts, endpoint = HostInterfaces(("cali",)), _endpoint("a", "", "10.0.0.7")
    _want(hosts, endpoint)
    hosts.on_link(3, "eth1")
    hosts.on_address(AddressEvent(3, _ADDRESS, True))
    assert hosts.pop_bindings() == {"eth1": endpoint}
    hosts.on_link(3, "wan0")
    assert hosts.pop_bindings() == {"eth1": None, "wan0": endpoint}
    hosts.on_link(3, None)
    assert hosts.pop_bindings() == {"wan0": None}


def test_lowest_key_has_the_interface_and_the_other_takes_over_when_it_goes() -> None:
    hosts, low, high = HostInterfaces(("cali",)), _endpoint("a", "eth0"), _endpoint("b", "eth0")
    _want(hosts, high)
    assert hosts.pop_bindings() == {"eth0": high}
    _want(hosts, low)
    assert hosts.pop_bindings() == {"eth0": low}
    (problem,) = hosts.find_lost_claims(high.key)
    assert "HostEndpoint(a)" in problem.reason
    assert not hosts.find_lost_claims(low.key)
    hosts.on_delta({low.key: None})
    assert hosts.pop_bindings() == {"eth0": high}


def test_endpoint_for_all_interfaces_yields_to_any_other_whatever_its_name_and_the_lowest_of_several_is_it() -> None:
    hosts = HostInterfaces(("cali",))
    lowest, low = _endpoint("a", ALL_INTERFACES), _endpoint("b", ALL_INTERFACES)
    named, addressed = _endpoint("y", "eth0"), _endpoint("z", "", "10.0.0.7")
    hosts.on_link(2, "eth0")
    hosts.on_link(3, "eth1")
    hosts.on_address(AddressEvent(3, _ADDRESS, True))
    for order in permutations((lowest, low, named, addressed)):
        _want(hosts, *order)
        bound = hosts.pop_bindings()
        assert bound == {ALL_INTERFACES: lowest, "eth0": named, "eth1": addressed}
        assert "HostEndpoint(a)" in hosts.find_lost_claims(low.key)[0].reason
        hosts.on_delta({one.key: None for one in order})
        assert hosts.pop_bindings() == dict.fromkeys(bound)


def test_endpoint_by_address_and_one_by_name_that_want_one_interface_are_told_apart_by_their_names() -> None:
    hosts = HostInterfaces(("cali",))
    addressed, named, elsewhere = (
        _endpoint("a", "", "10.0.0.7"),
        _endpoint("b", "eth0"),
        _endpoint("0", "eth9", "10.0.0.7"),
    )
    hosts.on_link(2, "eth0")
    hosts.on_address(AddressEvent(2, _ADDRESS, True))
    _want(hosts, addressed, named, elsewhere)  # who names an interface is not found by address
    assert hosts.pop_bindings() == {"eth0": addressed, "eth9": elsewhere}


def test_workload_interface_is_no_host_endpoints() -> None:
    hosts = HostInterfaces(("cali",))
    named, addressed = _endpoint("a", "cali1"), _endpoint("b", "", "10.0.0.7")
    hosts.on_link(3, "cali2")
    hosts.on_address(AddressEvent(3, _ADDRESS, True))
    _want(hosts, named, addressed)
    assert hosts.pop_bindings() == {}
    assert "workload" in hosts.find_lost_claims(named.key)[0].reason


def test_read_replaces_what_is_believed_and_what_came_meanwhile_counts() -> None:
    hosts, endpoint = HostInterfaces(("cali",)), _endpoint("a", "", "10.0.0.7")
    _want(hosts, endpoint, _endpoint("z", ALL_INTERFACES))
    hosts.on_link(3, "eth1")
    hosts.on_address(AddressEvent(3, _ADDRESS, True))
    hosts.pop_bindings()
    hosts.start_read()
    hosts.on_address(AddressEvent(4, _ADDRESS, True))
    hosts.replace_believed([(4, "eth4")], [])
    assert hosts.pop_bindings() == {"eth1": None, "eth4": endpoint}
    assert hosts.pop_bindings() == {}
