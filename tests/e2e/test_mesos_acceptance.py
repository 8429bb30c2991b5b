"""The acceptance list of Mesos' networking: felix-mesos, agents and packets are real, Mesos' own agents are simulated.

The cases and their numbers are those of the scheduler that net-modules was once tested with; the twelfth it only
wished for. Every status update of every task is checked: one NetworkInfo, as many addresses as were asked for, those
that were asked for by name among them, never others later.
"""

from __future__ import annotations

import asyncio
import os
from collections.abc import AsyncIterator, Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import asynccontextmanager
from dataclasses import replace
from functools import partial
from pathlib import Path

import pytest

from felix.__main__ import main
from felix.lab.host import Host
from felix.lab.lab import Lab
from felix.lab.mesos.agent import Limits
from felix.lab.mesos.cluster import CNI_NETWORK, MesosCluster, Settings, let_executors_in
from felix.lab.mesos.faults import AgentCrash, Faults
from felix.lab.mesos.types import CNI, NET_MODULES, Container, Phase, TaskInfo, TaskStatus
from felix.lab.place import wait_until
from tests.support.mesos import PlugIn, make_task, remains

pytestmark = pytest.mark.fv

DEMO = Path(__file__).parents[2] / "demo" / "mesos-pairs.json"
SLEEP = "exec sleep 1000"
SERVE = "exec python3 -S -E -c 'import http.server as h; h.test(h.SimpleHTTPRequestHandler, port={port})'"
FETCH = "exec python3 -S -E -c 'import urllib.request as r; r.urlopen(\"http://{address}:{port}/\", timeout=5)'"


def ping(*addresses: str, wait_s: int = 5) -> str:
    """Returns a command that ends well if every address answers within that time."""
    return " && ".join(f"ping -n -c 1 -i 0.2 -w {wait_s} {address}" for address in addresses)


class Stage:
    """The lab with simulated Mesos agents on it, and what the tasks of one test were seen to do.

    settings: the agents call felix-mesos. watched: they call `plug_in`, which notes it and calls felix-mesos.
    """

    def __init__(self, lab: Lab, plug_in: PlugIn) -> None:
        self.lab = lab
        self.plug_in = plug_in
        self.settings = Settings(door=NET_MODULES, limits=Limits(registration_s=5.0, grace_s=1.0))
        self.watched = replace(self.settings, ipam=plug_in.command, virtualizer=plug_in.command)
        self.updates: dict[str, list[TaskStatus]] = {}
        self._before = {host.name: remains(lab, host) for host in lab.hosts}

    @asynccontextmanager
    async def cluster(
        self, settings: Settings | None = None, *, is_last: bool = True, faults: Faults | None = None
    ) -> AsyncIterator[MesosCluster]:
        """The agents run while the block does. is_last: afterwards nothing of any task may be left."""
        own = settings or self.settings
        async with MesosCluster(self.lab, own, on_update=self._check, faults=faults) as mesos:
            try:
                yield mesos
            finally:
                if is_last:
                    live = [(agent, one) for agent, one in mesos.containers if one.is_live]
                    await asyncio.gather(*(end(agent.host.name, mesos, one) for agent, one in live))
        if is_last:
            self.assert_clean()

    def assert_clean(self) -> None:
        """Neither kernel nor datastore has anything of a task."""
        for host in self.lab.hosts:
            wait_until(partial(self._is_clean, host), 20.0, f"{host.name} to be as it was", 0.05)
        keys = [*self.lab.store.list_prefix("/calico/resources/v3/projectcalico.org/workloadendpoints/")]
        keys += self.lab.store.list_prefix("/calico/ipam/v2/handle/")
        assert keys == []

    def _is_clean(self, host: Host) -> bool:
        return remains(self.lab, host) == self._before[host.name]

    def _check(self, container: Container, status: TaskStatus) -> None:
        seen = self.updates.setdefault(status.task_id, [])
        seen.append(status)
        if status.container_status is None:
            assert status.state == "TASK_FAILED"
            assert len(seen) == 1
            return
        infos = container.task.network_infos
        assert len(status.container_status.network_infos) == 1
        if infos:
            asked = infos[0].ip_addresses
            assert len(status.addresses) == len(asked)
            assert {one.ip_address for one in asked if one.ip_address} <= set(status.addresses)
        assert status.addresses == seen[0].addresses


async def end(host: str, mesos: MesosCluster, container: Container) -> None:
    await mesos.agent(host).kill_task(container.task.task_id)
    await mesos.agent(host).wait_gone(container.task.task_id)


async def start(mesos: MesosCluster, host: str, task: TaskInfo) -> Container:
    """Returns the container of a task that runs."""
    container = await mesos.launch(host, task)
    assert container.statuses[0].state == "TASK_RUNNING", container.statuses
    return container


async def outcome(mesos: MesosCluster, host: str, task: TaskInfo) -> str:
    """Returns the last state of a task that ends by itself."""
    container = await mesos.launch(host, task)
    await mesos.agent(host).wait_gone(task.task_id)
    return container.state


@pytest.fixture(scope="module")
def lab(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Lab]:
    """Two hosts whose routes to each other stand."""
    lab = Lab(f"accept{os.getpid()}", tmp_path_factory.mktemp("l"))
    try:
        lab.up(hosts=2, agents=False)
        let_executors_in(lab)
        for host in lab.hosts:
            host.start_agent()
        for host in lab.hosts:
            host.wait_agent_ready()
        first, second = lab.hosts
        for here, there in ((first, second), (second, first)):
            wait_until(partial(_has_route, here, str(there.addresses.block_v4)), 20.0, f"routes on {here.name}", 0.05)
        yield lab
    finally:
        for host in lab.hosts:
            if host.agent_log.exists():
                print(f"--- {host.name} ---\n{host.agent_log.read_text()[-20000:]}")
        lab.down()


def _has_route(host: Host, block: str) -> bool:
    return any(line.startswith(block) for line in host.run(["ip", "route"]).stdout.splitlines())


@pytest.fixture
def stage(lab: Lab, tmp_path: Path) -> Stage:
    return Stage(lab, PlugIn(tmp_path / "plug-in", ["felix-mesos"]))


@pytest.mark.parametrize(
    ("where", "groups", "is_custom", "expected"),
    [
        pytest.param(("h1", "h1"), ("a", "a"), True, "TASK_FINISHED", id="1-same-host-same-group"),
        pytest.param(("h1", "h1"), ("a", "b"), True, "TASK_FAILED", id="2-same-host-other-group"),
        pytest.param(("h1", "h2"), ("a", "a"), True, "TASK_FINISHED", id="3-other-host-same-group"),
        pytest.param(("h1", "h2"), ("a", "a"), False, "TASK_FINISHED", id="4-default-executor"),
        pytest.param(("h1", "h2"), ("a", "b"), False, "TASK_FAILED", id="other-host-other-group"),
        pytest.param(("h1", "h2"), ("public", "b"), False, "TASK_FINISHED", id="other-host-public"),
    ],
)
async def test_ping_passes_exactly_where_a_group_is_shared(
    stage: Stage, where: tuple[str, str], groups: tuple[str, str], is_custom: bool, expected: str
) -> None:
    async with stage.cluster() as mesos:
        target = await start(mesos, where[0], make_task(SLEEP, groups=[groups[0]], is_custom=is_custom))
        command = ping(target.addresses[0], wait_s=5 if expected == "TASK_FINISHED" else 1)
        assert await outcome(mesos, where[1], make_task(command, groups=[groups[1]], is_custom=is_custom)) == expected


@pytest.mark.parametrize("is_custom", [pytest.param(True, id="5"), pytest.param(False, id="6-default-executor")])
async def test_tasks_that_opted_out_talk_over_host_ports_and_no_plug_in_runs(stage: Stage, is_custom: bool) -> None:
    async with stage.cluster(stage.watched) as mesos:
        server = make_task(SERVE.format(port=9400), groups=None, ports=[9400], is_custom=is_custom)
        listener = await start(mesos, "h1", server)
        address = listener.statuses[0].addresses[0]
        assert address == stage.lab.hosts[0].ipv4
        wait_until(lambda: stage.lab.hosts[0].http_get(9400, "/")[0] == 200, 20.0, "the listener", 0.02)
        fetch = FETCH.format(address=address, port=9400)
        assert await outcome(mesos, "h2", make_task(fetch, groups=None, is_custom=is_custom)) == "TASK_FINISHED"
        assert stage.plug_in.calls() == []

        mixed = make_task(fetch, groups=["a"], is_custom=is_custom)  # with an address, to its own host
        assert await outcome(mesos, "h1", mixed) == "TASK_FINISHED"


async def test_7_task_in_two_groups_reaches_tasks_in_either(stage: Stage) -> None:
    async with stage.cluster() as mesos:
        one = await start(mesos, "h1", make_task(SLEEP, groups=["a"]))
        other = await start(mesos, "h2", make_task(SLEEP, groups=["b"]))
        both = make_task(ping(one.addresses[0], other.addresses[0]), groups=["a", "b"])
        assert await outcome(mesos, "h1", both) == "TASK_FINISHED"


async def test_8_groups_that_overlap_pass_exactly_the_pairs_that_share_one(stage: Stage) -> None:
    wanted: tuple[tuple[str, list[str]], ...] = (
        ("h1", ["a"]),
        ("h2", ["b"]),
        ("h2", ["a", "b"]),
        ("h1", ["a"]),
        ("h1", ["b"]),
        ("h1", []),
    )
    async with stage.cluster() as mesos:
        tasks = await asyncio.gather(*(start(mesos, host, make_task(SLEEP, groups=groups)) for host, groups in wanted))
        pairs = [(a, b) for a in range(len(tasks)) for b in range(len(tasks)) if a != b]
        with ThreadPoolExecutor(len(pairs)) as threads:
            answers = await asyncio.gather(*(_probe(mesos, threads, tasks[a], tasks[b]) for a, b in pairs))
        expected = [bool(set(wanted[a][1]) & set(wanted[b][1])) for a, b in pairs]
        assert dict(zip(pairs, answers, strict=True)) == dict(zip(pairs, expected, strict=True))
        from_host = [
            stage.lab.host(host).connect(task.addresses[0], protocol="icmp").ok
            for (host, _), task in zip(wanted, tasks, strict=True)
        ]
        assert all(from_host)


async def _probe(mesos: MesosCluster, threads: ThreadPoolExecutor, source: Container, target: Container) -> bool:
    place, loop = mesos.place_of(source), asyncio.get_running_loop()
    return (await loop.run_in_executor(threads, place.connect, target.addresses[0], 0, "icmp", 1.0)).ok


@pytest.mark.parametrize(
    ("target", "pinger"),
    [
        pytest.param(((), 2), ((), 3), id="9-several"),
        pytest.param((("192.168.28.23",), 1), (("192.168.28.34",), 1), id="10-static-and-auto"),
        pytest.param((("192.168.28.23", "192.168.28.24"), 2), ((), 1), id="11-two-static-two-auto"),
    ],
)
async def test_every_address_of_a_task_answers(
    stage: Stage, target: tuple[Sequence[str], int], pinger: tuple[Sequence[str], int]
) -> None:
    async with stage.cluster() as mesos:
        named = make_task(SLEEP, groups=["a"], static=target[0], auto=target[1])
        container = await start(mesos, "h1", named)
        assert len(container.addresses) == len(target[0]) + target[1]
        command = ping(*container.addresses)
        asker = make_task(command, groups=["a"], static=pinger[0], auto=pinger[1])
        assert await outcome(mesos, "h2", asker) == "TASK_FINISHED"


@pytest.mark.parametrize("hosts", [("h1", "h1"), ("h1", "h2")], ids=["12-same-host", "12-other-host"])
async def test_second_task_with_the_same_static_address_fails_alone(stage: Stage, hosts: tuple[str, str]) -> None:
    async with stage.cluster() as mesos:
        first = await start(mesos, hosts[0], make_task(SLEEP, groups=["a"], static=["192.168.28.23"], auto=0))
        second = await mesos.launch(hosts[1], make_task(SLEEP, groups=["a"], static=["192.168.28.23"], auto=1))

        assert [status.state for status in second.statuses] == ["TASK_FAILED"]
        assert "192.168.28.23" in second.statuses[0].message
        assert second.phase is Phase.GONE
        assert first.state == "TASK_RUNNING"
        assert await outcome(mesos, "h1", make_task(ping("192.168.28.23"), groups=["a"])) == "TASK_FINISHED"


async def test_address_that_is_free_again_is_had_by_the_next_task(stage: Stage) -> None:
    async with stage.cluster() as mesos:
        for host in ("h1", "h2"):
            task = make_task(SLEEP, groups=["a"], static=["192.168.28.23"], auto=0)
            container = await start(mesos, host, task)
            await end(host, mesos, container)


async def test_task_with_both_families_has_both_and_answers_on_both(stage: Stage) -> None:
    async with stage.cluster() as mesos:
        target = await start(mesos, "h1", make_task(SLEEP, groups=["a"], auto=1, auto6=1))
        assert [":" in address for address in target.addresses] == [False, True]
        asker = make_task(ping(*target.addresses), groups=["a"], auto=1, auto6=1)
        assert await outcome(mesos, "h2", asker) == "TASK_FINISHED"


async def test_task_with_ipv6_alone_registers_and_answers(stage: Stage) -> None:
    async with stage.cluster() as mesos:
        target = await start(mesos, "h1", make_task(SLEEP, groups=["a"], auto=0, auto6=1))
        asker = make_task(ping(*target.addresses), groups=["a"], auto=0, auto6=1)
        assert await outcome(mesos, "h2", asker) == "TASK_FINISHED"


async def test_simulated_agents_when_restarted_keep_tasks_and_clean_up_later(stage: Stage) -> None:
    async with stage.cluster(stage.watched, is_last=False) as mesos:
        target = await start(mesos, "h1", make_task(SLEEP, groups=["a"]))
    stage.plug_in.forget()

    async with stage.cluster(stage.watched) as mesos:
        found = mesos.agent("h1").find_task(target.task.task_id)
        assert found is not None
        assert found.state == "TASK_RUNNING"
        assert stage.plug_in.calls() == []
        assert await outcome(mesos, "h2", make_task(ping(*target.addresses), groups=["a"])) == "TASK_FINISHED"


@pytest.mark.parametrize(
    ("verb", "when", "act"),
    [
        *(("reserve", "after", "kill"), ("allocate", "after", "kill"), ("allocate", "after", "hang")),
        *(("isolate", "before", "error"), ("isolate", "after", "kill"), ("isolate", "after", "garbage")),
        *(("cleanup", "before", "kill"), ("cleanup", "after", "kill"), ("release", "after", "kill")),
    ],
)
async def test_real_plug_in_when_it_fails_leaves_nothing_and_hurts_nobody(
    stage: Stage, verb: str, when: str, act: str
) -> None:
    settings = replace(stage.watched, deadline_s=2.0) if act == "hang" else stage.watched
    async with stage.cluster(settings) as mesos:
        neighbour = await start(mesos, "h1", make_task(SLEEP, groups=["a"]))
        stage.plug_in.fail(verb, act, when)
        task = make_task(SLEEP, groups=["a"], static=["192.168.28.23"], auto=1)
        victim = await mesos.launch("h1", task)
        if verb in {"cleanup", "release"}:
            await end("h1", mesos, victim)
        else:
            assert victim.state == "TASK_FAILED"
        assert victim.phase is Phase.GONE
        handles = stage.lab.store.list_prefix("/calico/ipam/v2/handle/")
        assert len(handles) == 1
        assert neighbour.state == "TASK_RUNNING"
        assert stage.lab.hosts[0].connect(neighbour.addresses[0], protocol="icmp").ok


def test_command_runs_a_marathon_file_shows_it_and_ends_it(
    stage: Stage, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setattr("felix.cli.lab_mesos.Lab", lambda name: Lab(name, stage.lab.directory.parent))
    option = ["--name", stage.lab.name]

    def table(*words: str) -> list[list[str]]:
        assert main(["lab", "mesos", *words, *option]) == 0
        return [line.split() for line in capsys.readouterr().out.splitlines()]

    rows = table("run", str(DEMO), "--isolator", NET_MODULES)
    assert rows[0][:2] == ["simulated", "Mesos"]
    states = sorted((row[0], row[2]) for row in rows[3:])
    running = ["client-1.pairs", "old-style.pairs", "old-style.pairs", "web-1.pairs", "web-2.pairs"]
    assert [row for row in states if row[1] == "TASK_RUNNING"] == [(name, "TASK_RUNNING") for name in running]
    assert ("pairs/old-style.3", "WAITING") in states
    assert main(["lab", "mesos", "exec", *option, "client-1.pairs", "--", "true"]) == 0

    table("kill", "/pairs/old-style.2")
    states = sorted((row[0], row[2]) for row in table("status")[3:])
    assert states.count(("old-style.pairs", "TASK_RUNNING")) == 2  # the one that waited has the port
    table("status", "-o", "json")
    table("kill", "/pairs")
    stage.assert_clean()


@pytest.mark.parametrize("step", ["after-prepare", "after-fork", "after-isolate", "status"])
@pytest.mark.parametrize("door", [NET_MODULES, CNI])
async def test_simulated_agent_that_is_lost_in_a_launch_undoes_it_when_it_is_back(
    stage: Stage, door: str, step: str
) -> None:
    settings = replace(stage.settings, door=door)
    async with stage.cluster(settings, is_last=False, faults=Faults({step: 1}, is_crash=True)) as mesos:
        with pytest.raises(AgentCrash):
            await mesos.launch("h1", make_task(SLEEP, groups=["a"], network=CNI_NETWORK))

    async with stage.cluster() as mesos:
        assert mesos.agent("h1").containers[-1].state == "TASK_FAILED"


async def test_task_through_cni_as_mesos_calls_it_has_network_and_ends_clean(stage: Stage) -> None:
    async with stage.cluster(replace(stage.settings, door=CNI)) as mesos:
        target = await start(mesos, "h1", make_task(SLEEP, groups=["a"], network=CNI_NETWORK))
        info = target.statuses[0].container_status
        assert info is not None
        assert info.network_infos[0].name == CNI_NETWORK
        asker = make_task(ping(*target.addresses), groups=["a"], network=CNI_NETWORK)
        assert await outcome(mesos, "h2", asker) == "TASK_FINISHED"
        stranger = make_task(ping(*target.addresses, wait_s=1), groups=["b"], network=CNI_NETWORK)
        assert await outcome(mesos, "h2", stranger) == "TASK_FAILED"
