"""Whatever happens, in any order and with any events lost: devices and what is on them end as wanted."""

from __future__ import annotations

from collections.abc import Sequence

from hypothesis import settings
from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, initialize, precondition, rule

from felix.calc.desired import OwnVtep, RemoteVtep
from felix.dataplane.tunnels.plan import TunnelPlan
from felix.dataplane.tunnels.types import (
    DEVICE_BY_VERSION,
    Device,
    Item,
    Kind,
    Parent,
    PutItem,
    RemoveItem,
    TunnelPlanned,
    TunnelState,
    Worth,
)
from felix.model.net import Net, parse_net
from tests.unit.tunnels.fake_kernel import FakeTunnels

VERSIONS = st.sampled_from([6, 6, 6, 4])
NODES = st.sampled_from(["a", "b", "c"])
MACS = ["66:00:00:00:00:01", "66:00:00:00:00:02", "66:00:00:00:00:03"]
OWN_ADDRESSES = {4: ["10.1.0.1", "10.1.0.2"], 6: ["fd01::1", "fd01::2"]}
TUNNEL_ADDRESSES = {4: ["10.1.1.1", "10.1.2.1"], 6: ["fd01:1::1", "fd01:2::1"]}
HOSTS = {4: ["192.0.2.1", "192.0.2.2"], 6: ["2001:db8::1", "2001:db8::2"]}
FIRST_MAC = bytes.fromhex("660000000001")


def own(version: int, address: int | None, parent: int, vni: int, mtu: int) -> OwnVtep:
    net = None if address is None else parse_net(OWN_ADDRESSES[version][address])
    return OwnVtep(net, MACS[address or 0], parse_net(HOSTS[version][parent]), vni, 4789, mtu)


def remote(version: int, address: int, mac: int, outer: int) -> RemoteVtep:
    return RemoteVtep(parse_net(TUNNEL_ADDRESSES[version][address]), MACS[mac], parse_net(HOSTS[version][outer]))


def packed(mac: str) -> bytes:
    return bytes.fromhex(mac.replace(":", ""))


FLAGS = st.booleans()
BITS = st.integers(0, 1)
ITEMS = st.one_of(
    st.builds(
        lambda mac, host, is_plain: (Item(Kind.ENTRY, 0, packed(mac)), parse_net(host) if is_plain else None),
        st.sampled_from([*MACS[:2], "00:00:00:00:00:00"]),
        st.sampled_from(HOSTS[4]),
        FLAGS,
    ),
    st.builds(
        lambda address, mac: (Item(Kind.NEIGHBOUR, 0, parse_net(address)), packed(mac)),
        st.sampled_from([*TUNNEL_ADDRESSES[4], *TUNNEL_ADDRESSES[6]]),
        st.sampled_from(MACS[:2]),
    ),
    st.builds(
        lambda address, length: (Item(Kind.ADDRESS, 0, parse_net(address), length), None),
        st.sampled_from([*OWN_ADDRESSES[4], *OWN_ADDRESSES[6]]),
        st.sampled_from([24, 128]),
    ),
)
DEVICES = st.builds(
    Device,
    st.sampled_from([4096, 5]),
    st.just(4789),
    st.sampled_from([0, 2]),
    FLAGS,
    st.sampled_from([None, parse_net(HOSTS[4][0])]),
    FLAGS,
    st.just(FIRST_MAC),
    st.just(1400),
    FLAGS,
    FLAGS,
)


class TunnelLaws(RuleBasedStateMachine):
    """Rules are what can happen; `settle` at the end of every run compares with what must be."""

    def __init__(self) -> None:
        super().__init__()
        self.kernel = FakeTunnels()
        self.plan = TunnelPlan()
        self.own: dict[int, OwnVtep] = {}
        self.parents: dict[int, Parent] = {}
        self.remotes: dict[tuple[int, str], RemoteVtep] = {}
        self.planned: TunnelPlanned | None = None
        self.is_reading = False
        self.turns = 0
        self.seen: TunnelState | None = None

    @initialize(is_settled=st.sampled_from([True, True, True, False]))
    def start(self, is_settled: bool) -> None:
        """Three of four runs begin with everything in place, so that few steps are needed to disturb something."""
        if is_settled:
            for version in (4, 6):
                self.move_parent(version, Parent(2, 1500))
                self.want_own(version, own(version, 0, 0, 4094 + version, 0))
                self.want_remote(version, "a", remote(version, 0, 0, 1))
            self.settle()

    @rule(version=VERSIONS, vtep=st.tuples(st.sampled_from([None, 0, 1]), BITS, BITS, BITS))
    def change_own(self, version: int, vtep: tuple[int | None, int, int, int]) -> None:
        address, parent, vni, mtu = vtep
        self.want_own(version, own(version, address, parent, 4094 + version + 2 * vni, 1280 * mtu))

    def want_own(self, version: int, vtep: OwnVtep | None) -> None:
        self.own.pop(version, None)
        if vtep is not None:
            self.own[version] = vtep
        self.plan.on_delta({version: vtep}, {})

    @rule(version=VERSIONS)
    @precondition(lambda self: self.rarely())
    def drop_own(self, version: int) -> None:
        self.want_own(version, None)

    def rarely(self) -> bool:
        """For what leaves little that could go wrong after it."""
        self.turns += 1
        return self.turns % 8 == 0

    @rule(version=VERSIONS, parent=st.sampled_from([None, Parent(2, 1500), Parent(3, 9000)]))
    def move_parent(self, version: int, parent: Parent | None) -> None:
        self.parents.pop(version, None)
        if parent is not None:
            self.parents[version] = parent
        self.plan.on_parent(version, parent)

    @rule(version=VERSIONS, nodes=st.dictionaries(NODES, st.none() | st.tuples(BITS, st.integers(0, 2), BITS)))
    def change_remotes(self, version: int, nodes: dict[str, tuple[int, int, int] | None]) -> None:
        delta = {(version, node): end and remote(version, *end) for node, end in nodes.items()}
        for key, end in delta.items():
            self.remotes.pop(key, None)
            if end is not None:
                self.remotes[key] = end
        self.plan.on_delta({}, delta)

    def want_remote(self, version: int, node: str, end: RemoteVtep) -> None:
        self.remotes[version, node] = end
        self.plan.on_delta({}, {(version, node): end})

    @rule(version=VERSIONS, device=DEVICES, is_ours=FLAGS)
    @precondition(lambda self: self.rarely())
    def somebody_makes_a_device(self, version: int, device: Device, is_ours: bool) -> None:
        self.kernel.make(DEVICE_BY_VERSION[version], device if is_ours else None, "vxlan" if is_ours else "bridge")

    @rule(version=VERSIONS)
    @precondition(lambda self: self.rarely())
    def somebody_removes_a_device(self, version: int) -> None:
        self.kernel.remove(DEVICE_BY_VERSION[version])

    @rule(version=VERSIONS, is_back=FLAGS)
    @precondition(lambda self: self.rarely())
    def somebody_renames_a_device(self, version: int, is_back: bool) -> None:
        names = [DEVICE_BY_VERSION[version], f"other{version}"]
        self.kernel.rename(*reversed(names) if is_back else names)

    @rule(version=VERSIONS, device=DEVICES)
    def somebody_changes_a_device(self, version: int, device: Device) -> None:
        held = self.kernel.held.get(DEVICE_BY_VERSION[version])
        if held is not None and held.device is not None:
            self.kernel.change(DEVICE_BY_VERSION[version], device)

    @rule(version=VERSIONS, item=ITEMS)
    def somebody_puts_an_item(self, version: int, item: tuple[Item, Worth]) -> None:
        if not _is_others_address(version, item[0]):
            self.kernel.put(DEVICE_BY_VERSION[version], *item)

    @rule(version=VERSIONS, data=st.data())
    def somebody_touches_an_item(self, version: int, data: st.DataObject) -> None:
        self.tamper(DEVICE_BY_VERSION[version], data)

    @rule(is_refusing=FLAGS)
    @precondition(lambda self: self.rarely())
    def turn_refusal(self, is_refusing: bool) -> None:
        self.kernel.is_refusing = is_refusing

    @rule()
    @precondition(lambda self: self.planned is None and not self.is_reading)
    def do_one_cycle(self) -> None:
        self.kernel.deliver(self.plan)
        self.cycle()

    def cycle(self) -> None:
        """What the driver does."""
        if self.plan.needs_read:
            self.plan.start_read()
            self.plan.replace_believed(self.kernel.read())
        for plan in (self.plan.plan_additions, self.plan.plan_removals):
            planned = plan(True)
            self.plan.absorb(planned, self.kernel.apply(planned))

    @rule(limit=st.integers(1, 4))
    def hear_some_events(self, limit: int) -> None:
        self.kernel.deliver(self.plan, limit)

    @rule()
    @precondition(lambda self: self.rarely())
    def lose_events(self) -> None:
        self.kernel.queue.clear()
        self.plan.mark_unknown()

    @rule(is_early=FLAGS)
    @precondition(lambda self: self.planned is None and not self.is_reading)
    def begin_read(self, is_early: bool) -> None:
        self.is_reading = True
        self.plan.start_read()
        self.seen = self.kernel.read() if is_early else None

    @rule(overrun=FLAGS)
    @precondition(lambda self: self.is_reading)
    def end_read(self, overrun: bool) -> None:
        state = self.seen or self.kernel.read()
        if overrun:
            self.lose_events()
        self.is_reading = False
        self.plan.replace_believed(state)

    @rule(is_removals=FLAGS, may_delete=FLAGS)
    @precondition(lambda self: self.planned is None and not self.is_reading)
    def begin_write(self, is_removals: bool, may_delete: bool) -> None:
        plan = self.plan.plan_removals if is_removals else self.plan.plan_additions
        self.planned = plan(may_delete)

    @rule(version=VERSIONS, limit=st.integers(1, 4), data=st.data())
    @precondition(lambda self: self.planned is None and not self.is_reading)
    def somebody_writes_while_we_read(self, version: int, limit: int, data: st.DataObject) -> None:
        self.do_one_cycle()
        self.plan.start_read()
        state = self.kernel.read()
        self.tamper(DEVICE_BY_VERSION[version], data)
        self.kernel.deliver(self.plan, limit)
        self.plan.replace_believed(state)

    @rule(version=VERSIONS, limit=st.integers(1, 4), data=st.data())
    @precondition(lambda self: self.planned is None and not self.is_reading)
    def somebody_writes_while_we_write(self, version: int, limit: int, data: st.DataObject) -> None:
        name = DEVICE_BY_VERSION[version]
        self.do_one_cycle()
        self.tamper(name, data)
        self.kernel.deliver(self.plan)
        plan = data.draw(st.sampled_from([self.plan.plan_additions, self.plan.plan_removals]))
        planned = plan(True)
        items = [one.item for one in planned if isinstance(one, PutItem | RemoveItem) and one.item.version == version]
        result = self.kernel.apply(planned)
        self.tamper(name, data, [item._replace(version=0) for item in items])
        self.kernel.deliver(self.plan, limit)
        self.plan.absorb(planned, result)

    def tamper(self, name: str, data: st.DataObject, items: Sequence[Item] = ()) -> None:
        """Somebody takes or changes one of the items, or of all that the device has."""
        held = self.kernel.held.get(name)
        among = sorted(items or (held.items if held is not None else ()), key=str)
        if not among:
            return
        item = data.draw(st.sampled_from(among))
        if data.draw(FLAGS):
            self.kernel.take(name, item)
        else:
            others = {Kind.ENTRY: parse_net(HOSTS[4][1]), Kind.NEIGHBOUR: packed(MACS[2]), Kind.ADDRESS: None}
            self.kernel.put(name, item, others[item.kind])

    @rule(limit=st.integers(0, 6))
    @precondition(lambda self: self.planned is not None)
    def write_hear_then_absorb(self, limit: int) -> None:
        assert self.planned is not None
        planned, self.planned = self.planned, None
        result = self.kernel.apply(planned)
        self.kernel.deliver(self.plan, limit)
        self.plan.absorb(planned, result)

    def teardown(self) -> None:
        if self.is_reading:
            self.end_read(overrun=False)
        if self.planned is not None:
            self.write_hear_then_absorb(0)
        self.settle()
        writes = self.kernel.writes
        restarted = TunnelPlan()
        for version, parent in self.parents.items():
            restarted.on_parent(version, parent)
        restarted.on_delta(self.own, self.remotes)
        restarted.start_read()
        restarted.replace_believed(self.kernel.read())
        for plan in (restarted.plan_additions, restarted.plan_removals):
            restarted.absorb(planned := plan(True), self.kernel.apply(planned))
        assert self.kernel.writes == writes

    def settle(self) -> None:
        """The plan hears everything and writes until nothing is left; then the kernel is what it must be."""
        self.kernel.is_refusing = False
        self.plan.retry_failed()
        for _ in range(12):
            self.kernel.deliver(self.plan)
            self.cycle()
            if not self.kernel.queue and self.plan.is_settled:
                break
        else:
            raise AssertionError("it never settles")
        assert self.plan.plan_additions(True) == self.plan.plan_removals(True) == ()
        for version, name in DEVICE_BY_VERSION.items():
            self._compare(version, name)

    def _compare(self, version: int, name: str) -> None:
        held, vtep = self.kernel.held.get(name), self.own.get(version)
        if held is not None and held.device is None:
            assert self.plan.has_device(version) is False
            assert (name in dict(self.plan.find_reasons())) is (vtep is not None)
            return
        if vtep is None:
            assert held is None
            return
        if held is None:  # somebody renamed ours: its VNI is taken
            assert name in dict(self.plan.find_reasons())
            return
        device, parent = held.device, self.parents.get(version)
        assert device is not None
        mtu = vtep.mtu or (0 if parent is None else parent.mtu - {4: 50, 6: 70}[version])
        assert device.mtu == mtu or not mtu
        assert device.bound in (0, 2 if parent is None else parent.link)
        assert device._replace(mtu=0, bound=0) == Device(
            vtep.vni, 4789, 0, True, vtep.parent, False, packed(vtep.mac), 0, True, False
        )
        assert self._without_other_family(version, held.items) == self._expected(version, vtep)

    def _without_other_family(self, version: int, items: dict[Item, Worth]) -> dict[Item, Worth]:
        return {item: worth for item, worth in items.items() if not _is_others_address(version, item)}

    def _expected(self, version: int, vtep: OwnVtep) -> dict[Item, Worth]:
        expected: dict[Item, Worth] = {}
        if vtep.address is not None:
            expected[Item(Kind.ADDRESS, 0, vtep.address, vtep.address.length)] = None
        ends = [end for (of, _), end in sorted(self.remotes.items()) if of == version]
        for position, end in enumerate(ends):
            if not any(end.mac == one.mac or end.address == one.address for one in ends[:position]):
                expected[Item(Kind.ENTRY, 0, packed(end.mac))] = end.outer
                expected[Item(Kind.NEIGHBOUR, 0, end.address)] = packed(end.mac)
        return expected


def _is_others_address(version: int, item: Item) -> bool:
    return item.kind is Kind.ADDRESS and isinstance(item.subject, Net) and item.subject.version != version


TestTunnelLaws = TunnelLaws.TestCase
TestTunnelLaws.settings = settings(max_examples=150, stateful_step_count=30, deadline=None)
