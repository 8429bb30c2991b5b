"""What was expected and what was seen, cell by cell and check by check, for people and for programs. Pure."""

from __future__ import annotations

import re
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from itertools import zip_longest

from felix.lab.demo.expected import Expected, Pair

_COLOURS = (
    (re.compile(r"(?m)(?<=^  )ok(?=: )|\b(\d+) of \1 as expected"), 32),
    (re.compile(r"NOT as expected|\b[a-z-]+!"), 31),
    (re.compile(r"\A\n[^\n]+\Z"), 1),
)
TCP, ICMP, PAGE = "TCP", "ICMP", "page"


@dataclass(frozen=True, slots=True)
class Cell:
    """One source, one target, one way to try it. outcome: `ok`, `timeout`, `refused`, … or what the page says.

    A refused connection is neither open nor filtered: never right.
    """

    source: str
    target: str
    by: str
    expected: bool
    outcome: str

    @property
    def is_right(self) -> bool:
        """Whether what was seen is what was expected."""
        return self.outcome == ("ok" if self.expected else "timeout")


@dataclass(frozen=True, slots=True)
class Check:
    """Something else than a cell that must be so. seen: what was found."""

    text: str
    is_right: bool
    seen: str = ""


@dataclass(slots=True)
class Chapter:
    """One part of the demonstration."""

    name: str
    title: str
    cells: list[Cell] = field(default_factory=list)
    checks: list[Check] = field(default_factory=list)
    seconds: float = 0.0

    @property
    def wrong(self) -> list[Cell | Check]:
        """All that was not as expected."""
        everything: list[Cell | Check] = [*self.cells, *self.checks]
        return [one for one in everything if not one.is_right]


@dataclass(slots=True)
class Report:
    """All of it. page: its address."""

    chapters: list[Chapter] = field(default_factory=list)
    page: str = ""
    seconds: float = 0.0

    @property
    def total(self) -> int:
        """How many cells and checks there are."""
        return sum(len(one.cells) + len(one.checks) for one in self.chapters)

    @property
    def right(self) -> int:
        """How many of them are as expected."""
        return self.total - sum(len(one.wrong) for one in self.chapters)

    @property
    def is_right(self) -> bool:
        """Whether everything was as expected, and there was something."""
        return 0 < self.total == self.right

    def document(self) -> dict[str, object]:
        """Returns it as JSON has it."""
        return {
            "right": self.right,
            "total": self.total,
            "page": self.page,
            "seconds": round(self.seconds, 1),
            "chapters": [
                {
                    "name": one.name,
                    "title": one.title,
                    "seconds": round(one.seconds, 1),
                    "cells": [
                        {
                            "from": cell.source,
                            "to": cell.target,
                            "by": cell.by,
                            "expected": cell.expected,
                            "seen": cell.outcome,
                            "right": cell.is_right,
                        }
                        for cell in one.cells
                    ],
                    "checks": [{"text": one.text, "right": one.is_right, "seen": one.seen} for one in one.checks],
                }
                for one in self.chapters
            ],
        }


def render_cells(cells: Sequence[Cell]) -> Iterator[str]:
    """Yields lines: a row per source, a column per target, what was expected beside what was seen, and in which ways.

    `!` is behind what is not as expected. Ways that saw something else are beside each other, ways of which something
    else is expected are below each other.
    """
    by_way: dict[str, dict[Pair, Cell]] = {}
    for cell in cells:
        by_way.setdefault(cell.by, {})[cell.source, cell.target] = cell
    left = list(by_way)
    while left:
        wanted = {pair: cell.expected for pair, cell in by_way[left[0]].items()}
        same = [way for way in left if all(wanted.get(pair) is cell.expected for pair, cell in by_way[way].items())]
        left = [way for way in left if way not in same]
        halves = [_render_half("expected", {pair: _word(value) for pair, value in wanted.items()})]
        for title, words in _join(by_way, same).items():
            halves.append(_render_half(title, words))
        for parts in zip_longest(*halves, fillvalue=""):
            yield "  ".join(parts).rstrip()


def _join(by_way: Mapping[str, Mapping[Pair, Cell]], ways: Sequence[str]) -> dict[str, dict[Pair, str]]:
    """Returns what was seen, by the ways in which that was seen: those that never disagree are one."""
    joined: dict[str, dict[Pair, str]] = {}
    for way in ways:
        words = {pair: _describe(cell) for pair, cell in by_way[way].items()}
        same = next((one for one, other in joined.items() if all(other.get(p, w) == w for p, w in words.items())), "")
        if same:
            joined[f"{same}, {way}"] = joined.pop(same) | words
        else:
            joined[way] = words
    return joined


def _render_half(title: str, words: Mapping[Pair, str]) -> list[str]:
    sources = list(dict.fromkeys(source for source, _ in words))
    targets = {target for _, target in words}
    columns = [name for name in dict.fromkeys([*sources, *(target for _, target in words)]) if name in targets]
    lines = [[title, *columns]]
    lines += [[source, *(words.get((source, column), "-") for column in columns)] for source in sources]
    widths = [max(len(line[number]) for line in lines) + 1 for number in range(len(columns) + 1)]
    return ["".join(text.ljust(width) for text, width in zip(line, widths, strict=True)) for line in lines]


def render_checks(checks: Sequence[Check]) -> Iterator[str]:
    """Yields a line per check that is as it must be."""
    for one in checks:
        if one.is_right:
            yield f"ok: {one.text}{f': {one.seen}' if one.seen else ''}"


def render_wrong(chapter: Chapter) -> Iterator[str]:
    """Yields a line for whatever is not as expected."""
    for one in chapter.wrong:
        if isinstance(one, Cell):
            wanted = "reach" if one.expected else "not reach"
            yield f"NOT as expected: {one.source} should {wanted} {one.target} by {one.by}, seen: {one.outcome}"
        else:
            yield f"NOT as expected: {one.text}{f': {one.seen}' if one.seen else ''}"


def paint(text: str) -> str:
    """Returns the text with colours, for a terminal: what is right, what is wrong, and titles."""
    for pattern, colour in _COLOURS:
        text = pattern.sub(f"\033[{colour}m\\g<0>\033[0m", text)
    return text


def make_cells(expected: Expected, by: str, outcomes: dict[Pair, str]) -> list[Cell]:
    """Returns cells of one way to try; what was not tried is not right."""
    return [
        Cell(source, target, by, value, outcomes.get((source, target), "not tried"))
        for (source, target), value in expected.items()
    ]


def _word(value: bool) -> str:
    return "yes" if value else "no"


def _describe(cell: Cell) -> str:
    return _word(cell.expected) if cell.is_right else f"{cell.outcome}!"
