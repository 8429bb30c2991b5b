"""What a stored endpoint may ask for ends at workload interfaces: the host's own connections are not its to change."""

from __future__ import annotations

import pytest

from felix.lab.place import wait_until
from felix.lab.store import Document, Json
from tests.support.fv import Fleet, make_path

pytestmark = pytest.mark.fv

_NAME = "h1-cni-grasping-eth0"
_UPLINK = (
    "for one in proxy_arp forwarding rp_filter; do cat /proc/sys/net/ipv4/conf/eth0/$one; done;"
    "for one in accept_ra forwarding; do cat /proc/sys/net/ipv6/conf/eth0/$one; done;"
    "ip -4 route show dev eth0; ip -6 route show dev eth0; ip neigh show nud permanent dev eth0"
)


def test_endpoint_that_names_the_uplink_changes_nothing_on_it(fleet: Fleet) -> None:
    before = fleet.h1.run(["sh", "-c", _UPLINK]).stdout
    path = make_path("WorkloadEndpoint", "blue", _NAME)
    addresses: list[Json] = [
        f"{fleet.sites['outside'].ipv4}/32",
        f"{fleet.h2.ipv4}/32",
        f"{fleet.h2.ipv6}/128",
        "192.168.1.50/32",
    ]
    spec: Document = {"node": "h1", "interfaceName": "eth0", "ipNetworks": addresses, "mac": "02:00:00:00:0b:ad"}
    try:
        revision = fleet.put("WorkloadEndpoint", _NAME, spec, namespace="blue")
        fleet.wait_host_applied(fleet.h1, revision)
        assert _NAME in str(fleet.status(fleet.h1)["endpoints"])
        assert "not a workload interface" in str(fleet.status(fleet.h1)["endpoints"])
        assert fleet.h1.run(["sh", "-c", _UPLINK]).stdout == before
        assert fleet.is_open("client tcp 80 to far")
        assert fleet.is_open("client tcp 80 to outside")
    finally:
        fleet.lab.store.delete(path)
    wait_until(lambda: _NAME not in str(fleet.status(fleet.h1)["endpoints"]), 20.0, "the endpoint is forgotten")
    assert fleet.h1.run(["sh", "-c", _UPLINK]).stdout == before
