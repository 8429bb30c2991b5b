"""What net-modules may ask: a JSON document, its verb, its arguments, each checked; errors are the protocol's. Pure.

Texts of errors that Calico's plug-in had are kept word for word: programs and people look for them.
"""

from __future__ import annotations

import ipaddress
import json
import re

from felix.plugins.mesos.labels import BadLabels, parse_labels

Args = dict[str, object]

REQUEST_LIMIT = 1 << 20
"""Bytes of a request; net-modules sends some hundred."""
ADDRESSES_LIMIT = 16
"""Of each family, for one container; the agent gives no more to an interface."""
RELEASES_LIMIT = 256
STATIC_LABELS = {4: "ipv4_addrs", 6: "ipv6_addrs"}
"""Labels that ask for addresses: Marathon has no other way to."""

_UUID = re.compile(r"[0-9a-f]{8}(-[0-9a-f]{4}){3}-[0-9a-f]{12}|[0-9a-f]{32}")
_HOSTNAME = re.compile(r"[A-Za-z0-9:_]([A-Za-z0-9:._-]{0,251}[A-Za-z0-9:_.])?")
_CONTAINER = re.compile(r"[A-Za-z0-9][A-Za-z0-9_.-]{0,126}")
_PID_LIMIT = 1 << 22  # the most that Linux allows
_GROUPS_LIMIT = 64
_LITERAL_LIMIT = 4096
_SHOWN = 200  # characters of a bad value in an error


class BadRequest(Exception):
    """The request cannot be used; its text is the answer's error. Nothing was asked of anybody."""


def parse_request(data: bytes, verbs: frozenset[str]) -> tuple[str, Args]:
    """Returns the verb and its arguments. Raises BadRequest."""
    if len(data) > REQUEST_LIMIT:
        raise BadRequest(f"Request is too long: more than {REQUEST_LIMIT} bytes")
    try:
        request = json.loads(data)
    except (ValueError, RecursionError) as error:
        raise BadRequest(f"Request is not JSON: {error}") from None
    if not isinstance(request, dict):
        raise BadRequest(f"Request must be a JSON object, not: {type(request).__name__}")
    verb, args = request.get("command"), request.get("args")
    if verb is None or verb == "":
        raise BadRequest("Missing command")
    if args is None:
        raise BadRequest("Missing args")
    if not isinstance(verb, str) or verb not in verbs:
        raise BadRequest(f"Unknown command: {show(verb)}")
    if not isinstance(args, dict):
        raise BadRequest(f"args must be a JSON object, not: {type(args).__name__}")
    return verb, args


def read_uid(args: Args) -> str:
    """Returns the launch's id, in lower case and with dashes: the handle of its addresses."""
    uid = args.get("uid")
    if uid is None or uid == "":
        raise BadRequest("Missing uid")
    return parse_uid(uid)


def parse_uid(uid: object) -> str:
    """Returns an id as `read_uid` does; only the text of a UUID is one, so that nobody else's handle can be named."""
    text = uid.lower() if isinstance(uid, str) else ""
    if not _UUID.fullmatch(text):
        raise BadRequest(f"Invalid UID: {show(uid)}")
    digits = text.replace("-", "")
    return f"{digits[:8]}-{digits[8:12]}-{digits[12:16]}-{digits[16:20]}-{digits[20:]}"


def read_hostname(args: Args) -> str:
    """Returns what Mesos calls this host. It chooses nothing: the agent knows its own name."""
    hostname = args.get("hostname")
    if hostname is None or hostname == "":
        raise BadRequest("Missing hostname")
    if not isinstance(hostname, str) or not _HOSTNAME.fullmatch(hostname):
        raise BadRequest(f"Invalid hostname: {show(hostname)}")
    return hostname


def read_container_id(args: Args) -> str:
    """Returns the container's id."""
    container = args.get("container_id")
    if container is None or container == "":
        raise BadRequest("Missing container_id")
    if not isinstance(container, str) or not _CONTAINER.fullmatch(container):
        raise BadRequest(f"Invalid container_id: {show(container)}")
    return container


def read_pid(args: Args) -> int:
    """Returns the process in whose network namespace the container lives."""
    pid = args.get("pid")
    if pid is None:
        raise BadRequest("Missing pid")
    if not isinstance(pid, int) or isinstance(pid, bool) or not 0 < pid <= _PID_LIMIT:
        raise BadRequest(f"Invalid pid: {show(pid)}")
    return pid


def read_counts(args: Args) -> tuple[int, int]:
    """Returns how many IPv4 and IPv6 addresses are asked for."""
    names = ("num_ipv4", "num_ipv6")
    for name in names:
        if args.get(name) is None:
            raise BadRequest(f"Missing {name}")
    return _read_count(args, names[0]), _read_count(args, names[1])


def read_addresses(args: Args, name: str, version: int) -> list[str]:
    """Returns the addresses of a field that is one family's, canonically; empty when it is missing."""
    value = args.get(name)
    return [] if value is None else parse_addresses(value, version)


def parse_addresses(value: object, version: int = 0, limit: int = ADDRESSES_LIMIT) -> list[str]:
    """Returns the addresses of a list, canonically, each once. version: 4 or 6, 0 for both."""
    if not isinstance(value, list):
        raise BadRequest(f"IP addresses must be provided as JSON list, not: {type(value).__name__}")
    if len(value) > limit:
        raise BadRequest(f"Too many IP addresses: {len(value)}; {limit} is the most")
    found = []
    for entry in value:
        address = _parse_address(entry)
        if version and address.version != version:
            wrong, right = f"IPv{address.version}", f"IPv{version}"
            raise BadRequest(f"{wrong} address must not be placed in {right} address field.")
        found.append(str(address))
    for text in found:
        if found.count(text) > 1:
            raise BadRequest(f"IP address is given twice: {text}")
    return found


def read_netgroups(args: Args) -> list[str]:
    """Returns the names of the container's groups, each once; none means that it may talk with its host alone."""
    value = args.get("netgroups")
    if value is None:
        return []
    if not isinstance(value, list):
        raise BadRequest("Must provide list of netgroups.")
    if len(value) > _GROUPS_LIMIT:
        raise BadRequest(f"Too many netgroups: {len(value)}; {_GROUPS_LIMIT} is the most")
    for group in value:
        if not isinstance(group, str) or not group:
            raise BadRequest(f"Invalid netgroup: {show(group)}")
    return list(dict.fromkeys(value))


def read_labels(args: Args) -> dict[str, str]:
    """Returns the labels, from whichever form they came in."""
    try:
        return parse_labels(args.get("labels"))
    except BadLabels as error:
        raise BadRequest(str(error)) from None


def read_static(args: Args, version: int) -> list[str]:
    """Returns the addresses of a family that the label `ipv4_addrs` or `ipv6_addrs` asks for; see `parse_literal`."""
    name = STATIC_LABELS[version]
    text = read_labels(args).get(name, "").strip()
    return parse_addresses(parse_literal(text, name), version) if text else []


def parse_literal(text: str, name: str) -> object:
    """Returns the value that a label holds as JSON or as a literal of Python, such as `['10.1.0.7']`.

    It comes from whoever wrote the task: it is read, never run.
    """
    if len(text) > _LITERAL_LIMIT:
        raise BadRequest(f"Label {name} is too long: {len(text)} characters")
    try:
        return json.loads(text)
    except (ValueError, RecursionError):
        from ast import literal_eval  # its import costs milliseconds, and hardly anybody pays them
    try:
        return literal_eval(text)
    except (ValueError, SyntaxError, TypeError, MemoryError, RecursionError):
        raise BadRequest(f"Label {name} is no list of IP addresses: {show(text)}") from None


def show(value: object) -> str:
    """Returns a value for an error: text as it is, all else as JSON, and not more than can be read."""
    text = value if isinstance(value, str) else json.dumps(value, default=repr, skipkeys=True)
    return text if len(text) <= _SHOWN else f"{text[:_SHOWN]}…"


def _read_count(args: Args, name: str) -> int:
    count = args[name]
    if not isinstance(count, int) or isinstance(count, bool):
        raise BadRequest(f"{name} must be an integer")
    if not 0 <= count <= ADDRESSES_LIMIT:
        raise BadRequest(f"{name} must be 0 to {ADDRESSES_LIMIT}, not: {show(count)}")
    return count


def _parse_address(entry: object) -> ipaddress.IPv4Address | ipaddress.IPv6Address:
    try:
        if isinstance(entry, str) and "%" not in entry:
            return ipaddress.ip_address(entry)
    except ValueError:
        pass
    raise BadRequest(f"IP address could not be parsed: {show(entry)}")
