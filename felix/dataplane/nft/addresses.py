"""Address sets: which kernel sets each one has, and what is in them.

Single addresses live in hash sets that always exist, prefixes in interval sets that exist only where there are any: an
interval set costs every packet and every change more.
"""

from __future__ import annotations

from collections.abc import Iterable

from felix.calc.desired import CompiledPolicy
from felix.dataplane.nft.base import declare
from felix.dataplane.nft.elements import address_key
from felix.dataplane.nft.members import MemberBook
from felix.dataplane.nft.names import address_set
from felix.dataplane.nft.types import ElementShape, Lines, ObjectName
from felix.model.keys import ResourceKey
from felix.model.net import Net
from felix.reconcile.delta import DeltaTracker

_SHAPES = (ElementShape.IPV4, ElementShape.IPV6, ElementShape.IPV4_RANGE, ElementShape.IPV6_RANGE)
Part = tuple[str, ElementShape]


class AddressSets:
    """Tells the trackers of objects and of members what address sets need."""

    def __init__(self, objects: DeltaTracker[ObjectName, Lines], members: MemberBook) -> None:
        self._objects = objects
        self._members = members
        self._opened: dict[str, None] = {}
        self._parts_by_policy: dict[ResourceKey, tuple[Part, ...]] = {}
        self._users_by_part: dict[Part, int] = {}

    def open(self, set_id: str) -> None:
        """The set is wanted; nothing happens if it was."""
        self._opened[set_id] = None
        for shape in _SHAPES:
            self._settle((set_id, shape))

    def close(self, set_id: str) -> None:
        """The set and its members are not wanted."""
        self._opened.pop(set_id, None)
        for shape in _SHAPES:
            self._settle((set_id, shape))

    def change(self, set_id: str, added: Iterable[Net], removed: Iterable[Net]) -> None:
        """Members came and went; of a set that is not wanted nothing is remembered."""
        if set_id not in self._opened:
            return
        for net in removed:
            shape, key = address_key(net)
            name = address_set(set_id, shape)
            if self._members.has_set(name):
                self._members.drop(name, key)
                if shape.is_range:
                    self._settle((set_id, shape))
        for net in added:
            shape, key = address_key(net)
            name = address_set(set_id, shape)
            if not self._members.has_set(name):
                self._declare(name, shape)
            self._members.want(name, key)

    def set_references(self, key: ResourceKey, policy: CompiledPolicy | None) -> None:
        """The rules of this policy look into the sets that they name, even if those have no prefixes."""
        old = self._parts_by_policy.pop(key, ())
        new = () if policy is None else _parts_of(policy)
        if new:
            self._parts_by_policy[key] = new
        before, after = frozenset(old), frozenset(new)
        for part in [part for part in new if part not in before]:
            self._users_by_part[part] = self._users_by_part.get(part, 0) + 1
            self._settle(part)
        for part in [part for part in old if part not in after]:
            self._users_by_part[part] -= 1
            if not self._users_by_part[part]:
                del self._users_by_part[part]
            self._settle(part)

    def _settle(self, part: Part) -> None:
        set_id, shape = part
        name = address_set(set_id, shape)
        is_wanted = set_id in self._opened and (
            not shape.is_range or part in self._users_by_part or self._members.count(name) > 0
        )
        if is_wanted and not self._members.has_set(name):
            self._declare(name, shape)
        elif not is_wanted and self._members.has_set(name):
            self._members.close_set(name)
            self._objects.drop_desired(ObjectName("set", name))

    def _declare(self, name: str, shape: ElementShape) -> None:
        self._members.open_set(name, shape)
        self._objects.set_desired(ObjectName("set", name), declare(shape))


def _parts_of(policy: CompiledPolicy) -> tuple[Part, ...]:
    """Returns the prefix sets that the rules look into, in their order."""
    parts: dict[Part, None] = {}
    for rule in (*policy.ingress, *policy.egress):
        for side in (rule.source, rule.destination):
            for reference in (*side.sets, *side.not_sets):
                if reference.nets4:
                    parts[reference.id, ElementShape.IPV4_RANGE] = None
                if reference.nets6:
                    parts[reference.id, ElementShape.IPV6_RANGE] = None
    return tuple(parts)
