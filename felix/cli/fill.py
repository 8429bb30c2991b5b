"""What is filled into a manifest before it is stored: what Calico's own tools fill in, so that both store the same."""

from __future__ import annotations

import uuid

import msgspec

from felix.model.metadata import API_VERSION
from felix.model.records import ResourceRecord, WorkloadEndpoint
from felix.model.settle import settle_defaults

Document = dict[str, object]

_POLICY_FIELDS = ("tier", "types")
_FIELDS_BY_KIND = {
    "GlobalNetworkPolicy": _POLICY_FIELDS,
    "IPPool": ("blockSize", "ipipMode", "vxlanMode", "nodeSelector", "allowedUses", "assignmentMode"),
    "NetworkPolicy": _POLICY_FIELDS,
    "StagedGlobalNetworkPolicy": (*_POLICY_FIELDS, "stagedAction"),
    "StagedNetworkPolicy": (*_POLICY_FIELDS, "stagedAction"),
    "Tier": ("order", "defaultAction"),
}
NAMESPACE_LABEL = "projectcalico.org/namespace"
ORCHESTRATOR_LABEL = "projectcalico.org/orchestrator"


def fill_document(
    document: Document, record: ResourceRecord, namespace: str, stored: Document | None, now: str
) -> Document:
    """Returns the document to store in place of `stored`.

    Kept of `stored`: uid, creation time, status. Otherwise all fields of `document` are kept, also unknown ones.
    record: the same as `document`. now: RFC 3339, for a new resource.
    """
    metadata = _mapping(document.get("metadata"))
    old_metadata = _mapping((stored or {}).get("metadata"))
    metadata.pop("resourceVersion", None)
    if namespace:
        metadata["namespace"] = namespace
    metadata["uid"] = old_metadata.get("uid") or str(uuid.uuid4())
    metadata["creationTimestamp"] = old_metadata.get("creationTimestamp") or now
    if isinstance(record, WorkloadEndpoint):
        where = {NAMESPACE_LABEL: namespace, ORCHESTRATOR_LABEL: record.spec.orchestrator}
        metadata["labels"] = {**_mapping(metadata.get("labels")), **where}
    filled: Document = {"kind": document["kind"], "apiVersion": API_VERSION, "metadata": metadata}
    filled["spec"] = _fill_spec(_mapping(document.get("spec")), record)
    if stored is not None and "status" in stored:
        filled["status"] = stored["status"]
    return filled


def _fill_spec(spec: Document, record: ResourceRecord) -> Document:
    fields = _FIELDS_BY_KIND.get(type(record).__name__, ())
    if not fields:
        return spec
    settled = settle_defaults(record).spec
    assert isinstance(settled, msgspec.Struct)
    attribute_by_field = dict(zip(settled.__struct_encode_fields__, settled.__struct_fields__, strict=True))
    for field in fields:
        value = msgspec.to_builtins(getattr(settled, attribute_by_field[field]))
        if spec.get(field) in (None, "", []) and value is not None:
            spec[field] = value
    return spec


def _mapping(value: object) -> Document:
    return {str(name): item for name, item in value.items()} if isinstance(value, dict) else {}
