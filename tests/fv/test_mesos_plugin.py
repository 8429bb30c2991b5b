"""felix-mesos on a real agent: the contract of net-modules on etcd and the kernel, groups as packets see them."""

from __future__ import annotations

import json
import os
import subprocess
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from typing import Any

import pytest

from felix.ipam.block import Block, parse_block
from felix.lab.host import Host
from felix.lab.lab import Lab
from felix.lab.store import Document
from felix.model.keys import BlockKey, ResourceKey, format_key
from felix.model.net import Net, parse_address
from felix.plugins.ask import ask
from tests.support.net_modules import Launch, NetModulesContract, Said, Scene, call_plugin, new_launch

pytestmark = pytest.mark.fv

ENDPOINTS = "/calico/resources/v3/projectcalico.org/workloadendpoints/"
SETTINGS = {"FELIX_DEFAULTENDPOINTTOHOSTACTION": "Return"}  # executors talk with the Mesos agent of their host
LAST = 50  # addresses from here on are the tests' own; those that are chosen come from the other end of the block


class RealScene(Scene):
    """The host of a lab. A container is a process in a network namespace of its own."""

    def __init__(self, lab: Lab) -> None:
        self.lab = lab
        self.host: Host = lab.hosts[0]
        self.blocks = (self.host.addresses.block_v4, self.host.addresses.block_v6)
        self.static4, self.static6 = (
            tuple(_address_in(block, LAST + number) for number in range(6)) for block in self.blocks
        )
        self._launches: list[Launch] = []
        self._processes: list[subprocess.Popen[bytes]] = []
        self._others: list[str] = []

    def call(self, command: str, **args: Any) -> Said:
        environment = {"FELIX_RUNDIR": str(self.host.rundir)}
        return call_plugin({"command": command, "args": args}, environment)

    def launch(self) -> Launch:
        process = subprocess.Popen(["unshare", "-n", "cat"], stdin=subprocess.PIPE, stdout=subprocess.PIPE)
        self._processes.append(process)
        assert process.stdin is not None
        assert process.stdout is not None
        process.stdin.write(b"alive\n")
        process.stdin.flush()
        assert process.stdout.readline() == b"alive\n"  # it is cat by now, in its namespace
        launch = new_launch(process.pid)
        self._launches.append(launch)
        return launch

    def held(self) -> dict[str, str]:
        found = {}
        for net in self.blocks:
            stored = self.lab.store.read(format_key(BlockKey(net)))
            block = parse_block(net, stored[0]) if stored else None
            assert isinstance(block, Block)
            found.update({block.address(ordinal): str(holder.handle) for ordinal, holder in block.held()})
        return found

    def attached(self) -> dict[str, set[str]]:
        """Returns what etcd says, when the container's interface has just those addresses."""
        found = {}
        for document in self.lab.store.list_prefix(ENDPOINTS).values():
            spec: Any = document["spec"]
            addresses = {net.partition("/")[0] for net in spec["ipNetworks"]}
            launch = next(one for one in self._launches if one.container == spec["containerID"])
            assert self.inside(launch) == addresses
            found[launch.container] = addresses
        return found

    def hold_for_others(self, address: str) -> None:
        body = {"handle": "net1.c9", "addresses": [address], "attributes": {"felix.use": "ipam-only"}}
        self.ask_agent("/v1/ipam/allocate", body)
        self._others.append(address)

    def ask_agent(self, route: str, body: object) -> object:
        """Returns what the agent answers."""
        return ask(str(self.host.rundir / "felix.sock"), "POST", route, body)

    def inside(self, launch: Launch) -> set[str]:
        """Returns the addresses of the container's eth0."""
        links = json.loads(_run_inside(launch, "ip", "-j", "addr", "show", "dev", "eth0").stdout)
        return {one["local"] for link in links for one in link["addr_info"] if one["scope"] == "global"}

    def start(self, *groups: str) -> tuple[Launch, str]:
        """Returns a container of these groups, and its address."""
        launch = self.launch()
        (address,) = self.allocate(launch, 1).answer["ipv4"]
        said = self.isolate(launch, [address], groups)
        assert said.error is None, said
        return launch, address

    def profile(self, name: str) -> tuple[str, Document]:
        """Returns key and document of a profile."""
        key = format_key(ResourceKey("Profile", "", name))
        stored = self.lab.store.get(key)
        assert stored is not None, name
        return key, stored[0]

    def clear(self) -> None:
        """Nothing of this scene is left on the host."""
        for process in self._processes:
            process.kill()
            process.communicate()
        for launch in self._launches:
            self.cleanup(launch)
            self.call("release", uid=launch.uid)
        for address in self._others:
            self.ask_agent("/v1/ipam/release", {"addresses": [address], "handle": "net1.c9"})
        assert self.held() == {}
        assert self.lab.store.list_prefix(ENDPOINTS) == {}
        assert "cali" not in self.host.run(["ip", "-o", "link"]).stdout


def _address_in(block: Net, ordinal: int) -> str:
    return Net(block.version, block.value + ordinal, parse_address(block.address).bits).address


def _run_inside(launch: Launch, *command: str) -> subprocess.CompletedProcess[bytes]:
    prefix = ["nsenter", f"--net=/proc/{launch.pid}/ns/net"]
    return subprocess.run([*prefix, *command], capture_output=True, check=False, timeout=30)


def _can_ping(launch: Launch, address: str) -> bool:
    return _run_inside(launch, "ping", "-n", "-c", "1", "-W", "1", address).returncode == 0


@pytest.fixture(scope="module")
def lab(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Lab]:
    with Lab(f"netmod{os.getpid()}", tmp_path_factory.mktemp("l")) as lab:
        lab.up(hosts=1, agents=False, bird=False)
        lab.hosts[0].start_agent(environment=SETTINGS)
        lab.hosts[0].wait_agent_ready()
        yield lab


@pytest.fixture
def scene(lab: Lab) -> Iterator[RealScene]:
    scene = RealScene(lab)
    try:
        yield scene
    finally:
        scene.clear()


class TestOnARealAgent(NetModulesContract):
    """The contract."""


def test_groups_are_profiles_one_each_and_one_of_the_own_host(scene: RealScene) -> None:
    launch, _ = scene.start("public", "star-1")
    (endpoint,) = scene.lab.store.list_prefix(ENDPOINTS).values()
    spec: Any = endpoint["spec"]
    assert spec["orchestrator"] == "mesos"
    assert set(spec["profiles"]) == {"public", "star-1", "default_h1"}
    assert len(spec["profiles"]) == 3
    for name in spec["profiles"]:
        scene.profile(name)
    assert launch.container == spec["workload"]


def test_containers_that_share_a_group_can_talk_and_others_cannot(scene: RealScene) -> None:
    one, address1 = scene.start("a")
    both, address2 = scene.start("a", "b")
    other, address3 = scene.start("b")
    alone, address4 = scene.start()
    public, address5 = scene.start("public")
    expected = {
        one.pid: {address2, address5},
        both.pid: {address1, address3, address5},
        other.pid: {address2, address5},
        # whoever is in no group talks with its own host alone, and is heard by nobody
        alone.pid: set(),
    }
    everybody = {one.pid: address1, both.pid: address2, other.pid: address3, alone.pid: address4, public.pid: address5}
    pairs = [(launch, to) for launch in (one, both, other, alone) for to in everybody.values()]
    pairs = [(launch, to) for launch, to in pairs if everybody[launch.pid] != to]
    with ThreadPoolExecutor(len(pairs)) as pool:
        heard = list(pool.map(lambda pair: _can_ping(*pair), pairs))
    assert heard == [to in expected[launch.pid] for launch, to in pairs]


@pytest.mark.parametrize("groups", [(), ("a",)])
def test_container_talks_with_its_own_host_in_both_directions(scene: RealScene, groups: tuple[str, ...]) -> None:
    launch, address = scene.start(*groups)
    assert _can_ping(launch, scene.host.ipv4)
    assert scene.host.run(["ping", "-n", "-c", "1", "-W", "1", address], check=False).returncode == 0


def test_profile_that_an_operator_edited_survives_the_next_launch(scene: RealScene) -> None:
    scene.start("edited")
    key, document = scene.profile("edited")
    spec: Any = document["spec"]
    spec["egress"] = [{"action": "Deny"}]
    scene.lab.store.put(key, document)
    launch, _ = scene.start("edited")
    assert scene.profile("edited")[1]["spec"] == spec
    scene.cleanup(launch)
    assert scene.profile("edited")[1]["spec"] == spec


def test_process_without_namespace_of_its_own_is_an_error_and_nothing_is_left(scene: RealScene) -> None:
    launch = scene.launch()
    addresses = scene.allocate(launch, 1).answer["ipv4"]
    gone = subprocess.Popen(["true"])
    gone.wait(10)
    for pid in (gone.pid, scene.host.find_pid("agent")):
        assert pid is not None
        said = scene.isolate(Launch(launch.uid, launch.container, pid), addresses)
        assert str(pid) in said.error
        assert scene.attached() == {}
        assert scene.held_by(launch) == set(addresses)
    assert scene.isolate(launch, addresses).error is None


def test_agent_that_restarts_meanwhile_changes_nothing(scene: RealScene) -> None:
    launch = scene.launch()
    addresses = scene.allocate(launch, 1, 1).answer
    everything = [*addresses["ipv4"], *addresses["ipv6"]]
    scene.host.stop_agent()
    scene.host.start_agent(environment=SETTINGS)
    assert scene.isolate(launch, everything, ["a"]).answer == {"error": None}  # waits until the agent is there
    scene.host.stop_agent()
    scene.host.start_agent(environment=SETTINGS)
    assert scene.isolate(launch, everything, ["a"]).answer == {"error": None}
    assert scene.attached()[launch.container] == set(everything)
    assert scene.cleanup(launch).answer == {"error": None}
    assert scene.held_by(launch) == set()


def test_addresses_of_a_container_whose_process_is_gone_are_given_back(scene: RealScene) -> None:
    launch, _ = scene.start("a")
    scene._processes[-1].kill()
    scene._processes[-1].wait(10)
    assert scene.cleanup(launch).answer == {"error": None}
    assert scene.held_by(launch) == set()


def test_defect_2_5_lo_is_up_and_ipv6_has_a_default_route(scene: RealScene) -> None:
    launch = scene.launch()
    addresses = scene.allocate(launch, 1, 1).answer
    assert scene.isolate(launch, [*addresses["ipv4"], *addresses["ipv6"]], ["a"]).error is None
    assert _run_inside(launch, "ping", "-n", "-c", "1", "-W", "1", "127.0.0.1").returncode == 0
    assert b"default via fe80::ecee:eeff:feee:eeee dev eth0" in _run_inside(launch, "ip", "-6", "route").stdout
    assert _can_ping(launch, scene.host.ipv6)


def test_defect_2_5_interface_goes_with_cleanup_though_the_process_lives(scene: RealScene) -> None:
    launch, _ = scene.start("a")
    assert b"eth0" in _run_inside(launch, "ip", "-o", "link").stdout
    assert scene.cleanup(launch).error is None
    assert b"eth0" not in _run_inside(launch, "ip", "-o", "link").stdout
    assert "cali" not in scene.host.run(["ip", "-o", "link"]).stdout


def test_defect_2_4_containers_of_a_new_group_that_start_at_once_share_one_profile(scene: RealScene) -> None:
    with ThreadPoolExecutor(4) as pool:
        started = list(pool.map(lambda _: scene.start("new"), range(4)))
    (one, _), (_, other) = started[0], started[-1]
    assert _can_ping(one, other)
    scene.profile("new")


def test_defect_4_two_containers_that_only_their_ids_tell_apart_keep_their_addresses_apart(scene: RealScene) -> None:
    (one, address1), (other, address2) = scene.start("same"), scene.start("same")
    assert scene.cleanup(one).error is None
    assert scene.attached() == {other.container: {address2}}
    assert scene.held() == {address2: other.uid}
    assert address1 != address2


def test_addresses_of_another_ipam_are_the_containers_and_are_not_given_back(scene: RealScene) -> None:
    launch = scene.launch()
    assert scene.isolate(launch, ["10.77.0.5"], ["a"]).answer == {"error": None}
    assert scene.attached() == {launch.container: {"10.77.0.5"}}
    assert scene.held() == {}
    assert scene.cleanup(launch).answer == {"error": None}
    assert scene.held() == {}
