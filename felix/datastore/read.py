"""Reading a watch: one etcd stream, turned into batches of whole revisions."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator

import grpc
import grpc.aio

from felix.datastore.faults import EtcdUnavailable, translate, translate_cancel
from felix.datastore.load import Line
from felix.datastore.messages import WATCH, read_events, read_proven_revision
from felix.datastore.rpc import etcd_pb2 as pb
from felix.datastore.types import Header, Update, WatchBatch

WatchCall = grpc.aio.StreamStreamCall[pb.WatchRequest, pb.WatchResponse]
WatchMethod = grpc.aio.StreamStreamMultiCallable[pb.WatchRequest, pb.WatchResponse]


class WatchStream:
    """An open watch. `header` tells the store and what it had reached when the watch was created.

    Iterate over it, or `read` with a limit of patience; either raises EtcdUnavailable when the stream broke and
    Compacted when the watch fell behind a compaction. Only one reader at a time.
    """

    def __init__(self, call: WatchCall, where: str, timeout_s: float) -> None:
        self.header = Header(0, 0)
        self._call = call
        self._where = where
        self._timeout_s = timeout_s
        self._reading: asyncio.Future[object] | None = None
        self._fragments: list[Update] = []

    async def create(self, request: pb.WatchCreateRequest) -> None:
        """The watch exists at the server. Raises like `read`, and EtcdUnavailable when that took too long."""
        await self._write(pb.WatchRequest(create_request=request))
        response = await self._receive(self._timeout_s)
        if response is None:
            raise EtcdUnavailable(f"{self._where}: no answer within {self._timeout_s:.1f} s")
        self.header = Header(response.header.cluster_id, response.header.revision)

    async def read(self, timeout_s: float | None = None) -> WatchBatch | None:
        """Returns the next batch, or None when nothing came for `timeout_s`; the stream can be read on after that."""
        while True:
            response = await self._receive(timeout_s)
            if response is None:
                return None
            self._fragments += read_events(response.events)
            if not response.fragment:
                events, self._fragments = tuple(self._fragments), []
                return WatchBatch(events, read_proven_revision(response), response.header.cluster_id)

    async def request_progress(self) -> None:
        """The server has been asked for a sign of life; it comes as a batch without events."""
        await self._write(pb.WatchRequest(progress_request=pb.WatchProgressRequest()))

    async def close(self) -> None:
        """The call is cancelled and its end awaited."""
        self._call.cancel()
        reading, self._reading = self._reading, None
        if reading is not None:
            await asyncio.wait({reading})
            if not reading.cancelled():
                reading.exception()  # fetched, so that nobody warns of an exception never retrieved

    def __aiter__(self) -> AsyncIterator[WatchBatch]:
        return self

    async def __anext__(self) -> WatchBatch:
        batch = await self.read()
        if batch is None:
            raise StopAsyncIteration
        return batch

    async def _write(self, request: pb.WatchRequest) -> None:
        try:
            async with asyncio.timeout(self._timeout_s):
                await self._call.write(request)
        except TimeoutError as error:
            raise EtcdUnavailable(f"{self._where}: nothing taken for {self._timeout_s:.1f} s") from error
        except grpc.aio.AioRpcError as error:
            raise translate(error.code().name, error.details() or "", self._where) from error
        except asyncio.InvalidStateError:
            return  # the call has ended already, and reading tells why

    async def _receive(self, timeout_s: float | None) -> pb.WatchResponse | None:
        # not wait_for: cancelling a read of grpc.aio cancels the whole call
        if self._reading is None:
            self._reading = asyncio.ensure_future(self._call.read())
        done, _ = await asyncio.wait({self._reading}, timeout=timeout_s)
        if not done:
            return None
        reading, self._reading = self._reading, None
        if reading.cancelled():
            raise EtcdUnavailable(f"{self._where}: the connection was closed")
        error = reading.exception()
        if isinstance(error, grpc.aio.AioRpcError):
            raise translate(error.code().name, error.details() or "", self._where) from error
        response = reading.result()
        if not isinstance(response, pb.WatchResponse):
            details = await self._call.details()
            raise translate((await self._call.code()).name, details or "the server ended the stream", self._where)
        if response.canceled:  # an answer may be created and canceled at once: compacted, no right, bad token
            raise translate_cancel(response.cancel_reason, response.compact_revision, self._where)
        return response


async def open_watch(line: Line, request: pb.WatchCreateRequest) -> WatchStream:
    """Returns a watch that exists at the server; to be closed. Raises like `WatchStream.read`, leaving nothing open."""
    method: WatchMethod = line.channel.stream_stream(
        WATCH.path, WATCH.request.SerializeToString, WATCH.response.FromString
    )
    stream = WatchStream(method(metadata=line.metadata), line.where, line.timeout_s)
    try:
        await stream.create(request)
    except BaseException:
        await stream.close()
        raise
    return stream
