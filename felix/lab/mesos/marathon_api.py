"""What the simulated Marathon answers, as JSON of Marathon's version 2. Pure."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from datetime import UTC, datetime

import msgspec

from felix.lab.checks import Health, judge
from felix.lab.marathon import Node
from felix.lab.mesos.state import Document, Json
from felix.lab.mesos.types import Container


@dataclass(frozen=True, slots=True)
class Instance:
    """A task, the address of its host, and what became of its health checks."""

    container: Container
    host: str
    checks: tuple[Health, ...] = ()


@dataclass(frozen=True, slots=True)
class AppState:
    """One application: as it was given, what of it runs, how many instances wait, and since when it is as it is."""

    path: str
    definition: Node
    instances: tuple[Instance, ...]
    waiting: int
    version: float


def render_app(app: AppState, deployments: Sequence[str]) -> Document:
    """Returns the application as it was given, and what of it runs."""
    tasks: list[Json] = [render_task(one, app.version) for one in app.instances]
    health = [judge(one.checks) for one in app.instances]
    running = sum(one.container.state == "TASK_RUNNING" for one in app.instances)
    return {
        **plain(app.definition),
        "id": f"/{app.path}",
        "version": moment(app.version),
        "tasksRunning": running,
        "tasksStaged": len(app.instances) - running + app.waiting,
        "tasksHealthy": health.count(True),
        "tasksUnhealthy": health.count(False),
        "deployments": [{"id": one} for one in deployments],
        "tasks": tasks,
    }


def render_task(instance: Instance, version: float) -> Document:
    """Returns one task."""
    container = instance.container
    began = container.statuses[0].timestamp if container.statuses else 0.0
    document: Document = {
        "id": container.task.task_id,
        "name": container.task.name,
        "appId": f"/{app_path(container)}",
        "host": instance.host,
        "slaveId": container.statuses[-1].slave_id if container.statuses else "",
        "state": container.state,
        "ports": list(container.task.resources.ports),
        "ipAddresses": render_addresses(container),
        "groups": [group for info in container.task.network_infos for group in info.groups],
        "startedAt": moment(began) if began else None,
        "version": moment(version),
    }
    if instance.checks:
        document["healthCheckResults"] = [_render_check(one, container.task.task_id) for one in instance.checks]
    return document


def render_addresses(container: Container) -> list[Json]:
    """Returns the addresses of a task, its own or its host's."""
    addresses = container.statuses[-1].addresses if container.statuses else ()
    return [{"ipAddress": one, "protocol": "IPv6" if ":" in one else "IPv4"} for one in addresses]


def render_group(path: str, apps: Mapping[str, Document], version: float) -> Document:
    """Returns a group with all groups and applications below it. apps: by path without leading slash."""
    below = {name: app for name, app in apps.items() if is_below(name, path)}
    depth = len(path.split("/")) if path else 0
    children = sorted({"/".join(name.split("/")[: depth + 1]) for name in below if len(name.split("/")) > depth + 1})
    own: list[Json] = [app for name, app in below.items() if len(name.split("/")) == depth + 1]
    groups: list[Json] = [render_group(child, below, version) for child in children]
    return {"id": f"/{path}", "version": moment(version), "apps": own, "groups": groups, "dependencies": []}


def is_below(name: str, path: str) -> bool:
    """Whether an application is in a group; every one is in the group without a name."""
    return not path or name.startswith(f"{path}/")


def app_path(container: Container) -> str:
    """Returns the path of the application of a task: what Marathon told it in its environment."""
    return container.task.environment.get("MARATHON_APP_ID", "").strip("/") or container.task.source


def moment(seconds: float) -> str:
    """Returns a moment as Marathon writes it."""
    return datetime.fromtimestamp(seconds, UTC).isoformat(timespec="milliseconds").replace("+00:00", "Z")


def plain(value: object) -> Document:
    """Returns an object as JSON has it."""
    built: Document = msgspec.json.decode(msgspec.json.encode(value))
    return built


def _render_check(result: Health, task_id: str) -> Document:
    return {
        "taskId": task_id,
        "alive": bool(result.is_alive),
        "consecutiveFailures": result.failures,
        "firstSuccess": moment(result.first_success) if result.first_success else None,
        "lastSuccess": moment(result.last_success) if result.last_success else None,
        "lastFailure": moment(result.last_failure) if result.last_failure else None,
        "lastFailureCause": result.cause or None,
    }
