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
