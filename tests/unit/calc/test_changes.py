"""Conclusions as a state: told once, and taken back once."""

from __future__ import annotations

from felix.calc.changes import ChangeLog


def test_changes_set_twice_are_told_once_and_taken_back_once() -> None:
    log: ChangeLog[str, int] = ChangeLog()
    log.set("a", 1)
    log.set("a", 1)
    assert log.pop_changes() == {"a": 1}
    assert log.pop_changes() == {}
    log.set("a", None)
    log.set("b", None)
    assert log.pop_changes() == {"a": None}


def test_changes_that_came_and_went_between_pops_are_never_told() -> None:
    log: ChangeLog[str, int] = ChangeLog()
    log.set("a", 1)
    log.set("a", None)
    assert log.pop_changes() == {}
    log.set("b", 1)
    log.pop_changes()
    log.set("b", 2)
    log.set("b", 1)
    assert (log.pop_changes(), dict(log.values)) == ({}, {"b": 1})


def test_find_leaving_names_what_was_told_and_is_gone() -> None:
    log: ChangeLog[str, int] = ChangeLog()
    log.set("told", 1)
    log.set("stays", 2)
    log.pop_changes()
    log.set("told", None)
    log.set("stays", 3)
    log.set("brief", 4)
    log.set("brief", None)
    assert log.find_leaving() == [1]
    log.set("told", 5)
    assert log.find_leaving() == []
    log.set("told", None)
    log.pop_changes()
    assert log.find_leaving() == []
