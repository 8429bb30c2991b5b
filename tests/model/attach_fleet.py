"""Two hosts in memory that attach containers from one small pool, with agents that die and answers that get lost.

Every call of the store waits twice for its turn: before it has an effect, and before its answer arrives. What an agent
had sent when it died may still have its effect, much later. Agents learn of changes later, too, each at its own pace.
"""

from __future__ import annotations

import asyncio
import random
from collections.abc import AsyncIterator, Callable, Coroutine, Sequence
from functools import partial
from typing import Any, TypeVar

import msgspec

from felix.attach.agent import AttachParts, AttachPorts
from felix.attach.index import AttachmentIndex
from felix.attach.types import AttachRequest, DetachRequest
from felix.calc.desired import LocalEndpoint, Stack
from felix.clock import sleep_s, wall_s
from felix.dataplane.cycle import EndpointCondition, EndpointReport
from felix.datastore.faults import EtcdUnavailable
from felix.datastore.types import Compare, KeyValue, Op, RangePage, TxnResult
from felix.ipam.apply import Pace
from felix.model.codec import decode
from felix.model.keys import ResourceKey, parse_key
from tests.model.attach_world import FakeKernel
from tests.model.fake_store import FakeStore
from tests.model.turns import InlineExecutor, TurnLoop

T = TypeVar("T")
_EMPTY = Stack((), ())


class Dead(Exception):
    """The agent that was asked died before it answered."""


class Turn:
    """Something that waits to go on. agent: whose, None for nobody's that dies."""

    def __init__(self, agent: Agent | None, *, is_sent: bool) -> None:
        self.agent = agent
        self.is_sent = is_sent
        self.future: asyncio.Future[str] = asyncio.get_running_loop().create_future()


class Turns:
    """Who waits, and who goes on: `chance` decides, also what is lost (`losses` times) and who dies (`deaths`)."""

    def __init__(self, chance: random.Random, losses: int, deaths: int) -> None:
        self.waiting: list[Turn] = []
        self.agents: list[Agent] = []
        self.zombies: list[Callable[[], object]] = []
        self.losses = losses
        self.deaths = deaths
        self.had_deaths = False
        self._chance = chance

    async def wait(self, agent: Agent | None, *, is_sent: bool = False) -> str:
        """Returns "" or how the call is lost, once it is its turn."""
        turn = Turn(agent, is_sent=is_sent)
        self.waiting.append(turn)
        return await turn.future

    def go_on(self) -> bool:
        """Somebody has gone on; False: nobody can."""
        chance = self._chance
        lagging = [agent for agent in self.agents if agent.news]
        count = len(self.waiting) + len(lagging) + len(self.zombies)
        if not count:
            return False
        if self.deaths and self.agents and chance.random() < 0.05:
            self.deaths -= 1
            self.had_deaths = True
            chance.choice(self.agents).die()
            return True
        number = chance.randrange(count)
        if number < len(self.waiting):
            turn = self.waiting.pop(number)
            how = ""
            if turn.agent is not None and self.losses and chance.random() < 0.1:
                self.losses -= 1
                how = "lost"
            turn.future.set_result(how)
        elif number < len(self.waiting) + len(lagging):
            lagging[number - len(self.waiting)].learn()
        else:
            self.zombies.pop(number - len(self.waiting) - len(lagging))()
        return True

    def bury(self, agent: Agent) -> None:
        """Nothing of the agent goes on; what it had sent and etcd not done yet may be done later."""
        for turn in [turn for turn in self.waiting if turn.agent is agent]:
            self.waiting.remove(turn)
            turn.future.cancel()


class AgentStore:
    """The store as an agent reaches it."""

    def __init__(self, store: FakeStore, turns: Turns, agent: Agent | None) -> None:
        self._store = store
        self._turns = turns
        self._agent = agent

    async def txn(self, compares: Sequence[Compare], success: Sequence[Op], failure: Sequence[Op] = ()) -> TxnResult:
        work = self._store.txn(list(compares), list(success), list(failure))
        try:
            if await self._turns.wait(self._agent):
                work.close()
                raise EtcdUnavailable("away", is_unsent=True)
        except asyncio.CancelledError:  # the agent is dead, or gave up waiting: the request may be on its way
            self._turns.zombies.append(lambda: _finish(work))
            raise
        result = _finish(work)
        if await self._turns.wait(self._agent):
            raise EtcdUnavailable("away")
        return result

    async def list_prefix(self, prefix: str) -> tuple[list[KeyValue], int]:
        if await self._turns.wait(self._agent):
            raise EtcdUnavailable("away")
        return _finish(self._store.list_prefix(prefix))

    async def pages(self, start: str, end: str, page_keys: int = 100, *, revision: int = 0) -> AsyncIterator[RangePage]:
        await self._turns.wait(self._agent)
        pairs = tuple(pair for name, pair in sorted(self._store.pairs.items()) if start <= name < end)
        yield RangePage(pairs, revision or self._store.revision, more=False)


def _finish(work: Coroutine[Any, Any, T]) -> T:
    """Returns what a call of the store returns that never waits."""
    try:
        work.send(None)
    except StopIteration as done:
        answer: T = done.value
        return answer
    raise AssertionError("the store waits")


class Agent:
    """One agent's life on a host. news: changes of endpoints that it has not learnt of yet, oldest first."""

    def __init__(self, fleet: AttachFleet, node: str, kernel: FakeKernel) -> None:
        self.node = node
        self.kernel = kernel
        self.news: list[tuple[ResourceKey, KeyValue | None]] = []
        self.death = asyncio.get_running_loop().create_future()
        self._fleet = fleet
        self._is_in_sync = False
        self.index = AttachmentIndex(node)
        ports = AttachPorts(self._find_obstacle, self._look, lambda name: name in kernel.spec_by_end)
        store = AgentStore(fleet.store, fleet.turns, self)
        self.parts = AttachParts(node, store, self.index, ports, kernel.port())
        self.parts.endpoints.allocator._pace = Pace(sleep_s, lambda: 0.5, wall_s)
        self.parts.cleaner.grace_s = 1.0
        self.service = self.parts.service
        self.service._threads = InlineExecutor()
        self._debts = asyncio.ensure_future(self.service.debts.run())
        fleet.turns.agents.append(self)
        for key, pair in fleet.endpoints_of(node).items():
            self.news.append((key, pair))
        self.news.append((ResourceKey("Node", "", node), None))  # the end of the snapshot

    def learn(self) -> None:
        """One change more is known."""
        key, pair = self.news.pop(0)
        if key.kind == "Node":
            self._is_in_sync = True
            self.service.gate.on_news()
            return
        self.index.on_record(key, decode(key, pair.value).record if pair else None, pair.mod_revision if pair else 0)
        self.parts.enforcement.on_cycle([key])

    def on_link(self, name: str) -> None:
        self.parts.enforcement.on_cycle([one.key for one in self.index if one.host_interface == name])

    def die(self) -> None:
        """As by kill -9, and another agent takes its place."""
        self._fleet.turns.agents.remove(self)
        self.service._is_closing = True  # so that nothing of it is undone
        self._debts.cancel()
        for task in list(self.service._tasks):
            task.cancel()
        self._fleet.turns.bury(self)
        self.death.set_result(None)
        self._fleet.start_agent(self.node, self.kernel)

    async def ask(self, work: Coroutine[Any, Any, T]) -> T:
        """Returns what the agent answers; raises Dead if it does not live to."""
        task = asyncio.ensure_future(work)
        await asyncio.wait([task, self.death], return_when=asyncio.FIRST_COMPLETED)
        if self.death.done():
            task.cancel()
            await asyncio.wait([task])
            if not task.cancelled():
                task.exception()
            raise Dead
        return task.result()

    def _find_obstacle(self) -> str:
        return "" if self._is_in_sync else "not in sync"

    def _look(self, key: ResourceKey) -> tuple[LocalEndpoint | None, EndpointReport | None]:
        one = self.index.get(key)
        if one is None:
            return None, None
        is_up = one.host_interface in self.kernel.spec_by_end
        condition = EndpointCondition.UP if is_up else EndpointCondition.DOWN
        endpoint = LocalEndpoint(key, one.host_interface, one.addresses, one.mac, _EMPTY, _EMPTY, one.revision)
        return endpoint, EndpointReport(condition, True)


class AttachFleet:
    """The store, the hosts, and whose turn it is. check: called after every change, for what must hold always."""

    def __init__(self, loop: TurnLoop, chance: random.Random, losses: int, deaths: int, nodes: Sequence[str]) -> None:
        self.store = FakeStore()
        self.turns = Turns(chance, losses, deaths)
        self.agent_by_node: dict[str, Agent] = {}
        self.check: Callable[[], None] = lambda: None
        self._nodes = nodes
        self._known: dict[ResourceKey, int] = {}
        loop.set_go_on(self.turns.go_on)

    def start(self) -> None:
        """An agent lives on each host."""
        self.store.observe = self._on_change
        for node in self._nodes:
            self.start_agent(node, FakeKernel(partial(self._on_link, node)))

    def start_agent(self, node: str, kernel: FakeKernel) -> None:
        self.agent_by_node[node] = Agent(self, node, kernel)

    def endpoints_of(self, node: str) -> dict[ResourceKey, KeyValue]:
        return {key: pair for key, pair in self.endpoints().items() if key.name.startswith(f"{node}-")}

    def endpoints(self) -> dict[ResourceKey, KeyValue]:
        return {
            key: pair
            for path, pair in self.store.pairs.items()
            if isinstance(key := parse_key(path), ResourceKey) and key.kind == "WorkloadEndpoint"
        }

    async def attach(self, node: str, container: str, **fields: object) -> list[str]:
        """Returns the addresses that the answer says."""
        asked = {"network": "net1", "netns": "/run/netns/a", "container": container, **fields}
        agent = self.agent_by_node[node]
        answer = await agent.ask(agent.service.attach(msgspec.convert(asked, AttachRequest)))
        return list(answer.addresses)

    async def detach(self, node: str, container: str) -> None:
        asked = {"network": "net1", "container": container}
        agent = self.agent_by_node[node]
        await agent.ask(agent.service.detach(msgspec.convert(asked, DetachRequest)))

    def _on_link(self, node: str, name: str) -> None:
        self.agent_by_node[node].on_link(name)

    def _on_change(self) -> None:
        """Each agent will learn what has become of its host's endpoints."""
        now = self.endpoints()
        for key in [*self._known, *now]:
            before, pair = self._known.get(key, 0), now.get(key)
            if before != (pair.mod_revision if pair else 0):
                self._known[key] = pair.mod_revision if pair else 0
                for agent in self.turns.agents:
                    if key.name.startswith(f"{agent.node}-"):
                        agent.news.append((key, pair))
        self.check()
