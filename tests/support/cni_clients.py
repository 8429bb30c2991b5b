"""Real CNI clients on a lab's host: podman and containerd, each with directories of its own, and nothing left of them.

Both run in the host's network namespace by nsenter: `ip netns exec` remounts /sys, in which runc then finds no cgroups.
"""

from __future__ import annotations

import contextlib
import json
import os
import shutil
import subprocess
import sys
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

from felix.lab import namespace
from felix.lab.host import Host
from felix.lab.place import Place, wait_until

REFERENCE = Path("/usr/lib/cni")
_EXAMPLE = Path(__file__).parents[2] / "deploy" / "cni" / "10-felix.conflist"
OWN = Path(sys.executable).parent
_ROOT = Path("/tmp")
_PREFIX = "felix-clients-"
_TIMEOUT_S = 60.0
_APPLETS = ("sh", "sleep", "ip", "ping", "nc", "cat")
_LIFE_S = "600"  # a container that nobody removes ends by itself
_RESULTS = Path("/var/lib/cni/results")  # where CNI's library keeps results, whatever a client's directories are

NETWORK = f"{_PREFIX}{os.getpid()}"

_CONTAINERS_CONF = """\
[network]
network_backend = "cni"
cni_plugin_dirs = ["{own}", "{reference}"]
network_config_dir = "{directory}/net.d"
default_network = "{network}"
[engine]
cgroup_manager = "cgroupfs"
events_logger = "none"
"""

_CONTAINERD_CONF = """\
version = 2
root = "{directory}/root"
state = "{directory}/state"
disabled_plugins = ["io.containerd.grpc.v1.cri", "io.containerd.snapshotter.v1.btrfs",
  "io.containerd.snapshotter.v1.zfs", "io.containerd.snapshotter.v1.aufs", "io.containerd.snapshotter.v1.devmapper"]
[grpc]
  address = "{directory}/c.sock"
[plugins."io.containerd.internal.v1.opt"]
  path = "{directory}/opt"
"""

# ctr looks for plug-ins and networks in these two directories and in no others.
_CONTAINERD_START = """\
set -e
mount --make-rprivate /
mount -t tmpfs none /opt && mkdir -p /opt/cni && ln -s "$1/bin" /opt/cni/bin
mount -t tmpfs none /etc/cni && ln -s "$1/net.d" /etc/cni/net.d
exec containerd --config "$1/config.toml" >"$1/containerd.log" 2>&1
"""


@contextlib.contextmanager
def clients_directory() -> Iterator[Path]:
    """Yields a short-named directory for clients, with a root file system in `rootfs`; gone afterwards with all in it.

    So is what is left of earlier ones whose process ended without that.
    """
    for stray in _ROOT.glob(f"{_PREFIX}*"):
        if not Path("/proc", stray.name.removeprefix(_PREFIX)).exists():
            _clear(stray)
    directory = _ROOT / NETWORK
    directory.mkdir(mode=0o700)
    try:
        _make_rootfs(directory / "rootfs")
        yield directory
    finally:
        _clear(directory)


def network_list(host: Host) -> str:
    """Returns the list of plug-ins that is shipped as an example, for this host's agent and with both families."""
    document: dict[str, Any] = json.loads(_EXAMPLE.read_text())
    document["name"] = NETWORK
    own = document["plugins"][0]
    own["agent_socket"] = str(host.rundir / "felix.sock")
    own["policy_setup_timeout_seconds"] = 3
    own["log_file_path"] = str(host.directory / "cni.log")
    own["ipam"]["assign_ipv6"] = True
    return json.dumps(document)


class Running(Place):
    """A running container, by its network namespace. ipv4, ipv6: its addresses, without prefix length; mac: of eth0."""

    def __init__(self, name: str, namespace_name: str, responder: Path) -> None:
        super().__init__(name, namespace_name, responder, {})
        (link,) = json.loads(self.run(["ip", "-j", "addr", "show", "eth0"]).stdout)
        self.mac: str = link["address"]
        found = [entry for entry in link["addr_info"] if entry["scope"] == "global"]
        self.ipv4 = next((str(entry["local"]) for entry in found if entry["family"] == "inet"), "")
        self.ipv6 = next((str(entry["local"]) for entry in found if entry["family"] == "inet6"), "")


class Podman:
    """podman on one host, with the CNI backend and one network, NETWORK."""

    def __init__(self, host: Host, directory: Path, network: str) -> None:
        self._host = host
        self._rootfs = directory / "rootfs"
        self._directory = directory / host.name
        for name in ("net.d", "root", "runroot", "tmp", "runc"):
            (self._directory / name).mkdir(parents=True)
        (self._directory / "net.d" / "felix.conflist").write_text(network)
        settings = {"own": OWN, "reference": REFERENCE, "directory": self._directory, "network": NETWORK}
        (self._directory / "containers.conf").write_text(_CONTAINERS_CONF.format(**settings))

    def call(self, *arguments: str) -> subprocess.CompletedProcess[str]:
        """Returns how a podman command ended."""
        place = self._directory
        command = [
            *("nsenter", f"--net={namespace.NETNS_DIR / self._host.namespace}", "podman"),
            *("--root", f"{place}/root", "--runroot", f"{place}/runroot", "--tmpdir", f"{place}/tmp"),
            *("--runtime", "runc", "--runtime-flag", f"root={place}/runc", "--storage-driver", "vfs"),
        ]
        return subprocess.run(
            [*command, *arguments],
            env={**os.environ, "CONTAINERS_CONF": f"{place}/containers.conf"},
            stdin=subprocess.DEVNULL,
            capture_output=True,
            text=True,
            timeout=_TIMEOUT_S,
            check=False,
        )

    def run(self, name: str, *options: str) -> subprocess.CompletedProcess[str]:
        """Returns how starting a container ended."""
        limits = ["--ulimit", "nofile=1024:1024", "--ulimit", "nproc=1024:1024"]
        image = ["--rootfs", f"{self._rootfs}:O", "/bin/sleep", _LIFE_S]
        return self.call(
            "run", "--detach", "--name", name, "--network", NETWORK, "--log-driver", "none", *limits, *options, *image
        )

    def start(self, name: str, *options: str) -> Running:
        """Returns the container, which runs."""
        done = self.run(name, *options)
        assert done.returncode == 0, done.stderr
        asked = self.call("inspect", "--format", "{{.NetworkSettings.SandboxKey}}", name)
        place = Path(asked.stdout.strip()).name
        with (self._directory / "namespaces").open("a") as file:
            file.write(f"{place}\n")
        return Running(name, place, self._host._responder)

    def remove(self, *names: str) -> None:
        """The containers, or all of them, are gone."""
        done = self.call("rm", "--force", "--time", "0", *(names or ["--all"]))
        assert done.returncode == 0, done.stderr


class Containerd:
    """containerd on one host, asked by `ctr run --cni`. Its directories for CNI are its own by a mount namespace."""

    def __init__(self, host: Host, directory: Path, network: str) -> None:
        self._host = host
        self._rootfs = directory / "rootfs"
        self._directory = directory / f"{host.name}-containerd"
        for name in ("net.d", "bin"):
            (self._directory / name).mkdir(parents=True)
        (self._directory / "net.d" / "10-felix.conflist").write_text(network)
        for plugin in (OWN / "felix-cni", *(REFERENCE / name for name in ("loopback", "portmap", "bandwidth"))):
            (self._directory / "bin" / plugin.name).symlink_to(plugin)
        (self._directory / "config.toml").write_text(_CONTAINERD_CONF.format(directory=self._directory))
        self._tasks: dict[str, subprocess.Popen[str]] = {}
        self._process = subprocess.Popen(
            [
                *("nsenter", f"--net={namespace.NETNS_DIR / host.namespace}", "unshare", "--mount"),
                *("sh", "-c", _CONTAINERD_START, "sh", str(self._directory)),
            ]
        )
        wait_until(lambda: self.call("version").returncode == 0, 20.0, f"containerd; see {self._directory}", 0.05)

    def call(self, *arguments: str) -> subprocess.CompletedProcess[str]:
        """Returns how a ctr command ended."""
        return subprocess.run(self._command(arguments), capture_output=True, text=True, timeout=_TIMEOUT_S, check=False)

    def start(self, name: str) -> Running:
        """Returns the container, which runs until `stop`: ctr waits for its end, for only then it detaches it."""
        command = self._command(["run", "--rm", "--cni", "--rootfs", str(self._rootfs), name, "/bin/sleep", _LIFE_S])
        task = subprocess.Popen(command, stdin=subprocess.DEVNULL, stderr=subprocess.PIPE, text=True)
        self._tasks[name] = task
        place = f"{self._host.namespace}-{name}"
        wait_until(lambda: task.poll() is not None or self._has_interface(name, place), _TIMEOUT_S, f"{name} to run")
        assert task.poll() is None, task.communicate(timeout=_TIMEOUT_S)[1]
        return Running(name, place, self._host._responder)

    def stop(self, name: str) -> None:
        """The container has ended and was detached."""
        namespace.delete_namespaces([f"{self._host.namespace}-{name}"])
        self.call("task", "kill", "--signal", "SIGKILL", name)
        _, said = self._tasks.pop(name).communicate(timeout=_TIMEOUT_S)
        assert "failed" not in said, said

    def close(self) -> None:
        """No container runs, nor containerd."""
        for name in list(self._tasks):
            with contextlib.suppress(AssertionError):
                self.stop(name)
        self._process.terminate()
        self._process.wait(timeout=_TIMEOUT_S)

    def _has_interface(self, name: str, place: str) -> bool:
        """Whether the container has its interface, with addresses; its namespace then has that name."""
        for line in self.call("task", "list").stdout.splitlines():
            words = line.split()
            if words[:1] == [name] and words[2] == "RUNNING":
                seen = subprocess.run(
                    ["nsenter", f"--net=/proc/{words[1]}/ns/net", "ip", "-o", "addr", "show", "eth0"],
                    capture_output=True,
                    text=True,
                    check=False,
                )
                if "inet6" in seen.stdout and "inet " in seen.stdout:
                    subprocess.run(["ip", "netns", "attach", place, words[1]], check=True)
                    return True
        return False

    def _command(self, arguments: Sequence[str]) -> list[str]:
        inside = ["nsenter", f"--target={self._process.pid}", "--net", "--mount"]
        return [*inside, "ctr", "--address", f"{self._directory}/c.sock", *arguments]


def _make_rootfs(rootfs: Path) -> None:
    for name in ("bin", "etc", "proc", "sys", "dev", "tmp", "run"):
        (rootfs / name).mkdir(parents=True)
    shutil.copy("/bin/busybox", rootfs / "bin" / "busybox")
    for name in _APPLETS:
        (rootfs / "bin" / name).symlink_to("busybox")


def _clear(directory: Path) -> None:
    """No container, no mount, no namespace and no file is left of a directory for clients."""
    for state in directory.glob("*/runc"):
        for name in _runc(state, "list", "--quiet").split():
            _runc(state, "delete", "--force", name)
    mounts = [line.split()[4] for line in Path("/proc/self/mountinfo").read_text().splitlines()]
    for mount in reversed([mount for mount in mounts if Path(mount).is_relative_to(directory)]):
        subprocess.run(["umount", "--lazy", mount], check=False)
    for file in directory.glob("*/namespaces"):
        namespace.delete_namespaces(file.read_text().split())
    for file in _RESULTS.glob(f"{directory.name}-*"):
        file.unlink(missing_ok=True)
    shutil.rmtree(directory, ignore_errors=True)


def _runc(state: Path, *arguments: str) -> str:
    command = ["runc", "--root", str(state), *arguments]
    return subprocess.run(command, capture_output=True, text=True, timeout=_TIMEOUT_S, check=False).stdout
