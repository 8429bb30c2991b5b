"""A host that is lost: what it had is given back, not too early; when it returns, it has to clean up first."""

from __future__ import annotations

import signal
import time

import pytest

from felix.datastore.status import StatusKeys
from felix.lab import documents
from felix.lab.host import Host
from felix.lab.lab import Lab
from felix.lab.place import wait_until
from felix.lab.store import Document
from felix.model.keys import LOST_HOSTS, ResourceKey, format_fence_key, format_key
from tests.support.e2e import log_count, metric, open_profile, status, wait_up

pytestmark = pytest.mark.fv

_HOST_GRACE_S = 2.0
_LEAK_GRACE_S = 3.0
_PACE = {
    "FELIX_REPORTINGINTERVALSECS": "1",
    "FELIX_REPORTINGTTLSECS": "2",
    "FELIX_LOSTHOSTGRACEPERIOD": str(_HOST_GRACE_S),
    "FELIX_IPAMLEAKGRACEPERIOD": str(_LEAK_GRACE_S),
}
_LOST = {"h3": [f"w{number}" for number in range(11)], "h4": [f"v{number}" for number in range(11)]}
"""Their workloads: on each host more than may go at once without a person's word."""


def test_lost_hosts_are_given_up_once_their_routes_are_gone_too_and_clean_up_when_they_return(lab: Lab) -> None:
    first, dead, paused = _start(lab)

    # One agent is dead, one hangs, their BIRDs are well: packets flow, and nobody takes anything away.
    dead.stop_agent(signal.SIGKILL)
    paused.send_signal("agent", signal.SIGSTOP)
    _wait_lost(first, "reachable")
    leak = lab.add_workload(first, "leak", write_endpoint=False)
    wait_until(lambda: _holders(lab, leak.ipv4) == [], 20.0, "the leaked address to be free", 0.05)
    assert _HOST_GRACE_S < _LEAK_GRACE_S  # so they would have gone by now
    assert all(len(_endpoints(lab, name)) == 11 for name in _LOST)
    assert lab.store.list_prefix(LOST_HOSTS) == {}
    assert lab.workloads["near"].connect(lab.workloads["w0"].ipv4, protocol="icmp").ok

    # Nothing speaks for their lives any more.
    began_at = time.monotonic()
    dead.stop_bird()
    paused.stop_bird()
    wait_until(lambda: not any(_endpoints(lab, name) for name in _LOST), 30.0, "the endpoints to go", 0.05)
    assert time.monotonic() - began_at >= _HOST_GRACE_S
    wait_until(lambda: [*map(_fence, [lab] * 2, _LOST)] == ["done"] * 2, 20.0, "the hosts to be cleaned", 0.05)
    _wait_lost(first, "fenced")
    assert _holders(lab, lab.workloads["w0"].ipv4) == _holders(lab, lab.workloads["v0"].ipv4) == []
    assert not any(lab.store.list_prefix(f"/calico/ipam/v2/host/{name}/") for name in _LOST)
    assert metric(first, "felix_ipam_collected_total", kind="endpoint") == 22

    # They are back: their interfaces were open all the time.
    for host in (dead, paused):  # both, because a BIRD that restarts gracefully waits for all its peers
        host.start_bird()
    paused.send_signal("agent", signal.SIGCONT)
    dead.start_agent(environment=_PACE)
    wait_until(lambda: lab.store.list_prefix(LOST_HOSTS) == {}, 20.0, "the hosts to take part again", 0.05)
    for host, name in ((dead, "w"), (paused, "v")):
        host.wait_agent_ready()
        assert lab.store.get(StatusKeys(host.name).agent) is not None
        assert log_count(host, f"{host.name} was given up as lost at") >= 2
        assert log_count(host, "their containers lose their network") == 1
        assert not lab.workloads[f"{name}0"].connect(lab.workloads[f"{name}1"].ipv4, 80, "tcp", 0.2).ok
        _wait_metric(host, "felix_fenced", 0)
        assert status(host)["fenced"] == ""
        for key, document in documents.host_documents(host.addresses).items():
            lab.store.put(key, document)
        lab.remove_workload(f"{name}0")
        back = lab.add_workload(host, f"back-{name}", profiles=["open"])
        wait_up(host, back.name)
        _wait_way(lab, back.name)


def test_leak_that_was_seen_before_etcd_went_away_waits_a_whole_grace_period_again(lab: Lab) -> None:
    lab.up(hosts=1, bird=False, agents=False)
    host = lab.hosts[0]
    host.start_agent(environment={**_PACE, "FELIX_IPAMLEAKGRACEPERIOD": "2"})
    host.wait_agent_ready()
    leak = lab.add_workload(host, "leak", write_endpoint=False)
    wait_until(lambda: metric(host, "felix_ipam_leaks", kind="address") == 2, 20.0, "the leak to be seen", 0.05)
    lab.stop_etcd()
    wait_until(lambda: metric(host, "felix_collector_leader") == 0, 20.0, "the collector to resign", 0.05)
    lab.start_etcd()
    began_at = time.monotonic()
    assert _holders(lab, leak.ipv4) == ["felix-lab.leak"]
    wait_until(lambda: _holders(lab, leak.ipv4) == [], 30.0, "the leaked address to be free", 0.05)
    assert time.monotonic() - began_at >= 2.0


def _start(lab: Lab) -> tuple[Host, Host, Host]:
    lab.up(hosts=4, agents=False)
    first = lab.hosts[0]
    lab.apply(open_profile())
    first.start_agent(environment=_PACE)
    wait_until(lambda: metric(first, "felix_collector_leader") == 1, 20.0, "the first agent to be elected", 0.05)
    for host in lab.hosts[1:]:
        host.start_agent(environment=_PACE)
    lab.add_workload(first, "near", profiles=["open"])
    for host_name, names in _LOST.items():
        for name in names:
            lab.add_workload(lab.host(host_name), name, profiles=["open"])
    for host in lab.hosts:
        host.wait_agent_ready()
        wait_up(host, *_LOST.get(host.name, []))
    wait_up(first, "near")
    for name in ("w0", "v0"):
        _wait_way(lab, name)
    return first, lab.host("h3"), lab.host("h4")


def _wait_way(lab: Lab, name: str) -> None:
    near, target = lab.workloads["near"], lab.workloads[name]
    wait_until(lambda: near.connect(target.ipv4, protocol="icmp").ok, 30.0, f"the way to {name}")


def _wait_lost(host: Host, state: str) -> None:
    wait_until(lambda: metric(host, "felix_lost_hosts", state=state) == len(_LOST), 20.0, f"{state} hosts", 0.05)


def _wait_metric(host: Host, name: str, value: float) -> None:
    wait_until(lambda: metric(host, name) == value, 20.0, f"{name} to be {value}", 0.05)


def _endpoints(lab: Lab, host_name: str) -> dict[str, Document]:
    return lab.store.list_prefix(format_key(ResourceKey("WorkloadEndpoint", "default", f"{host_name}-")))


def _fence(lab: Lab, host_name: str) -> str:
    found = lab.store.get(format_fence_key(host_name))
    return str(found[0]["state"]) if found else ""


def _holders(lab: Lab, address: str) -> list[str]:
    """Returns the handles that hold an address: one, or none."""
    network = address.rpartition(".")[0]
    found = []
    for key, block in lab.store.list_prefix("/calico/ipam/v2/assignment/ipv4/").items():
        allocations, attributes = block["allocations"], block["attributes"]
        assert isinstance(allocations, list)
        assert isinstance(attributes, list)
        index = allocations[int(address.rpartition(".")[2])] if f"/{network}.0-" in key else None
        if isinstance(index, int):
            holder = attributes[index]
            assert isinstance(holder, dict)
            found.append(str(holder["handle_id"]))
    return found
