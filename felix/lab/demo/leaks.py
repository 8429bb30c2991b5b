"""What is left when it should all be gone: in a lab whose tasks have ended, on the machine later. Shell."""

from __future__ import annotations

import re
import subprocess
import time
from collections.abc import Callable, Iterable
from functools import partial

from felix.lab import namespace, process
from felix.lab.demo.report import Check
from felix.lab.host import Host
from felix.lab.lab import Lab
from felix.lab.mesos.containers import find_marked
from felix.lab.names import namespace_prefix
from felix.lab.process import ProcessRecord

_PATIENCE_S = 10.0
_OURS = re.compile(r"\b(cali[0-9a-f]+|fk[0-9a-f]+|fabric|felix)\b")
_PREFIX_BY_KEYS = {
    "endpoints": "/calico/resources/v3/projectcalico.org/workloadendpoints/",
    "handles of addresses": "/calico/ipam/v2/handle/",
    "statuses": "/calico/felix/v2/",
}


def check_lab(lab: Lab) -> list[Check]:
    """Returns what is left of containers in a lab whose tasks have all ended; waits a little for agents to finish."""
    checks = [
        _check("no process of a task", lambda: [str(pid) for pid in find_marked(lab.directory / "mesos")]),
        *(_check(f"{what} in etcd: none", partial(_find_keys, lab, what)) for what in _PREFIX_BY_KEYS),
        _check("no address taken in a block", lambda: _find_taken(lab)),
    ]
    for host in lab.hosts:
        checks.append(_check(f"{host.name}: no interface of a container", partial(_find_links, host)))
        checks.append(_check(f"{host.name}: no route to a container", partial(_find_routes, host)))
        checks.append(_check(f"{host.name}: no rule for a container", partial(_find_rules, host)))
    return checks


def check_machine(lab: Lab, before: set[str], records: Iterable[ProcessRecord]) -> list[Check]:
    """Returns what is left of a lab that has gone down. before: what `read_machine` said before it came up."""
    listed = list(records)
    return [
        _check("no namespace of the lab", lambda: namespace.list_namespaces(namespace_prefix(lab.name))),
        _check("no process of the lab", lambda: [one.role for one in listed if process.is_running(one)]),
        _check("no file of the lab", lambda: [str(lab.directory)] if lab.directory.exists() else []),
        _check("the machine's links, routes and nftables are untouched", lambda: sorted(read_machine() - before)),
    ]


def read_machine() -> set[str]:
    """Returns the machine's own links, routes and tables of nftables, those that could be ours."""
    commands = (["ip", "-o", "link"], ["ip", "route", "show", "table", "all"], ["nft", "list", "tables"])
    lines = [
        line
        for command in commands
        for line in subprocess.run(command, capture_output=True, text=True, check=False).stdout.splitlines()
    ]
    return {line.strip() for line in lines if _OURS.search(line)}


def _check(text: str, find: Callable[[], list[str]]) -> Check:
    deadline = time.monotonic() + _PATIENCE_S
    while (found := find()) and time.monotonic() < deadline:
        time.sleep(0.1)
    return Check(text, not found, ", ".join(found[:5]))


def _find_keys(lab: Lab, what: str) -> list[str]:
    keys = lab.store.list_prefix(_PREFIX_BY_KEYS[what])
    return [key for key in keys if what != "statuses" or "/workload/" in key]


def _find_taken(lab: Lab) -> list[str]:
    found = []
    for key, block in lab.store.list_prefix("/calico/ipam/v2/assignment/").items():
        allocations = block.get("allocations")
        if isinstance(allocations, list) and any(one is not None for one in allocations):
            found.append(key)
    return found


def _find_links(host: Host) -> list[str]:
    names = [line.split(":")[1].strip() for line in host.run(["ip", "-o", "link"]).stdout.splitlines()]
    return [name for name in names if name.startswith(("cali", "fk"))]


def _find_routes(host: Host) -> list[str]:
    lines = [line for family in ("-4", "-6") for line in host.run(["ip", family, "route"]).stdout.splitlines()]
    return [line.strip() for line in lines if " dev cali" in line]


def _find_rules(host: Host) -> list[str]:
    lines = host.run(["nft", "list", "table", "inet", "felix"]).stdout.splitlines()
    return [line.strip() for line in lines if re.search(r"\bcali[0-9a-f]{11}\b", line)]
