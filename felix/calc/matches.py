"""Which policies select which connected endpoints, and in which order they decide."""

from __future__ import annotations

import enum
from collections.abc import Mapping, Sequence
from typing import NamedTuple

from felix.calc.changes import ChangeLog
from felix.calc.desired import Action, SourceRate, StackTier
from felix.errors import Problem
from felix.model.keys import Key, ResourceKey, format_key
from felix.policy.order import PolicyPlace, TierPlace, place_of_missing_tier
from felix.policy.staged import is_staged
from felix.selector.index import LabelIndex
from felix.selector.parse import Selector

CACHE_LIMIT = 4096


class Layer(enum.Enum):
    """Where policies meet packets: at a workload's interface, or at one of the host's own, as `HostStacks` says."""

    WORKLOAD = "workload"
    HOST = "host"
    FORWARD = "forward"
    PRE_DNAT = "preDNAT"
    UNTRACKED = "untracked"


class Placement(NamedTuple):
    """Whom a policy that is enforced selects, where it stands, its directions, and where it meets packets.

    per_source: how many connections one source may open towards each workload that it selects.
    """

    selector: Selector
    place: PolicyPlace
    is_ingress: bool
    is_egress: bool
    layers: frozenset[Layer] = frozenset({Layer.WORKLOAD})
    per_source: SourceRate | None = None


class TierStacks(NamedTuple):
    """The tiers that decide about each direction of an endpoint, in order; a direction may have none.

    per_source: the lowest rate that any of their policies sets.
    """

    ingress: tuple[StackTier, ...]
    egress: tuple[StackTier, ...]
    per_source: SourceRate | None = None


class PolicyMatches:
    """Places of policies and tiers, against the labels of connected endpoints."""

    def __init__(self, problems: ChangeLog[Key, tuple[Problem, ...]]) -> None:
        self._problems = problems
        self._index: LabelIndex[ResourceKey] = LabelIndex()
        self._placement_by_policy: dict[ResourceKey, Placement] = {}
        self._policies_by_selector: dict[str, dict[ResourceKey, None]] = {}
        self._place_by_tier: dict[str, TierPlace] = {}
        self._policies_by_tier: dict[str, dict[ResourceKey, None]] = {}
        self._touched: dict[ResourceKey, None] = {}
        self._changed_policies: dict[ResourceKey, None] = {}
        self._stacks_by_selectors: dict[tuple[Layer, frozenset[str]], TierStacks] = {}

    def set_policy(self, policy: ResourceKey, placement: Placement | None) -> None:
        """`policy` stands where `placement` says; None: nowhere."""
        before = self._placement_by_policy.get(policy)
        if placement == before:
            return
        self._stacks_by_selectors.clear()
        self._changed_policies[policy] = None
        if placement is not None:
            self._placement_by_policy[policy] = placement
            self._policies_by_tier.setdefault(placement.place.tier, {})[policy] = None
            self._policies_by_selector.setdefault(placement.selector.id, {})[policy] = None
            self._index.add_selector(placement.selector)
            self._touch_matching(placement.selector.id)
        else:
            del self._placement_by_policy[policy]
        if before is not None:
            self._touch_matching(before.selector.id)
            if placement is None or placement.place.tier != before.place.tier:
                _discard(self._policies_by_tier, before.place.tier, policy)
            if placement is None or placement.selector is not before.selector:
                _discard(self._policies_by_selector, before.selector.id, policy)
                if before.selector.id not in self._policies_by_selector:
                    self._index.drop_selector(before.selector.id)
        for tier in {holder.place.tier for holder in (before, placement) if holder is not None}:
            self._report_tier(tier)
        self._index.pop_changes()  # whoever began or ceased to match was touched above

    def set_tier(self, name: str, place: TierPlace | None) -> None:
        """Tier `name` stands at `place`; None: there is no such tier."""
        if place == self._place_by_tier.get(name):
            return
        if place is None:
            del self._place_by_tier[name]
        else:
            self._place_by_tier[name] = place
        self._stacks_by_selectors.clear()
        policies = self._policies_by_tier.get(name, ())
        for selector_id in {self._placement_by_policy[policy].selector.id for policy in policies}:
            self._touch_matching(selector_id)
        self._report_tier(name)

    def set_endpoint(self, endpoint: ResourceKey, labels: Mapping[str, str], parents: Sequence[str]) -> None:
        """Connected `endpoint` has exactly these labels of its own, and inherits from these profiles."""
        self._index.set_item(endpoint, labels, parents)
        self._absorb_changes()

    def drop_endpoint(self, endpoint: ResourceKey) -> None:
        """`endpoint` is not connected here, and no policy selects it."""
        self._index.drop_item(endpoint)
        self._absorb_changes()

    def set_parent_labels(self, parent: str, labels: Mapping[str, str]) -> None:
        """Endpoints inherit exactly `labels` from `parent`; none if it is gone."""
        self._index.set_parent_labels(parent, labels)
        self._absorb_changes()

    def pop_touched(self) -> dict[ResourceKey, None]:
        """Returns the endpoints whose tiers may have changed since the last call; some may be gone."""
        touched, self._touched = self._touched, {}
        return touched

    def pop_changed_policies(self) -> dict[ResourceKey, None]:
        """Returns the policies that began or ceased to select anybody since the last call, maybe others too."""
        changed, self._changed_policies = self._changed_policies, {}
        return changed

    def is_selecting(self, policy: ResourceKey) -> bool:
        """Whether `policy` selects at least one connected endpoint."""
        placement = self._placement_by_policy.get(policy)
        return placement is not None and any(True for _ in self._index.items_matching(placement.selector.id))

    def find_stacks(self, endpoint: ResourceKey, layer: Layer = Layer.WORKLOAD) -> TierStacks:
        """Returns the tiers that decide about `endpoint` in a layer; equal ones are mostly the same object."""
        selectors = layer, frozenset(self._index.selectors_matching(endpoint))
        stacks = self._stacks_by_selectors.get(selectors)
        if stacks is None:
            if len(self._stacks_by_selectors) >= CACHE_LIMIT:
                self._stacks_by_selectors.clear()
            stacks = self._stacks_by_selectors[selectors] = self._build_stacks(*selectors)
        return stacks

    def _build_stacks(self, layer: Layer, selectors: frozenset[str]) -> TierStacks:
        policies_by_tier: dict[str, list[ResourceKey]] = {}
        rates: list[SourceRate] = []
        for selector_id in selectors:
            for policy in self._policies_by_selector[selector_id]:
                placement = self._placement_by_policy[policy]
                if layer in placement.layers:
                    policies_by_tier.setdefault(placement.place.tier, []).append(policy)
                    rates += () if placement.per_source is None else (placement.per_source,)
        ingress, egress = [], []
        for tier in sorted(map(self._get_tier_place, policies_by_tier)):
            policies = sorted(policies_by_tier[tier.name], key=self._rank_policy)
            inward = tuple(policy for policy in policies if self._placement_by_policy[policy].is_ingress)
            outward = tuple(policy for policy in policies if self._placement_by_policy[policy].is_egress)
            if inward:
                ingress.append(StackTier(tier.name, inward, _find_ending(tier, inward)))
            if outward:
                egress.append(StackTier(tier.name, outward, _find_ending(tier, outward)))
        return TierStacks(tuple(ingress), tuple(egress), min(rates, default=None))

    def _get_tier_place(self, name: str) -> TierPlace:
        return self._place_by_tier.get(name) or place_of_missing_tier(name)

    def _rank_policy(self, policy: ResourceKey) -> tuple[PolicyPlace, ResourceKey]:
        return (self._placement_by_policy[policy].place, policy)

    def _report_tier(self, name: str) -> None:
        key = ResourceKey("Tier", "", name)
        problem = Problem(
            format_key(key), "", "", "does not exist; its policies stand behind all others and end in Deny"
        )
        is_missed = name in self._policies_by_tier and self._get_tier_place(name).is_missing
        self._problems.set(key, (problem,) if is_missed else None)

    def _touch_matching(self, selector_id: str) -> None:
        self._touched.update(dict.fromkeys(self._index.items_matching(selector_id)))

    def _absorb_changes(self) -> None:
        for selector_id, endpoint, _ in self._index.pop_changes():
            self._touched[endpoint] = None
            self._changed_policies.update(self._policies_by_selector[selector_id])


def _find_ending(tier: TierPlace, policies: tuple[ResourceKey, ...]) -> Action:
    """A tier in which everything is only tried lets everything go on."""
    return Action.PASS if all(is_staged(key.kind) for key in policies) else tier.default_action


def _discard(policies_by_name: dict[str, dict[ResourceKey, None]], name: str, policy: ResourceKey) -> None:
    del policies_by_name[name][policy]
    if not policies_by_name[name]:
        del policies_by_name[name]
