"""Packets that policy of host endpoints logs, and those whose senders are told that they were denied."""

from __future__ import annotations

import errno
import re
import socket
import subprocess
from collections import Counter
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import pytest

from tests.fv.test_host_endpoints import HEP
from tests.fv.test_host_traffic import restart
from tests.support.fv import Fleet

pytestmark = pytest.mark.fv

PACKETS = 8
BURST = 3
PORT, WATCHED = 7009, 7000
MARKS = TO, OUT, ON = 7001, 7002, 7003
LOGGING = """
{{kind: GlobalNetworkPolicy, name: default.told, spec: {{selector: role == 'edge', types: [Ingress, Egress], order: 0,
 ingress: [{{action: Log, protocol: UDP, destination: {{ports: [{to}]}}}}, {{action: Allow}}],
 egress: [{{action: Log, protocol: UDP, destination: {{ports: [{out}]}}}}, {{action: Allow}}]}}}}
---
{{kind: GlobalNetworkPolicy, name: default.passed, spec: {{selector: role == 'edge', types: [Ingress], order: 1,
 applyOnForward: true,
 ingress: [{{action: Log, protocol: UDP, destination: {{ports: [{on}]}}}}, {{action: Allow}}]}}}}"""


@contextmanager
def tracing(fleet: Fleet, path: Path) -> Iterator[None]:
    """What becomes of UDP to some ports on h1 is told in the file, rule by rule."""
    ports = ", ".join(map(str, (WATCHED, *MARKS)))
    marking = f"udp dport {{ {ports} }} meta nftrace set 1"
    hooks = "".join(
        f"chain {hook} {{ type filter hook {hook} priority -400; policy accept; {marking}; }}; "
        for hook in ("prerouting", "output")
    )
    with path.open("w") as file:
        process = subprocess.Popen(fleet.h1.command(["nft", "monitor", "trace"]), stdout=file)
    try:
        fleet.h1.run(["nft", f"table inet tracing {{ {hooks} }}"])
        yield
    finally:
        fleet.h1.run(["nft", "delete", "table", "inet", "tracing"], check=False)
        process.kill()
        process.wait()


def send(fleet: Fleet, source: str, target: str, port: int, count: int) -> None:
    """UDP packets, each the first of a flow."""
    for _ in range(count):
        with fleet.sites[source].place.call(lambda: socket.socket(socket.AF_INET, socket.SOCK_DGRAM)) as one:
            one.sendto(b"x", (fleet.sites[target].ipv4, port))


def test_log_rules_of_host_endpoints_say_whose_they_are_and_no_more_often_than_allowed(
    fleet: Fleet, tmp_path: Path
) -> None:
    """The kernel writes no log lines for other network namespaces than the first, but tells which rules were met."""
    settings = {
        "FELIX_LOGPREFIX": "%t %k %n %p",
        "FELIX_LOGACTIONRATELIMIT": "1/hour",
        "FELIX_LOGACTIONRATELIMITBURST": str(BURST),
    }
    trace = tmp_path / "trace"

    def is_watched() -> bool:
        send(fleet, "outside", "h1", WATCHED, 1)
        return "trace id" in trace.read_text()

    restart(fleet, settings)
    try:
        with fleet.stored(HEP), fleet.stored(LOGGING.format(to=TO, out=OUT, on=ON)), tracing(fleet, trace):
            fleet.wait(is_watched, "the monitor", 20.0)
            for source, target, port in (("outside", "h1", TO), ("h1", "outside", OUT), ("outside", "near", ON)):
                send(fleet, source, target, port, PACKETS)
            fleet.wait(lambda: trace.read_text().count(f"udp dport {ON} ") >= PACKETS, "the trace", 20.0)
    finally:
        restart(fleet, {})
    logged = re.findall(r'rule [^\n]*dport (\d+) [^\n]*log prefix "([^"]*)"', trace.read_text())
    told, passed = "default gnp default.told default.told: ", "default gnp default.passed default.passed: "
    assert Counter(logged) == {(str(TO), told): BURST, (str(OUT), told): BURST, (str(ON), passed): BURST}


REFUSING = """
{kind: GlobalNetworkPolicy, name: default.refusing, spec: {selector: role == 'edge', types: [Ingress, Egress], order: 1,
 applyOnForward: true, ingress: [{action: Deny, protocol: UDP}, {action: Allow}],
 egress: [{action: Deny, protocol: UDP}, {action: Allow}]}}"""


def is_told(fleet: Fleet, source: str, target: str, version: int) -> bool:
    """Whether the sender of datagrams learns that they are not wanted; a kernel answers so many and no more."""
    family = socket.AF_INET if version == 4 else socket.AF_INET6
    with fleet.sites[source].place.call(lambda: socket.socket(family, socket.SOCK_DGRAM)) as one:
        one.settimeout(1.0)
        one.connect((fleet.sites[target].address(version), PORT))
        for _ in range(20):
            try:
                one.send(b"x")
                one.recv(1)
            except TimeoutError:
                continue
            except OSError as error:
                return error.errno in (errno.ECONNREFUSED, errno.EPERM, errno.EACCES)
            return False
    return False


def test_denied_packets_at_host_endpoints_are_answered_if_settings_say_so(fleet: Fleet) -> None:
    ways = (("outside", "h1"), ("h1", "outside"), ("outside", "near"), ("client", "far"))
    for _, target in ways:  # or they would refuse by themselves
        fleet.sites[target].place.listen(PORT, "udp")
    restart(fleet, {"FELIX_NFTABLESFILTERDENYACTION": "REJECT"})
    try:
        with fleet.stored(HEP), fleet.stored(REFUSING):
            tries = [(*way, version) for way in ways for version in (4, 6)]
            untold = [one for one in tries if not is_told(fleet, *one)]
    finally:
        restart(fleet, {})
    assert untold == []
