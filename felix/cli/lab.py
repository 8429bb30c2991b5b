"""`felix lab`: virtual hosts in network namespaces, to try policies and to show them."""

from __future__ import annotations

import argparse
import asyncio
import os
import signal
import sys
import time

import msgspec

from felix.cli import lab_mesos
from felix.cli.cni_check import fill_parser
from felix.errors import DataError
from felix.lab.demo.report import paint
from felix.lab.demo.run import MASTER_PORT, PAGE_PORT, Demo, Options
from felix.lab.describe import describe, print_status
from felix.lab.lab import Lab, check_root
from felix.lab.matrix import measure, render_seen
from felix.lab.own import find_own_command, name_option
from felix.lab.place import Place
from felix.lab.probe import PROTOCOLS
from felix.lab.state import list_labs

_EXAMPLES = """\
examples:
  felix lab up --hosts 2              two hosts with etcd, agents and BIRD
  felix lab up --vxlan Always         two hosts in two subnets, joined by VXLAN
  felix lab add h1 web --profile open --label role=web --listen 80
  felix lab remove web
  felix lab status                    hosts, workloads, addresses
  felix lab status -o json            the same, for scripts
  felix lab exec h1 -- felix status   a command on a virtual host
  felix lab exec web -- ping -c1 192.168.2.0
  felix lab exec fabric -- felix apply -f policy.yaml
  felix lab reach --port 80           who reaches whom, tried from inside all workloads
  felix lab reach --protocol icmp -o json
  felix lab stop h1 --kill            the agent of h1, at once; what it programmed stays
  felix lab start h1                  it runs again, and is ready
  felix lab stop etcd                 the agents go on without it
  felix lab demo                      the three stages of the Star demonstration, each cell tried
  felix lab demo --keep               the same; all of it stays up, with its page, until Ctrl-C
  felix lab demo --stage 3 -o json    one stage alone, as JSON
  felix lab mesos run FILE.json       applications of Marathon on simulated Mesos agents
  felix lab mesos status
  felix lab cni-check bridge          whether a CNI plug-in does what the specification says
  felix lab cni-check ./mine --conf mine.conf -o json
  felix lab cni-check felix-cni --host h1 --quiet
  felix lab down                      everything removed
  felix lab down --all                of all labs

Needs root. Touches nothing outside namespaces whose names start with fx-<lab>- (fx-cni. for cni-check) and
/run/felix-lab/<lab>.
"""


def add_parser(subparsers: argparse._SubParsersAction[argparse.ArgumentParser]) -> None:
    """`felix lab` and its verbs are known to the parser."""
    parser = subparsers.add_parser(
        "lab",
        help="virtual hosts in network namespaces, to try all of it",
        description="Virtual hosts in network namespaces, joined by a fabric, with etcd, agents and BIRD.",
        epilog=_EXAMPLES,
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    verbs = parser.add_subparsers(dest="verb", required=True, metavar="VERB")

    up = _add_verb(verbs, "up", "build a lab; one of the same name is replaced", _up)
    up.add_argument("--hosts", type=int, default=2, metavar="N", help="how many virtual hosts (default: 2)")
    up.add_argument("--no-agents", action="store_true", help="do not start the agents")
    up.add_argument("--no-bird", action="store_true", help="do not start BIRD")
    up.add_argument(
        "--vxlan",
        choices=("Always", "CrossSubnet"),
        help="pools with that vxlanMode and no BIRD; hosts with even numbers are in another subnet, behind a router",
    )
    up.add_argument(
        "--timeout", type=float, default=20.0, metavar="S", help="how long to wait for agents (default: 20 s)"
    )

    status = _add_verb(verbs, "status", "show hosts and workloads", _status)
    status.add_argument("-o", "--output", choices=("table", "json"), default="table")

    add = _add_verb(verbs, "add", "add a workload to a host", _add)
    add.add_argument("host", metavar="HOST", help="h1, h2, ...")
    add.add_argument("workload", metavar="WORKLOAD", help="its name")
    add.add_argument("--profile", action="append", default=[], metavar="NAME", help="a profile; may be repeated")
    add.add_argument("--label", action="append", default=[], metavar="KEY=VALUE", help="a label; may be repeated")
    add.add_argument("--listen", action="append", default=[], metavar="PORT", help="echo on that port: 80 or 53/udp")

    remove = _add_verb(verbs, "remove", "remove a workload", _remove)
    remove.add_argument("workload", metavar="WORKLOAD")

    execute = _add_verb(verbs, "exec", "run a command on a host, in a workload or on the fabric", _exec)
    execute.add_argument("place", metavar="HOST|WORKLOAD|fabric")
    execute.add_argument("command", nargs=argparse.REMAINDER, metavar="-- CMD", help="default: a shell")

    reach = _add_verb(verbs, "reach", "show which workload reaches which now", _reach)
    reach.add_argument(
        "--port", type=_parse_port, default=9000, metavar="PORT", help="port at the target (default: 9000)"
    )
    reach.add_argument("--protocol", choices=PROTOCOLS, default="tcp", help="how it is tried (default: tcp)")
    reach.add_argument(
        "-o", "--output", choices=("table", "json"), default="table", help="json: what each family came to, by source"
    )

    stop = _add_verb(verbs, "stop", "stop the agent of a host, or etcd; the network stays as it is", _stop)
    stop.add_argument("target", metavar="HOST|etcd", help="h1, h2, ..., or etcd")
    stop.add_argument("--kill", action="store_true", help="with SIGKILL instead of SIGTERM")

    start = _add_verb(verbs, "start", "start the agent of a host, or etcd, again, and wait until it is ready", _start)
    start.add_argument("target", metavar="HOST|etcd", help="h1, h2, ..., or etcd")

    down = _add_verb(verbs, "down", "remove a lab", _down)
    down.add_argument("--all", action="store_true", help="all labs of this machine")

    demo = _add_verb(verbs, "demo", "show the stages of the Star demonstration, try every cell, and tidy up", _demo)
    demo.add_argument("--stage", type=int, choices=(1, 2, 3), default=0, help="that one alone (default: everything)")
    demo.add_argument("--keep", action="store_true", help="leave all of it up, with its page, until Ctrl-C")
    demo.add_argument("-o", "--output", choices=("table", "json"), default="table", help="json: the report, at the end")
    demo.add_argument(
        "--page-port", type=int, default=PAGE_PORT, metavar="PORT", help=f"on 127.0.0.1 (default: {PAGE_PORT})"
    )
    demo.add_argument(
        "--master-port", type=int, default=MASTER_PORT, metavar="PORT", help=f"on 127.0.0.1 (default: {MASTER_PORT})"
    )

    lab_mesos.fill_parser(_add_verb(verbs, "mesos", "run applications of Marathon on simulated Mesos agents", _stop))
    fill_parser(_add_verb(verbs, "cni-check", "check a CNI plug-in against the specification", _stop))


def _add_verb(
    verbs: argparse._SubParsersAction[argparse.ArgumentParser],
    name: str,
    text: str,
    function: object,
) -> argparse.ArgumentParser:
    verb = verbs.add_parser(
        name,
        help=text,
        description=f"{text[0].upper()}{text[1:]}.",
        epilog="\n".join(
            ["examples:", *(line for line in _EXAMPLES.splitlines() if f"felix lab {name} " in f"{line} ")]
        ),
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    verb.add_argument("--name", default="demo", metavar="LAB", help="the lab's name (default: demo)")
    verb.set_defaults(func=function)
    return verb


def _up(arguments: argparse.Namespace) -> int:
    lab = Lab(arguments.name)
    started = time.monotonic()
    has_bird = not (arguments.no_bird or arguments.vxlan)
    lab.up(
        hosts=arguments.hosts,
        agents=not arguments.no_agents,
        bird=has_bird,
        vxlan_mode=arguments.vxlan or "Never",
        is_apart=arguments.vxlan is not None,
    )
    _say(f"{arguments.hosts} host{'s' if arguments.hosts > 1 else ''}, etcd{', BIRD' if has_bird else ''} up")
    if not arguments.no_agents:
        for host in lab.hosts:
            host.wait_agent_ready(arguments.timeout)
            _say(f"agent of {host.name} ready")
    see = f"{find_own_command()} lab status{name_option(lab.name)}"
    _say(f"lab {lab.name} is up after {time.monotonic() - started:.1f} s; try: {see}")
    return 0


def _add(arguments: argparse.Namespace) -> int:
    lab = _get_lab(arguments.name)
    labels = dict(_parse_label(text) for text in arguments.label)
    listeners = [_parse_listener(text) for text in arguments.listen]
    workload = lab.add_workload(lab.host(arguments.host), arguments.workload, profiles=arguments.profile, labels=labels)
    for port, protocol in listeners:
        workload.listen(port, protocol)
    print(f"{workload.name} {workload.ipv4} {workload.ipv6} {workload.interface}")
    return 0


def _remove(arguments: argparse.Namespace) -> int:
    lab = _get_lab(arguments.name)
    was_there = arguments.workload in lab.workloads
    lab.remove_workload(arguments.workload)
    _say(f"workload {arguments.workload} is gone" if was_there else f"there was no workload {arguments.workload}")
    return 0


def _status(arguments: argparse.Namespace) -> int:
    status = describe(_get_lab(arguments.name))
    if arguments.output == "json":
        print(msgspec.json.format(msgspec.json.encode(status)).decode())
        return 0
    print_status(status)
    return 0


def _exec(arguments: argparse.Namespace) -> int:
    place: Place = _get_lab(arguments.name).place(arguments.place)
    words = arguments.command[1:] if arguments.command[:1] == ["--"] else arguments.command
    command = place.command(words or [os.environ.get("SHELL", "/bin/sh")])
    sys.stdout.flush()
    os.execvpe(command[0], command, place.program_environment())


def _reach(arguments: argparse.Namespace) -> int:
    workloads = _get_lab(arguments.name).workloads
    if len(workloads) < 2:
        remedy = "make two with felix lab add; what runs under felix lab mesos is tried by felix lab mesos exec"
        raise DataError(f"lab {arguments.name} has {len(workloads)} workloads of its own: {remedy}")
    cells = measure(workloads, arguments.port, arguments.protocol)
    if arguments.output == "json":
        found: dict[str, dict[str, tuple[str, ...]]] = {name: {} for name in workloads}
        for (source, target), outcomes in cells.items():
            found[source][target] = outcomes
        print(msgspec.json.format(msgspec.json.encode(found)).decode())
        return 0
    where = arguments.protocol.upper() + ("" if arguments.protocol == "icmp" else f" {arguments.port}")
    print(f"{where}, a row per source. no: silence. refused: it came through, and nobody listens. x/y: IPv4/IPv6\n")
    print(render_seen(list(workloads), cells))
    return 0


def _stop(arguments: argparse.Namespace) -> int:
    lab = _get_lab(arguments.name)
    number = signal.SIGKILL if arguments.kill else signal.SIGTERM
    if arguments.target == "etcd":
        lab.stop_etcd(number)
    else:
        lab.host(arguments.target).stop_agent(number)
    _say(f"{_describe_target(arguments.target)} has ended")
    return 0


def _start(arguments: argparse.Namespace) -> int:
    lab = _get_lab(arguments.name)
    started = time.monotonic()
    if arguments.target == "etcd":
        lab.start_etcd()
    else:
        host = lab.host(arguments.target)
        host.start_agent()
        host.wait_agent_ready()
    _say(f"{_describe_target(arguments.target)} is ready after {time.monotonic() - started:.1f} s")
    return 0


def _describe_target(target: str) -> str:
    return target if target == "etcd" else f"agent of {target}"


def _demo(arguments: argparse.Namespace) -> int:
    is_json = arguments.output == "json"
    options = Options(
        arguments.name,
        arguments.stage,
        arguments.keep,
        page_port=arguments.page_port,
        master_port=arguments.master_port,
    )
    demo = Demo(Lab(arguments.name), options, _say if is_json else _tell)
    report = asyncio.run(demo.run())
    if is_json:
        print(msgspec.json.format(msgspec.json.encode(report.document())).decode())
    return 0 if report.is_right else 1


def _tell(text: str) -> None:
    is_coloured = sys.stdout.isatty() and "NO_COLOR" not in os.environ
    print(paint(text) if is_coloured else text, flush=True)


def _down(arguments: argparse.Namespace) -> int:
    for name in list_labs() if arguments.all else [arguments.name]:
        lab = Lab(name)
        was_there = lab.directory.exists()
        lab.down()  # also without directory: namespaces may be left
        _say(f"lab {name} is gone" if was_there else f"there was no lab {name}")
    return 0


def _get_lab(name: str) -> Lab:
    check_root()
    lab = Lab(name)
    if not lab.is_up():
        raise DataError(f"lab {name!r} is not up; start it with: {find_own_command()} lab up{name_option(name)}")
    return lab


def _parse_port(text: str) -> int:
    if not text.isdecimal() or not 0 < int(text) < 65536:
        raise argparse.ArgumentTypeError(f"{text!r}: expected a port from 1 to 65535")
    return int(text)


def _parse_label(text: str) -> tuple[str, str]:
    key, equals, value = text.partition("=")
    if not key or not equals:
        raise DataError(f"label {text!r}: give KEY=VALUE, as in role=web")
    return key, value


def _parse_listener(text: str) -> tuple[int, str]:
    port, _, protocol = text.partition("/")
    if not port.isdigit() or not 0 < int(port) < 65536 or protocol not in {"", "tcp", "udp"}:
        raise DataError(f"listener {text!r}: give PORT or PORT/udp, as in 80 or 53/udp")
    return int(port), protocol or "tcp"


def _say(text: str) -> None:
    print(text, file=sys.stderr)
