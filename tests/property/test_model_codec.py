"""Laws of decoding: what was encoded comes back; whatever bytes come, nothing is raised and nothing gets looser."""

from __future__ import annotations

import json

import msgspec
from hypothesis import given
from hypothesis import strategies as st

from felix.model.codec import decode, encode
from felix.model.keys import NAMESPACED_KINDS, PLURAL_BY_KIND, AffinityKey, BlockKey, Key, ResourceKey
from felix.model.net import parse_net
from felix.model.policies import DENY_RULE, Rule
from felix.model.records import GlobalNetworkPolicy, Icmp, WorkloadEndpoint
from felix.model.validate import validate

Json = object

BLOCK = parse_net("10.0.0.0/26")
KEYS: st.SearchStrategy[Key] = st.one_of(
    st.sampled_from(sorted(PLURAL_BY_KIND)).map(
        lambda kind: ResourceKey(kind, "ns" if kind in NAMESPACED_KINDS else "", "a")
    ),
    st.just(BlockKey(BLOCK)),
    st.just(AffinityKey("h", BLOCK)),
)
SCALARS = st.one_of(
    st.none(),
    st.booleans(),
    st.integers(),
    st.floats(),
    st.text(max_size=8),
    st.sampled_from(
        ["Allow", "Deny", "TCP", "all()", "10.0.0.0/8", "fd00::/8", "80:90", "a == 'b'", "Ingress", "cali1"]
    ),
)
# Fields and words of real resources, so that much of what is made nearly fits.
WORDS = st.sampled_from(
    """spec metadata name namespace labels ingress egress action protocol notProtocol source destination nets notNets
    selector notSelector namespaceSelector ports notPorts icmp notICMP type code order tier types ipVersion cidr
    ipNetworks interfaceName node mac profiles bgp asNumber peerIP importV4 kind apiVersion services http foo""".split()
)
VALUES: st.SearchStrategy[Json] = st.recursive(
    SCALARS,
    lambda inner: st.one_of(st.lists(inner, max_size=4), st.dictionaries(WORDS, inner, max_size=5)),
    max_leaves=20,
)
NETS = st.sampled_from(["10.0.0.0/8", "192.0.2.7/32", "fd00::/8", "0.0.0.0/0"])
SELECTORS = st.sampled_from(["a == 'b'", "has(a) && !has(c)", "all()", "d in {'e', 'f'}"])


@st.composite
def good_rules(draw: st.DrawFn) -> dict[str, Json]:
    rule: dict[str, Json] = {"action": draw(st.sampled_from(["Allow", "Deny", "Pass", "Log"]))}
    rule["protocol"] = draw(st.sampled_from(["TCP", "udp", 132, 6]))
    side = st.fixed_dictionaries(
        {},
        optional={
            "nets": st.lists(NETS, max_size=3),
            "notNets": st.lists(NETS, max_size=2),
            "selector": SELECTORS,
            "notSelector": SELECTORS,
            "namespaceSelector": SELECTORS,
            "ports": st.lists(st.sampled_from([80, "443", "1000:2000", 0, 65535]), max_size=3),
        },
    )
    rule["source"] = draw(side)
    rule["destination"] = draw(side)
    if draw(st.booleans()):
        rule["ipVersion"] = draw(st.sampled_from([4, 6]))
    if draw(st.booleans()):
        rule.update(protocol="ICMP", icmp={"type": draw(st.integers(0, 254))})
        rule["source"] = rule["destination"] = {}
    return rule


POLICIES = st.fixed_dictionaries(
    {"selector": SELECTORS},
    optional={
        "order": st.floats(allow_nan=False, allow_infinity=False) | st.integers(-1000, 1000),
        "tier": st.sampled_from(["default", "ops"]),
        "types": st.sampled_from([["Ingress"], ["Egress"], ["Ingress", "Egress"]]),
        "ingress": st.lists(good_rules(), max_size=4),
        "egress": st.lists(good_rules(), max_size=4),
        "applyOnForward": st.booleans(),
        "preDNAT": st.booleans(),
    },
)
POLICY = ResourceKey("GlobalNetworkPolicy", "", "a")


def store(spec: Json) -> bytes:
    return json.dumps({"metadata": {"name": "a"}, "spec": spec}).encode()


@given(POLICIES)
def test_policy_encoded_and_decoded_is_the_same(spec: dict[str, Json]) -> None:
    first, problems = decode(POLICY, store(spec))
    assert problems == ()
    assert first is not None
    assert decode(POLICY, encode(first)) == (first, ())


@given(st.lists(st.integers(1 << 25, (223 << 24) - 1), max_size=3), st.dictionaries(st.text(), st.text(), max_size=3))
def test_workload_endpoint_encoded_and_decoded_is_the_same(addresses: list[int], labels: dict[str, str]) -> None:
    networks = [
        str(parse_net(f"{value >> 24 | 1}.{value >> 16 & 255}.{value >> 8 & 255}.{value & 255}")) for value in addresses
    ]
    networks = [text for text in networks if not text.startswith("127.")]
    document = {
        "metadata": {"labels": labels},
        "spec": {"node": "h", "interfaceName": "cali1", "ipNetworks": networks, "qosControls": {"dscp": 3}},
    }
    key = ResourceKey("WorkloadEndpoint", "ns", "a")
    first, problems = decode(key, json.dumps(document).encode())
    assert problems == ()
    assert isinstance(first, WorkloadEndpoint)
    assert decode(key, encode(first)) == (first, ())


@given(KEYS, st.binary(max_size=200))
def test_decode_of_any_bytes_raises_nothing(key: Key, value: bytes) -> None:
    record, problems = decode(key, value)
    assert record is not None or problems


@given(KEYS, VALUES, VALUES)
def test_decode_of_any_json_raises_nothing_and_what_it_gives_can_be_stored(
    key: Key, metadata: Json, spec: Json
) -> None:
    for document in ({"metadata": metadata, "spec": spec}, spec):
        try:
            value = json.dumps(document).encode("utf-8", "surrogatepass")
        except ValueError:
            continue
        record, problems = decode(key, value)
        assert record is not None or problems
        if record is not None:
            encode(record)


@given(st.sampled_from(sorted(PLURAL_BY_KIND)), VALUES, VALUES)
def test_validate_of_any_document_raises_nothing(kind: str, metadata: Json, spec: Json) -> None:
    validate({"apiVersion": "projectcalico.org/v3", "kind": kind, "metadata": metadata, "spec": spec})
    validate(spec)


@given(good_rules(), st.data())
def test_rule_damaged_anywhere_is_either_what_it_says_or_a_deny(rule: dict[str, Json], data: st.DataObject) -> None:
    """A rule that still allows something has kept every condition that it was given."""
    damaged = damage(rule, data)
    record, problems = decode(POLICY, store({"ingress": [damaged]}))
    assert isinstance(record, GlobalNetworkPolicy)
    (read,) = record.spec.ingress
    if problems:
        assert read == DENY_RULE
    else:
        assert read == DENY_RULE or conditions(as_document(read)) == conditions(damaged)


def damage(rule: dict[str, Json], data: st.DataObject) -> dict[str, Json]:
    """Returns the rule with one value, at the top or inside a side, replaced or added."""
    copy: dict[str, Json] = json.loads(json.dumps(rule))
    sides = [side for side in (copy, copy["source"], copy["destination"]) if isinstance(side, dict)]
    victim: dict[str, Json] = data.draw(st.sampled_from(sides))
    victim[data.draw(WORDS)] = data.draw(VALUES.filter(is_storable))
    return copy


def is_storable(value: Json) -> bool:
    try:
        msgspec.json.decode(json.dumps(value, allow_nan=False).encode())
    except ValueError:
        return False
    return True


def as_document(rule: Rule) -> dict[str, Json]:
    document = json.loads(msgspec.json.encode(rule))
    assert isinstance(document, dict)
    return document


def conditions(rule: dict[str, Json]) -> dict[str, Json]:
    """Returns what a rule says, without what says nothing: nulls, empty lists, texts and mappings."""

    def strip(value: Json) -> Json:
        if isinstance(value, dict):
            kept = {name: strip(item) for name, item in value.items()}
            return {name: item for name, item in kept.items() if item not in (None, [], {}, "")}
        return value

    stripped = strip({name: value for name, value in rule.items() if name != "metadata"})
    assert isinstance(stripped, dict)
    return stripped


def test_icmp_without_type_says_nothing() -> None:
    record, problems = decode(POLICY, store({"ingress": [{"action": "Deny", "protocol": "ICMP", "icmp": {}}]}))
    assert problems == ()
    assert isinstance(record, GlobalNetworkPolicy)
    assert record.spec.ingress[0].icmp == Icmp()
