"""`felix status`: what the agent of this host says of itself."""

from __future__ import annotations

import argparse
import sys
from collections.abc import Iterator, Sequence
from pathlib import Path

import msgspec

from felix.cli.connection import ask_agent
from felix.config.exits import ExitCode
from felix.config.load import load_settings
from felix.errors import DataError, EnvironmentFault
from felix.model.keys import ResourceKey, parse_key

_EXAMPLES = """\
examples:
  felix status
  felix status -o json
  until felix status > /dev/null; do sleep 1; done     wait until the agent is ready

Asks the agent on the socket felix.sock in RunDir, which is found as `felix run` finds it. What is wrong stands first.
Needs root. Exit code 0: the agent is ready; 1: it is not; 69: no agent answers.
"""


class Datastore(msgspec.Struct, frozen=True):
    """What the agent knows of etcd. failure: why it is not connected."""

    endpoints: tuple[str, ...] = ()
    connected: bool = False
    failure: str = ""
    revision: int = 0


class Dataplane(msgspec.Struct, frozen=True):
    """How far the kernel is. revision: the last one of etcd that is programmed whole."""

    revision: int = 0


class Endpoint(msgspec.Struct, frozen=True):
    """One workload endpoint: up, down or error, and why."""

    status: str = ""
    reason: str = ""


class Bgp(msgspec.Struct, frozen=True):
    """BIRD's sessions and their states. fault: why BIRD does not answer."""

    fault: str = ""
    sessions: dict[str, str] = {}


class Vxlan(msgspec.Struct, frozen=True):
    """The tunnel. addresses: of this host in it, by family, empty until it has one. hosts: that it leads to, counted
    once for each family. routes: prefixes of theirs.
    """

    addresses: dict[str, str] = {}
    hosts: int = 0
    routes: int = 0


class Status(msgspec.Struct, frozen=True):
    """What `GET /v1/status` answers, as far as people want it.

    held: the mass deletion that waits for consent. fenced: why this host has to clean up before it takes part again.
    collector: whether this agent collects leaked addresses.
    """

    host: str = ""
    ready: bool = False
    held: str = ""
    fenced: str = ""
    collector: bool = False
    datastore: Datastore = Datastore()
    dataplane: Dataplane = Dataplane()
    endpoints: dict[str, Endpoint] = {}
    bgp: Bgp = Bgp()
    vxlan: Vxlan = Vxlan()
    problems: tuple[str, ...] = ()


def add_parser(subparsers: argparse._SubParsersAction[argparse.ArgumentParser]) -> None:
    """`felix status` is known to the parser."""
    parser = subparsers.add_parser(
        "status",
        help="show how the agent of this host is",
        description="Shows how the agent of this host is: etcd, kernel, endpoints, BGP sessions, problems.",
        epilog=_EXAMPLES,
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    parser.add_argument(
        "-o", "--output", choices=("table", "json"), default="table", help="form of the output (default: table)"
    )
    parser.add_argument("--config-file", type=Path, metavar="FILE", help="settings (default: /etc/calico/felix.cfg)")
    parser.set_defaults(func=_status)


def _status(arguments: argparse.Namespace) -> int:
    try:
        run_dir = Path(load_settings(arguments.config_file).settings.run_dir)
    except DataError as error:
        print(f"felix: {error}", file=sys.stderr)
        return ExitCode.BAD_SETTING
    answer = ask_agent(run_dir, "GET", "/v1/status")
    try:
        status = msgspec.convert(answer, Status)
    except msgspec.ValidationError as error:
        raise EnvironmentFault(f"what answers in {run_dir} is no agent that this command knows: {error}") from error
    if arguments.output == "json":
        print(msgspec.json.format(msgspec.json.encode(answer)).decode())
    else:
        print("\n".join(render_status(status)))
    return ExitCode.OK if status.ready else ExitCode.FAILED


def render_status(status: Status) -> Iterator[str]:
    """Yields the lines for people: a summary, problems, then endpoints and sessions, those that are not well first."""
    yield f"{'agent':<10} {status.host}: {'ready' if status.ready else 'NOT ready'}"
    yield f"{'etcd':<10} {_describe_datastore(status.datastore)}"
    yield f"{'kernel':<10} {_describe_dataplane(status)}"
    yield f"{'endpoints':<10} {_count([one.status for one in status.endpoints.values()]) or 'none on this host'}"
    yield f"{'BGP':<10} {status.bgp.fault or _count(list(status.bgp.sessions.values())) or 'no sessions'}"
    if status.vxlan.addresses:
        yield f"{'VXLAN':<10} {_describe_vxlan(status.vxlan)}"
    if status.held:
        yield f"{'held':<10} {status.held}"
    if status.fenced:
        yield f"{'fenced':<10} {status.fenced}; it has to clean up before it takes part again"
    if status.collector:
        yield f"{'collector':<10} this agent collects leaked addresses and lost hosts"
    if status.problems:
        yield ""
        yield "PROBLEMS"
        yield from map(_name_object, status.problems)
    rows = [(key, one.status, one.reason) for key, one in status.endpoints.items()]
    yield from _render_table(("ENDPOINT", "STATUS", "REASON"), rows, "up")
    sessions = [(name, state, "") for name, state in status.bgp.sessions.items()]
    yield from _render_table(("SESSION", "STATE", ""), sessions, "Established")


def _name_object(problem: str) -> str:
    """Returns a problem whose object is called as in manifests, where it is a resource's key in etcd."""
    subject, colon, rest = problem.partition(": ")
    key = parse_key(subject)
    return f"{key}{colon}{rest}" if isinstance(key, ResourceKey) else problem


def _describe_datastore(datastore: Datastore) -> str:
    where = ", ".join(datastore.endpoints)
    if datastore.connected:
        return f"connected to {where}, revision {datastore.revision}"
    failure = f": {datastore.failure}" if datastore.failure else ""
    return f"NOT connected to {where}{failure}; what was read until revision {datastore.revision} is enforced"


def _describe_dataplane(status: Status) -> str:
    programmed, seen = status.dataplane.revision, status.datastore.revision
    if programmed >= seen:
        return f"programmed as of revision {programmed}"
    return f"programmed as of revision {programmed}, {seen - programmed} revisions behind etcd"


def _describe_vxlan(vxlan: Vxlan) -> str:
    own = ", ".join(address or f"no {family} address yet" for family, address in sorted(vxlan.addresses.items()))
    return f"{own}; {vxlan.hosts} other ends, {vxlan.routes} prefixes behind them"


def _count(states: Sequence[str]) -> str:
    """Returns `7 up, 1 error`, the most frequent first; empty when there are none."""
    counts = sorted(((states.count(state), state) for state in set(states)), key=lambda one: (-one[0], one[1]))
    return ", ".join(f"{count} {state}" for count, state in counts)


def _render_table(header: tuple[str, str, str], rows: Sequence[tuple[str, str, str]], well: str) -> Iterator[str]:
    if not rows:
        return
    lines = [header, *sorted(rows, key=lambda row: (row[1] == well, row))]
    widths = [max(len(line[column]) for line in lines) for column in range(len(header))]
    yield ""
    for line in lines:
        yield "  ".join(cell.ljust(width) for cell, width in zip(line, widths, strict=True)).rstrip()
