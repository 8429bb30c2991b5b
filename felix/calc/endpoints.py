"""Which workload endpoints of this host are connected: those that own the interface they name, with what they own."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterable, Mapping
from typing import NamedTuple

from felix.calc.changes import ChangeLog
from felix.calc.claims import Claims
from felix.calc.desired import FloatingAddress, Limits, LocalEndpoint, Stack
from felix.calc.limits import with_source_rate
from felix.calc.matches import PolicyMatches
from felix.errors import Problem
from felix.model.keys import Key, ResourceKey, format_key
from felix.model.net import Net

WORKLOAD = "WorkloadEndpoint"
_FLOATING = "WorkloadEndpoint/floating"
"""Stands for the kind where an endpoint claims an external address: whoever has an address itself goes first."""


class EndpointSpec(NamedTuple):
    """What the record of a local endpoint asks for; fields as in `LocalEndpoint`.

    interface: empty if the record names none that can be used. labels: by which policies see it, without inherited
    ones. profiles: names, in order; a later one's labels count more, and one may come twice. problems: what is wrong
    with the record itself.
    """

    interface: str
    addresses: tuple[Net, ...]
    mac: str | None
    labels: Mapping[str, str]
    profiles: tuple[str, ...]
    revision: int
    problems: tuple[Problem, ...] = ()
    floating: tuple[FloatingAddress, ...] = ()
    limits: Limits | None = None
    spoofed: tuple[Net, ...] = ()


class LocalEndpoints:
    """Endpoints as asked for, the claims of each, and the endpoints that result."""

    def __init__(self, matches: PolicyMatches, problems: ChangeLog[Key, tuple[Problem, ...]]) -> None:
        self._matches = matches
        self._problems = problems
        self._spec_by_key: dict[ResourceKey, EndpointSpec] = {}
        self._interfaces: Claims[str] = Claims()
        self._addresses: Claims[Net] = Claims()
        self._dirty: dict[ResourceKey, None] = {}
        self._users_by_profile: Counter[ResourceKey] = Counter()
        self._changed_profiles: dict[ResourceKey, None] = {}
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

    def reserve(self, owner: ResourceKey, addresses: Iterable[Net]) -> None:
        """No endpoint gets any of `addresses` as long as `owner`, which is no endpoint, has them.

        A workload that could claim the address of another host, of the gateway or of the datastore would draw their
        traffic. The kind of `owner` sorts before that of endpoints, so it wins whatever came first.
        """
        self._touch(self._addresses.set_claims(owner, addresses))

    def settle(self) -> None:
        """Results and matches follow everything that was set; costs what changed."""
        for key in list(self._dirty):
            spec = self._find_owner_spec(key)
            if spec is not None:
                self._matches.set_endpoint(key, spec.labels, spec.profiles)
            else:
                self._matches.drop_endpoint(key)
            # Addresses are claimed only through an interface that is owned; interfaces do not depend on addresses,
            # so one round finds everybody whose addresses changed hands.
            self._touch(self._addresses.set_claims(key, spec.addresses if spec else ()))
            external = [one.external for one in spec.floating] if spec else ()
            self._touch(self._addresses.set_claims(key._replace(kind=_FLOATING), external))
        self._dirty.update(self._matches.pop_touched())
        dirty, self._dirty = self._dirty, {}
        for key in dirty:
            self._build(key)

    def pop_changed_profiles(self) -> dict[ResourceKey, None]:
        """Returns the profiles that began or ceased to be used since the last call, maybe both."""
        changed, self._changed_profiles = self._changed_profiles, {}
        return changed

    def is_claimed(self, interface: str) -> bool:
        """Whether an endpoint of this host names that interface."""
        return self._interfaces.find_winner(interface) is not None

    def is_using(self, profile: ResourceKey) -> bool:
        """Whether some connected endpoint names this profile."""
        return profile in self._users_by_profile

    def __len__(self) -> int:
        return len(self._spec_by_key)

    def _touch(self, owners: Iterable[ResourceKey]) -> None:
        """These won or lost an address."""
        for key in owners:
            if key.kind in (WORKLOAD, _FLOATING):
                self._dirty[key._replace(kind=WORKLOAD)] = None

    def _is_floating(self, key: ResourceKey, one: FloatingAddress) -> bool:
        owner = self._addresses.find_winner(one.external)
        return owner == key._replace(kind=_FLOATING) and self._addresses.find_winner(one.internal) == key

    def _find_owner_spec(self, key: ResourceKey) -> EndpointSpec | None:
        """Returns what `key` asks for if it owns the interface that it names."""
        spec = self._spec_by_key.get(key)
        return spec if spec and self._interfaces.find_winner(spec.interface) == key else None

    def _build(self, key: ResourceKey) -> None:
        spec = self._spec_by_key.get(key)
        before = self.results.find(key)
        now = self._make_result(key, spec) if spec and self._find_owner_spec(key) else None
        self.results.set(key, now)
        self._problems.set(key, ((*spec.problems, *self._find_lost_claims(key, spec)) or None) if spec else None)
        profiles_before = before.ingress.profiles if before else ()
        profiles_now = now.ingress.profiles if now else ()
        if profiles_before != profiles_now:
            self._count_uses(profiles_now, 1)
            self._count_uses(profiles_before, -1)

    def _make_result(self, key: ResourceKey, spec: EndpointSpec) -> LocalEndpoint:
        tiers = self._matches.find_stacks(key)
        profiles = tuple(ResourceKey("Profile", "", name) for name in dict.fromkeys(spec.profiles))
        return LocalEndpoint(
            key=key,
            interface=spec.interface,
            addresses=tuple(net for net in spec.addresses if self._addresses.find_winner(net) == key),
            mac=spec.mac,
            ingress=Stack(tiers.ingress, profiles),
            egress=Stack(tiers.egress, profiles),
            revision=spec.revision,
            floating=tuple(one for one in spec.floating if self._is_floating(key, one)),
            limits=with_source_rate(spec.limits, tiers.per_source),
            spoofed=spec.spoofed,
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
        for one in spec.floating:
            owner = self._addresses.find_winner(one.external)
            if owner is not None and owner != key._replace(kind=_FLOATING):
                yield _make_claim_problem(key, "spec.ipNATs", str(one.external), owner)

    def _count_uses(self, profiles: tuple[ResourceKey, ...], by: int) -> None:
        for profile in profiles:
            count = self._users_by_profile[profile] + by
            if count:
                self._users_by_profile[profile] = count
            else:
                del self._users_by_profile[profile]
            self._changed_profiles[profile] = None


def _find_interfaces(spec: EndpointSpec | None) -> tuple[str, ...]:
    return (spec.interface,) if spec and spec.interface else ()


def _make_claim_problem(key: ResourceKey, field: str, value: str, owner: ResourceKey) -> Problem:
    if owner.kind == _FLOATING:
        owner = owner._replace(kind=WORKLOAD)
    if owner == key:
        return Problem(format_key(key), field, value, "is an address of its own too; nothing leads there from outside")
    if owner.kind != WORKLOAD:
        return Problem(format_key(key), field, value, f"is an address of {owner}, which no workload may have")
    reason = f"belongs to {owner}, which names it too and has the lower key; remove it from one of them"
    return Problem(format_key(key), field, value, reason)
