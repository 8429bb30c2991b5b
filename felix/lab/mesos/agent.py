"""A simulated Mesos agent on one virtual host: it runs tasks as real processes and keeps to Mesos' order. Shell.

One launch: prepare (addresses) → fork in a new network namespace, blocked on a pipe → isolate (wiring) → exec → the
executor registers over the container's network → TASK_RUNNING with the addresses. One end: processes gone → isolator's
cleanup → record closed. Each step is check-pointed, so that an agent on the same directory can go on, or undo.
A task without NetworkInfo shares the host's network, and no plug-in is called for it.
"""

from __future__ import annotations

import asyncio
import contextlib
import logging
import signal
import socket
import time
import uuid
from collections.abc import Callable
from dataclasses import dataclass
from functools import partial
from pathlib import Path

import msgspec

from felix.errors import DataError, FelixError, PeerError
from felix.lab import process
from felix.lab.host import Host
from felix.lab.mesos.containers import MAX_GONE, Checkpoints, Fork, end_marked, fork, kill_marked, wait_ended
from felix.lab.mesos.faults import Faults
from felix.lab.mesos.isolate import Isolator
from felix.lab.mesos.types import (
    Container,
    ContainerId,
    ContainerStatus,
    NetworkInfo,
    Phase,
    Resources,
    TaskInfo,
    TaskStatus,
    address_record,
)

log = logging.getLogger(__name__)

PORT = 5051
OnUpdate = Callable[[Container, TaskStatus], None]
_PAUSE_S = 0.1


@dataclass(frozen=True, slots=True)
class Limits:
    """What an agent offers, and how long it waits. ports: first and last port of the host that it offers."""

    cpus: float = 4.0
    mem: float = 8192.0
    ports: tuple[int, int] = (9000, 31100)
    start_s: float = 10.0
    registration_s: float = 5.0
    grace_s: float = 3.0
    cleanup_attempts: int = 3


class MesosAgent:
    """A simulated Mesos agent. `start` before anything else; `stop` leaves tasks running, for the next one to find.

    isolators: the isolator of a door. door: the one of new containers; each stays with the one it came through.
    resolver: the name server of new containers, empty for the machine's.
    """

    def __init__(
        self,
        host: Host,
        directory: Path,
        isolators: Callable[[str], Isolator],
        *,
        door: str,
        limits: Limits = Limits(),
        on_update: OnUpdate | None = None,
        faults: Faults | None = None,
        resolver: str = "",
    ) -> None:
        self.host = host
        self.id = f"felix-lab-simulator-S{int(host.name[1:]) - 1}"
        self.limits = limits
        self.problems: list[str] = []
        self._checkpoints = Checkpoints(directory)
        self._isolators = isolators
        self._door = door
        self._resolver = resolver
        self._on_update = on_update or (lambda _container, _status: None)
        self._faults = faults or Faults()
        self._containers: dict[str, Container] = {}
        self._registrations: dict[str, asyncio.Future[None]] = {}
        self._forks: dict[str, Fork] = {}
        self._watches: dict[str, asyncio.Task[None]] = {}
        self._servers: list[asyncio.Server] = []

    # --- Life of the agent ---

    async def start(self) -> None:
        """The agent listens, and has recovered: tasks that run are watched, whatever else was begun is undone."""
        for address in (self.host.ipv4, self.host.ipv6):
            listener = self.host.call(partial(_listen, address))
            self._servers.append(await asyncio.start_server(self._on_executor, sock=listener))
        for container in self._checkpoints.read():
            self._containers[container.id] = container
        unfinished = [one for one in self._containers.values() if one.is_live]
        await asyncio.gather(*(self._recover(container) for container in unfinished))

    async def stop(self) -> None:
        """The agent has ended; its tasks run on."""
        for watch in self._watches.values():
            watch.cancel()
        await asyncio.gather(*self._watches.values(), return_exceptions=True)
        self._watches.clear()
        for one in self._forks.values():
            one.close()
        self._forks.clear()
        for server in self._servers:
            server.close()
            await server.wait_closed()
        self._servers.clear()

    @property
    def containers(self) -> list[Container]:
        """All containers that are known, those that are gone too, oldest first."""
        return list(self._containers.values())

    def find_task(self, task_id: str) -> Container | None:
        """Returns the container of a task, None when the agent never had it or has forgotten it."""
        return next((one for one in self._containers.values() if one.task.task_id == task_id), None)

    def offered(self) -> Resources:
        """Returns what the agent has in all, without ports."""
        return Resources(cpus=self.limits.cpus, mem=self.limits.mem)

    def free(self) -> Resources:
        """Returns what is not in use; ports: those in use, because there are too many others."""
        live = [one.task.resources for one in self._containers.values() if one.is_live]
        return Resources(
            cpus=self.limits.cpus - sum(used.cpus for used in live),
            mem=self.limits.mem - sum(used.mem for used in live),
            ports=tuple(sorted(port for used in live for port in used.ports)),
        )

    # --- Life of a task ---

    async def run_task(self, framework_id: str, task: TaskInfo) -> Container:
        """The task runs, or it has failed and nothing of it is left; its statuses say which. Raises DataError for an
        id that is in use."""
        self._check_new(framework_id, task)
        container = Container(id=str(uuid.uuid4()), uid=str(uuid.uuid4()), framework_id=framework_id, task=task)
        container.networked = self._isolators(self._door).wants(task)
        container.door = self._door if container.networked else ""
        self._containers[container.id] = container
        self._save(container, Phase.CREATED)
        try:
            await self._launch(container)
        except (FelixError, OSError) as failure:
            await self._destroy(container)
            state = "TASK_KILLED" if container.is_kill_asked else "TASK_FAILED"
            self._report(container, state, str(failure), "REASON_CONTAINER_LAUNCH_FAILED")
        else:
            self._watches[container.id] = asyncio.create_task(self._watch(container))
        return container

    async def kill_task(self, task_id: str) -> None:
        """The task is on its way out: it is asked to end, and after the grace period it is killed."""
        container = self.find_task(task_id)
        if container is None or not container.is_live:
            raise DataError(f"agent {self.host.name} runs no task {task_id}")
        container.is_kill_asked = True
        self._save(container, container.phase)
        if container.process is None:
            return
        process.send_signal(container.process, signal.SIGTERM)
        try:
            async with asyncio.timeout(self.limits.grace_s):
                await wait_ended(container.process)
        except TimeoutError:
            kill_marked(self._checkpoints.sandbox(container.id))

    async def wait_gone(self, task_id: str) -> Container:
        """The task has ended and its network is cleaned up, as far as that was possible."""
        container = self.find_task(task_id)
        if container is None:
            raise DataError(f"agent {self.host.name} knows no task {task_id}")
        watch = self._watches.get(container.id)
        if watch:
            await asyncio.shield(watch)
        return container

    def output(self, container: Container) -> str:
        """Returns what the task wrote, standard output and errors together."""
        try:
            return (self._checkpoints.sandbox(container.id) / "output").read_text(errors="replace")
        except OSError:
            return ""

    # --- Steps ---

    async def _launch(self, container: Container) -> None:
        if container.networked:
            self._faults.check("prepare")
            await self._isolators(container.door).prepare(container)
            self._faults.check("after-prepare")
        self._save(container, Phase.PREPARED)
        self._check_wanted(container)
        self._faults.check("fork")
        forked = self._fork(container)
        try:
            await forked.wait_ready(self.limits.start_s)
        except PeerError as failure:
            raise PeerError(f"{failure}{self._last_words(container)}") from failure
        self._save(container, Phase.FORKED)
        self._faults.check("after-fork")
        assert container.process is not None
        if container.networked:
            self._faults.check("isolate")
            await self._isolators(container.door).isolate(container, container.process.pid)
            self._faults.check("after-isolate")
        else:
            container.networks = [NetworkInfo(ip_addresses=(address_record(self.host.ipv4),))]
        self._save(container, Phase.ISOLATED)
        self._check_wanted(container)
        self._faults.check("exec")
        await self._exec(container, forked)
        self._faults.check("status")
        self._save(container, Phase.RUNNING)
        self._report(container, "TASK_RUNNING", "", "")

    def _fork(self, container: Container) -> Fork:
        forked = fork(self.host, container, self._checkpoints.sandbox(container.id), self._resolver)
        self._forks[container.id] = forked
        container.process = forked.record
        return forked

    async def _exec(self, container: Container, forked: Fork) -> None:
        """The first process has become the executor, which has registered and started the task."""
        assert container.process is not None
        registered = asyncio.get_running_loop().create_future()
        self._registrations[container.id] = registered
        environment = dict(container.task.environment)
        if container.networked:
            environment["LIBPROCESS_IP"] = self._isolators(container.door).libprocess_ip(container)
        first = container.addresses[0] if container.addresses else self.host.ipv4
        address = self.host.ipv6 if ":" in first else self.host.ipv4
        ended = asyncio.create_task(wait_ended(container.process))
        try:
            forked.go(
                {
                    "command": container.task.command,
                    "environment": environment,
                    "agent": [address, PORT],
                    "container_id": container.id,
                    "timeout_s": self.limits.registration_s,
                    "exit_file": "exit",
                    "loopback": container.networked,
                }
            )
            async with asyncio.timeout(self.limits.registration_s + 1):
                await asyncio.wait({registered, ended}, return_when=asyncio.FIRST_COMPLETED)
        except TimeoutError as late:
            raise PeerError(
                f"the executor did not register with {address}:{PORT}{self._last_words(container)}"
            ) from late
        finally:
            self._registrations.pop(container.id, None)
            self._close_fork(container)
            if not ended.done():
                ended.cancel()
            await asyncio.gather(ended, return_exceptions=True)
        if not registered.done():
            raise PeerError(f"the executor ended before the task ran{self._last_words(container)}")
        registered.result()

    async def _watch(self, container: Container) -> None:
        """Waits for the end of the task, reports it, and cleans up."""
        assert container.process is not None
        await wait_ended(container.process)
        status = self._checkpoints.exit_status(container.id)
        if container.is_kill_asked:
            self._report(container, "TASK_KILLED", "", "")
        elif status == 0:
            self._report(container, "TASK_FINISHED", "", "")
        else:
            how = f"exit status {status}" if status is not None else "the executor was killed"
            self._report(
                container, "TASK_FAILED", f"{how}{self._last_words(container)}", "REASON_COMMAND_EXECUTOR_FAILED"
            )
        await self._destroy(container)

    async def _destroy(self, container: Container) -> None:
        """Nothing of the container is left; if a plug-in fails to the last, it stays `cleaning`: a problem says why."""
        self._save(container, Phase.CLEANING)
        self._close_fork(container)
        await end_marked(self._checkpoints.sandbox(container.id))
        if container.process:
            process.send_signal(container.process, signal.SIGKILL)
            await wait_ended(container.process)
        if container.networked and not await self._clean_network(container):
            return
        self._save(container, Phase.GONE)
        self._forget_oldest()

    async def _clean_network(self, container: Container) -> bool:
        for attempt in range(1, self.limits.cleanup_attempts + 1):
            try:
                self._faults.check("cleanup")
                await self._isolators(container.door).cleanup(container)
                self._faults.check("after-cleanup")
                return True
            except (FelixError, OSError) as failure:
                log.warning("%s: cleanup of %s, attempt %d: %s", self.host.name, container.id, attempt, failure)
                self.problems.append(f"{container.task.name}: cleanup: {failure}")
            if attempt < self.limits.cleanup_attempts:
                await asyncio.sleep(_PAUSE_S * attempt)
        return False

    async def _recover(self, container: Container) -> None:
        if container.phase is Phase.RUNNING:
            self._watches[container.id] = asyncio.create_task(self._watch(container))
            assert container.process is not None
            if not process.is_running(container.process):
                await self._watches[container.id]
            return
        was_reported = bool(container.statuses) and container.statuses[-1].is_terminal
        await self._destroy(container)
        if not was_reported:
            self._report(container, "TASK_FAILED", "the agent ended during the launch", "REASON_SLAVE_RESTARTED")

    # --- Reports and records ---

    def _report(self, container: Container, state: str, message: str, reason: str) -> None:
        """The update is check-pointed, then sent. What never had a network has no container_status."""
        has_network = bool(container.networks) and container.phase not in {Phase.CREATED, Phase.PREPARED}
        never_ran = not container.statuses and state != "TASK_RUNNING"
        network = None
        if has_network and not never_ran:
            network = ContainerStatus(tuple(container.networks), ContainerId(container.id))
        status = TaskStatus(container.task.task_id, self.id, state, time.time(), message, reason, network)
        container.statuses.append(status)
        self._save(container, container.phase)
        self._on_update(container, status)

    def _save(self, container: Container, phase: Phase) -> None:
        container.phase = phase
        self._checkpoints.write(container)

    def _forget_oldest(self) -> None:
        gone = [one for one in self._containers.values() if not one.is_live]
        for container in gone[: max(0, len(gone) - MAX_GONE)]:
            del self._containers[container.id]
            self._checkpoints.forget(container)

    def _check_new(self, framework_id: str, task: TaskInfo) -> None:
        for one in self._containers.values():
            if one.task.task_id == task.task_id and one.framework_id == framework_id:
                raise DataError(f"task {task.task_id}: framework {framework_id} has used that id already")
            same = one.framework_id == framework_id and one.task.executor_id == task.executor_id
            if same and one.is_live:
                raise DataError(f"executor {task.executor_id} runs already; the simulator runs one task per executor")

    @staticmethod
    def _check_wanted(container: Container) -> None:
        if container.is_kill_asked:
            raise PeerError("the task was killed during its launch")

    def _last_words(self, container: Container) -> str:
        said = self.output(container).strip().splitlines()
        return f": {said[-1][:200]}" if said else ""

    def _close_fork(self, container: Container) -> None:
        forked = self._forks.pop(container.id, None)
        if forked:
            forked.close()

    async def _on_executor(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        """An executor registers: it is let on, and says whether the task runs."""
        with contextlib.suppress(OSError, TimeoutError, ValueError):
            async with asyncio.timeout(self.limits.registration_s):
                await self._register(reader, writer)
        writer.close()
        with contextlib.suppress(OSError):
            await writer.wait_closed()

    async def _register(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        waiting = self._registrations.get(_read_container_id(await reader.readline()))
        if waiting is None:
            writer.write(b"unknown\n")
            await writer.drain()
            return
        writer.write(b"registered\n")
        await writer.drain()
        word = await reader.readline()
        if waiting.done():
            return
        if word == b"running\n":
            waiting.set_result(None)
        else:
            waiting.set_exception(PeerError("the executor could not start the task"))


def _listen(address: str) -> socket.socket:
    family = socket.AF_INET6 if ":" in address else socket.AF_INET
    listener = socket.socket(family, socket.SOCK_STREAM)
    try:
        listener.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        listener.bind((address, PORT))
        listener.listen(64)
    except OSError as failure:
        listener.close()
        raise PeerError(
            f"cannot listen on {address}:{PORT}; does another simulated agent run there? {failure}"
        ) from failure
    listener.setblocking(False)
    return listener


def _read_container_id(line: bytes) -> str:
    document = msgspec.json.decode(line)
    return str(document.get("container_id")) if isinstance(document, dict) else ""
