"""Names of containers that felix-cni attached, asked for by other containers of a host whose agent enforces policy."""

from __future__ import annotations

import contextlib
import json
import socket
import subprocess
import sys
import time
from collections.abc import Iterator
from pathlib import Path

import dns.message
import dns.rcode
import pytest

from felix.lab.names import RESOLVER_V4
from felix.lab.place import wait_until
from tests.fv.test_host_traffic import CLOSED
from tests.support.cni import FOREIGN, CniHost, Runtime, write_launchers
from tests.support.fv import Fleet

pytestmark = pytest.mark.fv

SETTINGS = {
    "listener": RESOLVER_V4,
    "httpListener": RESOLVER_V4,
    "resolvers": [],
    "datastore": {"domain": "felix", "names": ["{workload}.{namespace}.felix"]},
}


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return write_launchers(tmp_path_factory.mktemp("cni"))


@pytest.fixture
def host(fleet: Fleet, folder: Path) -> Iterator[CniHost]:
    """The first host of the lab."""
    agent = str(fleet.h1.rundir / "felix.sock")
    with contextlib.closing(CniHost(fleet.h1.namespace, (str(folder), FOREIGN), agent, "")) as one:
        yield one


@pytest.fixture
def resolver(fleet: Fleet, tmp_path: Path) -> Iterator[Path]:
    """The host has a name server on a link-local address; gives the resolv.conf of its containers."""
    (tmp_path / "dns.json").write_text(json.dumps(SETTINGS))
    (tmp_path / "resolv.conf").write_text(f"nameserver {RESOLVER_V4}\noptions timeout:2 attempts:2\n")
    fleet.close_listeners("h1")  # one of them may have its port
    fleet.h1.configure(f"address replace {RESOLVER_V4}/32 dev lo")
    command = [sys.executable, "-m", "felix", "dns", "--config", str(tmp_path / "dns.json")]
    command += ["--etcd-endpoints", fleet.lab.etcd_endpoint]
    with (
        (tmp_path / "log").open("wb") as log,
        subprocess.Popen(fleet.h1.command(command), stdout=log, stderr=log) as it,
    ):
        try:
            wait_until(lambda: ask(fleet, "near.blue.felix") == ["192.168.1.20"], 60.0, "names")
            yield tmp_path / "resolv.conf"
        finally:
            it.terminate()
            print((tmp_path / "log").read_text())
    fleet.h1.configure(f"address delete {RESOLVER_V4}/32 dev lo")


def ask(fleet: Fleet, name: str) -> list[str]:
    """Returns the addresses that the name server gives its own host; empty when it does not answer."""
    with fleet.h1.call(lambda: socket.socket(socket.AF_INET, socket.SOCK_DGRAM)) as client:
        client.settimeout(1.0)
        try:
            client.connect((RESOLVER_V4, 53))
            client.send(dns.message.make_query(name, "A").to_wire())
            answer = dns.message.from_wire(client.recv(4096))
        except OSError:
            return []
    return [str(one) for rrset in answer.answer for one in rrset]


def run_inside(host: CniHost, one: Runtime, resolv_conf: Path, *command: str) -> str:
    """Returns what a command says in a container that has that resolv.conf."""
    return host.execute(one, "sh", "-c", f'mount --bind {resolv_conf} /etc/resolv.conf && "$@" || true', "sh", *command)


def test_attached_container_has_its_name_at_once_for_glibc_dig_and_http_although_policy_denies_all_else(
    fleet: Fleet, host: CniHost, resolver: Path
) -> None:
    asker = host.container()
    asker.add(asker.conf())
    with fleet.stored(CLOSED):
        other = host.container("Web.1")
        result = other.add(other.conf())
        began_at = time.monotonic()
        address = result["ips"][0]["address"].partition("/")[0]
        name = "web-1.default.felix"
        wait_until(lambda: ask(fleet, name) == [address], 20.0, "the name", 0.001)
        print(f"the name was there {1000 * (time.monotonic() - began_at):.1f} ms after ADD had returned")

        assert run_inside(host, asker, resolver, "getent", "ahostsv4", name).split()[0] == address
        assert run_inside(host, asker, resolver, "dig", "+short", name).split() == [address]
        told = json.loads(host.execute_on_host("curl", "-s", f"http://{RESOLVER_V4}:8123/v1/hosts/{name}"))
        assert [one["ip"] for one in told] == [address]
        assert "timed out" in run_inside(host, asker, resolver, "dig", "+tcp", "+time=1", "+tries=1", name)

    other.succeed("DEL", other.conf())
    wait_until(lambda: ask(fleet, name) == [], 20.0, "the name to go", 0.001)
    assert "status: NXDOMAIN" in run_inside(host, asker, resolver, "dig", name)
    assert not run_inside(host, asker, resolver, "getent", "ahostsv4", name)
    asker.succeed("DEL", asker.conf())
