"""The prefix cover and the member set against definitions that a reader can check by eye."""

from __future__ import annotations

from collections import Counter

from hypothesis import given
from hypothesis import strategies as st

from felix.calc.cover import PrefixCover
from felix.calc.desired import MemberDelta
from felix.calc.members import MemberSet
from felix.calc.sorted_keys import SortedKeys
from felix.model.net import Net


def make_net(version: int, length: int, value: int) -> Net:
    """Returns the prefix with the top bits of `value`, an integer of eight bits: few bits, so nesting is common."""
    bits = 32 if version == 4 else 128
    wide = value << (bits - 8)
    return Net(version, wide >> (bits - length) << (bits - length) if length else 0, length)


LENGTHS = st.one_of(st.integers(0, 8), st.sampled_from([31, 32]))
NETS4 = st.builds(make_net, st.just(4), LENGTHS, st.integers(0, 255))
NETS6 = st.builds(make_net, st.just(6), st.one_of(LENGTHS, st.just(128)), st.integers(0, 255))


def outermost(nets: set[Net]) -> set[Net]:
    return {net for net in nets if not any(other.__contains__(net) for other in nets - {net})}


@given(st.lists(NETS4, max_size=60))
def test_cover_after_any_toggles_reports_exactly_the_outermost(toggles: list[Net]) -> None:
    cover = PrefixCover(4)
    present: set[Net] = set()
    visible: set[Net] = set()
    for net in toggles:
        change = cover.remove(net) if net in present else cover.add(net)
        present ^= {net}
        assert visible.issuperset(change.removed)
        visible -= set(change.removed)
        assert visible.isdisjoint(change.added)
        visible |= set(change.added)
        assert visible == outermost(present)
        assert cover.outermost_count == len(visible)


@given(st.lists(st.tuples(st.booleans(), st.one_of(NETS4, NETS6), st.booleans()), max_size=60))
def test_members_after_any_steps_and_flushes_are_addresses_and_outermost_prefixes(
    steps: list[tuple[bool, Net, bool]],
) -> None:
    members, delta = MemberSet(), MemberDelta()
    counts: Counter[Net] = Counter()
    seen: set[Net] = set()
    for add, net, flush in [*steps, (True, Net(4, 0, 0), True)]:
        if add:
            members.add(net, delta)
            counts[net] += 1
        elif counts[net]:
            members.remove(net, delta)
            counts[net] -= 1
        if flush:
            assert delta.added.isdisjoint(delta.removed)
            assert delta.removed <= seen
            assert delta.added.isdisjoint(seen)
            seen = seen - delta.removed | delta.added
            delta = MemberDelta()
            present = set(+counts)
            prefixes = {net for net in present if not net.is_address}
            assert seen == outermost(prefixes) | (present - prefixes)
            assert members.has_nets4 == any(net.version == 4 for net in prefixes)
            assert members.has_nets6 == any(net.version == 6 for net in prefixes)


@given(st.lists(st.integers(0, 40), max_size=80), st.integers(0, 41))
def test_sorted_keys_find_from_any_point_equals_linear_search(toggles: list[int], start: int) -> None:
    keys = SortedKeys()
    present: set[int] = set()
    for key in toggles:
        (keys.remove if key in present else keys.add)(key)
        present ^= {key}
    assert keys.find_from(start) == min((key for key in present if key >= start), default=None)
