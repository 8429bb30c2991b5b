"""The graph walked through named states in many ways; after each state, what that state demands and nothing else.

Desired state depends on what is stored, never on the way there: each walk is expanded (reversed, keys shuffled, split
into single changes, squashed into one, empty states between, restart of the graph in the middle) and each expansion
flushed in several rhythms, with and without repeated updates.
"""

from __future__ import annotations

import random
from collections.abc import Callable, Iterator

import pytest

from felix.calc.graph import CalcGraph
from felix.errors import Problem
from felix.model.keys import Key
from tests.model.desired_mirror import DesiredMirror
from tests.unit.calc.scenarios import STATES
from tests.unit.calc.states import HOST, Records, State, describe, expect

EMPTY = State("empty")
Rhythm = Callable[[int, bool], bool]  # (number of the update, whether it is the last of its state) -> flush now?


class Walker:
    """A graph, the mirror that follows it, and what is stored at the moment."""

    def __init__(self, rhythm: Rhythm, *, seed: int = 0, is_repeating: bool = False) -> None:
        self.rhythm, self.is_repeating = rhythm, is_repeating
        self.random = random.Random(seed)
        self.stored: Records = {}
        self.updates_count = 0
        self.start()

    def start(self) -> None:
        """A new graph reads what is stored, in any order; the mirror of the old one is forgotten."""
        self.graph, self.mirror = CalcGraph(HOST), DesiredMirror()
        self.problems: dict[Key, tuple[Problem, ...]] = {}
        for key in self.random.sample(list(self.stored), len(self.stored)):
            self.graph.on_update(key, self.stored[key])
        self.flush()

    def go(self, records: Records) -> None:
        """Changes what is stored to `records`."""
        changed = [key for key in self.stored | records if self.stored.get(key) != records.get(key)]
        self.random.shuffle(changed)
        for number, key in enumerate(changed):
            for _ in range(1 + self.is_repeating):
                self.graph.on_update(key, records.get(key))
            self.updates_count += 1
            if self.rhythm(self.updates_count, number == len(changed) - 1):
                self.flush()
        self.stored = records

    def flush(self) -> None:
        """The mirror, and the problems, follow the graph."""
        self.mirror.on_delta(self.graph.flush())
        for key, problems in self.graph.pop_problems().items():
            assert problems != self.problems.get(key, ())
            self.problems[key] = problems
        assert not self.graph.flush()

    def check(self, state: State) -> None:
        """Fails unless everything is as `state` demands."""
        self.flush()
        assert describe(self.mirror) == expect(state), state.name
        told = sorted(str(problem) for problems in self.problems.values() for problem in problems)
        assert told == sorted(state.problems), state.name
        assert self.graph.stats().local_endpoints == len(state.endpoints)
        assert self.graph.stats().selectors == len(state.sets)


RHYTHMS: dict[str, Rhythm] = {
    "each update": lambda number, is_last: True,
    "each state": lambda number, is_last: is_last,
    "some updates": lambda number, is_last: number % 3 == 0,
    "at the end": lambda number, is_last: False,
}


def walk_forward(walker: Walker) -> Iterator[State]:
    for state in STATES:
        walker.go(state.records)
        yield state


def walk_backward(walker: Walker) -> Iterator[State]:
    for state in reversed(STATES):
        walker.go(state.records)
        yield state


def walk_shuffled(walker: Walker) -> Iterator[State]:
    for state in walker.random.sample(STATES, len(STATES)):
        walker.go(state.records)
        yield state


def walk_with_empties(walker: Walker) -> Iterator[State]:
    for state in STATES:
        walker.go(state.records)
        yield state
        walker.go({})
        yield EMPTY


def walk_split(walker: Walker) -> Iterator[State]:
    for state in STATES:
        records: Records = {}
        for key in walker.random.sample(list(state.records), len(state.records)):
            records = {**records, key: state.records[key]}
            walker.go(records)
        yield state


def walk_with_restarts(walker: Walker) -> Iterator[State]:
    for state in STATES:
        walker.go(state.records)
        walker.start()
        yield state


WALKS = [walk_forward, walk_backward, walk_shuffled, walk_with_empties, walk_split, walk_with_restarts]


@pytest.mark.parametrize("is_repeating", [False, True], ids=["once", "repeated"])
@pytest.mark.parametrize("rhythm", RHYTHMS)
@pytest.mark.parametrize("walk", WALKS)
def test_graph_walked_through_states_ends_each_as_demanded(
    walk: Callable[[Walker], Iterator[State]], rhythm: str, is_repeating: bool
) -> None:
    walker = Walker(RHYTHMS[rhythm], seed=len(rhythm), is_repeating=is_repeating)
    for state in walk(walker):
        if rhythm != "at the end":
            walker.check(state)
    walker.check(state)
    walker.go({})
    walker.check(EMPTY)


@pytest.mark.parametrize("state", STATES, ids=lambda state: state.name)
def test_graph_given_one_state_alone_is_as_demanded(state: State) -> None:
    walker = Walker(RHYTHMS["at the end"])
    walker.go(state.records)
    walker.check(state)
