"""What may be a name: Mesos-DNS's rules for making labels out of anything, and checks of what people wrote.

Names are lower-case text without the dot at the end. Source of the label rules: RFC 952, RFC 1123 §2.1, and what
Mesos-DNS makes of them; the tests carry its vectors.
"""

from __future__ import annotations

import base64
import hashlib
import ipaddress
import re

MAX_NAME = 253
MAX_LABEL = 63

_LABEL = re.compile(r"[a-z0-9_]([a-z0-9_-]*[a-z0-9_])?")
_KEPT = {ord(one): one for one in "abcdefghijklmnopqrstuvwxyz0123456789"}
_KEPT |= {ord(one.upper()): one for one in "abcdefghijklmnopqrstuvwxyz"}
_DASHES = dict.fromkeys(map(ord, "-._"), "-")
_BASE32 = b"ABCDEFGHIJKLMNOPQRSTUVWXYZ234567"
_Z_BASE32 = b"ybndrfg8ejkmcpqxot1uwisza345h769"
_TO_Z_BASE32 = bytes.maketrans(_BASE32, _Z_BASE32)


class _Mapping(dict[int, str]):
    """Deletes what it does not know."""

    def __missing__(self, _: int) -> str:
        return ""


_PLAIN = _Mapping(_KEPT | _DASHES)
_WITH_UNDERSCORES = _Mapping(_KEPT | _DASHES | {ord("_"): "_"})


def mangle_label(text: str, *, is_rfc952: bool = False, keeps_underscores: bool = False) -> str:
    """Returns one label made of `text`, at most 63 characters (RFC 952: 24); may be empty.

    Letters become small, digits stay, `-`, `.` and `_` become `-`, all else goes. It begins with no dash (RFC 952:
    nor digit) and ends with none. Room that dashes leave at the end is filled with what follows them.
    """
    known = text.translate(_WITH_UNDERSCORES if keeps_underscores else _PLAIN)
    known = known.lstrip("-0123456789" if is_rfc952 else "-")
    size = min(len(known), 24 if is_rfc952 else MAX_LABEL)
    head = known[:size].rstrip("-")
    return head + known[size:].lstrip("-")[: size - len(head)]


def mangle_name(text: str, *, is_rfc952: bool = False) -> str:
    """Returns `text` with each of its parts between dots made a label; empty ones vanish, all of it may be empty."""
    labels = (mangle_label(part, is_rfc952=is_rfc952) for part in text.split("."))
    return ".".join(label for label in labels if label)


def hash5(text: str) -> str:
    """Returns five characters that stand for `text`: of its SHA-1 in z-base-32, as Mesos-DNS has them."""
    digest = hashlib.sha1(text.encode("utf-8", "surrogatepass"), usedforsecurity=False).digest()
    return base64.b32encode(digest).translate(_TO_Z_BASE32)[:5].decode()


def agent_tail(agent_id: str) -> str:
    """Returns what is behind the last dash of a Mesos agent's id, in small letters: `s0` of `2015-S0`."""
    return agent_id.rpartition("-")[2].lower()


def is_name(text: str) -> bool:
    """Whether `text` can be served: labels of a-z, 0-9, `-` and `_`, none beginning or ending with a dash."""
    return 0 < len(text) <= MAX_NAME and all(len(one) <= MAX_LABEL and _LABEL.fullmatch(one) for one in text.split("."))


def clean_name(text: str) -> str:
    """Returns a name that somebody typed as it is kept here: small letters, no dot at the end. Not checked."""
    return text.lower().removesuffix(".")


def clean_wild(name: str) -> str:
    """Returns `name` without every `.*` in it, as Mesos-DNS reads wildcards: `bob.*.mesos` is `bob.mesos`."""
    return name.replace(".*", "") if ".*" in name else name


def is_below(name: str, origin: str) -> bool:
    """Whether `name` is `origin` or ends with it."""
    return name == origin or name.endswith("." + origin)


def reverse_name(address: str) -> str:
    """Returns the name under in-addr.arpa or ip6.arpa that stands for an address in its usual text."""
    return ipaddress.ip_address(address).reverse_pointer


def normalize_address(text: str) -> str:
    """Returns an address in its usual text, IPv4 where IPv6 only wraps it; empty when `text` is none."""
    try:
        address = ipaddress.ip_address(text.strip())
    except ValueError:
        return ""
    if isinstance(address, ipaddress.IPv6Address):
        if address.scope_id is not None:
            return ""
        address = address.ipv4_mapped or address
    return str(address)
