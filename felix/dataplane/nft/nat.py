"""Translation of addresses: traffic to the outside hides behind its host, external addresses lead to endpoints.

Chains are there only if there is something to translate. They come behind what others hang on the same hooks, as
Calico's do: who has translated a connection already has decided about it.
"""

from __future__ import annotations

from collections.abc import Collection

from felix.calc.desired import HOSTS, MASQUERADED, POOLS
from felix.dataplane.nft.base import SOURCES4, SOURCES6
from felix.dataplane.nft.match import render_address
from felix.dataplane.nft.types import Lines, NatConfig

FLOATING_IN, FLOATING_OUT = "floating-in", "floating-out"
_WORD = {4: "ip", 6: "ip6"}
_SOURCES = {4: SOURCES4, 6: SOURCES6}
_DESTINATION_PRIORITY = -100
_SOURCE_PRIORITY = 110


def net_set(name: str, version: int) -> str:
    """Returns the name of the kernel set with the nets called `name` of one family."""
    return f"{name}{version}"


def floating_map(name: str, version: int) -> str:
    """Returns the name of the kernel map from external addresses to those of endpoints, or back."""
    return f"{name}{version}"


def render_nat(config: NatConfig, masqueraded: Collection[int], floating: Collection[int]) -> dict[str, Lines]:
    """Returns the chains that are wanted now. masqueraded, floating: the families in which there is something to do."""
    chains: dict[str, Lines] = {}
    if floating:
        lines = tuple(
            f"dnat {_WORD[version]} to {_WORD[version]} daddr map @{floating_map(FLOATING_IN, version)}"
            for version in sorted(floating)
        )
        for hook in ("prerouting", "output"):
            chains[f"nat-{hook}"] = (_hook(hook, _DESTINATION_PRIORITY), *lines)
    if floating or masqueraded:
        source = [line for version in sorted(floating) for line in _render_floating(version)]
        source += [line for version in sorted(masqueraded) for line in _render_outgoing(config, version)]
        chains["nat-postrouting"] = (_hook("postrouting", _SOURCE_PRIORITY), *source)
    return chains


def _hook(hook: str, priority: int) -> str:
    return f"type nat hook {hook} priority {priority}; policy accept;"


def _render_floating(version: int) -> list[str]:
    word = _WORD[version]
    to = f"snat {word} to {word} saddr map @{floating_map(FLOATING_OUT, version)}"
    return [
        # It leaves by the interface that owns its source: a workload talks with itself by its external address, and
        # would take an answer of its own for somebody else's.
        f"oifname . {word} saddr @{_SOURCES[version]} {to}",
        f"{word} daddr != @{net_set(POOLS, version)} {to}",
    ]


def _render_outgoing(config: NatConfig, version: int) -> list[str]:
    word = _WORD[version]
    match = f"{word} saddr @{net_set(MASQUERADED, version)} {word} daddr != @{net_set(POOLS, version)}"
    if config.spares_hosts:
        match += f" {word} daddr != @{net_set(HOSTS, version)}"
    if config.interface:
        match += f' oifname "{config.interface.replace("+", "*")}"'
    address = ""
    if config.address is not None and config.address.version == version:
        address = render_address(version, config.address.value)
    statement = f"snat {word} to {address} fully-random" if address else "masquerade fully-random"
    if config.ports is None:
        return [f"{match} {statement}"]
    first, last = config.ports
    ports = str(first) if first == last else f"{first}-{last}"
    if address:
        with_ports = f"snat {word} to {f'[{address}]' if version == 6 else address}:{ports} fully-random"
    else:
        with_ports = f"masquerade to :{ports} fully-random"
    return [f"{match} meta l4proto {{ 6, 17 }} {with_ports}", f"{match} {statement}"]
