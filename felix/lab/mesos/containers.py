"""The containers of a simulated agent: check-points on disk, their first process, and all that runs in them. Shell."""

from __future__ import annotations

import asyncio
import contextlib
import fcntl
import json
import os
import shutil
import signal
import sys
from collections.abc import Iterator
from pathlib import Path

import msgspec

from felix.errors import PeerError
from felix.lab import process
from felix.lab.host import Host
from felix.lab.mesos.types import Container
from felix.lab.namespace import NETNS_DIR
from felix.lab.process import ProcessRecord

MARK = "MESOS_SANDBOX"
MAX_GONE = 100
_KILL_S = 5.0
_RESOLV_CONF = "# Written by the simulated agent of Mesos.\nnameserver {resolver}\noptions timeout:1 attempts:3\n"
_LAUNCH = Path(__file__).with_name("launch.py")


class Checkpoints:
    """The directory in which an agent keeps its containers; whoever opens it next goes on from there.

    containers/<id>.json: records. sandboxes/<id>/: where a task runs, with its output and how it ended.
    """

    def __init__(self, directory: Path) -> None:
        self.directory = directory
        self._records = directory / "containers"
        self._records.mkdir(parents=True, exist_ok=True)

    def read(self) -> list[Container]:
        """Returns all records, oldest first."""
        files = sorted(self._records.glob("*.json"), key=lambda path: path.stat().st_mtime_ns)
        return [msgspec.json.decode(path.read_bytes(), type=Container) for path in files]

    def write(self, container: Container) -> None:
        """The record is on disk, whole."""
        draft = self._records / f"{container.id}.new"
        draft.write_bytes(msgspec.json.format(msgspec.json.encode(container)))
        draft.replace(draft.with_suffix(".json"))

    def forget(self, container: Container) -> None:
        """Neither the record nor the sandbox exists."""
        (self._records / f"{container.id}.json").unlink(missing_ok=True)
        shutil.rmtree(self.sandbox(container.id), ignore_errors=True)

    def sandbox(self, container_id: str) -> Path:
        """Returns the directory of a container's task."""
        return self.directory / "sandboxes" / container_id

    def exit_status(self, container_id: str) -> int | None:
        """Returns how the task ended, None when nobody could tell any more."""
        try:
            return int((self.sandbox(container_id) / "exit").read_text())
        except (OSError, ValueError):
            return None


class Fork:
    """A container's first process while it is blocked: it goes on after `go`, and ends if that never comes."""

    def __init__(self, record: ProcessRecord, go: int, ready: int) -> None:
        self.record = record
        self._go = go
        self._ready = ready

    async def wait_ready(self, timeout_s: float) -> None:
        """The process is in its namespace and blocked; raises PeerError when it ended or the time is up."""
        try:
            async with asyncio.timeout(timeout_s):
                await _wait_readable(self._ready)
        except TimeoutError as late:
            raise PeerError(f"the container's first process did not start within {timeout_s:g} s") from late
        if os.read(self._ready, 1) != b"r":
            raise PeerError("the container's first process ended before it was ready")

    def go(self, order: dict[str, object]) -> None:
        """The process goes on, as it is ordered."""
        try:
            os.write(self._go, json.dumps(order).encode() + b"\n")
        except OSError as failure:
            raise PeerError(f"the container's first process is gone: {failure}") from failure

    def close(self) -> None:
        """Our ends of the pipes are closed; harmless when repeated."""
        for descriptor in (self._go, self._ready):
            if descriptor >= 0:
                os.close(descriptor)
        self._go = self._ready = -1


def fork(host: Host, container: Container, sandbox: Path, resolver: str = "") -> Fork:
    """The container's first process exists, in a network namespace of its own if it is networked, and blocks.

    resolver: the address of its name server, in a resolv.conf of its own; empty: the machine's.
    """
    sandbox.mkdir(parents=True, exist_ok=True)
    own = ["--net"] if container.networked else []
    program = [sys.executable, "-S", "-E", "-P", str(_LAUNCH)]  # -P: a neighbour of it is called types.py
    if resolver:
        settings = sandbox / "resolv.conf"
        settings.write_text(_RESOLV_CONF.format(resolver=resolver))
        own.append("--mount")  # what is mounted there is seen by nobody else
        program = ["sh", "-c", 'mount --bind "$0" /etc/resolv.conf && exec "$@"', str(settings), *program]
    command = ["nsenter", f"--net={NETNS_DIR / host.namespace}", *(["unshare", *own] if own else []), *program]
    go_read, go_write = _make_pipe()
    ready_read, ready_write = _make_pipe()
    try:
        record = process.spawn(
            f"mesos:{container.id}",
            command,
            task_environment(host, container, sandbox),
            sandbox / "output",
            sandbox,
            descriptors={3: go_read, 4: ready_write},
        )
    except BaseException:
        os.close(go_write)
        os.close(ready_read)
        raise
    finally:
        os.close(go_read)
        os.close(ready_write)
    return Fork(record, go_write, ready_read)


def _make_pipe() -> tuple[int, int]:
    """Returns a pipe's ends, with numbers above those under which the process will know its own."""
    low = os.pipe()
    high = tuple(fcntl.fcntl(end, fcntl.F_DUPFD_CLOEXEC, 10) for end in low)
    for end in low:
        os.close(end)
    return high[0], high[1]


def task_environment(host: Host, container: Container, sandbox: Path) -> dict[str, str]:
    """Returns the environment of a container's processes; `MARK` in it says whose they are."""
    path = f"{Path(sys.executable).parent}:{os.environ.get('PATH', '/usr/sbin:/usr/bin:/sbin:/bin')}"
    return {
        "PATH": path,
        "HOME": str(sandbox),
        MARK: f"{sandbox}/",
        "MESOS_CONTAINER_ID": container.id,
        "MESOS_FRAMEWORK_ID": container.framework_id,
        "MESOS_EXECUTOR_ID": container.task.executor_id,
        "MESOS_TASK_ID": container.task.task_id,
        "MESOS_SIMULATOR": "felix",
        "HOST": host.ipv4,
    }


async def wait_ended(record: ProcessRecord) -> None:
    """The process is no more; returns at once when it is gone already."""
    while process.is_running(record):  # also reaps it; another process of that id is not ours to wait for
        await _wait_pid(record.pid)


async def end_marked(directory: Path) -> None:
    """No process of the container with that sandbox runs; raises PeerError when one does not end after SIGKILL."""
    try:
        async with asyncio.timeout(_KILL_S):
            while killed := kill_marked(directory):  # one may have forked while we looked
                for pid in killed:
                    await _wait_pid(pid)
    except TimeoutError as late:
        raise PeerError(f"processes of {directory} do not end after SIGKILL") from late


def kill_marked(directory: Path) -> list[int]:
    """Every process of the containers below `directory` has been sent SIGKILL; returns their ids."""
    killed = list(find_marked(directory))
    for pid in killed:
        with contextlib.suppress(ProcessLookupError):
            os.kill(pid, signal.SIGKILL)
    return killed


def find_marked(directory: Path) -> Iterator[int]:
    """Yields the ids of all processes of containers whose sandbox is, or lies below, `directory`."""
    mark = f"{MARK}={directory}/".encode()
    for entry in os.listdir("/proc"):
        if entry.isdigit():
            with contextlib.suppress(OSError):
                environment = Path(f"/proc/{entry}/environ").read_bytes().split(b"\0")
                if any(variable.startswith(mark) for variable in environment):
                    yield int(entry)


async def _wait_pid(pid: int) -> None:
    try:
        descriptor = os.pidfd_open(pid)
    except ProcessLookupError:
        return
    try:
        await _wait_readable(descriptor)
    finally:
        os.close(descriptor)


async def _wait_readable(descriptor: int) -> None:
    loop = asyncio.get_running_loop()
    ready: asyncio.Future[None] = loop.create_future()

    def set_ready() -> None:
        if not ready.done():
            ready.set_result(None)

    loop.add_reader(descriptor, set_ready)
    try:
        await ready
    finally:
        loop.remove_reader(descriptor)
