"""The network configuration that a runtime hands over on stdin: decoded, checked, with named fields. Pure."""

from __future__ import annotations

import json

from felix.plugins.cni.call import is_name
from felix.plugins.cni.refusal import (
    DECODING_FAILURE,
    INCOMPATIBLE_VERSION,
    INVALID_CONFIG,
    UNSUPPORTED_FIELD,
    CniError,
)
from felix.plugins.cni.versions import OLDEST, SUPPORTED

TYPE_CHECKING = False
if TYPE_CHECKING:
    from typing import TypeVar

    T = TypeVar("T")

SOCKET = "/run/felix/felix.sock"
TIMEOUT_S = 30.0
TIMEOUT_LIMIT_S = 120.0
OUR_IPAM = ("felix-ipam", "calico-ipam")
"""IPAM types for which the agent chooses addresses while it attaches: no second process, one transaction for both."""
LOG_LEVELS = ("none", "error", "warning", "info", "debug")

_MESOS = "org.apache.mesos"


class Conf:
    """A network configuration: its JSON object, and where in it a value is wrong."""

    __slots__ = ("fields", "raw", "version")

    def __init__(self, raw: bytes, fields: dict[str, object], version: str) -> None:
        self.raw = raw
        self.fields = fields
        self.version = version

    @property
    def name(self) -> str:
        """The network's name."""
        return str(self.fields["name"])

    @property
    def ipam(self) -> dict[str, object]:
        """The section `ipam`, empty if missing."""
        return take(self.fields, "ipam", dict, {})

    @property
    def ipam_type(self) -> str:
        """Who assigns addresses; ours, if the configuration names nobody."""
        return take(self.ipam, "type", str, "", "ipam.") or OUR_IPAM[0]

    @property
    def has_own_ipam(self) -> bool:
        """Whether addresses come from Felix."""
        return self.ipam_type in OUR_IPAM

    @property
    def runtime(self) -> dict[str, object]:
        """The section `runtimeConfig`: what the runtime asks for by capability; empty if missing."""
        return take(self.fields, "runtimeConfig", dict, {})

    @property
    def args(self) -> dict[str, object]:
        """The section `args`, empty if missing."""
        return take(self.fields, "args", dict, {})

    @property
    def cni_args(self) -> dict[str, object]:
        """The part of `args` that belongs to CNI's conventions: labels, ips, mac; empty if missing."""
        return take(self.args, "cni", dict, {}, "args.")

    @property
    def network_info(self) -> dict[str, object]:
        """What a Mesos agent says about the container's network (its NetworkInfo), empty if it is no Mesos agent."""
        mesos = take(self.args, _MESOS, dict, {}, "args.")
        return take(mesos, "network_info", dict, {}, f"args.{_MESOS}.")

    @property
    def nodename(self) -> str:
        """The node that this configuration is written for; empty for any."""
        return take(self.fields, "nodename", str, "")

    @property
    def socket(self) -> str:
        """Where the agent listens."""
        return take(self.fields, "agent_socket", str, "") or SOCKET

    @property
    def timeout_s(self) -> float:
        """How long a call may take; with `policy_setup_timeout_seconds` as Calico's plug-in calls it."""
        for key in ("policy_setup_timeout_seconds", "agent_timeout"):
            seconds = take_number(self.fields, key)
            if seconds < 0:
                raise CniError(INVALID_CONFIG, f'"{key}" is {seconds:g}; it cannot be negative')
            if seconds:
                return min(seconds, TIMEOUT_LIMIT_S)
        return TIMEOUT_S

    @property
    def log_file(self) -> str:
        """Where a line per call is written, empty for nowhere."""
        return take(self.fields, "log_file_path", str, "")

    @property
    def log_level(self) -> str:
        """From which level on; `info` if the configuration does not say or says what we do not know."""
        level = take(self.fields, "log_level", str, "").lower()
        return level if level in LOG_LEVELS else "info"

    @property
    def previous(self) -> object:
        """The result of the ADD as the runtime or an earlier plug-in has it; None if it hands none over."""
        return self.fields.get("prevResult")


def parse_conf(raw: bytes) -> Conf:
    """Returns the configuration; name and version are checked, in this order, other fields when they are used.

    Raises CniError: 6 for what is no JSON object, 7 for a missing or bad name and for a list, 1 for the version.
    """
    try:
        fields = json.loads(raw)
    except (ValueError, RecursionError) as error:
        hint = "stdin is empty" if not raw.strip() else str(error)
        raise CniError(DECODING_FAILURE, f"the network configuration on stdin is no JSON: {hint}") from None
    if not isinstance(fields, dict):
        raise CniError(DECODING_FAILURE, f"the network configuration must be a JSON object, not {_kind(fields)}")
    version = fields.get("cniVersion") or OLDEST
    if not isinstance(version, str):
        raise CniError(DECODING_FAILURE, f'"cniVersion" must be a text, not {_kind(version)}')
    if "plugins" in fields:
        text = "this is a configuration list; a plug-in takes one plug-in's configuration"
        raise CniError(INVALID_CONFIG, text, 'the runtime hands over each entry of "plugins" by itself')
    name = take(fields, "name", str, "")
    if not name:
        raise CniError(INVALID_CONFIG, "missing network name", 'say "name" in the configuration')
    if not is_name(name):
        raise CniError(INVALID_CONFIG, "invalid characters found in network name", name)
    return Conf(raw, fields, version)


def check_version(conf: Conf) -> None:
    """Raises CniError when the configuration's version is none that we speak."""
    if conf.version not in SUPPORTED:
        details = f'config is "{conf.version}", plugin supports {list(SUPPORTED)}'
        raise CniError(INCOMPATIBLE_VERSION, "incompatible CNI versions", details)


def find_version(raw: bytes) -> str:
    """Returns the version that a configuration names, if it can be read; for error documents. Raises nothing."""
    try:
        version = json.loads(raw).get("cniVersion") or OLDEST
    except (ValueError, RecursionError, AttributeError):
        return ""
    return version if isinstance(version, str) else ""


def take(fields: dict[str, object], key: str, kind: type[T], default: T, where: str = "") -> T:
    """Returns fields[key], `default` if it is missing or null. Raises CniError when it is of another kind."""
    value = fields.get(key)
    if value is None:
        return default
    if not isinstance(value, kind) or (kind is int and isinstance(value, bool)):
        raise CniError(DECODING_FAILURE, f'"{where}{key}" must be {_expected(kind)}, not {_kind(value)}')
    return value


def take_flag(fields: dict[str, object], key: str, default: bool, where: str = "") -> bool:
    """Returns fields[key] as a yes or no; Calico's plug-in writes some of them as text, "true" and "false"."""
    value = fields.get(key)
    if isinstance(value, str) and value.lower() in {"true", "false"}:
        return value.lower() == "true"
    return take(fields, key, bool, default, where)


def take_number(fields: dict[str, object], key: str) -> float:
    """Returns fields[key] as a number, 0 if it is missing."""
    value = fields.get(key)
    if value is None:
        return 0.0
    if isinstance(value, bool) or not isinstance(value, int | float) or not abs(value) < 1e9:
        raise CniError(DECODING_FAILURE, f'"{key}" must be a number of seconds, not {_kind(value)}')
    return float(value)


def take_texts(fields: dict[str, object], key: str, where: str = "") -> list[str]:
    """Returns fields[key] as a list of texts; a single text is a list of one; empty if missing."""
    value = fields.get(key)
    if isinstance(value, str):
        return [value]
    texts: list[object] = take(fields, key, list, [], where)
    return [_text(entry, f"{where}{key}") for entry in texts]


def take_objects(fields: dict[str, object], key: str, where: str = "") -> list[dict[str, object]]:
    """Returns fields[key] as a list of objects, empty if missing."""
    entries: list[object] = take(fields, key, list, [], where)
    for entry in entries:
        if not isinstance(entry, dict):
            raise CniError(DECODING_FAILURE, f'"{where}{key}" must hold objects, not {_kind(entry)}')
    return [entry for entry in entries if isinstance(entry, dict)]


def refuse_unsupported(conf: Conf) -> None:
    """Raises CniError for what somebody asks of us that would be dangerous or confusing to pass over in silence."""
    dataplane = take(conf.fields, "dataplane_options", dict, {})
    if dataplane.get("type") not in {None, "", "linux"}:
        raise _unsupported("dataplane_options.type", dataplane.get("type"), "Felix makes interfaces of Linux itself")
    features = take(conf.fields, "feature_control", dict, {})
    for key in ("ip_addrs_no_ipam", "floating_ips"):
        if features.get(key):
            raise _unsupported(f"feature_control.{key}", True, "it needs Kubernetes")
    for key in ("deviceID", "infinibandGUID"):
        if conf.runtime.get(key):
            raise _unsupported(f"runtimeConfig.{key}", conf.runtime[key], "an interface of Felix is a veth pair")
    if conf.runtime.get("ipRanges") and conf.has_own_ipam:
        raise _unsupported("runtimeConfig.ipRanges", "…", "say ipam.ipv4_pools or ipam.ipv6_pools")


def _unsupported(field: str, value: object, why: str) -> CniError:
    return CniError(UNSUPPORTED_FIELD, f'"{field}" ({value}) is not supported: {why}', "leave it out")


def _text(value: object, what: str) -> str:
    if not isinstance(value, str):
        raise CniError(DECODING_FAILURE, f'"{what}" must hold texts, not {_kind(value)}')
    return value


def _expected(kind: type) -> str:
    return {dict: "an object", list: "a list", str: "a text", int: "a number", bool: "true or false"}[kind]


def _kind(value: object) -> str:
    if value is None:
        return "null"
    names = {
        dict: "an object",
        list: "a list",
        str: "a text",
        int: "a number",
        float: "a number",
        bool: "true or false",
    }
    return f"{names.get(type(value), 'this')} ({str(value)[:40]})"
