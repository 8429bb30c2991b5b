"""What stands in etcd beside blocks: handles, affinities, the configuration. Pure."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field

import msgspec

from felix.model.rules import is_net

CONFIRMED = "confirmed"
DEFAULT_MAX_BLOCKS = 20
"""Calico's own limit of blocks per host and family, when none is set."""

_AFFINITY = {"state": CONFIRMED, "deleted": False}
_CONFIG_FIELDS = ("strict_affinity", "auto_allocate_blocks", "maxBlocksPerHost")


@dataclass(frozen=True, slots=True)
class Handle:
    """How many addresses a handle has in each block, by the block's prefix as text. revision: 0 when not stored."""

    name: str
    counts: Mapping[str, int] = field(default_factory=dict)
    revision: int = 0
    unknown: Mapping[str, object] = field(default_factory=dict)

    def plus(self, block: str, count: int) -> Handle:
        """Returns the handle with `count` addresses more in a block; with fewer when negative, never below none."""
        counts = {**self.counts, block: max(0, self.counts.get(block, 0) + count)}
        kept = {name: number for name, number in counts.items() if number}
        return Handle(self.name, kept, self.revision, self.unknown)

    def without(self, block: str) -> Handle:
        """Returns the handle without addresses in a block."""
        return self.plus(block, -self.counts.get(block, 0))


@dataclass(frozen=True, slots=True)
class Affinity:
    """That a host claims a block. state: pending, confirmed, pendingDeletion, or empty when it cannot be read."""

    state: str
    revision: int


@dataclass(frozen=True, slots=True)
class IpamConfig:
    """How addresses are given out. strict_affinity: hosts use their own blocks only. max_blocks: per host, family."""

    strict_affinity: bool = False
    auto_allocate_blocks: bool = True
    max_blocks: int = 0

    @property
    def block_limit(self) -> int:
        """How many blocks of a family a host may have."""
        return self.max_blocks or DEFAULT_MAX_BLOCKS


def parse_handle(name: str, value: bytes, revision: int) -> Handle:
    """Returns the stored handle; what cannot be read counts as no addresses, and goes with the next change."""
    document = _parse(value)
    counts = document.get("block")
    return Handle(
        name,
        {
            str(block): count
            for block, count in (counts.items() if isinstance(counts, dict) else ())
            if isinstance(count, int) and count > 0 and is_net(str(block))
        },
        revision,
        {field: item for field, item in document.items() if field not in {"block", "deleted"}},
    )


def render_handle(handle: Handle) -> bytes:
    """Returns the JSON that is stored."""
    return msgspec.json.encode({**handle.unknown, "block": handle.counts, "deleted": False})


def parse_affinity(value: bytes, revision: int) -> Affinity:
    """Returns the stored affinity."""
    state = _parse(value).get("state")
    return Affinity(state if isinstance(state, str) else "", revision)


def render_affinity() -> bytes:
    """Returns the JSON of an affinity that holds."""
    return msgspec.json.encode(_AFFINITY)


def parse_config(value: bytes) -> IpamConfig:
    """Returns the stored configuration; a field that is missing is false or 0, because Calico leaves those out."""
    document = _parse(value)
    limit = document.get("maxBlocksPerHost")
    return IpamConfig(
        strict_affinity=document.get("strict_affinity") is True,
        auto_allocate_blocks=document.get("auto_allocate_blocks") is True,
        max_blocks=limit if isinstance(limit, int) and limit > 0 else 0,
    )


def render_config(config: IpamConfig, stored: bytes | None) -> bytes:
    """Returns the JSON that is stored in place of `stored`, of which unknown fields are kept."""
    kept = {name: item for name, item in _parse(stored or b"{}").items() if name not in _CONFIG_FIELDS}
    values = (config.strict_affinity, config.auto_allocate_blocks, config.max_blocks)
    return msgspec.json.encode({**kept, **dict(zip(_CONFIG_FIELDS, values, strict=True))})


def _parse(value: bytes) -> dict[str, object]:
    try:
        document = msgspec.json.decode(value)
    except (ValueError, RecursionError):
        return {}
    return {str(name): item for name, item in document.items()} if isinstance(document, dict) else {}
