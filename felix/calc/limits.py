"""What `qosControls` of an endpoint and annotations of policies ask for, as the dataplane takes it.

Bad values limit nothing and are reported.
"""

from __future__ import annotations

import dataclasses
import difflib
from collections.abc import Mapping
from types import MappingProxyType

from felix.calc.desired import Bandwidth, Limits, PacketRate, SourceRate
from felix.errors import Problem, shorten
from felix.model.endpoints import QosControls
from felix.model.keys import ResourceKey, format_key
from felix.model.records import GlobalNetworkPolicy, Policy

BANDWIDTH_BITS = range(1_000, 10**15 + 1)
PACKETS_PER_S = range(1, 10_001)
PACKET_BURST = range(1, 10_001)
CONNECTIONS = range(1, 4_294_967_296)
RATE_ANNOTATION = "felix/new-connection-rate-per-source"
BURST_ANNOTATION = "felix/new-connection-burst-per-source"
"""Of a policy: how many connections a second, and at once, one source may open towards each endpoint it selects."""
NEW_CONNECTIONS = range(1_000_001)
_NEW_BURST = range(1, 1_000_001)
_DEFAULT_NEW_BURST = 100
_OWN_PREFIX = "felix/"
_DEFAULT_PACKET_BURST = 5
_BURST_SHARE_S = 0.1
_BURST_LEAST_BYTES = 16 * 1024
_BURST_MOST_BITS = 34_359_738_360

DSCP_BY_NAME: Mapping[str, int] = MappingProxyType(
    {"DF": 0, "LE": 1, "EF": 46, "VA": 44}
    | {f"CS{number}": number * 8 for number in range(8)}
    | {f"AF{high}{low}": high * 8 + low * 2 for high in (1, 2, 3, 4) for low in (1, 2, 3)}
)
"""The classes of RFC 2474, 2597, 3246, 5865 and 8622."""


class _Reader:
    """Reads the fields of one endpoint and collects what is wrong."""

    def __init__(self, key: ResourceKey, controls: QosControls) -> None:
        self._key = key
        self._controls = controls
        self.problems: list[Problem] = []

    def number(self, field: str, allowed: range, unit: str) -> int:
        """Returns the value of a field, 0 if it is not given or cannot be used."""
        value: int | None = getattr(self._controls, field)
        if not value or value in allowed:
            return value or 0
        self.report(field, value, f"is not from {allowed[0]} to {allowed[-1]} {unit}; it limits nothing")
        return 0

    def packets(self, side: str) -> PacketRate | None:
        """Returns the packet rate of one direction."""
        per_s = self.number(f"{side}_packet_rate", PACKETS_PER_S, "packets/s")
        burst = self.number(f"{side}_packet_burst", PACKET_BURST, "packets")
        return PacketRate(per_s, burst or _DEFAULT_PACKET_BURST) if per_s else None

    def bandwidth(self, side: str) -> Bandwidth | None:
        """Returns the bandwidth of one direction."""
        rate_bits = self.number(f"{side}_bandwidth", BANDWIDTH_BITS, "bit/s")
        burst_bits = self.number(f"{side}_burst", range(8, _BURST_MOST_BITS + 1), "bits")
        peak_bits = self.number(f"{side}_peakrate", BANDWIDTH_BITS, "bit/s")
        least_bytes = self.number(f"{side}_minburst", range(1, 100_000_001), "bytes")
        if not rate_bits:
            return None
        if peak_bits and peak_bits <= rate_bits:
            self.report(f"{side}_peakrate", peak_bits, f"is not more than the bandwidth, {rate_bits}; it has no effect")
            peak_bits = 0
        burst_bytes = burst_bits // 8 or max(int(rate_bits * _BURST_SHARE_S) // 8, _BURST_LEAST_BYTES)
        return Bandwidth(rate_bits, burst_bytes, peak_bits, least_bytes if peak_bits else 0)

    def dscp(self) -> int | None:
        """Returns the class that packets are marked with."""
        value = self._controls.dscp
        if value is None or value == "":
            return None
        text = str(value).upper()
        number = DSCP_BY_NAME.get(text, int(text) if text.isascii() and text.isdecimal() and len(text) < 3 else -1)
        if 0 <= number <= 63:
            return number
        self.report(
            "dscp", value, "is neither 0-63 nor the name of a class, such as AF11, CS6 or EF; nothing is marked"
        )
        return None

    def report(self, field: str, value: object, reason: str) -> None:
        """The field cannot be used."""
        first, *rest = field.split("_")
        name = first + "".join(word.capitalize() for word in rest)
        self.problems.append(Problem(format_key(self._key), f"spec.qosControls.{name}", shorten(str(value)), reason))


def read_limits(key: ResourceKey, controls: QosControls | None) -> tuple[Limits | None, tuple[Problem, ...]]:
    """Returns the limits, None if there is none, and what cannot be used."""
    if controls is None:
        return None, ()
    reader = _Reader(key, controls)
    limits = Limits(
        packets_in=reader.packets("ingress"),
        packets_out=reader.packets("egress"),
        connections_in=reader.number("ingress_max_connections", CONNECTIONS, "connections"),
        connections_out=reader.number("egress_max_connections", CONNECTIONS, "connections"),
        bandwidth_in=reader.bandwidth("ingress"),
        bandwidth_out=reader.bandwidth("egress"),
        dscp=reader.dscp(),
    )
    return (limits if limits != Limits() else None), tuple(reader.problems)


def read_source_rate(key: ResourceKey, policy: Policy) -> tuple[SourceRate | None, tuple[Problem, ...]]:
    """Returns the rate that the annotations of a policy ask for, None if none, and what cannot be used of them."""
    annotations = policy.metadata.annotations
    if not any(name.startswith(_OWN_PREFIX) for name in annotations):
        return None, ()
    problems: list[Problem] = []

    def number(name: str, allowed: range, otherwise: str) -> int | None:
        text = annotations.get(name)
        if text is None:
            return None
        if text.isascii() and text.isdecimal() and len(text) <= 9 and int(text) in allowed:
            return int(text)
        reason = f"is not a number from {allowed[0]} to {allowed[-1]}, such as {_DEFAULT_NEW_BURST}; {otherwise}"
        report(name, text, reason)
        return None

    def report(name: str, text: str, reason: str) -> None:
        problems.append(Problem(format_key(key), f"metadata.annotations[{name}]", shorten(text), reason))

    known = (RATE_ANNOTATION, BURST_ANNOTATION)
    for name, text in annotations.items():
        if name.startswith(_OWN_PREFIX) and name not in known:
            near = difflib.get_close_matches(name, known, n=1)
            hint = f"did you mean {near[0]}?" if near else f"there are {' and '.join(known)}"
            report(name, text, f"has no effect: no such annotation; {hint}")
    per_s = number(RATE_ANNOTATION, NEW_CONNECTIONS, "the policy is enforced, and limits no new connections")
    burst = number(BURST_ANNOTATION, _NEW_BURST, f"it counts as {_DEFAULT_NEW_BURST}")
    if BURST_ANNOTATION in annotations and RATE_ANNOTATION not in annotations:
        report(BURST_ANNOTATION, annotations[BURST_ANNOTATION], f"has no effect without {RATE_ANNOTATION}")
    elif (
        RATE_ANNOTATION in annotations
        and isinstance(policy, GlobalNetworkPolicy)
        and (policy.spec.do_not_track or policy.spec.pre_dnat)
    ):
        reason = "has no effect: workloads are limited, and a policy with doNotTrack or preDNAT is for hosts only"
        report(RATE_ANNOTATION, annotations[RATE_ANNOTATION], reason)
        per_s = None
    return (SourceRate(per_s, burst or _DEFAULT_NEW_BURST) if per_s else None), tuple(problems)


def with_source_rate(limits: Limits | None, rate: SourceRate | None) -> Limits | None:
    """Returns the limits of an endpoint whose policies ask for this rate."""
    return limits if rate is None else dataclasses.replace(limits or Limits(), per_source=rate)
