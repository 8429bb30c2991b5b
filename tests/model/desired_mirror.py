"""A follower of desired state that is also its judge: it fails when a delta could not be carried out."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Protocol, TypeVar

from felix.calc.desired import (
    ClusterRoute,
    CompiledPolicy,
    DesiredDelta,
    LocalEndpoint,
    LocalHostEndpoint,
    OwnVtep,
    PortMember,
    RemoteVtep,
    SetRef,
)
from felix.model.keys import ResourceKey
from felix.model.net import Net

K = TypeVar("K")
V = TypeVar("V")
M = TypeVar("M")


class Change(Protocol[M]):
    """Members of a set that come and go."""

    added: set[M]
    removed: set[M]


@dataclass
class DesiredMirror:
    """Desired state as a dataplane knows it after the deltas it was given."""

    sets: dict[str, set[Net]] = field(default_factory=dict)
    port_sets: dict[str, set[PortMember]] = field(default_factory=dict)
    policies: dict[ResourceKey, CompiledPolicy] = field(default_factory=dict)
    endpoints: dict[ResourceKey, LocalEndpoint] = field(default_factory=dict)
    host_endpoints: dict[ResourceKey, LocalHostEndpoint] = field(default_factory=dict)
    blocks: set[Net] = field(default_factory=set)
    nets: dict[str, set[Net]] = field(default_factory=dict)
    own_vteps: dict[int, OwnVtep] = field(default_factory=dict)
    remote_vteps: dict[tuple[int, str], RemoteVtep] = field(default_factory=dict)
    cluster_routes: dict[Net, ClusterRoute] = field(default_factory=dict)

    def on_delta(self, delta: DesiredDelta) -> None:
        """Follows one delta; AssertionError when it contradicts what was told or leaves something dangling."""
        self._follow_sets(self.sets, delta.sets, delta.members)
        self._follow_sets(self.port_sets, delta.port_sets, delta.port_members)
        for key, policy in delta.policies.items():
            assert policy != self.policies.get(key), f"{key} was told without a change"
            _put(self.policies, key, policy)
        for key, endpoint in delta.endpoints.items():
            assert endpoint != self.endpoints.get(key), f"{key} was told without a change"
            _put(self.endpoints, key, endpoint)
        for key, host_endpoint in delta.host_endpoints.items():
            assert host_endpoint != self.host_endpoints.get(key), f"{key} was told without a change"
            _put(self.host_endpoints, key, host_endpoint)
        for block, wanted in delta.blocks.items():
            assert bool(wanted) != (block in self.blocks), f"{block} was told without a change"
            self.blocks ^= {block}
        self._follow_nets(delta)
        self._follow_tunnels(delta)
        self._check_references()
        self._check_members(set(delta.members) | set(delta.sets))
        self._check_claims()

    def _follow_sets(
        self,
        sets: dict[str, set[M]],
        wanted: Mapping[str, bool | None],
        changes: Mapping[str, Change[M]],
    ) -> None:
        for set_id, is_wanted in wanted.items():
            assert bool(is_wanted) != (set_id in sets), f"set {set_id} was told without a change"
            if is_wanted:
                sets[set_id] = set()
            else:
                del sets[set_id]
                assert set_id not in changes, f"members of the dropped set {set_id}"
        for set_id, change in changes.items():
            members = sets[set_id]
            assert change.added or change.removed, f"empty change of {set_id}"
            assert change.added.isdisjoint(change.removed)
            assert change.removed <= members, f"{set_id} never had {change.removed - members}"
            assert change.added.isdisjoint(members), f"{set_id} already has {change.added & members}"
            members -= change.removed
            members |= change.added

    def _follow_nets(self, delta: DesiredDelta) -> None:
        for name, change in delta.nets.items():
            nets = self.nets.pop(name, set())
            assert change.added or change.removed, f"empty change of {name}"
            assert change.removed <= nets, f"{name} never had {change.removed - nets}"
            assert change.added.isdisjoint(nets - change.removed), f"{name} already has {change.added & nets}"
            nets = nets - change.removed | change.added
            if nets:
                self.nets[name] = nets
            for net in nets:
                inside = [other for other in nets if other != net and net.__contains__(other)]
                assert not inside, f"{name}: {inside} lie inside {net}"

    def _follow_tunnels(self, delta: DesiredDelta) -> None:
        _follow(self.own_vteps, delta.own_vteps)
        _follow(self.remote_vteps, delta.remote_vteps)
        _follow(self.cluster_routes, delta.cluster_routes)
        for (family, name), vtep in self.remote_vteps.items():
            assert family in self.own_vteps, f"{name} is reached without a tunnel"
            assert {one.version for one in (vtep.address, vtep.outer)} == {family}
        ends: list[tuple[int, Net | None, str]]
        ends = [(family, vtep.address, vtep.mac) for (family, _), vtep in self.remote_vteps.items()]
        ends += [(family, vtep.address, vtep.mac) for family, vtep in self.own_vteps.items()]
        for places in (slice(2), slice(0, None, 2)):
            assert len(ends) == len({end[places] for end in ends}), (
                "two ends of the tunnel have the same address or MAC"
            )
        for net, route in self.cluster_routes.items():
            assert net.version in self.own_vteps, f"{net} is reached without a tunnel"
            assert (route.vtep is None) != (route.direct is None), f"{net} has {route}"
            if route.vtep is not None:
                assert self.remote_vteps[net.version, route.node].address == route.vtep

    def _check_references(self) -> None:
        named: set[ResourceKey] = set()
        stacks = [(one.key, stack) for one in self.endpoints.values() for stack in (one.ingress, one.egress)]
        stacks += [
            (one.key, stack) for one in self.host_endpoints.values() for stack in one.stacks if stack is not None
        ]
        for key, stack in stacks:
            named.update(stack.profiles)
            for tier in (*stack.tiers, *stack.untracked, *stack.pre_dnat):
                assert tier.policies, f"{key} has the empty tier {tier.name}"
                assert set(tier.policies) <= self.policies.keys(), f"{key} names an unknown policy"
                named.update(tier.policies)
        assert self.policies.keys() <= named, f"unused: {self.policies.keys() - named}"
        used: set[str] = set()
        for key, policy in self.policies.items():
            for ref in find_refs(policy):
                assert ref.id in self.sets, f"{key} names the unknown set {ref.id}"
                prefixes = {net.version for net in self.sets[ref.id] if not net.is_address}
                assert (ref.nets4, ref.nets6) == (4 in prefixes, 6 in prefixes), f"{key} has wrong flags for {ref.id}"
                used.add(ref.id)
        assert self.sets.keys() == used, f"unused: {self.sets.keys() - used}"
        named_ports = {set_id for policy in self.policies.values() for set_id in find_port_sets(policy)}
        assert self.port_sets.keys() == named_ports, f"unused or unknown: {self.port_sets.keys() ^ named_ports}"

    def _check_members(self, set_ids: set[str]) -> None:
        for set_id in set_ids & self.sets.keys():
            prefixes = sorted(net for net in self.sets[set_id] if not net.is_address)
            for net in prefixes:
                covering = [other for other in prefixes if other != net and other.__contains__(net)]
                assert not covering, f"{set_id}: {net} lies inside {covering}"

    def _check_claims(self) -> None:
        interfaces = [endpoint.interface for endpoint in self.endpoints.values()]
        assert len(interfaces) == len(set(interfaces)), "an interface has two endpoints"
        addresses = [net for endpoint in self.endpoints.values() for net in endpoint.addresses]
        assert len(addresses) == len(set(addresses)), "an address has two endpoints"


def find_refs(policy: CompiledPolicy) -> list[SetRef]:
    """Returns every reference of a policy to a set, in order."""
    refs: list[SetRef] = []
    for rule in policy.ingress + policy.egress:
        for entity in (rule.source, rule.destination):
            refs += [*entity.sets, *entity.not_sets]
    return refs


def find_port_sets(policy: CompiledPolicy) -> list[str]:
    """Returns the ids of the port sets that a policy looks into."""
    sides = [side for rule in policy.ingress + policy.egress for side in (rule.source, rule.destination)]
    return [set_id for side in sides for set_id in (*side.port_sets, *side.not_port_sets)]


def _follow(table: dict[K, V], changes: dict[K, V | None]) -> None:
    for key, value in changes.items():
        assert value != table.get(key), f"{key} was told without a change"
        _put(table, key, value)


def _put(table: dict[K, V], key: K, value: V | None) -> None:
    if value is None:
        del table[key]
    else:
        table[key] = value
