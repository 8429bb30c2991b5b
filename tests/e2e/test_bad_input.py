"""Malformed objects of every kind, written by hand: each is named once, fails closed, and nothing else notices."""

from __future__ import annotations

import os
import signal
from collections.abc import Iterator
from typing import NamedTuple

import pytest

from felix.lab import documents
from felix.lab.host import Host
from felix.lab.lab import Lab, Workload
from felix.lab.place import wait_until
from felix.lab.store import Document, Json
from felix.model.keys import KIND_BY_PLURAL, AffinityKey, BlockKey, ResourceKey, format_key
from felix.model.net import parse_net
from tests.support.e2e import log_count, metric, open_profile, problems, wait_revision, wait_status, wait_up

pytestmark = pytest.mark.fv

_OTHER_BLOCK = parse_net("192.168.77.0/26")


class Bad(NamedTuple):
    """A stored value that cannot be used. kind: of the metric. field, reason: parts of the message."""

    key: str
    kind: str
    value: Document | str
    field: str
    reason: str


def _spec(kind: str, spec: Json, field: str, reason: str, name: str = "bad") -> Bad:
    namespace = "default" if kind in {"NetworkPolicy", "StagedNetworkPolicy", "NetworkSet", "WorkloadEndpoint"} else ""
    key = format_key(ResourceKey(kind, namespace, name))
    document: Document = {**documents.resource(kind, name, {}), "spec": spec}
    return Bad(key, key.split("/")[5], document, field, reason)


def _rule(**rule: Json) -> Json:
    return {"selector": "role == 'nobody'", "types": ["Ingress"], "ingress": [{"action": "Allow", **rule}]}


_ENDPOINT: Document = {"node": "h1", "orchestrator": "cni", "workload": "bad", "endpoint": "eth0"}
_BAD = [
    _spec("WorkloadEndpoint", {**_ENDPOINT, "interfaceName": "calibad", "ipNetworks": "10.0.0.1/32"}, "ipNetworks", ""),
    _spec(
        "WorkloadEndpoint",
        {**_ENDPOINT, "interfaceName": "calibad", "ipNetworks": ["10.0.0.300/32"]},
        "spec.ipNetworks[0]",
        "expected one address",
    ),
    _spec("WorkloadEndpoint", {**_ENDPOINT, "interfaceName": "cali bad"}, "spec.interfaceName", "expected the name"),
    _spec("HostEndpoint", {"node": "h2", "expectedIPs": ["nowhere"]}, "spec.expectedIPs[0]", "expected an address"),
    _spec("Profile", {"labelsToApply": ["a"]}, "spec.labelsToApply", "expected"),
    _spec("Profile", {"ingress": [{"action": "Permit"}]}, "spec.ingress[0].action", "denies everything instead"),
    _spec("Tier", {"order": "high"}, "spec.order", "expected"),
    _spec("GlobalNetworkPolicy", {"selector": "role =="}, "spec.selector", ""),
    _spec("GlobalNetworkPolicy", _rule(source={"nets": ["10.0.0.0/99"]}), "spec.ingress[0].source.nets[0]", "denies"),
    _spec("NetworkPolicy", _rule(action="Permit"), "spec.ingress[0].action", "denies everything instead"),
    _spec("NetworkPolicy", _rule(source={"selector": "a in"}), "spec.ingress[0].source.selector", "denies"),
    _spec("StagedGlobalNetworkPolicy", {"stagedAction": "Maybe"}, "spec.stagedAction", "expected"),
    _spec("StagedNetworkPolicy", {"selector": "all() &&"}, "spec.selector", ""),
    _spec("NetworkSet", {"nets": ["10.0.0/8"]}, "spec.nets[0]", "expected"),
    _spec("GlobalNetworkSet", {"nets": {"10.0.0.0/8": True}}, "spec.nets", "expected"),
    _spec("IPPool", {"cidr": "192.168.0.0/33"}, "spec.cidr", "expected a prefix"),
    _spec("IPReservation", {"reservedCIDRs": ["10.0.0.0/33"]}, "spec.reservedCIDRs[0]", "expected"),
    _spec("IPAMConfiguration", {"strictAffinity": "perhaps"}, "spec.strictAffinity", "expected"),
    _spec("Node", {"bgp": {"ipv4Address": "10.0.0.x/24"}}, "spec.bgp.ipv4Address", "expected"),
    _spec("BGPConfiguration", {"asNumber": "many"}, "spec.asNumber", ""),
    _spec("BGPPeer", {"nodeSelector": "has(", "peerIP": "10.0.0.9", "asNumber": 1}, "spec.nodeSelector", ""),
    _spec("BGPFilter", {"importV4": [{"action": "Perhaps"}]}, "spec.importV4[0].action", "expected"),
    _spec("ClusterInformation", {"datastoreReady": "perhaps"}, "spec.datastoreReady", "expected"),
    _spec("FelixConfiguration", ["logSeverityScreen"], "spec", "expected"),
    Bad(format_key(AffinityKey("h1", _OTHER_BLOCK)), "ipam", {"state": "sure"}, "state", "expected confirmed"),
    Bad(format_key(BlockKey(_OTHER_BLOCK)), "ipam", {"cidr": "10.0.0.0/26"}, "cidr", "differs from the key"),
]
_NO_JSON = '{"kind": "'


@pytest.fixture(scope="module")
def lab(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Lab]:
    with Lab(f"e2ebad{os.getpid()}", tmp_path_factory.mktemp("l")) as lab:
        lab.up(hosts=1, bird=False)
        host = lab.hosts[0]
        lab.apply(open_profile())
        for name in ("one", "other"):
            lab.add_workload(host, name, profiles=["open"]).listen(80)
        host.wait_agent_ready()
        wait_up(host, "one", "other")
        yield lab
        print(host.agent_log.read_text()[-20000:])


@pytest.mark.parametrize("bad", _BAD, ids=lambda bad: f"{bad.kind}-{bad.field}")
def test_bad_object_is_named_once_in_log_status_and_metric_until_it_goes(lab: Lab, bad: Bad) -> None:
    host = lab.hosts[0]
    before = metric(host, "felix_problems", kind=bad.kind)
    lab.store.put(bad.key, bad.value)
    _wait_named(host, bad.key)

    named = _named(host, bad.key)
    assert all(text.startswith(bad.key) for text in named)
    assert [text for text in named if bad.field in text and bad.reason in text], named
    assert metric(host, "felix_problems", kind=bad.kind) == before + len(named)
    lab.store.put(bad.key, bad.value)  # the same again is no news
    wait_revision(host, lab.apply(open_profile("good")))
    for text in named:
        assert log_count(host, f"WARNING felix.report: {text}") == 1
    _check_others(lab)

    lab.store.delete(bad.key)
    wait_until(lambda: not _named(host, bad.key), 20.0, "the problem to end", 0.02)
    assert metric(host, "felix_problems", kind=bad.kind) == before
    assert log_count(host, f"{bad.key}: all right now") >= 1


def test_no_json_under_keys_of_all_kinds_hinders_neither_a_new_endpoint_nor_a_restart(lab: Lab) -> None:
    host = lab.hosts[0]
    keys = sorted({bad.key for bad in _BAD})
    assert {bad.kind for bad in _BAD} == {*KIND_BY_PLURAL, "ipam"}
    for key in keys:
        lab.store.put(key, _NO_JSON)
    for key in keys:
        _wait_named(host, key)
        assert [text for text in _named(host, key) if "is no valid JSON" in text]
    lab.add_workload(host, "late", profiles=["open"]).listen(80)
    wait_up(host, "late")
    assert lab.workloads["one"].connect(lab.workloads["late"].ipv4, 80).ok

    host.stop_agent(signal.SIGKILL)
    host.start_agent()
    host.wait_agent_ready()
    for key in keys:
        _wait_named(host, key)
    lab.remove_workload("late")
    wait_status(host, "late", "")
    _check_others(lab)
    for key in keys:
        lab.store.delete(key)
    wait_until(lambda: problems(host) == [], 20.0, "all problems to end", 0.02)


def test_endpoint_that_becomes_malformed_is_closed_alone_and_comes_back(lab: Lab) -> None:
    host, one, victim = lab.hosts[0], lab.workloads["one"], lab.add_workload(lab.hosts[0], "victim", profiles=["open"])
    victim.listen(80)
    wait_up(host, "victim")
    stored = lab.store.get(victim.record.key)
    assert stored is not None
    assert one.connect(victim.ipv4, 80).ok

    lab.store.put(victim.record.key, json_with(stored[0], "ipNetworks", ["192.168.1.700/32"]))
    wait_status(host, "victim", "")
    assert not _can_reach(one, victim)
    assert not _can_reach(victim, one)
    _check_others(lab)

    lab.store.put(victim.record.key, stored[0])
    wait_up(host, "victim")
    assert one.connect(victim.ipv4, 80).ok
    lab.remove_workload("victim")


def test_profile_that_becomes_malformed_closes_its_endpoints_alone(lab: Lab) -> None:
    host, one = lab.hosts[0], lab.workloads["one"]
    profile = open_profile("brittle")
    lab.apply(profile)
    victim = lab.add_workload(host, "victim", profiles=["brittle"])
    victim.listen(80)
    wait_up(host, "victim")
    assert one.connect(victim.ipv6, 80).ok

    key = format_key(ResourceKey("Profile", "", "brittle"))
    lab.store.put(key, _NO_JSON)
    _wait_named(host, key)
    wait_until(lambda: not _can_reach(one, victim), 20.0, "the victim to be closed")
    assert not _can_reach(victim, one)
    _check_others(lab)

    wait_revision(host, lab.apply(profile))
    assert one.connect(victim.ipv6, 80).ok
    lab.store.delete(key)
    lab.remove_workload("victim")


@pytest.mark.parametrize(
    "bad",
    [
        {"source": {"nets": ["0.0.0.0/0", "nonsense"]}},
        {"source": {"selector": "all() ||"}},
        {"protocol": "TPC"},
        {"action": "allow it"},
        {"destination": {"ports": [80, "90:70"]}},
        {"destination": {"prots": [80]}},
    ],
    ids=["nets", "selector", "protocol", "action", "ports", "field"],
)
def test_rule_that_cannot_be_read_denies_what_it_might_have_allowed(lab: Lab, bad: dict[str, Json]) -> None:
    host, one = lab.hosts[0], lab.workloads["one"]
    victim = lab.add_workload(host, "victim", profiles=["open"], labels={"role": "victim"})
    victim.listen(80)
    wait_up(host, "victim")
    policy = documents.resource(
        "GlobalNetworkPolicy",
        "brittle",
        {
            "selector": "role == 'victim'",
            "types": ["Ingress"],
            "ingress": [{"action": "Allow", "protocol": "TCP", **bad}, {"action": "Allow"}],
        },
    )
    wait_revision(host, lab.apply(policy))
    assert not _can_reach(one, victim)
    assert victim.connect(one.ipv4, 80).ok
    assert [text for text in problems(host) if "spec.ingress[0]" in text]
    _check_others(lab)
    lab.store.delete(documents.key_of(policy))
    wait_until(lambda: _can_reach(one, victim), 20.0, "the victim to be open again")
    lab.remove_workload("victim")


def test_bad_setting_at_run_time_is_named_and_the_old_value_stays(lab: Lab) -> None:
    host = lab.hosts[0]
    good = documents.resource("FelixConfiguration", "default", {"healthTimeoutOverrides": "dataplane=77s"})
    key = documents.key_of(good)
    lab.apply(good)
    wait_until(lambda: "77s" in host.http_get(9099, "/readiness")[1], 20.0, "the new timeout")

    lab.apply(documents.resource("FelixConfiguration", "default", {"healthTimeoutOverrides": "dataplane=soon"}))
    said = "FelixConfiguration default: HealthTimeoutOverrides: give"
    wait_until(lambda: any(said in text and "soon" in text for text in problems(host)), 20.0, "the problem", 0.02)
    assert log_count(host, said) == 1
    assert metric(host, "felix_problems", kind="settings") == 1
    assert "77s" in host.http_get(9099, "/readiness")[1]
    _check_others(lab)

    lab.store.delete(key)
    wait_until(lambda: problems(host) == [], 20.0, "the problem to end", 0.02)
    assert metric(host, "felix_problems", kind="settings") == 0
    assert "77s" not in host.http_get(9099, "/readiness")[1]


@pytest.mark.parametrize(
    ("name", "value", "said"),
    [
        ("FELIX_HEALTHPORT", "ninety", "HealthPort"),
        ("FELIX_DEFAULTENDPOINTTOHOSTACTION", "MAYBE", "DefaultEndpointToHostAction"),
        ("FELIX_ETCDENDPOINTS", "ftp://x", "EtcdEndpoints"),
    ],
)
def test_bad_setting_at_start_ends_with_its_name_value_source_and_code(
    lab: Lab, name: str, value: str, said: str
) -> None:
    host = lab.hosts[0]
    done = host.run(["env", f"{name}={value}", "felix", "run"], check=False)

    assert done.returncode == 78
    assert said in done.stderr
    assert value in done.stderr
    assert f"environment {name}" in done.stderr
    assert host.is_agent_ready()


def json_with(document: Document, field: str, value: Json) -> Document:
    """Returns the document with one field of its spec replaced."""
    spec = document["spec"]
    assert isinstance(spec, dict)
    return {**document, "spec": {**spec, field: value}}


def _named(host: Host, key: str) -> list[str]:
    return [text for text in problems(host) if text.startswith(f"{key}:")]


def _wait_named(host: Host, key: str) -> None:
    wait_until(lambda: bool(_named(host, key)), 20.0, f"a problem of {key}", 0.02)


def _can_reach(source: Workload, target: Workload) -> bool:
    return any(source.connect(address, 80, "tcp", 0.2).ok for address in (target.ipv4, target.ipv6))


def _check_others(lab: Lab) -> None:
    """What has nothing to do with the bad object works as before."""
    one, other = lab.workloads["one"], lab.workloads["other"]
    assert one.connect(other.ipv4, 80).ok
    assert other.connect(one.ipv6, 80).ok
    assert lab.hosts[0].is_agent_ready()
