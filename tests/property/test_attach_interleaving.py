"""Attaching, detaching and collecting at the same time, in any order, with losses and deaths: the laws hold always."""

from __future__ import annotations

import asyncio
import random

from hypothesis import example, given, settings
from hypothesis import strategies as st

from felix.attach.types import AllocateRequest, Refusal, ReleaseRequest
from felix.collect.apply import collect_findings
from felix.collect.plan import Tracker
from felix.collect.read import read_world
from felix.collect.types import Graces, Reach
from felix.errors import FelixError
from felix.model.codec import decode
from felix.model.keys import HANDLES
from felix.model.net import parse_net
from felix.model.records import WorkloadEndpoint
from tests.model.attach_fleet import AgentStore, AttachFleet, Dead
from tests.model.turns import TurnLoop
from tests.support.ipam import check_laws, pool, read_blocks, resource

NODES = ("h1", "h2")
CONTAINERS = (("h1", "c1"), ("h1", "c2"), ("h2", "c3"), ("h2", "c4"))
SCRIPTS = st.lists(
    st.sampled_from(["attach", "wanted", "given", "interrupted", "detach", "release"]), min_size=1, max_size=4
)


class Scene:
    """One run. living: the container of each address, as answers said."""

    def __init__(self, loop: TurnLoop, seed: int, losses: int, deaths: int) -> None:
        self.chance = random.Random(seed)
        self.fleet = AttachFleet(loop, self.chance, losses, deaths, NODES)
        self.living: dict[str, str] = {}
        for key, value in (
            pool("v4", "10.0.0.0/29", blockSize=30),
            *(resource("Node", node, {"bgp": {"ipv4Address": f"192.0.2.{node[1:]}/24"}}) for node in NODES),
        ):
            self.fleet.store.put(key, value)
        self.fleet.check = self.check
        self.fleet.start()

    @property
    def values(self) -> dict[str, bytes]:
        return {path: pair.value for path, pair in self.fleet.store.pairs.items()}

    def check(self) -> None:
        """Records agree; each endpoint's addresses are given out, under a handle, and no other endpoint has them."""
        values = self.values
        check_laws(values)
        held = {
            block.address(ordinal): holder.handle
            for block in read_blocks(values).values()
            for ordinal, holder in block.held()
        }
        users: dict[str, str] = {}
        for key, pair in self.fleet.endpoints().items():
            record = decode(key, pair.value).record
            assert isinstance(record, WorkloadEndpoint)
            for text in record.spec.ip_networks:
                address = parse_net(text).address
                assert address in held, f"{key.name} has {address}, which is nobody's"
                assert address not in users, f"{address} is of {users[address]} and {key.name}"
                users[address] = key.name

    async def live(self, node: str, container: str, script: list[str]) -> None:
        """A runtime does what the script says, and DEL until it succeeds after everything that failed, and at last."""
        for verb in script:
            try:
                if verb == "detach":
                    await self.stop(node, container)
                elif verb == "release":  # again, by somebody who does not know that it was done
                    await self.stop(node, container)
                    await self.fleet.agent_by_node[node].parts.leases.release(
                        ReleaseRequest(handle=f"net1.{container}")
                    )
                elif verb == "interrupted":
                    await self._interrupt(node, container)
                else:
                    self.take(container, await self._attach(node, container, verb))
                    continue
            except (FelixError, Dead, asyncio.CancelledError):
                pass
            await self.stop(node, container)
        await self.stop(node, container)

    def take(self, container: str, addresses: list[str]) -> None:
        for address in addresses:
            assert self.living.setdefault(address, container) == container

    async def stop(self, node: str, container: str) -> None:
        self.living = {address: other for address, other in self.living.items() if other != container}
        while True:
            try:
                return await self.fleet.detach(node, container)
            except (Refusal, Dead):
                continue

    async def collect(self, rounds: int) -> None:
        """A collector with hardly any patience looks and takes back."""
        store = AgentStore(self.fleet.store, self.fleet.turns, None)
        tracker = Tracker("h9")
        for number in range(rounds):
            world = await read_world(store)
            due = tracker.on_world(world, Reach(), Graces(1.0, 0.0), float(number))
            await collect_findings(store, due.findings, [])

    async def sweep(self) -> None:
        """Agents miss the interfaces of what was written after its agent had died."""
        for agent in self.fleet.turns.agents:
            for now in (0.0, 10.0):
                await agent.parts.cleaner.sweep(now)

    def check_nothing(self) -> None:
        assert self.fleet.endpoints() == {}
        assert not [path for path in self.values if path.startswith(HANDLES)]
        assert not any(list(block.held()) for block in read_blocks(self.values).values())
        for agent in self.fleet.turns.agents:
            assert agent.kernel.spec_by_end == {}
            assert len(agent.service.debts) == 0

    async def settle(self) -> None:
        """Everything that waited has gone on."""
        turns = self.fleet.turns
        turns.losses = turns.deaths = 0
        await asyncio.sleep(100.0)  # time passes only when nobody can go on; longer than any of them waits
        assert [*turns.waiting, *turns.zombies] == []
        assert [one for one in turns.agents if one.news or len(one.service.debts)] == []

    async def _attach(self, node: str, container: str, verb: str) -> list[str]:
        if verb == "attach":
            return await self.fleet.attach(node, container, ipv4=self.chance.choice((1, 1, 2)), deadline_s=5.0)
        if verb == "wanted":
            wanted = [f"10.0.0.{self.chance.randrange(8)}"]
            return await self.fleet.attach(node, container, addresses=wanted, deadline_s=5.0)
        agent = self.fleet.agent_by_node[node]
        asked = AllocateRequest(handle=f"net1.{container}", ipv4=1, attributes={"felix.use": "pending"})
        got = await agent.ask(agent.parts.leases.allocate(asked))
        return await self.fleet.attach(node, container, given=[net.address for net in got], deadline_s=5.0)

    async def _interrupt(self, node: str, container: str) -> None:
        """A detach comes while the container is being attached."""
        attaching = asyncio.ensure_future(self._attach(node, container, self.chance.choice(("attach", "given"))))
        await asyncio.sleep(0)
        try:
            await self.stop(node, container)
        finally:
            await asyncio.wait([attaching])
            if not attaching.cancelled():
                attaching.exception()


async def _play(scene: Scene, scripts: list[list[str]], looks: int) -> None:
    acts = [scene.live(*who, script) for who, script in zip(CONTAINERS, scripts, strict=False)]
    await asyncio.gather(*acts, scene.collect(looks))
    await scene.settle()
    had_deaths = scene.fleet.turns.had_deaths
    if not had_deaths:
        scene.check_nothing()
    await scene.sweep()
    await scene.collect(2)
    await scene.settle()
    scene.check_nothing()


@example([["given"]], 1619, 1, 0, 3)  # collected between allocation and attach
@example([["attach", "detach"]], 1310, 2, 1, 3)  # written by an agent that is dead, while the next one detaches
@example([["given", "given"]], 102515, 6, 3, 2)  # the same with an address that was allocated before
@example([["attach", "release", "interrupted", "given"]], 105715, 0, 3, 2)
@example([["attach"] * 3, ["given", "attach", "given"]], 120064, 3, 0, 2)  # owed from before, under the same handle
@settings(max_examples=500, deadline=None)
@given(
    st.lists(SCRIPTS, min_size=1, max_size=len(CONTAINERS)),
    st.integers(0, 2**32 - 1),
    st.integers(0, 4),
    st.integers(0, 3),
    st.integers(0, 3),
)
def test_any_interleaving_of_attach_detach_and_collecting_gives_each_address_once_and_leaves_nothing(
    scripts: list[list[str]], seed: int, losses: int, deaths: int, looks: int
) -> None:
    loop = TurnLoop()
    try:
        asyncio.set_event_loop(loop)

        async def run() -> None:
            await _play(Scene(loop, seed, losses, deaths), scripts, looks)

        loop.run_until_complete(run())
    finally:
        for task in asyncio.all_tasks(loop):
            task.cancel()
        loop.run_until_complete(asyncio.sleep(0))
        asyncio.set_event_loop(None)
        loop.close()
