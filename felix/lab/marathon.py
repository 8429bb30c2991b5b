"""Marathon's application groups, as far as the lab runs them: who gets an address, in which groups, on which ports.

The file is the body that Marathon takes at `PUT /v2/groups/<id>`: nested groups, each with `apps`. An app's network is
said in one of three ways:

    ipAddress: {groups, labels, networkName, discovery: {ports: [{name, number, protocol}]}}       since 0.14
    networks: [{mode: container, name, labels}], container.portMappings: [{containerPort, name}]   since 1.5
    neither, or networks: [{mode: host}]: it shares its host's network; ports or portDefinitions are the host's

`healthChecks` are read, too: see felix.lab.checks.
"""

from __future__ import annotations

import json
import re
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field
from pathlib import Path

from felix.errors import DataError
from felix.lab.checks import HealthCheck, read_checks

Node = dict[str, object]

PATH_LENGTH_MOST = 200
NESTED_MOST = 32
_PART = re.compile(r"[A-Za-z0-9_][A-Za-z0-9._-]*")


@dataclass(frozen=True, slots=True)
class Port:
    """A port of an application. number: 0 for one that is found when the application is placed."""

    number: int
    name: str = ""
    protocol: str = "tcp"


@dataclass(frozen=True, slots=True)
class Program:
    """What an application runs and needs. cpus: of a core; mem: MiB; ports: of the host, empty with an address."""

    command: str = ""
    environment: Mapping[str, str] = field(default_factory=dict)
    cpus: float = 1.0
    mem: float = 128.0
    ports: tuple[Port, ...] = ()
    require_ports: bool = False
    checks: tuple[HealthCheck, ...] = ()


@dataclass(frozen=True, slots=True)
class Application:
    """One instance of an application.

    id: path without leading slash, for example `star-iso/probe-a`, with `.<n>` behind it from the second instance on.
    groups: names of network groups, in order, may be empty. ports: TCP ports on which it answers, in order.
    discovery: all ports on which it can be found. has_address: whether it has an address of its own.
    network: the CNI network it asks for, mostly none.
    """

    id: str
    groups: tuple[str, ...]
    ports: tuple[int, ...]
    labels: tuple[tuple[str, str], ...] = ()
    discovery: tuple[Port, ...] = field(default=(), compare=False)
    has_address: bool = True
    network: str = ""
    program: Program = field(default_factory=Program, compare=False)
    instance: int = field(default=1, compare=False)

    @property
    def name(self) -> str:
        """The last part of the id: `probe-a`."""
        return self.id.rpartition("/")[2]

    @property
    def path(self) -> str:
        """The id of the application, of which this is an instance."""
        return self.id if self.instance == 1 else self.id.rpartition(".")[0]

    @property
    def task_name(self) -> str:
        """The name of its tasks: the path of the application backwards, `probe-a.star-iso`."""
        return ".".join(reversed(self.path.split("/")))


def load_applications(path: Path) -> list[Application]:
    """Returns the application instances that the file defines, in its order.

    Raises DataError naming file, application and field when the file cannot be read or used.
    """
    where = str(path)
    applications = [
        instance
        for app_path, app in find_apps(load_document(path), where).items()
        for instance in make_instances(app, app_path, where)
    ]
    if not applications:
        raise DataError(f"{path}: defines no application; expected a Marathon group with `apps`, or a list of apps")
    return applications


def load_document(path: Path) -> object:
    """Returns the JSON of a file; raises DataError that names it."""
    try:
        return json.loads(path.read_bytes())
    except OSError as error:
        raise DataError(f"{path}: cannot read the application group: {error.strerror}") from error
    except ValueError as error:
        raise DataError(f"{path}: not JSON: {error}") from error


def find_apps(document: object, where: str, parent: str = "") -> dict[str, Node]:
    """Returns the applications of a group, of a list, or the only one, as they are written, by path, in order.

    where: what errors begin with. parent: the path of the group in which a relative id is. Raises DataError.
    """
    found: dict[str, Node] = {}
    for path, app in _walk(document, where, parent):
        if not path:
            raise DataError(f"{where}: an application without id")
        if len(path) > PATH_LENGTH_MOST or not all(_PART.fullmatch(part) for part in path.split("/")):
            expected = f"at most {PATH_LENGTH_MOST} characters, letters, digits, `.`, `_`, `-` between slashes"
            raise DataError(f"{where}: id: expected {expected}, saw {path[:80]!r}")
        if path in found:
            raise DataError(f"{where}: {path}: id: two applications have it")
        found[path] = app
    return found


def _walk(node: object, where: str, parent: str, depth: int = 0) -> Iterator[tuple[str, Node]]:
    if depth > NESTED_MOST:
        raise DataError(f"{where}: groups: nested more than {NESTED_MOST} times")
    if isinstance(node, list):
        for item in node:
            yield from _walk(item, where, parent, depth + 1)
        return
    if not isinstance(node, dict):
        raise DataError(f"{where}: expected an object with `id`, saw {type(node).__name__}")
    own = node.get("id", "")
    if not isinstance(own, str):
        raise DataError(f"{where}: id: expected text, saw {own!r}")
    path = own.strip("/") if own.startswith("/") else "/".join(part for part in (parent, own.strip("/")) if part)
    if "apps" in node or ("groups" in node and "ipAddress" not in node):
        for child in [*_listed(node, "groups", where), *_listed(node, "apps", where)]:
            yield from _walk(child, where, path, depth + 1)
        return
    yield path, node


def make_instances(app: Node, path: str, where: str) -> Iterator[Application]:
    """Yields the instances of an application as it is written; raises DataError."""
    where = f"{where}: {path}"
    instances = app.get("instances", 1)
    if not isinstance(instances, int) or isinstance(instances, bool) or not 0 <= instances <= 1000:
        raise DataError(f"{where}: instances: expected 0 to 1000, saw {instances!r}")
    network = _read_network(app, where)
    program = Program(
        command=_read_command(app, where),
        environment=_read_texts(app.get("env", {}), f"{where}: env"),
        cpus=_read_amount(app, "cpus", 1.0, where),
        mem=_read_amount(app, "mem", 128.0, where),
        ports=() if network else _host_ports(app, where),
        require_ports=bool(app.get("requirePorts", False)),
        checks=read_checks(app.get("healthChecks", []), where),
    )
    for number in range(1, instances + 1):
        name = path if number == 1 else f"{path}.{number}"
        if network is None:
            yield Application(name, (), (), (), program.ports, False, "", program, number)
            continue
        tcp = tuple(port.number for port in network.ports if port.protocol == "tcp")
        yield Application(
            *(name, network.groups, tcp, tuple(sorted(network.labels.items())), network.ports, True, network.name),
            program,
            number,
        )


@dataclass(frozen=True, slots=True)
class _Network:
    groups: tuple[str, ...]
    labels: Mapping[str, str]
    name: str
    ports: tuple[Port, ...]


def _read_network(app: Node, where: str) -> _Network | None:
    """Returns the network of its own that an application asks for; None when it shares its host's."""
    if "networks" in app and "ipAddress" in app:
        raise DataError(f"{where}: networks: not together with ipAddress; give one of both")
    if "networks" in app:
        return _read_networks(app, where)
    address = app.get("ipAddress")
    if address is None:
        return None
    if not isinstance(address, dict):
        raise DataError(f"{where}: ipAddress: expected an object, saw {address!r}")
    if app.get("ports"):
        raise DataError(f"{where}: ports: not together with ipAddress; use ipAddress.discovery.ports")
    groups = address.get("groups", [])
    if not isinstance(groups, list) or not all(isinstance(group, str) and group for group in groups):
        raise DataError(f"{where}: ipAddress.groups: expected a list of names, saw {groups!r}")
    labels = _read_texts(address.get("labels", {}), f"{where}: ipAddress.labels")
    discovery = address.get("discovery", {})
    listed = discovery.get("ports", []) if isinstance(discovery, dict) else None
    if not isinstance(listed, list):
        raise DataError(f"{where}: ipAddress.discovery: expected an object with `ports`, saw {discovery!r}")
    ports = tuple(_read_port(entry, "number", 1, f"{where}: ipAddress.discovery.ports") for entry in listed)
    return _Network(tuple(groups), labels, str(address.get("networkName", "")), ports)


def _read_networks(app: Node, where: str) -> _Network | None:
    listed = _listed(app, "networks", where)
    if len(listed) != 1 or not isinstance(listed[0], dict):
        raise DataError(f"{where}: networks: expected a list of one object, saw {listed!r}")
    network = listed[0]
    mode = network.get("mode", "container")
    if mode == "host":
        return None
    if mode != "container":
        raise DataError(f"{where}: networks: mode: expected host or container, saw {mode!r}; the lab has no bridges")
    labels = _read_texts(network.get("labels", {}), f"{where}: networks: labels")
    container = app.get("container", {})
    mappings = container.get("portMappings", []) if isinstance(container, dict) else None
    if not isinstance(mappings, list):
        raise DataError(f"{where}: container: expected an object with `portMappings`, saw {container!r}")
    if any(isinstance(entry, dict) and entry.get("hostPort") for entry in mappings):
        raise DataError(f"{where}: container.portMappings: hostPort: the lab maps no ports of hosts")
    ports = tuple(_read_port(entry, "containerPort", 1, f"{where}: container.portMappings") for entry in mappings)
    return _Network((), labels, str(network.get("name", "")), ports)


def _host_ports(app: Node, where: str) -> tuple[Port, ...]:
    if "portDefinitions" in app:
        listed = _listed(app, "portDefinitions", where)
        return tuple(_read_port(entry, "port", 0, f"{where}: portDefinitions") for entry in listed)
    numbers = [{"number": number} for number in _listed(app, "ports", where)] if "ports" in app else [{"number": 0}]
    return tuple(_read_port(entry, "number", 0, f"{where}: ports") for entry in numbers)


def _read_port(entry: object, field_name: str, least: int, where: str) -> Port:
    number = entry.get(field_name) if isinstance(entry, dict) else None
    if not isinstance(entry, dict) or not isinstance(number, int) or isinstance(number, bool):
        raise DataError(f"{where}: expected a number {least} to 65535, saw {entry!r}")
    if not least <= number <= 65535:
        raise DataError(f"{where}: expected a number {least} to 65535, saw {entry!r}")
    protocol = entry.get("protocol") or "tcp"
    if protocol not in {"tcp", "udp", "udp,tcp", "tcp,udp"}:
        raise DataError(f"{where}: protocol: expected tcp or udp, saw {protocol!r}")
    return Port(number, str(entry.get("name") or ""), str(protocol))


def _read_command(app: Node, where: str) -> str:
    command, words = app.get("cmd"), app.get("args")
    if command is not None and (not isinstance(command, str) or "\0" in command):
        raise DataError(f"{where}: cmd: expected text without NUL, saw {command!r}")
    if words and not command:
        raise DataError(f"{where}: args: the lab has no images to give them to; use cmd")
    return command or ""


def _read_amount(app: Node, name: str, default: float, where: str) -> float:
    value = app.get(name, default)
    if not isinstance(value, int | float) or isinstance(value, bool) or not 0 <= value <= 1e6:
        raise DataError(f"{where}: {name}: expected a number from 0, saw {value!r}")
    return float(value)


def _read_texts(value: object, where: str) -> dict[str, str]:
    if not isinstance(value, dict) or not all(isinstance(text, str) for text in value.values()):
        raise DataError(f"{where}: expected an object of texts, saw {value!r}")
    if any("\0" in text or "\0" in name for name, text in value.items()):
        raise DataError(f"{where}: expected texts without NUL, saw {value!r}")
    return value


def _listed(node: Node, name: str, where: str) -> list[object]:
    value = node.get(name, [])
    if not isinstance(value, list):
        raise DataError(f"{where}: {name}: expected a list, saw {value!r}")
    return value
