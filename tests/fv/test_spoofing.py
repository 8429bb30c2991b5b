"""A workload that lies about who it is reaches nobody and changes nothing, whatever the host's own switches say."""

from __future__ import annotations

import ipaddress
import re
import struct
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor

import pytest

from felix.lab.namespace import write_sysctls
from felix.lab.place import Place, wait_until
from tests.support.flows import OPEN_S, SHUT_S
from tests.support.frames import (
    is_arriving,
    make_icmpv6,
    make_packet,
    send_arp_claim,
    send_arp_request,
    send_frame,
    send_packet,
)
from tests.support.fv import Fleet
from tests.support.nft import count_dropped

pytestmark = pytest.mark.fv

ALL_NODES = "ff02::1"
ALL_NODES_MAC = bytes.fromhex("333300000001")
LINK_LOCAL = "fe80::bad"
LINK_LOCAL_OF_HOST = "fe80::ecee:eeff:feee:eeee"
FOREIGN = ("192.168.1.12", "192.168.2.20", "192.168.1.63", "10.0.0.1", "10.0.0.254", "8.8.8.8", "127.0.0.1", "0.0.0.0")
FOREIGN6 = ("fd00:192:168::1:c", "fd00:192:168::2:14", "fd00:10::1", "2001:db8::1", LINK_LOCAL, "::1", "::")


@pytest.fixture(params=["0", "2"], ids=["rp_filter-0", "rp_filter-2"])
def lax(fleet: Fleet, request: pytest.FixtureRequest) -> Iterator[None]:
    """The host of the client does not check reverse paths, or only loosely."""
    client = fleet.lab.workloads["client"]
    paths = [f"net/ipv4/conf/{name}/rp_filter" for name in ("all", "default", client.interface)]
    before = {path: fleet.h1.run(["cat", f"/proc/sys/{path}"]).stdout.strip() for path in paths}
    write_sysctls(fleet.h1.namespace, dict.fromkeys(paths, request.param))
    yield
    write_sysctls(fleet.h1.namespace, before)


@pytest.mark.usefixtures("lax")
def test_packets_with_a_foreign_source_reach_neither_workloads_nor_hosts(fleet: Fleet) -> None:
    client = fleet.sites["client"]
    targets = [fleet.sites[name] for name in ("near", "far", "h1", "h2", "outside")]
    before = count_dropped(fleet.h1, "spoofed")
    with ThreadPoolExecutor(max_workers=48) as pool:
        tries = {
            (source, target.place.name): pool.submit(
                is_arriving, client.place, source, target.place, target.address(version), SHUT_S
            )
            for version, sources in ((4, FOREIGN), (6, FOREIGN6))
            for source in sources
            for target in targets
        }
        arrived = [names for names, one in tries.items() if one.result()]

    assert not arrived
    # The kernel itself drops what comes from 127.0.0.1, 0.0.0.0, ::1 or :: in some cases, but later than we do.
    assert count_dropped(fleet.h1, "spoofed") - before >= len(tries) - 4 * len(targets)


def test_packets_with_the_own_source_arrive(fleet: Fleet) -> None:
    client = fleet.sites["client"]
    for target in (fleet.sites["near"], fleet.sites["far"]):
        for version in (4, 6):
            source, address = client.address(version), target.address(version)
            assert is_arriving(client.place, source, target.place, address, OPEN_S)


def test_router_advertisements_and_redirects_of_a_workload_change_nothing(fleet: Fleet) -> None:
    client, near = fleet.sites["client"].place, fleet.sites["near"]
    before, routes = count_dropped(fleet.h1, "advertised"), read_routes(fleet)
    prefix = struct.pack("!BBBBIII", 3, 4, 64, 0xC0, 3600, 3600, 0) + bytes.fromhex("20010db800000000" + "00" * 8)
    advertisement = struct.pack("!BBHII", 64, 0, 1800, 0, 0) + prefix
    redirect = struct.pack("!I", 0) + bytes(range(16)) * 2
    for source in (LINK_LOCAL, "fd00:192:168::1:a"):
        for type_, body in ((134, advertisement), (137, redirect)):
            for target in (ALL_NODES, near.ipv6):
                send_icmpv6(client, source, target, type_, body)

    wait_until(lambda: count_dropped(fleet.h1, "advertised") >= before + 8, 20.0, "the counter")
    assert read_routes(fleet) == routes
    assert "2001:db8" not in fleet.h1.run(["ip", "-6", "addr"]).stdout
    send_packet(client, "192.168.1.10", fleet.h1.ipv4, struct.pack("!BBHI", 5, 1, 0, 0x08080808) + bytes(28), 1)
    assert read_routes(fleet) == routes


def test_workload_that_claims_the_address_of_another_gets_none_of_its_packets(fleet: Fleet) -> None:
    client, near = fleet.sites["client"].place, fleet.sites["near"]
    mac = bytes.fromhex("020000000bad")
    before = fleet.h1.run(["ip", "neigh", "show", "nud", "permanent"]).stdout
    for address in (near.ipv4, fleet.sites["guest"].ipv4, "10.0.0.254", "10.0.0.2"):
        send_arp_claim(client, address, mac)
    for address in (near.ipv6, "fd00:10::fe"):
        # Neighbour advertisement: override flag, the address, and its link-layer address
        body = struct.pack("!I", 0x20000000) + _packed(address) + b"\x02\x01" + mac
        send_icmpv6(client, "fd00:192:168::1:a", ALL_NODES, 136, body)
        send_icmpv6(client, LINK_LOCAL, ALL_NODES, 136, body)

    assert fleet.is_open("guest tcp 80 to near")
    assert fleet.is_open("guest tcp 80 to outside")
    assert fleet.h1.run(["ip", "neigh", "show", "nud", "permanent"]).stdout == before
    assert "0b:ad" not in fleet.h1.run(["ip", "neigh", "show", "dev", "eth0"]).stdout


def test_host_learns_no_address_that_is_not_the_workloads_by_arp_or_nd(fleet: Fleet) -> None:
    client = fleet.sites["client"].place
    foreign = [f"10.77.0.{last}" for last in range(1, 40)] + ["10.0.0.254", fleet.sites["near"].ipv4]
    for sender in foreign:
        for target in ("169.254.1.1", fleet.h1.ipv4, fleet.sites["near"].ipv4):
            send_arp_request(client, sender, target)
        send_arp_claim(client, sender, bytes.fromhex("020000000bad"))
    source_option = b"\x01\x01" + bytes.fromhex("020000000bad")
    for last in range(1, 10):
        for target in (LINK_LOCAL_OF_HOST, fleet.sites["near"].ipv6):
            # Neighbour solicitation of an address, with the sender's link-layer address
            solicitation = bytes(4) + _packed(target) + source_option
            send_icmpv6(client, f"fd00:77::{last}", ALL_NODES, 135, solicitation)
            send_icmpv6(client, f"fd00:77::{last}", target, 135, solicitation)

    assert fleet.is_open("tcp 80 to near")  # all frames before it have been seen
    known = fleet.h1.run(["ip", "neigh", "show"]).stdout
    assert [line for line in known.splitlines() if "10.77.0." in line or "fd00:77:" in line] == []
    interface = fleet.lab.workloads["client"].interface
    on_it = fleet.h1.run(["ip", "-4", "neigh", "show", "dev", interface]).stdout.split("\n")
    assert {line.split()[0] for line in on_it if line} <= {fleet.sites["client"].ipv4}


def test_prefixes_that_an_endpoint_may_send_from_and_macs_count_when_settings_say_so(fleet: Fleet) -> None:
    client, near = fleet.sites["client"], fleet.sites["near"]
    spoofed = {4: "10.99.0.7", 6: "fd00:99::7"}
    fleet.restart_agent({"FELIX_WORKLOADSOURCESPOOFING": "Any", "FELIX_CHECKWORKLOADMACS": "true"})
    try:
        with fleet.changed("client", allowSpoofedSourcePrefixes=["10.99.0.0/24", "fd00:99::/64"]):
            for version, source in spoofed.items():
                target = near.address(version)
                assert is_arriving(client.place, source, near.place, target, OPEN_S)
                assert not is_arriving(client.place, source.replace("99", "98"), near.place, target, SHUT_S)
                assert is_arriving(client.place, client.address(version), near.place, target, OPEN_S)
        assert not is_arriving(client.place, spoofed[4], near.place, near.ipv4, SHUT_S)
        mac = client.place.run(["cat", "/sys/class/net/eth0/address"]).stdout.strip()
        client.place.configure("link set eth0 address 02:00:00:00:0b:ad")
        try:
            assert not is_arriving(client.place, client.ipv4, near.place, near.ipv4, SHUT_S)
        finally:
            client.place.configure(f"link set eth0 address {mac}")
    finally:
        fleet.restart_agent({})
    with fleet.changed("client", allowSpoofedSourcePrefixes=["10.99.0.0/24"]):
        assert not is_arriving(client.place, spoofed[4], near.place, near.ipv4, SHUT_S)
        assert "WorkloadSourceSpoofing" in fleet.endpoint_status("client")[1]


def read_routes(fleet: Fleet) -> str:
    """Returns all routes of the client's host, without what ages."""
    routes = fleet.h1.run(["ip", "-6", "route", "show", "table", "all"]).stdout
    routes += fleet.h1.run(["ip", "-4", "route", "show", "table", "all"]).stdout
    return re.sub(r"expires \d+sec", "", routes)


def send_icmpv6(place: Place, source: str, target: str, type_: int, body: bytes) -> None:
    """The message has left the workload, with a good checksum."""
    message = make_icmpv6(source, target, type_, body)
    if target == ALL_NODES:
        send_frame(place, 0x86DD, make_packet(source, target, message, 58), ALL_NODES_MAC)
    else:
        send_packet(place, source, target, message, 58)


def _packed(address: str) -> bytes:
    return ipaddress.ip_address(address).packed
