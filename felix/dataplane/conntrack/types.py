"""Tracked connections as far as flushing needs them."""

from __future__ import annotations

from dataclasses import dataclass


@dataclass(frozen=True, slots=True)
class ConntrackResult:
    """What became of a flush.

    removed_count: entries that are gone. reason: empty, or why entries may be left (a kernel without the interface to
    its connection table, or a refusal).
    """

    removed_count: int = 0
    reason: str = ""
