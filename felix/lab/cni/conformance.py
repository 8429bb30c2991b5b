"""All checks of one plug-in, and the configurations with which well-known ones are tried. Shell."""

from __future__ import annotations

import json
import os
import shutil
import sys
import tempfile
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, replace
from pathlib import Path

from felix.errors import DataError
from felix.lab import namespace
from felix.lab.cni import attaching, checking, refusing
from felix.lab.cni.bench import FILES_PREFIX, PREFIX, Bench, remove_strays
from felix.lab.cni.call import Plugin, Stuck
from felix.lab.cni.shape import VERSIONS, rank
from felix.lab.cni.verdict import Report, Topic, Verdict
from felix.lab.host import Host
from felix.lab.lab import check_root
from felix.lab.store import Json

Scenario = Callable[[Bench, str], Iterator[Verdict]]
NETWORK = "cnicheck"
CNI_PATH = "/opt/cni/bin:/usr/lib/cni"
_OWN = Path(sys.executable).parent  # where felix-cni and felix-ipam are beside this program

_EACH_VERSION: tuple[Scenario, ...] = (
    attaching.check_add,
    attaching.check_delete,
    checking.check_check,
    checking.check_collect,
    checking.check_status,
)
_NEWEST_VERSION: tuple[Scenario, ...] = (
    attaching.check_at_once,
    attaching.check_inputs,
    refusing.check_variables,
    refusing.check_input,
    refusing.check_namespaces,
)


@dataclass(frozen=True, slots=True)
class Wish:
    """What is to be checked. config: a file, None for one that suits a well-known plug-in. host: of a lab, or None.

    plugin: a path, or a name that is looked for in `cni_path` and among this program's own commands. settle_s: how long
    the host may take after DEL until it is as before.
    """

    plugin: str
    config: Path | None = None
    cni_path: str = CNI_PATH
    versions: Sequence[str] = VERSIONS
    is_ipam: bool = False
    host: Host | None = None
    timeout_s: float = 30.0
    settle_s: float = 3.0


def run_checks(wish: Wish, tell: Callable[[Verdict], None]) -> Report:
    """Returns what was found, each verdict also given to `tell` at once. Nothing is left of the namespaces used.

    Raises DataError when there is no such plug-in or no configuration for it.
    """
    check_root()
    strange = [version for version in wish.versions if version not in VERSIONS]
    if strange:
        raise DataError(f"version {strange[0]!r} is not one of the specification: {', '.join(VERSIONS)}")
    executable = find_plugin(wish.plugin, wish.cni_path)
    remove_strays()
    prefix = f"{PREFIX}{os.getpid()}."
    host = wish.host.namespace if wish.host else f"{prefix}host"
    with tempfile.TemporaryDirectory(prefix=f"{FILES_PREFIX}{os.getpid()}-") as directory:
        config = read_config(wish, executable, Path(directory))
        path = ":".join(dict.fromkeys([str(executable.parent), *wish.cni_path.split(":"), str(_OWN)]))
        bench = Bench(Plugin(executable, host, wish.timeout_s), config, path, wish.is_ipam, prefix, wish.settle_s)
        try:
            if wish.host is None:
                namespace.create_namespaces([host])
                namespace.configure(host, ["link set lo up"])
            supported = _find_supported(bench)
            tried = [version for version in supported if version in wish.versions] or supported
            bench = replace(bench, supported=supported, newest=max(tried, key=rank, default=bench.newest))
            verdicts = []
            for verdict in _run(bench, wish.versions):
                tell(verdict)
                verdicts.append(verdict)
        finally:
            namespace.delete_namespaces(namespace.list_namespaces(prefix))
    return Report(executable.name, bench.supported, verdicts)


def find_plugin(name: str, cni_path: str) -> Path:
    """Returns the executable; raises DataError when there is none."""
    places = [cni_path, str(_OWN), os.environ.get("PATH", os.defpath)]
    found = shutil.which(name, path=os.pathsep.join(places))
    if found is None:
        raise DataError(f"no executable {name!r} in {cni_path}; give the plug-in's path, or --cni-path")
    return Path(found).absolute()


def read_config(wish: Wish, executable: Path, directory: Path) -> dict[str, Json]:
    """Returns the configuration without version; `directory` is for what the plug-in keeps. Raises DataError."""
    if wish.config is None:
        config = make_config(executable.name, wish.host, directory)
        if config is None:
            raise DataError(f"no configuration for {executable.name} is known here; give one with --conf FILE")
        return config
    try:
        document = json.loads(wish.config.read_bytes())
    except (OSError, ValueError) as failure:
        raise DataError(f"{wish.config} cannot be read as JSON: {failure}") from failure
    return pick_config(document, executable.name, str(wish.config))


def pick_config(document: Json, plugin: str, source: str) -> dict[str, Json]:
    """Returns the plug-in's part of a configuration or of a list of them; raises DataError."""
    if not isinstance(document, dict) or not isinstance(document.get("name"), str):
        raise DataError(f"{source}: expected an object with name and type, or with name and plugins")
    parts = document.get("plugins", [document])
    for part in parts if isinstance(parts, list) else []:
        if isinstance(part, dict) and (part.get("type") == plugin or parts == [part] or _ipam_type(part) == plugin):
            config = {**part, "name": document["name"]}
            config.pop("cniVersion", None)
            return config
    raise DataError(f"{source}: no plug-in of type {plugin!r} in it")


def make_config(plugin: str, host: Host | None, directory: Path) -> dict[str, Json] | None:
    """Returns a configuration for a well-known plug-in, None for others."""
    local: dict[str, Json] = {
        "type": "host-local",
        "dataDir": str(directory),
        "ranges": [[{"subnet": "10.77.0.0/24"}], [{"subnet": "fd00:77::/64"}]],
        "routes": [{"dst": "0.0.0.0/0"}, {"dst": "::/0"}],
    }
    own: dict[str, Json] = {"agent_socket": str(host.rundir / "felix.sock")} if host else {}
    both: dict[str, Json] = {"type": "felix-ipam", "assign_ipv4": True, "assign_ipv6": True}
    match plugin:
        case "bridge":
            return {"name": NETWORK, "type": "bridge", "bridge": "cnicheck0", "isGateway": True, "ipam": local}
        case "ptp":
            return {"name": NETWORK, "type": "ptp", "ipam": local}
        case "host-local":
            return {"name": NETWORK, "type": "bridge", "ipam": local}
        case "felix-cni":
            return {"name": NETWORK, "type": "felix-cni", "ipam": both, **own}
        case "felix-ipam":
            return {"name": NETWORK, "type": "bridge", "ipam": both, **own}
    return None


def _ipam_type(part: dict[str, Json]) -> Json:
    ipam = part.get("ipam")
    return ipam.get("type") if isinstance(ipam, dict) else None


def _find_supported(bench: Bench) -> list[str]:
    try:
        listed = (bench.call("VERSION", None, "", stdin="").document or {}).get("supportedVersions")
    except Stuck:
        return []
    found = [version for version in listed if isinstance(version, str)] if isinstance(listed, list) else []
    return sorted(found, key=rank)


def _run(bench: Bench, versions: Sequence[str]) -> Iterator[Verdict]:
    yield from _guard(attaching.check_version, bench, "")
    _warm_up(bench)
    for version in versions:
        if version in bench.supported:
            for scenario in _EACH_VERSION:
                yield from _guard(scenario, bench, version)
            continue
        yield from _guard(refusing.check_foreign_version, bench, version)
        for verb in refusing.find_commands(version):
            reason = f"the plug-in does not list {version}"
            yield Topic(verb, version).skip("everything of this version", "the plug-in lists it", reason)
    for scenario in _NEWEST_VERSION:
        if not (bench.is_ipam and scenario is refusing.check_namespaces):
            yield from _guard(scenario, bench, bench.newest)


def _warm_up(bench: Bench) -> None:
    """What the plug-in makes once for a whole host, such as a bridge or a block of addresses, is there."""
    try:
        with bench.container() as one:
            bench.add(one, bench.newest)
    except Stuck:
        return  # every case says it again


def _guard(scenario: Scenario, bench: Bench, version: str) -> Iterator[Verdict]:
    """Yields the verdicts of a scenario; a plug-in that gets stuck ends it with one that failed."""
    try:
        yield from scenario(bench, version)
    except Stuck as stuck:
        case = (scenario.__doc__ or scenario.__name__).partition(":")[0]
        yield Topic("-", version).judge(f"{case}, to the end", "an answer to every call", stuck, is_right=False)
