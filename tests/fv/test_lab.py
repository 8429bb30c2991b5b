"""The lab on the real kernel: it is built, it is used, and nothing of it is left."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest

from felix.errors import DataError, EnvironmentFault, PeerError
from felix.lab import probe, process
from felix.lab.lab import Lab
from felix.lab.namespace import list_namespaces
from felix.lab.place import wait_until

pytestmark = pytest.mark.fv


@pytest.fixture(scope="module")
def lab(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Lab]:
    with Lab(f"labfv{os.getpid()}", tmp_path_factory.mktemp("labs")) as lab:
        lab.up(hosts=2, agents=False)
        yield lab


def test_lab_hosts_reach_each_other_and_etcd_over_the_fabric(lab: Lab) -> None:
    first, second = lab.hosts

    for address in (second.ipv4, second.ipv6, "10.0.0.254"):
        assert first.connect(address, protocol="icmp").ok
    first.run(["etcdctl", "endpoint", "health", "--endpoints=http://10.0.0.254:2379"])
    assert lab.store.get("/calico/resources/v3/projectcalico.org/nodes/h2") is not None


def test_workloads_on_one_host_talk_by_all_protocols_of_both_families(lab: Lab) -> None:
    host = lab.hosts[0]
    one, other = lab.add_workload(host, "one"), lab.add_workload(host, "other", labels={"role": "web"})
    for workload in (one, other):
        _give_routes(lab, workload.name)
    other.listen(80)
    other.listen(53, "udp")

    for address in (other.ipv4, other.ipv6):
        assert one.connect(address, 80).ok
        assert one.connect(address, 53, "udp").ok
        assert one.connect(address, protocol="icmp").ok
        assert one.connect(address, 81).outcome == "refused"
    with one.open(other.ipv4, 80) as connection:
        probe.echo(connection)
        probe.echo(connection)

    other.close_listeners()
    assert one.connect(other.ipv4, 80).outcome == "refused"


def test_workload_is_removed_with_endpoint_allocation_and_interface(lab: Lab) -> None:
    host = lab.hosts[1]
    before = lab.store.list_prefix("/calico/")
    workload = lab.add_workload(host, "brief", profiles=["p"])
    stored = lab.store.get(workload.record.key)
    assert stored is not None
    assert workload.interface in host.run(["ip", "-o", "link"]).stdout

    lab.remove_workload("brief")
    lab.remove_workload("brief")

    after = lab.store.list_prefix("/calico/")
    assert after.keys() == before.keys()
    assert workload.interface not in host.run(["ip", "-o", "link"]).stdout
    assert workload.namespace not in list_namespaces("fx-")


def test_borrowed_address_is_marked_in_the_block_of_the_other_host(lab: Lab) -> None:
    workload = lab.add_workload(lab.hosts[0], "borrower", ipv4="192.168.2.40", ipv6=None)

    assert (workload.ipv4, workload.ipv6) == ("192.168.2.40", "")
    with pytest.raises(DataError, match=r"192\.168\.2\.40"):
        lab.add_workload(lab.hosts[1], "owner", ipv4="192.168.2.40")
    lab.remove_workload("borrower")


def test_host_bird_answers_and_stops(lab: Lab) -> None:
    host = lab.hosts[1]

    assert "device1" in host.birdc("show", "protocols")
    assert host.stop_bird()
    assert not host.is_running("bird")
    host.start_bird()
    assert host.is_running("bird")


def test_agent_command_runs_in_the_host_with_its_settings(lab: Lab) -> None:
    host = lab.hosts[0]
    host.start_agent(["sh", "-c", "env; ip -o addr; exec sleep 1000"])
    wait_until(lambda: "10.0.0.1/24" in host.agent_log.read_text(), 20.0, "the log")

    assert "FELIX_FELIXHOSTNAME=h1" in host.agent_log.read_text()
    assert host.stop_agent(signal.SIGTERM)
    assert not host.is_running("agent")


def test_etcd_outage_and_link_loss_are_made_and_mended(lab: Lab) -> None:
    host = lab.hosts[0]
    lab.stop_etcd(signal.SIGKILL)
    with pytest.raises(PeerError):
        lab.store.get("/")
    lab.start_etcd()
    assert lab.store.get("/calico/resources/v3/projectcalico.org/nodes/h1") is not None

    lab.set_link(host, up=False)
    assert not host.connect("10.0.0.254", protocol="icmp", timeout_s=0.1).ok
    lab.set_link(host, up=True)
    wait_until(lambda: host.connect("10.0.0.254", protocol="icmp", timeout_s=0.2).ok, 20.0, "the link")


def test_place_that_fails_says_command_and_reason(lab: Lab) -> None:
    with pytest.raises(EnvironmentFault, match="h1: false: exit 1"):
        lab.hosts[0].run(["false"])
    with pytest.raises(DataError, match="no host or workload 'nowhere'"):
        lab.place("nowhere")


def test_lab_of_a_killed_process_is_removed_by_down(tmp_path: Path) -> None:
    name = f"killed{os.getpid()}"
    script = (
        "import os, signal, sys; from pathlib import Path; from felix.lab.lab import Lab\n"
        "lab = Lab(sys.argv[1], Path(sys.argv[2])); lab.up(hosts=1, agents=False)\n"
        "lab.add_workload(lab.hosts[0], 'w').listen(80)\n"
        "os.kill(os.getpid(), signal.SIGKILL)"
    )
    done = subprocess.run([sys.executable, "-c", script, name, str(tmp_path)], check=False)
    assert done.returncode == -signal.SIGKILL
    lab = Lab(name, tmp_path)
    records = list(lab._state.read().processes.values())
    assert {record.role for record in records} == {"etcd", "responder", "bird"}
    assert all(process.is_running(record) for record in records)

    lab.down()
    lab.down()

    assert not any(process.is_running(record) for record in records)
    assert list_namespaces(f"fx-{name}-") == []
    assert not lab.directory.exists()


def test_process_whose_id_was_reused_is_not_killed() -> None:
    me = process.identify(os.getpid(), "me")
    assert me is not None
    impostor = process.ProcessRecord(role="agent", pid=me.pid, start_ticks=me.start_ticks - 1)

    assert process.stop(impostor, signal.SIGKILL)


def _give_routes(lab: Lab, name: str) -> None:
    workload = lab.workloads[name]
    lab.host(workload.record.host).configure(
        f"route add {workload.ipv4} dev {workload.interface} scope link",
        f"route add {workload.ipv6} dev {workload.interface}",
    )
