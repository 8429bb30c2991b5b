"""Whatever etcd, the network and an operator do, the consumer ends with the store's own state."""

from __future__ import annotations

from hypothesis import given, settings
from hypothesis import strategies as st

from felix.datastore.faults import StoreReplaced
from felix.datastore.merge import Merge
from felix.datastore.types import (
    ClusterChanged,
    Header,
    InSync,
    KeyValue,
    RangePage,
    ResyncStarted,
    StreamItem,
    Update,
    WatchBatch,
)

KEYS = "abcde"
TXN = st.dictionaries(st.sampled_from(KEYS), st.sampled_from([None, b"x", b"y"]), min_size=1, max_size=3)
STEPS = st.lists(
    st.one_of(
        st.tuples(st.just("write"), TXN),
        st.tuples(st.just("watch"), st.integers(0, 6)),
        st.tuples(st.just("replay"), st.integers(0, 30)),
        st.tuples(st.just("progress"), st.just(0)),
        st.tuples(st.just("compact"), st.just(0)),
        st.tuples(st.just("snapshot"), st.integers(1, 3)),
        st.tuples(st.just("half snapshot"), st.integers(1, 3)),
        st.tuples(st.just("replace"), st.just(0)),
        st.tuples(st.just("restore"), st.integers(0, 10)),
    ),
    min_size=8,
    max_size=40,
)


class Store:
    """A store with its history, which can be forgotten, replaced and restored."""

    def __init__(self) -> None:
        self.cluster_id = 1
        self.revision = 1
        self.compacted = 0
        self.history: list[Update] = []

    def write(self, txn: dict[str, bytes | None]) -> None:
        now = self.state_at(self.revision)
        changes = {key: value for key, value in txn.items() if value is not None or key in now}
        if changes:
            self.revision += 1
            self.history += [Update(key, value, self.revision) for key, value in changes.items()]

    def state_at(self, revision: int) -> dict[str, tuple[bytes, int]]:
        state: dict[str, tuple[bytes, int]] = {}
        for event in self.history:
            if event.revision <= revision:
                state.pop(event.key, None)
                if event.value is not None:
                    state[event.key] = (event.value, event.revision)
        return state

    def values(self) -> dict[str, bytes]:
        return {key: value for key, (value, _) in self.state_at(self.revision).items()}

    def batch(self, start: int, revisions: int) -> WatchBatch:
        """The events of that many revisions from `start` on."""
        end = min(self.revision, start + revisions - 1)
        events = tuple(event for event in self.history if start <= event.revision <= end)
        return WatchBatch(events, events[-1].revision if events else 0, self.cluster_id)

    def pages(self, size: int) -> list[RangePage]:
        kvs = [KeyValue(key, *pair) for key, pair in sorted(self.state_at(self.revision).items())]
        cuts = range(0, max(len(kvs), 1), size)
        return [
            RangePage(tuple(kvs[cut : cut + size]), self.revision, cut + size < len(kvs), self.cluster_id)
            for cut in cuts
        ]


class Consumer:
    """Applies the items, and judges each as it comes."""

    def __init__(self, store: Store) -> None:
        self.store = store
        self.values: dict[str, bytes] = {}
        self.is_resyncing = False

    def apply(self, items: list[StreamItem]) -> None:
        for item in items:
            match item:
                case Update(key, None, revision):
                    del self.values[key]  # nothing is deleted twice, or without having been delivered
                    assert key not in self.store.state_at(revision)
                case Update(key, value):
                    assert value is not None
                    self.values[key] = value
                case ResyncStarted():
                    assert not self.is_resyncing
                    self.is_resyncing = True
                case InSync(revision):
                    assert self.is_resyncing
                    self.is_resyncing = False
                    assert self.values == {key: pair[0] for key, pair in self.store.state_at(revision).items()}
                case ClusterChanged():
                    assert self.is_resyncing


class World:
    """The merge between a store and a consumer, fed as the watch feeds it."""

    def __init__(self) -> None:
        self.store = Store()
        self.consumer = Consumer(self.store)
        self.merge = Merge()
        self.expect("start")
        for number in range(3):
            self.store.write({KEYS[number]: b"%d" % number})
        self.snapshot(2)

    def expect(self, reason: str) -> None:
        self.consumer.apply(self.merge.expect_snapshot(reason))

    def snapshot(self, size: int, *, half: bool = False) -> None:
        self.expect("asked for")
        pages = self.store.pages(size)
        for page in pages[: len(pages) // 2] if half else pages:
            self.consumer.apply(self.merge.on_page(page))

    def watch(self, revisions: int) -> None:
        """What one connection of the watch does, with every check that it makes."""
        if self.merge.needs_snapshot:
            late = self.store.batch(self.merge.resume_revision, revisions)
            assert self.merge.on_batch(late) == []
            return
        try:
            self.merge.check_store(Header(self.store.cluster_id, self.store.revision))
            if self.merge.resume_revision <= self.store.compacted:
                self.expect("compacted")
            else:
                self.consumer.apply(self.merge.on_batch(self.store.batch(self.merge.resume_revision, revisions)))
        except StoreReplaced:
            self.expect("replaced")

    def replay(self, start: int) -> None:
        """A late copy of old events of the same store."""
        batch = self.store.batch(start, self.merge.resume_revision - start)
        try:
            assert self.merge.on_batch(batch) == []
        except StoreReplaced:
            self.expect("replaced")

    def progress(self) -> None:
        """The server says that everything up to its revision was delivered, which it does when it was."""
        if not self.merge.needs_snapshot and self.merge.resume_revision > self.store.revision:
            batch = WatchBatch((), self.store.revision, self.store.cluster_id)
            try:
                self.consumer.apply(self.merge.on_batch(batch))
            except StoreReplaced:
                self.expect("replaced")

    def replace(self) -> None:
        self.store.cluster_id += 1
        self.store.revision = 1
        self.store.compacted = 0
        self.store.history.clear()

    def restore(self, revision: int) -> None:
        """The store goes back in time, and the next connection comes before anything new is written.

        Where no connection can look in between, the identity changes, as it does when etcd is restored from a backup:
        a store of the same identity that went back and caught up unseen cannot be told from one that never did.
        """
        if revision < self.store.revision:
            self.store.history[:] = [event for event in self.store.history if event.revision <= revision]
            self.store.revision = max(1, revision)
            self.store.compacted = 0
            self.store.cluster_id += self.merge.needs_snapshot
            self.watch(0)

    def settle(self) -> None:
        """Everything works again for long enough."""
        self.watch(10_000)
        if self.merge.needs_snapshot:
            self.snapshot(2)
        self.watch(10_000)


@settings(max_examples=500)
@given(STEPS)
def test_merge_after_any_interleaving_ends_in_the_state_of_the_store(steps: list[tuple[str, object]]) -> None:
    world = World()
    for step in steps:
        match step:
            case "write", dict(txn):
                world.store.write(txn)
            case "watch", int(revisions):
                world.watch(revisions)
            case "replay", int(start):
                world.replay(start)
            case "progress", _:
                world.progress()
            case "compact", _:
                world.store.compacted = world.store.revision
            case "snapshot", int(size):
                world.snapshot(size)
            case "half snapshot", int(size):
                world.snapshot(size, half=True)
            case "replace", _:
                world.replace()
            case "restore", int(revision):
                world.restore(revision)
    world.settle()
    assert world.consumer.values == world.store.values()
    assert not world.consumer.is_resyncing
    assert world.merge.keys_count == len(world.consumer.values)
