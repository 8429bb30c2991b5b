"""glibc in a container asks `felix dns` on a link-local address of its host; dig and HTTP say the same."""

from __future__ import annotations

import json
import subprocess
import sys
import time
from collections.abc import Iterator
from pathlib import Path

import pytest

from tests.contract.test_dns_datastore import key_of, value_of
from tests.support.etcd import EtcdServer
from tests.support.netns import Namespace, private_namespace

pytestmark = pytest.mark.fv

LISTENER = "169.254.1.53"
NAME = "web.default.felix"


class Place:
    """A host with etcd and `felix dns`, and a container that has nothing but a route to it."""

    def __init__(self, host: Namespace, container: Namespace, etcd: EtcdServer, resolv_conf: Path) -> None:
        self.host = host
        self.container = container
        self._etcd = etcd
        self._resolv_conf = resolv_conf

    def store(self, name: str, address: str) -> None:
        key, value = key_of(name), value_of(name, address, app="web").decode()
        self.host.execute("etcdctl", f"--endpoints={self._etcd.endpoint}", "put", key, value)

    def resolve(self, *command: str) -> str:
        """Runs a command in the container, with its own resolv.conf, and returns what it says."""
        script = f'mount --bind {self._resolv_conf} /etc/resolv.conf && exec "$@"'
        return self.container.execute("sh", "-c", script, "sh", *command)


@pytest.fixture(scope="module")
def place(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Place]:
    folder = tmp_path_factory.mktemp("dns")
    (folder / "resolv.conf").write_text(f"nameserver {LISTENER}\nsearch default.felix\noptions timeout:5 attempts:2\n")
    settings = {
        "listener": LISTENER,
        "httpListener": LISTENER,
        "resolvers": [],
        "datastore": {"domain": "felix"},
    }
    (folder / "dns.json").write_text(json.dumps(settings))
    etcd = EtcdServer()
    server: subprocess.Popen[bytes] | None = None
    code = 0
    with private_namespace("dnsh") as host, private_namespace("dnsc") as container:
        try:
            host.ip(f"address add {LISTENER}/32 dev lo")
            host.ip(f"link add cali0 type veth peer name eth0 netns {container.name}")
            host.ip("link set cali0 up")
            host.ip("route add 10.65.0.2/32 dev cali0")
            container.ip("address add 10.65.0.2/32 dev eth0")
            container.ip("link set eth0 up")
            container.ip(f"route add {LISTENER}/32 dev eth0 src 10.65.0.2")
            host.run(etcd.start)
            command = [sys.executable, "-m", "felix", "dns", "--config", str(folder / "dns.json")]
            command += ["--etcd-endpoints", etcd.endpoint]
            with (folder / "log").open("wb") as log:
                server = host.run(lambda: subprocess.Popen(command, stdout=log, stderr=log))
            _wait_ready(host, server, folder / "log")
            yield Place(host, container, etcd, folder / "resolv.conf")
        finally:
            if server is not None:
                server.terminate()
                code = server.wait(timeout=20)
            etcd.remove()
    assert code == 0, "did not end well"


def _wait_ready(host: Namespace, server: subprocess.Popen[bytes], log: Path) -> None:
    deadline = time.monotonic() + 30
    while time.monotonic() < deadline:
        assert server.poll() is None, log.read_text()
        try:
            answer = host.execute("dig", f"@{LISTENER}", "+tries=1", "+time=1", "+short", "felix", "SOA")
        except AssertionError:
            time.sleep(0.05)
        else:
            if answer.strip():
                return
    raise AssertionError(log.read_text())


_PYTHON = "import socket,sys; print(*sorted({one[4][0] for one in socket.getaddrinfo(sys.argv[1], 80)}))"


def test_glibc_in_a_container_dig_and_http_give_the_same_answers(place: Place) -> None:
    place.store("a", "10.65.0.7")
    place.store("b", "10.65.0.8")
    place.store("c", "fd00::9")
    wanted = {"10.65.0.7", "10.65.0.8", "fd00::9"}
    deadline = time.monotonic() + 20
    while set(place.resolve(sys.executable, "-c", _PYTHON, NAME).split()) != wanted:
        assert time.monotonic() < deadline
    for name in (NAME, NAME + ".", "web"):  # whole, absolute, by the search list
        assert {line.split()[0] for line in place.resolve("getent", "ahosts", name).splitlines()} == wanted
    dug = place.resolve("dig", "+short", NAME, "A") + place.resolve("dig", "+short", NAME, "AAAA")
    assert set(dug.split()) == wanted
    dug = place.resolve("dig", "+short", "+tcp", NAME, "A")
    assert set(dug.split()) == {"10.65.0.7", "10.65.0.8"}
    fetch = "import urllib.request,sys; print(urllib.request.urlopen(sys.argv[1], timeout=5).read().decode())"
    told = json.loads(place.resolve(sys.executable, "-c", fetch, f"http://{LISTENER}:8123/v1/hosts/{NAME}"))
    assert {one["ip"] for one in told} == wanted
    (reverse,) = place.resolve("dig", "+short", "-x", "10.65.0.7").split()
    assert place.resolve("getent", "hosts", "10.65.0.7").split() == ["10.65.0.7", reverse.rstrip(".")]
    with pytest.raises(AssertionError):
        place.resolve("getent", "hosts", "none.default.felix")
    missing = place.resolve("dig", "none.default.felix")
    assert "status: NXDOMAIN" in missing
    assert "status: REFUSED" in place.resolve("dig", "www.example.com")
