"""Somebody changes what is ours: mended within a second, by event, and the culprit is named."""

from __future__ import annotations

import os
import time
from collections.abc import Iterator

import pytest

from felix.lab.host import Host
from felix.lab.lab import Lab
from felix.lab.place import wait_until
from tests.support.e2e import guarded_profile, log_count, metric, open_profile, wait_up

pytestmark = pytest.mark.fv

_LIMIT_S = 1.0


@pytest.fixture(scope="module")
def lab(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Lab]:
    with Lab(f"e2etamper{os.getpid()}", tmp_path_factory.mktemp("l")) as lab:
        lab.up(hosts=1, bird=False)
        host = lab.hosts[0]
        lab.apply(open_profile())
        lab.apply(guarded_profile("guarded", "role == 'friend'"))
        lab.add_workload(host, "friend", profiles=["open"], labels={"role": "friend"})
        lab.add_workload(host, "stranger", profiles=["open"])
        lab.add_workload(host, "server", profiles=["guarded"]).listen(80)
        host.wait_agent_ready()
        wait_up(host, "friend", "stranger", "server")
        yield lab
        print(host.agent_log.read_text()[-20000:])


@pytest.mark.parametrize(
    "act",
    [
        "nft flush ruleset",
        "nft delete table inet felix",
        "nft flush table inet felix",
        "nft flush map inet felix dispatch-to",
        "nft flush set inet felix claimed",
        "nft insert rule inet felix {chain} accept",
        "nft 'add table inet felix {{ flags dormant; }}'",
        "ip route flush proto 80",
        "ip route del {address}",
        "ip route replace {address} dev lo proto 80 metric 1024",
        "ip -6 route flush proto 80",
        "ip neigh flush dev {interface} nud permanent",
        "sysctl -qw net.ipv4.conf.{interface}.proxy_arp=0",
        "sysctl -qw net.ipv4.conf.{interface}.forwarding=0",
        "ip link set {interface} down ; ip link set {interface} up",
    ],
)
def test_change_by_others_is_mended_within_a_second(lab: Lab, act: str) -> None:
    host, server = lab.hosts[0], lab.workloads["server"]
    before = _state(host, server.interface)
    chain = next(line.split()[1] for line in before.splitlines() if "chain profile-in-guarded" in line)

    done_at = time.monotonic()
    host.run(["sh", "-ec", act.format(chain=chain, address=server.ipv4, interface=server.interface)])
    wait_until(lambda: _state(host, server.interface) == before, 5.0, f"repair after {act!r}")
    assert time.monotonic() - done_at < _LIMIT_S + 0.2  # looking takes time, too
    _check_packets(lab)
    if act.startswith("nft"):
        assert log_count(host, "was changed by nft (pid") >= 1
        assert metric(host, "felix_foreign_changes", family="nft", program="nft") >= 1


def test_table_of_others_is_neither_touched_nor_complained_about(lab: Lab) -> None:
    host = lab.hosts[0]
    named = log_count(host, "was changed by")
    host.run(["nft", "add table ip other; add chain ip other c; add rule ip other c counter"])
    before = host.run(["nft", "list", "table", "ip", "other"]).stdout
    host.configure("route add 198.51.100.0/24 dev lo proto static", "route add 198.51.100.1 dev lo")
    assert host.is_agent_ready()
    _check_packets(lab)
    assert host.run(["nft", "list", "table", "ip", "other"]).stdout == before
    assert host.run(["ip", "route", "show", "root", "198.51.100.0/24"]).stdout.count("\n") == 2
    assert log_count(host, "was changed by") == named


def _state(host: Host, interface: str) -> str:
    """Returns everything that is ours on the host, as text."""
    commands = (
        ["nft", "--stateless", "list", "table", "inet", "felix"],
        ["ip", "route", "show", "proto", "80"],
        ["ip", "-6", "route", "show", "proto", "80"],
        ["ip", "neigh", "show", "dev", interface, "nud", "permanent"],
        ["sysctl", f"net.ipv4.conf.{interface}.proxy_arp", f"net.ipv4.conf.{interface}.forwarding"],
    )
    texts = [host.run(command, check=False).stdout for command in commands]
    return "\n".join("\n".join(sorted(text.splitlines())) for text in texts)


def _check_packets(lab: Lab) -> None:
    friend, stranger, server = (lab.workloads[name] for name in ("friend", "stranger", "server"))
    for address in (server.ipv4, server.ipv6):
        assert friend.connect(address, 80).ok
        assert not stranger.connect(address, 80, "tcp", 0.1).ok
