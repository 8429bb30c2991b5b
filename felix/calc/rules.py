"""The rules of the policies and profiles that local endpoints use, and the address sets that those rules need."""

from __future__ import annotations

from felix.calc.address_sets import AddressSets
from felix.calc.changes import ChangeLog
from felix.calc.compile import Draft, RuleSource, compile_rules, resolve_sets
from felix.calc.desired import CompiledPolicy, DesiredDelta
from felix.calc.port_sets import PortSets
from felix.errors import Problem
from felix.model.keys import Key, ResourceKey, format_key


class ActiveRules:
    """Rules by policy or profile; only what is used is compiled and holds sets."""

    def __init__(self, sets: AddressSets, port_sets: PortSets, problems: ChangeLog[Key, tuple[Problem, ...]]) -> None:
        self._sets = sets
        self._port_sets = port_sets
        self._problems = problems
        self._source_by_key: dict[ResourceKey, RuleSource] = {}
        self._used: set[ResourceKey] = set()
        self._dirty: dict[ResourceKey, None] = {}
        self._draft_by_key: dict[ResourceKey, Draft] = {}
        self._unresolved: dict[ResourceKey, None] = {}
        self.results: ChangeLog[ResourceKey, CompiledPolicy] = ChangeLog()

    def set_source(self, key: ResourceKey, source: RuleSource | None) -> None:
        """The rules of `key` are those of its record `source`; None: there is none."""
        if source is None:
            self._source_by_key.pop(key, None)
        else:
            self._source_by_key[key] = source
        if key in self._used:
            self._dirty[key] = None

    def set_used(self, key: ResourceKey, *, is_used: bool) -> None:
        """Some local endpoint names `key`, or none does any more."""
        if is_used == (key in self._used):
            return
        if is_used:
            self._used.add(key)
        else:
            self._used.remove(key)
        self._dirty[key] = None

    def settle(self, limit: int | None = None) -> bool:
        """Up to `limit` changed policies have their sets; returns whether all have."""
        while self._dirty and limit != 0:
            key = next(iter(self._dirty))
            del self._dirty[key]
            self._settle_one(key)
            limit = None if limit is None else limit - 1
        return not self._dirty

    def pop_changes(self, delta: DesiredDelta) -> None:
        """Writes changed sets, members and rules to `delta`; everything has to be settled."""
        for set_id in self._sets.pop_changes(delta):
            self._unresolved.update(dict.fromkeys(self._sets.find_users(set_id)))
        for key in self._unresolved:
            draft = self._draft_by_key.get(key)
            self.results.set(key, resolve_sets(draft.policy, self._sets.get_ref) if draft else None)
        self._unresolved.clear()
        self._port_sets.pop_changes(delta)
        delta.policies = self.results.pop_changes()

    def _settle_one(self, key: ResourceKey) -> None:
        is_used = key in self._used
        source = self._source_by_key.get(key) if is_used else None
        before = self._draft_by_key.pop(key, None)
        after = compile_rules(key, source) if source is not None else None
        wanted = {selector.id for selector in after.selectors} if after else set()
        for selector in after.selectors if after else ():
            self._sets.acquire(selector, key)
        for selector in before.selectors if before else ():
            if selector.id not in wanted:
                self._sets.release(selector.id, key)
        for ports in after.ports if after else ():
            self._port_sets.acquire(ports, key)
        for ports in before.ports if before else ():
            if after is None or ports not in after.ports:
                self._port_sets.release(ports.id, key)
        if after is not None:
            self._draft_by_key[key] = after
        self._unresolved[key] = None
        problems = after.problems if after else ()
        if is_used and source is None:
            problems = (Problem(format_key(key), "", "", "does not exist, but endpoints of this host name it"),)
        self._problems.set(key, problems or None)
