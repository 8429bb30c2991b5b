"""Running a plug-in: one process per request, with a deadline, a limit to what it may say, and its exit status. Shell.

What the original lacks: there a plug-in that hangs stops all launches of its agent, an exit status is not looked at,
and an answer is cut off after 40 960 bytes.
"""

from __future__ import annotations

import asyncio
import contextlib
import json
import os
import signal
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path

from felix.errors import PeerError

MAX_ANSWER_BYTES = 1 << 20


class PlugInFailed(PeerError):
    """A plug-in did not do what it was asked for; what it did before it failed is unknown."""


@dataclass(frozen=True, slots=True)
class Program:
    """A plug-in and how it is run. prefix: what enters the host's namespace. log: where its errors go."""

    command: tuple[str, ...]
    prefix: tuple[str, ...]
    environment: Mapping[str, str]
    log: Path
    deadline_s: float = 30.0

    @property
    def name(self) -> str:
        """What it is called in errors."""
        return self.command[0]

    async def run(self, request: bytes) -> tuple[int, bytes]:
        """Returns exit status and answer. Raises PlugInFailed when it cannot be run, is late or says too much.

        Nothing of it runs afterwards, neither itself nor what it started in its process group.
        """
        with self.log.open("ab") as log:
            try:
                process = await asyncio.create_subprocess_exec(
                    *self.prefix,
                    *self.command,
                    env=dict(self.environment),
                    stdin=asyncio.subprocess.PIPE,
                    stdout=asyncio.subprocess.PIPE,
                    stderr=log,
                    start_new_session=True,
                )
            except OSError as failure:
                raise PlugInFailed(f"{self.name} cannot be started: {failure}") from failure
        try:
            async with asyncio.timeout(self.deadline_s):
                answer = await _exchange(process, request)
                status = await process.wait()
        except TimeoutError as late:
            raise PlugInFailed(f"{self.name} did not answer within {self.deadline_s:g} s and was killed") from late
        finally:
            await _end(process)
        if len(answer) > MAX_ANSWER_BYTES:
            raise PlugInFailed(f"{self.name} said more than {MAX_ANSWER_BYTES} bytes and was killed")
        return status, answer


def read_answer(program: str, verb: str, status: int, answer: bytes) -> dict[str, object]:
    """Returns what a net-modules plug-in answered; raises PlugInFailed unless it is a success in all respects."""
    if not answer.strip():
        raise PlugInFailed(f"{program} {verb}: no response (exit status {status})")
    try:
        document = json.loads(answer)
    except ValueError as error:
        raise PlugInFailed(f"{program} {verb}: not JSON: {answer[:80]!r}") from error
    if not isinstance(document, dict):
        raise PlugInFailed(f"{program} {verb}: expected an object, saw {answer[:80]!r}")
    if document.get("error") is not None:
        raise PlugInFailed(f"{program} {verb}: {json.dumps(document['error'])}")
    if status != 0:
        raise PlugInFailed(f"{program} {verb}: exit status {status} without an error in the answer")
    return document


async def _exchange(process: asyncio.subprocess.Process, request: bytes) -> bytes:
    assert process.stdin is not None
    assert process.stdout is not None
    with contextlib.suppress(BrokenPipeError, ConnectionResetError):  # one that does not listen may still answer
        process.stdin.write(request)
        await process.stdin.drain()
    process.stdin.close()
    answer = bytearray()
    while len(answer) <= MAX_ANSWER_BYTES:
        piece = await process.stdout.read(65536)
        if not piece:
            return bytes(answer)
        answer += piece
    _kill(process)
    return bytes(answer)


async def _end(process: asyncio.subprocess.Process) -> None:
    """The process group is gone and its pipes are closed."""
    _kill(process)
    await process.wait()
    assert process.stdin is not None
    process.stdin.close()
    with contextlib.suppress(BrokenPipeError, ConnectionResetError):
        await process.stdin.wait_closed()


def _kill(process: asyncio.subprocess.Process) -> None:
    with contextlib.suppress(ProcessLookupError):
        os.killpg(process.pid, signal.SIGKILL)
