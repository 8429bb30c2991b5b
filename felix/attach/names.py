"""Names that follow from who a container is: its endpoint's, its interface's, its handle's. Pure.

Every name is computed, so that a second attempt, or another agent after a restart, finds what the first one made.
"""

from __future__ import annotations

import hashlib
import re
from typing import NamedTuple

from felix.model.keys import ResourceKey

DEFAULT_INTERFACE = "eth0"
DEFAULT_NAMESPACE = "default"
INTERFACE_LENGTH = 15  # of the kernel, without the final zero
NAME = re.compile(r"[A-Za-z0-9][A-Za-z0-9_.-]{0,126}")
"""What a network, a container, an orchestrator or a namespace may be called; CNI's own rule, and bounded."""

_PROFILE = re.compile(r"[A-Za-z0-9]([A-Za-z0-9_.-]{0,61}[A-Za-z0-9])?")  # its name is a label, too
_MARKED = re.compile(r".*\.x[0-9a-f]{16}")
_HOST_PROFILE = "default_"
_RESERVED = ("projectcalico-", _HOST_PROFILE)


class Attached(NamedTuple):
    """Who is attached: one interface of one container of an orchestrator, on this host."""

    orchestrator: str
    container: str
    interface: str

    def __str__(self) -> str:
        return f"{self.container}/{self.interface}"


def endpoint_key(node: str, who: Attached, namespace: str) -> ResourceKey:
    """Returns the key of the WorkloadEndpoint, named as Calico names it: `<node>-<orchestrator>-<workload>-<endpoint>`.

    Dashes of the parts are doubled, so that no two share a name.
    """
    parts = (node, who.orchestrator, who.container, who.interface)
    return ResourceKey("WorkloadEndpoint", namespace, "-".join(part.replace("-", "--") for part in parts))


def handle_name(network: str, who: Attached) -> str:
    """Returns under which handle the container has its addresses, in Calico's form."""
    name = f"{network}.{who.container}"
    return (name if who.interface == DEFAULT_INTERFACE else f"{name}.{who.interface}").lower()


def host_interface(prefix: str, namespace: str, who: Attached) -> str:
    """Returns the name of the host's end: `prefix`, usually `cali`, and 11 characters that follow from the rest."""
    parts = (who.orchestrator, namespace, who.container, who.interface)
    digest = hashlib.sha256("/".join(parts).encode()).hexdigest()
    return (prefix + digest[:11])[:INTERFACE_LENGTH]


def make_mac(node: str, who: Attached) -> str:
    """Returns the MAC address of the container's end: nobody's by the manufacturer, and the same each time."""
    digest = hashlib.sha256(f"{node}/{who.orchestrator}/{who.container}/{who.interface}".encode()).digest()
    return ":".join(f"{byte:02x}" for byte in (0x02 | digest[0] & 0xF0, *digest[1:6]))


def profile_name(text: str) -> str:
    """Returns the name of the profile for a network or group that anybody may name: itself where it can be one.

    Otherwise what can stay of it and a digest of the whole, so that no two share a profile; nobody gets the name of
    a profile that is built in, or of a host's: its maker would say what all containers of that host may.
    """
    return _mark(text, text) if text.startswith(_RESERVED) or not _is_plain(text) else text


def host_profile(node: str) -> str:
    """Returns the name of the profile by which a container may talk with its own host."""
    name = _HOST_PROFILE + node
    return name if _is_plain(name) else _mark(name, f"host/{name}")


def _is_plain(text: str) -> bool:
    return _PROFILE.fullmatch(text) is not None and not _MARKED.fullmatch(text)


def _mark(text: str, whole: str) -> str:
    """Returns what can stay of `text`, with a digest of `whole`."""
    kept = re.sub(r"[^A-Za-z0-9]+", "-", text)[:44].strip("-") or "group"
    return f"{kept}.x{hashlib.sha256(whole.encode('utf-8', 'surrogatepass')).hexdigest()[:16]}"
