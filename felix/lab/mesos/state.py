"""What Mesos' master says of a cluster at `/master/state`, from the simulated agents. Pure.

The fields are those that readers of that page need, Mesos-DNS above all: leader, slaves, frameworks with tasks, of each
task its state, resources, discovery, what it asked of the network, and its statuses with the addresses it got.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from types import MappingProxyType

import msgspec

from felix.lab.mesos.types import Container, DiscoveryInfo, Resources

Json = None | bool | int | float | str | list["Json"] | dict[str, "Json"]
Document = dict[str, Json]

MASTER_PORT = 5050
VERSION = "1.11.0-felix-simulator"


class Slave(msgspec.Struct, frozen=True):
    """An agent as its master knows it. pid: `slave(1)@address:port`."""

    id: str
    hostname: str
    pid: str
    resources: Resources
    ports: tuple[int, int]


class Framework(msgspec.Struct, frozen=True):
    """A framework as its master knows it. pid: `scheduler@address:port`."""

    id: str
    name: str
    hostname: str
    pid: str


def render_state(
    master: str,
    slaves: Sequence[Slave],
    frameworks: Sequence[Framework],
    containers: Iterable[Container],
    health_by_task: Mapping[str, bool] = MappingProxyType({}),
) -> Document:
    """Returns the whole state as JSON says it. master: its address. containers: of all agents, oldest first.

    health_by_task: by task id, whether its health checks say that it is well; nothing is said of others.
    """
    listed = list(containers)
    return {
        "version": VERSION,
        "simulator": "felix lab mesos: no real Mesos master",
        "id": "felix-lab-simulator",
        "pid": f"master@{master}:{MASTER_PORT}",
        "leader": f"master@{master}:{MASTER_PORT}",
        "hostname": master,
        "slaves": [_slave(slave) for slave in slaves],
        "frameworks": [_framework(framework, listed, health_by_task) for framework in frameworks],
        "completed_frameworks": [],
        "orphan_tasks": [],
    }


def render_ports(ports: Sequence[int]) -> str:
    """Returns ports as a resource says them: `[9000-9001, 31000-31000]`."""
    ranges: list[list[int]] = []
    for port in sorted(ports):
        if ranges and ranges[-1][1] + 1 == port:
            ranges[-1][1] = port
        else:
            ranges.append([port, port])
    return "[" + ", ".join(f"{first}-{last}" for first, last in ranges) + "]"


def render_task(container: Container, is_healthy: bool | None = None) -> Document:
    """Returns one task with its statuses. is_healthy: None when nobody knows."""
    task = container.task
    document: Document = {
        "id": task.task_id,
        "name": task.name,
        "framework_id": container.framework_id,
        "executor_id": task.executor_id if task.executor else "",
        "slave_id": container.statuses[-1].slave_id if container.statuses else "",
        "state": container.state,
        "resources": _resources(task.resources.cpus, task.resources.mem, render_ports(task.resources.ports)),
        "statuses": [_status(status) for status in container.statuses],
        "labels": _plain(task.labels.labels),
        "container": {"type": "MESOS", "network_infos": _plain(task.network_infos)},
    }
    if task.discovery:
        document["discovery"] = _discovery(task.discovery)
    if task.source:
        document["source"] = task.source
    statuses = document["statuses"]
    if is_healthy is not None and isinstance(statuses, list) and statuses and isinstance(statuses[-1], dict):
        statuses[-1]["healthy"] = is_healthy
    return document


def _framework(framework: Framework, containers: Sequence[Container], health: Mapping[str, bool]) -> Document:
    own = [one for one in containers if one.framework_id == framework.id]
    ended = [one for one in own if one.statuses and one.statuses[-1].is_terminal]
    return {
        "id": framework.id,
        "name": framework.name,
        "hostname": framework.hostname,
        "pid": framework.pid,
        "active": True,
        "tasks": [render_task(one, health.get(one.task.task_id)) for one in own if one not in ended and one.statuses],
        "completed_tasks": [render_task(one) for one in ended],
    }


def _slave(slave: Slave) -> Document:
    first, last = slave.ports
    return {
        "id": slave.id,
        "hostname": slave.hostname,
        "pid": slave.pid,
        "active": True,
        "resources": _resources(slave.resources.cpus, slave.resources.mem, f"[{first}-{last}]"),
    }


def _discovery(discovery: DiscoveryInfo) -> Document:
    ports: list[Json] = [
        {"number": port.number, "name": port.name, "protocol": port.protocol} for port in discovery.ports.ports
    ]
    return {"visibility": discovery.visibility, "name": discovery.name, "ports": {"ports": ports}}


def _resources(cpus: float, mem: float, ports: str) -> Document:
    document: Document = {"cpus": cpus, "mem": mem}
    if ports != "[]":
        document["ports"] = ports
    return document


def _status(status: msgspec.Struct) -> Document:
    document = _object(status)
    for name in ("task_id", "slave_id"):
        del document[name]
    return document


def _object(value: msgspec.Struct) -> Document:
    document = _plain(value)
    assert isinstance(document, dict)
    return document


def _plain(value: object) -> Json:
    built: Json = msgspec.json.decode(msgspec.json.encode(value))
    return built
