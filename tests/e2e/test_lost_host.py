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
from felix.model.keys import ResourceKey, format_fence_key, format_key
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
_NAMES = [f"w{number}" for number in range(11)]  # more than may go at once without a person's word
_ENDPOINTS = format_key(ResourceKey("WorkloadEndpoint", "default", "h3-"))
_FENCE = format_fence_key("h3")


def test_lost_host_is_given_up_once_its_routes_are_gone_too_and_cleans_up_when_it_returns(lab: Lab) -> None:
    first, third = _start(lab)

    # Its agent is dead, its BIRD is not: packets flow, and nobody takes anything away.
    third.stop_agent(signal.SIGKILL)
    _wait_lost(first, "reachable")
    leak = lab.add_workload(first, "leak", write_endpoint=False)
    wait_until(lambda: _holders(lab, leak.ipv4) == [], 20.0, "the leaked address to be free", 0.05)
    assert _HOST_GRACE_S < _LEAK_GRACE_S  # so it would have gone by now
    assert len(lab.store.list_prefix(_ENDPOINTS)) == len(_NAMES)
    assert lab.store.get(_FENCE) is None
    assert lab.workloads["near"].connect(lab.workloads["w0"].ipv4, protocol="icmp").ok

    # Nothing speaks for its life any more.
    began_at = time.monotonic()
    third.stop_bird()
    wait_until(lambda: not lab.store.list_prefix(_ENDPOINTS), 30.0, "the endpoints to go", 0.05)
    assert time.monotonic() - began_at >= _HOST_GRACE_S
    wait_until(lambda: (_fence(lab) or {}).get("state") == "done", 10.0, "the host to be cleaned", 0.05)
    assert _holders(lab, lab.workloads["w0"].ipv4) == []
    assert lab.store.list_prefix("/calico/ipam/v2/host/h3/") == {}
    _wait_lost(first, "fenced")
    assert metric(first, "felix_ipam_collected_total", kind="endpoint") == len(_NAMES)

    # It is back: its interfaces were open all the time.
    third.start_bird()
    third.start_agent(environment=_PACE)
    wait_until(lambda: lab.store.get(_FENCE) is None, 20.0, "the host to take part again", 0.05)
    third.wait_agent_ready()
    assert lab.store.get(StatusKeys("h3").agent) is not None
    assert log_count(third, "h3 was given up as lost at") >= 2
    assert not lab.workloads["w0"].connect(lab.workloads["w1"].ipv4, 80, "tcp", 0.2).ok
    assert (metric(third, "felix_fenced"), status(third)["fenced"]) == (0, "")

    for key, document in documents.host_documents(third.addresses).items():
        lab.store.put(key, document)
    lab.remove_workload("w0")
    back = lab.add_workload(third, "back", profiles=["open"])
    wait_up(third, "back")
    wait_until(lambda: lab.workloads["near"].connect(back.ipv4, protocol="icmp").ok, 20.0, "the way to h3")


def test_leak_that_was_seen_before_etcd_went_away_waits_a_whole_grace_period_again(lab: Lab) -> None:
    lab.up(hosts=1, bird=False, agents=False)
    host = lab.hosts[0]
    host.start_agent(environment={**_PACE, "FELIX_IPAMLEAKGRACEPERIOD": "2"})
    host.wait_agent_ready()
    leak = lab.add_workload(host, "leak", write_endpoint=False)
    wait_until(lambda: metric(host, "felix_ipam_leaks", kind="address") == 2, 10.0, "the leak to be seen", 0.05)
    lab.stop_etcd()
    wait_until(lambda: metric(host, "felix_collector_leader") == 0, 20.0, "the collector to resign", 0.05)
    lab.start_etcd()
    began_at = time.monotonic()
    assert _holders(lab, leak.ipv4) == ["felix-lab.leak"]
    wait_until(lambda: _holders(lab, leak.ipv4) == [], 30.0, "the leaked address to be free", 0.05)
    assert time.monotonic() - began_at >= 2.0


def _start(lab: Lab) -> tuple[Host, Host]:
    lab.up(hosts=3, agents=False)
    first, _, third = lab.hosts
    lab.apply(open_profile())
    first.start_agent(environment=_PACE)
    wait_until(lambda: metric(first, "felix_collector_leader") == 1, 20.0, "the first agent to be elected", 0.05)
    for host in lab.hosts[1:]:
        host.start_agent(environment=_PACE)
    lab.add_workload(first, "near", profiles=["open"])
    for name in _NAMES:
        lab.add_workload(third, name, profiles=["open"])
    for host in lab.hosts:
        host.wait_agent_ready()
    wait_up(first, "near")
    wait_up(third, *_NAMES)
    near, far = lab.workloads["near"], lab.workloads["w0"]
    wait_until(lambda: near.connect(far.ipv4, protocol="icmp").ok, 30.0, "routes to h3")
    return first, third


def _wait_lost(host: Host, state: str) -> None:
    wait_until(lambda: metric(host, "felix_lost_hosts", state=state) == 1, 20.0, f"a {state} host", 0.05)


def _fence(lab: Lab) -> Document | None:
    found = lab.store.get(_FENCE)
    return found[0] if found else None


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
