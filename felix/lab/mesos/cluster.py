"""Simulated Mesos on a lab: an agent per virtual host, a master that lists them, and a Marathon that places. Shell.

    async with MesosCluster(lab) as mesos:
        await mesos.run(load_applications(path))
        print(mesos.state())

Tasks live on when the block is left; the next MesosCluster of the lab finds them. Nothing here is Mesos itself.
"""

from __future__ import annotations

import asyncio
import fcntl
import os
import shutil
import uuid
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from functools import partial
from pathlib import Path
from types import MappingProxyType

import msgspec

from felix.errors import DataError, EnvironmentFault, PeerError
from felix.lab import documents, names
from felix.lab.host import Host
from felix.lab.lab import Lab
from felix.lab.marathon import Application
from felix.lab.mesos.agent import PORT, Limits, MesosAgent
from felix.lab.mesos.cni import CniIsolator
from felix.lab.mesos.faults import Faults
from felix.lab.mesos.isolate import Isolator, NetModules
from felix.lab.mesos.place import Offer, make_task, place
from felix.lab.mesos.program import Program
from felix.lab.mesos.state import Document, Framework, Slave, render_state
from felix.lab.mesos.types import CNI, NET_MODULES, Container, TaskInfo, TaskStatus
from felix.lab.namespace import NETNS_DIR
from felix.lab.place import Place
from felix.lab.process import is_running

MARATHON_ID = "felix-lab-simulator-0000"
PLUG_IN = "felix-mesos"
CNI_NETWORK = "felix"
_LOCK_S, _LOCK_RETRY_S = 60.0, 0.02
OnUpdate = Callable[[Container, TaskStatus], None]


@dataclass(frozen=True, slots=True)
class Settings:
    """How agents work. door: by which plug-ins new containers get a network; empty: as the last time.

    ipam, virtualizer: the net-modules plug-ins. cni_config_dir, cni_plugins_dir: of Mesos' agent, made if not given.
    has_dns: new containers ask their host for names, at a link-local address; otherwise whomever the machine asks.
    """

    door: str = ""
    ipam: tuple[str, ...] = (PLUG_IN,)
    virtualizer: tuple[str, ...] = (PLUG_IN,)
    cni_config_dir: Path | None = None
    cni_plugins_dir: Path | None = None
    deadline_s: float = 30.0
    parallel_calls: int = 1
    limits: Limits = field(default_factory=Limits)
    has_dns: bool = False


class MesosCluster:
    """The simulated agents of one lab. One at a time per lab; another one waits until it is left."""

    def __init__(
        self,
        lab: Lab,
        settings: Settings = Settings(),
        *,
        on_update: OnUpdate | None = None,
        faults: Faults | None = None,
    ) -> None:
        self.lab = lab
        self.directory = lab.directory / "mesos"
        self._settings = settings
        self._on_update = on_update
        self._faults = faults
        self._agents: dict[str, MesosAgent] = {}
        self._isolators: dict[tuple[str, str], Isolator] = {}
        self._door = NET_MODULES
        self._lock = -1

    async def __aenter__(self) -> MesosCluster:
        self.directory.mkdir(exist_ok=True)
        self._lock = await _lock(self.directory / "lock")
        self._door = self._choose_door()
        for host in self.lab.hosts:
            self._agents[host.name] = self.make_agent(host)
        outcomes = await asyncio.gather(*(agent.start() for agent in self._agents.values()), return_exceptions=True)
        failures = [outcome for outcome in outcomes if isinstance(outcome, BaseException)]
        if failures:
            await self.__aexit__()
            raise failures[0]
        return self

    async def __aexit__(self, *_: object) -> None:
        await asyncio.gather(*(agent.stop() for agent in self._agents.values()))
        self._agents.clear()
        os.close(self._lock)

    def make_agent(self, host: Host) -> MesosAgent:
        """Returns the agent of a host, not started."""
        directory = self.directory / host.name
        directory.mkdir(exist_ok=True)
        return MesosAgent(
            host,
            directory,
            partial(self._isolator, host),
            door=self._door,
            limits=self._settings.limits,
            on_update=self._on_update,
            faults=self._faults,
            resolver=names.RESOLVER_V4 if self._settings.has_dns else "",
        )

    @property
    def agents(self) -> list[MesosAgent]:
        """All agents, in the order of the hosts."""
        return list(self._agents.values())

    @property
    def containers(self) -> list[tuple[MesosAgent, Container]]:
        """All containers that are known, those that are gone too."""
        return [(agent, container) for agent in self.agents for container in agent.containers]

    @property
    def waiting(self) -> list[str]:
        """The ids of application instances that no agent has had room for, in order."""
        return [app.id for app in self._read_waiting()]

    def agent(self, host: str) -> MesosAgent:
        """Returns the agent of that host."""
        return self._agents[host]

    async def run(self, applications: Sequence[Application]) -> list[Container]:
        """All instances that were not running run now, failed, or wait. Returns the containers that were launched."""
        running = {container.task.source for _, container in self.containers if container.is_live}
        queue = self._read_waiting()
        running |= {app.id for app in queue}
        return await self._place([*queue, *(app for app in applications if app.id not in running)])

    async def launch(self, host: str, task: TaskInfo, framework_id: str = MARATHON_ID) -> Container:
        """The task runs on that host, or has failed; as a framework of one's own would launch it."""
        return await self._agents[host].run_task(framework_id, task)

    async def kill(self, wanted: str) -> list[Container]:
        """Tasks of that id, name or application (or of one below that path) have ended; who waited may have started."""
        path = wanted.strip("/")
        waiting = self._read_waiting()
        kept = [app for app in waiting if not _is_below(app.id, path)]
        found = [(agent, one) for agent, one in self.containers if one.is_live and _is_meant(one, path)]
        if not found and len(kept) == len(waiting):
            raise DataError(f"no task or application {wanted!r} runs or waits; see: felix lab mesos status")
        self._write_waiting(kept)
        await asyncio.gather(*(self._kill(agent, one) for agent, one in found))
        await self._place(kept)
        return [one for _, one in found]

    def find(self, wanted: str) -> Container:
        """Returns the first running container of that task id, name or application; raises DataError without one."""
        return find_container([container for _, container in self.containers], wanted)

    def state(self, health_by_task: Mapping[str, bool] = MappingProxyType({})) -> Document:
        """Returns what the master says at `/master/state`. health_by_task: see render_state."""
        limits = self._settings.limits
        slaves = [
            Slave(agent.id, agent.host.ipv4, f"slave(1)@{agent.host.ipv4}:{PORT}", agent.offered(), limits.ports)
            for agent in self.agents
        ]
        master = names.FABRIC_ADDRESS_V4
        ids = dict.fromkeys([MARATHON_ID, *(container.framework_id for _, container in self.containers)])
        frameworks = [
            Framework(one, "marathon" if one == MARATHON_ID else one, master, f"scheduler-{one}@{master}:8080")
            for one in ids
        ]
        containers = [container for _, container in self.containers]
        return render_state(master, slaves, frameworks, containers, health_by_task)

    def place_of(self, container: Container) -> Place:
        """Returns the container's network as a place to probe from; raises DataError when it does not run."""
        return place_of(self.lab, container)

    async def _kill(self, agent: MesosAgent, container: Container) -> None:
        await agent.kill_task(container.task.task_id)
        await agent.wait_gone(container.task.task_id)

    async def _place(self, queue: Sequence[Application]) -> list[Container]:
        waiting: list[Application] = []
        launches: list[asyncio.Task[Container]] = []
        async with asyncio.TaskGroup() as group:
            for app in queue:
                found = place(app, self._offers(), len(launches))
                if found is None:
                    waiting.append(app)
                    continue
                offer, ports = found
                task = make_task(
                    app, f"{app.id.replace('/', '_')}.{uuid.uuid4()}", ports, CNI_NETWORK if self._door == CNI else ""
                )
                launches.append(group.create_task(self.launch(offer.host, task)))
                await asyncio.sleep(0)  # the launch has taken its resources when the next offer is made
        self._write_waiting(waiting)
        return [launch.result() for launch in launches]

    def _offers(self) -> list[Offer]:
        offers = []
        for agent in self.agents:
            free = agent.free()
            offers.append(
                Offer(agent.host.name, free.cpus, free.mem, self._settings.limits.ports, frozenset(free.ports))
            )
        return offers

    def _choose_door(self) -> str:
        """Returns the door of new containers, and keeps it for the next cluster."""
        path = self.directory / "door"
        last = path.read_text() if path.exists() else NET_MODULES
        chosen = self._settings.door or last
        if chosen not in {NET_MODULES, CNI}:
            raise DataError(f"isolation {chosen!r}: expected {NET_MODULES} or {CNI}")
        path.write_text(chosen)
        return chosen

    def _isolator(self, host: Host, door: str) -> Isolator:
        found = self._isolators.get((host.name, door))
        if found is None:
            found = self._isolators[host.name, door] = self._make_isolator(host, self.directory / host.name, door)
        return found

    def _make_isolator(self, host: Host, directory: Path, door: str) -> Isolator:
        environment = host.program_environment()
        prefix = ("nsenter", f"--net={NETNS_DIR / host.namespace}")
        log = directory / "plug-ins.log"

        def program(command: tuple[str, ...]) -> Program:
            return Program(command, prefix, environment, log, self._settings.deadline_s)

        if door == NET_MODULES:
            return NetModules(
                host.name,
                program(self._settings.ipam),
                program(self._settings.virtualizer),
                self._settings.parallel_calls,
            )
        config = self._settings.cni_config_dir or _make_cni_config(host, directory)
        plugins = self._settings.cni_plugins_dir or _make_cni_plugins(directory)
        namespaces = f"{names.namespace_prefix(self.lab.name)}{host.name}-m-"
        return CniIsolator(config, plugins, namespaces, program(("cni",)))

    def _read_waiting(self) -> list[Application]:
        try:
            return msgspec.json.decode((self.directory / "waiting.json").read_bytes(), type=list[Application])
        except FileNotFoundError:
            return []

    def _write_waiting(self, waiting: Sequence[Application]) -> None:
        draft = self.directory / "waiting.new"
        draft.write_bytes(msgspec.json.encode(waiting))
        draft.replace(self.directory / "waiting.json")


async def _lock(path: Path) -> int:
    """Returns the descriptor that holds the lock; raises PeerError when another process does not give it up."""
    descriptor = os.open(path, os.O_RDWR | os.O_CREAT | os.O_CLOEXEC, 0o600)
    for _ in range(round(_LOCK_S / _LOCK_RETRY_S)):
        try:
            fcntl.flock(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            await asyncio.sleep(_LOCK_RETRY_S)
        else:
            return descriptor
    os.close(descriptor)
    raise PeerError(f"another felix lab mesos has been at work for {_LOCK_S:g} s ({path}); try again when it is done")


def find_container(containers: Iterable[Container], wanted: str) -> Container:
    """Returns the first live one of that task id, name or application; raises DataError without one."""
    for container in containers:
        if container.is_live and _is_meant(container, wanted.strip("/")):
            return container
    raise DataError(f"no task or application {wanted!r} runs; see: felix lab mesos status")


class TaskPlace(Place):
    """The network of a running task, with its own name server where it has one."""

    def command(self, arguments: Sequence[str]) -> list[str]:
        """Returns the command line that runs `arguments` inside."""
        mounts = self.namespace.removesuffix("net") + "mnt"
        has_own = os.path.exists(mounts) and not os.path.samefile(mounts, "/proc/self/ns/mnt")
        own = [f"--mount={mounts}", f"--wd={Path.cwd()}"] if has_own else []
        return ["nsenter", f"--net={self.namespace}", *own, *arguments]


def place_of(lab: Lab, container: Container) -> TaskPlace:
    """Returns the container's network as a place to probe from; raises DataError when it does not run."""
    if container.process is None or not is_running(container.process):
        raise DataError(f"task {container.task.task_id} does not run")
    namespace = f"/proc/{container.process.pid}/ns/net"
    return TaskPlace(container.task.name, namespace, lab.directory / "responder.ctl", {})


def let_executors_in(lab: Lab) -> bool:
    """Containers may reach their own host, where an executor registers; returns whether agents must be restarted.

    Calico says the same for Mesos: DefaultEndpointToHostAction=RETURN leaves it to the profiles and the host.
    """
    name = "defaultEndpointToHostAction"
    document = documents.resource("FelixConfiguration", "default", {name: "Return"})
    found = lab.store.get(documents.key_of(document))
    spec = found[0].get("spec") if found else None
    if isinstance(spec, dict):
        if spec.get(name) in {"Return", "Accept"}:
            return False
        document = documents.resource("FelixConfiguration", "default", {**spec, name: "Return"})
    lab.apply(document)
    return True


def _is_meant(container: Container, path: str) -> bool:
    return path in {container.task.task_id, container.task.name} or _is_below(container.task.source, path)


def _is_below(app_id: str, path: str) -> bool:
    return bool(path) and (app_id == path or app_id.startswith((f"{path}/", f"{path}.")))


def _make_cni_config(host: Host, directory: Path) -> Path:
    folder = directory / "cni-config"
    folder.mkdir(exist_ok=True)
    config = {
        "cniVersion": "0.2.0",
        "name": CNI_NETWORK,
        "type": "felix-cni",
        "ipam": {"type": "felix-ipam"},
        "agent_socket": str(host.rundir / "felix.sock"),
    }
    (folder / "felix.conf").write_bytes(msgspec.json.encode(config))
    return folder


def _make_cni_plugins(directory: Path) -> Path:
    folder = directory / "cni-plugins"
    folder.mkdir(exist_ok=True)
    search = Place("here", "", directory, {}).program_environment()["PATH"]
    for name in ("felix-cni", "felix-ipam"):
        found = shutil.which(name, path=search)
        if found is None:
            raise EnvironmentFault(f"the plug-in {name} is not installed; 'make setup' installs it")
        link = folder / name
        link.unlink(missing_ok=True)
        link.symlink_to(found)
    return folder
