"""etcd away: at the start, for half a minute with changes and a compaction, and in the middle of a snapshot."""

from __future__ import annotations

import signal
import time
from pathlib import Path

import pytest

from felix.lab.host import Host
from felix.lab.lab import Lab, Workload
from felix.lab.names import ETCD_PORT
from felix.lab.place import wait_until
from tests.support.e2e import (
    Bottleneck,
    Monitor,
    cpu_s,
    guarded_profile,
    log_count,
    metric,
    open_profile,
    start_guarded,
    stream,
    wait_revision,
    wait_status,
    wait_up,
)

pytestmark = pytest.mark.fv

_OUTAGE_S = 30.0
_TABLE = ["nft", "list", "table", "inet", "felix"]


def test_outage_of_etcd_with_a_compaction_costs_one_relist_and_no_needless_write(lab: Lab, tmp_path: Path) -> None:
    host, friend, stranger, server = _start(lab)
    wait_until(lambda: metric(host, "felix_etcd_connected") == 1, 20.0, "the watch", 0.05)
    pid = host.find_pid("agent")
    assert pid is not None
    resyncs = metric(host, "felix_resyncs_started")

    with (
        stream(friend, server, [server.ipv4, server.ipv6], 7001, 100) as allowed,
        stream(stranger, server, [server.ipv4, server.ipv6], 7002, 100) as denied,
    ):
        _cut_etcd(lab)
        revision = lab.apply(guarded_profile("guarded", "role in { 'friend', 'late' }"))
        lab.store.delete(stranger.record.key)
        lab.fabric.run(["etcdctl", "compact", str(revision + 1)])
        lab.stop_etcd()
        stopped_at, used_s = time.monotonic(), cpu_s(pid)
        time.sleep(_OUTAGE_S / 2)
        _check_link_flap_is_mended(host, friend, stranger)
        assert host.is_agent_ready()
        time.sleep(max(0.0, stopped_at + _OUTAGE_S - time.monotonic()))
        used_s = cpu_s(pid) - used_s
        assert metric(host, "felix_etcd_connected") == 0

        writes = metric(host, "felix_kernel_writes")
        with Monitor(host, tmp_path) as monitor:
            lab.start_etcd()
            _mend_etcd(lab)
            back_at = time.monotonic()
            wait_status(host, "stranger", "", 20.0)
            wait_until(lambda: metric(host, "felix_etcd_connected") == 1, 20.0, "the watch", 0.05)
            back_s = time.monotonic() - back_at
            written = monitor.lines()

    assert metric(host, "felix_resyncs_started") == resyncs + 1
    assert allowed.lost == 0
    assert denied.received == {}
    assert used_s < 0.05 * _OUTAGE_S
    assert log_count(host, "etcd watch interrupted") <= 8
    _check_only_the_differences(written, stranger)
    assert 0 < metric(host, "felix_kernel_writes") - writes < 20
    print(
        f"allowed {allowed.sent} lost {allowed.lost}; CPU {used_s:.2f} s; right again after {back_s:.2f} s; {written}"
    )


def test_etcd_restarted_without_changes_costs_neither_relist_nor_write(lab: Lab, tmp_path: Path) -> None:
    host, friend, _, server = _start(lab)
    wait_until(lambda: metric(host, "felix_etcd_connected") == 1, 20.0, "the watch", 0.05)
    writes = metric(host, "felix_kernel_writes")
    with Monitor(host, tmp_path) as monitor:
        lab.stop_etcd(signal.SIGKILL)
        wait_until(lambda: metric(host, "felix_etcd_connected") == 0, 20.0, "the loss to be noticed", 0.05)
        assert friend.connect(server.ipv6, 80).ok
        lab.start_etcd()
        wait_until(lambda: metric(host, "felix_etcd_connected") == 1, 20.0, "the watch", 0.05)
        wait_revision(host, lab.apply(open_profile("unused")))
        assert monitor.lines() == []
    assert metric(host, "felix_kernel_writes") == writes
    assert metric(host, "felix_resyncs_started") == 1


def test_agent_started_without_etcd_closes_workloads_until_it_comes(lab: Lab) -> None:
    lab.up(hosts=1, agents=False, bird=False)
    host = lab.hosts[0]
    lab.apply(open_profile())
    one = lab.add_workload(host, "one", profiles=["open"])
    other = lab.add_workload(host, "other", profiles=["open"])
    other.listen(80)
    routes = [f"route add {one.ipv4} dev {one.interface}", f"route add {other.ipv4} dev {other.interface}"]
    host.configure(*routes)
    assert one.connect(other.ipv4, 80).ok  # nobody protects anything yet
    lab.stop_etcd()

    host.start_agent(environment={"FELIX_HEALTHTIMEOUTOVERRIDES": "dataplane=1s,datastore=1s"})
    wait_until(lambda: "gate" in host.run(_TABLE, check=False).stdout, 20.0, "the base table", 0.05)
    assert not one.connect(other.ipv4, 80, "tcp", 0.3).ok
    assert not one.connect(host.ipv4, 0, "icmp", 0.3).ok
    wait_until(lambda: log_count(host, "etcd watch interrupted") > 0, 20.0, "the log to say it")
    time.sleep(2.0)  # longer than the agent may be silent
    assert not host.is_agent_ready()
    assert host.http_get(9099, "/liveness")[0] == 200

    host.configure(*(route.replace("add", "del") for route in routes))
    lab.start_etcd()
    host.wait_agent_ready(20.0)
    wait_up(host, "one", "other")
    assert one.connect(other.ipv4, 80).ok
    assert one.connect(other.ipv6, 80).ok


def test_snapshot_that_breaks_off_deletes_nothing(lab: Lab, tmp_path: Path) -> None:
    host, friend, _, server = _start(lab)
    for number in range(200):  # so that there is a middle
        lab.apply(guarded_profile(f"filler-{number:03}", f"team == '{'x' * 500}{number}'"))
    wait_until(lambda: metric(host, "felix_cluster_num_profiles") >= 200, 20.0, "the fillers", 0.05)
    host.stop_agent()

    with Bottleneck(host, lab, limit_bytes=30_000) as bottleneck, Monitor(host, tmp_path) as monitor:
        host.start_agent(environment={"FELIX_ETCDENDPOINTS": bottleneck.endpoint})
        wait_until(lambda: bottleneck.stalls >= 3, 60.0, "the third snapshot to break off", 0.05)
        assert not host.is_agent_ready()
        assert friend.connect(server.ipv4, 80).ok
        bottleneck.open()
        host.wait_agent_ready(30.0)
        assert monitor.lines() == []
    assert log_count(host, ", 0 kernel writes") == 1


def test_etcd_that_hangs_is_waited_for_and_its_changes_arrive(lab: Lab) -> None:
    host, friend, stranger, server = _start(lab)
    wait_until(lambda: metric(host, "felix_etcd_connected") == 1, 20.0, "the watch", 0.05)
    lab.send_etcd_signal(signal.SIGSTOP)
    try:
        wait_until(lambda: metric(host, "felix_etcd_connected") == 0, 30.0, "the silence to be noticed", 0.1)
        assert friend.connect(server.ipv4, 80).ok
    finally:
        lab.send_etcd_signal(signal.SIGCONT)
    lab.apply(guarded_profile("guarded", "role == 'stranger'"))
    wait_until(lambda: stranger.connect(server.ipv4, 80, "tcp", 0.2).ok, 20.0, "the change")
    assert not friend.connect(server.ipv4, 80, "tcp", 0.2).ok
    assert metric(host, "felix_resyncs_started") == 1


def _start(lab: Lab) -> tuple[Host, Workload, Workload, Workload]:
    host, friend, stranger, server = start_guarded(lab)
    assert friend.connect(server.ipv4, 80).ok
    assert not stranger.connect(server.ipv4, 80, "tcp", 0.2).ok
    return host, friend, stranger, server


def _cut_etcd(lab: Lab) -> None:
    """Nothing passes between agents and etcd, which the lab still reaches."""
    inwards = f"chain in {{ type filter hook input priority 0; iifname fabric tcp dport {ETCD_PORT} drop; }}\n"
    outwards = f"chain out {{ type filter hook output priority 0; oifname fabric tcp sport {ETCD_PORT} drop; }}\n"
    lab.fabric.run(["nft", f"table inet cut {{ {inwards} {outwards} }}"])


def _mend_etcd(lab: Lab) -> None:
    lab.fabric.run(["nft", "delete table inet cut"])


def _check_link_flap_is_mended(host: Host, source: Workload, target: Workload) -> None:
    host.configure(f"link set {target.interface} down")
    wait_status(host, target.name, "down")
    host.configure(f"link set {target.interface} up")
    wait_up(host, target.name)
    for address in (target.ipv4, target.ipv6):
        assert source.connect(address, protocol="icmp").ok


def _check_only_the_differences(written: list[str], gone: Workload) -> None:
    """What was written is one rule of one chain, one set's member, and what one endpoint had."""
    routes = [line for line in written if line.startswith("[ROUTE]")]
    assert {line.split()[1] for line in routes} >= {gone.ipv4}
    assert all(line.startswith("[ROUTE]Deleted") and gone.interface in line for line in routes)
    neighbours = [line for line in written if line.startswith("[NEIGH]")]
    assert all(line.startswith("[NEIGH]Deleted") and gone.interface in line for line in neighbours)
    assert not [line for line in written if line.startswith("[LINK]")]
    assert not [line for line in written if "chain inet felix" in line and "guarded" not in line]
