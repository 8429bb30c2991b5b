"""A datastore that is emptied: nothing is deleted on that word alone, and everybody hears of it."""

from __future__ import annotations

import shutil
import signal
from pathlib import Path

import pytest

from felix.lab.host import Host
from felix.lab.lab import Lab
from felix.lab.place import wait_until
from tests.support.e2e import (
    Monitor,
    delete_prefix,
    log_count,
    metric,
    open_profile,
    status,
    wait_status,
    wait_up,
)

pytestmark = pytest.mark.fv

_COUNT = 12
_NAMES = [f"w{number}" for number in range(_COUNT)]


def test_emptied_datastore_is_held_over_a_restart_until_a_person_confirms(lab: Lab, tmp_path: Path) -> None:
    host = _start(lab)
    one, other = lab.workloads["w0"], lab.workloads["w1"]
    other.listen(80)
    consent = host.rundir / "confirm-deletion"
    consent.touch()  # long before anything was asked

    with Monitor(host, tmp_path) as monitor:
        delete_prefix(lab, "/calico")
        _wait_held(host)
        assert one.connect(other.ipv4, 80).ok
        _check_alarm(host, consent)

        host.stop_agent(signal.SIGKILL)
        host.start_agent()
        _wait_held(host)
        assert one.connect(other.ipv6, 80).ok
        assert monitor.lines() == []
    assert log_count(host, f"ERROR felix.report: deletion held: {_COUNT} of {_COUNT} endpoints would go") == 2

    consent.touch()
    wait_until(lambda: metric(host, "felix_mass_deletion_held") == 0, 20.0, "the end of the hold", 0.05)
    host.wait_agent_ready()
    wait_until(lambda: not one.connect(other.ipv4, 80, "tcp", 0.2).ok, 20.0, "the endpoints to go")
    assert not consent.exists()
    assert status(host)["held"] == ""


def test_emptied_datastore_that_is_filled_again_ends_the_hold_and_nothing_was_lost(lab: Lab) -> None:
    host = _start(lab)
    one, other = lab.workloads["w0"], lab.workloads["w1"]
    other.listen(80)
    stored = lab.store.list_prefix("/calico/resources")
    delete_prefix(lab, "/calico/resources")
    _wait_held(host)
    interface = other.interface
    host.configure(f"link set {interface} down")  # the last good state is kept, not only left alone
    host.configure(f"link set {interface} up")
    wait_until(lambda: one.connect(other.ipv4, 80, "tcp", 0.2).ok, 20.0, "the way to w1")

    for key, document in stored.items():
        if key != other.record.key:
            lab.store.put(key, document)
    wait_until(lambda: metric(host, "felix_mass_deletion_held") == 0, 20.0, "the end of the hold", 0.05)
    wait_status(host, "w1", "")  # one deletion that nobody took back
    assert not one.connect(other.ipv4, 80, "tcp", 0.2).ok
    assert one.connect(lab.workloads["w2"].ipv4, protocol="icmp").ok


def test_replaced_cluster_is_held_and_named_and_the_old_one_is_taken_up_again(lab: Lab, tmp_path: Path) -> None:
    host = _start(lab)
    one, other = lab.workloads["w0"], lab.workloads["w1"]
    other.listen(80)
    wait_until(lambda: metric(host, "felix_etcd_connected") == 1, 20.0, "the watch", 0.05)
    data, old = lab.directory / "etcd" / "data", lab.directory / "etcd" / "data.old"
    with Monitor(host, tmp_path) as monitor:
        lab.stop_etcd()
        data.rename(old)
        lab.start_etcd()
        lab.store.put("/calico/resources/v3/projectcalico.org/profiles/foreign", "{}")
        _wait_held(host, 20.0)
        assert log_count(host, "the datastore is another one than before, or went back in time") == 1
        assert one.connect(other.ipv4, 80).ok
        wait_until(lambda: metric(host, "felix_etcd_connected") == 1, 20.0, "the watch", 0.05)

        lab.stop_etcd()
        shutil.rmtree(data)
        old.rename(data)
        lab.start_etcd()
        wait_until(lambda: metric(host, "felix_mass_deletion_held") == 0, 20.0, "the end of the hold", 0.05)
        host.wait_agent_ready()
        assert monitor.lines() == []
    assert one.connect(other.ipv6, 80).ok


def test_endpoints_whose_interfaces_are_gone_too_may_all_go(lab: Lab) -> None:
    host = _start(lab)
    host.configure(*(f"link del {lab.workloads[name].interface}" for name in _NAMES))
    delete_prefix(lab, "/calico/resources/v3/projectcalico.org/workloadendpoints/")

    for name in _NAMES:
        wait_status(host, name, "")
    assert metric(host, "felix_mass_deletion_held") == 0


def _start(lab: Lab) -> Host:
    lab.up(hosts=1, bird=False)
    host = lab.hosts[0]
    lab.apply(open_profile())
    for name in _NAMES:
        lab.add_workload(host, name, profiles=["open"])
    host.wait_agent_ready()
    wait_up(host, *_NAMES)
    return host


def _wait_held(host: Host, timeout_s: float = 5.0) -> None:
    wait_until(lambda: metric(host, "felix_mass_deletion_held") == _COUNT, timeout_s, "the hold", 0.05)


def _check_alarm(host: Host, consent: Path) -> None:
    code, text = host.http_get(9099, "/readiness")
    assert code == 503
    assert f"deletion held: {_COUNT} of {_COUNT} endpoints would go at once" in text
    assert f"touch {consent}" in text
    assert str(status(host)["held"]).startswith(f"{_COUNT} of {_COUNT} endpoints")
    assert host.http_get(9099, "/liveness")[0] == 200
