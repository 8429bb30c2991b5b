"""One workload floods: its neighbours keep their answers, the host its table of connections; and classes of packets."""

from __future__ import annotations

import socket
from collections.abc import Iterator
from contextlib import closing

import pytest

from tests.support.flows import Site
from tests.support.fv import Fleet
from tests.support.load import flooding, measure_answers, open_connections, read_conntrack
from tests.support.nft import count_dropped

pytestmark = [pytest.mark.fv, pytest.mark.alone]
_PER_S, _FLOOD_S = 3000, 1.5
_RATE, _BURST = 50, 50
_SILENT = "{kind: GlobalNetworkPolicy, name: default.silent, spec: {selector: grade == 'silver', types: [Ingress]}}"
"""The container `far` answers nothing: connections to it stay half open."""


@pytest.fixture(scope="module")
def guarded(fleet: Fleet) -> Iterator[None]:
    """The agent of h1 lets one source open few connections a second."""
    settings = {"FELIX_NEWCONNECTIONRATEPERSOURCE": str(_RATE), "FELIX_NEWCONNECTIONBURSTPERSOURCE": str(_BURST)}
    fleet.restart_agent(settings)
    fleet.sites["near"].place.listen(5353, "udp")
    yield
    fleet.restart_agent({})


@pytest.mark.usefixtures("guarded")
@pytest.mark.parametrize("kind", ["syn", "udp", "icmp"])
def test_flood_of_new_connections_costs_neither_neighbours_nor_the_host(fleet: Fleet, kind: str) -> None:
    client, guest, near, far, h1 = (fleet.sites[name] for name in ("client", "guest", "near", "far", "h1"))
    fleet.forget_connections()
    dropped = count_dropped(fleet.h1, "flooding")

    with fleet.stored(_SILENT), flooding(kind, client, far, per_s=_PER_S, seconds=_FLOOD_S):
        answers = measure_answers(guest, near, 5353, 60)
    tracked = read_conntrack(h1)

    assert answers[-1] < 1.0  # every question was answered
    assert tracked < 10 * _RATE
    assert count_dropped(fleet.h1, "flooding") > dropped + _PER_S * _FLOOD_S / 4
    near.place.listen(8092)
    opened = open_connections(guest, near, 4, 8092, 5)
    for one in opened:
        one.close()
    assert len(opened) == 5


def test_packet_rate_stops_a_flood_before_the_host_tracks_it(fleet: Fleet) -> None:
    client, guest, near, far, h1 = (fleet.sites[name] for name in ("client", "guest", "near", "far", "h1"))
    near.place.listen(5353, "udp")
    with fleet.changed("client", qosControls={"egressPacketRate": 100, "egressPacketBurst": 100}):
        fleet.forget_connections()
        with flooding("udp", client, far, per_s=_PER_S, seconds=_FLOOD_S):
            answers = measure_answers(guest, near, 5353, 60)
        assert read_conntrack(h1) < 600
        assert answers[-1] < 1.0


@pytest.mark.parametrize("version", [4, 6])
def test_packets_that_leave_the_pools_carry_their_class(fleet: Fleet, version: int) -> None:
    near, outside, far = (fleet.sites[name] for name in ("near", "outside", "far"))
    for dscp, number in (("EF", 46), (10, 10)):
        with fleet.changed("near", qosControls={"dscp": dscp}):
            assert read_class(near, outside, version) == number
            assert read_class(near, far, version) == 0
    assert read_class(near, outside, version) == 0


def read_class(source: Site, target: Site, version: int) -> int:
    """Returns the class with which a datagram comes to the target."""
    family = socket.AF_INET if version == 4 else socket.AF_INET6
    receiver = target.place.call(lambda: socket.socket(family, socket.SOCK_DGRAM))
    sender = source.place.call(lambda: socket.socket(family, socket.SOCK_DGRAM))
    with closing(receiver), closing(sender):
        receiver.settimeout(2.0)
        receiver.bind((target.address(version), 8093))
        if version == 4:
            receiver.setsockopt(socket.IPPROTO_IP, 13, 1)  # IP_RECVTOS
        else:
            receiver.setsockopt(socket.IPPROTO_IPV6, 66, 1)  # IPV6_RECVTCLASS
        sender.bind((source.address(version), 0))
        sender.sendto(b"x", (target.address(version), 8093))
        _, ancillary, _, _ = receiver.recvmsg(16, 64)
        return int(ancillary[0][2][0]) >> 2
