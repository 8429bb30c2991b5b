"""Marathon's application groups, as far as the lab runs them: who gets an address, in which groups, on which ports.

The file is the body that Marathon 0.14 takes at `PUT /v2/groups/<id>`: nested groups, each with `apps`, each app with
`ipAddress: {groups, labels, discovery: {ports: [{name, number, protocol}]}}`. The lab does not run `cmd`: its
applications are small responders on the discovery ports.
"""

from __future__ import annotations

import json
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

from felix.errors import DataError


@dataclass(frozen=True, slots=True)
class Application:
    """One instance of an application.

    id: path without leading slash, for example `star-iso/probe-a`, with `.<n>` behind it from the second instance on.
    groups: names of network groups, in order, may be empty. ports: TCP ports on which it answers, in order.
    """

    id: str
    groups: tuple[str, ...]
    ports: tuple[int, ...]
    labels: tuple[tuple[str, str], ...] = ()

    @property
    def name(self) -> str:
        """The last part of the id: `probe-a`."""
        return self.id.rpartition("/")[2]


def load_applications(path: Path) -> list[Application]:
    """Returns the application instances that the file defines, in its order.

    Raises DataError naming file, application and field when the file cannot be read or used.
    """
    try:
        document = json.loads(path.read_bytes())
    except OSError as error:
        raise DataError(f"{path}: cannot read the application group: {error.strerror}") from error
    except ValueError as error:
        raise DataError(f"{path}: not JSON: {error}") from error
    applications = list(_walk(document, str(path), ""))
    if not applications:
        raise DataError(f"{path}: defines no application; expected a Marathon group with `apps`, or a list of apps")
    return applications


def _walk(node: object, where: str, parent: str) -> Iterator[Application]:
    if isinstance(node, list):
        for item in node:
            yield from _walk(item, where, parent)
        return
    if not isinstance(node, dict):
        raise DataError(f"{where}: expected an object with `id`, saw {type(node).__name__}")
    own = node.get("id", "")
    if not isinstance(own, str):
        raise DataError(f"{where}: id: expected text, saw {own!r}")
    path = own.strip("/") if own.startswith("/") else "/".join(part for part in (parent, own.strip("/")) if part)
    if "apps" in node or ("groups" in node and "ipAddress" not in node):
        for child in [*node.get("groups", []), *node.get("apps", [])]:
            yield from _walk(child, where, path)
        return
    yield from _instances(node, path, where)


def _instances(app: dict[str, object], path: str, where: str) -> Iterator[Application]:
    if not path:
        raise DataError(f"{where}: an application without id")
    instances = app.get("instances", 1)
    if not isinstance(instances, int) or isinstance(instances, bool) or not 0 <= instances <= 1000:
        raise DataError(f"{where}: {path}: instances: expected 0 to 1000, saw {instances!r}")
    address = app.get("ipAddress")
    if not isinstance(address, dict):
        raise DataError(f"{where}: {path}: ipAddress: the lab runs applications with an address of their own only")
    if app.get("ports"):
        raise DataError(f"{where}: {path}: ports: not together with ipAddress; use ipAddress.discovery.ports")
    groups = address.get("groups", [])
    if not isinstance(groups, list) or not all(isinstance(group, str) and group for group in groups):
        raise DataError(f"{where}: {path}: ipAddress.groups: expected a list of names, saw {groups!r}")
    labels = address.get("labels", {})
    if not isinstance(labels, dict) or not all(isinstance(value, str) for value in labels.values()):
        raise DataError(f"{where}: {path}: ipAddress.labels: expected an object of texts, saw {labels!r}")
    ports = _discovery_ports(address.get("discovery", {}), f"{where}: {path}")
    for number in range(1, instances + 1):
        suffix = "" if number == 1 else f".{number}"
        yield Application(path + suffix, tuple(groups), ports, tuple(sorted(labels.items())))


def _discovery_ports(discovery: object, where: str) -> tuple[int, ...]:
    listed = discovery.get("ports", []) if isinstance(discovery, dict) else None
    if not isinstance(listed, list):
        raise DataError(f"{where}: ipAddress.discovery: expected an object with `ports`, saw {discovery!r}")
    ports: list[int] = []
    for entry in listed:
        number = entry.get("number") if isinstance(entry, dict) else None
        if not isinstance(number, int) or isinstance(number, bool) or not 1 <= number <= 65535:
            raise DataError(f"{where}: ipAddress.discovery.ports: expected a number 1 to 65535, saw {entry!r}")
        if entry.get("protocol", "tcp") == "tcp":
            ports.append(number)
    return tuple(ports)
