"""BIRD missing, killed, stopped and back: BGP degrades and comes back, and nothing else notices."""

from __future__ import annotations

import signal
from functools import partial
from pathlib import Path

import pytest

from felix.lab.host import Host
from felix.lab.lab import Lab, Workload
from felix.lab.place import wait_until
from felix.lab.store import Json
from tests.support.e2e import Monitor, guarded_profile, metric, open_profile, status, stream, wait_up

pytestmark = pytest.mark.fv


def test_bird_killed_under_load_loses_no_packet_between_hosts(lab: Lab, tmp_path: Path) -> None:
    near, far, stranger = _start(lab)
    host, other = lab.hosts
    targets = [far.ipv4, far.ipv6]
    with (
        Monitor(host, tmp_path) as here,
        Monitor(other, tmp_path) as there,
        stream(near, far, targets, 7001) as allowed,
        stream(stranger, far, targets, 7002) as denied,
    ):
        host.stop_bird(signal.SIGKILL)
        wait_until(lambda: metric(host, "felix_bird_up") == 0, 20.0, "the loss of BIRD to be noticed", 0.05)
        assert host.is_agent_ready()
        assert "BIRD" in str(_bgp(host)["fault"])
        host.start_bird()
        _wait_sessions(host)
        _wait_sessions(other)
        wait_until(lambda: "Graceful restart" not in _recovering(host), 30.0, "the end of the recovery", 0.1)
        written = [line for monitor in (here, there) for line in monitor.lines() if "proto bird" in line]
    assert allowed.lost == 0
    assert denied.received == {}
    assert [line for line in written if "Deleted" in line] == []
    print(f"sent {allowed.sent}, lost {allowed.lost}; {written}")


def test_bird_stopped_leaves_policy_and_local_routes_and_its_routes_come_back(lab: Lab) -> None:
    near, far, stranger = _start(lab)
    host = lab.hosts[0]
    local = lab.add_workload(host, "local", profiles=["guarded"])
    local.listen(80)
    wait_up(host, "local")
    applied = metric(host, "felix_kernel_writes")
    with (
        stream(near, local, [local.ipv4, local.ipv6], 7001) as allowed,
        stream(stranger, local, [local.ipv4, local.ipv6], 7002) as denied,
    ):
        host.stop_bird()
        wait_until(lambda: not near.connect(far.ipv4, 80, "tcp", 0.2).ok, 20.0, "BIRD's routes to go")
        wait_until(lambda: metric(host, "felix_bird_up") == 0, 20.0, "the loss of BIRD to be noticed", 0.05)
        assert host.is_agent_ready()
        late = lab.add_workload(host, "late", profiles=["open"])
        wait_up(host, "late")
        assert near.connect(late.ipv4, protocol="icmp").ok
        host.start_bird()
        _wait_sessions(host)
        _wait_reach(near, far)
    assert allowed.lost == 0
    assert denied.received == {}
    assert _bgp(host)["fault"] == ""
    assert metric(host, "felix_kernel_writes", family="routes") > 0
    assert metric(host, "felix_kernel_writes") > applied


def test_agent_without_bird_is_ready_and_configures_it_when_it_comes(lab: Lab) -> None:
    lab.up(hosts=2, bird=False)
    lab.apply(open_profile())
    near = lab.add_workload(lab.hosts[0], "near", profiles=["open"])
    far = lab.add_workload(lab.hosts[1], "far", profiles=["open"])
    for host, name in zip(lab.hosts, ("near", "far"), strict=True):
        host.wait_agent_ready()
        wait_up(host, name)
        _wait_fault(host, "control socket")
    for host in lab.hosts:
        host.start_bird()
    wait_until(lambda: near.connect(far.ipv6, protocol="icmp", timeout_s=0.2).ok, 20.0, "the other host", 0.05)


def _start(lab: Lab) -> tuple[Workload, Workload, Workload]:
    lab.up(hosts=2)
    lab.apply(open_profile())
    lab.apply(guarded_profile("guarded", "role == 'friend'"))
    host, other = lab.hosts
    near = lab.add_workload(host, "near", profiles=["open"], labels={"role": "friend"})
    stranger = lab.add_workload(host, "stranger", profiles=["open"])
    far = lab.add_workload(other, "far", profiles=["guarded"])
    far.listen(80)
    host.wait_agent_ready()
    other.wait_agent_ready()
    wait_up(host, "near", "stranger")
    wait_up(other, "far")
    _wait_reach(near, far)
    _wait_sessions(host)
    return near, far, stranger


def _wait_reach(source: Workload, target: Workload) -> None:
    for address in (target.ipv4, target.ipv6):
        wait_until(partial(_can_connect, source, address), 20.0, f"the way to {address}", 0.05)


def _can_connect(source: Workload, address: str) -> bool:
    return source.connect(address, 80, "tcp", 0.2).ok


def _wait_fault(host: Host, text: str) -> None:
    wait_until(lambda: text in str(_bgp(host)["fault"]), 20.0, f"the fault of BIRD to be named on {host.name}", 0.05)


def _bgp(host: Host) -> dict[str, Json]:
    found = status(host)["bgp"]
    assert isinstance(found, dict)
    return found


def _wait_sessions(host: Host) -> None:
    """The agent says that BIRD answers and that all sessions, of both families, are established."""

    def is_established() -> bool:
        sessions = _bgp(host)["sessions"]
        assert isinstance(sessions, dict)
        return bool(sessions) and set(sessions.values()) == {"Established"}

    wait_until(is_established, 30.0, f"the BGP sessions of {host.name}", 0.05)


def _recovering(host: Host) -> str:
    return host.birdc("show", "status")
