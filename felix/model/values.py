"""What single values of records mean: protocols, ports, addresses of peers, durations, names of policies. Pure."""

from __future__ import annotations

import re
from typing import NamedTuple

from felix.model.endpoints import WorkloadEndpointSpec
from felix.model.net import Net, parse_address
from felix.model.policies import DEFAULT_TIER

PROTOCOL_NUMBERS = {"icmp": 1, "tcp": 6, "udp": 17, "icmpv6": 58, "sctp": 132, "udplite": 136}
PROTOCOL_NAMES = ("TCP", "UDP", "ICMP", "ICMPv6", "SCTP", "UDPLite")
PORT_PROTOCOLS = frozenset({6, 17, 132, 136})
ICMP_PROTOCOLS = frozenset({1, 58})

_NUMBER = re.compile(r"[0-9]{1,6}")
_PORT_RANGE = re.compile(r"([0-9]{1,6}):([0-9]{1,6})")
_PORT_NAME = re.compile(r"[A-Za-z0-9_.-]{1,128}")
_DURATION_PART = re.compile(r"([0-9]+(?:\.[0-9]+)?)(ns|us|µs|ms|s|m|h)")
_SECONDS_BY_UNIT = {"ns": 1e-9, "us": 1e-6, "µs": 1e-6, "ms": 1e-3, "s": 1.0, "m": 60.0, "h": 3600.0}


class PeerAddress(NamedTuple):
    """Where a BGP peer listens; port None is the one that it, or the default, says."""

    address: Net
    port: int | None


def protocol_number(protocol: int | str) -> int | None:
    """Returns the IP protocol number 1-255 that a number or a name (in any case) means, None for anything else."""
    if isinstance(protocol, str):
        number = PROTOCOL_NUMBERS.get(protocol.lower())
        if number is not None or not _NUMBER.fullmatch(protocol):
            return number
        protocol = int(protocol)
    return protocol if 0 < protocol < 256 else None


def parse_ports(ports: int | str) -> tuple[int, int] | None:
    """Returns first and last port (0-65535, both included) of a number or a range "80:90"; None for anything else."""
    if isinstance(ports, str):
        if _NUMBER.fullmatch(ports):
            ports = int(ports)
        elif found := _PORT_RANGE.fullmatch(ports):
            first, last = int(found[1]), int(found[2])
            return (first, last) if first <= last < 65536 else None
        else:
            return None
    return (ports, ports) if 0 <= ports < 65536 else None


def is_port_name(ports: int | str) -> bool:
    """Whether this is the name of a port, neither number nor range."""
    return isinstance(ports, str) and bool(_PORT_NAME.fullmatch(ports)) and not ports.isdigit()


def parse_peer_address(text: str) -> PeerAddress:
    """Returns what `a.b.c.d`, `a.b.c.d:port`, `v6` or `[v6]:port` means. Raises ValueError with the reason."""
    host, colon, port = text.rpartition(":")
    if text.startswith("["):
        host, bracket, port = text[1:].partition("]")
        if not bracket or (port and not port.startswith(":")):
            raise ValueError("expected [address]:port")
        colon, port = port[:1], port[1:]
    elif ":" in host or not colon:
        host, colon, port = text, "", ""
    if "/" in host:
        raise ValueError("expected an address without a prefix length")
    if not colon:
        return PeerAddress(parse_address(host), None)
    if not _NUMBER.fullmatch(port) or not 0 < int(port) < 65536:
        raise ValueError("expected a port from 1 to 65535 behind the colon")
    return PeerAddress(parse_address(host), int(port))


def duration_s(text: str) -> float | None:
    """Returns the seconds of a duration like `1m30s`; None for the empty text. Raises ValueError for others."""
    if not text:
        return None
    if text == "0":
        return 0.0
    parts = _DURATION_PART.findall(text)
    if not parts or "".join(number + unit for number, unit in parts) != text:
        raise ValueError(f"{text!r} is no duration; give one like 30s or 1m30s")
    return sum(float(number) * _SECONDS_BY_UNIT[unit] for number, unit in parts)


def policy_tier(tier: str) -> str:
    """Returns the tier that a policy is in; an empty text is the default tier."""
    return tier or DEFAULT_TIER


def policy_name(name: str, tier: str) -> str:
    """Returns the name of a policy without the prefix of its tier, which names carry or do not carry."""
    return name.removeprefix(policy_tier(tier) + ".") or name


def workload_endpoint_name(spec: WorkloadEndpointSpec) -> str:
    """Returns the name that Calico gives to this endpoint: node, orchestrator, workload, endpoint, dashes doubled."""
    match spec.orchestrator:
        case "k8s":
            workload = spec.pod
        case "cni":
            workload = spec.container_id
        case "libnetwork":
            workload = "libnetwork"
        case _:
            workload = spec.workload
    parts = (spec.node, spec.orchestrator, workload, spec.endpoint)
    return "-".join(part.replace("-", "--") for part in parts)
