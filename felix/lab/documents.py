"""What a lab writes to etcd, in the form in which Calico's own tools write it. Pure."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field

from felix.lab import names
from felix.lab.names import HostAddresses
from felix.lab.store import Document, Json
from felix.model.keys import AffinityKey, BlockKey, ResourceKey, format_key
from felix.model.net import Net, format_address, parse_address, parse_net

API_VERSION = "projectcalico.org/v3"
ORCHESTRATOR = "cni"
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


def cluster_documents() -> dict[str, Document]:
    """Returns what belongs to no host: pools of both families, the default tier, a ready flag; by key."""
    documents = [
        resource("ClusterInformation", "default", {"datastoreReady": True, "clusterType": "felix-lab"}),
        resource("Tier", "default", {"order": 1000000, "defaultAction": "Deny"}),
        _pool("default-ipv4-ippool", names.POOL_V4, 26),
        _pool("default-ipv6-ippool", names.POOL_V6, 122),
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
        documents[format_key(AffinityKey(host.name, block))] = {"state": "confirmed", "deleted": False}
        documents[format_key(BlockKey(block))] = _empty_block(host.name, block)
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


def take_address(block: Document, workload: str, host: str, wanted: str) -> str | None:
    """Marks an address of an allocation block as used and returns it, None when the block cannot give it.

    wanted: the address, or empty for the one that has been free longest. `block` is changed in place.
    """
    free, allocations, attributes = block["unallocated"], block["allocations"], block["attributes"]
    assert isinstance(free, list)
    assert isinstance(allocations, list)
    assert isinstance(attributes, list)
    cidr = parse_block(block)
    ordinal = parse_address(wanted).value - cidr.value if wanted else next((int(str(n)) for n in free), -1)
    if ordinal not in free:
        return None
    free.remove(ordinal)
    allocations[ordinal] = len(attributes)
    attributes.append({"handle_id": handle_id(workload), "secondary": {"node": host, "workload": workload}})
    return format_address(cidr.version, cidr.value + ordinal)


def give_back_address(block: Document, address: str) -> None:
    """Marks an address of an allocation block as free; `block` is changed in place. Twice is harmless."""
    free, allocations, attributes = block["unallocated"], block["allocations"], block["attributes"]
    assert isinstance(free, list)
    assert isinstance(allocations, list)
    assert isinstance(attributes, list)
    ordinal = parse_address(address).value - parse_block(block).value
    index = allocations[ordinal]
    if index is None:
        return
    allocations[ordinal] = None
    free.append(ordinal)
    # Attributes that nobody uses any more go, the indexes behind them move down by one.
    if index not in allocations:
        del attributes[int(str(index))]
        for position, other in enumerate(allocations):
            if isinstance(other, int) and other > int(str(index)):
                allocations[position] = other - 1


def parse_block(block: Document) -> Net:
    """Returns the prefix of an allocation block."""
    return parse_net(str(block["cidr"]))


def handle_id(workload: str) -> str:
    """Returns the name under which a workload's addresses are held: network name and container id."""
    return f"felix-lab.{workload}"


def _pool(name: str, cidr: Net, block_size: int) -> Document:
    return resource(
        "IPPool",
        name,
        {
            "cidr": str(cidr),
            "blockSize": block_size,
            "ipipMode": "Never",
            "vxlanMode": "Never",
            "nodeSelector": "all()",
            "allowedUses": ["Workload", "Tunnel"],
        },
    )


def _empty_block(host: str, block: Net) -> Document:
    size = 1 << (block.bits - block.length)
    free: list[Json] = list(range(size))
    empty: list[Json] = [None] * size
    return {
        "cidr": str(block),
        "affinity": f"host:{host}",
        "allocations": empty,
        "unallocated": free,
        "attributes": [],
        "deleted": False,
        "sequenceNumber": 0,
        "sequenceNumberForAllocation": {},
    }
