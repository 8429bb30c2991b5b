"""The host endpoints of this host, with the policies that decide at each place where their packets are met."""

from __future__ import annotations

from collections import Counter
from collections.abc import Mapping
from typing import NamedTuple

from felix.calc.changes import ChangeLog
from felix.calc.desired import ALL_INTERFACES, Action, HostStacks, LocalHostEndpoint, Stack, StackTier
from felix.calc.matches import Layer, Placement, PolicyMatches
from felix.calc.sources import INTERFACE_PATTERN, NetsRead
from felix.errors import Problem, shorten
from felix.model.keys import Key, ResourceKey, format_key
from felix.model.net import Net
from felix.model.records import GlobalNetworkPolicy, HostEndpoint, StagedGlobalNetworkPolicy
from felix.policy.order import policy_sort_key
from felix.policy.scope import host_endpoint_labels, policy_selector
from felix.policy.staged import is_tried
from felix.selector.parse import SelectorError


class HostSpec(NamedTuple):
    """What the record of a host endpoint of this host asks for; fields as in `LocalHostEndpoint` and `EndpointSpec`."""

    interface: str
    addresses: tuple[Net, ...]
    labels: Mapping[str, str]
    profiles: tuple[str, ...]


def read_host_endpoint(key: ResourceKey, record: HostEndpoint, read: NetsRead) -> HostSpec | Problem:
    """Returns what a host endpoint asks for, or why it can be no interface's."""
    interface = record.spec.interface_name
    if interface not in ("", ALL_INTERFACES) and not INTERFACE_PATTERN.fullmatch(interface):
        reason = "is no name of an interface: give 1-15 characters without blanks, slashes and colons, or *"
        return Problem(format_key(key), "spec.interfaceName", shorten(interface), reason)
    if not interface and not read.nets:
        reason = "is missing, and so are usable expectedIPs: it protects no interface"
        return Problem(format_key(key), "spec.interfaceName", "", reason)
    return HostSpec(interface, read.nets, host_endpoint_labels(record.metadata.labels), record.spec.profiles)


def place_host_policy(
    key: ResourceKey, record: GlobalNetworkPolicy | StagedGlobalNetworkPolicy
) -> Placement | Problem | None:
    """Returns where a policy stands for host endpoints, None if nowhere, or why nobody can tell whom it selects."""
    spec = record.spec
    if not spec.types or (isinstance(record, StagedGlobalNetworkPolicy) and not is_tried(record)):
        return None
    try:
        selector = policy_selector("", spec.selector, spec.namespace_selector)
    except SelectorError as error:
        return Problem(format_key(key), "spec.selector", shorten(spec.selector), str(error))
    if spec.do_not_track:
        layers = {Layer.UNTRACKED}
    elif spec.pre_dnat:
        layers = {Layer.PRE_DNAT}
    else:
        layers = {Layer.HOST, Layer.FORWARD} if spec.apply_on_forward else {Layer.HOST}
    place = policy_sort_key(key, spec.tier, spec.order)
    return Placement(selector, place, "Ingress" in spec.types, "Egress" in spec.types, frozenset(layers))


class LocalHostEndpoints:
    """Host endpoints as asked for, the policies that select them, and what results."""

    def __init__(self) -> None:
        self.problems: ChangeLog[Key, tuple[Problem, ...]] = ChangeLog()  # of tiers
        self.matches = PolicyMatches(self.problems)
        self._spec_by_key: dict[ResourceKey, HostSpec] = {}
        self._dirty: dict[ResourceKey, None] = {}
        self._users_by_profile: Counter[ResourceKey] = Counter()
        self._changed_profiles: dict[ResourceKey, None] = {}
        self.results: ChangeLog[ResourceKey, LocalHostEndpoint] = ChangeLog()

    def set_spec(self, key: ResourceKey, spec: HostSpec | None) -> None:
        """Host endpoint `key` of this host asks for `spec`; None: it is not of this host."""
        before = self._spec_by_key.get(key)
        if spec == before:
            return
        if before is not None:
            self._count_uses(before, -1)
        if spec is None:
            del self._spec_by_key[key]
            self.matches.drop_endpoint(key)
        else:
            self._spec_by_key[key] = spec
            self._count_uses(spec, 1)
            self.matches.set_endpoint(key, spec.labels, spec.profiles)
        self._dirty[key] = None

    def settle(self) -> None:
        """Results follow everything that was set; costs what changed."""
        self._dirty.update(self.matches.pop_touched())
        dirty, self._dirty = self._dirty, {}
        for key in dirty:
            spec = self._spec_by_key.get(key)
            self.results.set(key, None if spec is None else self._make_result(key, spec))

    def pop_changed_profiles(self) -> dict[ResourceKey, None]:
        """Returns the profiles that began or ceased to be used since the last call, maybe both."""
        changed, self._changed_profiles = self._changed_profiles, {}
        return changed

    def is_using(self, profile: ResourceKey) -> bool:
        """Whether some host endpoint of this host names this profile."""
        return profile in self._users_by_profile

    def __len__(self) -> int:
        return len(self._spec_by_key)

    def _make_result(self, key: ResourceKey, spec: HostSpec) -> LocalHostEndpoint:
        by_layer = {layer: self.matches.find_stacks(key, layer) for layer in Layer if layer is not Layer.WORKLOAD}
        host, forward = by_layer[Layer.HOST], by_layer[Layer.FORWARD]
        untracked = by_layer[Layer.UNTRACKED]
        untracked_in, untracked_out = _leading_on(untracked.ingress), _leading_on(untracked.egress)
        pre_dnat = _leading_on(by_layer[Layer.PRE_DNAT].ingress)
        profiles = tuple(ResourceKey("Profile", "", name) for name in dict.fromkeys(spec.profiles))
        stacks = HostStacks(
            ingress=Stack(host.ingress, profiles, Action.DENY, untracked_in, pre_dnat),
            egress=Stack(host.egress, profiles, Action.DENY, untracked_out),
            forward_ingress=_stack(forward.ingress, untracked_in, pre_dnat),
            forward_egress=_stack(forward.egress),
            pre_dnat=_stack(pre_dnat, untracked_in),
            untracked_ingress=_stack(untracked_in),
            untracked_egress=_stack(untracked_out),
        )
        return LocalHostEndpoint(key, spec.interface, spec.addresses, stacks)

    def _count_uses(self, spec: HostSpec, by: int) -> None:
        for profile in {ResourceKey("Profile", "", name) for name in spec.profiles}:
            self._users_by_profile[profile] += by
            if not self._users_by_profile[profile]:
                del self._users_by_profile[profile]
            self._changed_profiles[profile] = None


def _leading_on(tiers: tuple[StackTier, ...]) -> tuple[StackTier, ...]:
    """Returns the tiers without their ends: what they do not decide about, later hooks do."""
    return tuple(tier._replace(default_action=Action.PASS) for tier in tiers)


def _stack(
    tiers: tuple[StackTier, ...], untracked: tuple[StackTier, ...] = (), pre_dnat: tuple[StackTier, ...] = ()
) -> Stack | None:
    return Stack(tiers, (), Action.PASS, untracked, pre_dnat) if tiers else None
