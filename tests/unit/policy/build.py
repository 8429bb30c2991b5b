"""Short ways to write records and packets in tests of policy."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import TypeVar

import msgspec

from felix.model.keys import ResourceKey
from felix.model.net import parse_address
from felix.model.records import (
    EntityRule,
    GlobalNetworkPolicy,
    GlobalNetworkSet,
    NetworkPolicy,
    NetworkSet,
    Profile,
    Rule,
    Tier,
    WorkloadEndpoint,
)
from felix.policy.evaluate import World
from felix.policy.packet import TCP, Packet

Spec = Mapping[str, object]
R = TypeVar("R", bound=msgspec.Struct)


def make_record(
    kind: type[R], name: str, spec: Spec, namespace: str = "", labels: Mapping[str, str] | None = None
) -> R:
    """Returns a record as the codec would make it of good JSON."""
    metadata = {"name": name, "namespace": namespace, "labels": dict(labels or {})}
    return msgspec.convert({"kind": kind.__name__, "metadata": metadata, "spec": spec}, kind)


def rule(action: str, **members: object) -> dict[str, object]:
    """Returns a rule as it is stored."""
    return {"action": action, **members}


def make_rule(action: str, **members: object) -> Rule:
    """Returns a rule's record."""
    return msgspec.convert(rule(action, **members), Rule)


def make_entity(**members: object) -> EntityRule:
    """Returns the record of one side of a rule."""
    return msgspec.convert(members, EntityRule)


class WorldBuilder:
    """Collects records; `world` is what was collected so far."""

    def __init__(self) -> None:
        self.workloads: dict[ResourceKey, WorkloadEndpoint] = {}
        self.profiles: dict[ResourceKey, Profile] = {}
        self.tiers: dict[ResourceKey, Tier] = {}
        self.policies: dict[ResourceKey, GlobalNetworkPolicy | NetworkPolicy] = {}
        self.network_sets: dict[ResourceKey, NetworkSet | GlobalNetworkSet] = {}

    @property
    def world(self) -> World:
        """A world with all that was added."""
        return World(self.workloads, {}, self.profiles, self.tiers, self.policies, self.network_sets)

    def workload(
        self,
        name: str,
        addresses: Sequence[str],
        labels: Mapping[str, str] | None = None,
        profiles: Sequence[str] = (),
        namespace: str = "blue",
    ) -> ResourceKey:
        """A workload endpoint of host h1."""
        key = ResourceKey("WorkloadEndpoint", namespace, name)
        spec = {"node": "h1", "orchestrator": "cni", "ipNetworks": list(addresses), "profiles": list(profiles)}
        self.workloads[key] = make_record(WorkloadEndpoint, name, spec, namespace, labels)
        return key

    def profile(self, name: str, labels: Mapping[str, str] | None = None, **rules: object) -> ResourceKey:
        """A profile; rules are `ingress` and `egress`."""
        key = ResourceKey("Profile", "", name)
        self.profiles[key] = make_record(Profile, name, {"labelsToApply": dict(labels or {}), **rules})
        return key

    def tier(self, name: str, order: float | None = None, ending: str = "Deny") -> ResourceKey:
        """A tier."""
        key = ResourceKey("Tier", "", name)
        self.tiers[key] = make_record(Tier, name, {"order": order, "defaultAction": ending})
        return key

    def policy(self, name: str, namespace: str = "", **spec: object) -> ResourceKey:
        """A policy: a GlobalNetworkPolicy unless a namespace is given. Types are Ingress unless given."""
        spec = {"types": ["Ingress"], **spec}
        if namespace:
            key = ResourceKey("NetworkPolicy", namespace, name)
            self.policies[key] = make_record(NetworkPolicy, name, spec, namespace)
        else:
            key = ResourceKey("GlobalNetworkPolicy", "", name)
            self.policies[key] = make_record(GlobalNetworkPolicy, name, spec)
        return key

    def network_set(
        self, name: str, nets: Sequence[str], labels: Mapping[str, str], namespace: str = ""
    ) -> ResourceKey:
        """A network set, global unless a namespace is given."""
        spec = {"nets": list(nets)}
        if namespace:
            key = ResourceKey("NetworkSet", namespace, name)
            self.network_sets[key] = make_record(NetworkSet, name, spec, namespace, labels)
        else:
            key = ResourceKey("GlobalNetworkSet", "", name)
            self.network_sets[key] = make_record(GlobalNetworkSet, name, spec, "", labels)
        return key


def packet(source: str, destination: str, protocol: int = TCP, port: int | None = 80, **icmp: int) -> Packet:
    """Returns a packet from port 40000 to `port`, or with icmp_type and icmp_code."""
    one, other = parse_address(source), parse_address(destination)
    ports = (None, None) if port is None or icmp else (40000, port)
    return Packet(one.version, one.value, other.value, protocol, *ports, **icmp)
