"""The life cycle of the simulated Mesos agent: real processes and namespaces, plug-ins that fail to order."""

from __future__ import annotations

import asyncio
import os
import signal
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest

from felix.lab.lab import Lab
from felix.lab.marathon import load_applications
from felix.lab.mesos.agent import Limits
from felix.lab.mesos.cluster import MesosCluster, Settings
from felix.lab.mesos.containers import find_marked
from felix.lab.mesos.faults import AgentCrash, Faults
from felix.lab.mesos.types import NET_MODULES, Container, Phase, TaskInfo, TaskStatus
from felix.lab.place import wait_until
from tests.support.mesos import PlugIn, make_task, remains

pytestmark = pytest.mark.fv


@pytest.fixture(scope="module")
def lab(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Lab]:
    with Lab(f"mesos{os.getpid()}", tmp_path_factory.mktemp("l")) as lab:
        lab.up(hosts=1, agents=False, bird=False)
        yield lab


@pytest.fixture
def plug_in(tmp_path: Path) -> PlugIn:
    return PlugIn(tmp_path / "plug-in")


class Scene:
    """Simulated agents on the lab with that plug-in. Everything that was begun must be gone in the end."""

    def __init__(self, lab: Lab, plug_in: PlugIn) -> None:
        self.lab = lab
        self.plug_in = plug_in
        self.updates: list[TaskStatus] = []
        self.before = remains(lab, lab.hosts[0])

    def cluster(
        self, *, faults: Faults | None = None, deadline_s: float = 5.0, parallel_calls: int = 1
    ) -> MesosCluster:
        limits = Limits(registration_s=3.0, grace_s=1.0)
        settings = Settings(
            door=NET_MODULES,
            ipam=self.plug_in.command,
            virtualizer=self.plug_in.command,
            deadline_s=deadline_s,
            parallel_calls=parallel_calls,
            limits=limits,
        )
        return MesosCluster(self.lab, settings, on_update=self._note, faults=faults)

    def states(self, container: Container) -> list[str]:
        return [status.state for status in self.updates if status.task_id == container.task.task_id]

    def assert_clean(self) -> None:
        assert remains(self.lab, self.lab.hosts[0]) == self.before
        assert self.plug_in.state() == {"addresses": {}, "links": {}}

    def _note(self, _container: Container, status: TaskStatus) -> None:
        self.updates.append(status)


@pytest.fixture
def scene(lab: Lab, plug_in: PlugIn) -> Scene:
    return Scene(lab, plug_in)


async def end(mesos: MesosCluster, container: Container) -> None:
    await mesos.agent("h1").kill_task(container.task.task_id)
    await mesos.agent("h1").wait_gone(container.task.task_id)


async def launch_and_end(mesos: MesosCluster, task: TaskInfo) -> None:
    await end(mesos, await mesos.launch("h1", task))


async def test_task_when_run_has_network_before_it_starts_and_ends_clean(scene: Scene) -> None:
    task = make_task("ip -br addr show eth0; echo $LIBPROCESS_IP; exec sleep 1000", groups=["a"])
    async with scene.cluster() as mesos:
        container = await mesos.launch("h1", task)
        assert scene.states(container) == ["TASK_RUNNING"], scene.updates
        assert scene.updates[0].addresses == ("10.9.0.1",)
        assert mesos.place_of(container).connect(scene.lab.hosts[0].ipv4, protocol="icmp").ok
        assert scene.lab.hosts[0].connect("10.9.0.1", protocol="icmp").ok
        agent = mesos.agent("h1")
        await asyncio.to_thread(wait_until, lambda: len(agent.output(container).splitlines()) == 2, 10.0, "its words")
        await end(mesos, container)
        output = agent.output(container)

    assert "10.9.0.1/32" in output
    assert output.splitlines()[-1] == "10.9.0.1"
    assert scene.plug_in.verbs() == ["allocate", "isolate", "cleanup", "release"]
    assert scene.states(container) == ["TASK_RUNNING", "TASK_KILLED"]
    assert {status.addresses for status in scene.updates} == {("10.9.0.1",)}
    scene.assert_clean()


async def test_task_that_ends_by_itself_is_reported_with_how_it_ended(scene: Scene) -> None:
    async with scene.cluster() as mesos:
        ended = [await mesos.launch("h1", make_task(command)) for command in ("true", "echo bad luck; exit 3")]
        for container in ended:
            await mesos.agent("h1").wait_gone(container.task.task_id)

    assert [container.state for container in ended] == ["TASK_FINISHED", "TASK_FAILED"]
    assert ended[1].statuses[-1].message == "exit status 3: bad luck"
    scene.assert_clean()


async def test_task_without_network_info_calls_no_plug_in_and_reports_the_host(scene: Scene) -> None:
    task = make_task("exec python3 -m http.server $PORT", groups=None, ports=[9321])
    task.environment["PORT"] = "9321"
    async with scene.cluster() as mesos:
        container = await mesos.launch("h1", task)
        host = scene.lab.hosts[0]
        assert scene.updates[0].addresses == (host.ipv4,)
        assert os.readlink(f"/proc/{container.process.pid if container.process else 0}/ns/net") == host.call(
            lambda: os.readlink("/proc/thread-self/ns/net")
        )
        await end(mesos, container)

    assert scene.plug_in.calls() == []
    scene.assert_clean()


async def test_requests_have_the_shapes_of_net_modules(scene: Scene) -> None:
    task = make_task("true", groups=["b", "a"], static=["10.9.0.77"], auto=1)
    async with scene.cluster() as mesos:
        container = await mesos.launch("h1", task)
        await mesos.agent("h1").wait_gone(container.task.task_id)
    raw, pid = scene.plug_in.raw(), container.process.pid if container.process else 0

    assert raw == [
        f'{{"args":{{"hostname":"h1","ipv4_addrs":["10.9.0.77"],"netgroups":["b","a"],"uid":"{container.uid}"}},'
        '"command":"reserve"}',
        f'{{"args":{{"hostname":"h1","netgroups":["b","a"],"num_ipv4":1,"num_ipv6":0,"uid":"{container.uid}"}},'
        '"command":"allocate"}',
        f'{{"args":{{"container_id":"{container.id}","hostname":"h1","ipv4_addrs":["10.9.0.77","10.9.0.1"],'
        f'"netgroups":["b","a"],"pid":{pid}}},"command":"isolate"}}',
        f'{{"args":{{"container_id":"{container.id}","hostname":"h1"}},"command":"cleanup"}}',
        f'{{"args":{{"uid":"{container.uid}"}},"command":"release"}}',
    ]
    scene.assert_clean()


@pytest.mark.parametrize(
    ("when", "act"),
    [
        *(("before", "error"), ("before", "kill"), ("after", "kill")),
        *(("after", "hang"), ("after", "garbage"), ("after", "exit")),
    ],
)
@pytest.mark.parametrize("verb", ["reserve", "allocate", "isolate", "cleanup", "release"])
async def test_plug_in_when_it_fails_leaves_nothing_and_hurts_nobody(
    scene: Scene, verb: str, when: str, act: str
) -> None:
    async with scene.cluster(deadline_s=0.5 if act == "hang" else 5.0) as mesos:
        neighbour = await mesos.launch("h1", make_task("exec sleep 1000"))
        scene.plug_in.fail(verb, act, when)
        victim = await mesos.launch("h1", make_task("exec sleep 1000", static=["10.9.0.66"], auto=1))
        expected = "TASK_RUNNING" if verb in {"cleanup", "release"} else "TASK_FAILED"
        assert victim.state == expected
        if expected == "TASK_RUNNING":
            await end(mesos, victim)
        assert victim.phase is Phase.GONE
        assert set(scene.plug_in.state()["addresses"]) == set(neighbour.addresses)
        assert neighbour.state == "TASK_RUNNING"
        assert scene.lab.hosts[0].connect(neighbour.addresses[0], protocol="icmp").ok
        await end(mesos, neighbour)

    scene.assert_clean()


@pytest.mark.parametrize(
    "step",
    [
        *("prepare", "after-prepare", "fork", "after-fork", "isolate", "after-isolate"),
        *("exec", "status", "cleanup", "after-cleanup"),
    ],
)
async def test_step_when_it_fails_leaves_nothing(scene: Scene, step: str) -> None:
    async with scene.cluster(faults=Faults({step: 1})) as mesos:
        container = await mesos.launch("h1", make_task("exec sleep 1000", static=["10.9.0.66"]))
        if "cleanup" in step:
            assert container.state == "TASK_RUNNING"
            await end(mesos, container)
        else:
            assert scene.states(container) == ["TASK_FAILED"]
            assert container.statuses[-1].container_status is None
        assert container.phase is Phase.GONE

    scene.assert_clean()


@pytest.mark.parametrize(
    "step",
    [
        *("prepare", "after-prepare", "fork", "after-fork", "isolate", "after-isolate"),
        *("exec", "status", "cleanup", "after-cleanup"),
    ],
)
async def test_agent_that_is_lost_in_a_step_undoes_it_when_it_is_back(scene: Scene, step: str) -> None:
    async with scene.cluster() as mesos:
        neighbour = await mesos.launch("h1", make_task("exec sleep 1000", groups=None))
    async with scene.cluster(faults=Faults({step: 1}, is_crash=True)) as mesos:
        with pytest.raises(AgentCrash):
            await launch_and_end(mesos, make_task("exec sleep 1000", static=["10.9.0.66"]))

    async with scene.cluster() as mesos:
        recovered = mesos.agent("h1").containers[-1]
        assert recovered.phase is Phase.GONE
        assert recovered.state == ("TASK_KILLED" if "cleanup" in step else "TASK_FAILED")
        assert mesos.place_of(neighbour)
        assert recovered.task.task_id != neighbour.task.task_id
        await end(mesos, neighbour)

    scene.assert_clean()


async def test_task_when_the_agent_restarts_runs_on_untouched(scene: Scene) -> None:
    async with scene.cluster() as mesos:
        first = await mesos.launch("h1", make_task("exec sleep 1000"))
        short = await mesos.launch("h1", make_task("exec sleep 1000"))
    scene.plug_in.forget()
    assert short.process
    os.kill(short.process.pid, 15)

    async with scene.cluster() as mesos:
        await mesos.agent("h1").wait_gone(short.task.task_id)
        found = mesos.agent("h1").find_task(first.task.task_id)
        assert found is not None
        assert found.addresses == first.addresses
        assert found.state == "TASK_RUNNING"
        assert scene.plug_in.verbs() == ["cleanup", "release"]
        assert scene.states(short) == ["TASK_RUNNING", "TASK_FAILED"]
        await end(mesos, found)

    scene.assert_clean()


async def test_cleanup_that_fails_to_the_last_is_done_when_the_agent_is_back(scene: Scene) -> None:
    async with scene.cluster() as mesos:
        container = await mesos.launch("h1", make_task("true"))
        scene.plug_in.fail("cleanup", "error", times=100)
        await mesos.agent("h1").wait_gone(container.task.task_id)
        assert container.phase is Phase.CLEANING
        assert "told to fail" in mesos.agent("h1").problems[-1]
        assert scene.plug_in.state()["addresses"]  # not free while the endpoint may be there
    scene.plug_in.heal()

    async with scene.cluster():
        pass

    scene.assert_clean()


async def test_launches_at_once_call_plug_ins_one_at_a_time(scene: Scene) -> None:
    async with scene.cluster() as mesos:
        launched = await asyncio.gather(*(mesos.launch("h1", make_task("exec sleep 1000")) for _ in range(6)))
        addresses = [address for container in launched for address in container.addresses]
        assert len(set(addresses)) == 6
        await asyncio.gather(*(end(mesos, container) for container in launched))

    assert not scene.plug_in.has_overlapped()
    scene.assert_clean()


async def test_launch_that_hangs_holds_up_no_other_when_calls_may_be_parallel(scene: Scene) -> None:
    async with scene.cluster(deadline_s=1.5, parallel_calls=2) as mesos:
        scene.plug_in.fail("allocate", "hang")
        hung = asyncio.create_task(mesos.launch("h1", make_task("exec sleep 1000")))
        await asyncio.to_thread(wait_until, lambda: scene.plug_in.verbs() == ["allocate"], 5.0, "the call that hangs")
        other = await mesos.launch("h1", make_task("exec sleep 1000"))
        assert other.state == "TASK_RUNNING"
        assert not hung.done()
        assert (await hung).state == "TASK_FAILED"
        await end(mesos, other)

    scene.assert_clean()


@pytest.mark.parametrize("step", ["after-fork", "after-isolate", "status"])
async def test_simulator_that_is_killed_in_a_launch_undoes_it_when_it_is_back(scene: Scene, step: str) -> None:
    script = (
        "import asyncio, os, signal, sys\n"
        "from pathlib import Path\n"
        "from felix.lab.lab import Lab\n"
        "from felix.lab.mesos.cluster import MesosCluster, Settings\n"
        "from felix.lab.mesos.faults import Faults\n"
        "from tests.support.mesos import PlugIn, make_task\n"
        "class Killing(Faults):\n"
        "    def check(self, step):\n"
        "        if step == sys.argv[4]: os.kill(os.getpid(), signal.SIGKILL)\n"
        "async def main():\n"
        "    plug_in = PlugIn(Path(sys.argv[3]))\n"
        "    settings = Settings(ipam=plug_in.command, virtualizer=plug_in.command)\n"
        "    async with MesosCluster(Lab(sys.argv[1], Path(sys.argv[2])), settings, faults=Killing()) as mesos:\n"
        "        await mesos.launch('h1', make_task('exec sleep 1000'))\n"
        "asyncio.run(main())"
    )
    lab = scene.lab
    arguments = [lab.name, str(lab.directory.parent), str(scene.plug_in.directory), step]
    process = await asyncio.create_subprocess_exec(sys.executable, "-c", script, *arguments)
    assert await process.wait() == -signal.SIGKILL
    assert scene.plug_in.state()["addresses"]

    async with scene.cluster() as mesos:
        assert mesos.agent("h1").containers[-1].state == "TASK_FAILED"

    scene.assert_clean()


async def test_processes_that_hide_in_another_session_end_with_their_task(scene: Scene) -> None:
    async with scene.cluster() as mesos:
        container = await mesos.launch("h1", make_task("setsid sleep 1000 & setsid -f sleep 1000; trap '' TERM; wait"))
        await end(mesos, container)

    scene.assert_clean()


async def test_application_that_requires_a_port_waits_until_it_is_free(scene: Scene, tmp_path: Path) -> None:
    path = tmp_path / "apps.json"
    path.write_text(
        '{"id": "/before", "apps": [{"id": "p", "cmd": "exec sleep 1000", "cpus": 0.1, "mem": 64, "instances": 2,'
        ' "ports": [9000], "requirePorts": true}]}'
    )
    async with scene.cluster() as mesos:
        launched = await mesos.run(load_applications(path))
        assert [container.task.source for container in launched] == ["before/p"]
        assert mesos.waiting == ["before/p.2"]
    async with scene.cluster() as mesos:
        assert mesos.waiting == ["before/p.2"]
        assert await mesos.run(load_applications(path)) == []
        await mesos.kill(launched[0].task.task_id)
        assert mesos.waiting == []
        running = [one for _, one in mesos.containers if one.is_live]
        assert [container.task.source for container in running] == ["before/p.2"]
        assert running[0].task.environment["PORT0"] == "9000"
        await mesos.kill("/before")

    scene.assert_clean()


async def test_lab_that_goes_down_takes_its_tasks_along(
    tmp_path_factory: pytest.TempPathFactory, plug_in: PlugIn
) -> None:
    settings = Settings(door=NET_MODULES, ipam=plug_in.command, virtualizer=plug_in.command)
    with Lab(f"mesosdown{os.getpid()}", tmp_path_factory.mktemp("l")) as lab:
        lab.up(hosts=1, agents=False, bird=False)
        async with MesosCluster(lab, settings) as mesos:
            tasks = [make_task("setsid sleep 1000 & wait", groups=groups) for groups in (None, ["a"])]
            started = await asyncio.gather(*(mesos.launch("h1", task) for task in tasks))
        assert [container.state for container in started] == ["TASK_RUNNING", "TASK_RUNNING"]
        lab.down()
        wait_until(lambda: not list(find_marked(lab.directory)), 20.0, "the tasks to be gone")
