"""One transaction under construction: blocks, affinities and handles change together or not at all. Pure."""

from __future__ import annotations

from dataclasses import dataclass, field

from felix.datastore.types import Compare, DeleteOp, Op, PutOp, Target
from felix.errors import Problem
from felix.ipam.block import Block, parse_block, render_block
from felix.ipam.records import CONFIRMED, Affinity, Handle, render_affinity, render_handle
from felix.model.keys import AffinityKey, BlockKey, format_handle_key, format_key
from felix.model.net import Net

OPERATIONS_LIMIT = 120
"""Writes and conditions of one transaction; etcd takes 128 of each unless told otherwise."""


class StoredBlock:
    """A block as read, understood only when somebody looks: of all blocks of a cluster most are just there.

    net: its prefix. revision: 0 when it is not stored; then `block` is the one to be made, if any.
    """

    __slots__ = ("_parsed", "_value", "net", "revision")

    def __init__(self, net: Net, revision: int, stored: bytes | Block | None) -> None:
        self.net = net
        self.revision = revision
        self._value = stored if isinstance(stored, bytes) else None
        self._parsed: Block | Problem | None = stored if isinstance(stored, Block) else None

    @property
    def block(self) -> Block | None:
        """The block; None when it is not stored, or cannot be used, as `problem` says."""
        parsed = self._parse()
        return parsed if isinstance(parsed, Block) else None

    @property
    def problem(self) -> Problem | None:
        """Why a stored block cannot be used."""
        parsed = self._parse()
        return parsed if isinstance(parsed, Problem) else None

    def _parse(self) -> Block | Problem | None:
        if self._parsed is None and self._value is not None:
            self._parsed = parse_block(self.net, self._value)
        return self._parsed


@dataclass(slots=True)
class Draft:
    """What is written if every key still has the revision at which it was read; 0: it does not exist."""

    revision_by_key: dict[str, int] = field(default_factory=dict)
    value_by_key: dict[str, bytes | None] = field(default_factory=dict)

    @property
    def is_empty(self) -> bool:
        """Whether nothing is to be written."""
        return not self.value_by_key

    @property
    def size(self) -> int:
        """The number of operations."""
        return max(len(self.revision_by_key), len(self.value_by_key))

    def guard(self, key: str, revision: int) -> None:
        """Nothing is written if `key` changed."""
        self.revision_by_key[key] = revision

    def put(self, key: str, value: bytes, revision: int) -> None:
        """`key` holds `value`, if it is as it was read."""
        self._write(key, value, revision)

    def drop(self, key: str) -> None:
        """`key` is gone, whatever it held."""
        self.value_by_key[key] = None

    def join(self, other: Draft) -> None:
        """What `other` says happens too, under its conditions."""
        self.revision_by_key |= other.revision_by_key
        self.value_by_key |= other.value_by_key

    def set_block(self, stored: StoredBlock, block: Block) -> None:
        """`block` is stored in place of what was read."""
        self._write(format_key(BlockKey(block.net)), render_block(block), stored.revision)

    def drop_block(self, stored: StoredBlock) -> None:
        """The block is gone."""
        self._write(format_key(BlockKey(stored.net)), None, stored.revision)

    def confirm_affinity(self, host: str, net: Net, affinity: Affinity | None) -> None:
        """The host's claim of the block holds; nothing is written if it did."""
        key = format_key(AffinityKey(host, net))
        if affinity is None or affinity.state != CONFIRMED:
            self._write(key, render_affinity(), affinity.revision if affinity else 0)
        else:
            self.guard(key, affinity.revision)

    def drop_affinity(self, host: str, net: Net) -> None:
        """The host does not claim the block, whatever stood there: the block itself, guarded, is the truth."""
        self.drop(format_key(AffinityKey(host, net)))

    def set_handle(self, handle: Handle) -> None:
        """The handle is stored, or gone when it has no addresses left."""
        if handle.counts or handle.revision:
            self._write(
                format_handle_key(handle.name), render_handle(handle) if handle.counts else None, handle.revision
            )

    def compares(self) -> list[Compare]:
        """Returns the conditions."""
        return [Compare(key, Target.MOD_REVISION, revision) for key, revision in self.revision_by_key.items()]

    def operations(self) -> list[Op]:
        """Returns the writes."""
        return [DeleteOp(key) if value is None else PutOp(key, value) for key, value in self.value_by_key.items()]

    def _write(self, key: str, value: bytes | None, revision: int) -> None:
        self.guard(key, revision)
        self.value_by_key[key] = value
