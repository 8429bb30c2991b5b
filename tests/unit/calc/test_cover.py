"""Which prefixes are outermost: nestings that went wrong elsewhere, and the size that must not cost."""

from __future__ import annotations

import pytest

from felix.calc.cover import CoverChange, PrefixCover
from felix.model.net import Net, parse_net


def nets(*texts: str) -> list[Net]:
    return [parse_net(text) for text in texts]


def test_cover_middle_prefix_removed_from_three_levels_keeps_inner_hidden() -> None:
    """A ⊃ B ⊃ C: without B, C is still inside A; reporting C makes the kernel refuse an overlap."""
    cover = PrefixCover(4)
    for net in nets("10.0.0.0/8", "10.1.0.0/16", "10.1.1.0/24"):
        cover.add(net)
    assert cover.remove(parse_net("10.1.0.0/16")) == CoverChange([], [])
    assert cover.remove(parse_net("10.0.0.0/8")) == CoverChange(nets("10.1.1.0/24"), nets("10.0.0.0/8"))


def test_cover_outer_prefix_added_last_hides_only_the_visible_inner_ones() -> None:
    cover = PrefixCover(4)
    for net in nets("10.1.1.0/24", "10.1.0.0/16", "10.2.0.0/16", "11.0.0.0/8"):
        cover.add(net)
    assert cover.add(parse_net("10.0.0.0/8")) == CoverChange(nets("10.0.0.0/8"), nets("10.1.0.0/16", "10.2.0.0/16"))
    assert cover.outermost_count == 2


@pytest.mark.parametrize(
    ("version", "everything", "inner"),
    [(4, "0.0.0.0/0", ["0.0.0.0/1", "255.255.255.254/31"]), (6, "::/0", ["::/1", "ffff::/16"])],
)
def test_cover_of_everything_hides_both_ends_of_the_family(version: int, everything: str, inner: list[str]) -> None:
    cover = PrefixCover(version)
    for net in nets(*inner):
        assert cover.add(net) == CoverChange([net], [])
    assert cover.add(parse_net(everything)) == CoverChange(nets(everything), nets(*inner))
    assert cover.remove(parse_net(everything)) == CoverChange(nets(*inner), nets(everything))


def test_cover_equal_start_different_length_is_nesting() -> None:
    cover = PrefixCover(4)
    cover.add(parse_net("10.0.0.0/24"))
    assert cover.add(parse_net("10.0.0.0/8")) == CoverChange(nets("10.0.0.0/8"), nets("10.0.0.0/24"))
    assert cover.add(parse_net("10.0.0.0/16")) == CoverChange([], [])
    assert cover.remove(parse_net("10.0.0.0/8")) == CoverChange(nets("10.0.0.0/16"), nets("10.0.0.0/8"))


def test_cover_neighbours_without_nesting_stay_apart() -> None:
    cover = PrefixCover(4)
    for net in nets("10.0.0.0/25", "10.0.0.128/25"):
        assert cover.add(net) == CoverChange([net], [])
    assert cover.outermost_count == len(cover) == 2
