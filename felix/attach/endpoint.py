"""The WorkloadEndpoint of an attached container, and the note in it by which everything can be undone. Pure."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from datetime import UTC, datetime

import msgspec

from felix.attach.names import Attached, endpoint_key
from felix.attach.types import AttachRequest
from felix.errors import DataError
from felix.ipam.release import Release
from felix.model.codec import encode
from felix.model.keys import ResourceKey
from felix.model.metadata import API_VERSION
from felix.model.net import Net, parse_address
from felix.model.records import WorkloadEndpoint
from felix.model.validate import judge

ANNOTATION = "felix/attachment"
"""Which endpoints are ours to remove, and what goes with them."""

NETWORK_ATTRIBUTE = "felix.network"
"""Attribute of an allocation: the network for which it was made."""

_NAMESPACE_LABEL = "projectcalico.org/namespace"
_ORCHESTRATOR_LABEL = "projectcalico.org/orchestrator"


class Note(msgspec.Struct, frozen=True):
    """The annotation's JSON.

    handle: under which its own addresses were given. handles: of each address, without length; empty for one that no
    block knows. given: those of them that were allocated by somebody else. netns: number of the namespace.
    """

    network: str
    container: str
    interface: str
    handle: str
    handles: dict[str, str] = {}
    given: tuple[str, ...] = ()
    netns: int = 0


@dataclass(frozen=True, slots=True)
class Attachment:
    """An endpoint of ours, as stored. addresses: as its record has them. revision: of the record; 0: not stored yet."""

    key: ResourceKey
    who: Attached
    note: Note
    host_interface: str
    mac: str
    addresses: tuple[Net, ...]
    revision: int = 0

    @property
    def releases(self) -> list[Release]:
        """What is given back with the endpoint, each only as long as the noted handle holds it, and, what was allocated
        together with the endpoint, for this endpoint: two containers' names may make one handle.
        """
        given = set(self.note.given)
        return [
            Release(parse_address(text), handle, endpoint="" if text in given else name_of(self.key))
            for text, handle in self.note.handles.items()
            if handle
        ]

    @property
    def own_releases(self) -> list[Release]:
        """Those of them that were allocated together with the endpoint."""
        return [one for one in self.releases if one.endpoint]


@dataclass(frozen=True, slots=True)
class EndpointIntent:
    """Everything that the record of an endpoint says, apart from the addresses that are chosen for it.

    given: address (without length) to handle. profiles: names, in order. interface: the host's end.
    """

    node: str
    request: AttachRequest
    who: Attached
    handle: str
    interface: str
    mac: str
    profiles: tuple[str, ...]
    netns: int
    now: float
    given: Mapping[Net, str] = field(default_factory=dict)

    @property
    def key(self) -> ResourceKey:
        """Where the record is stored."""
        return endpoint_key(self.node, self.who, self.request.namespace)


def name_of(key: ResourceKey) -> str:
    """Returns namespace and name of an endpoint, as allocations and answers have it."""
    return f"{key.namespace}/{key.name}"


def make_document(intent: EndpointIntent, chosen: tuple[Net, ...]) -> dict[str, object]:
    """Returns the WorkloadEndpoint with the given addresses and those chosen, as Calico's own plug-in writes it."""
    request, who = intent.request, intent.who
    handles = {net.address: handle for net, handle in intent.given.items()}
    handles |= {net.address: intent.handle for net in chosen}
    given = tuple(net.address for net in intent.given)
    note = Note(request.network, who.container, who.interface, intent.handle, handles, given, intent.netns)
    addresses = sorted((*intent.given, *chosen), key=lambda net: net.version)
    spec: dict[str, object] = {
        "orchestrator": who.orchestrator,
        "node": intent.node,
        "workload": who.container,
        "containerID": who.container,
        "endpoint": who.interface,
        "interfaceName": intent.interface,
        "mac": intent.mac,
        "ipNetworks": [str(net) for net in addresses],
        "profiles": list(intent.profiles),
    }
    if request.ports:
        spec["ports"] = [{"name": one.name, "protocol": one.protocol, "port": one.port} for one in request.ports]
    if request.qos_controls is not None and (controls := msgspec.to_builtins(request.qos_controls)):
        spec["qosControls"] = controls
    labels = {**request.labels, _NAMESPACE_LABEL: request.namespace, _ORCHESTRATOR_LABEL: who.orchestrator}
    metadata = {
        "name": intent.key.name,
        "namespace": request.namespace,
        "labels": labels,
        "annotations": {ANNOTATION: msgspec.json.encode(note).decode()},
        "creationTimestamp": datetime.fromtimestamp(intent.now, UTC).strftime("%Y-%m-%dT%H:%M:%SZ"),
    }
    return {"apiVersion": API_VERSION, "kind": "WorkloadEndpoint", "metadata": metadata, "spec": spec}


def render_document(intent: EndpointIntent, chosen: tuple[Net, ...]) -> bytes:
    """Returns the JSON to be stored. Raises DataError when no agent would take it."""
    document = make_document(intent, chosen)
    errors = judge(document).errors
    if errors:
        where = ".".join(str(part) for part in errors[0].path)
        raise DataError(f"the endpoint of {intent.who} cannot be: {where}: {errors[0].reason}")
    return encode(document)


def find_attachment(key: ResourceKey, record: object, node: str, revision: int = 0) -> Attachment | None:
    """Returns what a record says of an attachment of `node`; None when it is no endpoint of ours."""
    if not isinstance(record, WorkloadEndpoint) or record.spec.node != node:
        return None
    text = record.metadata.annotations.get(ANNOTATION)
    if text is None:
        return None
    try:
        note = msgspec.json.decode(text, type=Note)
        addresses = tuple(parse_address(one) for one in record.spec.ip_networks)
        for one in note.handles:
            parse_address(one)
    except (msgspec.MsgspecError, ValueError, RecursionError):
        return None  # somebody edited it: what cannot be read gives nobody the right to remove anything
    spec = record.spec
    who = Attached(spec.orchestrator, spec.workload, spec.endpoint)
    return Attachment(key, who, note, spec.interface_name, spec.mac, addresses, revision)
