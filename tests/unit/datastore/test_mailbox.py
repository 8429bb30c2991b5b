"""The mailbox keeps the latest value of each key, and what the stream said of itself."""

from __future__ import annotations

import asyncio

from felix.datastore.mailbox import Batch, Mailbox
from felix.datastore.types import ClusterChanged, InSync, ResyncStarted, Update


async def test_take_after_many_updates_of_a_key_gives_the_last() -> None:
    mailbox = Mailbox()
    for number in range(1000):
        mailbox.put(Update("a", b"%d" % number, number))
    mailbox.put(Update("b", None, 1000))
    assert len(mailbox) == 2
    batch = await mailbox.take()
    assert list(batch.updates.values()) == [Update("a", b"999", 999), Update("b", None, 1000)]
    assert len(mailbox) == 0


async def test_take_when_empty_waits_and_loses_nothing_when_cancelled() -> None:
    mailbox = Mailbox()
    waiting = asyncio.create_task(mailbox.take())
    await asyncio.sleep(0)
    assert not waiting.done()
    mailbox.put(InSync(5))
    waiting.cancel()
    await asyncio.wait({waiting})
    assert await mailbox.take() == Batch({}, in_sync_revision=5)
    assert mailbox.take_now() == Batch({})


async def test_resync_after_in_sync_takes_the_in_sync_back() -> None:
    mailbox = Mailbox()
    mailbox.put(InSync(5))
    mailbox.put(ResyncStarted("compacted"))
    assert await mailbox.take() == Batch({}, resync_reason="compacted")
    mailbox.put(ResyncStarted("again"))
    mailbox.put(InSync(9))
    assert await mailbox.take() == Batch({}, in_sync_revision=9, resync_reason="again")


async def test_cluster_changed_twice_is_told_as_one_change() -> None:
    mailbox = Mailbox()
    mailbox.put(ClusterChanged(1, 2, 10, 20))
    mailbox.put(ClusterChanged(2, 3, 20, 5))
    assert (await mailbox.take()).cluster_change == ClusterChanged(1, 3, 10, 5)
