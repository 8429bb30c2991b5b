"""The arithmetic of one block: whatever is given and taken back, it is what a list of addresses would be."""

from __future__ import annotations

import json

import msgspec
import pytest
from hypothesis import given
from hypothesis import strategies as st

from felix.errors import Problem
from felix.ipam.block import Block, Holder, give_back, new_block, parse_block, render_block, take, take_ordinal
from felix.model.net import parse_net
from felix.model.networks import AllocationBlock
from tests.support.ipam import check_laws

NET = parse_net("10.0.0.8/29")
SEED = 1_700_000_000_000_000_000
HOLDERS = [Holder(f"n.{name}", {"node": "h1"}) for name in "abc"] + [Holder(None, {"node": "h2"})]


def make() -> Block:
    return new_block(NET, "h1", "2023-11-14T22:13:20Z", SEED)


def parse(value: bytes) -> Block:
    block = parse_block(NET, value)
    assert isinstance(block, Block)
    return block


ACTS = st.one_of(
    st.tuples(st.just("take"), st.integers(0, 4), st.sampled_from(HOLDERS)),
    st.tuples(st.just("name"), st.integers(0, 7), st.sampled_from(HOLDERS)),
    st.tuples(st.just("back"), st.lists(st.integers(0, 7), max_size=4)),
    st.just(("store",)),
)


@given(st.lists(ACTS, max_size=30), st.sets(st.integers(0, 7)))
def test_block_after_any_history_is_a_queue_of_free_addresses_and_their_holders(
    acts: list[tuple[object, ...]], reserved: set[int]
) -> None:
    block = make()
    free = list(range(8))
    held: dict[int, Holder] = {}
    for act in acts:
        match act:
            case ("take", int(count), Holder() as holder):
                expected = [ordinal for ordinal in free if ordinal not in reserved][:count]
                block, ordinals = take(block, count, holder, lambda value: value - NET.value in reserved)
                assert list(ordinals) == expected
                held |= dict.fromkeys(expected, holder)
            case ("name", int(ordinal), Holder() as holder):
                taken = take_ordinal(block, ordinal, holder)
                assert (taken is None) == (ordinal in held)
                block = taken or block
                held.setdefault(ordinal, holder)
            case ("back", list(ordinals)):
                block = give_back(block, ordinals)
                free += [ordinal for ordinal in dict.fromkeys(ordinals) if ordinal in held]
                held = {ordinal: holder for ordinal, holder in held.items() if ordinal not in ordinals}
            case _:
                assert parse(render_block(block)) == block
        free = [ordinal for ordinal in free if ordinal not in held]
        assert list(block.free) == free
        assert dict(block.held()) == held
        assert len(block.holders) == len({holder.handle for holder in held.values()})


def test_holders_are_stored_once_and_renumbered_when_one_leaves() -> None:
    block, _ = take(make(), 2, HOLDERS[0], lambda _: False)
    block, _ = take(block, 1, HOLDERS[1], lambda _: False)
    block, _ = take(block, 1, Holder("n.a", {"node": "h1"}), lambda _: False)
    assert (block.allocations, len(block.holders)) == ((0, 0, 1, 0, None, None, None, None), 2)
    block = give_back(block, [0, 1, 3])
    assert (block.allocations[2], block.holders, block.free) == (0, (HOLDERS[1],), (4, 5, 6, 7, 0, 1, 3))


def test_sequence_number_tells_one_giving_of_an_address_from_the_next() -> None:
    block, _ = take(make(), 1, HOLDERS[0], lambda _: False)
    first = block.sequences[0]
    block = give_back(block, [0])
    assert block.sequences == {}
    taken = take_ordinal(block, 0, HOLDERS[0])
    assert taken is not None
    assert (first, taken.sequences[0], taken.sequence) == (SEED, SEED + 2, SEED + 3)


def test_stored_block_has_the_form_that_calico_documents() -> None:
    block, _ = take(make(), 1, HOLDERS[3], lambda _: False)
    document = json.loads(render_block(block))
    assert list(document) == [
        "cidr",
        "affinity",
        "affinityClaimTime",
        "allocations",
        "unallocated",
        "attributes",
        "deleted",
        "sequenceNumber",
        "sequenceNumberForAllocation",
    ]
    assert document["attributes"] == [{"handle_id": None, "secondary": {"node": "h2"}}]
    record = msgspec.json.decode(render_block(block), type=AllocationBlock)
    assert (record.cidr, record.affinity, record.sequence_number) == ("10.0.0.8/29", "host:h1", SEED + 1)


def stored(**fields: object) -> bytes:
    document = {"cidr": "10.0.0.8/29", "affinity": None, "allocations": [None] * 8, "unallocated": [], **fields}
    return json.dumps(document).encode()


def test_list_of_free_addresses_that_is_wrong_or_missing_is_mended() -> None:
    wrong = stored(allocations=[0] + [None] * 7, attributes=[{}], unallocated=[5, 0, 5, 99, 2, -1])
    assert parse(wrong).free == (5, 2, 1, 3, 4, 6, 7)
    assert parse(stored(unallocated=None)).free == tuple(range(8))


def test_old_forms_are_understood() -> None:
    assert parse(stored(hostAffinity="h7")).host == "h7"
    assert parse(stored(affinity="virtual:load-balancer")).host == ""
    migrated = stored(allocations=[0] + [None] * 7, attributes=[{"handle_id": "n.a\r\neth0", "secondary": None}])
    assert parse(migrated).holders == (Holder("n.a"),)


@pytest.mark.parametrize(
    ("value", "reason"),
    [
        (stored(allocations=[None] * 7), 'allocations: expected 8 entries, one per address (seen: "7")'),
        (stored(allocations=[1] + [None] * 7, attributes=[{}]), "allocations[0]: expected the number of one of 1"),
        (stored(cidr="10.0.0.0/29"), "cidr: differs from the key"),
        (b"{", "is no valid JSON"),
    ],
)
def test_block_that_cannot_be_right_is_a_problem_with_its_place(value: bytes, reason: str) -> None:
    problem = parse_block(NET, value)
    assert isinstance(problem, Problem)
    assert reason.replace('"', "") in str(problem).replace('"', "")


def test_laws_of_tests_see_a_holder_that_nobody_counts() -> None:
    block, _ = take(make(), 1, HOLDERS[0], lambda _: False)
    with pytest.raises(AssertionError):
        check_laws({"/calico/ipam/v2/assignment/ipv4/block/10.0.0.8-29": render_block(block)})
