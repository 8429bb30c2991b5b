"""Port sets: one kernel set per family, of address, protocol and port; both exist as long as the set is wanted."""

from __future__ import annotations

from collections.abc import Iterable

from felix.calc.desired import PortMember
from felix.dataplane.nft.base import declare
from felix.dataplane.nft.elements import port_key
from felix.dataplane.nft.members import MemberBook
from felix.dataplane.nft.names import port_set
from felix.dataplane.nft.types import ElementShape, Lines, ObjectName
from felix.reconcile.delta import DeltaTracker

_SHAPES = (ElementShape.IPV4_PORT, ElementShape.IPV6_PORT)


class PortSets:
    """Tells the trackers of objects and of members what port sets need."""

    def __init__(self, objects: DeltaTracker[ObjectName, Lines], members: MemberBook) -> None:
        self._objects = objects
        self._members = members

    def open(self, set_id: str) -> None:
        """The set is wanted; nothing happens if it was."""
        for shape in _SHAPES:
            name = port_set(set_id, shape)
            self._members.open_set(name, shape)
            self._objects.set_desired(ObjectName("set", name), declare(shape))

    def close(self, set_id: str) -> None:
        """The set and its members are not wanted."""
        for shape in _SHAPES:
            name = port_set(set_id, shape)
            self._members.close_set(name)
            self._objects.drop_desired(ObjectName("set", name))

    def change(self, set_id: str, added: Iterable[PortMember], removed: Iterable[PortMember]) -> None:
        """Members came and went; of a set that is not wanted nothing is remembered."""
        for member in removed:
            shape, key = port_key(member)
            name = port_set(set_id, shape)
            if self._members.has_set(name):
                self._members.drop(name, key)
        for member in added:
            shape, key = port_key(member)
            name = port_set(set_id, shape)
            if self._members.has_set(name):
                self._members.want(name, key)
