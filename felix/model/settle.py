"""What Calico means when a record says nothing: the defaults that its tools fill in when they write."""

from __future__ import annotations

from typing import TypeVar

from msgspec import structs

from felix.model.net import parse_net
from felix.model.policies import DEFAULT_TIER, DEFAULT_TIER_ORDER
from felix.model.records import (
    GlobalNetworkPolicy,
    IPPool,
    NetworkPolicy,
    ResourceRecord,
    StagedGlobalNetworkPolicy,
    StagedNetworkPolicy,
    Tier,
)
from felix.model.scalars import PolicyType
from felix.model.values import policy_tier

BLOCK_SIZE_BY_VERSION = {4: 26, 6: 122}

P = TypeVar("P", GlobalNetworkPolicy, NetworkPolicy, StagedGlobalNetworkPolicy, StagedNetworkPolicy)


def settle_defaults(record: ResourceRecord) -> ResourceRecord:
    """Returns the record with what it leaves out; the same object when it leaves out nothing."""
    match record:
        case GlobalNetworkPolicy():
            return _settle_policy(record)
        case NetworkPolicy():
            return _settle_policy(record)
        case StagedGlobalNetworkPolicy():
            return _settle_policy(record)
        case StagedNetworkPolicy():
            return _settle_policy(record)
        case Tier() if record.metadata.name == DEFAULT_TIER and record.spec.order is None:
            return structs.replace(record, spec=structs.replace(record.spec, order=DEFAULT_TIER_ORDER))
        case IPPool():
            return _settle_pool(record)
        case _:
            return record


def default_types(*, has_ingress: bool, has_egress: bool) -> tuple[PolicyType, ...]:
    """Returns the types of a policy that does not say them; ingress unless it has rules for egress only."""
    if not has_egress:
        return ("Ingress",)
    return ("Ingress", "Egress") if has_ingress else ("Egress",)


def _settle_policy(policy: P) -> P:
    spec = policy.spec
    if spec.tier and spec.types:
        return policy
    types = spec.types or default_types(has_ingress=bool(spec.ingress), has_egress=bool(spec.egress))
    return structs.replace(policy, spec=structs.replace(spec, tier=policy_tier(spec.tier), types=types))


def _settle_pool(pool: IPPool) -> IPPool:
    spec = pool.spec
    net = parse_net(spec.cidr)
    return structs.replace(
        pool,
        spec=structs.replace(
            spec,
            # a pool smaller than a usual block is one block
            block_size=spec.block_size or max(BLOCK_SIZE_BY_VERSION[net.version], net.length),
            ipip_mode=spec.ipip_mode or "Never",
            vxlan_mode=spec.vxlan_mode or "Never",
            node_selector=spec.node_selector or "all()",
            allowed_uses=spec.allowed_uses or ("Workload", "Tunnel"),
            assignment_mode=spec.assignment_mode or "Automatic",
        ),
    )
