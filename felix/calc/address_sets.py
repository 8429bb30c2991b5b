"""Who is in which address set: every endpoint and network set of the cluster against the selectors of active rules."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence

from felix.calc.desired import DesiredDelta, MemberDelta, SetRef
from felix.calc.members import MemberSet
from felix.model.keys import ResourceKey
from felix.model.net import Net
from felix.selector.index import LabelIndex
from felix.selector.parse import Selector


class AddressSets:
    """Sets by selector id, each with the nets of all items that its selector matches.

    A set exists from its first `acquire` to the last `release`; when the last release and a new acquire fall between
    two flushes, nobody hears of it.
    """

    def __init__(self) -> None:
        self._index: LabelIndex[ResourceKey] = LabelIndex()
        self._nets_by_item: dict[ResourceKey, tuple[Net, ...]] = {}
        self._members_by_id: dict[str, MemberSet] = {}
        self._users_by_id: dict[str, set[ResourceKey]] = {}
        self._unused_ids: dict[str, None] = {}
        self._delta_by_id: dict[str, MemberDelta] = {}
        self._told_by_id: dict[str, SetRef] = {}

    def __len__(self) -> int:
        return len(self._users_by_id) - len(self._unused_ids)

    @property
    def items_count(self) -> int:
        """How many endpoints and network sets with addresses are known."""
        return len(self._nets_by_item)

    def set_item(
        self, item: ResourceKey, nets: Sequence[Net], labels: Mapping[str, str], parents: Sequence[str]
    ) -> None:
        """`item` brings exactly `nets` to every set whose selector matches its labels or those of its parents."""
        if not nets:
            self.drop_item(item)
            return
        before = self._nets_by_item.get(item, ())
        now = tuple(dict.fromkeys(nets))
        self._nets_by_item[item] = now
        self._index.set_item(item, labels, parents)
        started = self._absorb_changes(before)
        if before != now and before:
            gone, come = set(before).difference(now), set(now).difference(before)
            for set_id in self._index.selectors_matching(item):
                if set_id not in started:
                    self._change_members(set_id, come, gone)

    def drop_item(self, item: ResourceKey) -> None:
        """`item` brings nothing to any set."""
        before = self._nets_by_item.pop(item, None)
        if before is not None:
            self._index.drop_item(item)
            self._absorb_changes(before)

    def set_parent_labels(self, parent: str, labels: Mapping[str, str]) -> None:
        """Items that name `parent` inherit exactly `labels` from it; none if it is gone."""
        if labels:
            self._index.set_parent_labels(parent, labels)
        else:
            self._index.drop_parent(parent)
        self._absorb_changes(())

    def acquire(self, selector: Selector, user: ResourceKey) -> None:
        """The set of `selector` exists at least as long as `user` does not release it, with all its members."""
        self._unused_ids.pop(selector.id, None)
        users = self._users_by_id.get(selector.id)
        if users is None:
            users = self._users_by_id[selector.id] = set()
            self._members_by_id[selector.id] = MemberSet()
            self._delta_by_id[selector.id] = MemberDelta()  # even a set without members is told
            self._index.add_selector(selector)
            self._absorb_changes(())
        users.add(user)

    def release(self, set_id: str, user: ResourceKey) -> None:
        """`user` does not need the set any more."""
        users = self._users_by_id[set_id]
        users.discard(user)
        if not users:
            self._unused_ids[set_id] = None

    def find_users(self, set_id: str) -> Iterable[ResourceKey]:
        """Returns who has acquired the set; none if it does not exist."""
        return self._users_by_id.get(set_id, ())

    def get_ref(self, set_id: str) -> SetRef:
        """Returns the set with its flags as they are now."""
        members = self._members_by_id[set_id]
        return SetRef(set_id, members.has_nets4, members.has_nets6)

    def pop_changes(self, delta: DesiredDelta) -> list[str]:
        """Writes what changed in sets and members to `delta`; returns the sets whose flags are not what was told."""
        for set_id in self._unused_ids:
            self._drop_set(set_id, delta)
        self._unused_ids.clear()
        flipped = []
        for set_id, change in self._delta_by_id.items():
            if change.added or change.removed:
                delta.members[set_id] = change
        for set_id in self._delta_by_id:
            ref = self.get_ref(set_id)
            told = self._told_by_id.get(set_id)
            if told is None:
                delta.sets[set_id] = True
            if told != ref:
                flipped.append(set_id)
                self._told_by_id[set_id] = ref
        self._delta_by_id = {}
        return flipped

    def _drop_set(self, set_id: str, delta: DesiredDelta) -> None:
        del self._users_by_id[set_id]
        del self._members_by_id[set_id]
        self._delta_by_id.pop(set_id, None)
        self._index.drop_selector(set_id)
        self._index.pop_changes()
        if self._told_by_id.pop(set_id, None) is not None:
            delta.sets[set_id] = None

    def _absorb_changes(self, before: tuple[Net, ...]) -> set[str]:
        """Members follow what the index found; `before` are the former nets of the one item that may have stopped."""
        started_ids = set()
        for set_id, item, started in self._index.pop_changes():
            if started:
                started_ids.add(set_id)
                self._change_members(set_id, self._nets_by_item[item], ())
            else:
                self._change_members(set_id, (), before or self._nets_by_item[item])
        return started_ids

    def _change_members(self, set_id: str, come: Iterable[Net], gone: Iterable[Net]) -> None:
        members = self._members_by_id[set_id]
        delta = self._delta_by_id.get(set_id)
        if delta is None:
            delta = self._delta_by_id[set_id] = MemberDelta()
        for net in gone:
            members.remove(net, delta)
        for net in come:
            members.add(net, delta)
