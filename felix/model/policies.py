"""Records of policy: rules, tiers, and the four kinds of policy."""

from __future__ import annotations

from msgspec import field

from felix.model.metadata import Resource, Spec
from felix.model.scalars import Action, IcmpCode, IcmpType, IpVersion, PolicyType, StagedAction, TierEnding

DEFAULT_TIER = "default"
DEFAULT_TIER_ORDER = 1_000_000.0


class Icmp(Spec, frozen=True, gc=False, forbid_unknown_fields=True):
    """An ICMP type and, if not None, its code. Without a type it says nothing."""

    type: IcmpType | None = None
    code: IcmpCode | None = None


# A field of a rule that is not known could only narrow what the rule matches. To ignore it would let more through,
# so records of rules refuse fields that they do not have, unlike all others.
class EntityRule(Spec, frozen=True, gc=False, forbid_unknown_fields=True):
    """One side of a packet; empty means no condition, all that are given must hold.

    ports, not_ports: as stored, a number, a range "80:90", or the name of a port of an endpoint.
    """

    nets: tuple[str, ...] = ()
    not_nets: tuple[str, ...] = ()
    selector: str = ""
    not_selector: str = ""
    namespace_selector: str = ""
    ports: tuple[int | str, ...] = ()
    not_ports: tuple[int | str, ...] = ()


class RuleMetadata(Spec, frozen=True, gc=False):
    """Remarks that decide nothing."""

    annotations: dict[str, str] = field(default_factory=dict)


ANY_ENTITY = EntityRule()


class Rule(Spec, frozen=True, gc=False, forbid_unknown_fields=True):
    """One rule; a rule with an action alone matches every packet.

    protocol, not_protocol: a number 1-255 or a name (`protocol_number` of `felix.model.values` reads both).
    """

    action: Action
    ip_version: IpVersion | None = None
    protocol: int | str | None = None
    not_protocol: int | str | None = None
    icmp: Icmp | None = None
    not_icmp: Icmp | None = field(default=None, name="notICMP")
    source: EntityRule = ANY_ENTITY
    destination: EntityRule = ANY_ENTITY
    metadata: RuleMetadata | None = None


DENY_RULE = Rule("Deny")


class TierSpec(Spec, frozen=True, gc=False):
    """Where a tier stands (None: last), and what becomes of packets that its policies apply to but do not decide."""

    order: float | None = None
    default_action: TierEnding = "Deny"


class Tier(Resource, frozen=True, gc=False, kw_only=True):
    """A group of policies that decides before those of the next tier."""

    spec: TierSpec


class NetworkPolicySpec(Spec, frozen=True, gc=False):
    """To whom rules apply and in which place.

    order: None is last. types: after decoding never empty. service_account_selector: after decoding always empty.
    """

    tier: str = DEFAULT_TIER
    order: float | None = None
    selector: str = ""
    types: tuple[PolicyType, ...] = ()
    ingress: tuple[Rule, ...] = ()
    egress: tuple[Rule, ...] = ()
    service_account_selector: str = ""
    performance_hints: tuple[str, ...] = ()


class GlobalNetworkPolicySpec(NetworkPolicySpec, frozen=True, gc=False):
    """As that of a NetworkPolicy, for endpoints of any namespace or of none."""

    namespace_selector: str = ""
    do_not_track: bool = False
    pre_dnat: bool = field(default=False, name="preDNAT")
    apply_on_forward: bool = False


class StagedNetworkPolicySpec(NetworkPolicySpec, frozen=True, gc=False):
    """A NetworkPolicy that is tried out, not enforced."""

    staged_action: StagedAction = "Set"


class StagedGlobalNetworkPolicySpec(GlobalNetworkPolicySpec, frozen=True, gc=False):
    """A GlobalNetworkPolicy that is tried out, not enforced."""

    staged_action: StagedAction = "Set"


class NetworkPolicy(Resource, frozen=True, gc=False, kw_only=True):
    """Rules for endpoints of one namespace."""

    spec: NetworkPolicySpec


class GlobalNetworkPolicy(Resource, frozen=True, gc=False, kw_only=True):
    """Rules for endpoints wherever they are."""

    spec: GlobalNetworkPolicySpec


class StagedNetworkPolicy(Resource, frozen=True, gc=False, kw_only=True):
    """A NetworkPolicy that is tried out, not enforced."""

    spec: StagedNetworkPolicySpec


class StagedGlobalNetworkPolicy(Resource, frozen=True, gc=False, kw_only=True):
    """A GlobalNetworkPolicy that is tried out, not enforced."""

    spec: StagedGlobalNetworkPolicySpec
