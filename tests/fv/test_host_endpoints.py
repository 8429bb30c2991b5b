"""Host endpoints in the lab: real agents, real packets, and what the rest of the world sees of them."""

from __future__ import annotations

import functools
import socket
import threading
from collections.abc import Iterator
from contextlib import contextmanager, suppress

import pytest

from tests.fv.test_host_traffic import restart
from tests.fv.test_revocation import opened, read_ids
from tests.support.fv import Fleet

pytestmark = pytest.mark.fv

HEP = """
{kind: HostEndpoint, name: h1-eth0, labels: {role: edge}, spec: {node: h1, interfaceName: eth0}}"""
SERVED = """
{kind: GlobalNetworkPolicy, name: default.served, spec: {selector: role == 'edge', types: [Ingress, Egress],
 ingress: [{action: Allow, protocol: TCP, destination: {ports: [80]}}],
 egress: [{action: Allow, protocol: UDP, destination: {ports: [81]}}]}}"""
TO_HOST = ("outside tcp 80 to h1", "outside udp 80 to h1", "h2 icmp 8 to h1", "h2 icmp6 128 to h1")
FROM_HOST = ("h1 tcp 80 to outside", "h1 udp 81 to outside", "h1 icmp 8 to h2", "h1 icmp6 128 to h2")
FAILSAFES = ("outside tcp 22 to h1", "outside tcp 2379 to h1", "h1 tcp 179 to outside", "h1 udp 53 to outside")
PASSED_ON = ("tcp 80 to far", "icmp6 128 to far", "outside tcp 80 to near", "h1 tcp 80 to near", "h1 icmp6 128 to near")


def host_status(fleet: Fleet, name: str) -> str:
    """Returns what the agent of h1 says about a host endpoint."""
    endpoints = fleet.status(fleet.h1).get("endpoints")
    found = endpoints.get(f"HostEndpoint({name})") if isinstance(endpoints, dict) else None
    return f"{found['status']} {found['reason']}".strip() if isinstance(found, dict) else ""


def test_host_endpoint_without_policy_closes_the_host_except_failsafes_and_what_passes_through(fleet: Fleet) -> None:
    fleet.check_packets((*TO_HOST, *FROM_HOST, *FAILSAFES, *PASSED_ON), ())
    with fleet.stored(HEP):
        fleet.check_packets((*FAILSAFES, *PASSED_ON), (*TO_HOST, *FROM_HOST))
        fleet.wait(lambda: host_status(fleet, "h1-eth0") == "up", "the host endpoint to be up")
        status = "/calico/felix/v1/host/h1/endpoint/h1-eth0"
        fleet.wait(lambda: (fleet.lab.store.get(status) or ({}, 0))[0].get("status") == "up", "its status in etcd")
        with fleet.stored(SERVED):
            fleet.check_packets(
                ("outside tcp 80 to h1", "h1 udp 81 to outside", *FAILSAFES, *PASSED_ON),
                (*TO_HOST[1:], FROM_HOST[0], *FROM_HOST[2:]),
            )
        with fleet.stored(HEP.replace("eth0}", "eth0, profiles: [open]}")):
            fleet.check_packets((*TO_HOST, *FROM_HOST, *PASSED_ON), ())
    fleet.wait(lambda: host_status(fleet, "h1-eth0") == "", "the host endpoint to be gone")
    fleet.check_packets((*TO_HOST, *FROM_HOST), ())
    listed = fleet.h1.run(["nft", "list", "table", "inet", "felix"]).stdout
    assert "chain host-" not in listed


def test_host_endpoint_for_all_interfaces_yields_to_one_of_its_own_and_spares_workloads_and_loopback(
    fleet: Fleet,
) -> None:
    everywhere = "\n{kind: HostEndpoint, name: h1-all, labels: {role: none}, spec: {node: h1, interfaceName: '*'}}"
    with fleet.stored(everywhere):
        fleet.check_packets((*FAILSAFES, *PASSED_ON, "h1 tcp 80 to h1"), (*TO_HOST, *FROM_HOST))
        with fleet.stored(HEP), fleet.stored(SERVED):
            fleet.check_packets(("outside tcp 80 to h1", *FAILSAFES), ("outside udp 80 to h1",))


def test_host_endpoint_by_address_follows_the_address_and_of_two_the_lower_key_wins(fleet: Fleet) -> None:
    by_address = "\n{kind: HostEndpoint, name: a-moving, spec: {node: h1, expectedIPs: [10.0.0.77]}}"
    with fleet.stored(by_address), fleet.stored(HEP.replace("eth0}", "eth0, profiles: [open]}")):
        fleet.wait(lambda: host_status(fleet, "a-moving").startswith("down"), "it to wait for its address")
        fleet.check_packets(TO_HOST, ())
        try:
            fleet.h1.configure("addr add 10.0.0.77/32 dev eth0")
            fleet.wait(lambda: host_status(fleet, "a-moving") == "up", "the address to be noticed")
            assert host_status(fleet, "h1-eth0").startswith("error eth0 belongs to HostEndpoint(a-moving)")
            fleet.check_packets(FAILSAFES, TO_HOST)
        finally:
            fleet.h1.configure("addr del 10.0.0.77/32 dev eth0")
        fleet.wait(lambda: host_status(fleet, "h1-eth0") == "up", "the other one to take over")
        fleet.check_packets(TO_HOST, ())


def test_policy_for_forwarded_traffic_decides_about_what_passes_through_only(fleet: Fleet) -> None:
    policy = """
{kind: GlobalNetworkPolicy, name: default.passing, spec: {selector: role == 'edge', applyOnForward: true, order: 1,
 types: [Ingress, Egress], ingress: [{action: Allow, protocol: TCP, destination: {ports: [80]}}],
 egress: [{action: Allow, protocol: TCP, destination: {ports: [80]}}]}}"""
    with fleet.stored(HEP), fleet.stored(policy):
        fleet.check_packets(
            ("outside tcp 80 to near", "tcp 80 to far", "near udp 81 to client", "outside tcp 80 to h1"),
            ("outside tcp 81 to near", "outside icmp6 128 to near", "tcp 81 to far", "icmp 8 to far"),
        )


@contextmanager
def translating(fleet: Fleet) -> Iterator[None]:
    """Somebody's rules lead port 8080 of h1 to port 80 of the container `near`."""
    near = fleet.sites["near"]
    rules = "".join(
        f"{word} daddr {own} tcp dport 8080 dnat {word} to {to}:80; "
        for word, own, to in (("ip", fleet.h1.ipv4, near.ipv4), ("ip6", fleet.h1.ipv6, f"[{near.ipv6}]"))
    )
    hook = "type nat hook prerouting priority -100; policy accept;"
    fleet.h1.run(["nft", f"table inet somebody {{ chain pre {{ {hook} {rules} }}; }}"])
    try:
        yield
    finally:
        fleet.h1.run(["nft", "delete", "table", "inet", "somebody"])


def test_policy_before_translation_sees_the_first_destination_and_its_word_holds_behind_it(fleet: Fleet) -> None:
    policy = """
{kind: GlobalNetworkPolicy, name: default.before, spec: {selector: role == 'edge', applyOnForward: true, preDNAT: true,
 types: [Ingress], ingress: [{action: Allow, protocol: TCP, destination: {ports: [8080]}},
 {action: Deny, protocol: TCP, destination: {ports: [80]}}]}}"""
    closed = """
{kind: GlobalNetworkPolicy, name: default.closed, spec: {selector: role == 'edge', applyOnForward: true,
 types: [Ingress]}}"""
    assert fleet.is_open("outside tcp 80 to near")
    with translating(fleet), fleet.stored(HEP):
        fleet.check_packets(("outside tcp 8080 to h1", "outside tcp 80 to near"), ("outside tcp 80 to h1",))
        with fleet.stored(closed):
            fleet.check_packets((), ("outside tcp 8080 to h1", "outside tcp 80 to near"))
            with fleet.stored(policy):
                fleet.check_packets(("outside tcp 8080 to h1",), ("outside tcp 80 to near", "outside tcp 81 to near"))
        with fleet.stored(policy):
            fleet.check_packets(("outside tcp 8080 to h1",), ("outside tcp 80 to near", "outside tcp 80 to h1"))


def test_untracked_policy_lets_packets_pass_that_connection_tracking_never_sees(fleet: Fleet) -> None:
    policy = """
{kind: GlobalNetworkPolicy, name: default.raw, spec: {selector: role == 'edge', applyOnForward: true, doNotTrack: true,
 types: [Ingress, Egress], ingress: [{action: Allow, protocol: UDP, destination: {ports: [80]}},
 {action: Deny, protocol: UDP, destination: {ports: [82]}}],
 egress: [{action: Allow, protocol: UDP, source: {ports: [80]}}]}}"""
    with fleet.stored(HEP.replace("eth0}", "eth0, profiles: [open]}")), fleet.stored(policy):
        fleet.check_packets(
            ("outside udp 80 to h1", "outside udp 81 to h1", *FAILSAFES),
            ("outside udp 82 to h1", "outside udp 82 to near"),
        )
        tracked = fleet.h1.run(["conntrack", "-L", "-p", "udp"]).stdout
        tracked += fleet.h1.run(["conntrack", "-L", "-p", "udp", "-f", "ipv6"]).stdout
        assert "dport=81 " in tracked
        assert "dport=80 " not in tracked


def test_agent_that_starts_anew_finds_its_host_endpoints_and_writes_nothing(fleet: Fleet) -> None:
    policies = """
{kind: GlobalNetworkPolicy, name: default.before, spec: {selector: role == 'edge', applyOnForward: true, preDNAT: true,
 types: [Ingress], ingress: [{action: Deny, protocol: TCP, destination: {ports: [80, '85:87']}}]}}
---
{kind: GlobalNetworkPolicy, name: default.raw, spec: {selector: role == 'edge', applyOnForward: true, doNotTrack: true,
 types: [Ingress], ingress: [{action: Deny, protocol: UDP, destination: {ports: [82]}}]}}"""
    by_address = HEP.replace("interfaceName: eth0", f"expectedIPs: [{fleet.h1.ipv4}]")
    with fleet.stored(by_address), fleet.stored(policies):
        fleet.check_packets(FAILSAFES, ("outside tcp 86 to h1", "outside udp 82 to h1", "outside tcp 80 to near"))
        restart(fleet, {})
        assert fleet.metric(fleet.h1, 'felix_kernel_writes_total{family="nft"}') == 0
        fleet.check_packets(FAILSAFES, ("outside tcp 86 to h1", "outside udp 82 to h1", "outside tcp 80 to near"))


def test_failsafes_are_those_of_the_settings(fleet: Fleet) -> None:
    own = "tcp:2379,tcp:179,tcp:10.0.0.254/32:77,tcp:192.0.2.0/24:78"
    try:
        restart(fleet, {"FELIX_FAILSAFEINBOUNDHOSTPORTS": own})
        with fleet.stored(HEP):
            fleet.check_packets(
                ("4 outside tcp 77 to h1", "outside tcp 2379 to h1", "h1 udp 53 to outside"),
                ("6 outside tcp 77 to h1", "outside tcp 78 to h1", "outside tcp 22 to h1", "4 h2 tcp 77 to h1"),
            )
    finally:
        restart(fleet, {})


def test_chains_of_host_endpoints_that_somebody_changes_are_mended(fleet: Fleet) -> None:
    def has(kind: str, name: str, text: str) -> bool:
        return text in fleet.h1.run(["nft", "list", kind, "inet", "felix", name]).stdout

    with fleet.stored(HEP):
        for change in ("flush chain inet felix host-input", "delete element inet felix to-host { eth0 }"):
            fleet.h1.run(["nft", change])
            fleet.wait(lambda: has("chain", "host-input", "vmap") and has("map", "to-host", "eth0"), "the mending")
        fleet.check_packets(FAILSAFES, TO_HOST)


class Knocking:
    """Datagrams to a closed port of h1, each from a socket of its own, as many as go; how many came there."""

    def __init__(self, fleet: Fleet, port: int) -> None:
        self._sender, receiver = fleet.sites["outside"].place, fleet.sites["h1"].place
        self._target = fleet.h1.ipv4, port
        self._receiver = receiver.call(lambda: socket.socket(socket.AF_INET, socket.SOCK_DGRAM))
        self._receiver.bind(self._target)
        self._receiver.setblocking(False)
        self._stop = threading.Event()
        self._thread = threading.Thread(target=self._knock)
        self.sent = 0

    def __enter__(self) -> Knocking:
        self._thread.start()
        return self

    def __exit__(self, *_: object) -> None:
        self._stop.set()
        self._thread.join()
        self._receiver.close()

    def count(self) -> int:
        """Returns how many came since the last time."""
        count = 0
        with suppress(BlockingIOError):
            while self._receiver.recv(16):
                count += 1
        return count

    def _knock(self) -> None:
        while not self._stop.is_set():
            with self._sender.call(lambda: socket.socket(socket.AF_INET, socket.SOCK_DGRAM)) as one:
                for _ in range(20):
                    one.sendto(b"x", self._target)
                    self.sent += 1


def test_table_that_is_built_anew_lets_nothing_through_that_policy_denies_and_keeps_what_is_open(fleet: Fleet) -> None:
    """Somebody has changed a hook, which cannot be mended in place."""
    tampering = (
        "delete chain inet felix host-translated; add chain inet felix host-translated "
        "{ type filter hook postrouting priority 7; policy accept; }"
    )

    def count_told() -> int:
        return fleet.h1.agent_log.read_text().count("table inet felix is built anew, since chain host-translated has")

    def hook() -> str:
        listing = ["nft", "-y", "list", "chain", "inet", "felix", "host-translated"]
        return fleet.h1.run(listing, check=False).stdout

    kept = ("outside tcp 80 to h1", "outside tcp 22 to h1", "h1 udp 81 to outside", "outside tcp 80 to near")
    with (
        fleet.stored(HEP),
        fleet.stored(SERVED),
        opened(fleet, *kept) as connections,
        Knocking(fleet, 4444) as knocking,
    ):
        many = [one for flows in connections.values() for one in flows]
        told, before = count_told(), read_ids(fleet.h1, many)

        def is_over(sent: int, lines: int) -> bool:
            return knocking.sent > sent and count_told() == lines

        for number in range(1, 4):
            fleet.h1.run(["nft", tampering])
            fleet.wait(lambda: "priority 0" in hook(), "the table to be mended", 20.0)
            fleet.wait(functools.partial(is_over, knocking.sent + 1000, told + number), "log and packets", 20.0)
        assert knocking.count() == 0
        assert read_ids(fleet.h1, many) == before
        assert all(one.try_one(3.0) for one in many)
        fleet.check_packets(FAILSAFES, TO_HOST[1:])
        listed = fleet.h1.run(["nft", "list", "table", "inet", "felix"]).stdout
        assert "host-guard-" not in listed
