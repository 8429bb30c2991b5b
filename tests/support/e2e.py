"""What end-to-end scenarios share: packet streams, monitors of the kernel, and views of an agent from outside."""

from __future__ import annotations

import json
import os
import re
import signal
import socket
import subprocess
import sys
import threading
import time
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager, suppress
from pathlib import Path

from felix.errors import EnvironmentFault
from felix.lab import documents
from felix.lab.host import Host
from felix.lab.lab import Lab, Workload
from felix.lab.names import ETCD_PORT, FABRIC_ADDRESS_V4
from felix.lab.place import Place, wait_until
from felix.lab.store import Document, Json
from felix.plugins.ask import ask

STREAM = Path(__file__).parents[1] / "e2e" / "stream.py"
_TICKS_PER_S = os.sysconf("SC_CLK_TCK")


# --- Documents ---


def open_profile(name: str = "open") -> Document:
    """Returns a profile that allows everything in both directions."""
    return documents.resource("Profile", name, {"ingress": [{"action": "Allow"}], "egress": [{"action": "Allow"}]})


def guarded_profile(name: str, selector: str) -> Document:
    """Returns a profile that lets in only endpoints of the selector, and everything out."""
    ingress: list[Json] = [{"action": "Allow", "source": {"selector": selector}}]
    return documents.resource("Profile", name, {"ingress": ingress, "egress": [{"action": "Allow"}]})


def delete_prefix(lab: Lab, prefix: str) -> None:
    """No key of the lab's etcd begins so; all went in one transaction."""
    lab.fabric.run(["etcdctl", "del", "--prefix", prefix])


# --- Agents seen from outside ---


def metric(host: Host, name: str, **labels: str) -> float:
    """Returns the sum over all samples of a metric that carry these labels; 0 when there is none."""
    total = 0.0
    for line in host.metrics().splitlines():
        found = re.fullmatch(r"(\w+)(?:\{(.*)\})? (\S+)", line)
        if found and found[1] == name:
            given = dict(re.findall(r'(\w+)="([^"]*)"', found[2] or ""))
            if labels.items() <= given.items():
                total += float(found[3])
    return total


def status(host: Host) -> dict[str, Json]:
    """Returns what the agent's local API says of itself."""
    answer = ask(str(host.rundir / "felix.sock"), "GET", "/v1/status")
    assert isinstance(answer, dict)
    return answer


def problems(host: Host) -> list[str]:
    """Returns the problems that the agent's local API names."""
    found = status(host)["problems"]
    assert isinstance(found, list)
    return [str(problem) for problem in found]


def endpoint_status(host: Host, key_part: str) -> str:
    """Returns the status of the endpoint whose key contains `key_part`; empty when there is none."""
    endpoints = status(host)["endpoints"]
    assert isinstance(endpoints, dict)
    for key, report in endpoints.items():
        if key_part in key:
            assert isinstance(report, dict)
            return str(report["status"])
    return ""


def start_guarded(lab: Lab) -> tuple[Host, Workload, Workload, Workload]:
    """One host runs; returns it with the workloads friend, stranger and server, whose port 80 is the friend's alone."""
    lab.up(hosts=1, bird=False)
    host = lab.hosts[0]
    lab.apply(open_profile())
    lab.apply(guarded_profile("guarded", "role == 'friend'"))
    friend = lab.add_workload(host, "friend", profiles=["open"], labels={"role": "friend"})
    stranger = lab.add_workload(host, "stranger", profiles=["open"], labels={"role": "stranger"})
    server = lab.add_workload(host, "server", profiles=["guarded"])
    server.listen(80)
    host.wait_agent_ready()
    wait_up(host, "friend", "stranger", "server")
    return host, friend, stranger, server


def wait_up(host: Host, *names: str, timeout_s: float = 10.0) -> None:
    """The agent says that the endpoints of these workloads are up."""
    for name in names:
        wait_status(host, name, "up", timeout_s)


def wait_status(host: Host, name: str, wanted: str, timeout_s: float = 10.0) -> None:
    """The agent says `wanted` (empty: nothing) of the endpoint of this workload."""
    part = f"cni-{name.replace('-', '--')}-eth0"
    wait_until(lambda: endpoint_status(host, part) == wanted, timeout_s, f"{name} to be {wanted or 'gone'}", 0.02)


def wait_revision(host: Host, revision: int, timeout_s: float = 10.0) -> None:
    """The kernel of the host enforces everything up to that revision of the datastore."""
    wait_until(
        lambda: metric(host, "felix_applied_revision") >= revision, timeout_s, f"revision {revision} on {host}", 0.02
    )


def cpu_s(pid: int) -> float:
    """Returns the seconds of CPU that a process has used."""
    fields = Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()
    return (int(fields[11]) + int(fields[12])) / _TICKS_PER_S


def log_count(host: Host, text: str) -> int:
    """Returns how many lines of the agent's log contain `text`."""
    return sum(text in line for line in host.agent_log.read_text().splitlines())


# --- Packets ---


class Program:
    """A program that runs inside a place until it is stopped and then says what it saw, as JSON on its last line."""

    def __init__(self, place: Place, arguments: Sequence[str]) -> None:
        command = place.command([sys.executable, "-S", "-E", str(STREAM), *arguments])
        self._process = subprocess.Popen(command, stdout=subprocess.PIPE, text=True)
        assert self._process.stdout is not None
        self._output = self._process.stdout
        if self._output.readline() != "ready\n":
            raise EnvironmentFault(f"{place}: {arguments} did not start")

    def stop(self) -> dict[str, Json]:
        """The program has ended; returns what it said, nothing when it had been stopped before."""
        if self._process.poll() is not None:
            return {}
        self._process.send_signal(signal.SIGTERM)
        said, _ = self._process.communicate(timeout=10)
        answer: dict[str, Json] = json.loads(said)
        return answer


class Tally:
    """What became of streams to one receiver: packets by pair of addresses."""

    def __init__(self, sent: Mapping[str, int], received: Mapping[str, int]) -> None:
        self.sent = dict(sent)
        self.received = dict(received)

    @property
    def lost(self) -> int:
        """How many did not arrive."""
        return sum(self.sent.values()) - sum(self.received.values())


@contextmanager
def stream(source: Place, target: Place, addresses: Sequence[str], port: int, rate: float = 1000.0) -> Iterator[Tally]:
    """While the block runs, `source` sends to each address of `target` at that rate; the tally is filled at its end."""
    tally = Tally({}, {})
    receiver = Program(target, ["receive", str(port)])
    try:
        sender = Program(source, ["send", str(port), str(rate), *addresses])
        try:
            yield tally
        finally:
            sent = sender.stop()["sent"]
    finally:
        received = receiver.stop()["received"]
    assert isinstance(sent, dict)
    assert isinstance(received, dict)
    tally.sent.update({address: int(str(count)) for address, count in sent.items()})
    for address, counted in received.items():
        assert isinstance(counted, list)
        tally.received[address] = int(str(counted[0]))


# --- The way to etcd ---


class Bottleneck:
    """A relay to the lab's etcd inside a host: connections that have brought `limit_bytes` stall, then break off.

    stalls: how many have. After `open` everything passes.
    """

    _STALL_S = 0.3

    def __init__(self, host: Host, lab: Lab, limit_bytes: int) -> None:
        self.stalls = 0
        self._limit_bytes = limit_bytes
        self._is_open = False
        self._fabric = lab.fabric
        self._listener = host.call(lambda: socket.create_server(("127.0.0.1", 0)))
        self.endpoint = f"http://127.0.0.1:{self._listener.getsockname()[1]}"
        self._sockets: list[socket.socket] = [self._listener]
        self._threads = [threading.Thread(target=self._accept)]
        self._threads[0].start()

    def __enter__(self) -> Bottleneck:
        return self

    def __exit__(self, *_: object) -> None:
        for one in self._sockets:
            with suppress(OSError):
                one.shutdown(socket.SHUT_RDWR)
        for thread in self._threads:
            thread.join(timeout=5)
        for one in self._sockets:
            one.close()

    def open(self) -> None:
        """Everything passes from now on, also what stalls."""
        self._is_open = True

    def _accept(self) -> None:
        while True:
            try:
                near, _ = self._listener.accept()
            except OSError:
                return
            far = self._fabric.open(FABRIC_ADDRESS_V4, ETCD_PORT)
            far.settimeout(None)
            self._sockets += [near, far]
            for source, target, limit in ((near, far, 0), (far, near, self._limit_bytes)):
                thread = threading.Thread(target=self._pass, args=(source, target, limit))
                self._threads.append(thread)
                thread.start()

    def _pass(self, source: socket.socket, target: socket.socket, limit_bytes: int) -> None:
        passed = 0
        with suppress(OSError):
            while data := source.recv(4096):
                passed += len(data)
                if limit_bytes and passed > limit_bytes and not self._is_open:
                    time.sleep(self._STALL_S)
                    self.stalls += 1
                    break
                target.sendall(data)
        for one in (source, target):
            with suppress(OSError):
                one.shutdown(socket.SHUT_RDWR)


# --- The kernel, watched ---


class Monitor:
    """`nft monitor` and `ip monitor` inside a host: everything that anybody writes there."""

    def __init__(self, host: Host, directory: Path) -> None:
        self._host = host
        self._marks = 0
        self._nft = directory / f"nft-monitor-{host.name}"
        self._ip = directory / f"ip-monitor-{host.name}"
        self._processes = [
            self._start(["nft", "monitor"], self._nft),
            self._start(["ip", "monitor", "label", "link", "route", "neigh"], self._ip),
        ]
        self._from = (0, 0)
        self.restart()

    def __enter__(self) -> Monitor:
        return self

    def __exit__(self, *_: object) -> None:
        for process in self._processes:
            process.kill()
            process.wait()

    def restart(self) -> None:
        """What was written until now is forgotten."""
        self._mark()
        self._from = (len(self._nft.read_text()), len(self._ip.read_text()))

    def lines(self) -> list[str]:
        """Returns what was written since `restart`, without the kernel's own upkeep of neighbours it found itself."""
        until = self._mark()
        nft = self._nft.read_text()[self._from[0] : until[0]]
        found = self._ip.read_text()[self._from[1] : until[1]]
        written = [line for line in found.splitlines() if line.strip() and not _is_upkeep(line)]
        return [line for line in nft.splitlines() if line.strip() and not line.startswith("# new generation")] + written

    def _mark(self) -> tuple[int, int]:
        """Both monitors have caught up: they show a mark of ours. Returns where the mark begins."""
        self._marks += 1
        table, route = f"mark{self._marks}", f"203.0.113.{self._marks % 250}"
        sizes = len(self._nft.read_text()), len(self._ip.read_text())
        self._host.run(["nft", f"add table ip {table}; delete table ip {table}"])
        self._host.configure(f"route add blackhole {route}", f"route del blackhole {route}")
        return (
            _wait_mark(self._nft, sizes[0], f"add table ip {table}", "# new generation"),
            _wait_mark(self._ip, sizes[1], f"[ROUTE]blackhole {route}", f"[ROUTE]Deleted blackhole {route}"),
        )

    def _start(self, command: Sequence[str], output: Path) -> subprocess.Popen[bytes]:
        with output.open("wb") as file:
            process = subprocess.Popen(self._host.command(["stdbuf", "-oL", *command]), stdout=file)
        self._host.run(["true"])
        return process


def _wait_mark(path: Path, size: int, first: str, last: str) -> int:
    """Returns where `first` begins in the file, not before `size`, once `last` follows it."""
    wait_until(lambda: last in path.read_text()[size:].partition(first)[2], 20.0, f"{first!r} in {path}")
    return path.read_text().index(first, size)


def _is_upkeep(line: str) -> bool:
    """Whether the kernel wrote it by itself: a neighbour's entry that nobody made permanent."""
    return line.startswith("[NEIGH]") and "PERMANENT" not in line
