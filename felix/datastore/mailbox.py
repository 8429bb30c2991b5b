"""Between watch and calculation: a map of latest values, bounded by keys and not by events."""

from __future__ import annotations

import asyncio
from collections.abc import Mapping
from dataclasses import dataclass

from felix.datastore.types import ClusterChanged, InSync, ResyncStarted, StreamItem, Update


@dataclass(frozen=True, slots=True)
class Batch:
    """Everything that came since the last batch, each key's latest value only, in the order of first arrival.

    in_sync_revision: once the updates are applied, everything stored at that revision has been seen; None when the
    latest resync has not ended (or ended in an earlier batch). resync_reason: why a resync has started, None if none
    has; with both set it has ended too. cluster_change: from the store last known to the store read now.
    """

    updates: Mapping[str, Update]
    in_sync_revision: int | None = None
    resync_reason: str | None = None
    cluster_change: ClusterChanged | None = None


class Mailbox:
    """Takes the items of a stream at any speed; gives them at the consumer's. One consumer."""

    def __init__(self) -> None:
        self._updates: dict[str, Update] = {}
        self._in_sync_revision: int | None = None
        self._resync_reason: str | None = None
        self._cluster_change: ClusterChanged | None = None
        self._has_mail = asyncio.Event()

    def __len__(self) -> int:
        return len(self._updates)

    def put(self, item: StreamItem) -> None:
        """`item` is part of the next batch, unless a later one for the same key replaces it."""
        match item:
            case Update(key):
                self._updates[key] = item
            case InSync(revision):
                self._in_sync_revision = revision
            case ResyncStarted(reason):
                self._resync_reason = reason
                self._in_sync_revision = None
            case ClusterChanged():
                self._cluster_change = _join(self._cluster_change, item)
        self._has_mail.set()

    async def take(self) -> Batch:
        """Waits for mail and returns all of it; the mailbox is empty afterwards. Nothing is lost when cancelled."""
        await self._has_mail.wait()
        return self.take_now()

    def take_now(self) -> Batch:
        """Returns all mail, which may be none; the mailbox is empty afterwards."""
        batch = Batch(self._updates, self._in_sync_revision, self._resync_reason, self._cluster_change)
        self._updates = {}
        self._in_sync_revision = self._resync_reason = self._cluster_change = None
        self._has_mail.clear()
        return batch


def _join(first: ClusterChanged | None, then: ClusterChanged) -> ClusterChanged:
    if first is None:
        return then
    return ClusterChanged(first.old_cluster_id, then.new_cluster_id, first.old_revision, then.new_revision)
