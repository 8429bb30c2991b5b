"""The door `cni`: how the isolator `network/cni` of Mesos 1.x calls CNI plug-ins. Shell.

Six environment variables and nothing inherited; the config of a file with `args."org.apache.mesos".network_info`
added; results of specification 0.2.0 at most; no VERSION, no CHECK, no chaining. Two things differ from Mesos: the
namespace's handle lies where `ip netns` finds it, and an answer without any address fails the launch.
"""

from __future__ import annotations

import asyncio
import json
from collections.abc import Mapping
from pathlib import Path

import msgspec

from felix.errors import DataError
from felix.lab.mesos.program import PlugInFailed, Program
from felix.lab.mesos.types import CNI, Attachment, Container, NetworkInfo, TaskInfo, address_record
from felix.lab.mesos.wanted import LaunchRefused
from felix.lab.namespace import NETNS_DIR, attach_namespace, delete_namespaces, list_namespaces

RESERVED = "org.apache.mesos"
_PATH = "/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin"


class CniIsolator:
    """Joins a container to each CNI network that its NetworkInfos name: `eth0`, `eth1`, … in their order.

    prefix: how names of namespaces begin. template: how a plug-in is run; its command is replaced.
    """

    door = CNI

    def __init__(self, config_dir: Path, plugins_dir: Path, prefix: str, template: Program) -> None:
        self._config_dir = config_dir
        self._plugins_dir = plugins_dir
        self._prefix = prefix
        self._template = template

    def wants(self, task: TaskInfo) -> bool:
        """Whether any NetworkInfo names a network; those without name are skipped."""
        return any(info.name for info in task.network_infos)

    async def prepare(self, container: Container) -> None:
        """The networks' configs are read and noted, nothing else."""
        infos = _named(container.task)
        names = [info.name for info in infos]
        if len(set(names)) != len(names):
            raise LaunchRefused(f"a container joins a network once, not {', '.join(names)}")
        configs = read_configs(self._config_dir, self._plugins_dir)
        container.attachments = [
            Attachment(info.name, f"eth{number}", _make_config(configs, info)) for number, info in enumerate(infos)
        ]

    async def isolate(self, container: Container, pid: int) -> None:
        """All networks are joined; all attempts have ended before a failure of one is raised."""
        attach_namespace(self._handle(container), pid)
        attempts = [self._add(container, attachment) for attachment in container.attachments]
        outcomes = await asyncio.gather(*attempts, return_exceptions=True)
        for outcome in outcomes:
            if isinstance(outcome, BaseException):
                raise outcome
        infos = _named(container.task)
        container.networks = [
            msgspec.structs.replace(info, ip_addresses=tuple(map(address_record, _addresses(attachment.result))))
            for info, attachment in zip(infos, container.attachments, strict=True)
        ]
        container.addresses = [one.ip_address for info in container.networks for one in info.ip_addresses]

    async def cleanup(self, container: Container) -> None:
        """Every network is left, last one first, and the handle is gone."""
        failures: list[str] = []
        for attachment in reversed(container.attachments):
            try:
                await self._call("DEL", container, attachment)
            except PlugInFailed as failure:
                failures.append(str(failure))
        if failures:
            raise PlugInFailed("; ".join(failures))
        delete_namespaces([self._handle(container)])

    def libprocess_ip(self, container: Container) -> str:
        """Returns the unspecified address, as Mesos does here."""
        return "0.0.0.0"

    def _handle(self, container: Container) -> str:
        return f"{self._prefix}{container.id[:13]}"

    async def _add(self, container: Container, attachment: Attachment) -> None:
        result = await self._call("ADD", container, attachment)
        if not _addresses(result):
            raise PlugInFailed(
                f"{attachment.network}: no ip4 or ip6 in the result; Mesos understands cniVersion 0.1.0 and 0.2.0 only"
            )
        attachment.result = result

    async def _call(self, verb: str, container: Container, attachment: Attachment) -> dict[str, object]:
        plug_in = str(attachment.config["type"])
        environment = {
            "CNI_COMMAND": verb,
            "CNI_CONTAINERID": container.id,
            "CNI_PATH": str(self._plugins_dir),
            "CNI_IFNAME": attachment.interface,
            "CNI_NETNS": str(NETNS_DIR / self._handle(container)),
            "PATH": _PATH,
        }
        if self._handle(container) not in list_namespaces(self._prefix):
            del environment["CNI_NETNS"]
        program = Program(
            (str(self._plugins_dir / plug_in),),
            self._template.prefix,
            environment,
            self._template.log,
            self._template.deadline_s,
        )
        status, answer = await program.run(json.dumps(attachment.config).encode())
        return _read_result(f"{attachment.network}: {plug_in} {verb}", verb, status, answer)


def read_configs(config_dir: Path, plugins_dir: Path) -> dict[str, dict[str, object]]:
    """Returns the usable configs of a directory by network; lists, duplicates and those without plug-in are skipped."""
    found: dict[str, dict[str, object]] = {}
    for path in sorted(config_dir.iterdir()):
        try:
            document = json.loads(path.read_bytes()) if path.is_file() else None
        except ValueError:
            continue
        if not isinstance(document, dict) or "plugins" in document:
            continue
        name, plug_in = document.get("name"), document.get("type")
        if (
            isinstance(name, str)
            and isinstance(plug_in, str)
            and name not in found
            and (plugins_dir / plug_in).exists()
        ):
            found[name] = document
    return found


def _named(task: TaskInfo) -> list[NetworkInfo]:
    return [info for info in task.network_infos if info.name]


def _make_config(configs: Mapping[str, dict[str, object]], info: NetworkInfo) -> dict[str, object]:
    config = configs.get(info.name)
    if config is None:
        raise LaunchRefused(f"no CNI network {info.name!r} is configured; there are: {', '.join(configs) or 'none'}")
    arguments = config.get("args") or {}
    if not isinstance(arguments, dict) or RESERVED in arguments:
        raise DataError(f"network {info.name}: args.{RESERVED} is reserved for the agent")
    network_info = json.loads(msgspec.json.encode(info))
    return {**config, "args": {**arguments, RESERVED: {"network_info": network_info}}}


def _addresses(result: Mapping[str, object]) -> list[str]:
    parts = [result.get(key) for key in ("ip4", "ip6")]
    return [str(part["ip"]) for part in parts if isinstance(part, dict) and "ip" in part]


def _read_result(what: str, verb: str, status: int, answer: bytes) -> dict[str, object]:
    try:
        document = json.loads(answer) if answer.strip() else {}
    except ValueError as error:
        raise PlugInFailed(f"{what}: not JSON: {answer[:80]!r}") from error
    if not isinstance(document, dict):
        raise PlugInFailed(f"{what}: expected an object, saw {answer[:80]!r}")
    if status != 0:
        raise PlugInFailed(f"{what}: exit status {status}: {document.get('msg', '')} {document.get('details', '')}")
    if verb == "ADD" and not document:
        raise PlugInFailed(f"{what}: no result")
    return document
