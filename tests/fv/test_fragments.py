"""Datagrams that come in fragments meet the fate of whole ones: policy knows their ports, named ones too."""

from __future__ import annotations

import socket

import pytest

from tests.support.flows import OPEN_S, SHUT_S
from tests.support.fv import Fleet

pytestmark = pytest.mark.fv

_LARGE = bytes(4000)  # three fragments
_NAMED = """
{kind: GlobalNetworkPolicy, name: default.dns, spec: {selector: role == 'server', types: [Ingress],
 ingress: [{action: Allow, protocol: UDP, destination: {selector: all(), ports: [dns]}}]}}"""
_HOST = """
{kind: HostEndpoint, name: h1-eth0, labels: {role: edge}, spec: {node: h1, interfaceName: eth0}}
---
{kind: GlobalNetworkPolicy, name: default.raw, spec: {selector: role == 'edge', applyOnForward: true, doNotTrack: true,
 types: [Ingress], ingress: [{action: Deny, protocol: UDP, destination: {ports: [82]}}]}}
---
{kind: GlobalNetworkPolicy, name: default.served, spec: {selector: role == 'edge', types: [Ingress],
 ingress: [{action: Allow, protocol: UDP, destination: {ports: ['80:82']}}]}}"""


def is_answered(fleet: Fleet, source: str, target: str, version: int, port: int, *, wait_s: float) -> bool:
    """Whether something comes back for a datagram that is larger than any packet."""
    family = socket.AF_INET if version == 4 else socket.AF_INET6
    with fleet.sites[source].place.call(lambda: socket.socket(family, socket.SOCK_DGRAM)) as one:
        one.settimeout(wait_s)
        one.connect((fleet.sites[target].address(version), port))
        try:
            one.send(_LARGE)
            return bool(one.recv(65536))
        except (TimeoutError, ConnectionRefusedError):
            return False


def check(fleet: Fleet, source: str, target: str, *, allowed: int, denied: int) -> None:
    for version in (4, 6):
        assert is_answered(fleet, source, target, version, allowed, wait_s=OPEN_S), f"IPv{version} {source} to {target}"
        assert not is_answered(fleet, source, target, version, denied, wait_s=SHUT_S), (
            f"IPv{version} {source} to {target}"
        )


def test_fragments_to_a_workload_meet_the_policy_of_their_datagram(fleet: Fleet) -> None:
    fleet.check_packets(("udp 53", "udp 54", "outside udp 54 to near"), ())  # somebody listens there
    with fleet.stored(_NAMED):
        fleet.forget_connections()
        for source, target in (("client", "near"), ("client", "far"), ("outside", "near")):
            check(fleet, source, target, allowed=53, denied=54)


def test_fragments_to_a_host_meet_the_policy_of_their_datagram(fleet: Fleet) -> None:
    fleet.check_packets(("outside udp 81 to h1", "outside udp 82 to h1", "outside udp 83 to h1"), ())
    with fleet.stored(_HOST):
        fleet.forget_connections()
        for denied in (82, 83):  # before connections are tracked, and after
            check(fleet, "outside", "h1", allowed=81, denied=denied)
