"""A real etcd on loopback for tests: started, stopped, paused and wiped at will, killed by its pid at the end."""

from __future__ import annotations

import os
import shutil
import signal
import socket
import subprocess
import tempfile
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

ETCD = shutil.which("etcd") or "/usr/bin/etcd"
_QUIET = ("--log-level=error", "--logger=zap")
_ALONE = ("--heartbeat-interval=30", "--election-timeout=300")  # nobody to lose an election to, on any busy machine
_TOGETHER = ("--heartbeat-interval=100", "--election-timeout=1000")


def free_ports(count: int) -> list[int]:
    """Returns that many different TCP ports of 127.0.0.1 on which nobody listened just now."""
    sockets = [socket.socket() for _ in range(count)]
    try:
        for one in sockets:
            one.bind(("127.0.0.1", 0))
        return [int(one.getsockname()[1]) for one in sockets]
    finally:
        for one in sockets:
            one.close()


class EtcdServer:
    """One etcd member of its own cluster in a directory of its own. `endpoint` is its client URL."""

    def __init__(self, *options: str, scheme: str = "http", name: str = "m0") -> None:
        self.client_port, self.peer_port = free_ports(2)
        self.name = name
        self.scheme = scheme
        self.directory = Path(tempfile.mkdtemp(prefix="felix-etcd-"))
        self._options = options
        self._cluster = f"{name}={self.peer_url}"
        self._process: subprocess.Popen[bytes] | None = None

    @property
    def endpoint(self) -> str:
        return f"{self.scheme}://127.0.0.1:{self.client_port}"

    @property
    def peer_url(self) -> str:
        return f"http://127.0.0.1:{self.peer_port}"

    @property
    def pid(self) -> int:
        assert self._process is not None
        return self._process.pid

    def join(self, members: list[EtcdServer]) -> None:
        """The member belongs to the cluster of `members`; before the first start."""
        self._cluster = ",".join(f"{one.name}={one.peer_url}" for one in members)

    def start(self, *, wait: bool = True) -> None:
        """The server runs, and answers if `wait`."""
        assert self._process is None
        command = [
            ETCD,
            *_QUIET,
            *(_TOGETHER if "," in self._cluster else _ALONE),
            *self._options,
            f"--name={self.name}",
            f"--data-dir={self.directory}/data",
            f"--listen-client-urls={self.endpoint}",
            f"--advertise-client-urls={self.endpoint}",
            f"--listen-peer-urls={self.peer_url}",
            f"--initial-advertise-peer-urls={self.peer_url}",
            f"--initial-cluster={self._cluster}",
        ]
        with (self.directory / "log").open("ab") as log:
            self._process = subprocess.Popen(command, stdin=subprocess.DEVNULL, stdout=log, stderr=log)
        if wait:
            self.wait_ready()

    def wait_ready(self, timeout_s: float = 20.0) -> None:
        """The server accepts clients, which it does once it knows a leader. Raises AssertionError with its log."""
        deadline = time.monotonic() + timeout_s
        while time.monotonic() < deadline:
            assert self._process is not None
            assert self._process.poll() is None, self.read_log()
            try:
                socket.create_connection(("127.0.0.1", self.client_port), timeout=1).close()
            except OSError:
                time.sleep(0.02)
            else:
                return
        raise AssertionError(f"etcd did not start: {self.read_log()}")

    def read_log(self) -> str:
        return (self.directory / "log").read_text(errors="replace")[-4000:]

    def pause(self) -> None:
        """The server keeps its connections and says nothing."""
        assert self._process is not None
        self._process.send_signal(signal.SIGSTOP)
        os.waitid(os.P_PID, self._process.pid, os.WSTOPPED)  # the signal alone only asks; its threads go on meanwhile

    def resume(self) -> None:
        assert self._process is not None
        self._process.send_signal(signal.SIGCONT)

    def stop(self) -> None:
        """The server is gone at once, as by a crash; its data stay."""
        if self._process is not None:
            self._process.kill()
            self._process.wait()
            self._process = None

    def replace(self) -> None:
        """The data are gone, and the next start makes another cluster at the same endpoint. While stopped."""
        assert self._process is None
        shutil.rmtree(self.directory / "data", ignore_errors=True)
        self._options = (*self._options, "--initial-cluster-token=replaced")

    def remove(self) -> None:
        """The server and everything of it are gone."""
        self.stop()
        shutil.rmtree(self.directory, ignore_errors=True)


@contextmanager
def running_etcd(*options: str, scheme: str = "http") -> Iterator[EtcdServer]:
    """Gives a running server; gone afterwards."""
    server = EtcdServer(*options, scheme=scheme)
    try:
        server.start()
        yield server
    finally:
        server.remove()


@contextmanager
def running_cluster(size: int) -> Iterator[list[EtcdServer]]:
    """Gives a running cluster of that many members; gone afterwards."""
    members = [EtcdServer(name=f"m{number}") for number in range(size)]
    try:
        for one in members:
            one.join(members)
        for one in members:
            one.start(wait=False)
        for one in members:
            one.wait_ready()
        yield members
    finally:
        for one in members:
            one.remove()
