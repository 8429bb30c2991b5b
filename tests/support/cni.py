"""A runtime for tests of CNI plug-ins: it calls executables as runtimes do, and keeps what came back."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from felix.lab.cni.call import Answer
from tests.support.netns import Namespace
from tools.launchers import MODULE_BY_NAME, ROOT, render_launcher

Conf = dict[str, Any]
FOREIGN = "/usr/lib/cni"
"""Where Debian's containernetworking-plugins are."""
VERSIONS = ("0.1.0", "0.2.0", "0.3.0", "0.3.1", "0.4.0", "1.0.0", "1.1.0")
_PATH = "/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin"


def write_launchers(folder: Path) -> Path:
    """Returns the folder, with the executables that `make setup` makes, as if it had been copied there."""
    for name, module in MODULE_BY_NAME.items():
        path = folder / name
        path.write_text(render_launcher(module, os.path.realpath(sys.executable), str(ROOT)))
        path.chmod(0o755)
    return folder


@dataclass
class Runtime:
    """Calls plug-ins from `folders`. prefix: what enters the host's namespace; empty for this one's.

    netns: of the container, "" for none. socket: of the agent, empty for the plug-in's own choice.
    """

    folders: tuple[str, ...]
    netns: str = ""
    socket: str = ""
    prefix: tuple[str, ...] = ()
    container: str = "c1"
    interface: str = "eth0"
    extra: Mapping[str, str] = field(default_factory=dict)

    def conf(self, version: str | None = "1.1.0", **fields: object) -> Conf:
        """Returns a configuration of felix-cni; version None: it names none."""
        conf: Conf = {"name": "net1", "type": "felix-cni", "agent_timeout": 20}
        conf |= {"cniVersion": version} if version else {}
        conf |= {"agent_socket": self.socket} if self.socket else {}
        return conf | fields

    def call(
        self,
        command: str,
        conf: Conf | bytes | None,
        *,
        without: Iterable[str] = (),
        variables: Mapping[str, str] | None = None,
        plugin: str = "",
    ) -> Answer:
        """Returns how the call ended; the plug-in of the configuration's type gets nothing but CNI's variables."""
        environment = {
            "PATH": _PATH,
            "CNI_COMMAND": command,
            "CNI_CONTAINERID": self.container,
            "CNI_NETNS": self.netns,
            "CNI_IFNAME": self.interface,
            "CNI_PATH": ":".join(self.folders),
        }
        environment |= {**self.extra, **(variables or {})}
        for name in without:
            environment.pop(name, None)
        name = plugin or (str(conf["type"]) if isinstance(conf, dict) else "felix-cni")
        raw = json.dumps(conf).encode() if isinstance(conf, dict) else conf or b""
        done = subprocess.run(
            [*self.prefix, str(self.find(name))],
            env=environment,
            input=raw,
            capture_output=True,
            timeout=60,
            check=False,
            cwd="/",
        )
        return Answer(done.returncode, done.stdout.decode(), done.stderr.decode())

    def add(self, conf: Conf, **rest: Any) -> Conf:
        """Returns the result of an ADD that must succeed."""
        answer = self.call("ADD", conf, **rest)
        assert answer.is_success, answer.describe()
        assert answer.document is not None, answer.stdout
        return answer.document

    def succeed(self, command: str, conf: Conf, **rest: Any) -> None:
        """A call of DEL, CHECK, GC or STATUS succeeds and prints nothing."""
        answer = self.call(command, conf, **rest)
        assert answer.is_silent_success, answer.describe()

    def find(self, name: str) -> Path:
        """Returns the executable of that name."""
        return next(path for folder in self.folders if (path := Path(folder) / name).is_file())


class CniHost:
    """A host as a runtime sees it: containers to attach, plug-ins to call. Containers go with `close`.

    namespace: of the host, by name. socket: of its agent. address: one of its pools that nobody has.
    """

    def __init__(self, namespace: str, folders: tuple[str, ...], socket: str, address: str) -> None:
        self.namespace = namespace
        self.address = address
        self._prefix = ("nsenter", f"--net=/run/netns/{namespace}", "--")
        self._folders = folders
        self._socket = socket
        self._containers: list[Namespace] = []

    def container(self, name: str = "") -> Runtime:
        """Returns a runtime with a new container. name: its id, empty for one that follows from its namespace."""
        namespace = Namespace("cni")
        self._containers.append(namespace)
        return Runtime(
            self._folders,
            netns=f"/run/netns/{namespace.name}",
            socket=self._socket,
            prefix=self._prefix,
            container=name or namespace.name,
        )

    def execute(self, runtime: Runtime, *command: str) -> str:
        """Returns the output of a command inside a container, which must succeed."""
        return next(one for one in self._containers if runtime.netns.endswith(f"/{one.name}")).execute(*command)

    def execute_on_host(self, *command: str) -> str:
        """Returns the output of a command in the host's namespace, which must succeed."""
        return subprocess.run([*self._prefix, *command], check=True, capture_output=True, text=True, timeout=60).stdout

    def lose(self, runtime: Runtime) -> None:
        """The container's namespace is gone, as after a reboot."""
        for one in self._containers:
            if runtime.netns.endswith(f"/{one.name}"):
                one.delete()
                self._containers.remove(one)
                return

    def close(self) -> None:
        """Nothing of the containers is left."""
        for one in self._containers:
            one.delete()
