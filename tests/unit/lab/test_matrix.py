"""Who reaches whom, as people read it."""

from __future__ import annotations

from felix.lab.matrix import Cell, render_seen


def test_what_was_seen_is_one_word_unless_the_families_differ() -> None:
    cells = {
        ("a", "b"): Cell(True, ("ok", "ok")),
        ("a", "c"): Cell(True, ("timeout", "timeout")),
        ("b", "a"): Cell(True, ("ok", "timeout")),
        ("b", "c"): Cell(True, ("refused", "refused")),
        ("c", "a"): Cell(True, ()),
        ("c", "b"): Cell(True, ("unreachable",)),
    }
    assert render_seen(["a", "b", "c"], cells).splitlines() == [
        "source       a            b            c",
        "a            -            yes          no",
        "b            yes/no       -            refused",
        "c            no address   unreachable  -",
    ]
