"""The keeper of BIRD: one apply for a burst, tries again while BIRD is away, puts things right when it is back."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Callable
from pathlib import Path

import pytest

from felix.calc.bgp import BgpInputs
from felix.dataplane.bird import serve
from felix.dataplane.bird.apply import BirdPlace
from felix.dataplane.bird.serve import BirdKeeper, BirdReport
from felix.dataplane.bird.types import BirdContext, BirdOptions, BirdOutcome, BirdState
from felix.errors import EnvironmentFault

INPUTS = BgpInputs("h1", {}, {}, {}, {}, {}, ())


class FakeBird:
    """A BIRD that may be away, and forgets its configuration when told to."""

    def __init__(self, monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
        self.is_there = True
        self.digest = ""
        self.applies = 0
        self.reports: list[BirdReport] = []
        monkeypatch.setattr(serve, "apply_bird", self.apply)
        monkeypatch.setattr(serve, "read_state", self.read)
        monkeypatch.setattr(serve, "_LOOK_S", 0.02)
        monkeypatch.setattr(serve, "_SETTLE_S", 0.01)
        place = BirdPlace(tmp_path / "bird.conf", tmp_path / "bird.ctl")
        self.keeper = BirdKeeper(place, BirdOptions({}), self.reports.append)

    async def apply(self, place: BirdPlace, context: BirdContext) -> BirdOutcome:
        self.applies += 1
        if not self.is_there:
            return BirdOutcome(False, True, False, "right", (), "nobody listens")
        self.digest = "right"
        return BirdOutcome(True, True, True, "right", ())

    async def read(self, socket: Path, timeout_s: float) -> BirdState:
        if not self.is_there:
            raise EnvironmentFault("nobody listens")
        return BirdState("2", "10.0.0.1", self.digest, ())

    async def until(self, is_so: Callable[[], bool]) -> None:
        """Waits until it is so."""
        async with asyncio.timeout(5.0):
            while True:
                if is_so():
                    return
                await asyncio.sleep(0.002)


@pytest.fixture
async def bird(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> AsyncIterator[FakeBird]:
    bird = FakeBird(monkeypatch, tmp_path)
    task = asyncio.create_task(bird.keeper.run())
    yield bird
    task.cancel()
    await asyncio.wait([task])
    assert task.cancelled()


async def test_keeper_without_inputs_looks_and_configures_nothing(bird: FakeBird) -> None:
    await bird.until(lambda: len(bird.reports) >= 3)
    assert bird.applies == 0
    assert bird.reports[-1].state is not None
    assert bird.reports[-1].outcome is None


async def test_burst_of_inputs_is_one_apply(bird: FakeBird) -> None:
    for _ in range(20):
        bird.keeper.on_inputs(INPUTS)
        await asyncio.sleep(0)
    await bird.until(lambda: bird.digest == "right")
    looks = len(bird.reports)
    await bird.until(lambda: len(bird.reports) >= looks + 3)
    assert bird.applies == 1


async def test_bird_that_is_away_is_tried_again_and_reported(bird: FakeBird) -> None:
    bird.is_there = False
    bird.keeper.on_inputs(INPUTS)
    await bird.until(lambda: bool(bird.reports) and bird.reports[-1].fault == "nobody listens")
    bird.is_there = True
    await bird.until(lambda: bird.digest == "right")
    await bird.until(lambda: not bird.reports[-1].fault)
    assert bird.reports[-1].state is not None


async def test_bird_that_runs_something_else_gets_its_configuration_again(bird: FakeBird) -> None:
    bird.keeper.on_inputs(INPUTS)
    await bird.until(lambda: bird.digest == "right")
    bird.digest = "from somewhere else"
    await bird.until(lambda: bird.digest == "right")
    assert bird.applies == 2


async def test_bird_that_dies_is_reported_and_needs_nothing_when_it_comes_back_right(bird: FakeBird) -> None:
    bird.keeper.on_inputs(INPUTS)
    await bird.until(lambda: bird.digest == "right")
    bird.is_there = False
    await bird.until(lambda: "does not answer" in bird.reports[-1].fault)
    bird.is_there = True
    await bird.until(lambda: not bird.reports[-1].fault)
    assert bird.applies == 1
