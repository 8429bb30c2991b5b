"""Whatever happens, in any order and with any events lost: the table ends as wanted."""

from __future__ import annotations

from hypothesis import settings
from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, initialize, precondition, rule

from felix.calc.desired import LocalEndpoint
from felix.dataplane.routes.plan import RoutePlan
from felix.dataplane.routes.types import (
    RTN_BLACKHOLE,
    RTN_UNICAST,
    SCOPE_LINK,
    SCOPE_UNIVERSE,
    Hop,
    RouteConfig,
    RouteKey,
    RoutePlanned,
    RouteValue,
)
from felix.model.net import Net, parse_net
from tests.support.desired import endpoint_key, local_endpoint
from tests.unit.routes.fake_kernel import OWN_PORT, FakeKernel, Held

NAMES = st.sampled_from(["a", "b", "c"])
INTERFACES = st.sampled_from(["calia", "calib"])
LINKS = st.sampled_from([5, 6, 7])
ADDRESSES = ["10.1.0.1", "10.1.0.2", "fd01::1", "fd01::2"]
BLOCKS = st.sampled_from([parse_net(one) for one in ("10.1.0.0/26", "fd01::/122", "10.2.0.1/32")])
NETS = st.sampled_from([parse_net(one) for one in (*ADDRESSES, "10.9.0.9", "10.1.0.0/26")])
PRIORITIES = st.sampled_from([0, 1024, 7])
HOPPED = st.sampled_from(
    [parse_net(one) for one in ("10.1.0.0/26", "10.3.0.0/26", "fd03::/122", "10.1.0.1", "fd01::2")]
)
VALUES = st.builds(
    RouteValue,
    st.just(RTN_UNICAST),
    st.sampled_from([SCOPE_UNIVERSE, SCOPE_LINK]),
    LINKS,
    st.sampled_from([(), ((8, b"mtu"),)]),
)


class RouteLaws(RuleBasedStateMachine):
    """Rules are what can happen; `settle` at the end of every run compares with what must be."""

    def __init__(self) -> None:
        super().__init__()
        self.kernel = FakeKernel()
        self.plan = RoutePlan(RouteConfig(), OWN_PORT)
        self.endpoints: dict[str, LocalEndpoint] = {}
        self.blocks: set[Net] = set()
        self.hops: dict[Net, Hop] = {}
        self.foreign: list[tuple[RouteKey, Held]] = []
        self.planned: RoutePlanned | None = None
        self.is_applied = False
        self.is_reading = False

    @initialize(is_settled=st.sampled_from([True, True, True, False]))
    def start(self, is_settled: bool) -> None:
        """Three of four runs begin with everything in place, so that few steps are needed to disturb something."""
        for link, name in ((5, "calia"), (6, "calib")):
            self.kernel.set_link(link, name, True)
        if is_settled:
            self.want_endpoint("a", "calia", ["10.1.0.1", "fd01::1"])
            self.want_endpoint("b", "calib", ["10.1.0.2", "fd01::2"])
            self.change_hop(parse_net("10.3.0.0/26"), "calia", True)
            self.settle()

    @rule(name=NAMES, interface=INTERFACES, addresses=st.lists(st.sampled_from(ADDRESSES), unique=True))
    def want_endpoint(self, name: str, interface: str, addresses: list[str]) -> None:
        endpoint = local_endpoint(name, interface, *addresses)
        self.endpoints[name] = endpoint
        self.plan.on_delta({endpoint.key: endpoint}, {})

    @rule(name=NAMES)
    def drop_endpoint(self, name: str) -> None:
        self.endpoints.pop(name, None)
        self.plan.on_delta({endpoint_key(name): None}, {})

    @rule(block=BLOCKS, is_wanted=st.booleans())
    def change_block(self, block: Net, is_wanted: bool) -> None:
        (self.blocks.add if is_wanted else self.blocks.discard)(block)
        self.plan.on_delta({}, {block: True if is_wanted else None})

    @rule(net=HOPPED, interface=st.none() | INTERFACES, is_far=st.booleans())
    def change_hop(self, net: Net, interface: str | None, is_far: bool) -> None:
        self.hops.pop(net, None)
        if interface is not None:
            gateway = parse_net("192.0.2.1" if net.version == 4 else "2001:db8::1")
            self.hops[net] = Hop(interface, gateway if is_far else None)
        self.plan.on_hops({net: self.hops.get(net)})

    @rule(link=LINKS, name=INTERFACES, is_up=st.booleans())
    def change_link(self, link: int, name: str, is_up: bool) -> None:
        self.kernel.set_link(link, name, is_up)

    @rule(link=LINKS)
    def remove_link(self, link: int) -> None:
        self.kernel.set_link(link, None, False)

    @rule(net=NETS, priority=PRIORITIES, value=VALUES, is_ours=st.booleans(), append=st.booleans())
    def tamper_by_writing(self, net: Net, priority: int, value: RouteValue, is_ours: bool, append: bool) -> None:
        self.kernel.put(RouteKey(net, priority), Held(is_ours, value), append=append)

    @rule(data=st.data())
    @precondition(lambda self: self.kernel.table)
    def tamper_by_removing(self, data: st.DataObject) -> None:
        key = data.draw(st.sampled_from(sorted(self.kernel.table)))
        self.kernel.remove(key, data.draw(st.sampled_from(self.kernel.table[key])))

    @rule(data=st.data(), is_ours=st.booleans(), append=st.booleans())
    @precondition(lambda self: self.kernel.table)
    def tamper_with_present(self, data: st.DataObject, is_ours: bool, append: bool) -> None:
        key = data.draw(st.sampled_from(sorted(self.kernel.table)))
        self.kernel.put(key, Held(is_ours, data.draw(VALUES)), append=append)

    @rule()
    @precondition(lambda self: self.planned is None and not self.is_reading)
    def do_one_cycle(self) -> None:
        self.kernel.deliver(self.plan)
        for plan in (self.plan.plan_removals, self.plan.plan_additions):
            planned = plan(True)
            self.plan.absorb(planned, self.kernel.apply(planned))

    @rule(limit=st.integers(1, 4))
    def hear_some_events(self, limit: int) -> None:
        self.kernel.deliver(self.plan, limit)

    @rule()
    def lose_events(self) -> None:
        self.kernel.queue.clear()
        self.plan.mark_unknown()
        self.plan.replace_links((link, name, is_up) for link, (name, is_up) in self.kernel.links.items())

    @rule()
    @precondition(lambda self: self.planned is None and not self.is_reading)
    def begin_read(self) -> None:
        self.is_reading = True
        self.plan.start_read()

    @rule(overrun=st.booleans())
    @precondition(lambda self: self.is_reading)
    def end_read(self, overrun: bool) -> None:
        routes = self.kernel.read()
        if overrun:
            self.lose_events()
        self.is_reading = False
        self.plan.replace_believed(routes)

    @rule(is_removals=st.booleans(), may_delete=st.booleans())
    @precondition(lambda self: self.planned is None and not self.is_reading)
    def begin_write(self, is_removals: bool, may_delete: bool) -> None:
        plan = self.plan.plan_removals if is_removals else self.plan.plan_additions
        self.planned = plan(may_delete)
        self.is_applied = False

    @rule()
    @precondition(lambda self: self.planned is not None)
    def write_then_absorb_later(self) -> None:
        assert self.planned is not None
        planned, self.planned = self.planned, None
        result = self.kernel.apply(planned)
        self.plan.absorb(planned, result)

    @rule(limit=st.integers(0, 3), link=LINKS, is_up=st.booleans())
    @precondition(lambda self: self.planned is not None)
    def write_hear_then_absorb(self, limit: int, link: int, is_up: bool) -> None:
        assert self.planned is not None
        planned, self.planned = self.planned, None
        result = self.kernel.apply(planned)
        if link in self.kernel.links:
            self.kernel.set_link(link, self.kernel.links[link][0], is_up)
        self.kernel.deliver(self.plan, limit)
        self.plan.absorb(planned, result)

    def teardown(self) -> None:
        if self.is_reading:
            self.end_read(overrun=False)
        if self.planned is not None:
            self.write_then_absorb_later()
        self.settle()
        assert self.plan.plan_removals(True) == self.plan.plan_additions(True) == ()

    def settle(self) -> None:
        """The plan hears everything and writes until nothing is left; then the table is what it must be."""
        self.plan.retry_failed()
        for _ in range(8):
            self.kernel.deliver(self.plan)
            if self.plan.needs_read:
                self.plan.start_read()
                self.plan.replace_believed(self.kernel.read())
            foreign = self._foreign()
            removals = self.plan.plan_removals(True)
            self.plan.absorb(removals, self.kernel.apply(removals))
            assert self._foreign() == foreign
            additions = self.plan.plan_additions(True)
            self.plan.absorb(additions, self.kernel.apply(additions))
            if not self.kernel.queue and self.plan.is_settled:
                break
        else:
            raise AssertionError("it never settles")
        believed = {key: set(values) for key, values in self.plan.routes.believed.items()}
        present: dict[RouteKey, set[RouteValue]] = {}
        for key, value in self.kernel.read():
            present.setdefault(key, set()).add(value)
        assert present == self._expected()
        assert believed == present

    def _foreign(self) -> list[tuple[RouteKey, Held]]:
        return [(key, held) for key, routes in self.kernel.table.items() for held in routes if not held.is_ours]

    def _expected(self) -> dict[RouteKey, set[RouteValue]]:
        link_by_name = {name: link for link, (name, is_up) in self.kernel.links.items() if is_up}
        expected: dict[RouteKey, set[RouteValue]] = {}
        claimed: set[Net] = set()
        for _, endpoint in sorted(self.endpoints.items()):
            for net in endpoint.addresses:
                link = link_by_name.get(endpoint.interface)
                if net not in claimed and link is not None:
                    scope = SCOPE_LINK if net.version == 4 else SCOPE_UNIVERSE
                    expected[_key(net)] = {RouteValue(RTN_UNICAST, scope, link)}
                claimed.add(net)
        for net, hop in self.hops.items():
            link = link_by_name.get(hop.interface)
            if net not in claimed and link is not None:
                scope = SCOPE_LINK if net.version == 4 and hop.gateway is None else SCOPE_UNIVERSE
                is_onlink = hop.gateway is not None
                expected[_key(net)] = {RouteValue(RTN_UNICAST, scope, link, (), hop.gateway, is_onlink)}
        for block in self.blocks:
            if not block.is_address and block not in self.hops:
                expected[_key(block)] = {RouteValue(RTN_BLACKHOLE, SCOPE_UNIVERSE, 0)}
        return expected


def _key(net: Net) -> RouteKey:
    return RouteKey(net, 0 if net.version == 4 else 1024)


TestRouteLaws = RouteLaws.TestCase
TestRouteLaws.settings = settings(max_examples=400, stateful_step_count=30, deadline=None)
