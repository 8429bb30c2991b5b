"""What tests of the simulated Mesos share: plug-ins that fail to order, tasks to run, and what is left on a host."""

from __future__ import annotations

import json
import sys
import uuid
from collections.abc import Sequence
from pathlib import Path

from felix.lab.host import Host
from felix.lab.lab import Lab
from felix.lab.mesos.containers import find_marked
from felix.lab.mesos.types import (
    ContainerInfo,
    ExecutorInfo,
    IpAddress,
    NetworkInfo,
    Resources,
    TaskInfo,
)
from felix.lab.namespace import list_namespaces

PLUG_IN = Path(__file__).with_name("mesos_plugin.py")


class PlugIn:
    """A plug-in that notes its calls and fails to order. real: the program that does its work, empty for itself."""

    def __init__(self, directory: Path, real: Sequence[str] = ()) -> None:
        directory.mkdir(parents=True, exist_ok=True)
        self.directory = directory
        self.command = (sys.executable, "-S", "-E", str(PLUG_IN), str(directory), *real)

    def fail(self, verb: str, act: str, when: str = "before", times: int = 1) -> None:
        """The next calls of the verb fail."""
        fault = {"verb": verb, "act": act, "when": when, "times": times}
        (self.directory / "faults.json").write_text(json.dumps(fault))

    def heal(self) -> None:
        """No call fails any more."""
        (self.directory / "faults.json").unlink(missing_ok=True)

    def calls(self) -> list[dict[str, object]]:
        """Returns all requests since `forget`, in order."""
        return [json.loads(raw) for raw in self.raw()]

    def verbs(self) -> list[str]:
        """Returns the verbs of all requests since `forget`, in order."""
        return [str(request["command"]) for request in self.calls()]

    def raw(self) -> list[str]:
        """Returns all requests since `forget` as they were sent."""
        path = self.directory / "calls.jsonl"
        return [json.loads(line) for line in path.read_text().splitlines()] if path.exists() else []

    def has_overlapped(self) -> bool:
        """Whether two calls ever ran at the same time."""
        return (self.directory / "overlap").exists()

    def forget(self) -> None:
        """No call has been noted."""
        (self.directory / "calls.jsonl").unlink(missing_ok=True)

    def state(self) -> dict[str, dict[str, str]]:
        """Returns which addresses and links the plug-in has given out itself."""
        path = self.directory / "state.json"
        found: dict[str, dict[str, str]] = json.loads(path.read_text()) if path.exists() else {}
        return found or {"addresses": {}, "links": {}}


def make_task(
    command: str,
    *,
    groups: Sequence[str] | None = (),
    static: Sequence[str] = (),
    auto: int = 1,
    auto6: int = 0,
    ports: Sequence[int] = (),
    is_custom: bool = False,
    network: str = "",
) -> TaskInfo:
    """Returns a task. groups: None for one that shares its host's network. is_custom: with an executor of its own."""
    container = ContainerInfo()
    if groups is not None:
        addresses = [IpAddress(ip_address=one) for one in static] + [IpAddress()] * auto
        addresses += [IpAddress(protocol="IPv6")] * auto6
        container = ContainerInfo(network_infos=(NetworkInfo(tuple(addresses), tuple(groups), name=network),))
    task_id = f"t-{uuid.uuid4()}"
    if is_custom:
        executor = ExecutorInfo(f"e-{task_id}", container)
        return TaskInfo(task_id, task_id, command, {}, Resources(0.1, 128, tuple(ports)), executor=executor)
    return TaskInfo(task_id, task_id, command, {}, Resources(0.1, 128, tuple(ports)), container=container)


def remains(lab: Lab, host: Host) -> dict[str, list[str]]:
    """Returns what exists because of tasks: links and routes of the host, namespaces' names, processes."""
    links = [line.split(":")[1].strip() for line in host.run(["ip", "-o", "link"]).stdout.splitlines()]
    routes = host.run(["ip", "route"]).stdout.splitlines()
    return {
        "links": sorted(links),
        "routes": sorted(route for route in routes if " dev cali" in route or " dev fk" in route),
        "namespaces": list_namespaces(f"fx-{lab.name}-{host.name}-m-"),
        "processes": [str(pid) for pid in find_marked(lab.directory / "mesos" / host.name / "sandboxes")],
    }
