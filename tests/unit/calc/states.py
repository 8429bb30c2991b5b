"""Named states of the datastore, each with what has to come out on host `h1`, however the state was reached."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field

from felix.calc.desired import CompiledPolicy, EntityMatch, LocalEndpoint, Stack
from felix.model.endpoints import HostEndpointSpec, ProfileSpec, WorkloadEndpointSpec
from felix.model.keys import AffinityKey, Key, ResourceKey
from felix.model.metadata import Metadata
from felix.model.net import parse_net
from felix.model.networks import NetworkSetSpec
from felix.model.policies import GlobalNetworkPolicySpec, NetworkPolicySpec, TierSpec
from felix.model.records import (
    BlockAffinity,
    EntityRule,
    GlobalNetworkPolicy,
    GlobalNetworkSet,
    HostEndpoint,
    NetworkPolicy,
    NetworkSet,
    Profile,
    Record,
    Rule,
    Tier,
    WorkloadEndpoint,
)
from felix.model.scalars import Action, PolicyType
from felix.selector.parse import parse
from tests.model.desired_mirror import DesiredMirror

HOST = "h1"
ACTION_BY_NAME: dict[str, Action] = {"Allow": "Allow", "Deny": "Deny", "Log": "Log", "Pass": "Pass"}
Records = dict[Key, Record]


@dataclass(frozen=True)
class State:
    """Records, and a description of what they have to become (see `describe`)."""

    name: str
    records: Records = field(default_factory=dict)
    endpoints: Mapping[str, str] = field(default_factory=dict)
    policies: Mapping[str, str] = field(default_factory=dict)
    sets: Mapping[str, str] = field(default_factory=dict)
    blocks: str = ""
    problems: tuple[str, ...] = ()


def describe(mirror: DesiredMirror) -> dict[str, object]:
    """Returns desired state as short texts, in the form that `expect` gives for a state."""
    return {
        "endpoints": {key.name: describe_endpoint(endpoint) for key, endpoint in mirror.endpoints.items()},
        "policies": {key.name: describe_policy(policy) for key, policy in mirror.policies.items()},
        "sets": {set_id: " ".join(map(str, sorted(members))) for set_id, members in mirror.sets.items()},
        "blocks": " ".join(map(str, sorted(mirror.blocks))),
    }


def expect(state: State) -> dict[str, object]:
    """Returns what `describe` has to return in a state."""
    return {
        "endpoints": dict(state.endpoints),
        "policies": {name: _name_sets(text) for name, text in state.policies.items()},
        "sets": {
            parse(text).id: " ".join(map(str, sorted(map(parse_net, nets.split()))))
            for text, nets in state.sets.items()
        },
        "blocks": state.blocks,
    }


def describe_endpoint(endpoint: LocalEndpoint) -> str:
    """Returns `interface addresses < ingress > egress`."""
    addresses = ",".join(net.address for net in endpoint.addresses) or "-"
    return f"{endpoint.interface} {addresses} < {_describe_stack(endpoint.ingress)}> {_describe_stack(endpoint.egress)}"


def _describe_stack(stack: Stack) -> str:
    tiers = [
        f"{tier.name}({','.join(key.name for key in tier.policies)})-{tier.default_action.value}"
        for tier in stack.tiers
    ]
    return "".join(f"{part} " for part in (*tiers, *(key.name for key in stack.profiles)))


def describe_policy(policy: CompiledPolicy) -> str:
    """Returns the rules of both directions as `< ingress > egress`, sets as `id:families with prefixes`."""
    inward, outward = (
        "".join(
            f"{rule.action.value}{_describe_side(' from', rule.source)}{_describe_side(' to', rule.destination)} "
            for rule in rules
        )
        for rules in (policy.ingress, policy.egress)
    )
    return f"< {inward}> {outward}"


def _describe_side(word: str, side: EntityMatch) -> str:
    sets = [f"{ref.id}:{'4' * ref.nets4}{'6' * ref.nets6}" for ref in side.sets]
    sets += [f"!{ref.id}:{'4' * ref.nets4}{'6' * ref.nets6}" for ref in side.not_sets]
    return f"{word} {' '.join(sets)}" if sets else ""


def _name_sets(text: str) -> str:
    """Replaces each `{selector}` by the id of its set."""
    while "{" in text:
        before, _, rest = text.partition("{")
        selector, _, after = rest.partition("}")
        text = f"{before}{parse(selector).id}{after}"
    return text


def workload(
    name: str, node: str = HOST, *, at: str = "", ips: str = "", labels: str = "", profiles: str = ""
) -> Records:
    """A workload endpoint in namespace `default`; `at` is its interface, `labels` are `name=value name=value`."""
    spec = WorkloadEndpointSpec(
        node=node,
        orchestrator="cni",
        interface_name=at or f"cali-{name}",
        ip_networks=tuple(ips.split()),
        profiles=tuple(profiles.split()),
    )
    record = WorkloadEndpoint(metadata=_metadata(name, labels, "default"), spec=spec)
    return {ResourceKey("WorkloadEndpoint", "default", name): record}


def host_endpoint(name: str, ips: str, labels: str = "") -> Records:
    """A host endpoint of another host."""
    spec = HostEndpointSpec(node="h2", interface_name="eth0", expected_ips=tuple(ips.split()))
    return {ResourceKey("HostEndpoint", "", name): HostEndpoint(metadata=_metadata(name, labels), spec=spec)}


def global_policy(
    name: str,
    selector: str = "all()",
    *,
    ingress: str | None = "",
    egress: str | None = None,
    order: float | None = None,
    tier: str = "default",
    pre_dnat: bool = False,
    do_not_track: bool = False,
) -> Records:
    """A GlobalNetworkPolicy; rules are `Action` or `Action:selector of the other side`, None is no such direction."""
    spec = GlobalNetworkPolicySpec(
        tier=tier,
        order=order,
        selector=selector,
        types=_types(ingress, egress),
        ingress=_rules(ingress or "", is_ingress=True),
        egress=_rules(egress or "", is_ingress=False),
        pre_dnat=pre_dnat,
        do_not_track=do_not_track,
    )
    record = GlobalNetworkPolicy(metadata=_metadata(name), spec=spec)
    return {ResourceKey("GlobalNetworkPolicy", "", name): record}


def network_policy(name: str, selector: str = "", ingress: str = "", namespace: str = "default") -> Records:
    """A NetworkPolicy for ingress, in the default tier, without an order."""
    spec = NetworkPolicySpec(selector=selector, types=("Ingress",), ingress=_rules(ingress, is_ingress=True))
    record = NetworkPolicy(metadata=_metadata(name, namespace=namespace), spec=spec)
    return {ResourceKey("NetworkPolicy", namespace, name): record}


def profile(name: str, ingress: str = "", egress: str = "", labels: str = "") -> Records:
    """A profile with rules, and labels to inherit."""
    spec = ProfileSpec(
        ingress=_rules(ingress, is_ingress=True),
        egress=_rules(egress, is_ingress=False),
        labels_to_apply=_labels(labels),
    )
    return {ResourceKey("Profile", "", name): Profile(metadata=_metadata(name), spec=spec)}


def tier(name: str, order: float | None = None, *, passes: bool = False) -> Records:
    """A tier; `passes` if it ends in Pass."""
    spec = TierSpec(order=order, default_action="Pass" if passes else "Deny")
    return {ResourceKey("Tier", "", name): Tier(metadata=_metadata(name), spec=spec)}


def network_set(name: str, nets: str, labels: str = "", namespace: str = "") -> Records:
    """A GlobalNetworkSet, or a NetworkSet if it has a namespace."""
    spec = NetworkSetSpec(nets=tuple(nets.split()))
    if namespace:
        record = NetworkSet(metadata=_metadata(name, labels, namespace), spec=spec)
        return {ResourceKey("NetworkSet", namespace, name): record}
    return {ResourceKey("GlobalNetworkSet", "", name): GlobalNetworkSet(metadata=_metadata(name, labels), spec=spec)}


def affinity(block: str, host: str = HOST, state: str = "confirmed") -> Records:
    """A block's affinity to a host."""
    return {AffinityKey(host, parse_net(block)): BlockAffinity(state=state)}


def _metadata(name: str, labels: str = "", namespace: str = "") -> Metadata:
    return Metadata(name=name, namespace=namespace, labels=_labels(labels))


def _labels(text: str) -> dict[str, str]:
    return dict(part.split("=", 1) for part in text.split())


def _types(ingress: str | None, egress: str | None) -> tuple[PolicyType, ...]:
    inward: tuple[PolicyType, ...] = ("Ingress",) if ingress is not None else ()
    return (*inward, "Egress") if egress is not None else inward


def _rules(text: str, *, is_ingress: bool) -> tuple[Rule, ...]:
    """Reads rules, separated by `;`."""
    rules = []
    for part in filter(None, map(str.strip, text.split(";"))):
        name, _, selector = part.partition(":")
        other = EntityRule(selector=selector)
        action = ACTION_BY_NAME[name]
        rules.append(Rule(action, source=other) if is_ingress else Rule(action, destination=other))
    return tuple(rules)
