"""A name server on each host of a lab, with the names of the simulated master's tasks. Shell."""

from __future__ import annotations

import sys
from pathlib import Path

from felix.lab import process
from felix.lab.lab import Lab
from felix.lab.names import RESOLVER_V4

CONFIG = Path(__file__).parents[3] / "demo" / "mesos-dns.json"


def start_name_servers(lab: Lab) -> None:
    """`felix dns` has been started on every host, where it does not run yet; it answers on port 53.

    On the addresses of the host for others, and on a link-local one, the same everywhere, for its containers.
    """
    running = lab.processes
    for host in lab.hosts:
        host.configure(f"address replace {RESOLVER_V4}/32 dev lo")
        role = f"dns@{host.name}"
        if role in running and process.is_running(running[role]):
            continue
        command = host.command([sys.executable, "-m", "felix", "dns", "--config", str(CONFIG)])
        environment = host.program_environment()
        lab.adopt(role, process.spawn("dns", command, environment, host.directory / "dns.log", host.directory))
