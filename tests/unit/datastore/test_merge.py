"""What the merge hands on, case by case."""

from __future__ import annotations

import pytest

from felix.datastore.faults import StoreReplaced
from felix.datastore.merge import Merge
from felix.datastore.types import (
    ClusterChanged,
    Header,
    InSync,
    KeyValue,
    RangePage,
    ResyncStarted,
    Update,
    WatchBatch,
)

CLUSTER = 7


def page(revision: int, *kvs: tuple[str, bytes, int], more: bool = False, cluster: int = CLUSTER) -> RangePage:
    return RangePage(tuple(KeyValue(*kv) for kv in kvs), revision, more, cluster)


def batch(*events: tuple[str, bytes | None, int], revision: int = 0, cluster: int = CLUSTER) -> WatchBatch:
    return WatchBatch(tuple(Update(*event) for event in events), revision or events[-1][2], cluster)


def synced(*kvs: tuple[str, bytes, int], revision: int = 10) -> Merge:
    merge = Merge()
    merge.expect_snapshot("start")
    merge.on_page(page(revision, *kvs))
    return merge


def test_snapshot_of_two_pages_ends_in_one_in_sync_after_all_updates() -> None:
    merge = Merge()
    assert merge.expect_snapshot("start") == [ResyncStarted("start")]
    assert merge.on_page(page(10, ("a", b"1", 3), more=True)) == [Update("a", b"1", 3)]
    assert merge.resume_revision == 1
    assert merge.on_page(page(10, ("b", b"2", 4))) == [Update("b", b"2", 4), InSync(10)]
    assert not merge.needs_snapshot
    assert merge.resume_revision == 11


def test_snapshot_of_nothing_is_in_sync() -> None:
    merge = Merge()
    merge.expect_snapshot("start")
    assert merge.on_page(page(10)) == [InSync(10)]


def test_relist_hands_on_only_differences_and_deletes_what_is_gone_before_in_sync() -> None:
    merge = synced(("a", b"1", 3), ("b", b"2", 4), ("c", b"3", 5))
    assert merge.expect_snapshot("compacted") == [ResyncStarted("compacted")]
    assert merge.on_page(page(20, ("a", b"1", 3), more=True)) == []
    assert merge.on_page(page(20, ("b", b"9", 15))) == [Update("b", b"9", 15), Update("c", None, 20), InSync(20)]


def test_relist_that_breaks_off_deletes_nothing_and_is_announced_once() -> None:
    merge = synced(("a", b"1", 3), ("b", b"2", 4))
    merge.expect_snapshot("compacted")
    assert merge.on_page(page(20, more=True)) == []
    assert merge.expect_snapshot("connection lost") == []
    assert merge.on_page(page(21, ("a", b"1", 3), ("b", b"2", 4))) == [InSync(21)]


def test_page_of_another_revision_is_refused() -> None:
    merge = synced()
    merge.expect_snapshot("compacted")
    merge.on_page(page(20, more=True))
    with pytest.raises(ValueError, match="21"):
        merge.on_page(page(21))


def test_batch_repeated_has_no_effect() -> None:
    merge = synced(("a", b"1", 3))
    news = batch(("a", b"2", 11), ("b", b"1", 11), ("a", None, 12))
    assert merge.on_batch(news) == list(news.events)
    assert merge.on_batch(news) == []
    assert merge.on_batch(batch(("b", b"0", 5))) == []
    assert merge.resume_revision == 13


def test_batch_with_delete_of_a_key_never_delivered_hands_on_nothing() -> None:
    assert synced().on_batch(batch(("x", None, 11))) == []


def test_batch_of_progress_moves_the_resume_revision_forward_only() -> None:
    merge = synced()
    assert merge.on_batch(batch(revision=50)) == []
    assert merge.resume_revision == 51
    merge.on_batch(batch(revision=40))
    assert merge.resume_revision == 51


def test_batch_during_a_resync_is_ignored() -> None:
    merge = synced()
    merge.expect_snapshot("compacted")
    assert merge.on_batch(batch(("a", b"1", 11))) == []


def test_batch_of_another_cluster_raises_and_changes_nothing() -> None:
    merge = synced()
    with pytest.raises(StoreReplaced):
        merge.on_batch(batch(("a", b"1", 11), cluster=8))
    assert merge.resume_revision == 11


@pytest.mark.parametrize("header", [Header(8, 99), Header(CLUSTER, 9)])
def test_check_store_with_another_cluster_or_an_older_revision_raises(header: Header) -> None:
    merge = synced()
    merge.check_store(Header(CLUSTER, 10))
    with pytest.raises(StoreReplaced):
        merge.check_store(header)


def test_snapshot_of_another_cluster_is_told_first_and_hands_on_everything_anew() -> None:
    merge = synced(("a", b"old", 3), ("b", b"2", 4))
    merge.expect_snapshot("replaced")
    assert merge.on_page(page(5, ("a", b"new", 3), cluster=8)) == [
        ClusterChanged(CLUSTER, 8, 10, 5),
        Update("a", b"new", 3),
        Update("b", None, 5),
        InSync(5),
    ]
    assert merge.resume_revision == 6


def test_snapshot_older_than_the_last_delivered_is_told_as_a_change_of_the_store() -> None:
    merge = synced(("a", b"1", 9))
    merge.expect_snapshot("restored")
    assert merge.on_page(page(4, ("a", b"0", 2)))[0] == ClusterChanged(CLUSTER, CLUSTER, 10, 4)


def test_store_that_went_back_and_caught_up_before_the_snapshot_is_still_told_as_changed() -> None:
    merge = synced(("a", b"old", 10))
    with pytest.raises(StoreReplaced):
        merge.check_store(Header(CLUSTER, 9))
    merge.expect_snapshot("went back")
    items = merge.on_page(page(10, ("a", b"new", 10)))
    assert items == [ClusterChanged(CLUSTER, CLUSTER, 10, 10), Update("a", b"new", 10), InSync(10)]
