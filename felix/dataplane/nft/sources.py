"""Whose packets they are, beyond the endpoint's own addresses: source prefixes that a few may use besides, and MACs.

Nothing of this is in the table unless settings ask for it. A chain that the kernel refuses only drops; an empty one
leads back to the gate, which drops.
"""

from __future__ import annotations

from felix.calc.desired import LocalEndpoint
from felix.dataplane.nft.elements import name_key
from felix.dataplane.nft.match import render_sources
from felix.dataplane.nft.names import source_chain
from felix.dataplane.nft.types import ElementShape, Lines, NftConfig

ALLOWED = "allowed-sources"
MACS = "macs"
MAC_CHECKED = "mac-checked"
SOURCE_SHAPES = {ALLOWED: ElementShape.NAME_CHAIN, MACS: ElementShape.NAME_MAC, MAC_CHECKED: ElementShape.NAME}
_GATE = "gate-allowed"


def source_shapes(config: NftConfig) -> dict[str, ElementShape]:
    """Returns the sets and maps that exist with these settings."""
    names = [ALLOWED] if config.allows_spoofing else []
    names += [MACS, MAC_CHECKED] if config.checks_macs else []
    return {name: SOURCE_SHAPES[name] for name in names}


def render_gate(config: NftConfig) -> dict[str, Lines]:
    """Returns the chain that the gate for sources jumps to before it drops, if any."""
    return {_GATE: (f"iifname vmap @{ALLOWED}",)} if config.allows_spoofing else {}


def render_mac_check(config: NftConfig, drop: str) -> Lines:
    """Returns the lines of the gate that drop what has another MAC than its endpoint."""
    return (f"iifname @{MAC_CHECKED} iifname . ether saddr != @{MACS} {drop}",) if config.checks_macs else ()


def render_jump(config: NftConfig) -> Lines:
    """Returns the lines of the gate that let pass what endpoints may send under other addresses."""
    return (f"jump {_GATE}",) if config.allows_spoofing else ()


def source_elements(config: NftConfig, endpoint: LocalEndpoint) -> list[tuple[str, bytes, str]]:
    """Returns set, key and chain of the elements that an endpoint has besides those that open it."""
    name = name_key(endpoint.interface)
    elements = []
    if config.allows_spoofing and endpoint.spoofed:
        elements.append((ALLOWED, name, source_chain(endpoint.interface)))
    if config.checks_macs and endpoint.mac is not None:
        mac = bytes.fromhex(endpoint.mac.replace(":", ""))
        elements += [(MAC_CHECKED, name, ""), (MACS, name + mac + bytes(2), "")]
    return elements


def source_chains(config: NftConfig, endpoint: LocalEndpoint) -> dict[str, Lines]:
    """Returns the chains that an endpoint has for itself: of the prefixes that it may use as its source."""
    if not config.allows_spoofing or not endpoint.spoofed:
        return {}
    return {source_chain(endpoint.interface): tuple(f"{one} accept" for one in render_sources(endpoint.spoofed))}
