"""Snapshot and watch of one range, merged into one stream of changes that ends in the store's own state.

Owns what is known to have been delivered: the revision of each key, and the revision up to which nothing is missing.
Does no I/O: it is fed pages and batches, and returns what to hand on.
"""

from __future__ import annotations

from felix.datastore.faults import StoreReplaced
from felix.datastore.types import (
    ClusterChanged,
    Header,
    InSync,
    RangePage,
    ResyncStarted,
    StreamItem,
    Update,
    WatchBatch,
)


class Merge:
    """What a consumer has been told about one range, and what it has to be told next.

    A resync begins with `expect_snapshot`, which may be called again whenever reading the snapshot failed, and ends
    with the last page; in between, batches are not wanted. The first resync is expected from the beginning.
    """

    __slots__ = (
        "_cluster_id",
        "_is_announced",
        "_is_replaced",
        "_needs_snapshot",
        "_newest",
        "_revision",
        "_revision_by_key",
        "_seen",
    )

    def __init__(self) -> None:
        self._revision_by_key: dict[str, int] = {}
        self._revision = 0  # everything up to here has been delivered
        self._newest = 0  # the newest revision this store is known to have had
        self._cluster_id = 0
        self._needs_snapshot = True
        self._is_announced = False
        self._is_replaced = False
        self._seen: dict[str, None] | None = None  # keys of the snapshot under way

    @property
    def needs_snapshot(self) -> bool:
        """Whether a snapshot has to be read before batches mean anything."""
        return self._needs_snapshot

    @property
    def resume_revision(self) -> int:
        """The first revision that has not been delivered; watch from here."""
        return self._revision + 1

    @property
    def keys_count(self) -> int:
        """How many keys have been delivered and not deleted."""
        return len(self._revision_by_key)

    def expect_snapshot(self, reason: str) -> list[StreamItem]:
        """A snapshot is read from its first page on; returns the announcement, unless this resync was announced."""
        self._needs_snapshot = True
        self._seen = None
        if self._is_announced:
            return []
        self._is_announced = True
        return [ResyncStarted(reason)]

    def on_page(self, page: RangePage) -> list[StreamItem]:
        """Returns what a snapshot's next page changes; for the last page also what is gone, and then `InSync`.

        All pages have the revision of the first one.
        """
        items: list[StreamItem] = []
        if self._seen is None:
            items += self._start_snapshot(page)
            self._seen = {}
        if page.revision != self._newest:
            raise ValueError(f"a page at revision {page.revision} in a snapshot at {self._newest}")
        for kv in page.kvs:
            self._seen[kv.key] = None
            if kv.mod_revision > self._revision_by_key.get(kv.key, 0):
                self._revision_by_key[kv.key] = kv.mod_revision
                items.append(Update(kv.key, kv.value, kv.mod_revision))
        return items if page.more else items + self._finish_snapshot(self._seen)

    def on_batch(self, batch: WatchBatch) -> list[StreamItem]:
        """Returns what a batch changes: nothing that was delivered before, no delete of a key never delivered.

        Raises StoreReplaced, and changes nothing, when another cluster sent it.
        """
        if self._needs_snapshot:
            return []
        self.check_store(Header(batch.cluster_id, self._revision))
        items: list[StreamItem] = []
        for event in batch.events:
            if event.revision <= self._revision:
                continue
            if event.value is not None:
                self._revision_by_key[event.key] = event.revision
                items.append(event)
            elif self._revision_by_key.pop(event.key, None) is not None:
                items.append(event)
        self._revision = max(self._revision, batch.revision)
        self._newest = max(self._newest, self._revision)
        return items

    def check_store(self, header: Header) -> None:
        """Raises StoreReplaced unless this is the store that was read, and not before what was read of it.

        Not noticed: a store of the same identity that went back and caught up between two looks. Etcd gives a cluster
        restored from a backup another identity, unless told to give it the old one.
        """
        if header.cluster_id == self._cluster_id and header.revision >= self._revision:
            return
        self._is_replaced = True  # its revision may have caught up by the time the snapshot is read
        if header.cluster_id != self._cluster_id:
            raise StoreReplaced(f"etcd cluster {header.cluster_id:x} answers instead of {self._cluster_id:x}")
        raise StoreReplaced(f"etcd went back from revision {self._revision} to {header.revision}")

    def _start_snapshot(self, page: RangePage) -> list[StreamItem]:
        old_id, old_revision = self._cluster_id, self._newest
        self._cluster_id, self._newest = page.cluster_id, page.revision
        is_same = page.cluster_id == old_id and page.revision >= old_revision and not self._is_replaced
        if is_same or not old_id:
            return []
        self._is_replaced = False
        # the revisions of another history compare with nothing
        self._revision_by_key = dict.fromkeys(self._revision_by_key, 0)
        return [ClusterChanged(old_id, page.cluster_id, old_revision, page.revision)]

    def _finish_snapshot(self, seen: dict[str, None]) -> list[StreamItem]:
        gone = [key for key in self._revision_by_key if key not in seen]
        for key in gone:
            del self._revision_by_key[key]
        self._revision = self._newest
        self._seen = None
        self._needs_snapshot = self._is_announced = False
        return [*(Update(key, None, self._newest) for key in gone), InSync(self._newest)]
