"""Nodes with a tunnel, for tests."""

from __future__ import annotations

from felix.model.cluster import NodeBgp, NodeSpec
from felix.model.metadata import Metadata
from felix.model.records import Node


def make_node(
    name: str,
    *,
    address4: str = "",
    address6: str = "",
    tunnel4: str = "",
    tunnel6: str = "",
    mac4: str = "",
    labels: dict[str, str] | None = None,
) -> Node:
    """Returns the record of a node. Addresses: with the length of their network, as a node says them."""
    return Node(
        metadata=Metadata(name=name, labels=labels or {}),
        spec=NodeSpec(
            bgp=NodeBgp(ipv4_address=address4, ipv6_address=address6),
            ipv4_vxlan_tunnel_addr=tunnel4,
            ipv6_vxlan_tunnel_addr=tunnel6,
            vxlan_tunnel_mac_addr=mac4,
        ),
    )
