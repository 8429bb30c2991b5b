"""Star's programs as processes in namespaces: probes on hosts of their own, joined by one that can block."""

from __future__ import annotations

import contextlib
import json
import subprocess
import sys
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

from tests.support.netns import Namespace, private_namespace

_QUICK = "0.25"
_RULES = """
table inet star {
  set blocked { type ipv4_addr . ipv4_addr; }
  chain forward { type filter hook forward priority 0; ct state new ip saddr . ip daddr @blocked drop; }
}
"""


class World:
    """Hosts `A`, `B`, ... around a hub that forwards between them, and where the collector and the browser are."""

    def __init__(self, hub: Namespace, host_by_id: Mapping[str, Namespace]) -> None:
        self.hub = hub
        self.host_by_id = host_by_id

    def url(self, host: str) -> str:
        """Returns where the probe of that host tells its status."""
        return f"http://{self.address(host)}:9000/status"

    def address(self, host: str) -> str:
        """Returns the host's address."""
        return f"10.66.{list(self.host_by_id).index(host)}.2"

    def block(self, source: str, target: str) -> None:
        """New connections from one host to the other are dropped without an answer."""
        self._nft(f"add element inet star blocked {{ {self.address(source)} . {self.address(target)} }}")

    def unblock_all(self) -> None:
        """Every host reaches every other."""
        self._nft("flush set inet star blocked")

    def _nft(self, command: str) -> None:
        self.hub.execute("nft", command)


@contextlib.contextmanager
def running_world(hosts: str) -> Iterator[World]:
    """Yields hosts with one letter each that reach each other; everything is removed afterwards."""
    with contextlib.ExitStack() as stack:
        hub = stack.enter_context(private_namespace("star"))
        hub.write_sysctl("net/ipv4/ip_forward", "1")
        hub.execute("nft", _RULES)
        host_by_id = {}
        for number, name in enumerate(hosts):
            host = host_by_id[name] = stack.enter_context(private_namespace("star"))
            hub.ip(f"link add to{name} type veth peer name eth0 netns {host.name}")
            hub.ip(f"addr add 10.66.{number}.1/24 dev to{name}")
            hub.ip(f"link set to{name} up")
            host.ip(f"addr add 10.66.{number}.2/24 dev eth0")
            host.ip("link set eth0 up")
            host.ip(f"route add default via 10.66.{number}.1")
        yield World(hub, host_by_id)


class Program:
    """A running `felix star` that listens. url: of its page or its status."""

    def __init__(self, process: subprocess.Popen[str], url: str) -> None:
        self.process = process
        self.url = url

    def stop(self) -> int:
        """The program was asked to end and has; returns its exit code."""
        self.process.terminate()
        return self.process.wait(10)


@contextlib.contextmanager
def running_star(namespace: Namespace, *words: str) -> Iterator[Program]:
    """Yields `felix star WORDS` once it listens; it is gone afterwards."""
    command = ["ip", "netns", "exec", namespace.name, sys.executable, "-m", "felix", "star", *words]
    with subprocess.Popen(command, stdout=subprocess.PIPE, text=True) as process:
        try:
            assert process.stdout is not None
            line = process.stdout.readline()
            assert "http://" in line, f"felix star {words[0]} said {line!r}"
            yield Program(process, line[line.index("http://") :].strip())
        finally:
            process.kill()


@contextlib.contextmanager
def running_probes(world: World) -> Iterator[dict[str, Program]]:
    """Yields a probe on each host that tries all others, by host."""
    with contextlib.ExitStack() as stack:
        yield {
            name: stack.enter_context(
                running_star(
                    host,
                    "probe",
                    "--urls=" + ",".join(world.url(other) for other in world.host_by_id if other != name),
                    f"--http-probe-seconds={_QUICK}",
                )
            )
            for name, host in world.host_by_id.items()
        }


@contextlib.contextmanager
def running_collector(
    hub: Namespace, resources: Sequence[Mapping[str, Any]], folder: Path, interval_s: float = 0.25
) -> Iterator[Program]:
    """Yields a collector of these resources in the hub, on any free port."""
    file = folder / "resources.json"
    file.write_text(json.dumps(resources))
    words = [f"--resources-file={file}", "--http-port=0", f"--http-request-seconds={interval_s}"]
    with running_star(hub, "collect", *words) as collector:
        yield collector
