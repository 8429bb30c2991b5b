"""Leases: keeping one alive."""

from __future__ import annotations

import grpc
import grpc.aio

from felix.datastore.faults import EtcdUnavailable, LeaseLost, translate
from felix.datastore.load import Line
from felix.datastore.messages import KEEP_ALIVE
from felix.datastore.rpc import etcd_pb2 as pb


async def keep_alive(line: Line, lease: int) -> int:
    """`lease` lives its whole time again; returns that time in seconds. Raises LeaseLost and what the status means.

    One exchange on a stream of its own: a stream held open would need the same care as a watch, and saves nothing at
    one renewal every some ten seconds.
    """
    method = line.channel.stream_stream(
        KEEP_ALIVE.path, KEEP_ALIVE.request.SerializeToString, KEEP_ALIVE.response.FromString
    )
    call = method(timeout=line.timeout_s, metadata=line.metadata)
    try:
        await call.write(pb.LeaseKeepAliveRequest(ID=lease))
        response = await call.read()
    except grpc.aio.AioRpcError as error:
        raise translate(error.code().name, error.details() or "", line.where) from error
    finally:
        call.cancel()
    if not isinstance(response, pb.LeaseKeepAliveResponse):
        raise EtcdUnavailable(f"{line.where}: stream ended without an answer")
    if response.TTL <= 0:
        raise LeaseLost(f"{line.where}: lease {lease:x} has expired")
    return response.TTL
