"""Who reaches whom, as people read it."""

from __future__ import annotations

from felix.lab.matrix import render_seen


def test_what_was_seen_is_one_word_unless_the_families_differ() -> None:
    cells = {
        ("a", "b"): ("ok", "ok"),
        ("a", "c"): ("timeout", "timeout"),
        ("b", "a"): ("ok", "timeout"),
        ("b", "c"): ("refused", "refused"),
        ("c", "a"): (),
        ("c", "b"): ("unreachable",),
    }
    assert render_seen(["a", "b", "c"], cells).splitlines() == [
        "source       a            b            c",
        "a            -            yes          no",
        "b            yes/no       -            refused",
        "c            no address   unreachable  -",
    ]
