"""Address management in tests: pools as stored, and the laws that hold between blocks, handles and affinities."""

from __future__ import annotations

from collections import Counter
from collections.abc import Mapping

import msgspec

from felix.ipam.block import Block, count_by_handle, parse_block
from felix.ipam.records import parse_affinity, parse_handle
from felix.model.keys import HANDLES, IPAM_CONFIG, AffinityKey, BlockKey, ResourceKey, format_key, parse_key
from felix.model.net import parse_net


def resource(kind: str, name: str, spec: Mapping[str, object], **metadata: object) -> tuple[str, bytes]:
    """Returns key and value of a resource."""
    document = {
        "apiVersion": "projectcalico.org/v3",
        "kind": kind,
        "metadata": {"name": name, **metadata},
        "spec": spec,
    }
    return format_key(ResourceKey(kind, str(metadata.get("namespace", "")), name)), msgspec.json.encode(document)


def pool(name: str, cidr: str, **spec: object) -> tuple[str, bytes]:
    """Returns key and value of a pool."""
    return resource("IPPool", name, {"cidr": cidr, **spec})


def config(*, strict: bool = False, auto: bool = True, most: int = 0) -> tuple[str, bytes]:
    """Returns key and value of the configuration."""
    value = {"strict_affinity": strict, "auto_allocate_blocks": auto, "maxBlocksPerHost": most}
    return IPAM_CONFIG, msgspec.json.encode(value)


def read_blocks(value_by_key: Mapping[str, bytes]) -> dict[str, Block]:
    """Returns all blocks by their prefix, each of which must be readable."""
    found = {}
    for path, value in value_by_key.items():
        key = parse_key(path)
        if isinstance(key, BlockKey):
            block = parse_block(key.block, value)
            assert isinstance(block, Block), block
            found[str(key.block)] = block
    return found


def check_laws(value_by_key: Mapping[str, bytes]) -> None:
    """Everything that address management stores agrees: what must hold after every single transaction."""
    blocks = read_blocks(value_by_key)
    counts = {path.removeprefix(HANDLES): v for path, v in value_by_key.items() if path.startswith(HANDLES)}
    by_handle: dict[str, Counter[str]] = {}
    for cidr, block in blocks.items():
        held = {ordinal for ordinal, _ in block.held()}
        assert sorted([*block.free, *held]) == list(range(block.size))
        assert set(block.sequences) == held
        assert all(number < block.sequence for number in block.sequences.values())
        assert {index for index in block.allocations if index is not None} == set(range(len(block.holders)))
        assert block.affinity is not None or held, "an empty block that is nobody's"
        for handle, count in count_by_handle(block).items():
            by_handle.setdefault(handle, Counter())[cidr] = count
    assert {name: dict(parse_handle(name, value, 1).counts) for name, value in counts.items()} == by_handle
    claims = {key for path in value_by_key if isinstance(key := parse_key(path), AffinityKey)}
    assert claims == {AffinityKey(block.host, block.net) for block in blocks.values() if block.host}
    for path, value in value_by_key.items():
        if isinstance(parse_key(path), AffinityKey):
            assert parse_affinity(value, 1).state == "confirmed"
    nets = [parse_net(cidr) for cidr in blocks]
    assert not any(one != other and one.value <= other.value <= one.last for one in nets for other in nets)
