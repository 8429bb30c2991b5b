"""The demonstration as far as it computes: files, tables, what is said of them, exit code."""

from __future__ import annotations

import json
from collections.abc import Mapping
from pathlib import Path

import pytest

from felix.__main__ import main
from felix.errors import DataError
from felix.lab.demo import expected as tables
from felix.lab.demo.expected import COLLECT, OTHER_HOST, OUTSIDE, OWN_HOST, PROBES, Expected, Pair
from felix.lab.demo.report import (
    ICMP,
    PAGE,
    TCP,
    Cell,
    Chapter,
    Check,
    Report,
    make_cells,
    paint,
    render_cells,
    render_wrong,
)
from felix.lab.demo.run import Demo

FOLDER = Path(__file__).parents[3] / "demo"
PUBLIC = frozenset({"public"})
ISOLATED = {
    **dict.fromkeys("AB", frozenset({"star-1"})),
    **dict.fromkeys("CD", frozenset({"star-2"})),
    COLLECT: frozenset({"star-1", "star-2", "public"}),
}


def test_files_of_the_demo_have_the_shape_of_the_originals() -> None:
    shape = {
        "stars-before.json": ("/star-before", "http://probe-%s-star-before.marathon.mesos:9000/status"),
        "stars.json": ("/star", "http://probe-%s.star.marathon.mesos:9000/status"),
        "stars-isolated.json": ("/star-iso", "http://probe-%s.star-iso.marathon.mesos:9000/status"),
    }
    for file, (group, url) in shape.items():
        document = json.loads((FOLDER / file).read_text())
        assert document["id"] == group
        assert [app["id"] for app in document["apps"]] == ["probe-a", "probe-b", "probe-c", "probe-d", "collect"]
        for app, letter in zip(document["apps"], "abcd", strict=False):
            assert app["cmd"].endswith("--urls=" + ",".join(url % one for one in "abcd" if one != letter))
            own = {"ports": [9000], "requirePorts": True} if file == "stars-before.json" else {}
            assert own.items() <= app.items()
            assert ("ipAddress" in app) is (file != "stars-before.json")


def share(groups: Mapping[str, frozenset[str]], closed: frozenset[str] = frozenset()) -> dict[Pair, bool]:
    """Returns a table by the rule of net-modules: a group in common, or public. closed: groups that let in none."""
    sources = {**groups, "stage 2": PUBLIC, OWN_HOST: None, OTHER_HOST: frozenset[str](), OUTSIDE: frozenset[str]()}
    return {
        (source, target): own is None or "public" in open_to or bool((own & open_to) - closed)
        for source, own in sources.items()
        for target, open_to in groups.items()
        if source != target
    }


@pytest.mark.parametrize(
    ("table", "groups", "closed"),
    [
        (tables.ISOLATED, ISOLATED, frozenset[str]()),
        (tables.ISOLATED_NARROW_PING, ISOLATED, frozenset({"star-1"})),
        (tables.ISOLATED_MOVED, {**ISOLATED, "D": frozenset({"star-1"})}, frozenset[str]()),
    ],
)
def test_table_that_was_written_down_is_what_groups_in_common_give(
    table: Expected, groups: Mapping[str, frozenset[str]], closed: frozenset[str]
) -> None:
    assert table == share(groups, closed)


def test_table_of_public_containers_is_open_everywhere() -> None:
    assert all(tables.ALL_PUBLIC.values())
    assert len(tables.ALL_PUBLIC) == 8 * 5 - 5
    assert set(tables.between_probes(tables.ALL_PUBLIC)) == {
        (one, other) for one in PROBES for other in PROBES if one != other
    }


def test_table_with_a_short_row_or_another_word_is_refused() -> None:
    for text in ("| A B\nA | - ", "| A\nA | maybe"):
        with pytest.raises(DataError, match="row 'A': expected"):
            tables.read_table(text)


def test_report_counts_what_is_right_and_says_what_is_not() -> None:
    cells = [
        Cell("A", "B", TCP, True, "ok"),
        Cell("B", "A", TCP, False, "timeout"),
        Cell("A", "C", TCP, False, "refused"),
    ]
    chapter = Chapter("3", "title", cells, [Check("well", True), Check("leak", False, "cali1")])
    report = Report([chapter])
    assert (report.right, report.total, report.is_right) == (3, 5, False)
    assert list(render_wrong(chapter)) == [
        "NOT as expected: A should not reach C by TCP, seen: refused",
        "NOT as expected: leak: cali1",
    ]
    assert [cell["right"] for cell in json.loads(json.dumps(report.document()))["chapters"][0]["cells"]] == [
        True,
        True,
        False,
    ]
    assert not Report().is_right


def test_cells_that_were_not_tried_are_not_right() -> None:
    (cell,) = make_cells({("A", "B"): False}, ICMP, {})
    assert (cell.outcome, cell.is_right) == ("not tried", False)


def test_tables_are_beside_each_other_and_mark_what_is_wrong() -> None:
    table = {("A", "B"): True, ("B", "A"): False}
    cells = make_cells(table, TCP, {("A", "B"): "ok", ("B", "A"): "ok"})
    cells += make_cells(table, ICMP, {("A", "B"): "ok", ("B", "A"): "timeout"})
    cells += make_cells({("A", "B"): True}, PAGE, {("A", "B"): "ok"})
    assert list(render_cells(cells)) == [
        "expected A  B     ICMP A  B     TCP, page A   B",
        "A        -  yes   A    -  yes   A         -   yes",
        "B        no -     B    no -     B         ok! -",
    ]


def test_colours_mark_what_is_right_and_wrong_and_titles_and_nothing_else() -> None:
    assert paint("\nTitle: 1") == "\033[1m\nTitle: 1\033[0m"
    assert paint("  ok: all run: ok") == "  \033[32mok\033[0m: all run: ok"
    assert paint("  3 of 3 as expected, 1 s") == "  \033[32m3 of 3 as expected\033[0m, 1 s"
    assert paint("  2 of 3 as expected, 1 s") == "  2 of 3 as expected, 1 s"
    assert paint("A no  timeout!  yes") == "A no  \033[31mtimeout!\033[0m  yes"


@pytest.mark.parametrize(("outcome", "code"), [("ok", 0), ("timeout", 1)])
def test_exit_code_says_whether_everything_was_as_expected(
    outcome: str, code: int, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    async def run(self: Demo) -> Report:
        self.report.chapters.append(Chapter("1", "title", make_cells({("A", "B"): True}, TCP, {("A", "B"): outcome})))
        return self.report

    monkeypatch.setattr(Demo, "run", run)
    assert main(["lab", "demo", "-o", "json"]) == code
    printed = json.loads(capsys.readouterr().out)
    assert (printed["right"], printed["total"]) == (1 - code, 1)
