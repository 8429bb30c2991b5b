"""Where benchmarks run: a network namespace of their own with etcd, one agent, and the interfaces of its workloads.

The process is inside that namespace from its start (`python -m tests.bench` sees to it), and the other ends of the
interfaces are in namespaces that live as long as a sleeping process: nothing is left behind, whatever happens.
"""

from __future__ import annotations

import asyncio
import os
import re
import shutil
import signal
import socket
import subprocess
import sys
import tempfile
import time
from collections.abc import AsyncIterator, Iterable, Iterator, Sequence
from contextlib import asynccontextmanager, suppress
from pathlib import Path
from urllib.request import ProxyHandler, build_opener

from felix.datastore.etcd import EtcdClient
from felix.datastore.load import EtcdSettings
from felix.datastore.types import PutOp
from tests.bench.world import HOST
from tests.support.etcd import EtcdServer

_KEYS_PER_TRANSACTION = 100
_TRANSACTIONS_AT_ONCE = 4
_MEMORY = Path("/dev/shm")
_UPLINK = (  # a host has a way out; without one the kernel answers no ARP request on behalf of others
    "link add uplink type ifb",
    "link set uplink up",
    "addr add 192.0.2.1/24 dev uplink",
    "route add default via 192.0.2.254 dev uplink",
)
_SAMPLE = re.compile(r"^(\w+)(\{[^}]*\})? (\S+)$", re.MULTILINE)


class Agent:
    """One started agent. ready_s: from its start to its saying that it is ready. status: what it said then."""

    def __init__(self, process: subprocess.Popen[bytes], started_at: float) -> None:
        self.process = process
        self.started_at = started_at
        self.ready_s = float("nan")
        self.status = ""

    @property
    def rss_mb(self) -> float:
        """Resident memory at present, in MB (1 000 000 bytes)."""
        return self._memory_kb("VmRSS") * 1024 / 1e6

    @property
    def peak_rss_mb(self) -> float:
        """The most resident memory so far, in MB."""
        return self._memory_kb("VmHWM") * 1024 / 1e6

    @property
    def cpu_s(self) -> float:
        """Processor time used so far, of all threads, in seconds."""
        fields = Path(f"/proc/{self.process.pid}/stat").read_text().rpartition(")")[2].split()
        return (int(fields[11]) + int(fields[12])) / os.sysconf("SC_CLK_TCK")

    def kernel_writes(self) -> dict[str, float]:
        """Returns the agent's own count of operations that changed the kernel, by family."""
        return self.read_samples("felix_kernel_writes")

    def read_samples(self, wanted: str) -> dict[str, float]:
        """Returns a metric of the agent, by its labels as they are written."""
        opener = build_opener(ProxyHandler({}))
        with opener.open("http://127.0.0.1:9091/metrics", timeout=10) as page:
            text = page.read().decode()
        samples = (match.groups() for match in _SAMPLE.finditer(text))
        return {labels: float(value) for name, labels, value in samples if name == wanted}

    def stop(self, number: int = signal.SIGTERM) -> None:
        """The agent has ended."""
        self.process.send_signal(number)
        try:
            self.process.wait(20)
        except subprocess.TimeoutExpired:
            self.process.kill()
            self.process.wait()

    def _memory_kb(self, name: str) -> int:
        text = Path(f"/proc/{self.process.pid}/status").read_text()
        return int(text.split(f"{name}:")[1].split()[0])


class Arena:
    """The parts; `opened` makes one. directory: logs, sockets and files of the agent."""

    def __init__(self, server: EtcdServer, client: EtcdClient, directory: Path, profile: Path | None) -> None:
        self.server = server
        self.client = client
        self.directory = directory
        self._profile = profile
        self._runs = 0
        self._holders: list[subprocess.Popen[bytes]] = []
        self._started: list[subprocess.Popen[str]] = []
        self._interfaces_count = 0
        self.agent: Agent | None = None

    def add_interfaces(self, count: int) -> None:
        """That many pairs of veth devices cali0, cali1, … are up, their other ends in one namespace beside."""
        holder = self.hold_namespace()
        first, self._interfaces_count = self._interfaces_count, self._interfaces_count + count
        numbers = range(first, first + count)
        run_batch(
            command
            for number in numbers
            for command in (
                f"link add cali{number} type veth peer name w{number} netns {holder}",
                f"link set cali{number} up",
            )
        )
        inside = "".join(f"link set w{number} up\n" for number in numbers)
        _run(["nsenter", "-t", str(holder), "-n", "ip", "-batch", "-"], inside)

    def hold_namespace(self) -> int:
        """Returns the id of a process that does nothing in a fresh network namespace, until the arena is closed."""
        command = ["setpriv", "--pdeathsig", "KILL", "unshare", "--net", "sleep", "infinity"]
        holder = subprocess.Popen(command, stdin=subprocess.DEVNULL)
        self._holders.append(holder)
        own = os.stat("/proc/self/ns/net").st_ino
        deadline = time.monotonic() + 5
        while os.stat(f"/proc/{holder.pid}/ns/net").st_ino == own:
            assert time.monotonic() < deadline, "unshare made no namespace"
            time.sleep(0.002)
        return holder.pid

    def attach(self, interface: str, address: str) -> int:
        """`interface` is made anew with its other end, which has `address`, in a namespace of its own.

        Returns the id of a process in that namespace.
        """
        holder = self.hold_namespace()
        run_batch(
            [
                f"link delete {interface}",
                f"link add {interface} type veth peer name eth0 netns {holder}",
                f"link set {interface} up",
            ]
        )
        inside = [
            "link set eth0 up",
            f"addr add {address}/32 dev eth0",
            "route add 169.254.1.1 dev eth0",
            "route add default via 169.254.1.1 dev eth0",
        ]
        _run(["nsenter", "-t", str(holder), "-n", "ip", "-batch", "-"], "".join(f"{line}\n" for line in inside))
        return holder

    def start(self, module: Sequence[str]) -> subprocess.Popen[str]:
        """Returns a started Python module, to be talked to; it ends with the arena at the latest."""
        command = ["setpriv", "--pdeathsig", "KILL", sys.executable, "-m", *module]
        started = subprocess.Popen(command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True)
        self._started.append(started)
        return started

    async def store(self, documents: Iterator[tuple[str, bytes]]) -> int:
        """Everything is in etcd; returns how many keys."""
        free = asyncio.Semaphore(_TRANSACTIONS_AT_ONCE)

        async def write(part: Sequence[tuple[str, bytes]]) -> None:
            async with free:
                await self.client.txn((), [PutOp(key, value) for key, value in part])

        count = 0
        async with asyncio.TaskGroup() as group:
            part: list[tuple[str, bytes]] = []
            size = 0
            for key, value in documents:
                if part and (len(part) == _KEYS_PER_TRANSACTION or size + len(value) > 500_000):
                    group.create_task(write(part))
                    part, size = [], 0
                part.append((key, value))
                size += len(value)
                count += 1
            group.create_task(write(part))
        return count

    async def start_agent(self, timeout_s: float = 120.0) -> Agent:
        """An agent has been started and has said that it is ready. Raises AssertionError with its log otherwise."""
        path = self.directory / "notify"
        path.unlink(missing_ok=True)
        with socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM) as notices:
            notices.bind(str(path))
            notices.setblocking(False)
            agent = self.agent = self._spawn(path)
            loop = asyncio.get_running_loop()
            try:
                async with asyncio.timeout(timeout_s):
                    while not agent.status:
                        assert agent.process.poll() is None, f"the agent has ended: {self.read_log()}"
                        with suppress(TimeoutError):
                            text = (await asyncio.wait_for(loop.sock_recv(notices, 4096), 1.0)).decode()
                            if "READY=1" in text:
                                agent.ready_s = time.perf_counter() - agent.started_at
                                agent.status = text.partition("STATUS=")[2]
            except TimeoutError as error:
                raise AssertionError(f"the agent does not get ready: {self.read_log()}") from error
        return agent

    def stop_agent(self, number: int = signal.SIGTERM) -> None:
        """No agent runs; what it made stays in the kernel."""
        if self.agent is not None:
            self.agent.stop(number)
            self.agent = None

    def read_log(self) -> str:
        """Returns the end of what the agents of this arena said."""
        return (self.directory / "agent.log").read_text(errors="replace")[-3000:]

    def wipe_kernel(self) -> None:
        """Nothing that an agent made is in the kernel, except settings of interfaces."""
        _run(["nft", "-f", "-"], "add table inet felix\ndelete table inet felix\n")
        _run(["ip", "route", "flush", "table", "main", "proto", "80"], "")

    async def close(self) -> None:
        """Every process is gone, and with them every namespace; so are the files."""
        if self.agent is not None:
            self.agent.process.kill()
            self.agent.process.wait()
        await self.client.close()
        self.server.remove()
        for holder in self._holders:
            holder.kill()
            holder.wait()
        for started in self._started:
            started.kill()
            started.wait()
        shutil.rmtree(self.directory, ignore_errors=True)

    def _spawn(self, notices: Path) -> Agent:
        self._runs += 1
        command = ["setpriv", "--pdeathsig", "KILL", sys.executable]
        if self._profile is not None:
            command += ["-m", "cProfile", "-o", str(self._profile / f"agent-{os.getpid()}-{self._runs}.prof")]
        command += ["-m", "felix", "run"]
        for name in ("run", "state", "bird", "status"):
            (self.directory / name).mkdir(exist_ok=True)
        settings = {
            "FELIX_FELIXHOSTNAME": HOST,
            "FELIX_DATASTORETYPE": "etcdv3",
            "FELIX_ETCDENDPOINTS": self.server.endpoint,
            "FELIX_RUNDIR": str(self.directory / "run"),
            "FELIX_STATEDIR": str(self.directory / "state"),
            "FELIX_BIRDCONFIGDIR": str(self.directory / "bird"),
            "FELIX_BIRDCONTROLSOCKET": str(self.directory / "bird.ctl"),
            "FELIX_ENDPOINTSTATUSPATHPREFIX": str(self.directory / "status"),
            "FELIX_PROMETHEUSMETRICSENABLED": "true",
            "FELIX_HEALTHENABLED": "true",
            "NOTIFY_SOCKET": str(notices),
        }
        with (self.directory / "agent.log").open("ab") as log:
            started_at = time.perf_counter()
            process = subprocess.Popen(
                command, env={**os.environ, **settings}, stdin=subprocess.DEVNULL, stdout=log, stderr=log
            )
        return Agent(process, started_at)


@asynccontextmanager
async def opened(interfaces: int, profile: Path | None = None, *, is_on_disk: bool = False) -> AsyncIterator[Arena]:
    """Gives an arena with that many interfaces; gone afterwards. is_on_disk: where etcd keeps its data."""
    server = EtcdServer("--quota-backend-bytes=4294967296", "--max-request-bytes=16777216")
    if not is_on_disk and os.access(_MEMORY, os.W_OK):
        shutil.rmtree(server.directory, ignore_errors=True)
        server.directory = Path(tempfile.mkdtemp(prefix="felix-bench-etcd-", dir=_MEMORY))
    server.start()
    client = EtcdClient(EtcdSettings((server.endpoint,)))
    arena = Arena(server, client, Path(tempfile.mkdtemp(prefix="felix-bench-")), profile)
    try:
        arena.wipe_kernel()
        run_batch(_UPLINK)
        arena.add_interfaces(interfaces)
        yield arena
    finally:
        await arena.close()
        with suppress(OSError):
            run_batch(["link delete uplink", *(f"link delete cali{number}" for number in range(interfaces))])


def run_batch(commands: Iterable[str]) -> None:
    """The `ip` commands have run, all that could."""
    _run(["ip", "-force", "-batch", "-"], "".join(f"{command}\n" for command in commands))


def _run(command: Sequence[str], text: str) -> None:
    subprocess.run(command, input=text.encode(), check=False, capture_output=True)
