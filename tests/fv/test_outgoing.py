"""Traffic of pools with natOutgoing: from which address the others see it come, with real packets."""

from __future__ import annotations

import re
import socket
from collections.abc import Iterator
from contextlib import contextmanager

import pytest

from felix.lab.place import wait_until
from tests.support.fv import RESOURCES, Fleet
from tests.support.translation import is_answered, read_source

pytestmark = pytest.mark.fv
POOL_PATHS = [RESOURCES + f"ippools/{name}" for name in ("default-ipv4-ippool", "default-ipv6-ippool")]


@contextmanager
def hiding(fleet: Fleet) -> Iterator[None]:
    """The pools of the lab hide behind their hosts."""
    befores = {path: found[0] for path in POOL_PATHS if (found := fleet.lab.store.get(path)) is not None}
    assert len(befores) == len(POOL_PATHS)
    try:
        for path, document in befores.items():
            spec = document["spec"]
            assert isinstance(spec, dict)
            fleet.wait_applied(fleet.lab.store.put(path, {**document, "spec": {**spec, "natOutgoing": True}}))
        yield
    finally:
        for path, document in befores.items():
            fleet.wait_applied(fleet.lab.store.put(path, document))
        fleet.forget_connections()


def test_pool_hides_behind_its_host_towards_the_outside_only(fleet: Fleet) -> None:
    client, far, outside, h1 = (fleet.sites[name] for name in ("client", "far", "outside", "h1"))
    for version in (4, 6):
        assert read_source(client, outside, version)[0] == client.address(version)
    with hiding(fleet):
        for version in (4, 6):
            assert read_source(client, outside, version)[0] == h1.address(version)
            assert read_source(client, outside, version, socket.SOCK_STREAM)[0] == h1.address(version)
            assert read_source(client, far, version)[0] == client.address(version)
            assert read_source(client, fleet.sites["near"], version)[0] == client.address(version)
            assert read_source(client, fleet.sites["h2"], version)[0] == h1.address(version)
            assert is_answered(client, outside, version)
        fleet.check_packets(("tcp 80", "icmp 8", "icmp6 128", "icmp 8 to outside", "icmp6 128 to outside"), ())
    for version in (4, 6):
        assert read_source(client, outside, version)[0] == client.address(version)
    assert "nat" not in fleet.h1.run(["nft", "list", "table", "inet", "felix"]).stdout


def read_chain(fleet: Fleet) -> str:
    """Returns the chain that hides outgoing traffic on h1, empty when there is none."""
    return fleet.h1.run(["nft", "-s", "list", "chain", "inet", "felix", "nat-postrouting"], check=False).stdout


def test_chain_that_somebody_deletes_is_repaired(fleet: Fleet) -> None:
    client, outside = fleet.sites["client"], fleet.sites["outside"]
    with hiding(fleet):
        before = read_chain(fleet)
        for command in ("flush chain inet felix nat-postrouting", "delete chain inet felix nat-postrouting"):
            fleet.h1.run(["nft", "-f", "-"], stdin=command)
            wait_until(lambda: read_chain(fleet) == before, 20.0, "the chain to be back")
        fleet.forget_connections()
        assert read_source(client, outside, 4)[0] == fleet.h1.ipv4


@pytest.fixture
def tuned(fleet: Fleet) -> Iterator[None]:
    """The agent of h1 hides behind another address, with few ports, and not from hosts."""
    fleet.h1.configure("addr add 10.0.0.201/32 dev eth0")
    fleet.restart_agent(
        {
            "FELIX_NATOUTGOINGADDRESS": "10.0.0.201",
            "FELIX_NATPORTRANGE": "40000:40007",
            "FELIX_NATOUTGOINGEXCLUSIONS": "IPPoolsAndHostIPs",
            "FELIX_IPTABLESNATOUTGOINGINTERFACEFILTER": "eth+",
        },
    )
    yield
    fleet.restart_agent({})
    fleet.h1.configure("addr del 10.0.0.201/32 dev eth0")


@pytest.mark.usefixtures("tuned")
def test_settings_say_what_is_hidden_and_how(fleet: Fleet) -> None:
    client, outside = fleet.sites["client"], fleet.sites["outside"]
    with hiding(fleet):
        for kind in (socket.SOCK_DGRAM, socket.SOCK_STREAM):
            address, port = read_source(client, outside, 4, kind)
            assert address == "10.0.0.201"
            assert 40000 <= port <= 40007
            address, port = read_source(client, outside, 6, kind)
            assert address == fleet.h1.ipv6
            assert 40000 <= port <= 40007
        assert read_source(client, fleet.sites["h2"], 4)[0] == client.ipv4
        assert read_source(client, fleet.sites["h2"], 6)[0] == client.ipv6
        fleet.check_packets(("icmp 8 to outside",), ())
        before = re.sub("handle.*", "", fleet.h1.run(["nft", "-s", "list", "table", "inet", "felix"]).stdout)
        assert "40000-40007" in before
