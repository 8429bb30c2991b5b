"""Between Felix's own types and etcd's messages: pure translation, both ways."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Generic, TypeVar, assert_never

from google.protobuf.message import Message

from felix.datastore.rpc import etcd_pb2 as pb
from felix.datastore.types import (
    Compare,
    DeleteOp,
    KeyValue,
    MemberStatus,
    Op,
    OpResult,
    PutOp,
    RangeOp,
    RangePage,
    Target,
    TxnResult,
    Update,
)

Q = TypeVar("Q", bound=Message)
R = TypeVar("R", bound=Message)


@dataclass(frozen=True, slots=True)
class Method(Generic[Q, R]):
    """One method of etcd's interface: its path on the wire and the classes of its messages."""

    path: str
    request: type[Q]
    response: type[R]

    @property
    def name(self) -> str:
        """The method's own name, for texts."""
        return self.path.rpartition("/")[2]


RANGE = Method("/etcdserverpb.KV/Range", pb.RangeRequest, pb.RangeResponse)
PUT = Method("/etcdserverpb.KV/Put", pb.PutRequest, pb.PutResponse)
DELETE = Method("/etcdserverpb.KV/DeleteRange", pb.DeleteRangeRequest, pb.DeleteRangeResponse)
TXN = Method("/etcdserverpb.KV/Txn", pb.TxnRequest, pb.TxnResponse)
COMPACT = Method("/etcdserverpb.KV/Compact", pb.CompactionRequest, pb.CompactionResponse)
WATCH = Method("/etcdserverpb.Watch/Watch", pb.WatchRequest, pb.WatchResponse)
GRANT = Method("/etcdserverpb.Lease/LeaseGrant", pb.LeaseGrantRequest, pb.LeaseGrantResponse)
REVOKE = Method("/etcdserverpb.Lease/LeaseRevoke", pb.LeaseRevokeRequest, pb.LeaseRevokeResponse)
KEEP_ALIVE = Method("/etcdserverpb.Lease/LeaseKeepAlive", pb.LeaseKeepAliveRequest, pb.LeaseKeepAliveResponse)
STATUS = Method("/etcdserverpb.Maintenance/Status", pb.StatusRequest, pb.StatusResponse)
AUTHENTICATE = Method("/etcdserverpb.Auth/Authenticate", pb.AuthenticateRequest, pb.AuthenticateResponse)


def encode_key(key: str) -> bytes:
    """Returns the key as etcd stores it."""
    return key.encode("utf-8", "surrogateescape")


def decode_key(key: bytes) -> str:
    """Returns the key as text, from which `encode_key` makes the same bytes again, whatever they are."""
    return key.decode("utf-8", "surrogateescape")


def prefix_end(prefix: str) -> str:
    """Returns the first key behind all keys that start with `prefix`, which must not be empty."""
    if not prefix:
        raise ValueError("an empty prefix would mean the whole store")
    return prefix[:-1] + chr(ord(prefix[-1]) + 1)


def key_behind(key: str) -> str:
    """Returns the smallest key greater than `key`."""
    return key + "\0"


def read_pair(kv: pb.KeyValue) -> KeyValue:
    """Returns a stored pair."""
    return KeyValue(decode_key(kv.key), kv.value, kv.mod_revision, kv.create_revision, kv.version, kv.lease)


def read_page(response: pb.RangeResponse) -> RangePage:
    """Returns one page of a range."""
    kvs = tuple(map(read_pair, response.kvs))
    return RangePage(kvs, response.header.revision, response.more, response.header.cluster_id)


def read_events(events: Sequence[pb.Event]) -> list[Update]:
    """Returns a watch's events, in their order."""
    return [
        Update(decode_key(e.kv.key), None if e.type == pb.Event.DELETE else e.kv.value, e.kv.mod_revision)
        for e in events
    ]


def read_proven_revision(response: pb.WatchResponse) -> int:
    """Returns up to which revision a watch has delivered everything with this response, 0 if it proves nothing new.

    The header's revision counts only in the server's own progress notification: beside events it may be ahead of
    events still to come, and so may the answer to a progress request (watch id -1) before etcd 3.4.25 and 3.5.8, see
    etcd issue 15220.
    """
    if response.events:
        return response.events[-1].kv.mod_revision
    return response.header.revision if response.watch_id == WATCH_ID and not response.created else 0


def read_status(response: pb.StatusResponse) -> MemberStatus:
    """Returns a member's state."""
    header = response.header
    return MemberStatus(
        version=response.version,
        cluster_id=header.cluster_id,
        member_id=header.member_id,
        leader=response.leader,
        revision=header.revision,
        size_bytes=response.dbSize,
    )


WATCH_ID = 1
"""Every stream carries one watch, and this is its number."""


def format_watch(start: str, end: str, revision: int) -> pb.WatchCreateRequest:
    """Returns the request for a watch of the range from `revision` on, with progress notifications and fragments."""
    return pb.WatchCreateRequest(
        key=encode_key(start),
        range_end=encode_key(end),
        start_revision=revision,
        progress_notify=True,
        watch_id=WATCH_ID,
        fragment=True,
    )


def format_txn(compares: Sequence[Compare], success: Sequence[Op], failure: Sequence[Op]) -> pb.TxnRequest:
    """Returns the request for a transaction."""
    return pb.TxnRequest(
        compare=[_format_compare(compare) for compare in compares],
        success=[_format_op(op) for op in success],
        failure=[_format_op(op) for op in failure],
    )


def read_txn(response: pb.TxnResponse) -> TxnResult:
    """Returns what a transaction did."""
    results = tuple(_read_result(one) for one in response.responses)
    return TxnResult(response.succeeded, results, response.header.revision)


def _format_compare(compare: Compare) -> pb.Compare:
    key, operand = encode_key(compare.key), compare.operand
    match compare.target, operand:
        case Target.VERSION, int():
            return pb.Compare(target=pb.Compare.VERSION, key=key, version=operand)
        case Target.CREATE_REVISION, int():
            return pb.Compare(target=pb.Compare.CREATE, key=key, create_revision=operand)
        case Target.MOD_REVISION, int():
            return pb.Compare(target=pb.Compare.MOD, key=key, mod_revision=operand)
        case Target.VALUE, bytes():
            return pb.Compare(target=pb.Compare.VALUE, key=key, value=operand)
        case _:
            raise TypeError(f"cannot compare {compare.target.value} of {compare.key} with {type(operand).__name__}")


def _format_op(op: Op) -> pb.RequestOp:
    match op:
        case PutOp(key, value, lease):
            return pb.RequestOp(request_put=pb.PutRequest(key=encode_key(key), value=value, lease=lease))
        case DeleteOp(key, end):
            delete = pb.DeleteRangeRequest(key=encode_key(key), range_end=encode_key(end))
            return pb.RequestOp(request_delete_range=delete)
        case RangeOp(key, end):
            return pb.RequestOp(request_range=pb.RangeRequest(key=encode_key(key), range_end=encode_key(end)))
    assert_never(op)


def _read_result(result: pb.ResponseOp) -> OpResult:
    match result.WhichOneof("response"):
        case "response_range":
            return read_page(result.response_range)
        case "response_delete_range":
            return result.response_delete_range.deleted
        case _:
            return None
