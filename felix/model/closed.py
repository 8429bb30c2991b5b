"""What stands in for an enforced policy that cannot be read: one that denies everything to the endpoints it selects.

Without it those endpoints would fall through to policies and profiles behind it, which may allow what it forbade.
Nothing can stand in for a policy whose selector cannot be read: nobody can tell whom it was about.
"""

from __future__ import annotations

import math

from felix.errors import DataError
from felix.model.keys import ResourceKey
from felix.model.metadata import Metadata
from felix.model.policies import (
    DEFAULT_TIER,
    DENY_RULE,
    GlobalNetworkPolicy,
    GlobalNetworkPolicySpec,
    NetworkPolicy,
    NetworkPolicySpec,
)
from felix.model.scalars import PolicyType
from felix.selector.parse import parse

_DENIED = (DENY_RULE,)
_BOTH: tuple[PolicyType, ...] = ("Ingress", "Egress")


def find_closed_policy(key: ResourceKey, document: object) -> GlobalNetworkPolicy | NetworkPolicy | None:
    """Returns a policy that denies both directions first in its tier; None for other kinds, and when the selector
    cannot be read or the policy is for host endpoints only. document: as decoded from JSON, whatever it is.
    """
    spec = document.get("spec") if isinstance(document, dict) else None
    if key.kind not in {"GlobalNetworkPolicy", "NetworkPolicy"} or not isinstance(spec, dict):
        return None
    selector, namespace_selector = spec.get("selector", ""), spec.get("namespaceSelector", "")
    if not (_is_selector(selector) and _is_selector(namespace_selector)):
        return None
    if spec.get("doNotTrack") is True or spec.get("preDNAT") is True:
        return None
    tier = spec.get("tier")
    place = tier if isinstance(tier, str) and tier else DEFAULT_TIER
    metadata = Metadata(name=key.name, namespace=key.namespace)
    if key.kind == "NetworkPolicy":
        closed = NetworkPolicySpec(place, -math.inf, selector, _BOTH, _DENIED, _DENIED)
        return NetworkPolicy(metadata=metadata, spec=closed)
    return GlobalNetworkPolicy(
        metadata=metadata,
        spec=GlobalNetworkPolicySpec(
            place, -math.inf, selector, _BOTH, _DENIED, _DENIED, namespace_selector=namespace_selector
        ),
    )


def _is_selector(text: object) -> bool:
    if not isinstance(text, str):
        return False
    try:
        parse(text)
    except DataError:
        return False
    return True
