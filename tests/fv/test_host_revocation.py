"""Open connections at the host's own interfaces are cut when policy there ceases to allow them; no others are, and
failsafes never.
"""

from __future__ import annotations

import sys
from collections.abc import Iterator, Sequence
from contextlib import contextmanager, suppress
from pathlib import Path

import pytest

from felix.lab.store import Json
from tests.fv.test_host_endpoints import HEP, translating
from tests.fv.test_revocation import check_dry, kept_busy, opened, pouring, read_ids, wait_cut
from tests.support import refusing_agent
from tests.support.flows import Site
from tests.support.fv import ENVIRONMENT, Fleet

pytestmark = [pytest.mark.fv, pytest.mark.alone]

OPEN_HEP = HEP.replace("eth0}", "eth0, profiles: [open]}")
TO_HOST = ("outside tcp 80 to h1", "outside udp 80 to h1")
FROM_HOST = ("h1 tcp 80 to outside", "h1 udp 81 to outside")
FAILSAFES = ("outside tcp 22 to h1", "h1 udp 53 to outside")
PASSED_ON = ("outside tcp 80 to near", "udp 53 to far", "h1 tcp 80 to near")


def check_cut(fleet: Fleet, manifest: str, *, ended: Sequence[str], kept: Sequence[str]) -> None:
    """The manifest ends some connections of h1 and leaves others what they were."""
    with opened(fleet, *ended, *kept) as connections:
        gone = [one for text in ended for one in connections[text]]
        rest = [one for text in kept for one in connections[text]]
        before = read_ids(fleet.h1, rest)
        assert len(before) == len(rest)
        with kept_busy(rest), fleet.stored(manifest):
            wait_cut(fleet.h1, gone)
            assert read_ids(fleet.h1, rest) == before


def test_host_endpoint_that_appears_cuts_what_is_for_the_host_or_from_it_but_failsafes(fleet: Fleet) -> None:
    check_cut(fleet, HEP, ended=(*TO_HOST, *FROM_HOST), kept=(*FAILSAFES, *PASSED_ON))


def test_policy_of_the_host_cuts_what_it_denies_in_both_directions(fleet: Fleet) -> None:
    policy = """
{kind: GlobalNetworkPolicy, name: default.served, spec: {selector: role == 'edge', types: [Ingress, Egress],
 ingress: [{action: Deny, protocol: TCP}, {action: Allow}],
 egress: [{action: Deny, protocol: UDP}, {action: Allow}]}}"""
    with fleet.stored(OPEN_HEP):
        kept = (TO_HOST[1], FROM_HOST[0], *FAILSAFES, *PASSED_ON)
        check_cut(fleet, policy, ended=(TO_HOST[0], FROM_HOST[1]), kept=kept)


def test_address_that_leaves_a_set_loses_its_connections_to_the_host(fleet: Fleet) -> None:
    outside, h2 = fleet.sites["outside"], fleet.sites["h2"]
    policy = """
{kind: GlobalNetworkPolicy, name: default.friends, spec: {selector: role == 'edge', types: [Ingress],
 ingress: [{action: Allow, source: {selector: kind == 'friend'}}]}}"""
    both = [outside.ipv4, outside.ipv6, h2.ipv4, h2.ipv6]
    friends = "\n{kind: GlobalNetworkSet, name: friends, labels: {kind: friend}, spec: {nets: [%s]}}"
    with fleet.stored(friends % ", ".join(f"'{one}'" for one in both)), fleet.stored(policy), fleet.stored(OPEN_HEP):
        fewer = friends % ", ".join(f"'{one}'" for one in both[2:])
        check_cut(fleet, fewer, ended=TO_HOST, kept=("h2 tcp 80 to h1", *FROM_HOST, *FAILSAFES))


def test_policy_for_forwarded_traffic_cuts_what_passes_through_and_nothing_else(fleet: Fleet) -> None:
    policy = """
{kind: GlobalNetworkPolicy, name: default.passing, spec: {selector: role == 'edge', applyOnForward: true, order: 1,
 types: [Ingress, Egress], ingress: [{action: Deny, protocol: TCP, destination: {ports: [80]}}, {action: Allow}],
 egress: [{action: Deny, protocol: UDP}, {action: Allow}]}}"""
    with fleet.stored(OPEN_HEP):
        check_cut(
            fleet,
            policy,
            ended=("outside tcp 80 to near", "udp 53 to far"),
            kept=("outside udp 53 to near", "tcp 80 to near", "tcp 80 to far", "h1 tcp 80 to near", *FAILSAFES),
        )


def test_policy_before_translation_cuts_by_the_first_destination(fleet: Fleet) -> None:
    policy = """
{kind: GlobalNetworkPolicy, name: default.before, spec: {selector: role == 'edge', applyOnForward: true, preDNAT: true,
 types: [Ingress], ingress: [{action: Deny, protocol: TCP, destination: {ports: [8080]}}]}}"""
    with translating(fleet), fleet.stored(OPEN_HEP):
        check_cut(
            fleet, policy, ended=("outside tcp 8080 to h1",), kept=("outside tcp 80 to near", *TO_HOST, *FAILSAFES)
        )


def test_policy_before_tracking_cuts_what_was_tracked_and_is_denied_now(fleet: Fleet) -> None:
    policy = """
{kind: GlobalNetworkPolicy, name: default.raw, spec: {selector: role == 'edge', applyOnForward: true, doNotTrack: true,
 types: [Ingress], ingress: [{action: Deny, protocol: UDP, destination: {ports: [80]}}]}}"""
    with fleet.stored(OPEN_HEP):
        check_cut(fleet, policy, ended=(TO_HOST[1],), kept=(TO_HOST[0], *FROM_HOST, *FAILSAFES, *PASSED_ON))


def test_host_endpoint_that_goes_leaves_its_connections_to_that_for_all_interfaces(fleet: Fleet) -> None:
    everywhere = "\n{kind: HostEndpoint, name: h1-all, spec: {node: h1, interfaceName: '*'}}"
    with fleet.stored(everywhere), fleet.stored(OPEN_HEP):
        elsewhere = OPEN_HEP.replace("interfaceName: eth0", "interfaceName: eth9")
        check_cut(fleet, elsewhere, ended=(*TO_HOST, *FROM_HOST), kept=(*FAILSAFES, *PASSED_ON))


@pytest.mark.parametrize("version", [4, 6])
def test_download_by_the_host_is_not_taken_up_again_by_the_other_end(fleet: Fleet, version: int) -> None:
    policy = """
{kind: GlobalNetworkPolicy, name: default.quiet, spec: {selector: role == 'edge', types: [Egress], egress: []}}"""
    with fleet.stored(OPEN_HEP), pouring(fleet, "outside", version, 8127, client="h1") as receiver:
        receiver.settimeout(5.0)
        assert receiver.recv(65536)
        with fleet.stored(policy):
            check_dry(receiver)


@contextmanager
def spoofing(fleet: Fleet, address: str) -> Iterator[None]:
    """The client has one more address, which is no endpoint's, and h1 and the fabric know the way to it."""
    client = fleet.lab.workloads["client"]
    fleet.restart_agent({"FELIX_WORKLOADSOURCESPOOFING": "Any"})
    client.configure(f"addr add {address}/32 dev eth0")
    fleet.h1.configure(f"route add {address} dev {client.interface} scope link")
    fleet.sites["alias"] = Site(client, address, fleet.sites["client"].ipv6)
    try:
        yield
    finally:
        del fleet.sites["alias"]
        with suppress(OSError):
            fleet.h1.configure(f"route del {address} dev {client.interface}")
        client.configure(f"addr del {address}/32 dev eth0")
        fleet.restart_agent({})


def test_connection_from_a_spoofed_source_is_cut_by_the_policy_of_its_sender(fleet: Fleet) -> None:
    policy = """
{kind: GlobalNetworkPolicy, name: default.alias, spec: {selector: color == 'green', types: [Egress],
 egress: [{action: Deny, protocol: TCP}, {action: Allow}]}}"""
    prefixes: list[Json] = ["203.0.113.0/24"]
    with spoofing(fleet, "203.0.113.7"), fleet.changed("client", allowSpoofedSourcePrefixes=prefixes):
        check_cut(
            fleet,
            policy,
            ended=("4 alias tcp 80 to near",),
            kept=("4 alias udp 53 to near", "guest tcp 80 to near", "outside tcp 80 to near"),
        )


def test_connection_of_a_chain_that_the_kernel_refuses_is_cut(fleet: Fleet) -> None:
    policy = """
{kind: GlobalNetworkPolicy, name: default.odd, spec: {selector: %s, types: [Ingress],
 ingress: [{action: Allow, protocol: TCP, destination: {ports: [80, 4711]}}, {action: Allow}]}}"""
    fleet.h1.stop_agent()
    command = (sys.executable, str(Path(refusing_agent.__file__)), "4711")
    fleet.h1.start_agent(command, environment=ENVIRONMENT)
    try:
        fleet.h1.wait_agent_ready()
        fleet.wait_up("near")
        check_cut(fleet, policy % "role == 'server'", ended=("tcp 80 to near",), kept=("near tcp 80 to client",))
        with fleet.stored(OPEN_HEP):
            kept = (*FROM_HOST, *FAILSAFES, *PASSED_ON)
            check_cut(fleet, policy % "role == 'edge'", ended=TO_HOST, kept=kept)
    finally:
        fleet.restart_agent({})
