"""External addresses of endpoints: from the outside, from their own workload, from its neighbours, and back."""

from __future__ import annotations

import socket
from collections.abc import Iterator

import pytest

from felix.lab.place import wait_until
from felix.lab.store import Json
from tests.support.fv import RESOURCES, Fleet
from tests.support.translation import is_answered, read_source

pytestmark = pytest.mark.fv
EXTERNAL = {4: "172.30.0.9", 6: "fd00:172:30::9"}
POOLS = {4: "172.30.0.0/24", 6: "fd00:172:30::/122"}


@pytest.fixture
def floating(fleet: Fleet) -> Iterator[None]:
    """The agent of h1 has external addresses enabled, for which there are pools; the outside reaches them by h1."""
    fleet.restart_agent({"FELIX_FLOATINGIPS": "Enabled"})
    ways = [
        f"route add {POOLS[version]} via {gateway}" for version, gateway in ((4, fleet.h1.ipv4), (6, fleet.h1.ipv6))
    ]
    fleet.lab.fabric.configure(*ways)
    for version, cidr in POOLS.items():
        spec: dict[str, Json] = {"cidr": cidr, "blockSize": 26 if version == 4 else 122, "assignmentMode": "Manual"}
        path = RESOURCES + f"ippools/floating{version}"
        metadata: dict[str, Json] = {"name": f"floating{version}"}
        document: dict[str, Json] = {"apiVersion": "projectcalico.org/v3", "kind": "IPPool", "metadata": metadata}
        fleet.lab.store.put(path, {**document, "spec": spec})
    yield
    for version in POOLS:
        fleet.lab.store.delete(RESOURCES + f"ippools/floating{version}")
    fleet.lab.fabric.configure(*(way.replace(" add ", " del ") for way in ways))
    fleet.restart_agent({})


def nats(fleet: Fleet, name: str = "near") -> list[Json]:
    """Returns the external addresses for a container, as its endpoint has them."""
    site = fleet.sites[name]
    return [{"internalIP": site.address(version), "externalIP": EXTERNAL[version]} for version in (4, 6)]


def is_learnt(fleet: Fleet, version: int) -> bool:
    """Whether BIRD has brought h2 the route to the external address."""
    return EXTERNAL[version] in fleet.h2.run(["ip", f"-{version}", "route", "show", "proto", "bird"]).stdout


@pytest.mark.usefixtures("floating")
def test_external_address_leads_to_its_endpoint_from_everywhere_and_back(fleet: Fleet) -> None:
    near, outside, client, far, h1 = (fleet.sites[name] for name in ("near", "outside", "client", "far", "h1"))
    for version, external in EXTERNAL.items():
        assert not is_answered(outside, near, version, to=external)
    with fleet.changed("near", ipNATs=nats(fleet)):
        for version, external in EXTERNAL.items():
            for kind in (socket.SOCK_DGRAM, socket.SOCK_STREAM):
                assert read_source(outside, near, version, kind, to=external)[0] == outside.address(version)
                assert read_source(client, near, version, kind, to=external)[0] == client.address(version)
                assert read_source(near, near, version, kind, to=external)[0] == external
                assert read_source(near, outside, version, kind)[0] == external
                assert read_source(near, client, version, kind)[0] == near.address(version)
                assert read_source(near, far, version, kind)[0] == near.address(version)
                assert read_source(outside, near, version, kind)[0] == outside.address(version)
                assert read_source(h1, near, version, kind, to=external)
        # BGP tells the others the way.
        wait_until(lambda: all(is_learnt(fleet, version) for version in EXTERNAL), 20.0, "routes by BGP")
        for version, external in EXTERNAL.items():
            assert read_source(far, near, version, to=external)[0] == far.address(version)
        with fleet.stored(
            "{kind: GlobalNetworkPolicy, name: default.none, spec: {selector: role == 'server', types: [Ingress]}}"
        ):
            fleet.forget_connections()
            for version, external in EXTERNAL.items():
                assert not is_answered(outside, near, version, to=external)
    fleet.forget_connections()
    for version, external in EXTERNAL.items():
        assert not is_answered(outside, near, version, to=external)
        assert read_source(near, outside, version)[0] == near.address(version)
    assert "floating" not in fleet.h1.run(["nft", "list", "table", "inet", "felix"]).stdout


@pytest.mark.usefixtures("floating")
def test_external_address_moves_with_its_connections_and_survives_a_restart(fleet: Fleet) -> None:
    near, guest, outside = (fleet.sites[name] for name in ("near", "guest", "outside"))
    near.place.listen(8091)
    guest.place.listen(8091)
    with fleet.changed("near", ipNATs=nats(fleet)):
        kept = outside.place.open(EXTERNAL[4], 8091)
        with kept:
            fleet.h1.stop_agent()
            fleet.restart_agent({"FELIX_FLOATINGIPS": "Enabled"})
            assert fleet.metric(fleet.h1, 'felix_kernel_writes{family="nft"}') == 0
            assert fleet.metric(fleet.h1, 'felix_kernel_writes{family="routes"}') == 0
            kept.sendall(b"still there")
            assert kept.recv(64) == b"still there"
        fleet.h1.run(["nft", "flush", "map", "inet", "felix", "floating-in4"])
        wait_until(lambda: is_answered(outside, near, 4, to=EXTERNAL[4]), 20.0, "the map to be filled again")
    with fleet.changed("guest", ipNATs=nats(fleet, "guest")):
        assert read_source(outside, guest, 4, to=EXTERNAL[4])[0] == outside.ipv4


@pytest.mark.usefixtures("floating")
def test_external_address_that_two_claim_or_somebody_has_is_one_endpoints_and_named(fleet: Fleet) -> None:
    near, client, outside = (fleet.sites[name] for name in ("near", "client", "outside"))
    with fleet.changed("client", ipNATs=nats(fleet, "client")), fleet.changed("near", ipNATs=nats(fleet)):
        winners = [site for site in (near, client) if is_answered(outside, site, 4, to=EXTERNAL[4])]
        assert len(winners) == 1
        problems = str(fleet.status(fleet.h1)["problems"])
        assert "spec.ipNATs" in problems
        assert EXTERNAL[4] in problems
    stolen: list[Json] = [{"internalIP": near.ipv4, "externalIP": client.ipv4}]
    with fleet.changed("near", ipNATs=stolen):
        fleet.forget_connections()
        assert read_source(outside, client, 4)[0] == outside.ipv4
        assert "spec.ipNATs" in str(fleet.status(fleet.h1)["problems"])


def test_external_addresses_where_they_are_disabled_do_nothing_and_the_endpoint_says_so(fleet: Fleet) -> None:
    before = fleet.h1.run(["ip", "route", "show", "proto", "80"]).stdout
    with fleet.changed("near", ipNATs=nats(fleet)):
        assert "ipNATs count for nothing unless FloatingIPs is Enabled" in str(fleet.status(fleet.h1)["endpoints"])
        assert fleet.h1.run(["ip", "route", "show", "proto", "80"]).stdout == before
        assert "floating" not in fleet.h1.run(["nft", "list", "table", "inet", "felix"]).stdout
