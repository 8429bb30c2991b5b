"""One malformed object of every kind, and exactly what is said about it."""

from __future__ import annotations

import json

import pytest

from felix.model.codec import decode
from felix.model.keys import NAMESPACED_KINDS, PLURAL_BY_KIND, AffinityKey, BlockKey, ResourceKey, format_key
from felix.model.net import parse_net

MESSAGE_BY_CASE: dict[tuple[str, str], str] = {
    (
        "BGPConfiguration",
        '{"listenPort": 70000}',
    ): "spec.listenPort: expected a whole number from 1 to 65535 (seen: 70000)",
    (
        "BGPFilter",
        '{"importV4": [{"action": "Accept", "cidr": "fd00::/8", "matchOperator": "In"}]}',
    ): "spec.importV4[0].cidr: expected a prefix of IPv4 (seen: fd00::/8)",
    (
        "BGPPeer",
        '{"peerIP": "10.0.0.1:x", "asNumber": 64512}',
    ): "spec.peerIP: expected an address, or with a port 10.0.0.1:1179 or [2001:db8::1]:1179 (seen: 10.0.0.1:x)",
    (
        "ClusterInformation",
        '{"datastoreReady": "yes"}',
    ): "spec.datastoreReady: expected true or false (seen: yes)",
    ("FelixConfiguration", '["a"]'): "spec: expected a mapping (seen: ['a'])",
    (
        "GlobalNetworkPolicy",
        '{"selector": "role = 1"}',
    ): "spec.selector: is no selector: a single '=' compares nothing; write '==', at character 6 (seen: role = 1)",
    (
        "GlobalNetworkSet",
        '{"nets": ["10.0.0.0/40"]}',
    ): "spec.nets[0]: expected a prefix like 10.0.0.0/8 or 2001:db8::/32 (seen: 10.0.0.0/40)",
    (
        "HostEndpoint",
        '{"node": "h", "interfaceName": "eth0/1"}',
    ): "spec.interfaceName: "
    "expected the name of an interface: 1 to 15 of A-Z a-z 0-9 _ . -, or * for all (seen: eth0/1)",
    (
        "IPAMConfiguration",
        '{"maxBlocksPerHost": -1}',
    ): "spec.maxBlocksPerHost: expected a whole number from 0 to 1000000 (seen: -1)",
    (
        "IPReservation",
        '{"reservedCIDRs": ["10.0.0.0/40"]}',
    ): "spec.reservedCIDRs[0]: expected a prefix like 10.0.0.0/8 or 2001:db8::/32 (seen: 10.0.0.0/40)",
    (
        "IPPool",
        '{"cidr": "10.0.0.0/16", "ipipMode": "Sometimes"}',
    ): "spec.ipipMode: expected one of Always, CrossSubnet, Never (seen: Sometimes)",
    ("NetworkPolicy", '{"selector": 7}'): "spec.selector: expected text; put it in quotes (seen: 7)",
    ("NetworkSet", '{"nets": "10.0.0.0/8"}'): "spec.nets: expected a list (seen: 10.0.0.0/8)",
    (
        "Node",
        '{"bgp": {"ipv4Address": "fd00::1/64"}}',
    ): "spec.bgp.ipv4Address: expected an address with the length of its network, like 10.0.0.1/24 (seen: fd00::1/64)",
    (
        "Profile",
        '{"labelsToApply": {"a": 1}}',
    ): "spec.labelsToApply.a: expected text; put it in quotes (seen: 1)",
    (
        "StagedGlobalNetworkPolicy",
        '{"stagedAction": "set"}',
    ): "spec.stagedAction: expected one of Delete, Ignore, Learn, Set; did you mean Set? (seen: set)",
    ("StagedNetworkPolicy", '{"order": "1"}'): 'spec.order: expected a number (seen: "1")',
    ("Tier", '{"defaultAction": "Allow"}'): "spec.defaultAction: expected one of Deny, Pass (seen: Allow)",
    (
        "WorkloadEndpoint",
        '{"node": "h", "interfaceName": "cali1", "ipNetworks": ["10.0.0.1/24"]}',
    ): "spec.ipNetworks[0]: expected one address, with /32 or /128 (seen: 10.0.0.1/24)",
}


def test_every_kind_has_a_case() -> None:
    assert {kind for kind, _ in MESSAGE_BY_CASE} == set(PLURAL_BY_KIND)


@pytest.mark.parametrize(("case", "message"), MESSAGE_BY_CASE.items(), ids=lambda value: str(value[0]))
def test_malformed_object_counts_as_absent_and_the_message_says_where_and_why(
    case: tuple[str, str], message: str
) -> None:
    kind, spec = case
    key = ResourceKey(kind, "ns" if kind in NAMESPACED_KINDS else "", "x")
    record, problems = decode(key, json.dumps({"spec": json.loads(spec)}).encode())
    assert record is None
    assert [str(problem) for problem in problems] == [f"{format_key(key)}: {message}"]


def test_malformed_block_and_affinity_say_where_and_why() -> None:
    block = parse_net("10.0.0.0/26")
    _, (problem,) = decode(BlockKey(block), b'{"cidr": "10.0.0.64/26"}')
    assert str(problem) == (
        "/calico/ipam/v2/assignment/ipv4/block/10.0.0.0-26: cidr: "
        "differs from the key: 10.0.0.0/26 (seen: 10.0.0.64/26)"
    )
    _, (problem,) = decode(AffinityKey("h", block), b'{"state": "sure"}')
    assert str(problem) == (
        "/calico/ipam/v2/host/h/ipv4/block/10.0.0.0-26: state: "
        "expected confirmed, pending, pendingDeletion (seen: sure)"
    )


def test_value_that_is_no_json_says_so_in_one_line() -> None:
    _, (problem,) = decode(ResourceKey("Tier", "", "x"), b"{\nbroken")
    assert str(problem).startswith(
        "/calico/resources/v3/projectcalico.org/tiers/x: is no valid JSON: JSON is malformed: "
    )
    assert "\n" not in str(problem)
