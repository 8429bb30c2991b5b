"""Interfaces, their switches and permanent neighbours in the real kernel."""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Callable, Iterator

import pytest

from felix.dataplane.links.types import LinkState
from tests.support.desired import endpoint_key, local_endpoint
from tests.support.kernel import Keeper
from tests.support.netns import Namespace, private_namespace

pytestmark = pytest.mark.fv

MAC = "02:00:00:00:00:0a"
WANTED = {
    "net/ipv4/neigh/calia/proxy_delay": "0",
    "net/ipv4/conf/calia/proxy_arp": "1",
    "net/ipv4/conf/calia/forwarding": "1",
    "net/ipv6/conf/calia/accept_ra": "0",
    "net/ipv6/conf/calia/accept_dad": "0",
    "net/ipv6/conf/calia/forwarding": "1",
}


@pytest.fixture
def host() -> Iterator[Namespace]:
    """A namespace with the interface calia, up."""
    with private_namespace("links") as namespace:
        namespace.ip("link add calia type veth peer name peer")
        namespace.ip("link set peer up")
        namespace.ip("link set calia up")
        yield namespace


def run_kept(host: Namespace, scenario: Callable[[Keeper], Awaitable[None]], has_host_forwarding: bool = False) -> None:
    """Runs `scenario` inside with an open keeper that wants endpoint "a" on calia."""

    async def main() -> None:
        keeper = Keeper(has_host_forwarding=has_host_forwarding)
        keeper.open()
        try:
            endpoint = local_endpoint("a", "calia", "10.1.0.1", "fd01::1", mac=MAC)
            keeper.links.on_delta({endpoint.key: endpoint})
            await scenario(keeper)
        finally:
            keeper.close()

    host.run(lambda: asyncio.run(main()))


def switches(host: Namespace, name: str = "calia") -> dict[str, str]:
    return {path: host.read_sysctl(path.replace("calia", name)) for path in WANTED}


def neighbours(host: Namespace) -> set[str]:
    lines = host.ip("neigh show nud permanent").splitlines()
    return {" ".join(line.split()) for line in lines}


BOTH = {f"10.1.0.1 dev calia lladdr {MAC} PERMANENT proto 80", f"fd01::1 dev calia lladdr {MAC} PERMANENT proto 80"}


def test_claimed_interface_is_set_up_once_and_host_is_left_alone(host: Namespace) -> None:
    before = host.read_sysctl("net/ipv4/ip_forward")

    async def scenario(keeper: Keeper) -> None:
        keeper.cycle()
        assert switches(host) == WANTED
        assert neighbours(host) == BOTH
        assert host.read_sysctl("net/ipv4/ip_forward") == before
        order = [one.path for one in keeper.mended]
        assert order.index("net/ipv4/neigh/calia/proxy_delay") < order.index("net/ipv4/conf/calia/proxy_arp")
        counts = len(keeper.mended), keeper.neighbours_count
        await keeper.settle(lambda: keeper.links.is_settled)
        keeper.links.mark_unknown()  # as a restart would: read everything, write nothing
        keeper.cycle()
        assert (len(keeper.mended), keeper.neighbours_count) == counts
        assert not keeper.links.plan(may_delete=True)

    run_kept(host, scenario)


def test_host_forwarding_is_switched_on_and_kept_on(host: Namespace) -> None:
    def forwarding() -> tuple[str, str]:
        return host.read_sysctl("net/ipv4/ip_forward"), host.read_sysctl("net/ipv6/conf/all/forwarding")

    host.write_sysctl("net/ipv4/ip_forward", "0")
    host.write_sysctl("net/ipv6/conf/all/forwarding", "0")

    async def scenario(keeper: Keeper) -> None:
        keeper.cycle()
        assert forwarding() == ("1", "1")
        host.write_sysctl("net/ipv4/ip_forward", "0")
        host.write_sysctl("net/ipv6/conf/all/forwarding", "0")
        await keeper.settle(lambda: forwarding() == ("1", "1") and switches(host) == WANTED)

    run_kept(host, scenario, has_host_forwarding=True)


@pytest.mark.parametrize("path", [path for path in WANTED if "forwarding" in path or "proxy_arp" in path])
def test_announced_switch_changed_by_somebody_is_mended_by_event(host: Namespace, path: str) -> None:
    async def scenario(keeper: Keeper) -> None:
        keeper.cycle()
        host.write_sysctl(path, "0")
        await keeper.settle(lambda: host.read_sysctl(path) == "1")
        assert keeper.mended[-1] == (path, "0", "1")

    run_kept(host, scenario)


def test_unannounced_switch_changed_by_somebody_is_mended_by_audit(host: Namespace) -> None:
    async def scenario(keeper: Keeper) -> None:
        keeper.cycle()
        host.write_sysctl("net/ipv6/conf/calia/accept_ra", "2")
        keeper.links.verify_settings()
        keeper.cycle()
        assert switches(host) == WANTED

    run_kept(host, scenario)


def test_flapping_link_gets_settings_and_neighbours_back(host: Namespace) -> None:
    async def scenario(keeper: Keeper) -> None:
        keeper.cycle()
        for _ in range(3):
            host.ip("link set calia down")
            host.ip("link set calia up")
        await keeper.settle(lambda: neighbours(host) == BOTH and switches(host) == WANTED)
        host.ip("link set calia down")
        await keeper.settle(lambda: keeper.links.pop_states().get(endpoint_key("a")) is LinkState.DOWN)
        assert keeper.links.is_settled

    run_kept(host, scenario)


def test_interface_deleted_and_made_again_under_its_name_is_set_up_again(host: Namespace) -> None:
    async def scenario(keeper: Keeper) -> None:
        keeper.cycle()
        assert keeper.links.pop_states() == {endpoint_key("a"): LinkState.UP}
        host.ip("link delete calia")
        await keeper.settle(lambda: keeper.links.pop_states().get(endpoint_key("a")) is LinkState.ABSENT)
        host.ip("link add calia type veth peer name peer")
        host.ip("link set peer up")
        host.ip("link set calia up")
        await keeper.settle(lambda: neighbours(host) == BOTH and switches(host) == WANTED)
        await keeper.settle(lambda: keeper.links.pop_states().get(endpoint_key("a")) is LinkState.UP)

    run_kept(host, scenario)


def test_interface_renamed_into_claimed_name_is_set_up(host: Namespace) -> None:
    async def scenario(keeper: Keeper) -> None:
        endpoint = local_endpoint("b", "calib", "10.1.0.2", mac=MAC)
        keeper.links.on_delta({endpoint.key: endpoint, endpoint_key("a"): None})
        keeper.cycle()
        assert neighbours(host) == set()
        host.ip("link set calia down")
        host.ip("link set calia name calib")
        host.ip("link set calib up")
        await keeper.settle(lambda: neighbours(host) == {f"10.1.0.2 dev calib lladdr {MAC} PERMANENT proto 80"})
        assert switches(host, "calib") == WANTED

    run_kept(host, scenario)


@pytest.mark.parametrize(
    "tampering",
    [
        "neigh del 10.1.0.1 dev calia",
        "-6 neigh del fd01::1 dev calia",
        "neigh replace 10.1.0.1 lladdr 02:00:00:00:00:99 nud permanent dev calia",
        "neigh replace fd01::1 lladdr 02:00:00:00:00:0a nud reachable dev calia",
        "neigh replace 10.7.0.1 lladdr 02:00:00:00:00:99 nud permanent dev calia proto 80",
    ],
)
@pytest.mark.parametrize("by_event", [True, False], ids=["by event", "by audit"])
def test_tampered_neighbour_is_repaired(host: Namespace, tampering: str, by_event: bool) -> None:
    async def scenario(keeper: Keeper) -> None:
        keeper.cycle()
        if not by_event:
            keeper.watch.close()
        host.ip(tampering)
        if not by_event:
            keeper.links.mark_unknown()
        await keeper.settle(lambda: neighbours(host) == BOTH and keeper.links.is_settled)

    run_kept(host, scenario)


def test_neighbours_of_others_stay_and_ours_go_with_the_endpoint(host: Namespace) -> None:
    host.ip("neigh add 10.1.0.9 lladdr 02:00:00:00:00:99 nud permanent dev calia")
    foreign = {"10.1.0.9 dev calia lladdr 02:00:00:00:00:99 PERMANENT"}

    async def scenario(keeper: Keeper) -> None:
        keeper.cycle()
        assert neighbours(host) == BOTH | foreign
        keeper.links.on_delta({endpoint_key("a"): None})
        keeper.cycle(may_delete=False)
        assert neighbours(host) == BOTH | foreign
        keeper.cycle()
        assert neighbours(host) == foreign

    run_kept(host, scenario)


def test_link_local_gateway_answers_neighbour_discovery_of_the_workload(host: Namespace) -> None:
    async def scenario(keeper: Keeper) -> None:
        keeper.cycle()
        host.ip("link set calia down")
        host.ip("link set calia up")
        await keeper.settle(lambda: "scope link" in host.ip("-6 addr show dev calia"))
        assert "tentative" not in host.ip("-6 addr show dev calia")  # after a flap too: no duplicate detection

    run_kept(host, scenario)
