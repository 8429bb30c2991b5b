"""Judges manifests before anything is written: everything that is wrong with a document, at once, with its place."""

from __future__ import annotations

import difflib
import re
from collections.abc import Iterator, Mapping
from typing import NamedTuple

import msgspec

from felix.config.resolve import Kind, Source, resolve
from felix.config.table import SETTING_BY_LOWERED_NAME
from felix.errors import Problem
from felix.model.checks import SPEC, find_flaws
from felix.model.keys import NAMESPACED_KINDS
from felix.model.metadata import API_VERSION
from felix.model.records import RESOURCE_BY_KIND, FelixConfiguration, Policy, Profile, ResourceRecord
from felix.model.rules import UNENFORCED_ENTITY_FIELDS, UNENFORCED_RULE_FIELDS, find_rule_flaws, find_unenforced_fields
from felix.model.shape import Flaw, find_shape_flaws, make_problems, show, simplify, type_of
from felix.model.strict import find_strict_flaws

# Kinds of Calico that are not resources of Felix, and why.
OUT_OF_SCOPE_KINDS = {
    "CalicoNodeStatus": "it is not supported yet",
    "KubeControllersConfiguration": "it needs Kubernetes",
    "LiveMigration": "it needs Kubernetes or OpenStack",
    "StagedKubernetesNetworkPolicy": "it needs Kubernetes",
}
_NAME = re.compile(r"[a-z0-9]([a-z0-9.-]{0,251}[a-z0-9])?")
# Names that come from hosts and orchestrators, which have other ideas of names.
_FOREIGN_NAME = re.compile(r"[A-Za-z0-9]([A-Za-z0-9_.-]{0,251}[A-Za-z0-9])?")
_FOREIGN_KINDS = frozenset({"WorkloadEndpoint", "Node", "Profile"})
# What Kubernetes' tools leave in manifests; it decides nothing here.
_IGNORED_METADATA = frozenset(
    """generateName generation selfLink ownerReferences finalizers managedFields deletionTimestamp
    deletionGracePeriodSeconds clusterName""".split()
)
_IGNORED_FIELDS = frozenset({"status"})


class Judgement(NamedTuple):
    """What is wrong with a document. errors: it may not be written. warnings: it may, but part has no effect.

    unknown: those of the errors that are fields nobody knows, perhaps of a newer Calico.
    record: the document as a record without defaults, None when there are errors.
    """

    errors: list[Flaw]
    unknown: list[Flaw]
    warnings: list[Flaw]
    record: ResourceRecord | None


def validate(document: object) -> list[Problem]:
    """Returns everything that forbids writing a manifest, as problems of `kind(name)`; empty for a good one."""
    judgement = judge(document)
    return list(make_problems(name_document(document), judgement.unknown + judgement.errors))


def name_document(document: object) -> str:
    """Returns what to call a document in messages: `kind(name)` or `kind(namespace/name)`."""
    if not isinstance(document, Mapping):
        return "document"
    metadata = document.get("metadata")
    names = metadata if isinstance(metadata, Mapping) else {}
    name = "/".join(show(names[part]) for part in ("namespace", "name") if names.get(part))
    return f"{show(document.get('kind') or 'document')}({name})" if name else show(document.get("kind") or "document")


def judge(document: object) -> Judgement:
    """Returns what is wrong with one document of a manifest, which is not changed."""
    plain = simplify(document)
    if not isinstance(plain, dict):
        return _refuse([Flaw((), document, "expected a mapping with apiVersion, kind, metadata and spec")])
    errors = list(_find_frame_flaws(plain))
    kind = plain.get("kind")
    wanted = RESOURCE_BY_KIND.get(kind) if isinstance(kind, str) else None
    if wanted is None or any(flaw.path in {("metadata",), ("spec",)} for flaw in errors):
        return _refuse(errors)
    plain = {name: value for name, value in plain.items() if name not in _IGNORED_FIELDS}
    plain["metadata"] = {
        name: value for name, value in plain.get("metadata", {}).items() if name not in _IGNORED_METADATA
    }
    warnings = list(_take_unenforced(plain))
    shape = list(find_shape_flaws(plain, type_of(wanted), is_strict=True))
    unknown = [flaw for flaw in shape if flaw.reason.startswith("unknown field")]
    known = {flaw.path for flaw in errors}
    misfits = [flaw for flaw in shape if flaw not in unknown]
    errors += [flaw for flaw in misfits if flaw.path not in known]
    if misfits or any("ingress" in flaw.path or "egress" in flaw.path for flaw in unknown):
        return Judgement(errors, unknown, warnings, None)
    record: ResourceRecord = msgspec.convert(plain, wanted)
    for flaw in _find_record_flaws(record):
        (warnings if flaw.is_unenforced else errors).append(flaw)
    return Judgement(errors, unknown, warnings, record if not errors else None)


def _refuse(errors: list[Flaw]) -> Judgement:
    return Judgement(errors, [], [], None)


def _find_frame_flaws(document: dict[object, object]) -> Iterator[Flaw]:
    """Yields what is wrong with apiVersion, kind, and name."""
    version, kind = document.get("apiVersion", ""), document.get("kind", "")
    if version != API_VERSION:
        yield Flaw(("apiVersion",), version, f"expected {API_VERSION}")
    if not isinstance(kind, str) or kind not in RESOURCE_BY_KIND:
        yield Flaw(("kind",), kind, _explain_kind(kind))
        kind = ""
    if not isinstance(document.get("spec", {}), dict):
        yield Flaw(("spec",), document["spec"], "expected a mapping")
    metadata = document.get("metadata", {})
    if not isinstance(metadata, dict):
        yield Flaw(("metadata",), metadata, "expected a mapping")
        return
    name, namespace = metadata.get("name", ""), metadata.get("namespace", "")
    form = _FOREIGN_NAME if kind in _FOREIGN_KINDS else _NAME
    if name == "":
        yield Flaw(("metadata", "name"), "", "is missing; expected text")
    elif isinstance(name, str) and not form.fullmatch(name):
        letters = "A-Z a-z 0-9 _ . -" if form is _FOREIGN_NAME else "a-z 0-9 . -"
        reason = f"expected at most 253 of {letters}, a letter or digit at both ends"
        yield Flaw(("metadata", "name"), name, reason)
    if namespace != "" and kind and kind not in NAMESPACED_KINDS:
        yield Flaw(("metadata", "namespace"), namespace, f"things of kind {kind} are in no namespace")
    elif isinstance(namespace, str) and namespace and not _FOREIGN_NAME.fullmatch(namespace):
        yield Flaw(("metadata", "namespace"), namespace, "expected letters, digits, . - and _")


def _explain_kind(kind: object) -> str:
    if kind == "":
        return "is missing; expected a kind like GlobalNetworkPolicy"
    if isinstance(kind, str) and kind in OUT_OF_SCOPE_KINDS:
        return f"Felix has no resources of this kind: {OUT_OF_SCOPE_KINDS[kind]}"
    near = difflib.get_close_matches(show(kind), list(RESOURCE_BY_KIND), n=1, cutoff=0.6)
    return f"unknown kind; did you mean {near[0]}?" if near else "unknown kind"


def _take_unenforced(document: dict[object, object]) -> Iterator[Flaw]:
    """Takes out of the rules of a document what Calico knows and Felix cannot enforce, and yields it."""
    spec = document.get("spec")
    if document.get("kind") == "FelixConfiguration" or not isinstance(spec, dict):
        return
    spec = document["spec"] = dict(spec)
    for direction in ("ingress", "egress"):
        rules = spec.get(direction)
        if not isinstance(rules, list):
            continue
        for index, rule in enumerate(rules):
            yield from find_unenforced_fields(rule, (*SPEC, direction, index))
        spec[direction] = [_without_unenforced(rule) for rule in rules]


def _without_unenforced(rule: object) -> object:
    if not isinstance(rule, dict):
        return rule
    kept = {name: value for name, value in rule.items() if name not in UNENFORCED_RULE_FIELDS}
    for side in ("source", "destination"):
        if isinstance(kept.get(side), dict):
            kept[side] = {name: value for name, value in kept[side].items() if name not in UNENFORCED_ENTITY_FIELDS}
    return kept


def _find_record_flaws(record: ResourceRecord) -> Iterator[Flaw]:
    if isinstance(record, FelixConfiguration):
        yield from _find_setting_flaws(record)
        return
    found = list(find_flaws(record))
    yield from found
    if isinstance(record, Policy | Profile):
        for direction, rules in (("ingress", record.spec.ingress), ("egress", record.spec.egress)):
            for index, rule in enumerate(rules):
                yield from find_rule_flaws(rule, (*SPEC, direction, index))
    if not any(not flaw.is_unenforced for flaw in found):
        yield from find_strict_flaws(record)


def _find_setting_flaws(record: FelixConfiguration) -> Iterator[Flaw]:
    name = record.metadata.name
    if name != "default" and not name.startswith("node."):
        reason = "has no effect: only default and node.<name of a node> are read"
        yield Flaw(("metadata", "name"), name, reason, True)
    values = {setting: value for setting, value in record.spec.items() if setting != "nodeSelector"}
    if len(values) < len(record.spec):
        yield Flaw((*SPEC, "nodeSelector"), record.spec["nodeSelector"], "has no effect: it is not supported yet", True)
    resolved = resolve([Source(Kind.DATASTORE, "", values)])
    for problem in resolved.problems:
        setting = SETTING_BY_LOWERED_NAME.get(problem.field.lower())
        field = setting.yaml_name if setting is not None and setting.yaml_name else problem.field
        yield Flaw((*SPEC, field), problem.value, problem.reason)
    for notice in resolved.notices:
        is_known = not notice.reason.startswith("there is no such setting")
        yield Flaw((*SPEC, notice.field), values.get(notice.field, ""), notice.reason, is_known)
