"""From stored bytes to records and back. Bad data is a `Problem` beside what could be read, never an exception.

What cannot be understood fails closed: a rule becomes a Deny of everything, anything else counts as not there.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from typing import NamedTuple, TypeVar

import msgspec
from msgspec import structs

from felix.errors import Problem
from felix.model.checks import find_flaws
from felix.model.closed import find_closed_policy
from felix.model.keys import AffinityKey, BlockKey, Key, ResourceKey, format_key
from felix.model.net import parse_net
from felix.model.networks import AllocationBlock, BlockAffinity
from felix.model.policies import DENY_RULE, Rule
from felix.model.records import (
    RESOURCE_BY_KIND,
    GlobalNetworkPolicy,
    NetworkPolicy,
    Policy,
    Profile,
    Record,
    ResourceRecord,
    StagedGlobalNetworkPolicy,
    StagedNetworkPolicy,
)
from felix.model.rules import find_rule_flaws, find_unenforced_fields, is_net
from felix.model.settle import settle_defaults
from felix.model.shape import (
    FLAW_LIMIT,
    Flaw,
    Path,
    collect,
    find_shape_flaws,
    make_problems,
    show,
    simplify,
    type_of,
)
from felix.model.values import policy_name

VALUE_LIMIT_BYTES = 4 * 1024 * 1024  # etcd itself refuses more than 1.5 MiB unless told otherwise
AFFINITY_STATES = ("", "confirmed", "pending", "pendingDeletion")

Rules = tuple[Rule, ...]
RuleRecord = Policy | Profile
H = TypeVar(
    "H", GlobalNetworkPolicy, NetworkPolicy, StagedGlobalNetworkPolicy, StagedNetworkPolicy, Profile, RuleRecord
)

_CLOSED = "; until it can be read, the policy denies everything to the endpoints that it selects"
_DENIED = "; the rule denies everything instead"
_DECODER_BY_KIND = {kind: msgspec.json.Decoder(one) for kind, one in RESOURCE_BY_KIND.items()}
_ENCODER = msgspec.json.Encoder()


class Decoded(NamedTuple):
    """What a stored value means. record: None when it cannot be used. problems: may also stand beside a record."""

    record: Record | None
    problems: tuple[Problem, ...]


def decode(key: Key, value: bytes) -> Decoded:
    """Returns the record that `value` holds, named as `key` says and with Calico's defaults filled in; never raises."""
    subject = format_key(key)
    if not subject.isascii():
        readable = subject.encode("utf-8", "backslashreplace").decode()
        if readable != subject:  # a name that fits into no JSON and no file name would stop whoever speaks of it
            return Decoded(None, make_problems(readable, [Flaw((), "", "has a key that is no UTF-8 text")]))
    if len(value) > VALUE_LIMIT_BYTES:
        limit = f"is longer than {VALUE_LIMIT_BYTES} bytes"
        return _nothing(key, [Flaw((), f"{len(value)} bytes", limit)])
    try:
        match key:
            case ResourceKey():
                return _decode_resource(key, value)
            case AffinityKey():
                return _decode_affinity(key, value)
            case BlockKey():
                return _decode_block(key, value)
    except RecursionError:
        return _nothing(key, [Flaw((), "", "is nested too deeply")])
    except ValueError as error:  # among them all that msgspec raises, and bytes that are no UTF-8
        return _nothing(key, [Flaw((), "", f"is no valid JSON: {show(str(error))}")])


def encode(thing: Record | Mapping[str, object]) -> bytes:
    """Returns the JSON to be stored: of a record, or of a whole document with all its fields; no resourceVersion."""
    if isinstance(thing, Mapping):
        metadata = thing.get("metadata")
        if isinstance(metadata, Mapping) and "resourceVersion" in metadata:
            kept = {name: value for name, value in metadata.items() if name != "resourceVersion"}
            thing = {**thing, "metadata": kept}
        return _ENCODER.encode(thing)
    if not isinstance(thing, BlockAffinity | AllocationBlock) and thing.metadata.resource_version:
        thing = structs.replace(thing, metadata=structs.replace(thing.metadata, resource_version=""))
    return _ENCODER.encode(thing)


def _nothing(key: Key, flaws: list[Flaw]) -> Decoded:
    return Decoded(None, make_problems(format_key(key), flaws))


def _decode_resource(key: ResourceKey, value: bytes) -> Decoded:
    try:
        record = _DECODER_BY_KIND[key.kind].decode(value)
    except msgspec.ValidationError:
        # Something does not fit the types: find out what, and keep what can be kept.
        return _decode_loosely(key, value)
    return _settle(key, record, [], value)


def _decode_loosely(key: ResourceKey, value: bytes) -> Decoded:
    document = simplify(msgspec.json.decode(value))
    flaws: list[Flaw] = []
    rules_by_direction: dict[str, Rules] = {}
    wanted = RESOURCE_BY_KIND[key.kind]
    if issubclass(wanted, RuleRecord) and isinstance(document, dict) and isinstance(document.get("spec"), dict):
        spec: dict[object, object] = document["spec"]
        for direction in ("ingress", "egress"):
            if direction in spec:
                rules_by_direction[direction] = _read_rules(spec.pop(direction), ("spec", direction), flaws)
    fatal = collect(find_shape_flaws(document, type_of(wanted), is_strict=False))
    if fatal:
        return _stand_in(key, value, fatal + flaws)
    record: ResourceRecord = msgspec.convert(document, wanted)
    if isinstance(record, RuleRecord) and rules_by_direction:
        record = _with_rules(record, rules_by_direction)
    return _settle(key, record, flaws, value)


def _stand_in(key: ResourceKey, value: bytes, flaws: list[Flaw]) -> Decoded:
    """Returns what counts instead of a record that cannot be used: nothing, or a policy that denies everything."""
    closed = find_closed_policy(key, msgspec.json.decode(value))
    if closed is None:
        return _nothing(key, flaws)
    told = [flaw._replace(reason=flaw.reason + _CLOSED) for flaw in flaws[:1]] + flaws[1:]
    return Decoded(closed, make_problems(format_key(key), told))


def _read_rules(value: object, path: Path, flaws: list[Flaw]) -> Rules:
    """Returns the rules of one direction; what cannot be read is a Deny and adds to `flaws`."""
    if not isinstance(value, list):
        flaws.append(Flaw(path, value, "expected a list of rules; everything is denied instead"))
        return (DENY_RULE,)
    return tuple(_read_rule(rule, (*path, index), flaws) for index, rule in enumerate(value))


def _read_rule(value: object, path: Path, flaws: list[Flaw]) -> Rule:
    if len(flaws) > FLAW_LIMIT:  # nobody is told any more why
        try:
            return msgspec.convert(value, Rule)
        except msgspec.ValidationError:
            return DENY_RULE
    found = list(find_unenforced_fields(value, path))
    named = {flaw.path for flaw in found}
    shape = collect(find_shape_flaws(value, type_of(Rule), path, is_strict=False))
    found += [_as_denied(flaw) for flaw in shape if flaw.path not in named]
    if not found:
        return msgspec.convert(value, Rule)
    flaws += found
    return DENY_RULE


def _settle(key: ResourceKey, record: ResourceRecord, flaws: list[Flaw], value: bytes) -> Decoded:
    """Returns the record under its key's name, checked, with bad rules replaced; `flaws` are those known before."""
    metadata = record.metadata
    if metadata.name != key.name or metadata.namespace != key.namespace:
        flaws += _find_name_flaws(key, record)
        renamed = structs.replace(metadata, name=key.name, namespace=key.namespace)
        record = structs.replace(record, metadata=renamed)
    fatal = collect(find_flaws(record))
    if fatal:
        return _stand_in(key, value, fatal + flaws)
    if isinstance(record, RuleRecord):
        record = _settle_rules(record, flaws)
    return Decoded(settle_defaults(record), make_problems(format_key(key), flaws) if flaws else ())


def _find_name_flaws(key: ResourceKey, record: ResourceRecord) -> Iterator[Flaw]:
    """Yields where the name in the body contradicts the key; one without name, or tier's prefix, does not."""
    name, namespace = record.metadata.name, record.metadata.namespace
    if isinstance(record, Policy):
        tier = record.spec.tier
        is_same = not name or policy_name(name, tier) == policy_name(key.name, tier)
    else:
        is_same = name in {"", key.name}
    if not is_same:
        yield Flaw(("metadata", "name"), name, f"differs from the key, which counts: {show(key.name)}")
    if namespace not in {"", key.namespace}:
        counts = show(key.namespace) or "no namespace"
        yield Flaw(("metadata", "namespace"), namespace, f"differs from the key, which counts: {counts}")


def _settle_rules(record: H, flaws: list[Flaw]) -> H:
    rules_by_direction: dict[str, Rules] = {}
    for direction, rules in (("ingress", record.spec.ingress), ("egress", record.spec.egress)):
        bad: dict[int, list[Flaw]] = {}
        for index, rule in enumerate(rules):
            if found := collect(find_rule_flaws(rule, ("spec", direction, index))):
                bad[index] = found
        if bad:
            flaws += [_as_denied(flaw) for found in bad.values() for flaw in found]
            kept = (DENY_RULE if index in bad else rule for index, rule in enumerate(rules))
            rules_by_direction[direction] = tuple(kept)
    return _with_rules(record, rules_by_direction) if rules_by_direction else record


def _with_rules(record: H, rules_by_direction: Mapping[str, Rules]) -> H:
    return structs.replace(record, spec=structs.replace(record.spec, **rules_by_direction))


def _as_denied(flaw: Flaw) -> Flaw:
    return flaw if flaw.is_unenforced else flaw._replace(reason=flaw.reason + _DENIED)


def _decode_affinity(key: AffinityKey, value: bytes) -> Decoded:
    try:
        affinity = msgspec.json.decode(value, type=BlockAffinity)
    except msgspec.ValidationError:
        return _nothing(key, _explain(value, BlockAffinity))
    if affinity.state not in AFFINITY_STATES:
        expected = "expected " + ", ".join(state for state in AFFINITY_STATES if state)
        return _nothing(key, [Flaw(("state",), affinity.state, expected)])
    return Decoded(affinity, ())


def _decode_block(key: BlockKey, value: bytes) -> Decoded:
    try:
        block = msgspec.json.decode(value, type=AllocationBlock)
    except msgspec.ValidationError:
        # Calico writes null for lists that were never filled, as in a block of which nothing was given out yet.
        try:
            block = msgspec.convert(simplify(msgspec.json.decode(value)), AllocationBlock)
        except msgspec.ValidationError:
            return _nothing(key, _explain(value, AllocationBlock))
    if not is_net(block.cidr) or parse_net(block.cidr) != key.block:
        return _nothing(key, [Flaw(("cidr",), block.cidr, f"differs from the key: {key.block}")])
    return Decoded(block, ())


def _explain(value: bytes, wanted: type[BlockAffinity | AllocationBlock]) -> list[Flaw]:
    document = msgspec.json.decode(value)
    flaws = collect(find_shape_flaws(document, type_of(wanted), is_strict=False))
    return flaws or [Flaw((), "", "does not have the form of its kind")]
