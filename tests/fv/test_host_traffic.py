"""What passes between a workload and the host that it runs on, and interfaces that no endpoint claims."""

from __future__ import annotations

from collections.abc import Iterator

import pytest

from felix.lab.lab import Workload
from felix.lab.names import GATEWAY_V4, GATEWAY_V6, HOST_END_MAC
from felix.lab.place import wait_until
from tests.support.flows import Site
from tests.support.fv import ENVIRONMENT, Fleet
from tests.support.nft import count_dropped

pytestmark = pytest.mark.fv

TO_HOST = ("tcp 80 to h1", "udp 80 to h1", "icmp 8 to h1", "icmp6 128 to h1")
FROM_HOST = ("h1 tcp 80 to near", "h1 udp 53 to near", "h1 icmp 8 to near", "h1 icmp6 128 to near")
CLOSED = """
{kind: GlobalNetworkPolicy, name: default.closed, spec: {selector: all(), types: [Ingress, Egress]}}"""


def test_workload_does_not_reach_its_host_unless_told_but_reaches_the_others(fleet: Fleet) -> None:
    fleet.check_packets(("tcp 80 to h2", "icmp 8 to h2", "icmp6 128 to h2", "tcp 80 to near"), TO_HOST)


def test_host_reaches_its_own_workloads_whatever_policy_says(fleet: Fleet) -> None:
    fleet.check_packets(FROM_HOST, ())
    with fleet.stored(CLOSED):
        fleet.check_packets(FROM_HOST, ("h2 tcp 80 to near", "h2 icmp6 128 to near", "outside tcp 80 to near"))


def test_workload_finds_its_gateway_although_policy_denies_everything(fleet: Fleet) -> None:
    client = fleet.sites["client"].place
    with fleet.stored(CLOSED):
        try:
            client.configure(f"neigh del {GATEWAY_V4} dev eth0", f"neigh del {GATEWAY_V6} dev eth0")
            fleet.check_packets((), ("tcp 80", "icmp 8", "icmp6 128"))
            neighbours = client.run(["ip", "neigh", "show"]).stdout.splitlines()
        finally:
            for gateway in (GATEWAY_V4, GATEWAY_V6):
                client.configure(f"neigh replace {gateway} lladdr {HOST_END_MAC} dev eth0 nud permanent")
    for gateway in (GATEWAY_V4, GATEWAY_V6):
        (line,) = [line for line in neighbours if line.startswith(gateway)]
        assert HOST_END_MAC in line


@pytest.fixture
def accepting(fleet: Fleet) -> Iterator[None]:
    """The agent of h1 leaves traffic from workloads to the host to their policy."""
    restart(fleet, {"FELIX_DEFAULTENDPOINTTOHOSTACTION": "ACCEPT"})
    yield
    restart(fleet, {})


@pytest.mark.usefixtures("accepting")
def test_workload_reaches_its_host_as_its_policy_says_when_the_action_is_accept(fleet: Fleet) -> None:
    fleet.check_packets(TO_HOST, ())
    policy = """
{kind: GlobalNetworkPolicy, name: default.some, spec: {selector: role == 'client', types: [Egress],
 egress: [{action: Allow, protocol: TCP, destination: {ports: [80]}}]}}"""
    with fleet.stored(policy):
        fleet.check_packets(("tcp 80 to h1",), ("tcp 81 to h1", "udp 80 to h1", "icmp 8 to h1", "icmp6 128 to h1"))
    with fleet.stored(CLOSED):
        fleet.check_packets((), TO_HOST)


@pytest.fixture
def stray(fleet: Fleet) -> Iterator[Workload]:
    """A workload on h1 that is wired and even has routes, but no endpoint."""
    workload = fleet.lab.add_workload(
        fleet.h1, "stray", ipv4="192.168.1.40", ipv6="fd00:192:168::1:28", write_endpoint=False
    )
    fleet.sites["stray"] = Site(workload, workload.ipv4, workload.ipv6)
    fleet.h1.configure(
        f"route replace {workload.ipv4} dev {workload.interface} scope link",
        f"route replace {workload.ipv6} dev {workload.interface}",
    )
    yield workload
    fleet.remove("stray")


def test_interface_without_endpoint_is_closed_with_the_agent_running_and_stopped(fleet: Fleet, stray: Workload) -> None:
    closed = ("client tcp 80 to stray", "stray tcp 80 to near", "stray udp 53 to far", "stray icmp6 128 to near")
    to_and_from_host = ("h1 tcp 80 to stray", "stray tcp 80 to h1", "h1 icmp 8 to stray", "stray icmp6 128 to h1")
    before = count_dropped(fleet.h1, "unclaimed")

    fleet.check_packets(("tcp 80 to near",), (*closed, *to_and_from_host))

    assert count_dropped(fleet.h1, "unclaimed") >= before + len(closed)
    fleet.h1.stop_agent()
    try:
        fleet.check_packets(("tcp 80 to near",), (*closed, *to_and_from_host))
    finally:
        restart(fleet, {})
    fleet.check_packets(("tcp 80 to near",), (*closed, *to_and_from_host))


def restart(fleet: Fleet, environment: dict[str, str]) -> None:
    """The agent of h1 has been started anew with these settings, and has looked at everything."""
    fleet.h1.stop_agent()
    fleet.h1.start_agent(environment={**ENVIRONMENT, **environment})
    fleet.h1.wait_agent_ready()
    for name in ("client", "guest", "near"):
        fleet.wait_up(name)
    wait_until(lambda: fleet.is_open("icmp 8 to far"), 20.0, "BGP")
