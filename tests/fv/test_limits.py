"""Limits of endpoints with real packets: packets, connections and bits per second, both ways."""

from __future__ import annotations

import socket
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from contextlib import ExitStack, closing

import pytest

from felix.lab.place import wait_until
from felix.lab.store import Json
from tests.support.flows import Site
from tests.support.fv import Fleet
from tests.support.load import count_delivered, measure_answers, measure_datagrams, measure_stream, open_connections

pytestmark = [pytest.mark.fv, pytest.mark.alone]
_RATE = 8_000_000
_BURST = 2_000_000  # bits
_TOLERANCE = 0.1


def _table(fleet: Fleet) -> list[str]:
    """Returns the lines of the table of h1 in an order that does not depend on who wrote it when."""
    return sorted(fleet.h1.run(["nft", "-s", "list", "table", "inet", "felix"]).stdout.splitlines())


@pytest.mark.parametrize("version", [4, 6])
def test_packet_rates_hold_in_both_directions_for_their_endpoint_alone(fleet: Fleet, version: int) -> None:
    near, client, guest, far = (fleet.sites[name] for name in ("near", "client", "guest", "far"))
    before = _table(fleet)
    controls: dict[str, Json] = {
        "ingressPacketRate": 100,
        "ingressPacketBurst": 10,
        "egressPacketRate": 50,
        "egressPacketBurst": 20,
    }
    with fleet.changed("near", qosControls=controls):
        delivered = count_delivered(client, near, version, 300, 0.6)
        assert 60 <= delivered <= 140  # 10 at once, and 60 in 0.6 s; a machine that is late takes longer
        delivered = count_delivered(near, far, version, 300, 0.6)
        assert 40 <= delivered <= 100
        assert count_delivered(client, guest, version, 300, 0.6) == 300
        assert count_delivered(client, far, version, 300, 0.6) == 300
    assert count_delivered(client, near, version, 300, 0.6) == 300
    assert _table(fleet) == before


@pytest.mark.parametrize("version", [4, 6])
def test_connections_over_the_limit_are_refused_until_others_end(fleet: Fleet, version: int) -> None:
    near, client, guest, far = (fleet.sites[name] for name in ("near", "client", "guest", "far"))
    for site in (near, far):
        site.place.listen(8090)
    fleet.forget_connections()
    with (
        fleet.changed("near", qosControls={"ingressMaxConnections": 3, "egressMaxConnections": 2}),
        ExitStack() as kept,
    ):
        opened = open_connections(client, near, version, 8090, 3)
        assert len(opened) == 3
        for one in opened[1:]:
            kept.enter_context(closing(one))
        assert open_connections(guest, near, version, 8090, 2) == []
        outgoing = open_connections(near, far, version, 8090, 4)
        assert len(outgoing) == 2
        for one in outgoing:
            kept.enter_context(closing(one))
        opened[0].close()
        later: list[object] = []

        def is_room() -> bool:
            later.extend(kept.enter_context(closing(one)) for one in open_connections(guest, near, version, 8090, 1))
            return bool(later)

        wait_until(is_room, 20.0, "room for another connection", 0.1)
        assert open_connections(guest, near, version, 8090, 1) == []
        others = open_connections(client, far, version, 8090, 6)
        assert len(others) == 6
        for one in others:
            one.close()


def test_streams_that_nobody_answers_go_on_when_a_limit_comes_that_is_below_their_number(fleet: Fleet) -> None:
    near, client = fleet.sites["near"], fleet.sites["client"]
    receiver = near.place.call(lambda: socket.socket(socket.AF_INET, socket.SOCK_DGRAM))
    senders = [client.place.call(lambda: socket.socket(socket.AF_INET, socket.SOCK_DGRAM)) for _ in range(4)]
    with ExitStack() as kept:
        for one in (receiver, *senders):
            kept.enter_context(closing(one))
        receiver.settimeout(5.0)
        receiver.bind((near.ipv4, 0))
        for sender in senders:
            sender.bind((client.ipv4, 0))
            sender.connect(receiver.getsockname())

        def send_from_all() -> set[bytes]:
            for number, sender in enumerate(senders):
                sender.send(bytes((number,)))
            return {receiver.recv(16) for _ in senders}

        everybody = send_from_all()
        with fleet.changed("near", qosControls={"ingressMaxConnections": 1}):
            assert send_from_all() == everybody
        with fleet.changed("client", qosControls={"egressMaxConnections": 1}):
            assert send_from_all() == everybody


def measure(source: Site, target: Site, version: int) -> float:
    """Returns how much of the set rate a stream gets.

    The nearest of some tries: what other programs of this machine do takes time away, and a bucket keeps only some.
    """
    rates = []
    for _ in range(4):
        rates.append(measure_stream(source, target, version, skip_bytes=_BURST // 4, seconds=0.7) / _RATE)
        if abs(rates[-1] - 1.0) < _TOLERANCE:
            break
    return min(rates, key=lambda rate: abs(rate - 1.0))


@pytest.mark.parametrize(("rate", "seconds"), [(1_000_000, 5.0), (10_000_000, 1.5), (100_000_000, 1.0)])
def test_streams_both_ways_get_what_was_set_from_a_slow_rate_to_a_fast_one(
    fleet: Fleet, rate: int, seconds: float
) -> None:
    """Of each family one, at once, as connections of which nobody remembers how fast the last one was."""
    near, client, far = (fleet.sites[name] for name in ("near", "client", "far"))
    burst = max(rate // 80, 16_384)

    def measure_both() -> list[float]:
        for site in (near, client, far):
            site.place.run(["ip", "tcp_metrics", "flush"])
        pairs = (far, near, 4), (client, far, 6)
        streams = [pool.submit(measure_stream, *pair, skip_bytes=burst, seconds=seconds) for pair in pairs]
        return [stream.result() / rate for stream in streams]

    with (
        fleet.changed("near", qosControls={"ingressBandwidth": rate}),
        fleet.changed("client", qosControls={"egressBandwidth": rate}),
        ThreadPoolExecutor() as pool,
    ):
        assert nearest(measure_both) == pytest.approx([1.0, 1.0], rel=_TOLERANCE)


@pytest.mark.parametrize("rate", [1_000_000, 10_000_000])
def test_datagrams_both_ways_get_what_was_set(fleet: Fleet, rate: int) -> None:
    near, client, far = (fleet.sites[name] for name in ("near", "client", "far"))
    burst = max(rate // 80, 16_384)
    per_s = 2 * rate // 12_112

    def measure_both() -> list[float]:
        pairs = (far, near, 6), (client, far, 4)
        floods = [
            pool.submit(measure_datagrams, *pair, per_s=per_s, skip_bytes=2 * burst, seconds=1.0) for pair in pairs
        ]
        return [flood.result() / rate for flood in floods]

    with (
        fleet.changed("near", qosControls={"ingressBandwidth": rate}),
        fleet.changed("client", qosControls={"egressBandwidth": rate}),
        ThreadPoolExecutor() as pool,
    ):
        assert nearest(measure_both) == pytest.approx([1.0, 1.0], rel=_TOLERANCE)


def nearest(measure_once: Callable[[], list[float]]) -> list[float]:
    """Returns the shares of some tries that are nearest to one: what others do here takes time away."""
    tries: list[list[float]] = []
    for _ in range(4):
        tries.append(measure_once())
        if max(abs(share - 1.0) for share in tries[-1]) < _TOLERANCE:
            break
    return min(tries, key=lambda shares: max(abs(share - 1.0) for share in shares))


@pytest.mark.parametrize("version", [4, 6])
def test_bandwidth_towards_an_endpoint_is_what_was_set(fleet: Fleet, version: int) -> None:
    near, far = fleet.sites["near"], fleet.sites["far"]
    with fleet.changed("near", qosControls={"ingressBandwidth": _RATE, "ingressBurst": _BURST}):
        for source in (fleet.sites["client"], far):
            assert measure(source, near, version) == pytest.approx(1.0, rel=_TOLERANCE)
    assert measure_stream(far, near, version, skip_bytes=1, seconds=0.2) > 5 * _RATE
    assert "tbf" not in fleet.h1.run(["tc", "qdisc", "show"]).stdout


@pytest.mark.parametrize("version", [4, 6])
def test_bandwidth_of_what_an_endpoint_sends_is_what_was_set(fleet: Fleet, version: int) -> None:
    near, far = fleet.sites["near"], fleet.sites["far"]
    with fleet.changed("near", qosControls={"egressBandwidth": _RATE, "egressBurst": _BURST}):
        for target in (fleet.sites["client"], far):
            assert measure(near, target, version) == pytest.approx(1.0, rel=_TOLERANCE)
    assert measure_stream(near, far, version, skip_bytes=1, seconds=0.2) > 5 * _RATE
    wait_until(lambda: "fxbw-" not in fleet.h1.run(["ip", "link", "show"]).stdout, 20.0, "the device to go")


def test_hog_with_a_limit_leaves_the_rest_to_its_neighbours(fleet: Fleet) -> None:
    hog, critical, far = (fleet.sites[name] for name in ("client", "guest", "far"))
    far.place.listen(5354, "udp")
    with fleet.changed("client", qosControls={"egressBandwidth": _RATE}), ThreadPoolExecutor() as pool:
        hogging = pool.submit(measure_stream, hog, far, 4, skip_bytes=1, seconds=1.5)
        answers = measure_answers(critical, far, 5354, 30)
        rest = measure_stream(critical, far, 4, skip_bytes=1, seconds=0.3)
        assert hogging.result() < 2 * _RATE
    assert answers[-1] < 1.0
    assert rest > 5 * _RATE


def test_shaper_that_somebody_deletes_is_repaired_and_others_are_left(fleet: Fleet) -> None:
    interface = fleet.lab.workloads["near"].interface
    other = fleet.lab.workloads["guest"].interface

    def read(name: str) -> str:
        return fleet.h1.run(["tc", "qdisc", "show", "dev", name, "root"]).stdout

    fleet.h1.run(f"tc qdisc add dev {other} root handle 1: tbf rate 1gbit burst 1mb latency 1ms".split())
    foreign = read(other)
    with fleet.changed("near", qosControls={"ingressBandwidth": _RATE}):
        before = read(interface)
        assert "tbf fe1c:" in before
        for command in (
            "del dev {} root",
            "replace dev {} root handle 1: tbf rate 1mbit burst 10kb latency 10ms",
            "change dev {} root handle fe1c: tbf rate 1mbit burst 10kb latency 10ms",
        ):
            fleet.h1.run(["tc", "qdisc", *command.format(interface).split()])
            wait_until(lambda: read(interface) == before, 20.0, f"tc qdisc {command}")
        fleet.h1.stop_agent()
        fleet.restart_agent({})
        assert read(interface) == before
        assert fleet.metric(fleet.h1, 'felix_kernel_writes{family="qdiscs"}') == 0
    wait_until(lambda: "tbf" not in read(interface), 20.0, "the shaper to go")
    assert read(other) == foreign
    fleet.h1.run(["tc", "qdisc", "del", "dev", other, "root"])


def test_way_through_a_device_that_somebody_breaks_is_mended(fleet: Fleet) -> None:
    interface, near = fleet.lab.workloads["near"].interface, fleet.sites["near"]

    def read() -> list[str]:
        links = fleet.h1.run(["ip", "-br", "link", "show", "type", "ifb"]).stdout.split()
        filters = fleet.h1.run(["tc", "filter", "show", "dev", interface, "ingress"]).stdout.splitlines()
        roots = [fleet.h1.run(["tc", "qdisc", "show", "dev", name, "root"]).stdout for name in links[:1]]
        return [*links[:2], *roots, *(line for line in filters if "Redirect" in line)]

    with fleet.changed("near", qosControls={"egressBandwidth": _RATE}):
        wait_until(lambda: len(read()) == 4, 20.0, "the way through a device")
        before = read()
        device = before[0]
        for command in (
            f"tc filter del dev {interface} ingress",
            f"tc qdisc del dev {interface} clsact",
            f"tc qdisc del dev {device} root",
            f"ip link set {device} down",
            f"ip link del {device}",
        ):
            fleet.h1.run(command.split())
            wait_until(lambda: read() == before, 5.0, command)
        fleet.check_packets(("near tcp 80 to far",), ())
        assert measure_stream(near, fleet.sites["far"], 4, skip_bytes=_BURST // 4, seconds=0.3) < 2 * _RATE
    wait_until(lambda: not read(), 20.0, "nothing to be left")
    fleet.check_packets(("near tcp 80 to far",), ())


def test_restart_with_limits_writes_nothing(fleet: Fleet) -> None:
    controls: dict[str, Json] = {
        "ingressBandwidth": _RATE,
        "egressBandwidth": 8_388_608,
        "ingressPacketRate": 1000,
        "egressPacketRate": 1000,
        "ingressMaxConnections": 100,
        "egressMaxConnections": 100,
        "dscp": "AF41",
    }
    with fleet.changed("near", qosControls=controls):
        table = _table(fleet)
        fleet.restart_agent({})
        for family in ("nft", "qdiscs", "links", "routes"):
            assert fleet.metric(fleet.h1, f'felix_kernel_writes{{family="{family}"}}') == 0
        assert _table(fleet) == table
        fleet.h1.run(["nft", "flush", "map", "inet", "felix", "limits-from"])
        fleet.h1.run(["nft", "delete", "chain", "inet", "felix", "limit-prerouting"])
        wait_until(lambda: _table(fleet) == table, 20.0, "the limits to be back")
        assert fleet.endpoint_status("near") == ("up", "")


def test_bad_limits_are_named_and_limit_nothing(fleet: Fleet) -> None:
    controls: dict[str, Json] = {"ingressPacketRate": 20_000, "dscp": "best", "egressBandwidth": 5}
    with fleet.changed("near", qosControls=controls):
        problems = str(fleet.status(fleet.h1)["problems"])
        for field in ("ingressPacketRate", "dscp", "egressBandwidth"):
            assert f"spec.qosControls.{field}" in problems
        assert fleet.endpoint_status("near") == ("up", "")
        fleet.check_packets(("tcp 80 to near",), ())
