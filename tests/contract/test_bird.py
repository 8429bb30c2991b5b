"""What is rendered for BIRD means to real BIRDs what it is meant to: blocks travel, sessions stay, faults are named."""

from __future__ import annotations

import asyncio
import os
import signal
import stat
import threading
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import replace
from pathlib import Path

import pytest

from felix.dataplane.bird.apply import BirdPlace, apply_bird
from felix.dataplane.bird.context import build_context
from felix.dataplane.bird.read import read_secrets, read_state
from felix.dataplane.bird.types import BirdContext, BirdOptions, BirdState, ProtocolState, Secret
from felix.errors import EnvironmentFault, PeerError
from felix.lab.host import Host
from felix.lab.lab import Lab, Workload
from felix.lab.probe import echo
from tests.support.bird import Json, make_inputs, node, pools, resource

pytestmark = pytest.mark.fv

NODES = [node(1), node(2)]


@pytest.fixture
def lab(tmp_path: Path) -> Iterator[Lab]:
    with Lab(f"bird{os.getpid()}", tmp_path) as lab:
        lab.up(hosts=2, agents=False)
        yield lab


def place_of(host: Host) -> BirdPlace:
    return BirdPlace(host.bird_config, host.bird_socket, timeout_s=2.0)


def context_of(host: Host, resources: Sequence[Json] = NODES) -> BirdContext:
    blocks = (str(host.addresses.block_v4), str(host.addresses.block_v6))
    built = build_context(make_inputs([*pools(), *resources], hostname=host.name, blocks=blocks))
    assert built.problems == ()
    return built.context


async def mesh(lab: Lab) -> None:
    """Both hosts run the mesh and its sessions are established."""
    for host in lab.hosts:
        outcome = await apply_bird(place_of(host), context_of(host))
        assert (outcome.is_current, outcome.fault, outcome.problems) == (True, "", ())
    for host in lab.hosts:
        await until_established(host, 2)


async def until(condition: Callable[[], bool], what: str, timeout_s: float = 15.0) -> None:
    deadline = asyncio.get_running_loop().time() + timeout_s
    while True:
        if condition():
            return
        assert asyncio.get_running_loop().time() < deadline, f"waited in vain for {what}"
        await asyncio.sleep(0.05)


async def until_established(host: Host, count: int, timeout_s: float = 15.0) -> BirdState:
    async with asyncio.timeout(timeout_s):
        while True:
            state = await read_state(host.bird_socket)
            if sum(protocol.is_established for protocol in state.protocols) >= count:
                return state
            await asyncio.sleep(0.05)


def routes(host: Host) -> str:
    v4 = host.run(["ip", "-4", "route", "show", "proto", "bird"]).stdout
    return v4 + host.run(["ip", "-6", "route", "show", "proto", "bird"]).stdout


def is_recovered(host: Host) -> bool:
    status = host.birdc("show", "status")
    return "Daemon is up" in status and "Graceful restart" not in status


def sessions(state: BirdState) -> dict[str, ProtocolState]:
    return {protocol.name: protocol for protocol in state.protocols if protocol.kind == "BGP"}


async def test_bird_mesh_of_two_hosts_brings_each_the_blocks_of_the_other(lab: Lab) -> None:
    first, second = lab.hosts
    await mesh(lab)

    await until(lambda: routes(first).count("metric 2048") == 2, "both blocks of the second host")
    assert f"192.168.2.0/26 via {second.ipv4} dev eth0" in routes(first)
    assert f"fd00:192:168::2:0/122 via {second.ipv6} dev eth0" in routes(first)
    assert "192.168.1.0" not in routes(first)  # the own block is the agent's to write

    state = await read_state(first.bird_socket)
    assert (state.version, state.router_id) == ("2.0.12", "10.0.0.1")
    assert sessions(state).keys() == {"Mesh_10_0_0_2", "Mesh_fd00_10__2"}
    session = sessions(state)["Mesh_10_0_0_2"]
    assert (session.state, session.neighbor, session.neighbor_as) == ("up", "10.0.0.2", 64512)
    assert [(channel.name, channel.imported, channel.exported) for channel in session.channels] == [("ipv4", 1, 1)]


async def test_bird_apply_of_the_same_context_twice_does_nothing(lab: Lab) -> None:
    host = lab.hosts[0]
    first = await apply_bird(place_of(host), context_of(host))
    written_at = host.bird_config.stat().st_mtime_ns

    second = await apply_bird(place_of(host), context_of(host))

    assert (first.is_written, first.is_configured) == (True, True)
    assert (second.is_current, second.is_written, second.is_configured) == (True, False, False)
    assert host.bird_config.stat().st_mtime_ns == written_at
    assert stat.S_IMODE(host.bird_config.stat().st_mode) == 0o640
    assert list(host.bird_config.parent.iterdir()) == [host.bird_config]


async def test_bird_gets_another_peer_and_filter_without_touching_other_sessions(lab: Lab) -> None:
    first, _ = lab.hosts
    await mesh(lab)
    before = sessions(await read_state(first.bird_socket))
    more = [
        *NODES,
        resource("BGPPeer", "tor", peerIP="10.0.0.99", asNumber=64999, filters=["f"]),
        resource("BGPFilter", "f", importV4=[{"action": "Reject"}]),
        resource("BGPConfiguration", "default", prefixAdvertisements=[{"cidr": "192.168.0.0/16", "communities": []}]),
    ]

    outcome = await apply_bird(place_of(first), context_of(first, more))
    after = sessions(await read_state(first.bird_socket))

    assert outcome.is_current
    assert after.keys() - before.keys() == {"Global_10_0_0_99"}
    assert all(after[name].since == before[name].since and after[name].is_established for name in before)


async def test_bird_reload_that_was_lost_is_noticed_and_made_up_for(lab: Lab) -> None:
    host = lab.hosts[0]
    wanted = context_of(host)
    await apply_bird(place_of(host), wanted)
    text = host.bird_config.read_text()
    host.bird_config.write_text("router id 10.0.0.1; protocol device { }")
    host.birdc("configure")
    host.bird_config.write_text(text)

    outcome = await apply_bird(place_of(host), wanted)

    assert (outcome.is_current, outcome.is_written, outcome.is_configured) == (True, False, True)
    assert "Mesh_10_0_0_2" in sessions(await read_state(host.bird_socket))


async def test_bird_refusing_one_session_gets_all_others_and_its_object_is_named(lab: Lab) -> None:
    host = lab.hosts[0]
    wanted = context_of(host, [node(number) for number in range(1, 10)])
    broken = replace(wanted.sessions[5], neighbor="10.0.0.0.7")
    spoiled = tuple(broken if session is wanted.sessions[5] else session for session in wanted.sessions)

    outcome = await apply_bird(place_of(host), replace(wanted, sessions=spoiled))

    names = sessions(await read_state(host.bird_socket)).keys()
    assert outcome.is_current
    assert [problem.subject for problem in outcome.problems] == [str(broken.origin)]
    assert broken.name in outcome.problems[0].reason
    assert "line " in outcome.problems[0].reason
    assert names == {session.name for session in wanted.sessions} - {broken.name}


async def test_bird_refusing_everything_keeps_the_last_good_file(lab: Lab) -> None:
    host = lab.hosts[0]
    wanted = context_of(host)
    await apply_bird(place_of(host), wanted)
    text = host.bird_config.read_text()

    outcome = await apply_bird(place_of(host), replace(wanted, router_id="nonsense"))

    assert not outcome.is_current
    assert "without sessions" in outcome.fault
    assert host.bird_config.read_text() == text


async def test_bird_that_is_dead_finds_its_configuration_when_it_comes_back(lab: Lab) -> None:
    host = lab.hosts[0]
    host.stop_bird(signal.SIGKILL)

    outcome = await apply_bird(place_of(host), context_of(host))
    assert (outcome.is_current, outcome.is_written, outcome.is_configured) == (False, True, False)
    assert "is BIRD running" in outcome.fault

    host.start_bird()
    again = await apply_bird(place_of(host), context_of(host))
    assert (again.is_current, again.is_configured) == (True, False)


async def test_bird_that_does_not_answer_is_a_peers_fault_within_the_time_given(lab: Lab) -> None:
    host = lab.hosts[0]
    host.send_signal("bird", signal.SIGSTOP)
    try:
        with pytest.raises(PeerError, match="no whole answer"):
            await read_state(host.bird_socket, timeout_s=0.2)
    finally:
        host.send_signal("bird", signal.SIGCONT)
    assert (await read_state(host.bird_socket)).digest == ""


async def test_bird_program_or_socket_missing_is_the_environments_fault(tmp_path: Path) -> None:
    place = BirdPlace(tmp_path / "bird.conf", tmp_path / "bird.ctl", program="no-such-bird")

    outcome = await apply_bird(place, build_context(make_inputs([])).context)
    with pytest.raises(EnvironmentFault, match="is BIRD running"):
        await read_state(place.socket)

    assert "is not installed" in outcome.fault
    assert not place.config.exists()


@pytest.mark.slow
async def test_bird_killed_and_restarted_loses_no_packet(lab: Lab) -> None:
    first, second = lab.hosts
    workloads = [lab.add_workload(host, f"w-{host.name}") for host in lab.hosts]
    for host, workload in zip(lab.hosts, workloads, strict=True):
        host.configure(
            f"route add {workload.ipv4} dev {workload.interface} proto 80 scope link",
            f"route add {workload.ipv6} dev {workload.interface} proto 80",
        )
    client, server = workloads
    server.listen(7, "udp")
    await mesh(lab)
    both = (server.ipv4, server.ipv6)
    await until(lambda: all(client.connect(address, 7, "udp", 0.2).ok for address in both), "the way there")

    with ThreadPoolExecutor(2) as pool:
        done = threading.Event()
        rounds = [pool.submit(exchange, client, address, done) for address in both]
        first.stop_bird(signal.SIGKILL)
        first.start_bird()
        await until_established(first, 2)
        await until(lambda: is_recovered(first), "the end of recovery")
        second.stop_bird(signal.SIGKILL)
        second.start_bird()
        await until_established(second, 2)
        await until(lambda: is_recovered(second), "the end of recovery")
        await asyncio.sleep(0.5)  # when stale routes would go
        done.set()
        assert all(round_.result() > 100 for round_ in rounds)


def exchange(client: Workload, address: str, done: threading.Event) -> int:
    """Returns how many questions were answered until `done`; raises TimeoutError at the first that was not."""
    count = 0
    with client.open(address, 7, "udp") as connection:
        while not done.wait(0.005):
            echo(connection, 0.5)
            count += 1
    return count


async def test_borrowed_address_is_announced_and_own_workloads_are_not(lab: Lab) -> None:
    first, second = lab.hosts
    await mesh(lab)
    first.configure(
        "link add cali0 up type veth peer name other",
        "link set other up",
        "route add blackhole 192.168.1.0/26 proto 80",
        "route add 192.168.1.7 dev cali0 proto 80 scope link",
        "route add 192.168.2.40 dev cali0 proto 80 scope link",
        "route add 192.168.2.41 dev cali0 proto static scope link",
        "route add 172.16.0.1 dev cali0 proto 80 scope link",
        "route add 192.168.3.0/26 via 10.0.0.3 dev eth0 onlink proto 80",  # as VXLAN's, of a third host
        "route add 192.168.2.42 dev eth0 proto 80 scope link",
    )

    await until(lambda: "192.168.2.40 via 10.0.0.1" in routes(second), "the borrowed address")
    assert "192.168.1.0/26 via 10.0.0.1" in routes(second)
    for absent in ("192.168.1.7", "192.168.2.41", "192.168.2.42", "192.168.3.0", "172.16.0.1"):
        assert absent not in routes(second)


async def test_routes_a_peer_should_not_send_change_nothing(lab: Lab) -> None:
    first, second = lab.hosts
    await apply_bird(place_of(first), context_of(first))
    first.configure("route add 192.168.1.7 dev lo proto 80 scope link")
    second.bird_config.write_text("""
router id 10.0.0.2;
protocol device { }
protocol static {
  ipv4;
  route 0.0.0.0/0 blackhole; route 192.168.1.0/26 blackhole; route 192.168.1.0/28 blackhole;
  route 8.8.8.8/32 blackhole; route 192.168.1.7/32 blackhole; route 192.168.9.0/26 blackhole;
}
protocol bgp { local 10.0.0.2 as 64512; neighbor 10.0.0.1 as 64512; ipv4 { import none; export all; }; }
""")
    second.birdc("configure")

    await until(lambda: "192.168.9.0/26" in routes(first), "the good route")
    assert "192.168.1.7 dev lo" in first.run(["ip", "route", "get", "192.168.1.7"]).stdout
    present = {line.split()[0] for line in routes(first).splitlines()}
    assert present == {"192.168.9.0/26", "192.168.1.7"}  # the address loses by its metric


async def test_reflected_blocks_keep_the_next_hop_of_their_host(tmp_path: Path) -> None:
    with Lab(f"birdrr{os.getpid()}", tmp_path) as lab:
        lab.up(hosts=3, agents=False)
        resources = [
            node(1, {"rr": "true"}, routeReflectorClusterID="244.0.0.1"),
            *(node(2), node(3)),
            resource("BGPConfiguration", "default", nodeToNodeMeshEnabled=False),
            resource("BGPPeer", "to-reflector", nodeSelector="!has(rr)", peerSelector="has(rr)"),
        ]
        for host in lab.hosts:
            assert (await apply_bird(place_of(host), context_of(host, resources))).is_current
        reflector, second, third = lab.hosts

        await until(lambda: routes(second).count("metric 2048") == 4, "blocks of the two others")
        assert "192.168.3.0/26 via 10.0.0.3" in routes(second)
        assert "192.168.2.0/26 via 10.0.0.2" in routes(third)
        assert sessions(await read_state(second.bird_socket)).keys() == {"Node_10_0_0_1", "Node_fd00_10__1"}
        assert len(sessions(await read_state(reflector.bird_socket))) == 4


async def test_filters_of_an_external_peer_act_and_pools_of_tunnels_stay_out_of_the_kernel(lab: Lab) -> None:
    first, second = lab.hosts
    rules = [
        {"action": "Accept", "cidr": "172.16.0.0/12", "matchOperator": "In", "prefixLength": {"max": 24}},
        {"action": "Reject", "cidr": "192.168.66.0/24", "matchOperator": "In", "peerType": "eBGP"},
        {"action": "Accept", "asPathPrefix": [65001, 65009], "operations": [{"setPriority": {"value": 77}}]},
    ]
    resources = [
        node(1),
        resource("IPPool", "tunnel", cidr="10.77.0.0/16", vxlanMode="Always"),
        resource("BGPPeer", "tor", peerIP="10.0.0.2", asNumber=65001, filters=["f"]),
        resource("BGPFilter", "f", importV4=rules),
    ]
    await apply_bird(place_of(first), context_of(first, resources))
    second.bird_config.write_text("""
router id 10.0.0.2;
protocol device { }
protocol static {
  ipv4;
  route 172.16.1.0/24 blackhole; route 172.16.1.1/32 blackhole; route 192.168.66.0/26 blackhole;
  route 192.168.67.0/26 blackhole; route 10.77.1.0/26 blackhole;
  route 9.9.9.0/24 blackhole { bgp_path.prepend(65009); };
}
protocol bgp { local 10.0.0.2 as 65001; neighbor 10.0.0.1 as 64512; multihop; ipv4 { import all; export all; }; }
""")
    second.birdc("configure")

    await until(lambda: "192.168.67.0/26" in routes(first), "the good route")
    prefix_and_metric = {(line.split()[0], line.split()[-1]) for line in routes(first).splitlines()}
    assert {prefix for prefix, _ in prefix_and_metric} == {"172.16.1.0/24", "192.168.67.0/26", "9.9.9.0/24"}
    assert "9.9.9.0/24 via 10.0.0.2 dev eth0 metric 77" in routes(first)
    state = sessions(await read_state(first.bird_socket))["Global_10_0_0_2"]
    assert state.channels[0].imported == 4  # the tunnel's too, which the agent writes


@pytest.mark.parametrize("other", ["correct horse", "wrong horse"])
async def test_password_lets_only_those_in_who_have_it(lab: Lab, other: str) -> None:
    reference = {"secretKeyRef": {"name": "bgp", "key": "mesh"}}
    documents = [*pools(), node(1, ipv6Address=""), node(2, ipv6Address="")]
    documents.append(resource("BGPConfiguration", "default", nodeMeshPassword=reference))
    for host, password in zip(lab.hosts, ("correct horse", other), strict=True):
        options = BirdOptions(secret_by_key={("bgp", "mesh"): Secret(password)})
        context = build_context(make_inputs(documents, hostname=host.name), options).context
        assert (await apply_bird(place_of(host), context)).is_current

    if other == "correct horse":
        await until_established(lab.hosts[0], 1)
    else:
        with pytest.raises(TimeoutError):
            await until_established(lab.hosts[0], 1, timeout_s=4.0)


def test_secrets_are_read_from_files_that_others_cannot_read(tmp_path: Path) -> None:
    directory = tmp_path / "bgp"
    directory.mkdir()
    for name, mode in (("tor", 0o600), ("open", 0o644)):
        (directory / name).write_text("correct horse\n")
        (directory / name).chmod(mode)

    found = read_secrets(tmp_path)

    assert found == {("bgp", "tor"): "correct horse"}
    assert "correct" not in repr(found)
