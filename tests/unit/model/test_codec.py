"""What decoding makes of stored values: records with defaults, rules that fail closed, names from keys."""

from __future__ import annotations

import json

import msgspec
import pytest

from felix.model.codec import VALUE_LIMIT_BYTES, decode, encode
from felix.model.keys import AffinityKey, BlockKey, Key, ResourceKey, parse_key
from felix.model.net import parse_net
from felix.model.policies import DENY_RULE, Rule
from felix.model.records import (
    AllocationBlock,
    BlockAffinity,
    GlobalNetworkPolicy,
    IPPool,
    NetworkPolicy,
    Node,
    Profile,
    Record,
    Tier,
    WorkloadEndpoint,
)

POLICY = ResourceKey("GlobalNetworkPolicy", "", "p")
PROFILE = ResourceKey("Profile", "", "p")
ENDPOINT = ResourceKey("WorkloadEndpoint", "ns", "h-cni-c-eth0")
GOOD_ENDPOINT = {"node": "h", "interfaceName": "cali1", "ipNetworks": ["10.0.0.1/32"]}


def store(spec: object, **metadata: object) -> bytes:
    return json.dumps({"metadata": metadata, "spec": spec}).encode()


def decode_good(key: Key, value: bytes) -> Record:
    record, problems = decode(key, value)
    assert problems == ()
    assert record is not None
    return record


def decode_rules(rules: object) -> tuple[tuple[Rule, ...], list[str]]:
    record, problems = decode(POLICY, store({"selector": "all()", "ingress": rules}))
    assert isinstance(record, GlobalNetworkPolicy)
    return record.spec.ingress, [problem.field for problem in problems]


def test_policy_as_calico_writes_it_is_read_without_problems() -> None:
    rule = {
        "action": "Allow",
        "ipVersion": 4,
        "protocol": "TCP",
        "source": {"nets": ["10.0.0.0/8"], "notSelector": "a == 'b'", "namespaceSelector": "global()"},
        "destination": {"ports": [80, "8000:8080"], "notPorts": ["443"]},
        "metadata": {"annotations": {"why": "because"}},
    }
    value = store(
        {"order": 10, "selector": "x == 'y'", "types": ["Ingress"], "ingress": [rule]}, creationTimestamp=None
    )
    record = decode_good(POLICY, value)
    assert isinstance(record, GlobalNetworkPolicy)
    (read,) = record.spec.ingress
    assert (record.spec.order, read.ip_version, read.protocol) == (10.0, 4, "TCP")
    assert read.destination.ports == (80, "8000:8080")
    assert decode_good(POLICY, encode(record)) == record


@pytest.mark.parametrize(
    ("spec", "types"),
    [
        ({}, ("Ingress",)),
        ({"ingress": [{"action": "Allow"}]}, ("Ingress",)),
        ({"egress": [{"action": "Allow"}]}, ("Egress",)),
        ({"ingress": [{"action": "Allow"}], "egress": [{"action": "Allow"}]}, ("Ingress", "Egress")),
        ({"types": ["Egress"]}, ("Egress",)),
    ],
)
def test_policy_types_when_left_out_follow_the_rules(spec: dict[str, object], types: tuple[str, ...]) -> None:
    record = decode_good(POLICY, store(spec))
    assert isinstance(record, GlobalNetworkPolicy)
    assert (record.spec.types, record.spec.tier) == (types, "default")


@pytest.mark.parametrize("name", ["p", "default.p", ""])
def test_policy_name_with_or_without_its_tier_is_the_same_name(name: str) -> None:
    record = decode_good(ResourceKey("GlobalNetworkPolicy", "", "default.p"), store({}, name=name))
    assert isinstance(record, GlobalNetworkPolicy)
    assert record.metadata.name == "default.p"


def test_name_and_namespace_that_differ_from_the_key_are_reported_and_the_key_counts() -> None:
    record, problems = decode(ENDPOINT, store(GOOD_ENDPOINT, name="other", namespace="elsewhere"))
    assert isinstance(record, WorkloadEndpoint)
    assert (record.metadata.name, record.metadata.namespace) == (ENDPOINT.name, ENDPOINT.namespace)
    assert [problem.field for problem in problems] == ["metadata.name", "metadata.namespace"]


def test_null_counts_as_absent() -> None:
    spec = {"selector": None, "ingress": [{"action": "Allow", "source": None, "protocol": None}], "egress": None}
    record = decode_good(POLICY, store(spec, labels=None))
    assert isinstance(record, GlobalNetworkPolicy)
    assert record.spec.ingress == (Rule("Allow"),)


@pytest.mark.parametrize(
    ("rule", "field"),
    [
        ({"action": "allow"}, ".action"),
        ({}, ".action"),
        ("Allow", ""),
        ({"action": "Allow", "protocol": "TPC"}, ".protocol"),
        ({"action": "Allow", "protocol": 0}, ".protocol"),
        ({"action": "Allow", "protocol": 256}, ".protocol"),
        ({"action": "Allow", "protocol": True}, ".protocol"),
        ({"action": "Allow", "notProtocol": "x"}, ".notProtocol"),
        ({"action": "Allow", "ipVersion": 5}, ".ipVersion"),
        ({"action": "Allow", "source": {"nets": ["10.0.0.0/33"]}}, ".source.nets[0]"),
        ({"action": "Allow", "source": {"nets": ["10.0.0.0/255.0.0.0"]}}, ".source.nets[0]"),
        ({"action": "Allow", "source": {"nets": "10.0.0.0/8"}}, ".source.nets"),
        ({"action": "Allow", "source": {"selector": "a ="}}, ".source.selector"),
        ({"action": "Allow", "source": {"namespaceSelector": "("}}, ".source.namespaceSelector"),
        ({"action": "Allow", "destination": {"ports": [80]}}, ".destination.ports"),
        ({"action": "Allow", "protocol": "ICMP", "destination": {"ports": [80]}}, ".destination.ports"),
        ({"action": "Allow", "protocol": "TCP", "destination": {"ports": ["90:80"]}}, ".destination.ports[0]"),
        ({"action": "Allow", "protocol": "TCP", "destination": {"ports": [65536]}}, ".destination.ports[0]"),
        ({"action": "Allow", "protocol": "TCP", "destination": {"ports": [-1]}}, ".destination.ports[0]"),
        ({"action": "Allow", "protocol": "TCP", "destination": {"ports": ["http server"]}}, ".destination.ports[0]"),
        ({"action": "Allow", "protocol": "TCP", "icmp": {"type": 8}}, ".icmp"),
        ({"action": "Allow", "protocol": "ICMP", "icmp": {"code": 0}}, ".icmp.code"),
        ({"action": "Allow", "protocol": "ICMP", "icmp": {"type": 255}}, ".icmp.type"),
        ({"action": "Allow", "protocol": "ICMP", "notICMP": {"type": -1}}, ".notICMP.type"),
        ({"action": "Allow", "http": {"methods": ["GET"]}}, ".http"),
        ({"action": "Allow", "source": {"serviceAccounts": {"names": ["a"]}}}, ".source.serviceAccounts"),
        ({"action": "Allow", "destination": {"services": {"name": "a"}}}, ".destination.services"),
        ({"action": "Allow", "destination": {"domains": ["example.org"]}}, ".destination.domains"),
        ({"action": "Allow", "Source": {"nets": ["10.0.0.0/8"]}}, ".Source"),
    ],
    ids=str,
)
def test_rule_that_cannot_be_enforced_becomes_a_deny_and_others_stay(rule: object, field: str) -> None:
    rules, fields = decode_rules([{"action": "Pass"}, rule, {"action": "Log"}])
    assert rules == (Rule("Pass"), DENY_RULE, Rule("Log"))
    assert fields == ["spec.ingress[1]" + field]


@pytest.mark.parametrize("rules", ["x", {}, 7, True], ids=str)
def test_rules_that_are_no_list_become_one_deny(rules: object) -> None:
    assert decode_rules(rules) == ((DENY_RULE,), ["spec.ingress"])


def test_profile_with_a_bad_rule_keeps_its_labels_and_denies_in_place_of_the_rule() -> None:
    record, problems = decode(PROFILE, store({"ingress": [{"action": "No"}], "labelsToApply": {"a": "b"}}))
    assert isinstance(record, Profile)
    assert (record.spec.ingress, record.spec.labels_to_apply) == ((DENY_RULE,), {"a": "b"})
    assert len(problems) == 1


def test_policy_with_very_many_bad_rules_reports_the_first_and_that_there_are_more() -> None:
    rules = [{"action": "No"}] * 1000
    record, problems = decode(POLICY, store({"selector": "all()", "ingress": rules}))
    assert isinstance(record, GlobalNetworkPolicy)
    assert record.spec.ingress == (DENY_RULE,) * 1000
    assert len(problems) == 21
    assert problems[-1].reason == "has more problems than these 20"


@pytest.mark.parametrize(
    "value",
    [
        b"",
        b"null",
        b"[]",
        b"{",
        b"[" * 100_000,
        b'{"spec":' * 100_000,
        b'{"metadata":' + b"[" * 900 + b"]" * 900 + b"}",
        b"\xff\xfe",
        b'{"spec":{"order":NaN}}',
        b'{"spec":{"order":1e999}}',
        b'{"spec":{"selector":"\xff"}}',
        b'{"spec":{"selector":"\\ud800"}}',
        b'{"spec":{"order":' + b"9" * 5000 + b"}}",
        b'{"spec":7}',
        b'{"metadata":{"name":1},"spec":{}}',
        b'{"kind":"Tier","spec":{}}',
        b" " * (VALUE_LIMIT_BYTES + 1),
    ],
    ids=lambda value: repr(value[:30]),
)
def test_value_that_is_nothing_readable_gives_a_problem_and_no_error(value: bytes) -> None:
    for key in (ResourceKey("StagedGlobalNetworkPolicy", "", "p"), ResourceKey("StagedNetworkPolicy", "a", "b")):
        record, problems = decode(key, value)
        assert record is None
        assert problems


def test_field_given_twice_counts_with_its_last_value_as_in_go() -> None:
    record = decode_good(POLICY, b'{"spec":{"ingress":[{"action":"Allow","action":"Deny"}]}}')
    assert isinstance(record, GlobalNetworkPolicy)
    assert record.spec.ingress == (Rule("Deny"),)


def test_defaults_of_tier_and_pool_are_those_of_calico() -> None:
    tier = decode_good(ResourceKey("Tier", "", "default"), store({}))
    other = decode_good(ResourceKey("Tier", "", "other"), store({}))
    pool = decode_good(ResourceKey("IPPool", "", "a"), store({"cidr": "10.0.0.0/16", "ipipMode": ""}))
    pool6 = decode_good(ResourceKey("IPPool", "", "b"), store({"cidr": "fd00::/64"}))
    tiny = decode_good(ResourceKey("IPPool", "", "c"), store({"cidr": "10.0.0.0/30"}))
    assert isinstance(tier, Tier)
    assert isinstance(other, Tier)
    assert (tier.spec.order, tier.spec.default_action, other.spec.order) == (1_000_000.0, "Deny", None)
    assert isinstance(pool, IPPool)
    assert isinstance(pool6, IPPool)
    assert isinstance(tiny, IPPool)
    assert (pool.spec.block_size, pool6.spec.block_size, tiny.spec.block_size) == (26, 122, 30)
    assert (pool.spec.ipip_mode, pool.spec.node_selector) == ("Never", "all()")
    assert pool.spec.allowed_uses == ("Workload", "Tunnel")


def test_as_number_as_text_is_read_as_number() -> None:
    node = decode_good(ResourceKey("Node", "", "h"), store({"bgp": {"asNumber": "64512"}}))
    assert isinstance(node, Node)
    assert node.spec.bgp is not None
    assert node.spec.bgp.as_number == 64512


def test_block_and_affinity_as_calico_writes_them_are_read() -> None:
    block = {
        "cidr": "10.1.2.0/26",
        "affinity": "host:h1",
        "affinityClaimTime": "2020-01-01T00:00:00Z",
        "allocations": [0, None],
        "unallocated": [1],
        "attributes": [{"handle_id": "net.c1", "secondary": {"node": "h1"}}],
        "deleted": False,
        "sequenceNumber": 1600000000000000000,
        "sequenceNumberForAllocation": {"0": 1600000000000000000},
    }
    key = BlockKey(parse_net("10.1.2.0/26"))
    read = decode_good(key, json.dumps(block).encode())
    assert isinstance(read, AllocationBlock)
    assert (read.affinity, read.allocations, read.attributes[0].handle_id) == ("host:h1", (0, None), "net.c1")
    affinity_key = AffinityKey("h1", parse_net("10.1.2.0/26"))
    affinity = decode_good(affinity_key, b'{"state":"confirmed","deleted":false,"type":"host"}')
    assert affinity == BlockAffinity("confirmed")


@pytest.mark.parametrize("value", [b'{"cidr":"10.9.9.0/26"}', b'{"cidr":7}', b"{}", b"[]", b"x"])
def test_block_that_contradicts_its_key_or_is_malformed_counts_as_absent(value: bytes) -> None:
    record, problems = decode(BlockKey(parse_net("10.1.2.0/26")), value)
    assert record is None
    assert len(problems) == 1


def test_encode_of_a_document_keeps_unknown_fields_and_drops_the_revision() -> None:
    document = {"kind": "Tier", "metadata": {"name": "a", "resourceVersion": "7"}, "spec": {"new": [1]}, "status": {}}
    read = msgspec.json.decode(encode(document))
    assert read == {"kind": "Tier", "metadata": {"name": "a"}, "spec": {"new": [1]}, "status": {}}


def test_keys_of_all_problems_are_those_of_the_datastore() -> None:
    key = parse_key("/calico/resources/v3/projectcalico.org/networkpolicies/ns/a")
    assert key is not None
    _, problems = decode(key, b"{")
    assert [problem.subject for problem in problems] == ["/calico/resources/v3/projectcalico.org/networkpolicies/ns/a"]


def test_namespaced_policy_and_its_staged_twin_are_read_alike() -> None:
    value = store({"selector": "a == 'b'", "egress": [{"action": "Deny"}]})
    record = decode_good(ResourceKey("NetworkPolicy", "ns", "a"), value)
    staged = decode_good(ResourceKey("StagedNetworkPolicy", "ns", "a"), value)
    assert isinstance(record, NetworkPolicy)
    assert record.metadata.namespace == "ns"
    assert msgspec.to_builtins(staged)["spec"] == msgspec.to_builtins(record)["spec"]


@pytest.mark.parametrize("kind", ["WorkloadEndpoint", "Profile", "Tier", "NetworkPolicy", "Node"])
def test_object_under_a_key_that_is_no_text_counts_as_missing_and_can_be_named(kind: str) -> None:
    namespace = "n\udcff" if kind in {"WorkloadEndpoint", "NetworkPolicy"} else ""
    record, (problem,) = decode(ResourceKey(kind, namespace, "a\udcfe"), store(GOOD_ENDPOINT))

    assert record is None
    assert "no UTF-8 text" in problem.reason
    assert "a\\udcfe" in problem.subject
    msgspec.json.encode(problem)


def test_name_of_any_letters_is_read() -> None:
    record = decode_good(ResourceKey("Profile", "", "größe"), store({}))
    assert isinstance(record, Profile)
    assert record.metadata.name == "größe"
