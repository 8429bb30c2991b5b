"""A whole kernel for the driver: fake nf_tables, fake routes and interfaces, a log of steps, and failures at will."""

from __future__ import annotations

import asyncio
from collections.abc import Callable, Collection, Iterator, Sequence
from contextlib import suppress

from felix.calc.desired import DesiredDelta, LocalEndpoint
from felix.clock import monotonic_s
from felix.dataplane.addresses.types import AddressEvent
from felix.dataplane.conntrack.plan import ConntrackPlanned
from felix.dataplane.conntrack.types import ConntrackResult, FlowsRead, OpenFlow
from felix.dataplane.cycle import Cycle, EndpointCondition
from felix.dataplane.driver import Driver, DriverConfig
from felix.dataplane.links.types import Link, LinkConfig, LinkGone, LinkPlanned, LinkResult
from felix.dataplane.netlink.message import Refusal
from felix.dataplane.nft.apply import apply_cleanup, apply_fill, apply_structure
from felix.dataplane.nft.base import FROM_WORKLOAD
from felix.dataplane.nft.elements import name_key
from felix.dataplane.nft.read import read_table
from felix.dataplane.nft.types import ApplyResult, CleanupPlan, FillPlan, KernelTable, StructurePlan
from felix.dataplane.qdiscs.types import QdiscPlanned, QdiscResult, Shaper
from felix.dataplane.routes.types import RouteEvent, RoutePlanned, RouteResult
from felix.dataplane.serve import HostState, KernelNews
from felix.dataplane.tunnels.types import ItemEvent, TunnelPlanned, TunnelResult, TunnelState
from felix.model.keys import ResourceKey
from felix.model.net import Net, parse_address
from felix.policy.packet import Way
from tests.model.fake_nft import FakeNft
from tests.unit.routes.fake_kernel import OWN_PORT, FakeKernel
from tests.unit.tunnels.fake_kernel import FakeTunnels

WRITES = ("fill", "structure", "cleanup", "routes", "links", "qdiscs", "tunnels", "flush")
READS = ("read_host", "read_table", "read_tunnels")


class FakeWorld:
    """Implements KernelPort. steps: what was asked, in order, failed attempts included.

    failures_by_step: raised by the next calls of a step. before_step: called with each step's name before it happens.
    after_routes: called after routes were written, before the driver knows what became of them.
    flushing: while it is not set, a flush does not end.
    flows: open connections; own: addresses of the host itself; ways: to others; looks: whose connections were asked for
    (None: everybody's); flow_faults: why the next of those questions get no answer.
    """

    def __init__(self) -> None:
        self.nft = FakeNft()
        self.host = FakeKernel()
        self.tunnels = FakeTunnels()
        self.addresses: list[AddressEvent] = []
        self.mtu_by_link: dict[int, int] = {}
        self.steps: list[str] = []
        self.shapers: dict[int, Shaper] = {}
        self.lacks_shapers = False
        self.flushed: list[ConntrackPlanned] = []
        self.failures_by_step: dict[str, list[Exception]] = {}
        self.before_step: Callable[[str], None] = lambda step: None
        self.after_routes: Callable[[], None] = lambda: None
        self.flushing = asyncio.Event()
        self.flushing.set()
        self.news: KernelNews | None = None
        self.flows: list[OpenFlow] = []
        self.own: frozenset[Net] = frozenset()
        self.looks: list[frozenset[Net] | None] = []
        self.ways: dict[Net, Way] = {}
        self.flow_faults: list[str] = []

    @property
    def writes(self) -> list[str]:
        """The steps that were not reads."""
        return [step for step in self.steps if step in WRITES]

    def is_open(self, interface: str) -> bool:
        """Whether nf_tables leads the interface's packets to a policy."""
        return self.nft.table is not None and name_key(interface) in self.nft.table.elements.get(FROM_WORKLOAD, {})

    def has_route(self, address: str) -> bool:
        """Whether there is a route of ours for the address."""
        wanted = parse_address(address)
        return any(key.net == wanted and any(one.is_ours for one in held) for key, held in self.host.table.items())

    def set_link(self, index: int, name: str | None, is_up: bool = True) -> None:
        """The interface is so from now on, and the driver hears of it."""
        self.host.set_link(index, name, is_up)
        self.deliver()

    def deliver(self) -> None:
        """The driver hears all that happened."""
        while self.host.queue and self.news is not None:
            event = self.host.queue.popleft()
            if isinstance(event, RouteEvent):
                if event.is_ours or event.is_replace:
                    self.news.on_routes([event])
            elif event.name is None:
                self.news.on_links([LinkGone(event.link)])
            else:
                self.news.on_links([self._make_link(event.link, event.name, event.is_up)])
        while self.tunnels.queue and self.news is not None:
            told = self.tunnels.queue.popleft()
            if told.link in self.news.tunnel_links or not isinstance(told, ItemEvent):
                self.news.on_tunnels([told])

    def move_address(self, link: int, address: Net) -> None:
        """The address is on that interface, and on no other, and the driver hears of it."""
        events = [AddressEvent(one.link, address, False) for one in self.addresses if one.address == address]
        events.append(AddressEvent(link, address, True))
        self.addresses = [one for one in self.addresses if one.address != address] + events[-1:]
        if self.news is not None:
            self.news.on_addresses(events)

    def _make_link(self, index: int, name: str, is_up: bool) -> Link:
        return Link(index, name, is_up, is_up, b"", self.mtu_by_link.get(index, 1500))

    def show_devices(self) -> None:
        """A tunnel's device is an interface as others are; the driver hears of both."""
        before = {link for link, (name, _) in self.host.links.items() if name.startswith("vxlan")}
        shown = {
            held.link: (name, held.device is None or held.device.is_up) for name, held in self.tunnels.held.items()
        }
        for link in before - shown.keys():
            self.host.set_link(link, None, False)
        for link, (name, is_up) in shown.items():
            if self.host.links.get(link) != (name, is_up):
                self.host.set_link(link, name, is_up)
        self.deliver()

    # --- KernelPort ---

    async def open(self, news: KernelNews) -> int:
        self.host.queue.clear()
        self.tunnels.queue.clear()
        self.news = news
        return OWN_PORT

    async def close(self) -> None:
        self.news = None

    async def read_table(self) -> KernelTable:
        await self._begin("read_table")
        return read_table(self.nft)

    async def read_host(self) -> HostState:
        await self._begin("read_host")
        links = [self._make_link(index, name, is_up) for index, (name, is_up) in self.host.links.items()]
        return HostState(links, [], self.host.read(), addresses=list(self.addresses))

    async def read_tunnels(self) -> TunnelState:
        await self._begin("read_tunnels")
        return self.tunnels.read()

    async def apply_fill(self, plan: FillPlan) -> ApplyResult:
        await self._begin("fill")
        return apply_fill(self.nft, plan)

    async def apply_structure(self, plan: StructurePlan) -> ApplyResult:
        await self._begin("structure")
        return apply_structure(self.nft, plan)

    async def apply_cleanup(self, plan: CleanupPlan) -> ApplyResult:
        await self._begin("cleanup")
        return apply_cleanup(self.nft, plan)

    async def apply_routes(self, planned: RoutePlanned) -> RouteResult:
        await self._begin("routes")
        result = self.host.apply(planned)
        self.deliver()
        self.after_routes()
        return result

    async def apply_links(self, planned: LinkPlanned) -> LinkResult:
        await self._begin("links")
        return LinkResult({}, (), (None,) * len(planned.neighbours), (None,) * len(planned.stale_neighbours))

    async def apply_qdiscs(self, planned: QdiscPlanned) -> QdiscResult:
        await self._begin("qdiscs")
        answer = Refusal(2, "Specified qdisc kind is unknown") if self.lacks_shapers else None
        self.shapers |= dict(planned.shapers) if answer is None else {}
        return QdiscResult(shapers=(answer,) * len(planned.shapers), stale=(None,) * len(planned.stale))

    async def apply_tunnels(self, planned: TunnelPlanned) -> TunnelResult:
        await self._begin("tunnels")
        result = self.tunnels.apply(planned)
        self.show_devices()
        return result

    async def flush(self, planned: ConntrackPlanned) -> ConntrackResult:
        await self._begin("flush")
        await self.flushing.wait()
        self.flushed.append(planned)
        return ConntrackResult(len(planned))

    async def find_flows(self, addresses: Collection[Net]) -> FlowsRead:
        await asyncio.sleep(0)
        self.looks.append(frozenset(addresses))
        if self.flow_faults:
            return FlowsRead(reason=self.flow_faults.pop(0))
        ends = [(flow, {flow.packet.source_net, flow.packet.destination_net}) for flow in self.flows]
        return FlowsRead(tuple(flow for flow, nets in ends if nets & set(addresses)))

    async def remove_flows(self, flows: Sequence[OpenFlow]) -> ConntrackResult:
        await asyncio.sleep(0)
        self.flows = [flow for flow in self.flows if flow not in flows]
        return ConntrackResult(len(flows))

    async def find_part(self, part: int, parts: int) -> FlowsRead:
        await asyncio.sleep(0)
        self.looks.append(None)
        return FlowsRead(tuple(self.flows[part::parts]))

    async def count_flows(self) -> int:
        await asyncio.sleep(0)
        return len(self.flows)

    async def find_ways(self, addresses: Collection[Net]) -> dict[Net, Way]:
        await asyncio.sleep(0)
        return {net: self.ways.get(net, Way("", net in self.own)) for net in addresses}

    async def _begin(self, step: str) -> None:
        await asyncio.sleep(0)  # as a thread would: others run meanwhile
        self.steps.append(step)
        self.before_step(step)
        if failures := self.failures_by_step.get(step):
            raise failures.pop(0)


ONLY_WORKLOADS = LinkConfig(has_host_forwarding=False)


class Rig:
    """A driver on a fake world. cycles: all so far. foreign: what was told of others' changes."""

    def __init__(self, world: FakeWorld, links: LinkConfig = ONLY_WORKLOADS) -> None:
        self.world = world
        self.cycles: list[Cycle] = []
        self.foreign: list[tuple[str, str]] = []
        config = DriverConfig(links=links)
        self.driver = Driver(config, world, self.cycles.append, lambda *who: self.foreign.append(who))
        self.revision = 0
        self._task: asyncio.Task[None] | None = None

    async def start(self, *endpoints: LocalEndpoint) -> None:
        """The driver has started, and works on these endpoints."""
        await self.driver.start()
        self.want(*endpoints)
        self.driver.on_in_sync()
        self.run()

    def run(self) -> None:
        """The driver's loop runs from now on."""
        self._task = asyncio.create_task(self.driver.run())

    async def stop(self) -> None:
        """The driver is gone; raises what ended it before."""
        if self._task is not None:
            self._task.cancel()
            with suppress(asyncio.CancelledError):
                await self._task
        await self.driver.close()

    def want(self, *endpoints: LocalEndpoint, without: LocalEndpoint | None = None) -> None:
        """These endpoints are wanted too, and one is not any more."""
        delta = DesiredDelta()
        delta.endpoints.update({one.key: one for one in endpoints})
        if without is not None:
            delta.endpoints[without.key] = None
        self.tell(delta)

    def tell(self, delta: DesiredDelta) -> None:
        """Desired state changes."""
        self.revision += 1
        self.driver.on_delta(delta, self.revision, monotonic_s())

    def condition(self, endpoint: LocalEndpoint) -> EndpointCondition | None:
        """How the endpoint stands, None if it is not known."""
        return self.condition_of(endpoint.key)

    def condition_of(self, key: ResourceKey) -> EndpointCondition | None:
        """How the endpoint of that key stands, None if it is not known."""
        report = self.driver.board.reports.get(key)
        return None if report is None else report.condition

    async def until(self, is_so: Callable[[], bool], within_s: float = 5.0) -> None:
        """Waits until it is so."""
        async with asyncio.timeout(within_s):
            while not is_so():
                if self._task is not None and self._task.done():
                    self._task.result()
                await asyncio.sleep(0.001)

    async def until_up(self, *endpoints: LocalEndpoint) -> None:
        """Waits until all is in the kernel and these endpoints are up."""
        await self.until(
            lambda: (
                all(self.condition(one) is EndpointCondition.UP for one in endpoints)
                and self.cycles[-1].is_settled
                and self.cycles[-1].revision == self.revision
            )
        )

    def problems(self) -> Iterator[dict[str, str]]:
        """Yields the problems of each cycle that told of some or of their end: reasons by key."""
        for cycle in self.cycles:
            if cycle.problems is not None:
                yield {str(key): problem.reason for key, problem in cycle.problems.items()}
