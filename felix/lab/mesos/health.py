"""Health checks of running tasks: tried again and again, told when they change. Shell.

What fails stays: unlike Marathon, the simulator kills nobody for it.
"""

from __future__ import annotations

import asyncio
import contextlib
import socket
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field

from felix.lab.checks import Health, HealthCheck, judge
from felix.lab.mesos.types import Container
from felix.lab.place import Place

_ANSWER_BYTES = 64


@dataclass(slots=True)
class Subject:
    """A task under checks. marathon, agent, inside: where they are tried from, by kind."""

    container: Container
    marathon: Place
    agent: Place
    inside: Place
    results: list[Health] = field(default_factory=list)

    @property
    def is_healthy(self) -> bool | None:
        """Whether all checks say so; None as long as one says nothing."""
        return judge(self.results)


class HealthChecker:
    """Checks tasks until it is closed. on_change: called when a task is found healthy or no longer so."""

    def __init__(self, on_change: Callable[[Subject], None]) -> None:
        self.subject_by_task: dict[str, Subject] = {}
        self._on_change = on_change
        self._tries_by_task: dict[str, list[asyncio.Task[None]]] = {}

    def watch(self, subject: Subject, checks: Sequence[HealthCheck]) -> None:
        """The task is checked from now on; once, however often this is called."""
        task_id = subject.container.task.task_id
        if not checks or task_id in self.subject_by_task:
            return
        subject.results = [Health(check) for check in checks]
        self.subject_by_task[task_id] = subject
        started = time.monotonic()
        self._tries_by_task[task_id] = [
            asyncio.create_task(self._keep_trying(subject, result, started)) for result in subject.results
        ]

    def forget(self, task_id: str) -> None:
        """The task is not checked any more; harmless when it never was."""
        self.subject_by_task.pop(task_id, None)
        for one in self._tries_by_task.pop(task_id, ()):
            one.cancel()

    async def close(self) -> None:
        """Nothing is checked any more."""
        tries = [one for listed in self._tries_by_task.values() for one in listed]
        for task_id in list(self._tries_by_task):
            self.forget(task_id)
        await asyncio.gather(*tries, return_exceptions=True)

    async def _keep_trying(self, subject: Subject, result: Health, started: float) -> None:
        while True:
            cause = await _try(subject, result.check)
            before = subject.is_healthy
            is_young = result.is_alive is None and time.monotonic() - started < result.check.grace_s
            _note(result, cause, is_young)
            if subject.is_healthy is not before:
                self._on_change(subject)
            await asyncio.sleep(
                result.check.interval_s if not (is_young and cause) else min(1, result.check.interval_s)
            )


def _note(result: Health, cause: str, is_young: bool) -> None:
    """The result says how the try went. cause: why it failed. is_young: failures do not count yet."""
    now = time.time()
    result.cause = cause
    if not cause:
        result.first_success = result.first_success or now
        result.last_success, result.failures, result.is_alive = now, 0, True
        return
    result.last_failure = now
    if is_young:
        return
    result.failures += 1
    if result.is_alive is None or result.failures >= result.check.failures_most:
        result.is_alive = False


async def _try(subject: Subject, check: HealthCheck) -> str:
    """Returns why the check failed, empty when it did not."""
    try:
        async with asyncio.timeout(check.timeout_s):
            if check.protocol == "COMMAND":
                return await _run(subject.inside, check.command)
            port = find_port(subject.container, check)
            if port == 0:
                return f"no port number {check.port_index}"
            address = subject.container.statuses[-1].addresses[0]
            place = subject.agent if check.is_local else subject.marathon
            return await _connect(place, address, port, check.path if check.is_http else "")
    except TimeoutError:
        return f"no answer within {check.timeout_s:g} s"
    except (OSError, IndexError) as failure:
        return str(failure)


def find_port(container: Container, check: HealthCheck) -> int:
    """Returns the port at which the task is tried: the one that is named, or of the application's; 0: it has none."""
    if check.port:
        return check.port
    task = container.task
    ports = [one.number for one in task.discovery.ports.ports] if task.discovery else list(task.resources.ports)
    return ports[check.port_index] if check.port_index < len(ports) else 0


async def _connect(place: Place, address: str, port: int, path: str) -> str:
    loop = asyncio.get_running_loop()
    family = socket.AF_INET6 if ":" in address else socket.AF_INET
    with place.call(lambda: socket.socket(family, socket.SOCK_STREAM)) as connection:
        connection.setblocking(False)
        await loop.sock_connect(connection, (address, port))
        if not path:
            return ""
        host = f"[{address}]" if ":" in address else address
        request = f"GET {path} HTTP/1.0\r\nHost: {host}:{port}\r\nUser-Agent: felix-lab\r\nConnection: close\r\n\r\n"
        await loop.sock_sendall(connection, request.encode())
        answer = b""
        while b"\n" not in answer and len(answer) < _ANSWER_BYTES:
            piece = await loop.sock_recv(connection, _ANSWER_BYTES)
            if not piece:
                break
            answer += piece
    words = answer.split(None, 2)
    if len(words) < 2 or not words[0].startswith(b"HTTP/") or not words[1].isdigit():
        return "no HTTP"
    return "" if 200 <= int(words[1]) <= 399 else f"status {int(words[1])}"


async def _run(inside: Place, command: str) -> str:
    process = await asyncio.create_subprocess_exec(
        *inside.command(["sh", "-c", command]),
        stdin=asyncio.subprocess.DEVNULL,
        stdout=asyncio.subprocess.DEVNULL,
        stderr=asyncio.subprocess.DEVNULL,
    )
    try:
        status = await process.wait()
    finally:
        if process.returncode is None:
            with contextlib.suppress(ProcessLookupError):
                process.kill()
            await process.wait()
    return f"exit status {status}" if status else ""
