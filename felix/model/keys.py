"""Names of things in the datastore, as Calico lays them out (etcd v3 keys).

Everything that the agent watches lies between `WATCH_START` and `WATCH_END`, so one snapshot and one watch serve
all kinds; status keys (`/calico/felix/...`) lie outside on purpose, so nobody is woken by somebody's status.
"""

from __future__ import annotations

from typing import NamedTuple

from felix.model.net import Net, parse_net

RESOURCES = "/calico/resources/v3/projectcalico.org/"
IPAM = "/calico/ipam/v2/"
IPAM_CONFIG = f"{IPAM}config"
"""How addresses are given out; one value for the whole cluster."""
HANDLES = f"{IPAM}handle/"
"""What one container holds: how many addresses of which blocks."""
COLLECTOR = "/felix/v1/collector"
"""Which agent collects leaked addresses; leased. Felix's own, as is the next: Calico has no such thing."""
LOST_HOSTS = "/felix/v1/lost-hosts/"
"""Which hosts were given up, and may not take part before they have cleaned up."""
WATCH_START = IPAM
WATCH_END = "/calico/resources/v3/projectcalico.org0"  # '0' is the character behind '/'

PLURAL_BY_KIND = {
    "BGPConfiguration": "bgpconfigurations",
    "BGPFilter": "bgpfilters",
    "BGPPeer": "bgppeers",
    "ClusterInformation": "clusterinformations",
    "FelixConfiguration": "felixconfigurations",
    "GlobalNetworkPolicy": "globalnetworkpolicies",
    "GlobalNetworkSet": "globalnetworksets",
    "HostEndpoint": "hostendpoints",
    "IPAMConfiguration": "ipamconfigurations",
    "IPPool": "ippools",
    "IPReservation": "ipreservations",
    "NetworkPolicy": "networkpolicies",
    "NetworkSet": "networksets",
    "Node": "nodes",
    "Profile": "profiles",
    "StagedGlobalNetworkPolicy": "stagedglobalnetworkpolicies",
    "StagedNetworkPolicy": "stagednetworkpolicies",
    "Tier": "tiers",
    "WorkloadEndpoint": "workloadendpoints",
}
KIND_BY_PLURAL = {plural: kind for kind, plural in PLURAL_BY_KIND.items()}
NAMESPACED_KINDS = frozenset({"NetworkPolicy", "StagedNetworkPolicy", "NetworkSet", "WorkloadEndpoint"})


class ResourceKey(NamedTuple):
    """One v3 resource. `namespace` is empty for kinds that have none. Sorts by kind, namespace, name."""

    kind: str
    namespace: str
    name: str

    def __str__(self) -> str:
        return f"{self.kind}({self.namespace}/{self.name})" if self.namespace else f"{self.kind}({self.name})"


class AffinityKey(NamedTuple):
    """A block's affinity to a host: `/calico/ipam/v2/host/<host>/ipv4/block/<a.b.c.d-len>`."""

    host: str
    block: Net


class BlockKey(NamedTuple):
    """An allocation block: `/calico/ipam/v2/assignment/ipv4/block/<a.b.c.d-len>`."""

    block: Net


Key = ResourceKey | AffinityKey | BlockKey


def format_key(key: Key) -> str:
    """Returns the etcd key under which Calico stores the thing."""
    match key:
        case ResourceKey(kind, namespace, name):
            middle = f"{namespace}/" if kind in NAMESPACED_KINDS else ""
            return f"{RESOURCES}{PLURAL_BY_KIND[kind]}/{middle}{name}"
        case AffinityKey(host, block):
            return f"{IPAM}host/{host}/ipv{block.version}/block/{_format_block(block)}"
        case BlockKey(block):
            return f"{IPAM}assignment/ipv{block.version}/block/{_format_block(block)}"


def format_handle_key(handle: str) -> str:
    """Returns the etcd key of a handle, whose name has no slash."""
    return HANDLES + handle


def format_fence_key(host: str) -> str:
    """Returns the etcd key that keeps a host out which was given up as lost."""
    return LOST_HOSTS + host


def parse_key(path: str) -> Key | None:
    """Returns what an etcd key names, or None when it is nothing that Felix knows (other kinds, IPAM handles)."""
    if path.startswith(RESOURCES):
        plural, _, rest = path[len(RESOURCES) :].partition("/")
        kind = KIND_BY_PLURAL.get(plural)
        if kind is None:
            return None
        namespace, slash, name = rest.partition("/")
        if kind in NAMESPACED_KINDS:
            return ResourceKey(kind, namespace, name) if namespace and name and "/" not in name else None
        return ResourceKey(kind, "", rest) if rest and not slash else None
    if path.startswith(IPAM):
        return _parse_ipam(path[len(IPAM) :].split("/"))
    return None


def _parse_ipam(parts: list[str]) -> Key | None:
    match parts:
        case ["host", host, "ipv4" | "ipv6", "block", text]:
            block = _find_block(text)
            return AffinityKey(host, block) if block else None
        case ["assignment", "ipv4" | "ipv6", "block", text]:
            block = _find_block(text)
            return BlockKey(block) if block else None
    return None


def _format_block(block: Net) -> str:
    return f"{block.address}-{block.length}"


def _find_block(text: str) -> Net | None:
    address, dash, length = text.rpartition("-")
    if not dash:
        return None
    try:
        return parse_net(f"{address}/{length}")
    except ValueError:
        return None
