"""What workloads may always ask of their host, and what they may send to nobody."""

from __future__ import annotations

import os
import socket
from contextlib import closing

import pytest

from felix.lab.names import GATEWAY_V6
from felix.lab.place import Place
from tests.fv.test_host_traffic import CLOSED, restart
from tests.support.flows import OPEN_S, SHUT_S
from tests.support.frames import make_udp, send_packet
from tests.support.fv import Fleet
from tests.support.nft import count_dropped

pytestmark = pytest.mark.fv


def test_workload_asks_its_host_for_names_and_addresses_although_policy_denies_everything(fleet: Fleet) -> None:
    with fleet.stored(CLOSED):
        fleet.check_packets(("udp 53 to h1",), ("tcp 53 to h1", "udp 54 to h1", "udp 53 to near", "udp 53 to h2"))
        assert is_asked(fleet, "0.0.0.0", "255.255.255.255", (68, 67))
        assert is_asked(fleet, fleet.sites["client"].ipv4, fleet.h1.ipv4, (68, 67))
        assert is_asked(fleet, "fe80::bad", GATEWAY_V6, (546, 547))
        assert not is_asked(fleet, "0.0.0.0", "255.255.255.255", (69, 67))
        assert not is_asked(fleet, "fe80::bad", GATEWAY_V6, (547, 547))


def test_answers_of_a_dhcp_server_in_a_workload_reach_nobody(fleet: Fleet) -> None:
    before = count_dropped(fleet.h1, "advertised")
    fleet.check_packets(("udp 68 from 66 to near",), ("4 udp 68 from 67 to near", "6 udp 546 from 547 to near"))
    assert count_dropped(fleet.h1, "advertised") >= before + 2


def test_packets_in_packets_of_a_workload_are_dropped_unless_allowed(fleet: Fleet) -> None:
    wrapped = ("udp 4789", "ip 4")
    before = count_dropped(fleet.h1, "encapsulated")
    fleet.check(("udp 4788", "ip 253"), wrapped)
    assert count_dropped(fleet.h1, "encapsulated") >= before + 8
    fleet.check_packets(("outside udp 4789 to near", "outside ip 4 to near"), ())
    allowed = {"FELIX_ALLOWVXLANPACKETSFROMWORKLOADS": "true", "FELIX_ALLOWIPIPPACKETSFROMWORKLOADS": "true"}
    try:
        restart(fleet, allowed)
        fleet.check_packets(wrapped, ())
        restart(fleet, {**allowed, "FELIX_VXLANPORT": "8472", "FELIX_ALLOWVXLANPACKETSFROMWORKLOADS": "false"})
        fleet.check_packets(("udp 4789", "ip 4"), ("udp 8472",))
    finally:
        restart(fleet, {})


def is_asked(fleet: Fleet, source: str, target: str, ports: tuple[int, int]) -> bool:
    """Returns whether a datagram of the client that says it comes from `source` reaches a program of its host."""
    mark = os.urandom(16)
    with closing(_open_server(fleet.h1, 6 if ":" in source else 4, ports[1])) as server:
        is_hopeless = ports not in ((68, 67), (546, 547))
        server.settimeout(SHUT_S if is_hopeless else OPEN_S)
        send_packet(fleet.sites["client"].place, source, target, make_udp(source, target, ports, mark), 17)
        try:
            return server.recv(64) == mark
        except TimeoutError:
            return False


def _open_server(place: Place, version: int, port: int) -> socket.socket:
    family = socket.AF_INET if version == 4 else socket.AF_INET6
    server = place.call(lambda: socket.socket(family, socket.SOCK_DGRAM))
    server.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
    if version == 6:
        server.setsockopt(socket.IPPROTO_IPV6, socket.IPV6_V6ONLY, 1)
    server.bind(("", port))
    return server
