"""Tracked connections of addresses that left: gone, in both directions; all others as they were."""

from __future__ import annotations

import contextlib
import functools
import re
import socket
import time
from collections.abc import Callable, Iterator

import pytest

from felix.dataplane.conntrack.apply import apply_conntrack, count_flows, find_part
from felix.dataplane.conntrack.types import ConntrackResult, OpenFlow
from felix.dataplane.netlink.apply import NetlinkSocket
from felix.dataplane.netlink.message import NETLINK_NETFILTER
from felix.model.net import parse_address
from tests.support.netns import Namespace, private_namespace

pytestmark = pytest.mark.fv

CLIENT = {4: "10.5.0.2", 6: "fd05::2"}
SERVERS = {4: ("10.5.0.1", "10.5.0.3"), 6: ("fd05::1", "fd05::3")}


@pytest.fixture
def host() -> Iterator[Namespace]:
    """A host that tracks connections, with a client behind an interface and two server addresses of its own."""
    with private_namespace("ct") as host, private_namespace("ct") as client:
        host.ip(f"link add calia type veth peer name eth0 netns {client.name}")
        for namespace, device, addresses in (
            (host, "calia", [*SERVERS[4], *SERVERS[6]]),
            (client, "eth0", list(CLIENT.values())),
        ):
            namespace.ip(f"link set {device} up")
            for address in addresses:
                namespace.ip(f"addr add {address}/{'64 nodad' if ':' in address else '24'} dev {device}")
        host.execute("nft", "add table inet t; add chain inet t c { type filter hook input priority 0; }")
        host.execute("nft", "add rule inet t c ct state established accept")

        for version in (4, 6):
            for server in SERVERS[version]:
                client.run(functools.partial(send, version, server))
        wait_until(lambda: all(server in tracked(host) for servers in SERVERS.values() for server in servers))
        yield host


def send(version: int, server: str) -> None:
    """One datagram from the calling thread's namespace."""
    family = socket.AF_INET if version == 4 else socket.AF_INET6
    with socket.socket(family, socket.SOCK_DGRAM) as sock:
        sock.sendto(b"x", (server, 9))


def wait_until(is_true: Callable[[], bool]) -> None:
    """Returns once `is_true`; fails after five seconds."""
    deadline = time.monotonic() + 5
    while not is_true():
        assert time.monotonic() < deadline
        time.sleep(0.01)


def tracked(host: Namespace) -> set[str]:
    """The destinations of all tracked connections."""
    listing = host.execute("conntrack", "-L", "-f", "ipv4") + host.execute("conntrack", "-L", "-f", "ipv6")
    destinations = re.findall(r"src=\S+ dst=(\S+)", listing)
    return {str(parse_address(one).address) for one in destinations}


def flush(host: Namespace, *addresses: str) -> ConntrackResult:
    planned = frozenset(parse_address(address) for address in addresses)

    def open_and_apply() -> ConntrackResult:
        with contextlib.closing(NetlinkSocket(NETLINK_NETFILTER)) as netlink:
            return apply_conntrack(netlink, planned)

    return host.run(open_and_apply)


@pytest.mark.parametrize("version", [4, 6])
def test_flushed_destination_loses_its_entries_and_no_other_does(host: Namespace, version: int) -> None:
    gone, kept = SERVERS[version]
    before = tracked(host)
    result = flush(host, gone)
    assert (result.removed_count, result.reason) == (1, "")
    assert tracked(host) == before - {gone}
    assert kept in tracked(host)
    assert flush(host, gone).removed_count == 0


def test_flushed_source_loses_all_its_entries_of_that_family(host: Namespace) -> None:
    result = flush(host, CLIENT[4], "10.99.0.1")
    assert result.removed_count == 2
    assert not tracked(host) & set(SERVERS[4])
    assert set(SERVERS[6]) <= tracked(host)


def test_address_behind_translation_is_found_by_the_other_tuple(host: Namespace) -> None:
    host.execute("nft", "add chain inet t nat { type nat hook output priority -100; }")
    host.execute("nft", "add rule inet t nat ip daddr 10.88.0.1 dnat ip to 10.5.0.2")
    host.ip("route add 10.88.0.1 dev calia")
    host.run(functools.partial(send, 4, "10.88.0.1"))
    wait_until(lambda: "10.88.0.1" in tracked(host))
    assert flush(host, CLIENT[4]).removed_count == 3
    assert "10.88.0.1" not in tracked(host)


@pytest.mark.parametrize("parts", [1, 2, 5])
def test_parts_together_are_every_entry_and_each_is_in_one(host: Namespace, parts: int) -> None:
    def read() -> list[OpenFlow]:
        with contextlib.closing(NetlinkSocket(NETLINK_NETFILTER)) as netlink:
            assert count_flows(netlink) >= 4
            return [flow for part in range(parts) for flow in find_part(netlink, part, parts).flows]

    flows = host.run(read)
    assert len({flow.removal for flow in flows}) == len(flows)
    assert {parse_address(one) for servers in SERVERS.values() for one in servers} <= {
        flow.packet.destination_net for flow in flows
    }


def test_nothing_planned_makes_no_system_call() -> None:
    with contextlib.closing(NetlinkSocket(NETLINK_NETFILTER)) as netlink:
        netlink.close()  # a call would fail
        assert apply_conntrack(netlink, frozenset()) == ConntrackResult()
