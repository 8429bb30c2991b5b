"""Which workload endpoints of this host are connected: those that own the interface they name, with what they own."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterable
from typing import NamedTuple

from felix.calc.changes import ChangeLog
from felix.calc.claims import Claims
from felix.calc.desired import LocalEndpoint, Stack
from felix.calc.matches import PolicyMatches
from felix.errors import Problem
from felix.model.keys import Key, ResourceKey, format_key
from felix.model.net import Net


class EndpointSpec(NamedTuple):
    """What the record of a local endpoint asks for; fields as in `LocalEndpoint`.

    interface: empty if the record names none that can be used. problems: what is wrong with the record itself.
    """

    interface: str
    addresses: tuple[Net, ...]
    mac: str | None
    profiles: tuple[ResourceKey, ...]
    revision: int
    problems: tuple[Problem, ...] = ()


class LocalEndpoints:
    """Endpoints as asked for, the claims of each, and the endpoints that result."""

    def __init__(self, matches: PolicyMatches, problems: ChangeLog[Key, tuple[Problem, ...]]) -> None:
        self._matches = matches
        self._problems = problems
        self._spec_by_key: dict[ResourceKey, EndpointSpec] = {}
        self._interfaces: Claims[str] = Claims()
        self._addresses: Claims[Net] = Claims()
        self._dirty: dict[ResourceKey, None] = {}
        self._users_by_rules: Counter[ResourceKey] = Counter()  # policy or profile -> endpoints that name it
        self._changed_rules: dict[ResourceKey, None] = {}
        self.results: ChangeLog[ResourceKey, LocalEndpoint] = ChangeLog()

    def set_spec(self, key: ResourceKey, spec: EndpointSpec | None) -> None:
        """Endpoint `key` of this host asks for `spec`; None: it is not of this host."""
        if spec == self._spec_by_key.get(key):
            return
        if spec is None:
            del self._spec_by_key[key]
        else:
            self._spec_by_key[key] = spec
        self._dirty[key] = None
        self._dirty.update(dict.fromkeys(self._interfaces.set_claims(key, _find_interfaces(spec))))

    def settle(self) -> None:
        """Results and uses of rules follow everything that was set; costs what changed."""
        self._dirty.update(self._matches.pop_touched())
        # Addresses are claimed only through an interface that is owned; interfaces do not depend on addresses,
        # so one round finds everybody whose addresses changed hands.
        for key in list(self._dirty):
            self._dirty.update(dict.fromkeys(self._addresses.set_claims(key, self._find_claimable(key))))
        dirty, self._dirty = self._dirty, {}
        for key in dirty:
            self._build(key)

    def pop_changed_rules(self) -> dict[ResourceKey, None]:
        """Returns the policies and profiles that began or ceased to be used since the last call, maybe both."""
        changed, self._changed_rules = self._changed_rules, {}
        return changed

    def is_used(self, rules: ResourceKey) -> bool:
        """Whether some endpoint names this policy or profile."""
        return rules in self._users_by_rules

    def __len__(self) -> int:
        return len(self._spec_by_key)

    def _find_claimable(self, key: ResourceKey) -> tuple[Net, ...]:
        spec = self._spec_by_key.get(key)
        return spec.addresses if spec and self._interfaces.find_winner(spec.interface) == key else ()

    def _build(self, key: ResourceKey) -> None:
        spec = self._spec_by_key.get(key)
        before = self.results.find(key)
        now = self._make_result(key, spec) if spec else None
        self.results.set(key, now)
        self._problems.set(key, ((*spec.problems, *self._find_lost_claims(key, spec)) or None) if spec else None)
        if before is not None and now is not None and _is_same_stack(before, now):
            return
        self._count_uses(now, 1)
        self._count_uses(before, -1)

    def _make_result(self, key: ResourceKey, spec: EndpointSpec) -> LocalEndpoint | None:
        if self._interfaces.find_winner(spec.interface) != key:
            return None
        tiers = self._matches.find_stacks(key)
        return LocalEndpoint(
            key=key,
            interface=spec.interface,
            addresses=tuple(net for net in spec.addresses if self._addresses.find_winner(net) == key),
            mac=spec.mac,
            ingress=Stack(tiers.ingress, spec.profiles),
            egress=Stack(tiers.egress, spec.profiles),
            revision=spec.revision,
        )

    def _find_lost_claims(self, key: ResourceKey, spec: EndpointSpec) -> Iterable[Problem]:
        owner = self._interfaces.find_winner(spec.interface)
        if owner != key:
            if owner is not None:
                yield _make_claim_problem(key, "spec.interfaceName", spec.interface, owner)
            return
        for net in spec.addresses:
            owner = self._addresses.find_winner(net)
            if owner is not None and owner != key:
                yield _make_claim_problem(key, "spec.ipNetworks", str(net), owner)

    def _count_uses(self, endpoint: LocalEndpoint | None, by: int) -> None:
        for rules in _find_rules(endpoint) if endpoint else ():
            count = self._users_by_rules[rules] + by
            if count:
                self._users_by_rules[rules] = count
            else:
                del self._users_by_rules[rules]
            if count == 0 or (by > 0 and count == 1):
                self._changed_rules[rules] = None


def _find_interfaces(spec: EndpointSpec | None) -> tuple[str, ...]:
    return (spec.interface,) if spec and spec.interface else ()


def _is_same_stack(one: LocalEndpoint, other: LocalEndpoint) -> bool:
    return one.ingress == other.ingress and one.egress == other.egress


def _find_rules(endpoint: LocalEndpoint) -> set[ResourceKey]:
    rules = set(endpoint.ingress.profiles)
    for stack in (endpoint.ingress, endpoint.egress):
        for tier in stack.tiers:
            rules.update(tier.policies)
    return rules


def _make_claim_problem(key: ResourceKey, field: str, value: str, owner: ResourceKey) -> Problem:
    reason = f"belongs to {owner}, which names it too and has the lower key; remove it from one of them"
    return Problem(format_key(key), field, value, reason)
