"""What a Mesos master's state says, as far as names need it. One bad task does not spoil the others.

Fields are those of `/master/state` (before 2018 `/master/state.json`); everything else in it is skipped unread.
"""

from __future__ import annotations

from collections.abc import Iterator
from typing import NamedTuple

import msgspec

from felix.dns.names import normalize_address
from felix.errors import Problem, shorten

PORTS_LIMIT = 1024
_RUNNING = "TASK_RUNNING"
_LABEL_BY_SOURCE = {
    "docker": "Docker.NetworkSettings.IPAddress",
    "mesos": "MesosContainerizer.NetworkSettings.IPAddress",
}


class BadState(ValueError):
    """What a master answered is no state; nothing of it was used."""


class _Label(msgspec.Struct):
    key: str = ""
    value: str | None = ""


class _Address(msgspec.Struct):
    ip_address: str | None = ""


class _NetworkInfo(msgspec.Struct):
    ip_addresses: list[_Address] | None = None
    ip_address: str | None = ""


class _ContainerStatus(msgspec.Struct):
    network_infos: list[_NetworkInfo] | None = None


class _Status(msgspec.Struct):
    state: str = ""
    timestamp: float = 0.0
    labels: list[_Label] | None = None
    container_status: _ContainerStatus | None = None


class DiscoveryPort(msgspec.Struct):
    """One port of a DiscoveryInfo."""

    number: int = 0
    name: str | None = ""
    protocol: str | None = ""


class _DiscoveryPorts(msgspec.Struct):
    ports: list[DiscoveryPort] | None = None


class _Discovery(msgspec.Struct):
    name: str | None = ""
    ports: _DiscoveryPorts | None = None


class _Resources(msgspec.Struct):
    ports: str | None = ""


class Task(msgspec.Struct):
    """One task of a framework."""

    id: str = ""
    name: str = ""
    slave_id: str = ""
    state: str = ""
    resources: _Resources | None = None
    discovery: _Discovery | None = None
    statuses: list[_Status] | None = None

    @property
    def is_running(self) -> bool:
        """Whether the task counts; health does not matter."""
        return self.state == _RUNNING

    @property
    def discovery_name(self) -> str:
        """The name of its DiscoveryInfo; empty without one."""
        return (self.discovery and self.discovery.name) or ""

    @property
    def discovery_ports(self) -> list[DiscoveryPort]:
        """The ports of its DiscoveryInfo that can be ports."""
        ports = (self.discovery and self.discovery.ports and self.discovery.ports.ports) or []
        return [port for port in ports if 0 <= port.number <= 65535]

    @property
    def ports(self) -> list[int]:
        """The ports of its resources."""
        return parse_ranges((self.resources and self.resources.ports) or "")

    def find_addresses(self, sources: tuple[str, ...], agent: tuple[str, ...]) -> tuple[str, ...]:
        """Returns all addresses of the first source that has one. agent: addresses of the host it runs on."""
        newest = max(
            (status for status in self.statuses or () if status.state == _RUNNING),
            key=lambda status: status.timestamp,
            default=None,
        )
        for source in sources:
            texts = agent if source == "host" else _iterate_addresses(source, newest) if newest else ()
            found = tuple(dict.fromkeys(address for text in texts if (address := normalize_address(text))))
            if found:
                return found
        return ()


class Agent(msgspec.Struct):
    """One agent (slave)."""

    id: str = ""
    hostname: str | None = ""
    pid: str | None = ""

    @property
    def place(self) -> Place:
        """Where it listens."""
        return parse_pid(self.pid or "") or Place(self.hostname or "", 0)


class _Framework(msgspec.Struct):
    id: str = ""
    name: str = ""
    hostname: str | None = ""
    pid: str | None = ""
    tasks: list[msgspec.Raw] | None = None


class Framework(NamedTuple):
    """One framework. tasks: their JSON, not read yet. host: of its scheduler, port 0 when not known."""

    id: str
    name: str
    host: Place
    tasks: tuple[bytes, ...]


class State(NamedTuple):
    """A master's state. leader: where the leading master listens. problems: what of it cannot be used."""

    leader: Place
    agents: tuple[Agent, ...]
    frameworks: tuple[Framework, ...]
    problems: tuple[Problem, ...]


class Place(NamedTuple):
    """Host and port; port 0 when it is not known."""

    host: str
    port: int


class _Top(msgspec.Struct):
    leader: str | None = ""
    slaves: list[msgspec.Raw] | None = None
    frameworks: list[msgspec.Raw] | None = None


_TOP = msgspec.json.Decoder(_Top)
_AGENT = msgspec.json.Decoder(Agent)
_FRAMEWORK = msgspec.json.Decoder(_Framework)
_TASK = msgspec.json.Decoder(Task)


def read_state(body: bytes) -> State:
    """Returns the state. Raises BadState when it is none, or when it names no leader, as masters do that follow."""
    try:
        top = _TOP.decode(body)
    except (ValueError, RecursionError) as error:
        raise BadState(f"no state of a Mesos master: {shorten(str(error))}") from error
    leader = parse_pid(top.leader or "")
    if leader is None:
        raise BadState(f"names no leading master (leader: {shorten(top.leader or '', 60)!r})")
    problems: list[Problem] = []
    agents = []
    for raw in top.slaves or ():
        try:
            agents.append(_AGENT.decode(raw))
        except (ValueError, RecursionError) as error:
            problems.append(_problem("slaves", raw, error))
    frameworks = []
    for raw in top.frameworks or ():
        try:
            one = _FRAMEWORK.decode(raw)
        except (ValueError, RecursionError) as error:
            problems.append(_problem("frameworks", raw, error))
            continue
        host = parse_pid(one.pid or "") or Place(one.hostname or "", 0)
        frameworks.append(Framework(one.id, one.name, host, tuple(bytes(task) for task in one.tasks or ())))
    return State(leader, tuple(agents), tuple(frameworks), tuple(problems))


def read_task(raw: bytes) -> Task | Problem:
    """Returns one task of a framework, or why it cannot be used."""
    try:
        return _TASK.decode(raw)
    except (ValueError, RecursionError) as error:
        return _problem("tasks", raw, error)


def parse_pid(text: str) -> Place | None:
    """Returns where `name@host:port` listens, IPv6 addresses in brackets; None when it is nothing of the kind."""
    _, mark, place = text.rpartition("@")
    return parse_place(place) if mark else None


def parse_place(text: str) -> Place | None:
    """Returns host and port of `host:port`, IPv6 addresses in brackets; None when it is nothing of the kind."""
    host, colon, port = text.strip().rpartition(":")
    host = host.removeprefix("[").removesuffix("]")
    if not colon or not host or not port.isascii() or not port.isdecimal() or not 0 < int(port) < 65536:
        return None
    return Place(host, int(port))


def parse_ranges(text: str) -> list[int]:
    """Returns the ports of `[9000-9000, 31000-31001]`, at most 1024; what cannot be read of it is left out."""
    ports: list[int] = []
    for part in text.strip().removeprefix("[").removesuffix("]").split(","):
        low, _, high = (end.strip() for end in part.partition("-"))
        if not (low.isascii() and low.isdecimal() and high.isascii() and high.isdecimal()):
            continue
        last = min(int(high), 65535, int(low) + PORTS_LIMIT - 1 - len(ports))
        ports += range(int(low), last + 1)
    return ports


def _iterate_addresses(source: str, status: _Status) -> Iterator[str]:
    if source == "netinfo":
        for info in (status.container_status and status.container_status.network_infos) or ():
            if info.ip_addresses:
                yield from (one.ip_address or "" for one in info.ip_addresses)
            else:
                yield info.ip_address or ""
        return
    wanted = _LABEL_BY_SOURCE[source]
    yield from (label.value or "" for label in status.labels or () if label.key == wanted)


def _problem(what: str, raw: bytes | msgspec.Raw, error: Exception) -> Problem:
    return Problem(f"state.{what}", "", shorten(bytes(raw)[:200].decode("utf-8", "replace")), shorten(str(error)))
