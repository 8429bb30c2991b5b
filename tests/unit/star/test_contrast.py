"""Everybody can read the page: each pair of colours that is read has the contrast that WCAG 2.2 AA asks for."""

from __future__ import annotations

import re
from importlib.resources import files

import pytest

_CSS = (files("felix.star") / "assets" / "star.css").read_text(encoding="utf-8")
_COLOURS = {
    name: (light, dark)
    for name, light, dark in re.findall(r"--([\w-]+): light-dark\((#[0-9a-f]{6}), (#[0-9a-f]{6})\);", _CSS)
}
_TEXT, _GRAPHIC = 4.5, 3.0
_NODES = [f"c{number}" for number in range(12)]
_PAIRS = [
    *((ink, ground, _TEXT) for ink in ("ink", "soft") for ground in ("page", "card", "raised", "glow")),
    *((ink, ground, _TEXT) for ink in ("good", "bad", "warn") for ground in ("card", f"{ink}-wash", "raised")),
    ("soft", "warn-wash", _TEXT),
    ("accent", "page", _TEXT),
    ("accent", "card", _GRAPHIC),
    ("label", "accent", _TEXT),
    ("label", "warn", _TEXT),
    *(("label", node, _TEXT) for node in _NODES),
    *((node, ground, _GRAPHIC) for node in _NODES for ground in ("card", "raised")),
]


def _luminance(colour: str) -> float:
    channels = [int(colour[place : place + 2], 16) / 255 for place in (1, 3, 5)]
    linear = [channel / 12.92 if channel <= 0.04045 else ((channel + 0.055) / 1.055) ** 2.4 for channel in channels]
    return 0.2126 * linear[0] + 0.7152 * linear[1] + 0.0722 * linear[2]


def _contrast(one: str, other: str) -> float:
    low, high = sorted((_luminance(one), _luminance(other)))
    return (high + 0.05) / (low + 0.05)


def test_contrast_of_black_and_white_is_21() -> None:
    assert _contrast("#000000", "#ffffff") == pytest.approx(21)


@pytest.mark.parametrize("theme", ["light", "dark"])
def test_contrast_of_all_pairs_that_are_read_is_enough(theme: str) -> None:
    index = ("light", "dark").index(theme)
    seen = {(ink, ground): _contrast(_COLOURS[ink][index], _COLOURS[ground][index]) for ink, ground, _ in _PAIRS}

    assert {pair: round(seen[pair[:2]], 2) for pair in _PAIRS if seen[pair[:2]] < pair[2]} == {}


def test_colours_outside_the_checked_table_are_none() -> None:
    rules = _CSS[_CSS.index("* { box-sizing") :]

    assert set(re.findall(r"#[0-9a-fA-F]{3,8}\b", rules)) <= {"#ffffff"}
