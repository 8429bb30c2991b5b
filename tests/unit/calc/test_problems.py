"""Problems as a state: told once, and taken back once."""

from __future__ import annotations

from felix.calc.problems import ProblemBoard
from felix.errors import Problem
from felix.model.keys import ResourceKey

KEY = ResourceKey("Profile", "", "web")
PROBLEM = Problem("/calico/x", "", "", "does not exist")


def test_problems_set_twice_are_told_once_and_cleared_once() -> None:
    board = ProblemBoard()
    board.set(KEY, (PROBLEM,))
    board.set(KEY, (PROBLEM,))
    assert board.pop_changes() == {KEY: (PROBLEM,)}
    assert board.pop_changes() == {}
    board.set(KEY, ())
    assert board.pop_changes() == {KEY: ()}


def test_problems_that_came_and_went_between_pops_are_never_told() -> None:
    board = ProblemBoard()
    board.set(KEY, (PROBLEM,))
    board.set(KEY, ())
    assert board.pop_changes() == {}
