"""What the datastore gives and takes: stored pairs, transactions, watch batches, and the items of the update stream."""

from __future__ import annotations

import enum
from dataclasses import dataclass

import msgspec


class KeyValue(msgspec.Struct, frozen=True, gc=False):
    """One stored pair, as etcd holds it at one revision.

    key: text; bytes that are no UTF-8 are kept as surrogates. `mod_revision` is what Calico calls resourceVersion.
    version: 1 when created, one more with every write. lease: 0 without one.
    """

    key: str
    value: bytes
    mod_revision: int
    create_revision: int = 0
    version: int = 0
    lease: int = 0


class Header(msgspec.Struct, frozen=True, gc=False):
    """Which store answered, and its revision when it did."""

    cluster_id: int
    revision: int


class RangePage(msgspec.Struct, frozen=True):
    """Part of a range, in key order; `more` says that keys follow behind the last one."""

    kvs: tuple[KeyValue, ...]
    revision: int
    more: bool
    cluster_id: int = 0


class Target(enum.Enum):
    """What of a key a transaction compares."""

    VERSION = "version"
    CREATE_REVISION = "create_revision"
    MOD_REVISION = "mod_revision"
    VALUE = "value"


@dataclass(frozen=True, slots=True)
class Compare:
    """A condition of a transaction: `target` of `key` equals `operand`. A missing key has version and revisions 0."""

    key: str
    target: Target
    operand: int | bytes


@dataclass(frozen=True, slots=True)
class PutOp:
    """Writes one key within a transaction."""

    key: str
    value: bytes
    lease: int = 0


@dataclass(frozen=True, slots=True)
class DeleteOp:
    """Deletes one key, or every key from `key` up to but not including `end`, within a transaction."""

    key: str
    end: str = ""


@dataclass(frozen=True, slots=True)
class RangeOp:
    """Reads one key, or every key from `key` up to but not including `end`, within a transaction."""

    key: str
    end: str = ""


Op = PutOp | DeleteOp | RangeOp
OpResult = RangePage | int | None
"""Result of one operation: a page for RangeOp, the number of keys deleted for DeleteOp, None for PutOp."""


@dataclass(frozen=True, slots=True)
class TxnResult:
    """What a transaction did: whether every condition held, and the results of the operations run, in their order."""

    succeeded: bool
    responses: tuple[OpResult, ...]
    revision: int


@dataclass(frozen=True, slots=True)
class MemberStatus:
    """The state of the member that answered. `leader` is 0 when it knows none."""

    version: str
    cluster_id: int
    member_id: int
    leader: int
    revision: int
    size_bytes: int


class Update(msgspec.Struct, frozen=True, gc=False):
    """`key` now holds `value`, or is gone when that is None. Also an event of a watch.

    revision: of the change; for a delete found by comparing snapshots, the revision of the snapshot.
    """

    key: str
    value: bytes | None
    revision: int


class WatchBatch(msgspec.Struct, frozen=True):
    """Changes of the watched range in the order of their revisions, never half a revision; may be empty.

    revision: everything up to and including it has been delivered; 0 when this batch proves nothing new.
    """

    events: tuple[Update, ...]
    revision: int
    cluster_id: int


class ResyncStarted(msgspec.Struct, frozen=True):
    """What was delivered may be stale from here until the next `InSync`; deletes are found at its end."""

    reason: str


class InSync(msgspec.Struct, frozen=True):
    """Everything that is stored at `revision` has been delivered, and nothing else is thought to be there."""

    revision: int


class ClusterChanged(msgspec.Struct, frozen=True):
    """The store is another one than before, or went back in time: what follows may delete much.

    Comes before the deletes that the new store implies. Revisions are the last one delivered and the one now read.
    """

    old_cluster_id: int
    new_cluster_id: int
    old_revision: int
    new_revision: int


StreamItem = Update | ResyncStarted | InSync | ClusterChanged
