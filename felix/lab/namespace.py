"""Network namespaces: create, delete, list, configure, enter. Shell.

Entering happens in threads of their own, which end there: the namespace belongs to a thread, so the caller's own
namespace never changes. A socket stays in the namespace in which it was made, whoever uses it later.
"""

from __future__ import annotations

import contextlib
import ctypes
import os
import subprocess
import threading
from collections.abc import Callable, Iterable, Iterator, Mapping
from pathlib import Path
from typing import TypeVar

from felix.errors import EnvironmentFault

NETNS_DIR = Path("/run/netns")
_CLONE_NEWNET = 0x40000000
_libc = ctypes.CDLL(None, use_errno=True)

T = TypeVar("T")


def list_namespaces(prefix: str) -> list[str]:
    """Returns the names of all namespaces that start with `prefix`, sorted."""
    if not NETNS_DIR.is_dir():
        return []
    return sorted(entry.name for entry in NETNS_DIR.iterdir() if entry.name.startswith(prefix))


def create_namespaces(names: Iterable[str]) -> None:
    """All `names` exist as empty namespaces with loopback up and without duplicate address detection."""
    created = list(names)
    _run_ip(["-batch", "-"], "".join(f"netns add {name}\n" for name in created))
    for name in created:
        write_sysctls(name, {"net/ipv6/conf/all/accept_dad": "0", "net/ipv6/conf/default/accept_dad": "0"})


def attach_namespace(name: str, pid: int) -> None:
    """The network namespace of a process has a name; it lives on without the process until it is deleted."""
    _run_ip(["netns", "attach", name, str(pid)], "")


def delete_namespaces(names: Iterable[str]) -> None:
    """None of `names` exists; what is inside goes once its last process and socket are gone."""
    present = [name for name in names if (NETNS_DIR / name).exists()]
    if present:
        _run_ip(["-batch", "-"], "".join(f"netns del {name}\n" for name in present))


def configure(namespace: str, commands: Iterable[str]) -> None:
    """The `ip` commands (one per item, without the word `ip`) have run inside; raises EnvironmentFault otherwise."""
    _run_ip(["-n", namespace, "-batch", "-"], "".join(f"{command}\n" for command in commands))


def write_sysctls(namespace: str, value_by_path: Mapping[str, str]) -> None:
    """The settings (paths below /proc/sys) have their values inside the namespace."""

    def write() -> None:
        for path, value in value_by_path.items():
            Path("/proc/sys", path).write_text(value)

    call_inside(namespace, write)


def call_inside(namespace: str, function: Callable[[], T]) -> T:
    """Returns what `function` returns when called inside; what it raises is raised here."""
    outcome: list[T] = []
    failures: list[Exception] = []

    def enter_and_call() -> None:
        try:
            _enter(namespace)
            outcome.append(function())
        except Exception as failure:
            failures.append(failure)

    thread = threading.Thread(target=enter_and_call, name=f"inside {namespace}")
    thread.start()
    thread.join()
    if failures:
        raise failures[0]
    return outcome[0]


def find_processes(namespaces: Iterable[str]) -> list[int]:
    """Returns the ids of all processes that live in one of the namespaces."""
    inodes = set()
    for name in namespaces:
        with contextlib.suppress(OSError):
            inodes.add((NETNS_DIR / name).stat().st_ino)
    return [pid for pid, inode in _namespace_inodes() if inode in inodes]


def _namespace_inodes() -> Iterator[tuple[int, int]]:
    for entry in os.listdir("/proc"):
        if entry.isdigit():
            with contextlib.suppress(OSError):  # the process ended meanwhile
                yield int(entry), os.stat(f"/proc/{entry}/ns/net").st_ino


def _enter(namespace: str) -> None:
    try:
        descriptor = os.open(NETNS_DIR / namespace, os.O_RDONLY | os.O_CLOEXEC)
    except FileNotFoundError as missing:
        raise EnvironmentFault(f"network namespace {namespace} does not exist; is the lab up?") from missing
    try:
        if _libc.setns(descriptor, _CLONE_NEWNET) != 0:
            number = ctypes.get_errno()
            raise EnvironmentFault(f"cannot enter network namespace {namespace}: {os.strerror(number)}; run as root")
    finally:
        os.close(descriptor)


def _run_ip(arguments: list[str], script: str) -> None:
    done = subprocess.run(["ip", *arguments], input=script, text=True, capture_output=True, check=False)
    if done.returncode != 0:
        raise EnvironmentFault(f"ip {' '.join(arguments)}: {done.stderr.strip()}")
