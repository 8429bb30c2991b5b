"""The records of all kinds in one place: what `felix.model.codec` returns and others compute with."""

from __future__ import annotations

from felix.model.bgp import BGPConfiguration, BGPFilter, BGPPeer
from felix.model.cluster import ClusterInformation, FelixConfiguration, Node
from felix.model.endpoints import HostEndpoint, Profile, WorkloadEndpoint
from felix.model.networks import (
    AllocationBlock,
    BlockAffinity,
    GlobalNetworkSet,
    IPAMConfiguration,
    IPPool,
    IPReservation,
    NetworkSet,
)
from felix.model.policies import (
    DENY_RULE,
    EntityRule,
    GlobalNetworkPolicy,
    Icmp,
    NetworkPolicy,
    Rule,
    StagedGlobalNetworkPolicy,
    StagedNetworkPolicy,
    Tier,
)

__all__ = [
    "DENY_RULE",
    "RESOURCE_BY_KIND",
    "AllocationBlock",
    "BGPConfiguration",
    "BGPFilter",
    "BGPPeer",
    "BlockAffinity",
    "ClusterInformation",
    "EntityRule",
    "FelixConfiguration",
    "GlobalNetworkPolicy",
    "GlobalNetworkSet",
    "HostEndpoint",
    "IPAMConfiguration",
    "IPPool",
    "IPReservation",
    "Icmp",
    "NetworkPolicy",
    "NetworkSet",
    "Node",
    "Policy",
    "Profile",
    "Record",
    "ResourceRecord",
    "Rule",
    "StagedGlobalNetworkPolicy",
    "StagedNetworkPolicy",
    "Tier",
    "WorkloadEndpoint",
]

Policy = GlobalNetworkPolicy | NetworkPolicy | StagedGlobalNetworkPolicy | StagedNetworkPolicy
ResourceRecord = (
    Policy
    | Tier
    | Profile
    | WorkloadEndpoint
    | HostEndpoint
    | NetworkSet
    | GlobalNetworkSet
    | IPPool
    | IPReservation
    | IPAMConfiguration
    | Node
    | BGPConfiguration
    | BGPPeer
    | BGPFilter
    | ClusterInformation
    | FelixConfiguration
)
Record = ResourceRecord | BlockAffinity | AllocationBlock

RESOURCE_BY_KIND: dict[str, type[ResourceRecord]] = {
    one.__name__: one
    for one in (
        BGPConfiguration,
        BGPFilter,
        BGPPeer,
        ClusterInformation,
        FelixConfiguration,
        GlobalNetworkPolicy,
        GlobalNetworkSet,
        HostEndpoint,
        IPAMConfiguration,
        IPPool,
        IPReservation,
        NetworkPolicy,
        NetworkSet,
        Node,
        Profile,
        StagedGlobalNetworkPolicy,
        StagedNetworkPolicy,
        Tier,
        WorkloadEndpoint,
    )
}
