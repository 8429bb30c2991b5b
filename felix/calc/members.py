"""The members of one address set: counted by who brings them, and reported as the kernel can hold them."""

from __future__ import annotations

from felix.calc.cover import PrefixCover
from felix.calc.desired import MemberDelta
from felix.model.net import Net


class MemberSet:
    """Nets with the number of objects that bring each; a change is written to the `MemberDelta` that the caller gives.

    Single addresses are members as they are; of prefixes only the outermost.
    """

    __slots__ = ("_count_by_net", "_cover4", "_cover6")

    def __init__(self) -> None:
        self._count_by_net: dict[Net, int] = {}
        self._cover4: PrefixCover | None = None  # most sets never see a prefix
        self._cover6: PrefixCover | None = None

    @property
    def has_nets4(self) -> bool:
        """Whether there is an IPv4 prefix of several addresses."""
        return bool(self._cover4)

    @property
    def has_nets6(self) -> bool:
        """Whether there is an IPv6 prefix of several addresses."""
        return bool(self._cover6)

    def add(self, net: Net, delta: MemberDelta) -> None:
        """One more object brings `net`."""
        count = self._count_by_net.get(net, 0)
        self._count_by_net[net] = count + 1
        if count:
            return
        if net.is_address:
            delta.note((net,), ())
            return
        change = self._get_cover(net.version).add(net)
        delta.note(change.added, change.removed)

    def remove(self, net: Net, delta: MemberDelta) -> None:
        """One object less brings `net`; at least one did."""
        count = self._count_by_net[net] - 1
        if count:
            self._count_by_net[net] = count
            return
        del self._count_by_net[net]
        if net.is_address:
            delta.note((), (net,))
            return
        change = self._get_cover(net.version).remove(net)
        delta.note(change.added, change.removed)

    def __len__(self) -> int:
        return len(self._count_by_net)

    def _get_cover(self, version: int) -> PrefixCover:
        if version == 4:
            self._cover4 = self._cover4 if self._cover4 is not None else PrefixCover(4)
            return self._cover4
        self._cover6 = self._cover6 if self._cover6 is not None else PrefixCover(6)
        return self._cover6
