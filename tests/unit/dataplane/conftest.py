"""A driver on a fake world, stopped afterwards."""

from __future__ import annotations

from collections.abc import AsyncIterator

import pytest

from tests.unit.dataplane.fake_world import FakeWorld, Rig


@pytest.fixture
async def world() -> FakeWorld:
    """A host with two workload interfaces and nothing of ours."""
    world = FakeWorld()
    world.host.set_link(5, "calia", True)
    world.host.set_link(6, "calib", True)
    return world


@pytest.fixture
async def rig(world: FakeWorld) -> AsyncIterator[Rig]:
    """A driver on `world`, not started yet."""
    rig = Rig(world)
    yield rig
    await rig.stop()
