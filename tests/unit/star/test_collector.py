"""Resources come and go while the collector runs; the matrix follows."""

from __future__ import annotations

import asyncio
import contextlib
from collections.abc import AsyncIterator

import msgspec
import pytest

from felix.star.collector import Collector
from felix.star.faults import BadInput
from felix.star.feed import Feed
from felix.star.matrix import Response
from felix.star.resources import RESOURCES_MOST, Resource

_HOUR_S = 3600.0


async def _fetch(url: str) -> Response | None:
    return None if "silent" in url else Response(url, 200, msgspec.Raw(b'{"status":{"targets":[]}}'))


@contextlib.asynccontextmanager
async def _running(collector: Collector) -> AsyncIterator[None]:
    task = asyncio.create_task(collector.run())
    try:
        yield
    finally:
        task.cancel()
        await asyncio.gather(task, return_exceptions=True)


async def _wait_for_states(collector: Collector, states: dict[str, str]) -> None:
    seen = 0
    async with asyncio.timeout(10):
        while {node["id"]: node["state"] for node in msgspec.json.decode(collector.feed.text)["nodes"]} != states:
            await collector.feed.wait_after(seen)
            seen = collector.feed.version


async def test_resource_added_while_running_is_asked_at_once() -> None:
    collector = Collector(_fetch, _HOUR_S)
    collector.put(Resource("A", "http://a/"))
    async with _running(collector):
        await _wait_for_states(collector, {"A": "answering"})

        collector.put(Resource("B", "http://silent/"))

        await _wait_for_states(collector, {"A": "answering", "B": "silent"})


async def test_resource_replaced_is_asked_at_its_new_url_in_its_old_place() -> None:
    collector = Collector(_fetch, _HOUR_S)
    collector.put(Resource("A", "http://silent/"))
    collector.put(Resource("B", "http://b/"))
    async with _running(collector):
        await _wait_for_states(collector, {"A": "silent", "B": "answering"})

        collector.put(Resource("A", "http://a/"))

        await _wait_for_states(collector, {"A": "answering", "B": "answering"})
        assert [resource.id for resource in collector.resources] == ["A", "B"]


async def test_resource_with_other_expectations_keeps_its_answer() -> None:
    asked: list[str] = []

    async def fetch(url: str) -> Response | None:
        asked.append(url)
        return await _fetch(url)

    collector = Collector(fetch, _HOUR_S)
    collector.put(Resource("A", "http://a/"))
    async with _running(collector):
        await _wait_for_states(collector, {"A": "answering"})
        before = collector.feed.version

        collector.put(Resource("A", "http://a/", group="stage 3"))
        await collector.feed.wait_after(before)

        assert msgspec.json.decode(collector.feed.text)["groups"][0]["name"] == "stage 3"
        assert asked == ["http://a/"]


async def test_resource_removed_while_it_is_asked_leaves_nothing() -> None:
    asked = asyncio.Event()

    async def fetch(_: str) -> Response | None:
        asked.set()
        await asyncio.Event().wait()
        return None

    collector = Collector(fetch, _HOUR_S)
    collector.put(Resource("A", "http://a/"))
    async with _running(collector):
        await asked.wait()

        assert collector.remove("A")

        await _wait_for_states(collector, {})
        assert (collector.resources, collector.response_by_id) == ([], {})
        assert not collector.remove("A")


def test_resources_are_bounded_and_replacing_still_works() -> None:
    collector = Collector(_fetch, _HOUR_S)
    for number in range(RESOURCES_MOST):
        collector.put(Resource(str(number), "http://a/"))

    with pytest.raises(BadInput, match="remove one first"):
        collector.put(Resource("one more", "http://a/"))
    collector.put(Resource("0", "http://b/"))


async def test_feed_reader_that_is_slow_gets_the_newest_only() -> None:
    feed = Feed()
    assert feed.publish(b"one")
    assert feed.publish(b"two")
    assert not feed.publish(b"two")

    await feed.wait_after(0)

    assert (feed.version, feed.text) == (2, b"two")


async def test_feed_that_closes_lets_its_readers_go() -> None:
    feed = Feed()
    reading = asyncio.create_task(feed.wait_after(0))
    await asyncio.sleep(0)

    feed.close()

    await reading
    assert feed.is_closed
