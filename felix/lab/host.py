"""A virtual host: a namespace on the fabric with an agent and a BIRD of its own. Shell."""

from __future__ import annotations

import signal
import sys
from collections.abc import Mapping, Sequence
from pathlib import Path

from felix.errors import PeerError
from felix.lab import process
from felix.lab.names import ETCD_PORT, FABRIC_ADDRESS_V4, HostAddresses
from felix.lab.place import Place, wait_until
from felix.lab.state import StateDirectory

AGENT_COMMAND = (sys.executable, "-m", "felix", "run")
HEALTH_PORT = 9099
METRICS_PORT = 9091
_LAST_WORDS = 8  # lines of a log

_BOOTSTRAP = """\
# What BIRD starts with until the agent has rendered its configuration.
log stderr all;
router id {router_id};
protocol device {{ }}
"""


class Host(Place):
    """One virtual host. Its directories lie in the lab's: `run`, `state`, `bird`, `status`, and its programs' logs."""

    def __init__(self, namespace: str, addresses: HostAddresses, state: StateDirectory) -> None:
        self.addresses = addresses
        self.directory = state.path / addresses.name
        self.rundir = self.directory / "run"
        self.bird_config = self.directory / "bird" / "bird.conf"
        self.bird_socket = self.directory / "bird.ctl"
        self.agent_log = self.directory / "agent.log"
        self.bird_log = self.directory / "bird.log"
        self._state = state
        super().__init__(addresses.name, namespace, state.path / "responder.ctl", self._settings())

    @property
    def ipv4(self) -> str:
        """The host's address on the fabric."""
        return self.addresses.ipv4

    @property
    def ipv6(self) -> str:
        """The host's IPv6 address on the fabric."""
        return self.addresses.ipv6

    def prepare(self) -> None:
        """The host's directories exist, and a configuration with which BIRD can start."""
        for name in ("run", "state", "bird", "status"):
            (self.directory / name).mkdir(parents=True, exist_ok=True)
        self.bird_config.write_text(_BOOTSTRAP.format(router_id=self.ipv4))

    def start_agent(self, command: Sequence[str] = AGENT_COMMAND, environment: Mapping[str, str] | None = None) -> None:
        """The agent's program has been started (it need not be ready). Nothing happens when it runs already."""
        self._start("agent", command, self.agent_log, environment)

    def stop_agent(self, number: int = signal.SIGTERM, timeout_s: float = 10.0) -> bool:
        """The agent does not run. Returns False when the signal did not end it and it was killed."""
        return self._stop("agent", number, timeout_s)

    def start_bird(self) -> None:
        """BIRD runs with what the agent rendered last, or the bootstrap, and answers on its control socket."""
        command = ["bird", "-f", "-R", "-c", str(self.bird_config), "-s", str(self.bird_socket)]
        if not self.is_running("bird"):
            self.bird_socket.unlink(missing_ok=True)
        self._start("bird", command, self.bird_log, None)
        wait_until(self.bird_socket.exists, 5.0, f"BIRD's control socket {self.bird_socket}; see {self.bird_log}")

    def stop_bird(self, number: int = signal.SIGTERM, timeout_s: float = 10.0) -> bool:
        """BIRD does not run. Returns False when the signal did not end it and it was killed."""
        return self._stop("bird", number, timeout_s)

    def send_signal(self, role: str, number: int) -> None:
        """The program (`agent` or `bird`) has been sent a signal, such as SIGSTOP; nothing when it does not run."""
        record = self._state.read().processes.get(f"{role}@{self.name}")
        if record:
            process.send_signal(record, number)

    def is_running(self, role: str) -> bool:
        """Whether this host's `agent` or `bird` runs."""
        record = self._state.read().processes.get(f"{role}@{self.name}")
        return record is not None and process.is_running(record)

    def find_pid(self, role: str) -> int | None:
        """Returns the process id of this host's `agent` or `bird`, None when it does not run."""
        record = self._state.read().processes.get(f"{role}@{self.name}")
        return record.pid if record and process.is_running(record) else None

    def is_agent_ready(self) -> bool:
        """Whether the agent's /readiness says yes."""
        return self.http_get(HEALTH_PORT, "/readiness")[0] // 100 == 2

    def wait_agent_ready(self, timeout_s: float = 15.0) -> None:
        """The agent's /readiness says yes; raises PeerError with its last words after `timeout_s`."""
        try:
            wait_until(self.is_agent_ready, timeout_s, f"the agent of {self.name} to be ready", 0.05)
        except PeerError as error:
            # The log goes with the lab, and a demonstration that fails takes the lab away.
            said = self.agent_log.read_text(errors="replace").splitlines() if self.agent_log.exists() else []
            words = "\n  ".join(said[-_LAST_WORDS:]) or "nothing"
            raise PeerError(f"{error}; {self.agent_log} says last:\n  {words}") from error

    def metrics(self) -> str:
        """Returns the agent's metrics page."""
        return self.http_get(METRICS_PORT, "/metrics")[1]

    def birdc(self, *words: str) -> str:
        """Returns what BIRD answers to a command."""
        return self.run(["birdc", "-s", str(self.bird_socket), *words]).stdout

    def _start(self, role: str, command: Sequence[str], log: Path, extra: Mapping[str, str] | None) -> None:
        if self.is_running(role):
            return
        record = process.spawn(role, self.command(command), self.program_environment(extra), log, self.directory)
        with self._state.change() as state:
            state.processes[f"{role}@{self.name}"] = record

    def _stop(self, role: str, number: int, timeout_s: float) -> bool:
        record = self._state.read().processes.get(f"{role}@{self.name}")
        ended = process.stop(record, number, timeout_s) if record else True
        with self._state.change() as state:
            state.processes.pop(f"{role}@{self.name}", None)
        return ended

    def _settings(self) -> dict[str, str]:
        endpoint = f"http://{FABRIC_ADDRESS_V4}:{ETCD_PORT}"
        # Hosts in different subnets are joined by tunnels: there is no BIRD to wait for.
        bird_socket = "none" if self._state.read().is_apart else str(self.bird_socket)
        return {
            "FELIX_FELIXHOSTNAME": self.addresses.name,
            "FELIX_DATASTORETYPE": "etcdv3",
            "FELIX_ETCDENDPOINTS": endpoint,
            "FELIX_RUNDIR": str(self.rundir),
            "FELIX_STATEDIR": str(self.directory / "state"),
            "FELIX_BIRDCONFIGDIR": str(self.bird_config.parent),
            "FELIX_BIRDCONTROLSOCKET": bird_socket,
            "FELIX_ENDPOINTSTATUSPATHPREFIX": str(self.directory / "status"),
            "FELIX_PROMETHEUSMETRICSENABLED": "true",
            "FELIX_HEALTHENABLED": "true",
            "DATASTORE_TYPE": "etcdv3",
            "ETCD_ENDPOINTS": endpoint,
        }
