"""External addresses as kernel maps, both ways: to the endpoint's own address, and back from it. Pure."""

from __future__ import annotations

from collections.abc import Iterable

from felix.calc.desired import FloatingAddress
from felix.dataplane.nft.base import declare
from felix.dataplane.nft.members import MemberBook
from felix.dataplane.nft.nat import FLOATING_IN, FLOATING_OUT, floating_map
from felix.dataplane.nft.types import ElementShape, Lines, ObjectName
from felix.model.net import Net
from felix.reconcile.delta import DeltaTracker

_SHAPES = {4: ElementShape.IPV4_IPV4, 6: ElementShape.IPV6_IPV6}
_NAMES = (FLOATING_IN, FLOATING_OUT)


class FloatingBook:
    """Which external addresses lead where; the maps of a family exist only as long as it has some."""

    def __init__(self, objects: DeltaTracker[ObjectName, Lines], members: MemberBook) -> None:
        self._objects = objects
        self._members = members
        self._open: set[int] = set()
        self._externals_by_internal: dict[Net, set[Net]] = {}

    def claim(self, floating: Iterable[FloatingAddress]) -> None:
        """Each of these external addresses leads to its internal one, which has none yet."""
        for external, internal in floating:
            if external.version not in self._open:
                self._set_open(external.version, is_open=True)
            self._members.want(floating_map(FLOATING_IN, external.version), external.packed, internal.packed.hex())
            self._externals_by_internal.setdefault(internal, set()).add(external)
            self._settle_back(internal)

    def release(self, floating: Iterable[FloatingAddress]) -> None:
        """These external addresses, which were claimed, lead nowhere."""
        for external, internal in floating:
            self._members.drop(floating_map(FLOATING_IN, external.version), external.packed)
            self._externals_by_internal[internal].discard(external)
            self._settle_back(internal)

    def settle(self) -> frozenset[int]:
        """Maps that are empty do not exist; returns the families that have some."""
        for version in list(self._open):
            if not self._members.count(floating_map(FLOATING_IN, version)):
                self._set_open(version, is_open=False)
        return frozenset(self._open)

    def _settle_back(self, internal: Net) -> None:
        """Of several external addresses the lowest is what others see."""
        map_ = floating_map(FLOATING_OUT, internal.version)
        externals = self._externals_by_internal[internal]
        if externals:
            self._members.want(map_, internal.packed, min(externals).packed.hex())
        else:
            del self._externals_by_internal[internal]
            self._members.drop(map_, internal.packed)

    def _set_open(self, version: int, *, is_open: bool) -> None:
        for name in _NAMES:
            map_ = floating_map(name, version)
            if is_open:
                self._open.add(version)
                self._members.open_set(map_, _SHAPES[version])
                self._objects.set_desired(ObjectName("map", map_), declare(_SHAPES[version]))
            else:
                self._open.discard(version)
                self._members.close_set(map_)
                self._objects.drop_desired(ObjectName("map", map_))
