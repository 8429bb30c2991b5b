"""A namespace of the lab seen from outside: run programs, listen, probe. Hosts, workloads and the fabric are places."""

from __future__ import annotations

import http.client
import json
import os
import socket
import subprocess
import sys
import time
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import TypeVar

from felix.errors import EnvironmentFault, PeerError
from felix.lab.namespace import NETNS_DIR, call_inside, configure
from felix.lab.probe import ProbeResult, open_connection, probe

T = TypeVar("T")


class Place:
    """One namespace with a name that people use and the environment that programs inside get."""

    def __init__(self, name: str, namespace: str, responder: Path, environment: Mapping[str, str]) -> None:
        self.name = name
        self.namespace = namespace
        self.environment = dict(environment)
        self._responder = responder

    def __repr__(self) -> str:
        return f"{type(self).__name__}({self.namespace})"

    def command(self, arguments: Sequence[str]) -> list[str]:
        """Returns the command line that runs `arguments` inside."""
        return ["ip", "netns", "exec", self.namespace, *arguments]

    def program_environment(self, extra: Mapping[str, str] | None = None) -> dict[str, str]:
        """Returns the environment of programs inside; this interpreter's commands are found first."""
        path = f"{Path(sys.executable).parent}:{os.environ.get('PATH', '/usr/sbin:/usr/bin:/sbin:/bin')}"
        return {**os.environ, "PATH": path, **self.environment, **(extra or {})}

    def run(
        self, arguments: Sequence[str], *, check: bool = True, stdin: str | None = None, timeout_s: float = 30.0
    ) -> subprocess.CompletedProcess[str]:
        """Runs a program inside to its end; raises EnvironmentFault with its errors when `check` and it failed."""
        done = subprocess.run(
            self.command(arguments),
            env=self.program_environment(),
            input=stdin,
            capture_output=True,
            text=True,
            timeout=timeout_s,
            check=False,
        )
        if check and done.returncode != 0:
            raise EnvironmentFault(f"{self.name}: {' '.join(arguments)}: exit {done.returncode}: {done.stderr.strip()}")
        return done

    def configure(self, *commands: str) -> None:
        """The `ip` commands (without the word `ip`) have run inside, in one go."""
        configure(self.namespace, commands)

    def call(self, function: Callable[[], T]) -> T:
        """Returns what `function` returns when called in a thread that lives inside."""
        return call_inside(self.namespace, function)

    def listen(self, port: int, protocol: str = "tcp") -> None:
        """Something answers on that port, on all addresses of both families: it echoes what it gets."""
        self._ask_responder({"op": "listen", "netns": self._path, "port": port, "protocol": protocol})

    def close_listeners(self) -> None:
        """Nothing that `listen` opened answers any more; its connections are closed."""
        self._ask_responder({"op": "close", "netns": self._path})

    def connect(self, address: str, port: int = 0, protocol: str = "tcp", timeout_s: float = 1.0) -> ProbeResult:
        """Sends real packets to `address` and reports whether the answer came. protocol: tcp, udp or icmp."""
        return probe(self.namespace, address, port, protocol, timeout_s)

    def open(self, address: str, port: int, protocol: str = "tcp", timeout_s: float = 1.0) -> socket.socket:
        """Returns a connected socket to keep; `felix.lab.probe.echo` tries whether it still works."""
        return open_connection(self.namespace, address, port, protocol, timeout_s)

    def http_get(self, port: int, path: str, timeout_s: float = 2.0) -> tuple[int, str]:
        """Returns status and body of a GET to 127.0.0.1 inside; status 0 and the reason when nobody answers."""
        connection = http.client.HTTPConnection("127.0.0.1", port, timeout=timeout_s)
        try:
            connection.sock = self.open("127.0.0.1", port, "tcp", timeout_s)
            connection.request("GET", path)
            response = connection.getresponse()
            return response.status, response.read().decode(errors="replace")
        except (OSError, http.client.HTTPException) as failure:
            return 0, str(failure)
        finally:
            connection.close()

    @property
    def _path(self) -> str:
        return str(NETNS_DIR / self.namespace)

    def _ask_responder(self, request: Mapping[str, str | int]) -> None:
        with socket.socket(socket.AF_UNIX, socket.SOCK_STREAM) as connection:
            connection.settimeout(5.0)
            try:
                connection.connect(str(self._responder))
                connection.sendall(json.dumps(request).encode() + b"\n")
                answer = json.loads(connection.makefile("rb").readline() or b"{}")
            except OSError as failure:
                raise PeerError(f"the lab's responder does not answer at {self._responder}: {failure}") from failure
        if "error" in answer:
            raise EnvironmentFault(f"{self.name}: cannot listen: {answer['error']}")


def wait_until(condition: Callable[[], bool], timeout_s: float, what: str, interval_s: float = 0.01) -> None:
    """`condition` holds; raises PeerError that says `what` was waited for otherwise."""
    deadline = time.monotonic() + timeout_s
    while not condition():
        if time.monotonic() > deadline:
            raise PeerError(f"waited {timeout_s:g} s in vain for {what}")
        time.sleep(interval_s)
