"""Private network namespaces for tests against the real kernel: nothing outside of them is touched."""

from __future__ import annotations

import contextlib
import ctypes
import itertools
import os
import subprocess
import threading
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import TypeVar

T = TypeVar("T")

_CLONE_NEWNET = 0x40000000
_numbers = itertools.count()


class Namespace:
    """One network namespace, up to `delete`."""

    def __init__(self, area: str) -> None:
        self.name = f"fx-{area}-{os.getpid()}-{next(_numbers)}"
        subprocess.run(["ip", "netns", "add", self.name], check=True)
        self.ip("link set lo up")

    def delete(self) -> None:
        """The namespace is gone; processes and sockets still inside keep it alive without a name."""
        subprocess.run(["ip", "netns", "delete", self.name], check=False)

    def ip(self, arguments: str) -> str:
        """Runs `ip ARGUMENTS` inside (split at blanks) and returns its output; raises AssertionError with its error."""
        return self.execute("ip", *arguments.split())

    def execute(self, *command: str) -> str:
        """Runs a command inside and returns its output; raises AssertionError with what it said on failure."""
        done = subprocess.run(
            ["ip", "netns", "exec", self.name, *command], check=False, capture_output=True, text=True, timeout=60
        )
        assert done.returncode == 0, f"{' '.join(command)}: {done.stderr.strip()}"
        return done.stdout

    def run(self, function: Callable[[], T]) -> T:
        """Returns what `function` returns, or raises what it raises, in a thread of its own inside the namespace."""
        results: list[T] = []
        errors: list[BaseException] = []

        def enter_and_run() -> None:
            try:
                self.enter_thread()
                results.append(function())
            except BaseException as error:  # handed to the caller below
                errors.append(error)

        thread = threading.Thread(target=enter_and_run, name=self.name)
        thread.start()
        thread.join()
        if errors:
            raise errors[0]
        return results[0]

    def enter_thread(self) -> None:
        """The calling thread is inside from now on: its sockets and its /proc/sys/net are the namespace's.

        For threads that belong to the test only (an executor's initializer, say); there is no way back.
        """
        libc = ctypes.CDLL(None, use_errno=True)
        with open(f"/run/netns/{self.name}", "rb") as handle:
            if libc.setns(handle.fileno(), _CLONE_NEWNET) != 0:
                raise OSError(ctypes.get_errno(), f"setns {self.name}")

    def read_sysctl(self, path: str) -> str:
        """Returns the value of `net/…` inside."""
        return self.run(lambda: Path("/proc/sys", path).read_text().strip())

    def write_sysctl(self, path: str, value: str) -> None:
        """`net/…` has that value inside."""
        self.run(lambda: Path("/proc/sys", path).write_text(value))


@contextlib.contextmanager
def private_namespace(area: str) -> Iterator[Namespace]:
    """Yields a fresh namespace that is deleted afterwards, whatever happened. area: a few letters for its name."""
    namespace = Namespace(area)
    try:
        yield namespace
    finally:
        namespace.delete()
