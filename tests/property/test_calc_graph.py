"""Calculation over generated worlds: the same by every path, nothing left behind, and what the reference says.

Intermediate states are judged by the mirror at every flush. Kernels are compared with the reference elsewhere.
"""

from __future__ import annotations

import random

from hypothesis import given
from hypothesis import strategies as st

from felix.calc.graph import CalcGraph
from felix.errors import Problem
from felix.model.keys import Key, ResourceKey
from felix.model.records import Record
from felix.policy.evaluate import World, evaluate
from felix.policy.packet import Packet
from tests.model.desired_eval import is_allowed
from tests.model.desired_mirror import DesiredMirror
from tests.model.worlds import HOSTS, world_updates, worlds, worlds_with_packets

Records = dict[ResourceKey, Record]


class Follower:
    """A graph, the mirror that judges it, and the problems it told."""

    def __init__(self, host: str) -> None:
        self.host = host
        self.graph, self.mirror = CalcGraph(host), DesiredMirror()
        self.problems: dict[Key, tuple[Problem, ...]] = {}

    def flush(self) -> None:
        self.mirror.on_delta(self.graph.flush())
        self.problems.update(self.graph.pop_problems())
        self.problems = {key: problems for key, problems in self.problems.items() if problems}

    def check(self, stored: Records) -> None:
        """Flushes; fails unless everything is as in a new graph that read `stored` in the order of keys."""
        self.flush()
        straight = Follower(self.host).load(dict(sorted(stored.items())))
        assert self.mirror == straight.mirror
        assert self.problems == straight.problems
        assert self.graph.stats() == straight.graph.stats()

    def load(self, records: Records) -> Follower:
        for key, record in records.items():
            self.graph.on_update(key, record)
        self.flush()
        return self


def read_world(world: World) -> Records:
    return dict(world_updates(world))


def shake(records: Records, choice: random.Random) -> Records:
    """Moves everything a little: each record has a chance to become that of another key of its kind, or to go."""
    shaken: Records = {}
    for key, record in records.items():
        others = [other for other in records if other[:2] == key[:2]]
        if choice.random() < 0.7:
            shaken[key] = records[choice.choice(others)] if choice.random() < 0.5 else record
    return shaken


@given(worlds(), worlds(), st.integers(0, 2**32), st.sampled_from(HOSTS))
def test_graph_by_any_path_is_at_every_flush_as_if_loaded_at_once(
    first: World, last: World, seed: int, host: str
) -> None:
    choice = random.Random(seed)
    target = read_world(last)
    stages = [read_world(first), shake(read_world(first), choice), shake(target, choice), target]
    follower = Follower(host)
    stored: Records = {}
    for stage in stages:
        keys = [*stored.keys(), *stage.keys()]
        choice.shuffle(keys)  # keys of both stages come twice: repeated updates
        for key in keys:
            follower.graph.on_update(key, stage.get(key))
            if key in stage:
                stored[key] = stage[key]
            else:
                stored.pop(key, None)
            if choice.random() < 0.2:
                follower.graph.settle(choice.randrange(3))
            if choice.random() < 0.1:
                follower.check(stored)
    follower.check(target)


@given(worlds(), st.integers(0, 2**32), st.sampled_from(HOSTS))
def test_graph_after_everything_is_deleted_is_as_new(world: World, seed: int, host: str) -> None:
    records = read_world(world)
    follower = Follower(host).load(records)
    for key in random.Random(seed).sample(list(records), len(records)):
        follower.graph.on_update(key, None)
        follower.flush()
    assert follower.mirror == DesiredMirror()
    assert follower.problems == {}
    assert find_leftovers(follower.graph) == []


def find_leftovers(owner: object, path: str = "graph") -> list[str]:
    """Returns the non-empty containers that an object of calculation reaches: each would be a leak."""
    left: list[str] = []
    for name, value in _read_members(owner).items():
        where = f"{path}.{name}"
        if isinstance(value, dict | set | list):
            left += [where] if value and name not in {"_count_by_kind", "_stacks_by_selectors"} else []
        elif type(value).__module__.startswith("felix."):
            left += find_leftovers(value, where)
    return left


def _read_members(owner: object) -> dict[str, object]:
    slots = [name for kind in type(owner).__mro__ for name in getattr(kind, "__slots__", ())]
    members = {name: getattr(owner, name) for name in slots if not name.startswith("__")}
    return members | getattr(owner, "__dict__", {})


@given(worlds_with_packets(8))
def test_desired_state_decides_as_the_reference_does(case: tuple[World, list[Packet]]) -> None:
    world, packets = case
    for host in HOSTS:
        mirror = Follower(host).load(read_world(world)).mirror
        for packet in packets:
            verdict = evaluate(world, packet, host)
            assert is_allowed(mirror, packet) == verdict.allowed, (host, str(packet), verdict.trace)
