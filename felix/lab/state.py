"""What a lab consists of, kept in a directory so that another process, or the next one, can go on. Shell."""

from __future__ import annotations

import contextlib
import fcntl
import os
from collections.abc import Iterator
from pathlib import Path

import msgspec

from felix.lab.process import ProcessRecord

RUN_ROOT = Path("/run/felix-lab")


class WorkloadRecord(msgspec.Struct, frozen=True):
    """One workload: its addresses (empty when it has none of that family) and the key of its endpoint."""

    name: str
    host: str
    interface: str
    ipv4: str
    ipv6: str
    key: str


class LabState(msgspec.Struct):
    """All that cannot be computed from the lab's name. is_apart: whether every other host is in another subnet."""

    name: str
    hosts: int = 0
    is_apart: bool = False
    workloads: dict[str, WorkloadRecord] = msgspec.field(default_factory=dict)
    processes: dict[str, ProcessRecord] = msgspec.field(default_factory=dict)


class StateDirectory:
    """The directory `<root>/<lab>`: state.json, its lock, and whatever the lab's programs keep."""

    def __init__(self, name: str, root: Path = RUN_ROOT) -> None:
        self.name = name
        self.path = root / name
        self._file = self.path / "state.json"

    def read(self) -> LabState:
        """Returns the state; an empty one when there is no such lab or its file was cut short."""
        try:
            return msgspec.json.decode(self._file.read_bytes(), type=LabState)
        except (FileNotFoundError, msgspec.DecodeError):
            return LabState(name=self.name)

    @contextlib.contextmanager
    def change(self) -> Iterator[LabState]:
        """Yields the state to change; on leaving without error it is stored. Other processes wait meanwhile."""
        self.path.mkdir(parents=True, exist_ok=True)
        descriptor = os.open(self.path / "lock", os.O_RDWR | os.O_CREAT | os.O_CLOEXEC, 0o600)
        try:
            fcntl.flock(descriptor, fcntl.LOCK_EX)
            state = self.read()
            yield state
            draft = self._file.with_suffix(".new")
            draft.write_bytes(msgspec.json.format(msgspec.json.encode(state)))
            draft.replace(self._file)
        finally:
            os.close(descriptor)


def list_labs(root: Path = RUN_ROOT) -> list[str]:
    """Returns the names of all labs that left a directory, sorted."""
    return sorted(entry.name for entry in root.iterdir() if entry.is_dir()) if root.is_dir() else []
