"""Interfaces that come late, flap, change names or hosts, and endpoints that claim the same."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager

import pytest

from felix.lab.host import Host
from felix.lab.lab import Workload
from felix.lab.place import wait_until
from felix.lab.probe import echo
from felix.lab.store import Document, Json
from tests.support.fv import Fleet, make_path

pytestmark = pytest.mark.fv

ALL = ("tcp 80 to moody", "udp 53 to moody", "icmp 8 to moody", "icmp6 128 to moody", "moody tcp 80 to far")


@pytest.fixture
def moody(fleet: Fleet) -> Iterator[Workload]:
    """A workload on h1 that is in use."""
    workload = fleet.add("moody", fleet.h1, "blue", "30", role="moody")
    fleet.wait_up("moody")
    yield workload
    fleet.remove("moody")


def test_interface_that_comes_later_than_its_endpoint_is_connected_then(fleet: Fleet, moody: Workload) -> None:
    path = moody.record.key
    stored = fleet.lab.store.get(path)
    assert stored is not None
    fleet.lab.store.delete(path)
    fleet.h1.configure(f"link del {moody.interface}")
    wait_until(lambda: fleet.endpoint_status("moody") == ("", ""), 20.0, "the endpoint to be gone")

    fleet.wait_applied(fleet.lab.store.put(path, stored[0]))

    assert fleet.endpoint_status("moody") == ("down", f"interface {moody.interface} is absent")
    fleet.lab.plug_in_workload("moody")
    fleet.wait_up("moody")
    fleet.check_packets(ALL, ())


def test_interface_that_is_removed_and_added_again_is_connected_again(fleet: Fleet, moody: Workload) -> None:
    for _ in range(3):
        fleet.h1.configure(f"link del {moody.interface}")
        wait_until(lambda: fleet.endpoint_status("moody")[0] == "down", 20.0, "the endpoint to be down")
        fleet.lab.plug_in_workload("moody")
        fleet.wait_up("moody")
    fleet.check_packets(ALL, ())


def test_link_that_flaps_twenty_times_has_its_routes_and_neighbours_back(fleet: Fleet, moody: Workload) -> None:
    def read_state() -> tuple[str, str, str]:
        device = ["dev", moody.interface]
        routes = [
            fleet.h1.run(["ip", family, "route", "show", "proto", "80", *device]).stdout for family in ("-4", "-6")
        ]
        return routes[0], routes[1], fleet.h1.run(["ip", "neigh", "show", *device, "nud", "permanent"]).stdout

    before = read_state()
    assert all(before)

    for _ in range(20):
        fleet.h1.configure(f"link set {moody.interface} down", f"link set {moody.interface} up")

    wait_until(lambda: read_state() == before, 20.0, "routes and neighbours of both families")
    fleet.wait_up("moody")
    fleet.check_packets(ALL, ())


def test_link_that_is_down_is_said_to_be_down(fleet: Fleet, moody: Workload) -> None:
    fleet.h1.configure(f"link set {moody.interface} down")
    wait_until(lambda: fleet.endpoint_status("moody")[0] == "down", 20.0, "the endpoint to be down")
    fleet.check_packets(("tcp 80 to near",), ("tcp 80 to moody",))
    fleet.h1.configure(f"link set {moody.interface} up")
    fleet.wait_up("moody")
    fleet.check_packets(ALL, ())


def test_interface_under_another_name_is_closed_until_it_has_its_own_again(fleet: Fleet, moody: Workload) -> None:
    fleet.h1.configure(f"link set {moody.interface} down", f"link set {moody.interface} name calistranger up")
    wait_until(lambda: fleet.endpoint_status("moody")[0] == "down", 20.0, "the endpoint to be down")

    fleet.check_packets(("tcp 80 to near",), ("tcp 80 to moody", "moody tcp 80 to far", "moody icmp6 128 to near"))

    fleet.h1.configure("link set calistranger down", f"link set calistranger name {moody.interface} up")
    fleet.wait_up("moody")
    fleet.check_packets(ALL, ())


def test_endpoint_that_moves_to_another_host_is_followed_by_its_traffic(fleet: Fleet, moody: Workload) -> None:
    addresses = moody.ipv4, moody.ipv6
    fleet.check_packets(ALL, ())
    for host in (fleet.h2, fleet.h1):
        fleet.remove("moody")
        fleet.add("moody", host, "blue", "30", block=1, role="moody")
        fleet.wait_up("moody")
        assert (fleet.lab.workloads["moody"].ipv4, fleet.lab.workloads["moody"].ipv6) == addresses
        wait_until(lambda: fleet.is_open("near icmp 8 to moody"), 20.0, f"the way to {moody.ipv4} on {host.name}")
        wait_until(lambda: fleet.is_open("near icmp6 128 to moody"), 20.0, f"the way to {moody.ipv6} on {host.name}")
        fleet.check_packets((*ALL, "far tcp 80 to moody"), ())


def test_address_of_two_endpoints_belongs_to_the_lower_key_and_the_other_is_named(fleet: Fleet) -> None:
    near = fleet.lab.workloads["near"]
    claim: Document = {"interfaceName": "calitwin", "ipNetworks": [f"{near.ipv4}/32", f"{near.ipv6}/128"]}
    with claimant(fleet, fleet.h1, "h1-cni-twin-eth0", claim) as name:
        wait_until(lambda: is_reported(fleet, name, near.ipv4), 20.0, "the conflict to be reported")
        fleet.check_packets(("tcp 80 to near", "icmp6 128 to near", "near tcp 80 to far"), ())
    with claimant(fleet, fleet.h1, "h1-cni-aaa-eth0", claim):
        wait_until(lambda: is_reported(fleet, "h1-cni-near-eth0", near.ipv4), 20.0, "the conflict to be reported")
        fleet.check_packets((), ("4 tcp 80 to near", "6 tcp 80 to near", "near tcp 80 to far"))
    fleet.wait_up("near")
    fleet.check_packets(("tcp 80 to near", "icmp6 128 to near", "near tcp 80 to far"), ())
    assert not is_reported(fleet, "h1-cni-near-eth0", near.ipv4)


def test_interface_of_two_endpoints_belongs_to_the_lower_key_and_the_other_is_named(fleet: Fleet) -> None:
    near = fleet.lab.workloads["near"]
    claim: Document = {"interfaceName": near.interface, "ipNetworks": ["192.168.1.50/32"]}
    with claimant(fleet, fleet.h1, "h1-cni-twin-eth0", claim) as name:
        wait_until(lambda: is_reported(fleet, name, near.interface), 20.0, "the conflict to be reported")
        fleet.check_packets(("tcp 80 to near", "icmp6 128 to near", "near tcp 80 to far"), ())
    fleet.check_packets(("tcp 80 to near",), ())


def test_connections_of_an_address_that_left_are_forgotten_and_others_kept(fleet: Fleet, moody: Workload) -> None:
    client = fleet.sites["client"].place
    for name in ("moody", "near"):
        fleet.sites[name].place.listen(80)
    fleet.forget_connections()
    with client.open(moody.ipv4, 80) as leaving, client.open(fleet.sites["near"].ipv4, 80) as staying:
        echo(leaving)
        echo(staying)
        before = tracked(fleet, fleet.sites["near"].ipv4)
        assert before
        assert tracked(fleet, moody.ipv4)

        fleet.lab.store.delete(moody.record.key)

        wait_until(lambda: not tracked(fleet, moody.ipv4), 20.0, "connections to be forgotten")
        assert tracked(fleet, fleet.sites["near"].ipv4) == before
        echo(staying)
        with pytest.raises(TimeoutError):
            echo(leaving, 0.3)


@contextmanager
def claimant(fleet: Fleet, host: Host, name: str, claim: dict[str, Json]) -> Iterator[str]:
    """While inside, another endpoint of the host is stored that claims something; yields its name."""
    workload = name.split("-")[2]
    spec: Document = {
        "orchestrator": "cni",
        "node": host.name,
        "workload": workload,
        "containerID": workload,
        "endpoint": "eth0",
        "profiles": ["open"],
        **claim,
    }
    path = make_path("WorkloadEndpoint", "blue", name)
    try:
        fleet.wait_applied(fleet.put("WorkloadEndpoint", name, spec, namespace="blue"))
        yield name
    finally:
        fleet.lab.store.delete(path)
        fleet.wait_applied(fleet.put("Profile", "bystander", {}))


def is_reported(fleet: Fleet, name: str, what: str) -> bool:
    """Returns whether the agent of h1 says of an endpoint that something is wrong with it, and with what."""
    problems = fleet.status(fleet.h1).get("problems")
    return isinstance(problems, list) and any(name in str(one) and what in str(one) for one in problems)


def tracked(fleet: Fleet, address: str) -> set[str]:
    """Returns the identifiers of the connections of h1 to an address."""
    rows = fleet.h1.run(["conntrack", "-L", "-d", address, "-o", "id"]).stdout.splitlines()
    return {row.rpartition(" ")[2] for row in rows}
