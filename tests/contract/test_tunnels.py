"""What the kernel makes of tunnel devices and of what is on them; the same is tried on the fake of the unit tests."""

from __future__ import annotations

import select
import socket
from collections.abc import Callable, Iterator
from typing import Protocol

import pytest

from felix.calc.desired import OwnVtep, RemoteVtep
from felix.dataplane.addresses.watch import GROUPS as ADDRESS_GROUPS
from felix.dataplane.links.watch import GROUPS as LINK_GROUPS
from felix.dataplane.netlink.apply import NetlinkSocket
from felix.dataplane.netlink.message import NETLINK_ROUTE
from felix.dataplane.netlink.read import NETLINK_ADD_MEMBERSHIP, SOL_NETLINK, DatagramReader, open_netlink
from felix.dataplane.tunnels.apply import apply_tunnels
from felix.dataplane.tunnels.plan import TunnelPlan
from felix.dataplane.tunnels.read import parse_tunnel_events, read_tunnels
from felix.dataplane.tunnels.types import (
    DEVICE_BY_VERSION,
    ChangeDevice,
    Device,
    Item,
    Kind,
    MakeDevice,
    Parent,
    PutItem,
    RemoveDevice,
    RemoveItem,
    TunnelPlanned,
    TunnelResult,
    TunnelState,
    Worth,
)
from felix.model.net import parse_net
from tests.support.netns import Namespace, private_namespace
from tests.unit.tunnels.fake_kernel import FakeTunnels

MAC, OTHER_MAC = bytes.fromhex("660000000001"), bytes.fromhex("660000000002")
HOSTS = {4: "192.0.2.9", 6: "2001:db8::9"}
OWN = {4: "10.1.0.1", 6: "fd01::1"}
REMOTE = {4: "10.1.1.1", 6: "fd01:1::1"}


class Kernel(Protocol):
    """What both kernels can."""

    def apply(self, planned: TunnelPlanned) -> TunnelResult: ...

    def read(self) -> TunnelState: ...

    def deliver(self, plan: TunnelPlan) -> None: ...

    def wait(self) -> None: ...


class FakeKernel(FakeTunnels):
    """Whose news are there at once."""

    def wait(self) -> None:
        raise AssertionError("nothing more will be announced")


class RealTunnels:
    """The devices of the calling thread's namespace, and the news of them."""

    def __init__(self) -> None:
        self._netlink = NetlinkSocket(NETLINK_ROUTE)
        self._news = open_netlink(NETLINK_ROUTE, 1 << 20)
        for group in (*LINK_GROUPS, *ADDRESS_GROUPS):
            self._news.setsockopt(SOL_NETLINK, NETLINK_ADD_MEMBERSHIP, group)
        self._reader = DatagramReader(self._news)

    def apply(self, planned: TunnelPlanned) -> TunnelResult:
        return apply_tunnels(self._netlink, planned)

    def read(self) -> TunnelState:
        return read_tunnels(self._netlink)

    def deliver(self, plan: TunnelPlan) -> None:
        while (datagram := self._reader.read(socket.MSG_DONTWAIT)) is not None:
            for event in parse_tunnel_events(datagram, plan.links):
                plan.on_event(event)

    def wait(self) -> None:
        """There is news, or was none for long."""
        assert select.select([self._news], [], [], 20.0)[0], "the kernel announces nothing"

    def close(self) -> None:
        self._netlink.close()
        self._news.close()


Run = Callable[[Callable[[Kernel], None]], None]


@pytest.fixture
def namespace() -> Iterator[Namespace]:
    with private_namespace("tunnel") as namespace:
        yield namespace


@pytest.fixture(params=["fake", pytest.param("real", marks=pytest.mark.fv)])
def run(request: pytest.FixtureRequest) -> Run:
    if request.param == "fake":
        return lambda body: body(FakeKernel())
    namespace: Namespace = request.getfixturevalue("namespace")

    def run_real(body: Callable[[Kernel], None]) -> None:
        def enter() -> None:
            kernel = RealTunnels()
            try:
                body(kernel)
            finally:
                kernel.close()

        namespace.run(enter)

    return run_real


def device(version: int, mtu: int = 1400, vni: int = 4096, *, is_up: bool = True) -> Device:
    return Device(vni, 4789, 0, True, parse_net(HOSTS[version]), False, MAC, mtu, is_up, False)


def make(kernel: Kernel, version: int) -> int:
    """The device is there; returns its index."""
    assert kernel.apply((MakeDevice(version, device(version)),)).answers == (None,)
    return kernel.read().devices[version].link


def items_of(version: int) -> dict[Item, Worth]:
    own, remote = parse_net(OWN[version]), parse_net(REMOTE[version])
    return {
        Item(Kind.ADDRESS, version, own, own.length): None,
        Item(Kind.ENTRY, version, OTHER_MAC): parse_net(HOSTS[version]),
        Item(Kind.NEIGHBOUR, version, remote): OTHER_MAC,
    }


def seen(kernel: Kernel, version: int) -> dict[Item, Worth]:
    """Returns what is on the device, without addresses of the other family."""
    state = kernel.read()
    plan = TunnelPlan()
    plan.start_read()
    plan.replace_believed(state)
    return {item: worth for item, worth in plan.believed.believed.items() if item.version == version}


both = pytest.mark.parametrize("version", [4, 6])


@both
def test_device_and_what_is_put_on_it_come_back_as_written_and_go_with_it(run: Run, version: int) -> None:
    def body(kernel: Kernel) -> None:
        link = make(kernel, version)
        assert kernel.read().devices[version].device == device(version)
        wanted = items_of(version)
        for exists in (None, 17):  # entry and neighbour take the place of the first, the address is there already
            planned = tuple(PutItem(link, item, worth) for item, worth in wanted.items())
            assert kernel.apply(planned).answers == (exists, None, None)
            assert seen(kernel, version) == wanted
        assert kernel.apply((RemoveDevice(version, link),)).answers == (None,)
        assert not kernel.read().devices

    run(body)


@both
def test_device_changes_in_place_what_it_can_and_keeps_what_is_on_it(run: Run, version: int) -> None:
    def body(kernel: Kernel) -> None:
        link = make(kernel, version)
        wanted = items_of(version)
        kernel.apply(tuple(PutItem(link, item, worth) for item, worth in wanted.items()))
        before = device(version)
        other = parse_net({4: "192.0.2.7", 6: "2001:db8::7"}[version])
        changes = [before._replace(mtu=1300), before._replace(local=other), before._replace(is_learning=True)]
        for after in (*changes, before, before._replace(mac=OTHER_MAC[:5] + b"\x09")):
            assert kernel.apply((ChangeDevice(version, link, before, after),)).answers == (None,)
            assert kernel.read().devices[version].device == after
            assert kernel.read().devices[version].link == link
            before = after
            if after.mac == MAC:
                assert seen(kernel, version) == wanted
        assert {item.kind for item in seen(kernel, version)} == {Kind.ADDRESS, Kind.ENTRY}

    run(body)


@both
def test_items_are_replaced_and_removed_one_by_one(run: Run, version: int) -> None:
    def body(kernel: Kernel) -> None:
        link = make(kernel, version)
        wanted = items_of(version)
        kernel.apply(tuple(PutItem(link, item, worth) for item, worth in wanted.items()))
        entry, neighbour = [item for item in wanted if item.kind is not Kind.ADDRESS]
        other = parse_net({4: "192.0.2.7", 6: "2001:db8::7"}[version])
        assert kernel.apply((PutItem(link, entry, other), PutItem(link, neighbour, MAC))).answers == (None, None)
        wanted.update({entry: other, neighbour: MAC})
        assert seen(kernel, version) == wanted
        for item in reversed(list(wanted)):
            assert kernel.apply((RemoveItem(link, item),)).answers == (None,)
            del wanted[item]
            assert seen(kernel, version) == wanted
            (refusal,) = kernel.apply((RemoveItem(link, item),)).answers
            assert refusal is not None

    run(body)


@both
def test_device_that_goes_down_loses_neighbours_and_keeps_entries(run: Run, version: int) -> None:
    def body(kernel: Kernel) -> None:
        link = make(kernel, version)
        wanted = items_of(version)
        kernel.apply(tuple(PutItem(link, item, worth) for item, worth in wanted.items()))
        up, down = device(version), device(version, is_up=False)
        assert kernel.apply((ChangeDevice(version, link, up, down),)).answers == (None,)
        assert kernel.read().devices[version].device == down
        lost = (Kind.NEIGHBOUR,) if version == 4 else (Kind.NEIGHBOUR, Kind.ADDRESS)
        assert seen(kernel, version) == {item: worth for item, worth in wanted.items() if item.kind not in lost}

    run(body)


def test_what_cannot_be_is_refused_alone(run: Run) -> None:
    def body(kernel: Kernel) -> None:
        link = make(kernel, 6)
        address = Item(Kind.ADDRESS, 6, parse_net(OWN[6]), 64)
        planned = (
            MakeDevice(6, device(6)),
            MakeDevice(4, device(4)),
            PutItem(9999, address, None),
            RemoveDevice(4, 9998),
            PutItem(link, address, None),
            PutItem(link, address._replace(length=128), None),
            RemoveItem(link, address),
            PutItem(link, address._replace(length=128), None),
        )
        answers = kernel.apply(planned).answers
        assert [answer and int(answer) for answer in answers] == [17, None, 19, 19, None, 17, None, None]

    run(body)


@both
def test_plan_that_only_hears_of_everything_believes_what_is_there(run: Run, version: int) -> None:
    def body(kernel: Kernel) -> None:
        plan = TunnelPlan()
        plan.start_read()
        plan.replace_believed(kernel.read())
        link = make(kernel, version)
        kernel.deliver(plan)
        wanted = items_of(version)
        plan.start_read()
        plan.replace_believed(kernel.read())
        kernel.apply(tuple(PutItem(link, item, worth) for item, worth in wanted.items()))
        kernel.deliver(plan)
        while dict(plan.believed.believed) != wanted:  # IPv6 addresses are announced later than put
            kernel.wait()
            kernel.deliver(plan)
        assert seen(kernel, version) == wanted
        assert not plan.needs_read
        for item in wanted:  # the address first: neighbours of IPv4 go with the last
            kernel.apply((RemoveItem(link, item),))
            kernel.deliver(plan)
            assert dict(plan.believed.believed) == seen(kernel, version)
        kernel.apply((RemoveDevice(version, link),))
        kernel.deliver(plan)
        assert link not in plan.links

    run(body)


def settle(kernel: Kernel, plan: TunnelPlan) -> int:
    """The plan hears and writes until nothing is left; returns how often it wrote."""
    writes = 0
    for _ in range(12):
        kernel.deliver(plan)
        if plan.needs_read:
            plan.start_read()
            plan.replace_believed(kernel.read())
        for one in (plan.plan_additions, plan.plan_removals):
            planned = one(True)
            result = kernel.apply(planned) if planned else TunnelResult(())
            writes += len(planned)
            plan.absorb(planned, result)
            assert not any(result.answers)
        kernel.deliver(plan)
        if plan.is_settled:
            return writes
    raise AssertionError("it never settles")


def wanting(version: int, vni: int = 4096) -> TunnelPlan:
    plan = TunnelPlan()
    vtep = OwnVtep(parse_net(OWN[version]), MAC.hex(":"), parse_net(HOSTS[version]), vni, 4789, 0)
    remote = RemoteVtep(parse_net(REMOTE[version]), OTHER_MAC.hex(":"), parse_net(HOSTS[version]))
    plan.on_delta({version: vtep}, {(version, "other"): remote})
    plan.on_parent(version, Parent(2, 1500))
    return plan


@both
def test_kernel_ends_as_wanted_and_a_restart_writes_nothing(run: Run, version: int) -> None:
    def body(kernel: Kernel) -> None:
        first = wanting(version)
        assert settle(kernel, first) == 4
        assert seen(kernel, version) == items_of(version)
        found = kernel.read().devices[version].device
        assert found == device(version, mtu={4: 1450, 6: 1430}[version])
        assert settle(kernel, wanting(version)) == 0
        assert settle(kernel, wanting(version, vni=77)) == 5
        assert seen(kernel, version) == items_of(version)
        assert settle(kernel, TunnelPlan()) == 1
        assert not kernel.read().devices

    run(body)


TAMPERINGS = [
    "link set {device} down",
    "link del {device}",
    "link set {device} mtu 1300",
    "link set {device} address 66:00:00:00:00:09",
    "link set {device} type vxlan learning",
    "addr flush dev {device}",
    "addr add {other}/{short} dev {device}",
    "addr add {own_short} dev {device}",
    "neigh flush dev {device} nud permanent",
    "neigh add {other} lladdr 66:00:00:00:00:09 dev {device} nud permanent",
    "neigh replace {remote} lladdr 66:00:00:00:00:09 dev {device} nud permanent",
    "neigh replace {remote} lladdr 66:00:00:00:00:02 dev {device} nud reachable",
    "bridge fdb del 66:00:00:00:00:02 dev {device}",
    "bridge fdb replace 66:00:00:00:00:02 dev {device} dst {elsewhere}",
    "bridge fdb replace 66:00:00:00:00:02 dev {device} dst {host} port 99",
    "bridge fdb add 66:00:00:00:00:09 dev {device} dst {host}",
    "bridge fdb append 00:00:00:00:00:00 dev {device} dst {host}",
]


@pytest.mark.fv
@both
def test_tampering_is_heard_of_and_mended_without_reading_anew_at_intervals(namespace: Namespace, version: int) -> None:
    words = {
        "device": DEVICE_BY_VERSION[version],
        "other": {4: "10.9.0.9", 6: "fd09::9"}[version],
        "short": {4: 24, 6: 64}[version],
        "own_short": {4: "10.1.0.1/24", 6: "fd02::1/64"}[version],
        "remote": REMOTE[version],
        "host": HOSTS[version],
        "elsewhere": {4: "192.0.2.66", 6: "2001:db8::66"}[version],
    }

    def body() -> None:
        kernel = RealTunnels()
        plan = wanting(version)
        try:
            settle(kernel, plan)
            wanted, found = seen(kernel, version), kernel.read().devices[version].device
            for tampering in TAMPERINGS:
                command = tampering.format(**words).split()
                namespace.execute(*([] if command[0] == "bridge" else ["ip"]), *command)
                writes = settle(kernel, plan)
                while not writes or (seen(kernel, version), kernel.read().devices[version].device) != (wanted, found):
                    kernel.wait()  # IPv6 addresses are announced later than put
                    writes += settle(kernel, plan)
            plan.on_delta({version: None}, {})
            settle(kernel, plan)
        finally:
            kernel.close()

    namespace.run(body)


@pytest.mark.fv
def test_interface_of_another_kind_with_the_name_is_left_alone_and_named(namespace: Namespace) -> None:
    namespace.ip("link add vxlan.calico type bridge")

    def body() -> None:
        kernel = RealTunnels()
        plan = wanting(4)
        try:
            assert settle(kernel, plan) == 0
            assert dict(plan.find_reasons())["vxlan.calico"].startswith(
                "there is an interface of that name, which is a br"
            )
            assert not plan.has_device(4)
            namespace.ip("link set vxlan.calico name br7")
            assert settle(kernel, plan) == 4
            assert list(plan.find_reasons()) == []
            assert "vxlan id 4096" in namespace.ip("-d link show vxlan.calico")
        finally:
            kernel.close()

    namespace.run(body)


@pytest.mark.fv
def test_device_of_another_name_in_the_way_is_named_and_waited_for(namespace: Namespace) -> None:
    namespace.ip("link add other type vxlan id 4096 dstport 4789 local 192.0.2.9 nolearning")

    def body() -> None:
        kernel = RealTunnels()
        plan = wanting(4)
        try:
            plan.start_read()
            plan.replace_believed(kernel.read())
            planned = plan.plan_additions(True)
            plan.absorb(planned, kernel.apply(planned))
            assert plan.is_settled
            assert "VNI already exists" in dict(plan.find_reasons())["vxlan.calico"]
            namespace.ip("link del other")
            plan.retry_failed()
            assert settle(kernel, plan) == 4
            plan.on_delta({4: None}, {})
            settle(kernel, plan)
        finally:
            kernel.close()

    namespace.run(body)
