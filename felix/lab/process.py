"""Programs that outlive the command that started them, recorded so that nobody else's is ever killed. Shell."""

from __future__ import annotations

import contextlib
import os
import signal
import time
from collections.abc import Mapping, Sequence
from pathlib import Path
from types import MappingProxyType

import msgspec

from felix.errors import EnvironmentFault

_POLL_S = 0.005


class ProcessRecord(msgspec.Struct, frozen=True):
    """One started program. `start_ticks` is its start time since boot: a process id alone may be somebody else's."""

    role: str
    pid: int
    start_ticks: int


def spawn(
    role: str,
    command: Sequence[str],
    environment: Mapping[str, str],
    log: Path,
    cwd: Path,
    *,
    descriptors: Mapping[int, int] = MappingProxyType({}),
) -> ProcessRecord:
    """The program runs in a session of its own with its output appended to `log`; its record is returned.

    descriptors: further ones that it gets, ours by its own number.
    """
    actions = [
        (os.POSIX_SPAWN_OPEN, 0, "/dev/null", os.O_RDONLY, 0),
        (os.POSIX_SPAWN_OPEN, 1, str(log), os.O_WRONLY | os.O_CREAT | os.O_APPEND, 0o640),
        (os.POSIX_SPAWN_DUP2, 1, 2),
        *((os.POSIX_SPAWN_DUP2, ours, its) for its, ours in descriptors.items()),
    ]
    # posix_spawn has no working directory; env(1) changes into it and becomes the program, so the id stays.
    arguments = ["env", "-C", str(cwd), *command]
    try:
        pid = os.posix_spawnp("env", arguments, dict(environment), file_actions=actions, setsid=True)
    except OSError as failure:
        raise EnvironmentFault(f"cannot start {role}: {failure}") from failure
    return ProcessRecord(role=role, pid=pid, start_ticks=_find_start_ticks(pid) or 0)


def is_running(record: ProcessRecord) -> bool:
    """Whether exactly this program still runs; one that has ended is reaped when it was our child."""
    with contextlib.suppress(ChildProcessError):
        os.waitpid(record.pid, os.WNOHANG)
    return _find_start_ticks(record.pid) == record.start_ticks


def stop(record: ProcessRecord, number: int = signal.SIGTERM, timeout_s: float = 10.0) -> bool:
    """The program has ended. Returns whether it did so by itself after signal `number`, False if it was killed."""
    if not is_running(record):
        return True
    send_signal(record, number)
    if _wait_ended(record, timeout_s):
        return True
    send_signal(record, signal.SIGKILL)
    if not _wait_ended(record, timeout_s):
        raise EnvironmentFault(f"{record.role} (process {record.pid}) does not end after SIGKILL")
    return False


def identify(pid: int, role: str) -> ProcessRecord | None:
    """Returns a record of a process that runs now, or None when it is gone."""
    ticks = _find_start_ticks(pid)
    return None if ticks is None else ProcessRecord(role=role, pid=pid, start_ticks=ticks)


def send_signal(record: ProcessRecord, number: int) -> None:
    """The program has been sent the signal, if it still is the one that was started."""
    with contextlib.suppress(ProcessLookupError):
        if _find_start_ticks(record.pid) == record.start_ticks:
            os.kill(record.pid, number)


def _wait_ended(record: ProcessRecord, timeout_s: float) -> bool:
    deadline = time.monotonic() + timeout_s
    while is_running(record):
        if time.monotonic() > deadline:
            return False
        time.sleep(_POLL_S)
    return True


def _find_start_ticks(pid: int) -> int | None:
    try:
        text = Path(f"/proc/{pid}/stat").read_text()
    except OSError:
        return None
    fields = text.rpartition(")")[2].split()  # the name before may hold blanks and brackets
    return None if fields[0] in {"Z", "X"} else int(fields[19])
