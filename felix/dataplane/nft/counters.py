"""Named counters of policies: what each one decided, kept when its chains are written anew.

A counter belongs to one direction and action of a policy or profile, and to a single rule where settings ask for that.
Its name is made of who is counted, not of where: all chains that hold a policy's rules count into the same ones.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping
from types import MappingProxyType
from typing import NamedTuple

from felix.calc.desired import Action, CompiledPolicy, CompiledRule
from felix.dataplane.nft.names import EGRESS, INGRESS, key_digest
from felix.dataplane.nft.types import Lines, NftConfig, ObjectName
from felix.model.keys import ResourceKey
from felix.policy.staged import is_staged
from felix.reconcile.delta import DeltaTracker

_SHORT = {INGRESS: "in", EGRESS: "out"}


class Counted(NamedTuple):
    """What a counter counts. rule: its index in that direction, None for all rules with the action."""

    key: ResourceKey
    tier: str
    direction: str
    action: Action
    rule: int | None = None


def is_counted(config: NftConfig, key: ResourceKey) -> bool:
    """Whether it is counted what a policy decides: if settings say so, and always if it is only tried."""
    return config.counts_policies or is_staged(key.kind)


def count_statements(
    config: NftConfig, direction: str, key: ResourceKey, rules: tuple[CompiledRule, ...]
) -> Iterator[tuple[str, ...]]:
    """Yields for each rule the counters that count what it matches, none if nothing is counted."""
    seen: dict[str, int] = {}
    for number, rule in enumerate(rules):
        if rule.action is Action.LOG:  # it may match one packet several times, by its address and by a prefix
            yield ()
            continue
        names = [_name(direction, rule.action.value.lower(), key)] if is_counted(config, key) else []
        if number < config.counted_rules:
            # By what the rule says, not by its place: rules that come before it do not change what was counted.
            mark = rule.id or str(number)
            seen[mark] = seen.get(mark, 0) + 1
            names.append(_name(direction, mark if seen[mark] == 1 else f"{mark}-{seen[mark]}", key))
        yield tuple(names)


def _name(direction: str, what: str, key: ResourceKey) -> str:
    return f"{_SHORT[direction]}-{what}-{key_digest(key)}"


class CounterBook:
    """The counters of the policies that are told; wants each of them as an object of the table."""

    def __init__(self, config: NftConfig, objects: DeltaTracker[ObjectName, Lines]) -> None:
        self._config = config
        self._objects = objects
        self._names_by_key: dict[ResourceKey, tuple[str, ...]] = {}
        self._counted_by_name: dict[str, Counted] = {}

    @property
    def counted_by_name(self) -> Mapping[str, Counted]:
        """What every wanted counter counts; a live view."""
        return MappingProxyType(self._counted_by_name)

    def set_policy(self, key: ResourceKey, policy: CompiledPolicy | None) -> None:
        """The rules of a policy or profile are these; None: it does not exist."""
        counted = dict(self._find_counters(key, policy)) if policy is not None else {}
        for name in self._names_by_key.pop(key, ()):
            if name not in counted:
                del self._counted_by_name[name]
                self._objects.drop_desired(ObjectName("counter", name))
        if counted:
            self._names_by_key[key] = tuple(counted)
        for name in [name for name in counted if name not in self._counted_by_name]:
            self._objects.set_desired(ObjectName("counter", name), ())
        self._counted_by_name.update(counted)

    def is_counter(self, name: ObjectName) -> bool:
        """Whether this is a counter of a policy that is wanted."""
        return name.kind == "counter" and name.name in self._counted_by_name

    def _find_counters(self, key: ResourceKey, policy: CompiledPolicy) -> Iterable[tuple[str, Counted]]:
        for direction, rules in ((INGRESS, policy.ingress), (EGRESS, policy.egress)):
            for number, names in enumerate(count_statements(self._config, direction, key, rules)):
                for position, name in enumerate(names):
                    is_of_all = is_counted(self._config, key) and position == 0
                    rule = None if is_of_all else number
                    yield name, Counted(key, policy.tier, direction, rules[number].action, rule)
