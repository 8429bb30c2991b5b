"""Replies of etcd that are legal and rare, from a server that says just what it is told to."""

from __future__ import annotations

from collections.abc import AsyncIterator
from contextlib import asynccontextmanager

import grpc
import grpc.aio
import pytest

from felix.datastore.etcd import EtcdClient, EtcdSettings
from felix.datastore.faults import Compacted, EtcdUnavailable, PermissionDenied
from felix.datastore.rpc import etcd_pb2 as pb
from felix.datastore.types import Update

CREATED = pb.WatchResponse(header=pb.ResponseHeader(cluster_id=7, revision=9), watch_id=1, created=True)


def events(revision: int, *keys: str, fragment: bool = False) -> pb.WatchResponse:
    return pb.WatchResponse(
        header=pb.ResponseHeader(cluster_id=7, revision=99),
        watch_id=1,
        fragment=fragment,
        events=[pb.Event(kv=pb.KeyValue(key=key.encode(), value=b"x", mod_revision=revision)) for key in keys],
    )


@asynccontextmanager
async def replying(*replies: pb.WatchResponse) -> AsyncIterator[EtcdClient]:
    """Gives a client of a server that answers every watch with `replies`, and then ends the stream."""

    async def watch(
        requests: AsyncIterator[pb.WatchRequest], _: grpc.aio.ServicerContext[pb.WatchRequest, pb.WatchResponse]
    ) -> AsyncIterator[pb.WatchResponse]:
        await anext(requests)
        for reply in replies:
            yield reply

    handler = grpc.stream_stream_rpc_method_handler(
        watch, pb.WatchRequest.FromString, pb.WatchResponse.SerializeToString
    )
    server = grpc.aio.server()
    server.add_generic_rpc_handlers((grpc.method_handlers_generic_handler("etcdserverpb.Watch", {"Watch": handler}),))
    port = server.add_insecure_port("127.0.0.1:0")
    await server.start()
    client = EtcdClient(EtcdSettings((f"http://127.0.0.1:{port}",), timeout_s=3.0))
    try:
        yield client
    finally:
        await client.close()
        await server.stop(None)


async def test_watch_created_and_cancelled_in_one_reply_is_no_watch() -> None:
    async with replying(pb.WatchResponse(created=True, canceled=True, compact_revision=5)) as client:
        with pytest.raises(Compacted) as caught:
            async with client.watch("/w/", "/w0", 1):
                pass
    assert caught.value.compact_revision == 5


async def test_watch_created_and_cancelled_for_want_of_a_right_names_it() -> None:
    reply = pb.WatchResponse(created=True, canceled=True, watch_id=-1, cancel_reason="etcdserver: permission denied")
    async with replying(reply) as client:
        with pytest.raises(PermissionDenied):
            async with client.watch("/w/", "/w0", 1):
                pass


async def test_watch_cancelled_later_without_a_reason_is_unavailable() -> None:
    cancelled = pb.WatchResponse(watch_id=1, canceled=True)
    async with replying(CREATED, cancelled) as client, client.watch("/w/", "/w0", 1) as stream:
        assert stream.header.revision == 9
        with pytest.raises(EtcdUnavailable, match="no reason given"):
            await stream.read(3)


async def test_watch_that_the_server_ends_is_unavailable() -> None:
    async with replying(CREATED) as client:
        with pytest.raises(EtcdUnavailable, match="ended the stream"):
            async with client.watch("/w/", "/w0", 1) as stream:
                await stream.read(3)


async def test_watch_with_fragments_gives_them_as_one_batch_proven_to_its_last_event() -> None:
    pieces = (events(10, "a", "b", fragment=True), events(10, "c", fragment=True), events(10, "d"))
    async with replying(CREATED, *pieces) as client, client.watch("/w/", "/w0", 1) as stream:
        batch = await stream.read(3)
    assert batch is not None
    assert batch.events == tuple(Update(key, b"x", 10) for key in "abcd")
    assert batch.revision == 10  # and not 99, the header's


async def test_watch_trusts_the_revision_of_a_notification_and_not_of_an_answer() -> None:
    header = pb.ResponseHeader(cluster_id=7, revision=50)
    answer, notification = pb.WatchResponse(header=header, watch_id=-1), pb.WatchResponse(header=header, watch_id=1)
    async with replying(CREATED, answer, notification) as client, client.watch("/w/", "/w0", 1) as stream:
        proven = [batch.revision for batch in (await stream.read(3), await stream.read(3)) if batch]
    assert proven == [0, 50]
