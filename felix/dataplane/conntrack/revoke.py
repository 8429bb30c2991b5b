"""Whose open connections have to be judged again: those that a change of desired state can have ended. Pure.

A chain accepts what belongs to a connection before it asks policy, so a connection lives on when policy ceases to allow
it. What is found here is small where the change is: the addresses of the endpoints whose policy changed, or those that
came into or went from a set in a way that can deny something.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterable, Mapping
from typing import NamedTuple

from felix.calc.desired import Action, CompiledPolicy, DesiredDelta, HostStacks, LocalEndpoint, LocalHostEndpoint, Stack
from felix.model.keys import ResourceKey
from felix.model.net import Net
from felix.policy.staged import is_staged

_SINGLE_MEMBERS_MOST = 64  # of one change; above it the endpoints are fewer, or a dump of everything is cheaper


class _Effect(NamedTuple):
    """Whether members that come into a set, or that go, can end what a policy allowed."""

    coming: bool
    going: bool


class RevocationPlan:
    """Addresses of which an open connection may no longer be allowed, or that any may not be.

    allows_spoofing: whether endpoints use other sources than their own.

    What a change touches is due only after `commit`: when the kernel has the change.
    """

    def __init__(self, *, allows_spoofing: bool = False) -> None:
        self._allows_spoofing = allows_spoofing
        self._endpoint_by_key: dict[ResourceKey, LocalEndpoint] = {}
        self._endpoints_by_policy: dict[ResourceKey, dict[ResourceKey, None]] = {}
        self._effects_by_policy: dict[ResourceKey, dict[str, _Effect]] = {}
        self._policies_by_set: dict[str, dict[ResourceKey, None]] = {}
        self._noted: set[Net] = set()
        self._due: set[Net] = set()
        self._notes_all = True  # whatever was so before this agent began
        self._is_all_due = False
        self._stacks_by_interface: dict[str, HostStacks] = {}
        self._hosts_by_policy: Counter[ResourceKey] = Counter()
        self._early_by_policy: Counter[ResourceKey] = Counter()
        self._notes_everything = False
        self._is_everything_due = False

    def on_delta(self, delta: DesiredDelta, served: Mapping[ResourceKey, LocalEndpoint | None]) -> None:
        """Desired state changes by `delta`, of whose endpoints only those in `served` have a value."""
        for key, policy in delta.policies.items():
            self._set_policy(key, policy)
        for set_id, change in delta.members.items():
            if set_id not in delta.sets:  # a new set comes with the policies that look into it
                self._note_members(set_id, change.added, change.removed)
        for set_id, ports in delta.port_members.items():
            if set_id not in delta.port_sets:
                added, removed = ({one.address for one in members} for members in (ports.added, ports.removed))
                self._note_members(set_id, added, removed)
        for key, endpoint in served.items():
            self._set_endpoint(key, endpoint)
        for key in delta.policies:
            if not is_staged(key.kind):
                self._note_users(key)

    def on_hosts(self, endpoint_by_interface: Mapping[str, LocalHostEndpoint | None]) -> None:
        """These interfaces (ALL_INTERFACES among them) have these host endpoints from now on, or none."""
        for interface, endpoint in endpoint_by_interface.items():
            before = self._stacks_by_interface.pop(interface, None)
            after = endpoint.stacks if endpoint is not None else None
            if after is not None:
                self._stacks_by_interface[interface] = after
            if before == after:
                continue
            self._count_host(before, -1)
            self._count_host(after, 1)
            # Without any, nothing of them can be denied; of an interface that lost its own, that for all decides.
            self._notes_everything |= bool(self._stacks_by_interface)

    def note_all(self) -> None:
        """Anything may have passed: every connection of an endpoint of this host is to be judged.

        With host endpoints, every connection.
        """
        self._notes_all = True

    def commit(self) -> None:
        """The kernel has everything that was told: what was noted is due."""
        self._due |= self._noted
        self._noted = set()
        self._is_all_due |= self._notes_all
        self._notes_all = False
        self._is_everything_due |= self._notes_everything
        self._notes_everything = False

    @property
    def has_due(self) -> bool:
        """Whether there is something for `take`."""
        return bool(self._due) or self._is_all_due or self._is_everything_due

    def take(self) -> frozenset[Net] | None:
        """Returns the addresses whose connections to judge now, None for all; costs all endpoints only if all are due.

        Policy at the host's interfaces is about addresses of which nobody has a list.
        """
        due, self._due = self._due, set()
        if self._is_everything_due or (self._is_all_due and self._stacks_by_interface):
            self._is_everything_due = self._is_all_due = False
            return None
        if self._is_all_due:
            self._is_all_due = False
            return frozenset(net for endpoint in self._endpoint_by_key.values() for net in endpoint.addresses)
        return frozenset(due)

    def put_back(self, addresses: Iterable[Net] | None) -> None:
        """Their connections (None: all) could not be judged; they are due again."""
        if addresses is None:
            self._is_everything_due = True
        else:
            self._due.update(addresses)

    def _set_endpoint(self, key: ResourceKey, endpoint: LocalEndpoint | None) -> None:
        before = self._endpoint_by_key.pop(key, None)
        if endpoint is not None:
            self._endpoint_by_key[key] = endpoint
        stacks_before = _stacks_of(before)
        is_same_source = not self._allows_spoofing or _spoofed_of(before) == _spoofed_of(endpoint)
        if stacks_before != _stacks_of(endpoint):
            for policy in _policies_of(before):
                users = self._endpoints_by_policy[policy]
                del users[key]
                if not users:
                    del self._endpoints_by_policy[policy]
            for policy in _policies_of(endpoint):
                self._endpoints_by_policy.setdefault(policy, {})[key] = None
        elif before and endpoint and before.addresses == endpoint.addresses and is_same_source:
            return
        if endpoint is not None:
            self._note_endpoint(endpoint)
            self._note_sources(before)

    def _set_policy(self, key: ResourceKey, policy: CompiledPolicy | None) -> None:
        for set_id in self._effects_by_policy.pop(key, ()):
            users = self._policies_by_set[set_id]
            del users[key]
            if not users:
                del self._policies_by_set[set_id]
        effects = _find_effects(policy) if policy is not None else {}
        if effects:
            self._effects_by_policy[key] = effects
        for set_id in effects:
            self._policies_by_set.setdefault(set_id, {})[key] = None

    def _note_members(self, set_id: str, added: set[Net], removed: set[Net]) -> None:
        for policy in self._policies_by_set.get(set_id, ()):
            effect = self._effects_by_policy[policy][set_id]
            moved = (added if effect.coming else set()) | (removed if effect.going else set())
            if len(moved) > _SINGLE_MEMBERS_MOST or not all(net.is_address for net in moved):
                self._note_users(policy)
            elif moved:
                self._noted |= moved
                # The first destination of what was translated is none of the two ends that a look finds.
                self._notes_everything |= policy in self._early_by_policy

    def _note_users(self, policy: ResourceKey) -> None:
        self._notes_everything |= policy in self._hosts_by_policy
        for key in self._endpoints_by_policy.get(policy, ()):
            self._note_endpoint(self._endpoint_by_key[key])

    def _note_endpoint(self, endpoint: LocalEndpoint) -> None:
        self._noted.update(endpoint.addresses)
        self._note_sources(endpoint)

    def _note_sources(self, endpoint: LocalEndpoint | None) -> None:
        if endpoint is not None and self._allows_spoofing:
            self._noted.update(net for net in endpoint.spoofed if net.is_address)
            self._notes_everything |= not all(net.is_address for net in endpoint.spoofed)

    def _count_host(self, stacks: HostStacks | None, step: int) -> None:
        found = [stack for stack in stacks or () if stack is not None]
        early = (
            [] if stacks is None else [one for one in (stacks.pre_dnat, stacks.untracked_ingress) if one is not None]
        )
        for counts, some in ((self._hosts_by_policy, found), (self._early_by_policy, early)):
            for key in _keys_in(some):
                counts[key] += step
                if not counts[key]:
                    del counts[key]


def _stacks_of(endpoint: LocalEndpoint | None) -> tuple[Stack, ...]:
    return () if endpoint is None else (endpoint.ingress, endpoint.egress)


def _spoofed_of(endpoint: LocalEndpoint | None) -> tuple[Net, ...]:
    return () if endpoint is None else endpoint.spoofed


def _policies_of(endpoint: LocalEndpoint | None) -> dict[ResourceKey, None]:
    return _keys_in(_stacks_of(endpoint))


def _keys_in(stacks: Iterable[Stack]) -> dict[ResourceKey, None]:
    keys: dict[ResourceKey, None] = {}
    for stack in stacks:
        keys.update(dict.fromkeys(key for tier in stack.tiers for key in tier.policies))
        keys.update(dict.fromkeys(stack.profiles))
    return keys


def _find_effects(policy: CompiledPolicy) -> dict[str, _Effect]:
    """Returns what members of each set that the rules look into can end."""
    effects: dict[str, _Effect] = {}
    for rule in (*policy.ingress, *policy.egress):
        # The first rule that matches decides: who comes to match an Allow can lose nothing, nor who leaves a Deny.
        coming, going = rule.action not in (Action.ALLOW, Action.LOG), rule.action not in (Action.DENY, Action.LOG)
        for side in (rule.source, rule.destination):
            positive = [*(one.id for one in side.sets), *side.port_sets]
            negative = [*(one.id for one in side.not_sets), *side.not_port_sets]
            for set_ids, effect in ((positive, _Effect(coming, going)), (negative, _Effect(going, coming))):
                for set_id in set_ids:
                    known = effects.get(set_id, _Effect(False, False))
                    effects[set_id] = _Effect(known.coming or effect.coming, known.going or effect.going)
    return effects
