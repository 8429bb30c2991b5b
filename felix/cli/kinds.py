"""How people name kinds on a command line, and which columns a table of each kind has."""

from __future__ import annotations

import difflib
import textwrap
from collections.abc import Mapping
from typing import NamedTuple

from felix.errors import DataError
from felix.model.keys import PLURAL_BY_KIND

_SHORT_NAMES = {
    "BGPConfiguration": "bgpconfig bgpconfigs",
    "BGPFilter": "",
    "BGPPeer": "bgpp bgpps bp bps",
    "ClusterInformation": "clusterinfo clusterinfos ci",
    "FelixConfiguration": "felixconfig felixconfigs fc fcs",
    "GlobalNetworkPolicy": "gnp gnps cgnp",
    "GlobalNetworkSet": "gns",
    "HostEndpoint": "hep heps",
    "IPAMConfiguration": "ipamconfig ipamconfigs",
    "IPPool": "ipp ipps pool pools",
    "IPReservation": "ipres reservation reservations",
    "NetworkPolicy": "np nps cnp policy policies pol pols",
    "NetworkSet": "netset netsets ns",
    "Node": "no nos",
    "Profile": "pro pros",
    "StagedGlobalNetworkPolicy": "sgnp sgnps",
    "StagedNetworkPolicy": "snp snps scnp",
    "Tier": "",
    "WorkloadEndpoint": "wep weps",
}
KIND_BY_ALIAS: Mapping[str, str] = {
    alias: kind
    for kind, short in _SHORT_NAMES.items()
    for alias in (kind.lower(), PLURAL_BY_KIND[kind], *short.split())
}


class Column(NamedTuple):
    """A column of a table: its head, and where in a document its cell stands (lists are joined by commas)."""

    head: str
    path: str


def _columns(text: str) -> tuple[Column, ...]:
    return tuple(Column(*word.split("=")) for word in text.split())


_NAME = "NAME=metadata.name"
_POLICY = f"{_NAME} TIER=spec.tier"
_POLICY_WIDE = f"{_POLICY} ORDER=spec.order SELECTOR=spec.selector TYPES=spec.types"
COLUMNS_BY_KIND: Mapping[str, tuple[Column, ...]] = {
    kind: _columns(text)
    for kind, text in {
        "BGPConfiguration": f"{_NAME} LOGSEVERITY=spec.logSeverityScreen MESHENABLED=spec.nodeToNodeMeshEnabled "
        "ASNUMBER=spec.asNumber",
        "BGPFilter": _NAME,
        "BGPPeer": f"{_NAME} PEERIP=spec.peerIP NODE=spec.node ASN=spec.asNumber",
        "ClusterInformation": f"{_NAME} CLUSTERTYPE=spec.clusterType DATASTOREREADY=spec.datastoreReady",
        "FelixConfiguration": _NAME,
        "GlobalNetworkPolicy": _POLICY,
        "GlobalNetworkSet": f"{_NAME} NETS=spec.nets",
        "HostEndpoint": f"{_NAME} NODE=spec.node",
        "IPAMConfiguration": f"{_NAME} STRICTAFFINITY=spec.strictAffinity "
        "MAXBLOCKSPERHOST=spec.maxBlocksPerHost AUTOALLOCATEBLOCKS=spec.autoAllocateBlocks",
        "IPPool": f"{_NAME} CIDR=spec.cidr SELECTOR=spec.nodeSelector",
        "IPReservation": f"{_NAME} CIDRS=spec.reservedCIDRs",
        "NetworkPolicy": _POLICY,
        "NetworkSet": f"{_NAME} NETS=spec.nets",
        "Node": _NAME,
        "Profile": _NAME,
        "StagedGlobalNetworkPolicy": _POLICY,
        "StagedNetworkPolicy": _POLICY,
        "Tier": f"{_NAME} ORDER=spec.order",
        "WorkloadEndpoint": "WORKLOAD=spec.workload NODE=spec.node NETWORKS=spec.ipNetworks "
        "INTERFACE=spec.interfaceName",
    }.items()
}
WIDE_COLUMNS_BY_KIND: Mapping[str, tuple[Column, ...]] = {
    **COLUMNS_BY_KIND,
    **{
        kind: _columns(text)
        for kind, text in {
            "BGPPeer": f"{_NAME} PEERIP=spec.peerIP NODE=spec.node NODESELECTOR=spec.nodeSelector "
            "PEERSELECTOR=spec.peerSelector ASN=spec.asNumber",
            "GlobalNetworkPolicy": _POLICY_WIDE,
            "HostEndpoint": f"{_NAME} NODE=spec.node INTERFACE=spec.interfaceName IPS=spec.expectedIPs "
            "PROFILES=spec.profiles",
            "IPPool": f"{_NAME} CIDR=spec.cidr NAT=spec.natOutgoing IPIPMODE=spec.ipipMode VXLANMODE=spec.vxlanMode "
            "DISABLED=spec.disabled DISABLEBGPEXPORT=spec.disableBGPExport SELECTOR=spec.nodeSelector",
            "NetworkPolicy": _POLICY_WIDE,
            "Node": f"{_NAME} ASN=spec.bgp.asNumber IPV4=spec.bgp.ipv4Address IPV6=spec.bgp.ipv6Address",
            "Profile": f"{_NAME} LABELS=spec.labelsToApply",
            "StagedGlobalNetworkPolicy": _POLICY_WIDE,
            "StagedNetworkPolicy": _POLICY_WIDE,
            "Tier": f"{_NAME} ORDER=spec.order DEFAULTACTION=spec.defaultAction",
            "WorkloadEndpoint": f"{_NAME} WORKLOAD=spec.workload NODE=spec.node NETWORKS=spec.ipNetworks "
            "INTERFACE=spec.interfaceName PROFILES=spec.profiles",
        }.items()
    },
}


def find_kind(alias: str) -> str:
    """Returns the kind that a word names, in any case. Raises DataError with the nearest word that names one."""
    kind = KIND_BY_ALIAS.get(alias.lower())
    if kind is not None:
        return kind
    near = difflib.get_close_matches(alias.lower(), list(KIND_BY_ALIAS), n=1, cutoff=0.76)
    hint = f"did you mean {near[0]}?" if near else f"expected one of {', '.join(sorted(map(str.lower, _SHORT_NAMES)))}"
    raise DataError(f"{alias!r} is no kind of resource; {hint}")


KINDS_HELP = textwrap.fill(
    "kinds (singular, plural or short): "
    + ", ".join(
        f"{kind.lower()} ({short.split()[0]})" if short else kind.lower() for kind, short in _SHORT_NAMES.items()
    ),
    width=118,
)
