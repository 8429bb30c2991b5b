"""Tracked connections as far as flushing and revoking need them."""

from __future__ import annotations

from dataclasses import dataclass
from typing import NamedTuple

from felix.policy.packet import Packet


@dataclass(frozen=True, slots=True)
class ConntrackResult:
    """What became of a flush.

    removed_count: entries that are gone. reason: empty, or why entries may be left (a kernel without the interface to
    its connection table, or a refusal).
    """

    removed_count: int = 0
    reason: str = ""


class OpenFlow(NamedTuple):
    """One tracked connection.

    packet: its first one as policy sees it: from who opened it, to whom it goes behind a translation of destinations;
    of a connection that another one announced (FTP's data), the first packet of that other one.
    answer: what the other end sends, as policy would see it if it were a first packet.
    removal: the request that removes the entry and no other.
    first: the first packet before any translation; None: as `packet`.
    """

    packet: Packet
    answer: Packet
    removal: bytes
    first: Packet | None = None


@dataclass(frozen=True, slots=True)
class FlowsRead:
    """Tracked connections. reason: empty, or why they could not be read; there are none then."""

    flows: tuple[OpenFlow, ...] = ()
    reason: str = ""
