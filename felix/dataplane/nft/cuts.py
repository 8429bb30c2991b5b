"""TCP connections that were cut and that their other end would bring back. Pure.

The kernel takes up connections that it does not know in the middle, from either end. Policy that denies who opened a
connection may well allow the other end to open one, and its next segment of data looks like that: the connection would
go on, turned round. So what comes from that end, which may be the host itself, is dropped unless it opens a connection.
Without such connections there is neither set nor chain, and who was never cut pays nothing.
"""

from __future__ import annotations

import struct
from collections.abc import Iterable

from felix.dataplane.nft.base import declare, drop
from felix.dataplane.nft.members import MemberBook
from felix.dataplane.nft.stack import DENIED_COUNTER
from felix.dataplane.nft.types import ElementShape, Lines, ObjectName
from felix.policy.packet import Packet
from felix.reconcile.delta import DeltaTracker

CUT_CHAINS = {"cut-forward": "forward", "cut-input": "input", "cut-output": "output"}
"""The chains that look for such connections, and the hook that each hangs on."""
CUT_SHAPES = {"cut4": ElementShape.IPV4_FLOW, "cut6": ElementShape.IPV6_FLOW}
_SET = {4: "cut4", 6: "cut6"}
_WORD = {4: "ip", 6: "ip6"}
_PRIORITY = -1  # before policy
_PORT = struct.Struct(">H2x")
KEPT_S = 9000.0
"""A connection without data is probed by its ends after two hours; they know then that it is gone."""
_MOST = 65536


class CutBook:
    """The connections, each for KEPT_S; of too many the oldest go first."""

    def __init__(self, objects: DeltaTracker[ObjectName, Lines], members: MemberBook) -> None:
        self._objects = objects
        self._members = members
        self._ends_at: dict[tuple[str, bytes], float | None] = {}  # in order of arrival; None: not known yet
        self._is_first_read = True

    def cut(self, packets: Iterable[Packet], now: float) -> None:
        """What would go on with such packets does not; they are TCP, of who did not open the connection."""
        for packet in packets:
            self._add(_SET[packet.version], _make_key(packet), now + KEPT_S)

    def adopt(self, elements_by_set: dict[str, dict[bytes, str]]) -> None:
        """What an earlier run cut, as read from the kernel, stays cut; only the first read is believed in this."""
        if self._is_first_read:
            for set_ in CUT_SHAPES:
                for key in elements_by_set.get(set_, {}):
                    self._add(set_, key, None)
        self._is_first_read = False

    def expire(self, now: float) -> bool:
        """Those whose time is over are forgotten; returns whether there were any. Costs those that are."""
        has_any = False
        while self._ends_at:
            (set_, key), ends_at = next(iter(self._ends_at.items()))
            if ends_at is None:
                self._ends_at = {
                    one: now + KEPT_S if ends_at is None else ends_at for one, ends_at in self._ends_at.items()
                }
            elif ends_at > now and len(self._ends_at) <= _MOST:
                break
            else:
                has_any = True
                del self._ends_at[set_, key]
                self._members.drop(set_, key)
        return has_any

    def settle(self) -> dict[str, Lines]:
        """Sets that are empty do not exist; returns the chains that look into the others, if any."""
        rules = []
        for version, set_ in _SET.items():
            if not self._members.has_set(set_):
                continue
            if self._members.count(set_):
                ends = " . ".join(f"{_WORD[version]} {one}addr . tcp {one}port" for one in "sd")
                rules.append(f"ct state 0x8 tcp flags ! 0x2 {ends} @{set_} {drop(DENIED_COUNTER)}")
            else:
                self._members.close_set(set_)
                self._objects.drop_desired(ObjectName("set", set_))
        if not rules:
            return {}
        return {
            chain: (f"type filter hook {hook} priority {_PRIORITY}; policy accept;", *rules)
            for chain, hook in CUT_CHAINS.items()
        }

    def _add(self, set_: str, key: bytes, ends_at: float | None) -> None:
        if not self._members.has_set(set_):
            self._members.open_set(set_, CUT_SHAPES[set_])
            self._objects.set_desired(ObjectName("set", set_), declare(CUT_SHAPES[set_]))
        self._members.want(set_, key)
        self._ends_at.pop((set_, key), None)
        self._ends_at[set_, key] = ends_at


def _make_key(packet: Packet) -> bytes:
    ports = _PORT.pack(packet.source_port or 0), _PORT.pack(packet.destination_port or 0)
    return packet.source_net.packed + ports[0] + packet.destination_net.packed + ports[1]
