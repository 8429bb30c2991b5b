"""Who is in which port set: the named ports of all endpoints of the cluster against what active rules name.

A port set is a selector and a name: addresses, protocols and ports of the endpoints that the selector matches and that
have a port of that name. Only endpoints with named ports cost anything here.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterable, Mapping, Sequence
from typing import NamedTuple

from felix.calc.compile import NamedPorts
from felix.calc.desired import DesiredDelta, PortDelta, PortMember
from felix.model.keys import ResourceKey
from felix.model.net import Net
from felix.selector.index import LabelIndex


class NamedPort(NamedTuple):
    """A port of an endpoint. protocol: the IP protocol number."""

    name: str
    protocol: int
    port: int


class EndpointPorts(NamedTuple):
    """The addresses of an endpoint, and its named ports, each of them open at every address."""

    addresses: tuple[Net, ...]
    ports: tuple[NamedPort, ...]

    def find_members(self, name: str) -> set[PortMember]:
        """Returns what the endpoint brings to sets of that name."""
        return {
            PortMember(address, one.protocol, one.port)
            for one in self.ports
            if one.name == name
            for address in self.addresses
        }


class PortSets:
    """Sets by id; lives and dies as `AddressSets` does."""

    def __init__(self) -> None:
        self._index: LabelIndex[ResourceKey] = LabelIndex()
        self._ports_by_item: dict[ResourceKey, EndpointPorts] = {}
        self._wanted_by_id: dict[str, NamedPorts] = {}
        self._ids_by_selector: dict[str, dict[str, None]] = {}
        self._users_by_id: dict[str, set[ResourceKey]] = {}
        self._unused_ids: dict[str, None] = {}
        self._count_by_id: dict[str, Counter[PortMember]] = {}
        self._delta_by_id: dict[str, PortDelta] = {}
        self._told_ids: set[str] = set()

    def __len__(self) -> int:
        return len(self._users_by_id) - len(self._unused_ids)

    def set_item(
        self, item: ResourceKey, ports: EndpointPorts, labels: Mapping[str, str], parents: Sequence[str]
    ) -> None:
        """`item` brings exactly these ports to the sets whose selector matches its labels or those of its parents."""
        if not ports.addresses or not ports.ports:
            self.drop_item(item)
            return
        before = self._ports_by_item.get(item)
        self._ports_by_item[item] = ports
        self._index.set_item(item, labels, parents)
        started = self._absorb_changes(before)
        if before is not None and before != ports:
            for selector_id in self._index.selectors_matching(item):
                if selector_id not in started:
                    self._change(selector_id, before, ports)

    def drop_item(self, item: ResourceKey) -> None:
        """`item` brings nothing to any set."""
        before = self._ports_by_item.pop(item, None)
        if before is not None:
            self._index.drop_item(item)
            self._absorb_changes(before)

    def set_parent_labels(self, parent: str, labels: Mapping[str, str]) -> None:
        """Items that name `parent` inherit exactly `labels` from it; none if it is gone."""
        self._index.set_parent_labels(parent, labels)
        self._absorb_changes(None)

    def acquire(self, wanted: NamedPorts, user: ResourceKey) -> None:
        """The set exists at least as long as `user` does not release it, with all its members."""
        set_id, selector = wanted.id, wanted.selector
        self._unused_ids.pop(set_id, None)
        if set_id not in self._users_by_id:
            self._users_by_id[set_id] = set()
            self._wanted_by_id[set_id] = wanted
            self._count_by_id[set_id] = Counter()
            self._delta_by_id[set_id] = PortDelta()  # even a set without members is told
            ids = self._ids_by_selector.setdefault(selector.id, {})
            if not ids:
                self._index.add_selector(selector)
                self._index.pop_changes()  # whom it matches is asked below, as for selectors that were there
            ids[set_id] = None
            for item in self._index.items_matching(selector.id):
                self._count(set_id, self._ports_by_item[item].find_members(wanted.name), 1)
        self._users_by_id[set_id].add(user)

    def release(self, set_id: str, user: ResourceKey) -> None:
        """`user` does not need the set any more."""
        users = self._users_by_id[set_id]
        users.discard(user)
        if not users:
            self._unused_ids[set_id] = None

    def pop_changes(self, delta: DesiredDelta) -> None:
        """Writes what changed in sets and members to `delta`."""
        for set_id in self._unused_ids:
            self._drop_set(set_id, delta)
        self._unused_ids.clear()
        for set_id, change in self._delta_by_id.items():
            if set_id not in self._told_ids:
                self._told_ids.add(set_id)
                delta.port_sets[set_id] = True
            if change.added or change.removed:
                delta.port_members[set_id] = change
        self._delta_by_id = {}

    def _drop_set(self, set_id: str, delta: DesiredDelta) -> None:
        selector_id = self._wanted_by_id.pop(set_id).selector.id
        del self._users_by_id[set_id]
        del self._count_by_id[set_id]
        self._delta_by_id.pop(set_id, None)
        ids = self._ids_by_selector[selector_id]
        del ids[set_id]
        if not ids:
            del self._ids_by_selector[selector_id]
            self._index.drop_selector(selector_id)
            self._index.pop_changes()
        if set_id in self._told_ids:
            self._told_ids.remove(set_id)
            delta.port_sets[set_id] = None

    def _absorb_changes(self, before: EndpointPorts | None) -> set[str]:
        """Members follow what the index found; `before` is what the one item brought that may have stopped."""
        started_ids = set()
        for selector_id, item, started in self._index.pop_changes():
            if started:
                started_ids.add(selector_id)
                self._change(selector_id, None, self._ports_by_item[item])
            else:
                self._change(selector_id, before or self._ports_by_item[item], None)
        return started_ids

    def _change(self, selector_id: str, gone: EndpointPorts | None, come: EndpointPorts | None) -> None:
        for set_id in self._ids_by_selector[selector_id]:
            name = self._wanted_by_id[set_id].name
            leaving = gone.find_members(name) if gone else set()
            coming = come.find_members(name) if come else set()
            self._count(set_id, leaving - coming, -1)
            self._count(set_id, coming - leaving, 1)

    def _count(self, set_id: str, members: Iterable[PortMember], by: int) -> None:
        counts = self._count_by_id[set_id]
        for member in members:
            counts[member] += by
            if by > 0 and counts[member] == 1:
                _note(self._get_delta(set_id), member, is_there=True)
            elif not counts[member]:
                del counts[member]
                _note(self._get_delta(set_id), member, is_there=False)

    def _get_delta(self, set_id: str) -> PortDelta:
        return self._delta_by_id.setdefault(set_id, PortDelta())


def _note(delta: PortDelta, member: PortMember, *, is_there: bool) -> None:
    to, other = (delta.added, delta.removed) if is_there else (delta.removed, delta.added)
    if member in other:
        other.remove(member)
    else:
        to.add(member)
