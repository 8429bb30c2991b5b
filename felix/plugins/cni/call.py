"""Who is called, for what, and where: a CNI plug-in's environment, checked as the reference plug-ins do. Pure."""

from __future__ import annotations

from felix.plugins.cni.refusal import BAD_ENVIRONMENT, UNKNOWN_CONTAINER, CniError

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Mapping

INTERFACE_LENGTH = 15

_NEEDED = {
    "ADD": ("CNI_CONTAINERID", "CNI_NETNS", "CNI_IFNAME", "CNI_PATH"),
    "CHECK": ("CNI_CONTAINERID", "CNI_NETNS", "CNI_IFNAME", "CNI_PATH"),
    "DEL": ("CNI_CONTAINERID", "CNI_IFNAME", "CNI_PATH"),
    "GC": ("CNI_PATH",),
    "STATUS": ("CNI_PATH",),
    "VERSION": (),
}
_LETTERS = frozenset("abcdefghijklmnopqrstuvwxyzABCDEFGHIJKLMNOPQRSTUVWXYZ0123456789")
_NAME_LETTERS = _LETTERS | frozenset("_.-")


class Call:
    """One call of a plug-in. Texts are empty where the runtime said nothing. path: folders with plug-ins, in order."""

    __slots__ = ("args", "command", "container", "interface", "netns", "path", "skips_netns_check")

    def __init__(self, environment: Mapping[str, str]) -> None:
        self.command = environment.get("CNI_COMMAND", "")
        self.container = environment.get("CNI_CONTAINERID", "")
        self.netns = environment.get("CNI_NETNS", "")
        self.interface = environment.get("CNI_IFNAME", "")
        self.args = environment.get("CNI_ARGS", "")
        self.path = tuple(folder for folder in environment.get("CNI_PATH", "").split(":") if folder)
        self.skips_netns_check = environment.get("CNI_NETNS_OVERRIDE", "").lower() in {"1", "true"}


def parse_call(environment: Mapping[str, str]) -> Call:
    """Returns the call that an environment describes; its names are checked later, by `check_names`.

    Raises CniError that lists all variables that are missing.
    """
    call = Call(environment)
    missing = [name for name in _NEEDED.get(call.command, ()) if not environment.get(name)]
    if not call.command:
        missing.insert(0, "CNI_COMMAND")
    if missing:
        raise CniError(BAD_ENVIRONMENT, f"required env variables [{','.join(missing)}] missing")
    if call.command not in _NEEDED:
        raise CniError(BAD_ENVIRONMENT, f"unknown CNI_COMMAND: {call.command}", f"known ones: {', '.join(_NEEDED)}")
    return call


def check_names(call: Call) -> None:
    """Raises CniError when container or interface cannot be called so; for verbs that are about a container."""
    if call.command in {"GC", "STATUS", "VERSION"}:
        return
    if not call.container:
        raise CniError(UNKNOWN_CONTAINER, "missing containerID")
    if not is_name(call.container):
        raise CniError(BAD_ENVIRONMENT, "invalid characters in containerID", call.container)
    problem = _find_interface_problem(call.interface)
    if problem:
        raise CniError(BAD_ENVIRONMENT, problem, call.interface)


def is_name(text: str) -> bool:
    """Whether a network or a container may be called so: a letter or digit, then those, `_`, `.` and `-`."""
    return bool(text) and text[0] in _LETTERS and _NAME_LETTERS.issuperset(text)


def parse_args(text: str) -> dict[str, str]:
    """Returns the pairs of CNI_ARGS, `K=V;K=V`. Raises CniError for what is no pair."""
    pairs = {}
    for piece in text.split(";"):
        if not piece.strip():
            continue
        key, equals, value = piece.partition("=")
        if not equals or not key:
            raise CniError(BAD_ENVIRONMENT, f"CNI_ARGS: {piece!r} is no pair as KEY=value", text)
        pairs[key.strip()] = value.strip()
    return pairs


def known_args(text: str, known: tuple[str, ...]) -> dict[str, str]:
    """Returns the pairs of CNI_ARGS whose keys are `known`. Raises CniError for others, unless IgnoreUnknown is set."""
    pairs = parse_args(text)
    unknown = [key for key in pairs if key not in known and key != "IgnoreUnknown"]
    if unknown and pairs.get("IgnoreUnknown", "").lower() not in {"1", "true"}:
        listed = ", ".join(known)
        raise CniError(BAD_ENVIRONMENT, f"CNI_ARGS: unknown keys {unknown}; known: {listed} (or say IgnoreUnknown=1)")
    return {key: value for key, value in pairs.items() if key in known}


def _find_interface_problem(name: str) -> str:
    if not name:
        return "interface name is empty"
    if len(name.encode("utf-8", "surrogateescape")) > INTERFACE_LENGTH:
        return "interface name is too long: at most 15 characters"
    if name in {".", ".."}:
        return "interface name is . or .."
    if any(letter in "/:" or letter.isspace() for letter in name):
        return "interface name contains / or : or whitespace characters"
    return ""
