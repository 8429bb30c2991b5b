"""The demonstration: applications of a Marathon file on two hosts, isolated by group, shown by real connections.

Everything goes through the product's own doors: documents into etcd, one `felix apply`, and whatever the agents and
BIRD make of them. The matrix is measured from inside the containers' namespaces.
"""

from __future__ import annotations

import json
import shutil
import subprocess
import sys
import time
from collections.abc import Callable, Mapping, Sequence, Set
from functools import partial
from pathlib import Path

from felix.lab import documents
from felix.lab.host import Host
from felix.lab.lab import Lab, Workload
from felix.lab.marathon import Application, load_applications
from felix.lab.matrix import Cell, Pair, measure, render_matrix
from felix.lab.place import wait_until
from felix.lab.store import Document
from felix.model.net import Net

Say = Callable[[str], None]
DEFAULT_NAME = "demo"


class Demo:
    """One run of the demonstration in a lab; `run` returns whether every cell of every matrix was as expected."""

    def __init__(self, lab: Lab, applications: Sequence[Application], say: Say) -> None:
        self._lab = lab
        self._applications = applications
        self._say = say
        self._groups_by_name = {app.name: app.groups for app in applications}
        self._port = next((port for app in applications for port in app.ports), 9000)

    def run(self) -> bool:
        """Builds the lab, starts the applications, measures, moves one application to another group, measures again."""
        self._start_hosts()
        workloads = self._start_applications()
        self._wait_for_routes()
        right = self._show_matrix("Who reaches whom", workloads)
        moved = self._move_one(workloads)
        return self._show_matrix(f"Who reaches whom now ({moved})", workloads) and right

    def _start_hosts(self) -> None:
        started = time.monotonic()
        self._lab.up(hosts=2)
        for host in self._lab.hosts:
            host.wait_agent_ready()
        self._say(f"Two hosts with etcd, BIRD and a Felix each: {time.monotonic() - started:.1f} s")
        for group in sorted({group for app in self._applications for group in app.groups}):
            self._lab.apply(group_profile(group))

    def _start_applications(self) -> dict[str, Workload]:
        self._say("\nApplications, from the write of an endpoint to etcd until the kernel enforces its policy:")
        workloads: dict[str, Workload] = {}
        hosts = self._lab.hosts
        for position, app in enumerate(self._applications):
            host = hosts[position % len(hosts)]
            workload = self._lab.add_workload(host, app.name, profiles=app.groups, write_endpoint=False)
            for port in app.ports:
                workload.listen(port)
            elapsed_s = self._write_and_wait(host, workload, app.groups)
            workloads[app.name] = workload
            where = f"{host.name}  {workload.ipv4:<15} {workload.ipv6:<22}"
            self._say(f"  {app.name:<10} {where} {', '.join(app.groups):<10} {elapsed_s * 1000:6.1f} ms")
        return workloads

    def _write_and_wait(self, host: Host, workload: Workload, groups: Sequence[str]) -> float:
        document = self._endpoint(workload, groups)
        started = time.monotonic()
        self._lab.apply(document)
        wait_until(
            lambda: _has_endpoint_file(host, workload), 10.0, f"{workload.name} to be enforced on {host.name}", 0.0005
        )
        return time.monotonic() - started

    def _endpoint(self, workload: Workload, groups: Sequence[str]) -> Document:
        addresses = tuple(filter(None, (workload.ipv4, workload.ipv6)))
        intent = documents.EndpointIntent(workload.name, workload.record.host, "default", addresses, groups, {})
        return documents.endpoint_document(intent)

    def _wait_for_routes(self) -> None:
        hosts = self._lab.hosts
        for host in hosts:
            expected = {str(block) for other in hosts if other is not host for block in _blocks(other)}
            wait_until(partial(_has_routes, host, expected), 30.0, f"BIRD's routes on {host.name}", 0.05)
        self._say("\nRoutes that BIRD learnt from the other host:")
        for host in hosts:
            for line in _bird_routes(host).splitlines():
                self._say(f"  {host.name}  {line.strip()}")

    def _show_matrix(self, title: str, workloads: Mapping[str, Workload]) -> bool:
        cells = measure(workloads, self._port, self._is_expected)
        wrong = [pair for pair, cell in cells.items() if not cell.is_right]
        self._say(f"\n{title}: TCP {self._port}, IPv4 and IPv6, a row per source")
        self._say(render_matrix(list(workloads), cells))
        self._say(self._judge(cells, wrong))
        return not wrong

    def _is_expected(self, source: str, target: str) -> bool:
        return bool(set(self._groups_by_name[source]) & set(self._groups_by_name[target]))

    @staticmethod
    def _judge(cells: Mapping[Pair, Cell], wrong: Sequence[Pair]) -> str:
        if not wrong:
            return f"{len(cells)} of {len(cells)} as expected."
        listed = "; ".join(
            f"{source} to {target}: expected {'yes' if cells[source, target].expected else 'no'},"
            f" seen {'/'.join(cells[source, target].outcomes)}"
            for source, target in wrong
        )
        return f"{len(wrong)} of {len(cells)} NOT as expected: {listed}"

    def _move_one(self, workloads: Mapping[str, Workload]) -> str:
        name = list(workloads)[-1]
        others = [group for groups in self._groups_by_name.values() for group in groups]
        target = next((group for group in others if group not in self._groups_by_name[name]), others[0])
        manifest = json.dumps(self._endpoint(workloads[name], [target]), indent=2)
        self._say(f"\n$ felix apply -f -     # the endpoint of {name}, with profiles: [{target}]")
        started = time.monotonic()
        done = subprocess.run(
            self._lab.fabric.command([sys.executable, "-m", "felix", "apply", "-f", "-"]),
            env=self._lab.fabric.program_environment(),
            input=manifest,
            capture_output=True,
            text=True,
            timeout=30,
            check=False,
        )
        self._say((done.stdout + done.stderr).strip())
        self._groups_by_name[name] = (target,)
        self._wait_for_move(name, workloads)
        self._say(f"{name} moved to {target} {time.monotonic() - started:.2f} s after the command began")
        return f"{name} moved to {target}, nothing restarted"

    def _wait_for_move(self, name: str, workloads: Mapping[str, Workload]) -> None:
        """Waits for one cell of each new colour only; the matrix after it judges all of them."""
        friend = next((other for other in workloads if other != name and self._is_expected(other, name)), None)
        if friend is not None:
            source, target = workloads[friend], workloads[name]
            wait_until(
                lambda: source.connect(target.ipv4, self._port, "tcp", 0.2).ok, 10.0, f"{friend} to reach {name}"
            )


def group_profile(group: str) -> Document:
    """Returns the profile of a network group: in from members of the group, out to anywhere."""
    label = f"group.{group}"
    return documents.resource(
        "Profile",
        group,
        {
            "labelsToApply": {label: ""},
            "ingress": [{"action": "Allow", "source": {"selector": f"has({label})"}}],
            "egress": [{"action": "Allow"}],
        },
    )


def run_demo(path: Path, say: Say, *, keep: bool = False, name: str = DEFAULT_NAME) -> int:
    """Runs the demonstration; returns 0 only if everything was as expected. Unless `keep`, the lab is gone."""
    applications = load_applications(path)
    lab = Lab(name)
    try:
        right = Demo(lab, applications, say).run()
    except BaseException:
        if not keep:
            lab.down()
        raise
    if not keep:
        lab.down()
    hint = "" if keep else "; run with KEEP=1 to look around"
    say("\nAll as expected." if right else f"\nNOT as expected{hint}.")
    if keep:
        names = {"felix": find_own_command(), "option": name_option(name), "policy": "demo/policy.yaml"}
        say(_LOOK_AROUND.format(host=lab.hosts[0].name, workload=applications[0].name, **names))
    return 0 if right else 1


def find_own_command() -> str:
    """Returns what to type to run this Felix: `felix` if the shell finds this one, else its path."""
    own = Path(sys.executable).with_name("felix")
    found = shutil.which("felix")
    if not own.exists() or (found and Path(found).resolve() == own.resolve()):
        return "felix"
    return str(own.relative_to(Path.cwd()) if own.is_relative_to(Path.cwd()) else own)


def name_option(name: str) -> str:
    """Returns the option that chooses a lab, with a blank before; empty for the one that is chosen without."""
    return "" if name == DEFAULT_NAME else f" --name {name}"


_LOOK_AROUND = """
The lab stays up. Look around:
  {felix} lab status{option}
  {felix} lab exec{option} {host} -- felix status
  {felix} lab exec{option} {host} -- nft list table inet felix
  {felix} lab exec{option} {host} -- ip route
  {felix} lab exec{option} {workload} -- ip -br addr
  {felix} lab exec{option} fabric -- felix get workloadendpoints -A -o wide
change policy, here so that star-2 may reach star-1:
  {felix} lab exec{option} fabric -- felix apply -f {policy}
  {felix} lab reach{option}
take things away and bring them back:
  {felix} lab stop{option} {host} --kill
  {felix} lab start{option} {host}
and remove it with:
  {felix} lab down{option}"""


def _has_endpoint_file(host: Host, workload: Workload) -> bool:
    directory = host.directory / "status" / "endpoint-status"
    return (directory / f"{documents.ORCHESTRATOR} default%2F{workload.name} eth0").exists()


def _blocks(host: Host) -> tuple[Net, Net]:
    return host.addresses.block_v4, host.addresses.block_v6


def _has_routes(host: Host, expected: Set[str]) -> bool:
    return expected <= {line.split()[0] for line in _bird_routes(host).splitlines()}


def _bird_routes(host: Host) -> str:
    """Returns the kernel's routes that BIRD wrote, both families, a line each."""
    return "".join(host.run(["ip", family, "route", "show", "proto", "bird"]).stdout for family in ("-4", "-6"))
