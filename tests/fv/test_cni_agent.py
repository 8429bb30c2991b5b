"""felix-cni and felix-ipam on real agents: the same contract as on the fake one, and what only a kernel can show."""

from __future__ import annotations

import contextlib
import re
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import pytest

from felix.lab.names import POOL_V4
from felix.lab.place import wait_until
from felix.model.net import Net
from tests.support.cni import FOREIGN, CniHost, Runtime, write_launchers
from tests.support.cni_contract import CniContract
from tests.support.fv import ENVIRONMENT, Fleet

pytestmark = pytest.mark.fv

_WANTED = Net(4, POOL_V4.value + (77 << 8) + 50, 32).address


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> str:
    """Where the executables are, as if somebody had copied them."""
    return str(write_launchers(tmp_path_factory.mktemp("cni")))


@pytest.fixture
def host(fleet: Fleet, folder: str) -> Iterator[CniHost]:
    """The first host of the lab."""
    socket = str(Path(fleet.h1.rundir) / "felix.sock")
    with contextlib.closing(CniHost(fleet.h1.namespace, (folder, FOREIGN), socket, _WANTED)) as one:
        yield one


class TestOnRealAgent(CniContract):
    """All that a runtime may rely on."""


def _answers(host: CniHost, one: Runtime, address: str) -> bool:
    """Whether a packet from the container comes back."""
    return "1 received" in host.execute(one, "sh", "-c", f"ping -c 1 -W 1 {address} || true")


@pytest.fixture
def one(host: CniHost) -> Iterator[Runtime]:
    """A container; nothing of it is left afterwards."""
    runtime = host.container()
    yield runtime
    runtime.succeed("DEL", runtime.conf())


def test_add_returns_when_the_first_packet_passes(host: CniHost, one: Runtime) -> None:
    """Two containers of one network may talk, by the network's profile: at once, both ways, both families."""
    other = host.container()
    ipam = {"type": "felix-ipam", "assign_ipv6": True}
    mine, theirs = one.add(one.conf(ipam=ipam)), other.add(other.conf(ipam=ipam))
    for ip in theirs["ips"]:
        assert _answers(host, one, ip["address"].partition("/")[0])
    for ip in mine["ips"]:
        assert _answers(host, other, ip["address"].partition("/")[0])
    other.succeed("DEL", other.conf())


def test_containers_of_two_networks_may_not_talk(host: CniHost, one: Runtime) -> None:
    other = host.container()
    one.add(one.conf())
    address = other.add(other.conf(name="net2"))["ips"][0]["address"].partition("/")[0]
    assert not _answers(host, one, address)
    other.succeed("DEL", other.conf(name="net2"))


@pytest.mark.parametrize(
    "harm",
    [
        "ip link set eth0 down",
        "ip address flush dev eth0",
        "ip route delete default",
        "ip link set eth0 address 02:00:00:00:00:99",
        "ip link delete eth0",
    ],
)
def test_check_sees_what_is_wrong_inside(host: CniHost, one: Runtime, harm: str) -> None:
    conf = one.conf()
    result = one.add(conf)
    one.succeed("CHECK", conf | {"prevResult": result})
    host.execute(one, *harm.split())
    answer = one.call("CHECK", conf | {"prevResult": result})
    assert answer.code == 103, answer.describe()


def test_check_sees_that_policy_is_not_in_force(host: CniHost, one: Runtime) -> None:
    conf = one.conf()
    result = one.add(conf)
    host.execute_on_host("ip", "link", "set", result["interfaces"][0]["name"], "down")
    answer = one.call("CHECK", conf | {"prevResult": result})
    assert answer.code == 103, answer.describe()


def test_add_waits_for_an_agent_that_restarts(fleet: Fleet, host: CniHost, one: Runtime) -> None:
    fleet.h1.stop_agent()
    conf = one.conf(agent_timeout=20)
    try:
        assert one.call("ADD", one.conf(agent_timeout=0.2)).code == 11
        assert one.call("STATUS", conf).code == 50
        with ThreadPoolExecutor(1) as pool:
            adding = pool.submit(one.add, conf)
            fleet.h1.start_agent(environment=ENVIRONMENT)
            result = adding.result()
        one.succeed("CHECK", conf | {"prevResult": result})
    finally:
        fleet.h1.start_agent(environment=ENVIRONMENT)
        fleet.h1.wait_agent_ready()


def test_check_sees_an_address_that_the_container_should_have_and_has_not(host: CniHost, one: Runtime) -> None:
    conf = one.conf()
    result = one.add(conf)
    result["ips"][0]["address"] = f"{_WANTED}/32"
    answer = one.call("CHECK", conf | {"prevResult": result})
    assert answer.code == 103
    assert _WANTED in str(answer.document)


def test_second_interface_stands_beside_the_first(host: CniHost, one: Runtime) -> None:
    """As Mesos does it: eth0 and eth1 of two networks, the second without default route, both gone afterwards."""
    conf, second = one.conf("0.2.0"), one.conf("0.2.0", name="net2", include_default_routes=False)
    first_result = one.add(conf)
    second_result = one.add(second, variables={"CNI_IFNAME": "eth1"})
    assert first_result["ip4"]["ip"] != second_result["ip4"]["ip"]
    assert "routes" not in second_result["ip4"]
    assert "eth1" in host.execute(one, "ip", "-brief", "link")
    one.succeed("DEL", second, variables={"CNI_IFNAME": "eth1"})
    assert "eth1" not in host.execute(one, "ip", "-brief", "link")
    assert "default" in host.execute(one, "ip", "route")


def test_interface_that_somebody_else_made_is_an_error(host: CniHost, one: Runtime) -> None:
    host.execute(one, "ip", "link", "add", "eth0", "type", "veth", "peer", "name", "eth9")
    answer = one.call("ADD", one.conf())
    assert answer.code == 101, answer.describe()
    assert "eth0" in str(answer.document)
    host.execute(one, "ip", "link", "delete", "eth0")
    one.add(one.conf())


def test_exhausted_pool_is_told_and_leaves_nothing(host: CniHost, one: Runtime) -> None:
    answer = one.call("ADD", one.conf(ipam={"type": "felix-ipam", "ipv4_pools": ["no-such-pool"]}))
    assert answer.code == 102, answer.describe()
    assert "no-such-pool" in str(answer.document)
    assert "eth0" not in host.execute(one, "ip", "-brief", "link")


def test_bandwidth_that_the_runtime_asks_for_is_shaped_without_another_plugin(host: CniHost, one: Runtime) -> None:
    wanted = {"ingressRate": 1_000_000, "ingressBurst": 200_000, "egressRate": 20_000_000}
    conf = one.conf("1.0.0", runtimeConfig={"bandwidth": wanted}, qosControls={"egressMaxConnections": 7})
    result = one.add(conf)
    outside = result["interfaces"][0]["name"]

    def read() -> str:
        return host.execute_on_host("sh", "-c", "tc qdisc show; nft list table inet felix")

    def is_shaped() -> bool:
        return re.search(rf"tbf fe1c: dev {outside} root .* rate 1Mbit burst 25000b", read()) is not None

    wait_until(is_shaped, 20.0, "the shaper towards it")
    wait_until(lambda: re.search(r"tbf fe1c: dev fxbw-\S+ root .* rate 20Mbit", read()) is not None, 20.0, "the other")
    assert "ct count over 7 " in read()
    one.succeed("CHECK", conf | {"prevResult": result})
    one.succeed("DEL", conf)
    wait_until(lambda: "fe1c:" not in read() and "ct count over 7 " not in read(), 20.0, "nothing of it to be left")


@pytest.mark.parametrize(("rate", "seen"), [(999, "999"), (10**16, "10000000000000000")])
def test_bandwidth_out_of_range_is_refused_and_leaves_nothing(
    host: CniHost, one: Runtime, rate: int, seen: str
) -> None:
    answer = one.call("ADD", one.conf("1.0.0", runtimeConfig={"bandwidth": {"egressRate": rate}}))
    assert answer.code == 7, answer.describe()
    assert f"qosControls.egressBandwidth: '{seen}': is not from 1000 to" in str(answer.document)
    assert "eth0" not in host.execute(one, "ip", "-brief", "link")


def test_portmap_and_bandwidth_behind_ours_work_on_its_interface(host: CniHost, one: Runtime) -> None:
    """A published port reaches the container; the host's end is shaped; DEL in reverse order leaves nothing."""
    conf = one.conf("1.0.0")
    result = one.add(conf)
    ports = [{"hostPort": 18080, "containerPort": 80, "protocol": "tcp"}]
    portmap = one.conf("1.0.0", type="portmap", runtimeConfig={"portMappings": ports}, prevResult=result)
    portmap["capabilities"] = {"portMappings": True}
    result = one.add(portmap)
    limits = {"ingressRate": 1_000_000, "ingressBurst": 100_000}
    bandwidth = one.conf("1.0.0", type="bandwidth", runtimeConfig={"bandwidth": limits}, prevResult=result)
    final = one.add(bandwidth)
    outside = final["interfaces"][0]["name"]
    assert "tbf" in host.execute_on_host("tc", "qdisc", "show", "dev", outside)
    assert "18080" in host.execute_on_host("iptables-save", "-t", "nat")
    one.succeed("CHECK", conf | {"prevResult": final})
    for each in (bandwidth, portmap, conf):
        one.succeed("DEL", each | {"prevResult": final})
    assert "18080" not in host.execute_on_host("iptables-save", "-t", "nat")
    assert outside not in host.execute_on_host("ip", "-brief", "link")
