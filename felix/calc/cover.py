"""Which prefixes of a set are outermost: the kernel's interval sets refuse one prefix inside another.

A prefix is the integer `value << 8 | length`: in that order a prefix stands directly before everything inside it,
so "what becomes visible when it goes" is a walk that jumps from one outermost prefix behind the end of it to the next.
"""

from __future__ import annotations

from typing import NamedTuple

from felix.calc.sorted_keys import SortedKeys
from felix.model.net import Net


class CoverChange(NamedTuple):
    """What became outermost and what no longer is, by one addition or removal; the two never overlap."""

    added: list[Net]
    removed: list[Net]


class PrefixCover:
    """Prefixes of one family in any nesting; `outermost_count` of them lie in no other.

    Adding looks up at most one ancestor per length in use; adding and removing then cost what changes visibly, each
    step a bisection.
    """

    __slots__ = ("_bits", "_count_by_length", "_ordered", "_present", "_version", "outermost_count")

    def __init__(self, version: int) -> None:
        self._version = version
        self._bits = 32 if version == 4 else 128
        self._present: set[int] = set()
        self._ordered = SortedKeys()
        self._count_by_length: dict[int, int] = {}
        self.outermost_count = 0

    def __len__(self) -> int:
        return len(self._present)

    def add(self, net: Net) -> CoverChange:
        """`net` is present; it must not have been. Prefixes that it covers are no longer outermost."""
        key = net.value << 8 | net.length
        covered = self._is_covered(net)
        inner = [] if covered else self._find_outermost_inside(net)
        self._present.add(key)
        self._ordered.add(key)
        self._count_by_length[net.length] = self._count_by_length.get(net.length, 0) + 1
        if covered:
            return CoverChange([], [])
        self.outermost_count += 1 - len(inner)
        return CoverChange([net], inner)

    def remove(self, net: Net) -> CoverChange:
        """`net` is no longer present; it must have been. What only it covered becomes outermost."""
        key = net.value << 8 | net.length
        self._present.remove(key)
        self._ordered.remove(key)
        self._count_by_length[net.length] -= 1
        if not self._count_by_length[net.length]:
            del self._count_by_length[net.length]
        if self._is_covered(net):
            return CoverChange([], [])
        inner = self._find_outermost_inside(net)
        self.outermost_count += len(inner) - 1
        return CoverChange(inner, [net])

    def _is_covered(self, net: Net) -> bool:
        for length in self._count_by_length:
            if length < net.length:
                host_bits = self._bits - length
                if (net.value >> host_bits << host_bits) << 8 | length in self._present:
                    return True
        return False

    def _find_outermost_inside(self, net: Net) -> list[Net]:
        """Returns the prefixes strictly inside `net` that no other prefix strictly inside it covers, in order."""
        found = []
        end = (net.last + 1) << 8
        key = self._ordered.find_from((net.value << 8 | net.length) + 1)
        while key is not None and key < end:
            inner = Net(self._version, key >> 8, key & 0xFF)
            found.append(inner)
            key = self._ordered.find_from((inner.last + 1) << 8)
        return found
