"""Resources in etcd as documents: read with their revision, written only if nobody else wrote meanwhile."""

from __future__ import annotations

from collections.abc import Sequence
from typing import NamedTuple

import msgspec

from felix.datastore.etcd import EtcdClient
from felix.datastore.types import Compare, DeleteOp, KeyValue, Op, PutOp, RangeOp, RangePage, Target
from felix.errors import DataError
from felix.model.codec import encode
from felix.model.keys import NAMESPACED_KINDS, ResourceKey, format_key, parse_key
from felix.model.values import policy_name, policy_tier

DEFAULT_NAMESPACE = "default"
POLICY_KINDS = frozenset({"GlobalNetworkPolicy", "NetworkPolicy", "StagedGlobalNetworkPolicy", "StagedNetworkPolicy"})
OPERATIONS_LIMIT = 100  # etcd takes 128 per transaction unless told otherwise

Document = dict[str, object]


class Stored(NamedTuple):
    """A resource as stored. document: with what is stored and nothing else; None when it is no JSON mapping."""

    key: ResourceKey
    document: Document | None
    revision: int


class Write(NamedTuple):
    """One change: `document` is stored (None: the key is deleted), if the key's revision is `revision` (0: absent)."""

    key: ResourceKey
    document: Document | None
    revision: int


def find_spellings(key: ResourceKey, tier: str = "") -> list[ResourceKey]:
    """Returns the keys under which a resource may be stored, the given one first.

    Names of policies carry the prefix of their tier or do not, by the version of Calico that wrote them.
    """
    if key.kind not in POLICY_KINDS:
        return [key]
    bare = policy_name(key.name, tier)
    names = dict.fromkeys((key.name, bare, f"{policy_tier(tier)}.{bare}"))
    return [key._replace(name=name) for name in names]


async def find_stored(client: EtcdClient, spellings: Sequence[Sequence[ResourceKey]]) -> list[Stored | None]:
    """Returns for each resource the first of its spellings that is stored, or None; all at one revision."""
    keys = [key for one in spellings for key in one]
    found: dict[ResourceKey, Stored] = {}
    for start in range(0, len(keys), OPERATIONS_LIMIT):
        some = keys[start : start + OPERATIONS_LIMIT]
        result = await client.txn([], [RangeOp(format_key(key)) for key in some])
        for key, page in zip(some, result.responses, strict=True):
            if isinstance(page, RangePage) and page.kvs:
                found[key] = _read(key, page.kvs[0])
    return [next((found[key] for key in one if key in found), None) for one in spellings]


async def list_stored(client: EtcdClient, kind: str, namespace: str = "") -> tuple[list[Stored], int]:
    """Returns all resources of a kind (in one namespace, if given) in order of their keys, and the revision."""
    prefix = format_key(ResourceKey(kind, namespace, ""))
    if not namespace and kind in NAMESPACED_KINDS:
        prefix = prefix.removesuffix("/")
    pairs, revision = await client.list_prefix(prefix)
    rows = ((parse_key(pair.key), pair) for pair in pairs)
    return [_read(key, pair) for key, pair in rows if isinstance(key, ResourceKey)], revision


async def write_all(client: EtcdClient, writes: Sequence[Write]) -> bool:
    """Returns whether everything was as `writes` expected and has been written; otherwise nothing was.

    More than 100 changes go in several transactions, each of them whole; raises DataError when a later one fails.
    """
    for start in range(0, len(writes), OPERATIONS_LIMIT):
        some = writes[start : start + OPERATIONS_LIMIT]
        compares = [Compare(format_key(one.key), Target.MOD_REVISION, one.revision) for one in some]
        result = await client.txn(compares, [_operation(one) for one in some])
        if not result.succeeded:
            if start:
                raise DataError(f"somebody else wrote meanwhile; the first {start} of {len(writes)} are written")
            return False
    return True


def _operation(write: Write) -> Op:
    path = format_key(write.key)
    return DeleteOp(path) if write.document is None else PutOp(path, encode(write.document))


def _read(key: ResourceKey, pair: KeyValue) -> Stored:
    try:
        document = msgspec.json.decode(pair.value)
    except (ValueError, RecursionError):
        document = None
    return Stored(key, document if isinstance(document, dict) else None, pair.mod_revision)
