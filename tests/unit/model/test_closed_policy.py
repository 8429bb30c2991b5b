"""A policy that cannot be read closes the endpoints that it selects, as long as anybody can tell which they are."""

from __future__ import annotations

import json

import pytest

from felix.model.codec import decode
from felix.model.keys import ResourceKey
from felix.model.policies import DENY_RULE
from felix.model.records import GlobalNetworkPolicy, NetworkPolicy

GLOBAL = ResourceKey("GlobalNetworkPolicy", "", "p")
NAMESPACED = ResourceKey("NetworkPolicy", "prod", "p")


def stored(spec: dict[str, object], kind: str = "GlobalNetworkPolicy") -> bytes:
    return json.dumps({"kind": kind, "metadata": {"name": "p"}, "spec": spec}).encode()


@pytest.mark.parametrize(
    "fault", [{"order": "first"}, {"types": ["Sideways"]}, {"tier": 7}, {"applyOnForward": "yes"}], ids=str
)
def test_global_policy_with_readable_selector_and_a_fault_denies_both_directions_first(
    fault: dict[str, object],
) -> None:
    record, problems = decode(GLOBAL, stored({"selector": "role == 'db'", "ingress": [{"action": "Allow"}], **fault}))
    assert isinstance(record, GlobalNetworkPolicy)
    assert record.spec.selector == "role == 'db'"
    assert (record.spec.ingress, record.spec.egress) == ((DENY_RULE,), (DENY_RULE,))
    assert record.spec.types == ("Ingress", "Egress")
    assert record.spec.order == float("-inf")
    assert problems
    assert "denies everything to the endpoints that it selects" in str(problems[0])


def test_namespaced_policy_with_a_fault_keeps_tier_and_namespace() -> None:
    record, _ = decode(NAMESPACED, stored({"tier": "ops", "selector": "all()", "order": []}, "NetworkPolicy"))
    assert isinstance(record, NetworkPolicy)
    assert (record.metadata.namespace, record.spec.tier) == ("prod", "ops")


@pytest.mark.parametrize(
    "spec",
    [
        {"selector": "role =="},
        {"selector": 7},
        {"selector": "all()", "namespaceSelector": "((", "order": "x"},
        {"selector": "all()", "order": "x", "preDNAT": True},
        {"selector": "all()", "order": "x", "doNotTrack": True},
    ],
    ids=str,
)
def test_policy_that_nobody_can_place_counts_as_missing_and_is_named(spec: dict[str, object]) -> None:
    record, problems = decode(GLOBAL, stored(spec))
    assert record is None
    assert problems


@pytest.mark.parametrize("value", [b"", b"{", b"[]", b'{"spec": []}', b"\xff"])
def test_policy_that_is_no_object_counts_as_missing_and_is_named(value: bytes) -> None:
    record, problems = decode(GLOBAL, value)
    assert record is None
    assert problems


def test_staged_policy_with_a_fault_closes_nobody() -> None:
    key = ResourceKey("StagedGlobalNetworkPolicy", "", "p")
    record, problems = decode(key, stored({"selector": "all()", "order": "x"}, key.kind))
    assert record is None
    assert problems
