"""`felix lab mesos`: applications of a Marathon file on simulated Mesos agents, with real plug-ins."""

from __future__ import annotations

import argparse
import asyncio
import signal
import sys
from collections.abc import Sequence
from pathlib import Path

import msgspec

from felix.errors import DataError
from felix.lab.lab import Lab, check_root
from felix.lab.marathon import load_applications, load_document
from felix.lab.mesos.ask import MasterClient, find_master, read_containers
from felix.lab.mesos.cluster import MesosCluster, Settings, find_container, let_executors_in, place_of
from felix.lab.mesos.dns import start_name_servers
from felix.lab.mesos.master import Master
from felix.lab.mesos.serve import MARATHON_PORT, MasterServer
from felix.lab.mesos.state import MASTER_PORT
from felix.lab.mesos.types import CNI, NET_MODULES, Container
from felix.lab.names import FABRIC_ADDRESS_V4
from felix.lab.own import find_own_command, name_option
from felix.lab.place import Place

_TEXT = """\
A simulator, not Mesos: agents, master and Marathon are played, as far as a container's network goes. What is real:
processes in network namespaces, the plug-ins that are called as Mesos calls them, felix, its agents, and the packets.
Tasks run on when the command has ended; the next one finds them again, as a Mesos agent does after a restart. While
`felix lab mesos master` runs, it holds the agents, and the other verbs ask it."""

_EXAMPLES = """\
examples:
  felix lab mesos run demo/mesos-pairs.json    starts the applications; builds the lab if it is not up
  felix lab mesos run FILE --isolator cni      through felix-cni, as Mesos 1.x calls CNI plug-ins
  felix lab mesos status                       tasks with host, state, addresses
  felix lab mesos status -o json               as Mesos' master says it at /master/state
  felix lab mesos exec TASK -- ip addr         a command in a task's network
  felix lab mesos kill /pairs                  an application, a group, or one task
  felix lab mesos master                       holds the agents: /master/state, Marathon's /v2, events, a page
  felix lab mesos master --dns                 with a name server on each host, for the tasks
  felix lab down                               tasks, agents, everything
"""


def fill_parser(parser: argparse.ArgumentParser) -> None:
    """The verbs of `felix lab mesos` are known to the parser."""
    parser.description = _TEXT
    parser.epilog = _EXAMPLES
    verbs = parser.add_subparsers(dest="mesos_verb", required=True, metavar="VERB")

    run = _add_verb(verbs, "run", "start the applications of a Marathon file that do not run yet", _run)
    run.add_argument("file", type=Path, metavar="FILE", help="what Marathon takes at PUT /v2/groups, unchanged")
    run.add_argument(
        "--hosts", type=int, default=2, metavar="N", help="hosts of a lab that is built for it (default: 2)"
    )
    run.add_argument(
        "--isolator",
        choices=(NET_MODULES, CNI),
        default="",
        help=f"by which plug-ins new tasks get their network (default: as the last time, or {NET_MODULES})",
    )
    run.add_argument("--deadline", type=float, default=30.0, metavar="S", help="for a plug-in's call (default: 30 s)")

    status = _add_verb(verbs, "status", "show tasks with host, state and addresses", _status)
    status.add_argument("-o", "--output", choices=("table", "json"), default="table")

    execute = _add_verb(verbs, "exec", "run a command in the network of a task", _exec)
    execute.add_argument("task", metavar="TASK", help="its id, name or application")
    execute.add_argument("command", nargs=argparse.REMAINDER, metavar="-- CMD")

    kill = _add_verb(verbs, "kill", "end tasks; what waits for their ports starts", _kill)
    kill.add_argument("target", metavar="TASK|APP|GROUP", help="a task's id or name, or the path of an application")

    master = _add_verb(verbs, "master", "hold the agents, and answer over HTTP, until Ctrl-C", _master)
    master.add_argument("--dns", action="store_true", help="run felix dns on each host; new tasks ask it for names")
    master.add_argument(
        "--port", type=int, default=MASTER_PORT, help=f"of the page on 127.0.0.1 (default: {MASTER_PORT})"
    )


def _add_verb(
    verbs: argparse._SubParsersAction[argparse.ArgumentParser], name: str, text: str, function: object
) -> argparse.ArgumentParser:
    lines = [line for line in _EXAMPLES.splitlines() if f"felix lab mesos {name} " in f"{line} "]
    verb = verbs.add_parser(
        name,
        help=text,
        description=f"{text[0].upper()}{text[1:]}.\n\n{_TEXT}",
        epilog="\n".join(["examples:", *lines]),
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    verb.add_argument("--name", default=argparse.SUPPRESS, metavar="LAB", help="the lab's name (default: demo)")
    verb.set_defaults(func=function)
    return verb


def _run(arguments: argparse.Namespace) -> int:
    check_root()
    applications = load_applications(arguments.file)
    lab = Lab(arguments.name)
    if lab.is_up() and (master := find_master(lab)):
        document = load_document(arguments.file)
        if isinstance(document, dict) and ("apps" in document or "groups" in document):
            master.put("/v2/groups", document)
        else:
            master.put("/v2/apps", document if isinstance(document, list) else [document])
        _print_overview(master)
        return 0
    if not lab.is_up():
        _say(f"building lab {lab.name} with {arguments.hosts} hosts")
        lab.up(hosts=arguments.hosts, agents=False)
    if let_executors_in(lab):
        for host in lab.hosts:
            host.stop_agent()  # its network stays as it is; it reads the setting when it starts
    for host in lab.hosts:
        host.start_agent()
    for host in lab.hosts:
        host.wait_agent_ready()
    settings = Settings(door=arguments.isolator, deadline_s=arguments.deadline)

    async def run() -> int:
        async with MesosCluster(lab, settings) as mesos:
            launched = await mesos.run(applications)
            _print(mesos)
            return 1 if any(container.state == "TASK_FAILED" for container in launched) else 0

    return asyncio.run(run())


def _status(arguments: argparse.Namespace) -> int:
    lab = _get_lab(arguments.name)
    if master := find_master(lab):
        if arguments.output == "json":
            print(msgspec.json.format(msgspec.json.encode(master.read("/master/state"))).decode())
        else:
            _print_overview(master)
        return 0

    async def status() -> None:
        async with MesosCluster(lab) as mesos:
            if arguments.output == "json":
                print(msgspec.json.format(msgspec.json.encode(mesos.state())).decode())
            else:
                _print(mesos)

    asyncio.run(status())
    return 0


def _exec(arguments: argparse.Namespace) -> int:
    words = arguments.command[1:] if arguments.command[:1] == ["--"] else arguments.command
    if not words:
        raise DataError("give a command: felix lab mesos exec TASK -- ip addr")

    lab = _get_lab(arguments.name)

    async def execute() -> int:
        place: Place
        if find_master(lab):
            place = place_of(lab, find_container([one for _, one in read_containers(lab)], arguments.task))
        else:
            async with MesosCluster(lab) as mesos:
                place = mesos.place_of(mesos.find(arguments.task))
        process = await asyncio.create_subprocess_exec(*place.command(words), env=place.program_environment())
        return await process.wait()

    return asyncio.run(execute())


def _kill(arguments: argparse.Namespace) -> int:
    lab = _get_lab(arguments.name)
    if master := find_master(lab):
        master.delete(f"/v2/groups/{arguments.target.strip('/')}")
        _print_overview(master)
        return 0

    async def kill() -> None:
        async with MesosCluster(lab) as mesos:
            for container in await mesos.kill(arguments.target):
                print(f"{container.task.task_id} {container.state}")

    asyncio.run(kill())
    return 0


def _master(arguments: argparse.Namespace) -> int:
    lab = _get_lab(arguments.name)

    async def serve() -> None:
        loop, ended = asyncio.get_running_loop(), asyncio.Event()
        for number in (signal.SIGINT, signal.SIGTERM):
            loop.add_signal_handler(number, ended.set)
        async with Master(lab, Settings(has_dns=arguments.dns)) as master:
            server = MasterServer(master)
            try:
                page = await server.open(arguments.port)
                if arguments.dns:
                    start_name_servers(lab)
                _say(
                    f"simulated Mesos of lab {lab.name}: {page}; on the fabric http://{FABRIC_ADDRESS_V4}:{MASTER_PORT}"
                    f" and http://{FABRIC_ADDRESS_V4}:{MARATHON_PORT}/v2/apps"
                )
                await ended.wait()
            finally:
                await server.close()

    asyncio.run(serve())
    return 0


def _get_lab(name: str) -> Lab:
    check_root()
    lab = Lab(name)
    if not lab.is_up():
        raise DataError(f"lab {name!r} is not up; start it with: {find_own_command()} lab up{name_option(name)}")
    return lab


def _print(mesos: MesosCluster) -> None:
    """Standard output has a table: tasks that run, then what waits, then the last ones that ended."""
    print("simulated Mesos agents; the network is real\n")
    found = mesos.containers
    rows = [_row(agent.host.name, one) for agent, one in found if one.is_live]
    rows += [(app, "-", "WAITING", "", "no offer has its ports, cpus or mem") for app in mesos.waiting]
    rows += [_row(agent.host.name, one) for agent, one in found if not one.is_live]
    _print_table(("TASK", "HOST", "STATE", "ADDRESSES", "MESSAGE"), rows)
    for agent in mesos.agents:
        for problem in agent.problems:
            print(f"{agent.host.name}: {problem}", file=sys.stderr)


def _print_overview(master: MasterClient) -> None:
    """Standard output has the same table as a running master tells it."""
    seen = master.read("/overview")
    assert isinstance(seen, dict)
    print("simulated Mesos agents, held by a master; the network is real\n")
    host_by_address = {agent["address"]: agent["host"] for agent in seen["agents"]}
    rows = []
    for task in seen["tasks"]:
        addresses = [*(one["ipAddress"] for one in task["ipAddresses"]), *(f":{port}" for port in task["ports"])]
        rows.append((task["name"], host_by_address[task["host"]], task["state"], ", ".join(addresses), ""))
    rows += [(app, "-", "WAITING", "", "no offer has its ports, cpus or mem") for app in seen["waiting"]]
    _print_table(("TASK", "HOST", "STATE", "ADDRESSES", "MESSAGE"), rows)


def _row(host: str, container: Container) -> tuple[str, ...]:
    last = container.statuses[-1] if container.statuses else None
    ports = [f":{port}" for port in container.task.resources.ports]
    addresses = ", ".join([*(last.addresses if last else ()), *ports])
    message = last.message.splitlines()[0] if last and last.message else ""
    return (container.task.name, host, container.state, addresses, message)


def _print_table(header: Sequence[str], rows: Sequence[Sequence[str]]) -> None:
    widths = [max(len(row[column]) for row in (header, *rows)) for column in range(len(header))]
    for row in (header, *rows):
        print("  ".join(cell.ljust(width) for cell, width in zip(row, widths, strict=True)).rstrip())


def _say(text: str) -> None:
    print(text, file=sys.stderr)
