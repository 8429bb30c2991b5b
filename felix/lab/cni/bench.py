"""Where a plug-in is tried: a namespace for the host, one for each container, and the calls of a runtime. Shell."""

from __future__ import annotations

import contextlib
import itertools
import json
import os
import shutil
import subprocess
import tempfile
import time
from collections.abc import Collection, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from ipaddress import ip_interface, ip_network
from pathlib import Path

from felix.errors import EnvironmentFault
from felix.lab import namespace
from felix.lab.cni.call import Answer, Plugin, Stuck
from felix.lab.store import Json

PREFIX = "fx-cni."  # no lab's namespaces begin so: a lab's name has no dot
FILES_PREFIX = "felix-cni-"
_POLL_S = 0.05


@dataclass(frozen=True, slots=True)
class Inside:
    """What a container's interface is like. addresses: without link-local ones; routes: destinations of all tables."""

    mac: str
    is_up: bool
    addresses: Collection[str]
    routes: Collection[str]


@dataclass(slots=True)
class Container:
    """A namespace that stands for a container. is_attached: the plug-in was asked to attach it, and not to detach."""

    id: str
    namespace: str
    interface: str = "eth0"
    is_attached: bool = False

    @property
    def netns(self) -> str:
        """The path of the namespace."""
        return str(namespace.NETNS_DIR / self.namespace)

    def look(self) -> Inside | None:
        """Returns what its interface is like, None when there is none of that name."""
        links = _ask_ip(self.namespace, "addr", "show")
        for link in links:
            if link["ifname"] == self.interface:
                flags = link["flags"]
                return Inside(
                    mac=str(link.get("address", "")),
                    is_up=isinstance(flags, list) and "UP" in flags,
                    addresses=_find_addresses(link),
                    routes=[
                        route
                        for family in ("-4", "-6")
                        for route in _find_routes(self.namespace, family, "table", "all", "type", "unicast")
                    ],
                )
        return None

    def configure(self, *commands: str) -> None:
        """The `ip` commands (without the word `ip`) have run inside."""
        namespace.configure(self.namespace, commands)

    def lose_routes(self) -> None:
        """The container has no routes of either family."""
        for family in ("-4", "-6"):
            _ask_ip(self.namespace, family, "route", "flush", "table", "main")

    def vanish(self) -> None:
        """The namespace is gone, with everything in it."""
        namespace.delete_namespaces([self.namespace])


@dataclass(frozen=True, slots=True)
class Bench:
    """Everything that the checks of one plug-in share.

    config: the plug-in's part of a configuration, with its network's name and without version. is_ipam: the plug-in
    gives addresses and makes no interfaces. settle_s: how long the host may take to be as before. supported: the
    versions that the plug-in lists. newest: the one in which everything is tried that is tried once.
    """

    plugin: Plugin
    config: Mapping[str, Json]
    cni_path: str
    is_ipam: bool
    prefix: str
    settle_s: float
    supported: Sequence[str] = ()
    newest: str = "0.4.0"
    _numbers: Iterator[int] = field(default_factory=lambda: itertools.count(1))

    @contextlib.contextmanager
    def container(self) -> Iterator[Container]:
        """Yields a new container; it is detached and gone afterwards."""
        with self.containers(1) as made:
            yield made[0]

    @contextlib.contextmanager
    def containers(self, count: int) -> Iterator[list[Container]]:
        """Yields new containers; they are detached and gone afterwards."""
        numbers = list(itertools.islice(self._numbers, count))
        made = [Container(f"cnicheck.{os.getpid()}_{number}", f"{self.prefix}{number}") for number in numbers]
        namespace.create_namespaces([one.namespace for one in made])
        try:
            yield made
        finally:
            for one in made:
                if one.is_attached:
                    self.delete(one, self.newest)
            namespace.delete_namespaces([one.namespace for one in made])

    def render_config(self, version: str, extra: Mapping[str, Json] | None = None, *, without: str = "") -> str:
        """Returns what a runtime writes to the plug-in's standard input, but for the field `without`."""
        full: dict[str, Json] = {**self.config, "cniVersion": version, **(extra or {})}
        full.pop(without, None)
        return json.dumps(full)

    def variables(self, command: str, container: Container | None) -> dict[str, str]:
        """Returns the variables of a call: all of them, or those of a call that is about no container."""
        named = {"CNI_COMMAND": command, "CNI_PATH": self.cni_path}
        if container is None:
            return named
        about = {"CNI_CONTAINERID": container.id, "CNI_NETNS": container.netns, "CNI_IFNAME": container.interface}
        return {**named, **about}

    def call(
        self,
        command: str,
        container: Container | None,
        version: str,
        extra: Mapping[str, Json] | None = None,
        *,
        changes: Mapping[str, str | None] | None = None,
        stdin: str | None = None,
    ) -> Answer:
        """Returns how a call ended. extra: added to the configuration. changes: of the variables, None removes one.

        stdin: given instead of the configuration. A container that was asked to be attached is detached at its end.
        """
        variables: dict[str, str | None] = {**self.variables(command, container), **(changes or {})}
        given = {name: value for name, value in variables.items() if value is not None}
        if container is not None and command == "ADD":
            container.is_attached = True
        return self.plugin.call(given, self.render_config(version, extra) if stdin is None else stdin)

    def add(self, container: Container, version: str, extra: Mapping[str, Json] | None = None) -> Answer:
        """Returns how attaching the container ended."""
        return self.call("ADD", container, version, extra)

    def attach(self, container: Container, version: str) -> dict[str, Json]:
        """Returns ADD's result; raises Stuck when there is none, so that what cannot be tried is not tried."""
        answer = self.add(container, version)
        if not answer.is_success or answer.document is None:
            raise Stuck(f"cannot go on without ADD: {answer.describe()}")
        return answer.document

    def delete(
        self,
        container: Container,
        version: str,
        result: Mapping[str, Json] | None = None,
        changes: Mapping[str, str | None] | None = None,
    ) -> Answer:
        """Returns how detaching the container ended. result: ADD's, which runtimes pass on since 0.4.0."""
        answer = self.call("DEL", container, version, {"prevResult": dict(result)} if result else None, changes=changes)
        if answer.is_success:
            container.is_attached = False
        return answer

    def check(self, container: Container, version: str, result: Mapping[str, Json] | None) -> Answer:
        """Returns how the check of an attached container ended. result: ADD's, None to leave it out."""
        return self.call("CHECK", container, version, {"prevResult": dict(result)} if result else None)

    def survey(self) -> frozenset[str]:
        """Returns the links, addresses and routes of the host, but for what the kernel gives each link by itself."""
        host = self.plugin.namespace
        found = set()
        for link in _ask_ip(host, "addr", "show"):
            found.add(f"link {link['ifname']}")
            found |= {f"address {address} on {link['ifname']}" for address in _find_addresses(link)}
        for family in ("-4", "-6"):
            found |= {f"route {route}" for route in _find_routes(host, family)}
        return frozenset(found)

    def wait_survey(self, wanted: frozenset[str]) -> frozenset[str]:
        """Returns what the host has more or less than `wanted`, after some seconds of grace; empty: nothing."""
        deadline = time.monotonic() + self.settle_s
        while (difference := self.survey() ^ wanted) and time.monotonic() < deadline:
            time.sleep(_POLL_S)
        return difference


def remove_strays() -> None:
    """No namespaces and no files are left of checks whose process has ended, however it ended."""
    namespace.delete_namespaces(
        [name for name in namespace.list_namespaces(PREFIX) if _has_ended(name.removeprefix(PREFIX).partition(".")[0])]
    )
    for directory in Path(tempfile.gettempdir()).glob(f"{FILES_PREFIX}*"):
        if _has_ended(directory.name.removeprefix(FILES_PREFIX).partition("-")[0]):
            shutil.rmtree(directory, ignore_errors=True)


def _has_ended(pid: str) -> bool:
    return pid.isdigit() and not Path("/proc", pid).exists()


def _find_addresses(link: Mapping[str, Json]) -> list[str]:
    entries = link.get("addr_info")
    found = []
    for entry in entries if isinstance(entries, list) else []:
        if isinstance(entry, dict) and entry.get("scope") != "link":
            found.append(str(ip_interface(f"{entry['local']}/{entry['prefixlen']}")))
    return found


def _find_routes(place: str, family: str, *arguments: str) -> list[str]:
    found = []
    for route in _ask_ip(place, family, "route", "show", *arguments):
        target = str(route["dst"])
        anywhere = "0.0.0.0/0" if family == "-4" else "::/0"
        network = ip_network(anywhere if target == "default" else target)
        if not network.is_link_local and not network.is_multicast:
            found.append(str(network))
    return found


def _ask_ip(place: str, *arguments: str) -> list[dict[str, Json]]:
    command = ["ip", "-j", "-n", place, *arguments]
    done = subprocess.run(command, capture_output=True, text=True, check=False, timeout=10)
    if done.returncode != 0:
        raise EnvironmentFault(f"{' '.join(command)}: {done.stderr.strip()}")
    found: list[dict[str, Json]] = json.loads(done.stdout or "[]")
    return found
