"""Two hundred containers come and go while plug-ins, agents and etcd are killed: no address twice, nothing left.

Every run prints its seed; another one: CHAOS_SEED=7 pytest tests/e2e/test_attach_chaos.py
"""

from __future__ import annotations

import os
import random
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from functools import partial

import pytest

from felix.lab.host import Host
from felix.lab.lab import Lab
from felix.lab.namespace import create_namespaces, delete_namespaces
from felix.lab.place import Place, wait_until
from felix.lab.store import Json
from tests.support.chaos import Cable, Container, Registry, Trouble
from tests.support.cni import write_launchers
from tests.support.e2e import metric, status

pytestmark = pytest.mark.fv

_CONTAINERS = 200
_KEPT = 20
_AT_ONCE = 20
_SEED = int(os.environ.get("CHAOS_SEED", "1"))


class Fleet:
    """Two hosts and all containers. kept: those that outlive all troubles."""

    def __init__(self, lab: Lab, folder: str) -> None:
        self.lab = lab
        self.registry = Registry()
        self.cables = {host.name: Cable(lab) for host in lab.hosts}
        prefix = f"fxch-{os.getpid()}-"
        self._namespaces = [f"{prefix}{number}" for number in range(_CONTAINERS)]
        create_namespaces(self._namespaces)
        self.containers = [
            Container(
                lab.hosts[number % 2],
                Place(f"c{number}", namespace, lab.directory / "responder.ctl", {}),
                folder,
                self.registry,
                random.Random(f"{_SEED}.{number}"),
            )
            for number, namespace in enumerate(self._namespaces)
        ]
        self.kept = self.containers[:: _CONTAINERS // _KEPT] + self.containers[1 :: _CONTAINERS // _KEPT]

    def close(self) -> None:
        for cable in self.cables.values():
            cable.close()
        delete_namespaces(self._namespaces)

    def keys(self, *prefixes: str) -> list[str]:
        return [key for prefix in prefixes for key in self.lab.store.list_prefix(f"/calico/{prefix}")]

    def held(self) -> list[str]:
        """Returns all addresses that somebody holds, in etcd."""
        found = []
        for key, block in self.lab.store.list_prefix("/calico/ipam/v2/assignment/").items():
            allocations = block["allocations"]
            assert isinstance(allocations, list)
            found += [
                f"{key.rpartition('/')[2]}#{ordinal}" for ordinal, one in enumerate(allocations) if one is not None
            ]
        return found

    def endpoint_addresses(self) -> dict[str, str]:
        """Returns the container of each address, as endpoints in etcd say; each has one at most."""
        found: dict[str, str] = {}
        for endpoint in self.lab.store.list_prefix(
            "/calico/resources/v3/projectcalico.org/workloadendpoints/"
        ).values():
            spec = endpoint["spec"]
            assert isinstance(spec, dict)
            for net in as_list(spec["ipNetworks"]):
                address = str(net).partition("/")[0]
                assert address not in found, f"{address}: {found[address]} and {spec['containerID']}"
                found[address] = str(spec["containerID"])
        return found

    def find_left(self) -> list[str]:
        """Returns everything that hosts and etcd have of any container."""
        left = [f"address {one}" for one in self.held()]
        left += self.keys("resources/v3/projectcalico.org/workloadendpoints/", "ipam/v2/handle/")
        left += [key for key in self.keys("felix/v2/") if "/workload/" in key]
        for host in self.lab.hosts:
            left += [f"{host.name}: {one}" for one in _find_left_on(host)]
        return left


def _find_left_on(host: Host) -> list[str]:
    """Returns everything that a host has of any container."""
    links = host.run(["ip", "-o", "link", "show", "type", "veth"]).stdout.splitlines()
    left = [line.split()[1] for line in links if line.split()[1].startswith("cali")]
    for family in ("-4", "-6"):
        routes = host.run(["ip", family, "route", "show", "proto", "80"]).stdout.splitlines()
        left += [line for line in routes if "cali" in line]
    table = host.run(["nft", "list", "table", "inet", "felix"]).stdout.replace('"cali*"', "")
    left += [line.strip() for line in table.splitlines() if "cali" in line]
    left += [str(path) for path in (host.directory / "status").rglob("*") if path.is_file()]
    if status(host)["attachments"]:
        left.append(f"attachments: {status(host)['attachments']}")
    if debts := metric(host, "felix_attach_debts"):
        left.append(f"debts: {debts:g}")
    return left


def as_list(value: Json) -> list[Json]:
    assert isinstance(value, list)
    return value


@pytest.fixture
def fleet(lab: Lab, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Fleet]:
    lab.up(hosts=2, agents=False)
    fleet = Fleet(lab, str(write_launchers(tmp_path_factory.mktemp("cni"))))
    try:
        for host in lab.hosts:
            host.start_agent(environment=fleet.cables[host.name].environment)
        for host in lab.hosts:
            host.wait_agent_ready()
        yield fleet
    finally:
        fleet.close()


@pytest.mark.timeout(240)
def test_containers_under_fire_have_their_addresses_alone_and_leave_nothing(fleet: Fleet) -> None:
    print(f"CHAOS_SEED={_SEED}")
    kept = set(fleet.kept)
    with ThreadPoolExecutor(_AT_ONCE) as pool:
        with Trouble(fleet.lab, fleet.cables, random.Random(_SEED)) as trouble:
            for one in [pool.submit(each.start if each in kept else each.live) for each in fleet.containers]:
                one.result()
        print(f"{trouble.said}\n{fleet.registry.count_by_name}")
        assert not trouble.failures
        assert not fleet.registry.complaints
        for host in fleet.lab.hosts:
            host.wait_agent_ready()
        alive = fleet.registry.addresses()
        assert set(alive.values()) == {one.name for one in kept}
        assert fleet.endpoint_addresses() == alive
        assert len(fleet.held()) == len(alive)
        for outcome in pool.map(Container.check, fleet.kept):
            assert outcome.code == 0, outcome.text
        _check_talking(fleet.kept)
        list(pool.map(Container.stop, fleet.kept))
    wait_until(lambda: not fleet.find_left(), 20.0, "nothing to be left", 0.2)
    for host in fleet.lab.hosts:
        assert not host.agent_log.read_text().partition("Traceback")[2][:3000]


def _check_talking(containers: list[Container]) -> None:
    """Each reaches the next, of its own or of the other host, over both families."""
    for one, other in zip(containers, [*containers[1:], containers[0]], strict=True):
        for address in other.addresses:
            reaches = partial(_reaches, one.place, address)
            wait_until(reaches, 20.0, f"{one.name} to reach {address}", 0.1)  # across hosts BIRD has to tell first


def _reaches(place: Place, address: str) -> bool:
    return place.connect(address, protocol="icmp").ok
