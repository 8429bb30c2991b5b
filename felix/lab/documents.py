"""What a lab writes to etcd, in the form in which Calico's own tools write it. Pure."""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field

from felix.ipam.block import NODE, PENDING, USE, Holder, new_block, render_block, take_ordinal
from felix.ipam.draft import Draft, StoredBlock
from felix.ipam.records import Handle, render_affinity
from felix.lab import names
from felix.lab.names import HostAddresses
from felix.lab.store import Document, Json
from felix.model.keys import AffinityKey, BlockKey, ResourceKey, format_key
from felix.model.net import parse_address

API_VERSION = "projectcalico.org/v3"
ORCHESTRATOR = "cni"
_HANDLE_PREFIX = "felix-lab."
_CREATED = "2020-01-01T00:00:00Z"


@dataclass(frozen=True, slots=True)
class EndpointIntent:
    """What a workload endpoint of the lab should say; `extra` is merged into its spec."""

    name: str
    host: str
    namespace: str
    addresses: tuple[str, ...]
    profiles: Sequence[str]
    labels: Mapping[str, str]
    ports: Sequence[Mapping[str, Json]] = ()
    extra: Mapping[str, Json] = field(default_factory=dict)


def resource(kind: str, name: str, spec: Mapping[str, Json], **metadata: Json) -> Document:
    """Returns a v3 resource."""
    return {
        "apiVersion": API_VERSION,
        "kind": kind,
        "metadata": {"name": name, "creationTimestamp": _CREATED, **metadata},
        "spec": dict(spec),
    }


def key_of(document: Mapping[str, Json]) -> str:
    """Returns the etcd key of a v3 resource."""
    metadata = document["metadata"]
    assert isinstance(metadata, dict)
    return format_key(ResourceKey(str(document["kind"]), str(metadata.get("namespace", "")), str(metadata["name"])))


def cluster_documents(vxlan_mode: str = "Never") -> dict[str, Document]:
    """Returns what belongs to no host: pools of both families, the default tier, a ready flag; by key."""
    documents = [
        resource("ClusterInformation", "default", {"datastoreReady": True, "clusterType": "felix-lab"}),
        resource("Tier", "default", {"order": 1000000, "defaultAction": "Deny"}),
        pool_document(4, vxlan_mode),
        pool_document(6, vxlan_mode),
    ]
    return {key_of(document): document for document in documents}


def host_documents(host: HostAddresses) -> dict[str, Document]:
    """Returns Node, both blocks and their affinities of one host; by key."""
    bgp: Document = {"ipv4Address": f"{host.ipv4}/24", "ipv6Address": f"{host.ipv6}/64"}
    addresses: list[Json] = [
        {"address": f"{host.ipv4}/24", "type": "CalicoNodeIP"},
        {"address": f"{host.ipv6}/64", "type": "CalicoNodeIP"},
    ]
    node = resource("Node", host.name, {"bgp": bgp, "addresses": addresses}, labels={"lab": "true"})
    documents = {key_of(node): node}
    for block in (host.block_v4, host.block_v6):
        documents[format_key(AffinityKey(host.name, block))] = json.loads(render_affinity())
        documents[format_key(BlockKey(block))] = json.loads(render_block(new_block(block, host.name, _CREATED, 0)))
    return documents


def endpoint_document(intent: EndpointIntent) -> Document:
    """Returns the WorkloadEndpoint of one workload."""
    lengths = {4: 32, 6: 128}
    nets = [parse_address(address) for address in intent.addresses]
    spec: Document = {
        "orchestrator": ORCHESTRATOR,
        "node": intent.host,
        "workload": intent.name,
        "containerID": intent.name,
        "endpoint": "eth0",
        "interfaceName": names.host_end(intent.name),
        "mac": names.workload_mac(intent.name),
        "ipNetworks": [f"{net.address}/{lengths[net.version]}" for net in nets],
        "profiles": list(intent.profiles),
    }
    if intent.ports:
        spec["ports"] = [dict(port) for port in intent.ports]
    spec.update(intent.extra)
    labels: Document = {
        **intent.labels,
        "projectcalico.org/namespace": intent.namespace,
        "projectcalico.org/orchestrator": ORCHESTRATOR,
    }
    name = "-".join(part.replace("-", "--") for part in (intent.host, ORCHESTRATOR, intent.name, "eth0"))
    return resource("WorkloadEndpoint", name, spec, namespace=intent.namespace, labels=labels)


def plan_take(block: StoredBlock, handle: Handle, host: str, wanted: str) -> tuple[Draft, str] | None:
    """Returns how the owner of `handle` gets an address of a block, and which; None when the block cannot give it.

    wanted: the address, or empty for the one that has been free longest.
    """
    if block.block is None:
        return None
    holder = Holder(handle.name, {NODE: host, USE: PENDING})
    ordinal = parse_address(wanted).value - block.net.value if wanted else next(iter(block.block.free), -1)
    taken = take_ordinal(block.block, ordinal, holder) if ordinal >= 0 else None
    if taken is None:
        return None
    draft = Draft()
    draft.set_block(block, taken)
    draft.set_handle(handle.plus(str(block.net), 1))
    return draft, taken.address(ordinal)


def handle_id(workload: str) -> str:
    """Returns the name under which a workload's addresses are held: network name and container id."""
    return _HANDLE_PREFIX + workload


def pool_document(version: int, vxlan_mode: str = "Never") -> Document:
    """Returns the lab's pool of that family."""
    cidr, block_size = (names.POOL_V4, 26) if version == 4 else (names.POOL_V6, 122)
    return resource(
        "IPPool",
        f"default-ipv{version}-ippool",
        {
            "cidr": str(cidr),
            "blockSize": block_size,
            "ipipMode": "Never",
            "vxlanMode": vxlan_mode,
            "nodeSelector": "all()",
            "allowedUses": ["Workload", "Tunnel"],
        },
    )
