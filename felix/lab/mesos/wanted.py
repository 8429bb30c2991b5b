"""What net-modules makes of a NetworkInfo, and the requests that its plug-ins get, key for key. Pure.

Requests are protobuf messages that were turned into JSON: keys in alphabetical order, what is unset or an empty list
is absent, required numbers are present also when they are 0. `labels` is a list of key and value.
"""

from __future__ import annotations

import json
from collections.abc import Sequence
from dataclasses import dataclass

from felix.errors import DataError
from felix.lab.mesos.types import Labels, NetworkInfo
from felix.model.net import parse_address

Json = None | bool | int | float | str | list["Json"] | dict[str, "Json"]


class LaunchRefused(DataError):
    """A task asks for what cannot be; it fails, and nothing was allocated."""


@dataclass(frozen=True, slots=True)
class Wanted:
    """The addresses that a task asks for: certain ones, and how many of any kind."""

    static_v4: tuple[str, ...]
    static_v6: tuple[str, ...]
    auto_v4: int
    auto_v6: int
    groups: tuple[str, ...]
    labels: Labels

    @property
    def has_static(self) -> bool:
        """Whether certain addresses are asked for."""
        return bool(self.static_v4 or self.static_v6)

    @property
    def has_auto(self) -> bool:
        """Whether addresses of any kind are asked for."""
        return self.auto_v4 + self.auto_v6 > 0

    @property
    def total(self) -> int:
        """How many addresses the container will have."""
        return len(self.static_v4) + len(self.static_v6) + self.auto_v4 + self.auto_v6


def read_wanted(infos: Sequence[NetworkInfo]) -> Wanted:
    """Returns what the one NetworkInfo asks for; raises LaunchRefused where net-modules fails the launch."""
    if len(infos) != 1:
        raise LaunchRefused(f"a container has one NetworkInfo with net-modules, not {len(infos)}; use the CNI isolator")
    info = infos[0]
    if info.protocol or info.ip_address:
        raise LaunchRefused("NetworkInfo.protocol and ip_address are of Mesos 0.25; use ip_addresses")
    static: list[str] = []
    automatic = {4: 0, 6: 0}
    for address in info.ip_addresses:
        if address.ip_address and address.protocol:
            raise LaunchRefused(f"ip_address {address.ip_address} and protocol {address.protocol}: give one of both")
        if address.protocol not in {"", "IPv4", "IPv6"}:
            raise LaunchRefused(f"protocol {address.protocol!r}: expected IPv4 or IPv6")
        if address.ip_address:
            static.append(_check_address(address.ip_address))
        else:
            automatic[6 if address.protocol == "IPv6" else 4] += 1
    if not info.ip_addresses:
        raise LaunchRefused("NetworkInfo.ip_addresses is empty; a container needs at least one IP")
    return Wanted(
        static_v4=tuple(address for address in static if ":" not in address),
        static_v6=tuple(address for address in static if ":" in address),
        auto_v4=automatic[4],
        auto_v6=automatic[6],
        groups=info.groups,
        labels=info.labels,
    )


def reserve_request(hostname: str, uid: str, wanted: Wanted) -> bytes:
    """Returns the request for the certain addresses."""
    return _render("reserve", _common(hostname, uid, wanted) | _addresses(wanted.static_v4, wanted.static_v6))


def allocate_request(hostname: str, uid: str, wanted: Wanted) -> bytes:
    """Returns the request for addresses of any kind."""
    numbers: dict[str, Json] = {"num_ipv4": wanted.auto_v4, "num_ipv6": wanted.auto_v6}
    return _render("allocate", _common(hostname, uid, wanted) | numbers)


def release_request(uid: str) -> bytes:
    """Returns the request that gives back whatever this launch holds; never somebody else's address."""
    return _render("release", {"uid": uid})


def isolate_request(hostname: str, container_id: str, pid: int, addresses: Sequence[str], wanted: Wanted) -> bytes:
    """Returns the request that wires the container's first process; it has not exec'ed yet."""
    four = [address for address in addresses if ":" not in address]
    six = [address for address in addresses if ":" in address]
    arguments: dict[str, Json] = {"hostname": hostname, "container_id": container_id, "pid": pid}
    return _render("isolate", arguments | _shared(wanted) | _addresses(four, six))


def cleanup_request(hostname: str, container_id: str) -> bytes:
    """Returns the request that takes the container's network away."""
    return _render("cleanup", {"hostname": hostname, "container_id": container_id})


def _common(hostname: str, uid: str, wanted: Wanted) -> dict[str, Json]:
    return {"hostname": hostname, "uid": uid} | _shared(wanted)


def _shared(wanted: Wanted) -> dict[str, Json]:
    labels: list[Json] = [{"key": label.key, "value": label.value} for label in wanted.labels.labels]
    return {"netgroups": list(wanted.groups), "labels": labels}


def _addresses(four: Sequence[str], six: Sequence[str]) -> dict[str, Json]:
    return {"ipv4_addrs": list(four), "ipv6_addrs": list(six)}


def _render(command: str, arguments: dict[str, Json]) -> bytes:
    present = {key: value for key, value in arguments.items() if value != []}
    return json.dumps({"args": present, "command": command}, sort_keys=True, separators=(",", ":")).encode()


def _check_address(text: str) -> str:
    try:
        return parse_address(text).address
    except ValueError as error:
        raise LaunchRefused(f"ip_address {text!r}: not an address") from error
