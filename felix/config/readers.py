"""From the text of a setting to its value: one reader per type, each knows how to say what it would have accepted."""

from __future__ import annotations

import ipaddress
import json
import math
import re
from collections.abc import Callable
from typing import NamedTuple

_TRUE = frozenset({"true", "1", "yes", "y", "t"})
_FALSE = frozenset({"false", "0", "no", "n", "f"})
_UNIT_S = {"h": 3600.0, "m": 60.0, "s": 1.0, "ms": 1e-3, "us": 1e-6, "µs": 1e-6, "ns": 1e-9}
_DURATION_PART = re.compile(r"([0-9]+(?:\.[0-9]*)?|\.[0-9]+)(ms|us|µs|ns|h|m|s)")


class Reader(NamedTuple):
    """One type of setting. read: text without outer blanks -> value, raises ValueError; accepts: what for, in words."""

    read: Callable[[str], object]
    accepts: str


def read_bool(text: str) -> bool:
    """Returns the truth value that `text` names, in any case; raises ValueError for any other text."""
    lowered = text.lower()
    if lowered in _TRUE:
        return True
    if lowered in _FALSE:
        return False
    raise ValueError("not a truth value")


def read_switch(text: str) -> str:
    """Returns `auto`, `true` or `false`; raises ValueError for text that is neither `auto` nor a truth value."""
    return "auto" if text.lower() == "auto" else str(read_bool(text)).lower()


def read_duration_s(text: str) -> float:
    """Returns seconds from a plain number ("90", "0.5") or from numbers with units ("1m30s", "500ms").

    Raises ValueError when the text is neither, is negative, or is no finite number.
    """
    rest = text
    seconds = 0.0
    if _DURATION_PART.match(text):
        while match := _DURATION_PART.match(rest):
            seconds += float(match[1]) * _UNIT_S[match[2]]
            rest = rest[match.end() :]
        if rest:
            raise ValueError("not a duration")
    else:
        seconds = float(text)
    if not math.isfinite(seconds) or seconds < 0:
        raise ValueError("not a duration")
    return seconds


def read_port_range(text: str) -> tuple[int, int] | None:
    """Returns first and last port of "32768:65000" or "5000", None for empty text and none.

    Raises ValueError for anything else, for port 0, and when the last is less than the first.
    """
    if text.lower() in {"", "none", "0"}:
        return None
    first, _, last = text.partition(":")
    ports = int(first), int(last or first)
    if not 1 <= ports[0] <= ports[1] <= 65535:
        raise ValueError("out of range")
    return ports


def whole(low: int, high: int) -> Reader:
    """A reader of whole numbers from `low` to `high`, both included; decimal or 0x hexadecimal."""

    def read(text: str) -> int:
        value = int(text, 0)
        if not low <= value <= high:
            raise ValueError("out of range")
        return value

    return Reader(read, f"a whole number from {low} to {high}")


def choice(*options: str) -> Reader:
    """A reader of one of `options`, in any case; the value is spelled as in `options`."""
    by_lowered = {option.lower(): option for option in options}

    def read(text: str) -> str:
        try:
            return by_lowered[text.lower()]
        except KeyError:
            raise ValueError("not one of them") from None

    return Reader(read, "one of " + ", ".join(options))


def matching(pattern: str, accepts: str) -> Reader:
    """A reader of text that matches all of `pattern`; empty text and `none` give empty text."""
    compiled = re.compile(pattern)

    def read(text: str) -> str:
        if text.lower() in {"", "none"}:
            return ""
        if not compiled.fullmatch(text):
            raise ValueError("does not match")
        return text

    return Reader(read, accepts)


def list_of(reader: Reader, accepts: str) -> Reader:
    """A reader of items separated by commas, blanks trimmed, empty items skipped; the value is a tuple."""

    def read(text: str) -> tuple[object, ...]:
        return tuple(reader.read(item.strip()) for item in text.split(",") if item.strip())

    return Reader(read, accepts)


def pairs_of(reader: Reader, accepts: str) -> Reader:
    """A reader of `name=value` items separated by commas; the value is a tuple of pairs, sorted by name."""

    def read(text: str) -> tuple[tuple[str, object], ...]:
        pairs: dict[str, object] = {}
        for item in filter(None, map(str.strip, text.split(","))):
            name, equals, value = item.partition("=")
            if not equals or not name.strip():
                raise ValueError("not a pair")
            pairs[name.strip()] = reader.read(value.strip())
        return tuple(sorted(pairs.items(), key=lambda pair: pair[0]))

    return Reader(read, accepts)


def read_failsafes(text: str) -> tuple[str, ...]:
    """Returns items of the form `protocol:port` or `protocol:prefix:port`, distinct; `none` gives no item.

    A plain number is a TCP port, brackets around a prefix are left out; a JSON list is what a FelixConfiguration has.
    Raises ValueError for anything else.
    """
    if text.startswith("["):
        items = json.loads(text)
        if not all(isinstance(item, dict) and item.keys() <= {"protocol", "port", "net"} for item in items):
            raise ValueError("not failsafes")
        parts = [(str(item.get("protocol", "tcp")), item.get("net") or "", str(item.get("port", ""))) for item in items]
    elif text.lower() in {"", "none"}:
        parts = []
    else:
        parts = [split_failsafe(item.strip()) for item in text.split(",")]
    return tuple(dict.fromkeys(_format_failsafe(*part) for part in parts))


def split_failsafe(item: str) -> tuple[str, str, str]:
    """Returns protocol, prefix (may be empty) and port of an item, as they are spelled."""
    if ":" not in item:
        return "tcp", "", item
    protocol, _, rest = item.partition(":")
    net, _, port = rest.rpartition(":")
    return protocol, net.replace("[", "").replace("]", ""), port


def _format_failsafe(protocol: str, net: str, port: str) -> str:
    if protocol.lower() not in {"tcp", "udp", "sctp"} or not 1 <= int(port) <= 65535:
        raise ValueError("not a failsafe")
    place = [str(ipaddress.ip_network(net, strict=False))] if net else []
    return ":".join((protocol.lower(), *place, str(int(port))))


def _refuse_empty(reader: Reader) -> Reader:
    def read(text: str) -> object:
        value = reader.read(text)
        if not value:
            raise ValueError("empty")
        return value

    return Reader(read, reader.accepts)


BOOL = Reader(read_bool, "true, 1, yes, y, t or false, 0, no, n, f")
SWITCH = Reader(read_switch, "auto, or true, 1, yes, y, t or false, 0, no, n, f")
SECONDS = Reader(read_duration_s, "seconds (90, 0.5) or a duration (1m30s, 500ms), not negative")
PORT = whole(0, 65535)
TEXT = matching(r"[^\x00-\x1f]*", "text without control characters, or none")
LOG_PREFIX = matching(r"[A-Za-z0-9 _.:/+%-]{0,118}", "at most 118 of A-Z a-z 0-9 space _ . : / + % -, or none")
LOG_RATE = matching(
    r"[1-9][0-9]{0,8}/(second|minute|hour|day)", "a number per second, minute, hour or day, as 10/minute, or none"
)
PATH = matching(r"/[^\x00-\x1f]*", "an absolute path, or none")
NEEDED_PATH = _refuse_empty(matching(r"/[^\x00-\x1f]*", "an absolute path"))
HOST = matching(r"[a-zA-Z0-9:._+-]{1,64}", "a host name or an address of at most 64 characters, or none")
NODE_NAME = matching(r"[a-zA-Z0-9_.-]+", "letters, digits, dots, dashes and underscores")
ADDRESS_AND_PORT = _refuse_empty(matching(r"[^:/\s]+:[0-9]+", "host:port"))
ENDPOINT_URLS = list_of(
    matching(r"https?://(?:[^:/\s\[\]]+|\[[0-9a-fA-F:.]+\]):[0-9]+/?", "an address"),
    "comma-separated http://host:port or https://host:port",
)
INTERFACE_PREFIXES = _refuse_empty(
    list_of(matching(r"[a-zA-Z0-9_-]{1,14}", "a prefix"), "comma-separated starts of interface names, 1-14 characters")
)
ADDRESS = Reader(
    lambda text: "" if text.lower() in {"", "none"} else str(ipaddress.ip_address(text)), "an address, or none"
)
PORT_RANGE = Reader(read_port_range, "two port numbers as 32768:65000, or one, or none")
INTERFACE_FILTER = matching(
    r"(?=.{1,15}$)[a-zA-Z0-9_.-]*[+]?", "an interface, + at the end for all that begin so, or none"
)
NETS = list_of(
    Reader(lambda text: str(ipaddress.ip_network(text, strict=False)), "a prefix"),
    "comma-separated prefixes or addresses, as 10.0.0.0/24,fd00::1",
)
FAILSAFES = Reader(
    read_failsafes, "comma-separated protocol:port or protocol:prefix:port (tcp, udp, sctp), a TCP port, or none"
)
DURATIONS_BY_NAME = pairs_of(SECONDS, "comma-separated name=duration, as Dataplane=90s")
