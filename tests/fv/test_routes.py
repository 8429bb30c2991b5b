"""Routes in the real kernel: written, moved, restored, repaired; never a foreign one touched."""

from __future__ import annotations

import asyncio
import time
from collections.abc import Awaitable, Callable, Iterator

import pytest

from felix.dataplane.routes.types import Hop
from felix.model.net import parse_net
from tests.support.desired import endpoint_key, local_endpoint
from tests.support.kernel import Keeper
from tests.support.netns import Namespace, private_namespace

pytestmark = pytest.mark.fv

BOTH = ("10.1.0.1", "fd01::1")


@pytest.fixture
def host() -> Iterator[Namespace]:
    """A namespace with the interfaces calia and calib, up, as a host has them."""
    with private_namespace("routes") as namespace:
        for name in ("calia", "calib"):
            namespace.ip(f"link add {name} type veth peer name peer-{name}")
            namespace.ip(f"link set peer-{name} up")
            namespace.ip(f"link set {name} up")
        yield namespace


def run_kept(host: Namespace, scenario: Callable[[Keeper], Awaitable[None]], event_buffer_bytes: int = 8 << 20) -> None:
    """Runs `scenario` inside with an open keeper of calia's endpoint "a" at both families' addresses."""

    async def main() -> None:
        keeper = Keeper(event_buffer_bytes)
        keeper.open()
        try:
            await scenario(keeper)
        finally:
            keeper.close()

    host.run(lambda: asyncio.run(main()))


def want(keeper: Keeper, name: str, interface: str | None, *addresses: str) -> None:
    endpoint = None if interface is None else local_endpoint(name, interface, *addresses)
    keeper.links.on_delta({endpoint_key(name): endpoint})
    keeper.routes.on_delta({endpoint_key(name): endpoint}, {})


def shown(host: Namespace) -> list[str]:
    """The routes of protocol 80, as `ip` shows them, without what varies."""
    lines = host.ip("-4 route show proto 80").splitlines() + host.ip("-6 route show proto 80").splitlines()
    return [" ".join(line.replace("pref medium", "").replace("linkdown", "").split()) for line in lines]


ON_A = ["10.1.0.1 dev calia scope link", "fd01::1 dev calia metric 1024"]
ON_B = ["10.1.0.1 dev calib scope link", "fd01::1 dev calib metric 1024"]


def test_routes_of_new_endpoint_and_blocks_stand_and_second_plan_is_empty(host: Namespace) -> None:
    async def scenario(keeper: Keeper) -> None:
        want(keeper, "a", "calia", *BOTH)
        blocks = ("10.1.0.0/26", "fd01::/122", "10.9.0.1/32", "fd09::1/128")
        keeper.routes.on_delta({}, {parse_net(block): True for block in blocks})
        keeper.cycle()
        assert sorted(shown(host)) == sorted(
            [*ON_A, "blackhole 10.1.0.0/26", "blackhole fd01::/122 dev lo metric 1024"]
        )
        count = len(keeper.operations)
        keeper.routes.mark_unknown()  # read back: the kernel's form must equal ours
        keeper.cycle()
        assert len(keeper.operations) == count
        assert keeper.routes.is_settled
        want(keeper, "a", None)
        keeper.routes.on_delta({}, {parse_net(block): None for block in blocks})
        keeper.cycle()
        assert shown(host) == []

    run_kept(host, scenario)


def test_routes_left_by_predecessor_are_kept_or_removed_only_with_permission(host: Namespace) -> None:
    host.ip("route add 10.1.0.1/32 dev calia proto 80")
    host.ip("route add 10.1.0.2/32 dev calia proto 80")
    host.ip("-6 route add fd01::1/128 dev calia proto 80")
    host.ip("-6 route add fd01::2/128 dev calia proto 80")
    host.ip("route add 10.1.0.3/32 dev calia proto 3")

    async def scenario(keeper: Keeper) -> None:
        want(keeper, "a", "calia", *BOTH)
        keeper.cycle(may_delete=False)
        assert keeper.operations == []
        keeper.cycle(may_delete=True)
        assert sorted(str(operation.key.net) for operation in keeper.operations) == ["10.1.0.2/32", "fd01::2/128"]
        assert shown(host) == ON_A
        assert "10.1.0.3" in host.ip("route show proto 3")

    run_kept(host, scenario)


def test_route_of_plug_in_for_same_address_becomes_ours(host: Namespace) -> None:
    host.ip("route add 10.1.0.1/32 dev calia scope link")
    host.ip("-6 route add fd01::1/128 dev calia")

    async def scenario(keeper: Keeper) -> None:
        want(keeper, "a", "calia", *BOTH)
        keeper.cycle()
        assert shown(host) == ON_A
        assert len(host.ip("route show 10.1.0.1").splitlines()) == 1
        assert len(host.ip("-6 route show fd01::1").splitlines()) == 1

    run_kept(host, scenario)


def test_address_moved_between_interfaces_never_has_two_routes_or_none(host: Namespace) -> None:
    async def scenario(keeper: Keeper) -> None:
        want(keeper, "a", "calia", *BOTH)
        keeper.cycle()
        for turn in range(20):
            before = len(keeper.operations)
            want(keeper, "a", ("calib", "calia")[turn % 2], *BOTH)
            keeper.cycle()
            assert [operation.verb.value for operation in keeper.operations[before:]] == ["replace", "replace"]
            assert shown(host) == (ON_B, ON_A)[turn % 2]

    run_kept(host, scenario)


def test_address_taken_over_by_other_endpoint_in_one_delta_is_replaced(host: Namespace) -> None:
    async def scenario(keeper: Keeper) -> None:
        want(keeper, "a", "calia", *BOTH)
        keeper.cycle()
        taker = local_endpoint("b", "calib", *BOTH)
        keeper.routes.on_delta({taker.key: taker, endpoint_key("a"): None}, {})
        keeper.cycle()
        assert shown(host) == ON_B
        assert [operation.verb.value for operation in keeper.operations[2:]] == ["replace", "replace"]

    run_kept(host, scenario)


def test_routes_after_link_flaps_return(host: Namespace) -> None:
    async def scenario(keeper: Keeper) -> None:
        want(keeper, "a", "calia", *BOTH)
        keeper.cycle()
        for _ in range(5):
            host.ip("link set calia down")
            host.ip("link set calia up")
        started = time.monotonic()
        await keeper.settle(lambda: shown(host) == ON_A)
        assert time.monotonic() - started < 1.0
        host.ip("link set calia down")
        await keeper.settle(lambda: not keeper.routes.routes.desired)
        assert shown(host) == []
        assert keeper.routes.is_settled

    run_kept(host, scenario)


def test_route_waits_for_interface_that_appears_late_or_is_renamed(host: Namespace) -> None:
    async def scenario(keeper: Keeper) -> None:
        want(keeper, "a", "calilate", *BOTH)
        keeper.cycle()
        assert keeper.operations == []
        host.ip("link set calia down")
        host.ip("link set calia name calilate")
        host.ip("link set calilate up")
        late = [line.replace("calia", "calilate") for line in ON_A]
        await keeper.settle(lambda: shown(host) == late)
        host.ip("link delete calilate")
        await keeper.settle(lambda: keeper.links.find_link("calilate") is None)
        host.ip("link add calilate type veth peer name other")
        host.ip("link set calilate up")
        await keeper.settle(lambda: shown(host) == late)

    run_kept(host, scenario)


@pytest.mark.parametrize(
    "tampering",
    [
        "-4 route del 10.1.0.1",
        "-6 route del fd01::1",
        "-4 route replace 10.1.0.1/32 dev calib proto 80 scope link",
        "-6 route replace fd01::1/128 dev calib proto 80",
        "-4 route replace 10.1.0.1/32 dev calib",
        "-6 route replace fd01::1/128 dev calib",
        "-4 route replace 10.1.0.1/32 dev calia proto 80 mtu 1300",
        "-6 route replace fd01::1/128 dev calia proto 80 mtu 1300",
        "-4 route replace 10.1.0.1/32 dev calia proto 80 scope global",
        "-4 route replace blackhole 10.1.0.1/32 proto 80",
        "-6 route replace blackhole fd01::1/128 proto 80",
        "-4 route append 10.1.0.1/32 dev calib proto 80 scope link",
        "-6 route append fd01::1/128 dev calib proto 80",
        "-4 route add 10.1.0.1/32 dev calia proto 80 metric 7 scope link",
        "-6 route add fd01::1/128 dev calia proto 80 metric 7",
        "-4 route add 10.7.0.1/32 dev calia proto 80",
    ],
)
@pytest.mark.parametrize("by_event", [True, False], ids=["by event", "by audit"])
def test_tampered_route_is_repaired(host: Namespace, tampering: str, by_event: bool) -> None:
    async def scenario(keeper: Keeper) -> None:
        want(keeper, "a", "calia", *BOTH)
        keeper.cycle()
        if not by_event:
            keeper.watch.close()
        host.ip(tampering)
        if not by_event:
            keeper.routes.mark_unknown()
        await keeper.settle(lambda: shown(host) == ON_A and keeper.routes.is_settled)
        count = len(keeper.operations)
        keeper.routes.mark_unknown()
        keeper.cycle()
        assert len(keeper.operations) == count

    run_kept(host, scenario)


def test_foreign_routes_whatever_happens_to_them_cause_no_write(host: Namespace) -> None:
    async def scenario(keeper: Keeper) -> None:
        want(keeper, "a", "calia", *BOTH)
        keeper.cycle()
        count = len(keeper.operations)
        host.ip("route add 10.2.0.0/26 dev calib proto bird")
        host.ip("route replace 10.2.0.0/26 dev calia proto bird")
        host.ip("route add 10.1.0.1/32 dev calib metric 32 proto bird")
        host.ip("route add 10.1.0.1/32 dev calib table 7 proto 80")
        host.ip("-6 route add fd02::/122 dev calib proto bird")
        host.ip("route del 10.2.0.0/26")
        host.ip("route add 10.7.0.1/32 dev calia proto 80")  # the last event, ours to remove
        await keeper.settle(lambda: "10.7.0.1" not in host.ip("route show proto 80"))
        assert [str(operation.key.net) for operation in keeper.operations[count:]] == ["10.7.0.1/32"]

    run_kept(host, scenario)


def test_events_lost_in_tiny_buffer_lead_to_a_read_and_the_right_state(host: Namespace) -> None:
    async def scenario(keeper: Keeper) -> None:
        want(keeper, "a", "calia", *BOTH)
        keeper.cycle()
        batch = "\n".join(f"route add 10.8.{n // 250}.{n % 250}/32 dev calia proto 80" for n in range(1000))
        host.execute("sh", "-c", f"ip -batch - <<'END'\n{batch}\nroute del 10.1.0.1/32\nEND")
        await keeper.settle(lambda: shown(host) == ON_A)
        assert keeper.watch.overruns_count > 0
        assert keeper.reads_count > 1

    run_kept(host, scenario, event_buffer_bytes=4096)


def test_refused_route_does_not_stop_the_others_and_is_named(host: Namespace) -> None:
    host.write_sysctl("net/ipv6/conf/calia/disable_ipv6", "1")

    async def scenario(keeper: Keeper) -> None:
        want(keeper, "a", "calia", *BOTH)
        keeper.cycle()
        assert shown(host) == ON_A[:1]
        ((key, refusal),) = keeper.routes.refusal_by_key.items()
        assert str(key.net) == "fd01::1/128"
        assert refusal == 13
        assert "IPv6 is disabled" in refusal.text
        count = len(keeper.operations)
        keeper.cycle()
        assert len(keeper.operations) == count
        host.write_sysctl("net/ipv6/conf/calia/disable_ipv6", "0")
        keeper.routes.retry_failed()
        keeper.cycle()
        assert shown(host) == ON_A

    run_kept(host, scenario)


def test_two_thousand_routes_are_planned_and_written_quickly(host: Namespace) -> None:
    async def scenario(keeper: Keeper) -> None:
        keeper.cycle()
        addresses = [f"10.3.{n // 250}.{n % 250}" for n in range(2000)]
        endpoints = [local_endpoint(f"e{n}", "calia", address) for n, address in enumerate(addresses)]
        keeper.routes.on_delta({endpoint.key: endpoint for endpoint in endpoints}, {})
        started = time.perf_counter()
        keeper.cycle()
        elapsed_s = time.perf_counter() - started
        assert len(shown(host)) == 2000
        await keeper.settle(lambda: keeper.routes.is_settled)
        assert len(keeper.operations) == 2000
        assert elapsed_s < 10.0, elapsed_s  # 50 ms on a quiet machine; this only catches disasters

    run_kept(host, scenario)


WAYS = {
    "10.3.0.0/26": ("192.0.2.1", "10.3.0.0/26 via 192.0.2.1 dev {} onlink"),
    "10.1.0.9": ("10.3.0.1", "10.1.0.9 via 10.3.0.1 dev {} onlink"),
    "fd03::1": (None, "fd03::1 dev {} metric 1024"),
    "fd03::/122": ("fd03::1", "fd03::/122 via fd03::1 dev {} metric 1024 onlink"),
}


def lead(keeper: Keeper, interface: str) -> None:
    keeper.routes.on_hops(
        {parse_net(net): Hop(interface, parse_net(gateway) if gateway else None) for net, (gateway, _) in WAYS.items()}
    )


def ways(interface: str) -> list[str]:
    return sorted(line.format(interface) for _, line in WAYS.values())


def test_ways_to_other_hosts_move_in_one_step_and_are_read_back_as_written(host: Namespace) -> None:
    async def scenario(keeper: Keeper) -> None:
        for interface in ("calia", "calib", "calia"):
            before = len(keeper.operations)
            lead(keeper, interface)
            keeper.cycle()
            assert sorted(shown(host)) == ways(interface)
            assert [one.verb.value for one in keeper.operations[before:]] == ["replace"] * 4
            keeper.routes.mark_unknown()
            keeper.cycle()
            assert len(keeper.operations) == before + 4
        want(keeper, "a", "calib", "10.1.0.9", "fd03::1")  # from elsewhere to here, and back
        keeper.cycle()
        assert {"10.1.0.9 dev calib scope link", "fd03::1 dev calib metric 1024"} <= set(shown(host))
        want(keeper, "a", None)
        keeper.cycle()
        assert sorted(shown(host)) == ways("calia")

    run_kept(host, scenario)


@pytest.mark.parametrize(
    "tampering",
    [
        "-4 route replace 10.3.0.0/26 via 192.0.2.9 dev calib onlink proto 80",
        "-4 route replace 10.3.0.0/26 nexthop via 192.0.2.1 dev calia onlink nexthop via 192.0.2.2 dev calib onlink",
        "-4 route append 10.3.0.0/26 via 192.0.2.9 dev calib onlink proto 80",
        "-6 route replace fd03::/122 via fd03::1 dev calia onlink proto 80 mtu 1300",
        "-6 route append fd03::/122 via fd03::7 dev calia onlink proto 80",
        "-6 route append fd03::/122 dev calib proto 80",
        "-6 route del fd03::/122 via fd03::1 dev calia",
        "-6 route replace fd03::/122 dev calib proto 80",
        "-6 route replace blackhole fd03::/122 proto 80",
    ],
)
def test_way_to_another_host_that_somebody_changed_is_mended(host: Namespace, tampering: str) -> None:
    async def scenario(keeper: Keeper) -> None:
        lead(keeper, "calia")
        keeper.cycle()
        host.ip(tampering)
        before = len(keeper.operations)
        await keeper.settle(lambda: len(keeper.operations) > before and sorted(shown(host)) == ways("calia"), 20.0)
        await keeper.settle(lambda: keeper.routes.is_settled, 20.0)
        keeper.read()
        assert keeper.routes.is_settled

    run_kept(host, scenario)
