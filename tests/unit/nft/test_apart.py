"""Large changes in parts: nobody who stays a member is none in between."""

from __future__ import annotations

import itertools

from hypothesis import given
from hypothesis import strategies as st

from felix.dataplane.nft.apart import split_apart
from felix.dataplane.nft.elements import address_key, range_key
from felix.dataplane.nft.types import Element, ElementShape, SetChange
from felix.model.net import Net, parse_net


def make_range(start: int, length: int) -> Net:
    """Returns a prefix of the highest eight bits: few, so that many lie in each other."""
    return Net(4, start << 24 >> (32 - length) << (32 - length) if length else 0, length)


NETS = st.builds(make_range, st.integers(0, 255), st.integers(0, 8))


def outermost(nets: set[Net]) -> set[Net]:
    return {net for net in nets if not any(other.__contains__(net) for other in nets - {net})}


def key_of(net: Net) -> bytes:
    return range_key(net)[1]


def cover(keys: set[bytes]) -> set[int]:
    """The highest eight bits of all addresses in the ranges."""
    return {number for key in keys for number in range(key[0], key[4] + 1)}


@given(before=st.sets(NETS, max_size=20), after=st.sets(NETS, max_size=20), limit=st.integers(1, 6))
def test_address_that_stays_a_member_is_one_after_every_part(before: set[Net], after: set[Net], limit: int) -> None:
    old, new = ({key_of(net) for net in outermost(nets)} for nets in (before, after))
    removed, added = (tuple(Element(key) for key in sorted(keys)) for keys in (old - new, new - old))
    present = set(old)
    for part in split_apart(SetChange("s", ElementShape.IPV4_RANGE, removed, added), limit):
        present -= {element.key for element in part.removed}
        present |= {element.key for element in part.added}
        assert cover(old) & cover(new) <= cover(present) <= cover(old) | cover(new)
        ranges = sorted(present)
        assert all(one[4:] < other[:4] for one, other in itertools.pairwise(ranges))  # as a kernel wants it
    assert present == new


def test_members_that_have_nothing_to_do_with_each_other_go_by_the_limit() -> None:
    elements = tuple(Element(address_key(Net(4, number, 32))[1]) for number in range(10))
    parts = split_apart(SetChange("s", ElementShape.IPV4, elements[:4], elements[4:]), 3)
    assert [len(part.removed) + len(part.added) for part in parts] == [3, 3, 3, 1]


def test_key_with_another_value_goes_and_comes_in_one_part() -> None:
    keys = [number.to_bytes(16, "big") for number in range(9)]
    old, new = (tuple(Element(key, chain) for key in keys) for chain in ("a", "b"))
    for part in split_apart(SetChange("m", ElementShape.NAME_CHAIN, old, new), 4):
        assert [one.key for one in part.removed] == [one.key for one in part.added]


def test_all_addresses_before_or_behind_what_they_replace_is_one_part() -> None:
    inner = tuple(Element(key_of(Net(4, number << 8, 24))) for number in range(100))
    outer = (Element(key_of(parse_net("0.0.0.0/0"))),)
    for change in ((inner, outer), (outer, inner)):
        assert split_apart(SetChange("s", ElementShape.IPV4_RANGE, *change), 10) == [
            SetChange("s", ElementShape.IPV4_RANGE, *change)
        ]
