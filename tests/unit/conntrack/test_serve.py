"""When connections of former addresses are removed: in peace, unless somebody waits for it."""

from __future__ import annotations

import asyncio

from felix.dataplane.conntrack.plan import ConntrackPlanned
from felix.dataplane.conntrack.serve import ConnectionKeeper
from felix.dataplane.conntrack.types import ConntrackResult
from tests.support.desired import endpoint_key, local_endpoint

ONE, TWO = local_endpoint("a", "calia", "10.0.0.1"), local_endpoint("b", "calib", "10.0.0.2")
HEIR = local_endpoint("c", "calic", "10.0.0.2")
WALK_S = 0.2


class Desk:
    """A keeper, and what it had flushed; each flush takes `WALK_S`, so that a rest of many times that is due."""

    def __init__(self) -> None:
        self.flushed: list[list[str]] = []
        self.told: asyncio.Queue[None] = asyncio.Queue()
        self.keeper = ConnectionKeeper(self._flush, lambda _: None)
        self.keeper.on_delta({one.key: one for one in (ONE, TWO)})

    async def _flush(self, planned: ConntrackPlanned) -> ConntrackResult:
        await asyncio.sleep(WALK_S)
        self.flushed.append(sorted(net.address for net in planned))
        self.told.put_nowait(None)
        return ConntrackResult(len(planned))

    async def lose_both(self) -> None:
        """The first has been flushed, and the second is to be: the keeper rests before it."""
        self.keeper.on_delta({endpoint_key("a"): None})
        self.keeper.flush_rest()
        await self.told.get()
        self.keeper.on_delta({endpoint_key("b"): None})
        await asyncio.sleep(0)
        self.keeper.flush_rest()
        await asyncio.sleep(0)


async def test_flush_after_a_flush_rests_and_happens_all_the_same() -> None:
    desk = Desk()
    await desk.lose_both()
    await asyncio.sleep(WALK_S * 2)
    assert desk.flushed == [["10.0.0.1"]]
    await desk.told.get()
    assert desk.flushed == [["10.0.0.1"], ["10.0.0.2"]]
    await desk.keeper.close()


async def test_address_with_a_new_owner_is_not_kept_waiting_by_the_rest() -> None:
    desk = Desk()
    await desk.lose_both()
    desk.keeper.on_delta({HEIR.key: HEIR})
    await desk.keeper.flush_inherited()
    assert desk.flushed == [["10.0.0.1"], ["10.0.0.2"]]
    await desk.keeper.close()


async def test_end_of_the_agent_leaves_no_flush_undone() -> None:
    desk = Desk()
    await desk.lose_both()
    await desk.keeper.close()
    assert desk.flushed == [["10.0.0.1"], ["10.0.0.2"]]
