"""What a host's address in the tunnel is to be, from what its Node says and what address management holds. Pure.

The Node is what other hosts believe; the handle is what keeps the address from being given to anybody else. They change
in one transaction, and whatever a crash or a person leaves of them in another state is put right at the next look.
"""

from __future__ import annotations

import contextlib
from collections.abc import Mapping, Sequence
from typing import NamedTuple

import msgspec

from felix.calc.tunnels import TunnelWish
from felix.model.net import Net, parse_address

TYPE = "type"
"""The attribute that says what an address is for, if not for a workload; Calico's, as are its values and handles."""
TYPE_BY_FAMILY: Mapping[int, str] = {4: "vxlanTunnelAddress", 6: "vxlanV6TunnelAddress"}
_FIELDS: Mapping[int, tuple[str, str]] = {
    4: ("ipv4VXLANTunnelAddr", "vxlanTunnelMACAddr"),
    6: ("ipv6VXLANTunnelAddr", "vxlanTunnelMACAddrV6"),
}


def handle_of(node: str, family: int) -> str:
    """Returns the handle under which a node has its address in the tunnel."""
    return f"vxlan-tunnel-addr-{node}" if family == 4 else f"vxlan-v6-tunnel-addr-{node}"


class Step(NamedTuple):
    """What is to be done. address: that the host is to have; None: none, or a new one if `is_new`.

    released: what its handle holds besides. fields: what its Node is to say; empty: as it does.
    """

    address: Net | None
    is_new: bool
    released: tuple[Net, ...]
    fields: Mapping[str, str]

    @property
    def is_empty(self) -> bool:
        """Whether all is as it should be."""
        return not (self.is_new or self.released or self.fields)


def plan_step(family: int, wish: TunnelWish, held: Sequence[Net]) -> Step:
    """Returns what makes the wish true. held: what the handle of this host holds, of any family."""
    said = _find_address(wish.address)
    own = sorted(net for net in held if any(pool.__contains__(net) for pool in wish.nets)) if wish.is_on else []
    address = said if said in own else next(iter(own), None)
    released = tuple(net for net in held if net != address)
    is_new = address is None and bool(wish.pools)
    if is_new:
        return Step(None, True, released, {})
    return Step(address, False, released, find_changes(family, wish, address))


def find_changes(family: int, wish: TunnelWish, address: Net | None) -> dict[str, str]:
    """Returns the fields of the Node that differ when the host has this address; an empty text: no such field."""
    wanted = (address.address, wish.wanted_mac) if address is not None else ("", "")
    stored = (wish.address, wish.mac)
    return {name: new for name, new, old in zip(_FIELDS[family], wanted, stored, strict=True) if new != old}


def write_fields(value: bytes, fields: Mapping[str, str]) -> bytes | None:
    """Returns the JSON of a Node that says `fields`, and else what it said; None: it says so already, or is no Node."""
    try:
        document = msgspec.json.decode(value)
    except (ValueError, RecursionError):
        return None
    spec = document.get("spec") if isinstance(document, dict) else None
    if not isinstance(document, dict) or not isinstance(spec, dict):
        return None
    kept = {name: item for name, item in spec.items() if name not in fields}
    changed = {**kept, **{name: text for name, text in fields.items() if text}}
    return msgspec.json.encode({**document, "spec": changed}) if changed != spec else None


ALL_FIELDS: Mapping[str, str] = {name: "" for names in _FIELDS.values() for name in names}
"""What a Node says that has no end of the tunnel."""


def _find_address(text: str) -> Net | None:
    with contextlib.suppress(ValueError):
        return parse_address(text)
    return None
