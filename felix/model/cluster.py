"""Records of the whole: nodes, the state of the cluster, and settings of agents."""

from __future__ import annotations

from msgspec import field

from felix.model.metadata import Resource, Spec
from felix.model.scalars import AsNumber


class NodeBgp(Spec, frozen=True, gc=False):
    """How a node speaks BGP. Addresses are `address/length` of its network; empty: it has none of that family."""

    as_number: AsNumber | None = None
    ipv4_address: str = ""
    ipv6_address: str = ""
    ipv4_ipip_tunnel_addr: str = field(default="", name="ipv4IPIPTunnelAddr")
    route_reflector_cluster_id: str = field(default="", name="routeReflectorClusterID")


class OrchRef(Spec, frozen=True, gc=False):
    """The name of a node in some orchestrator."""

    node_name: str = ""
    orchestrator: str = ""


class NodeWireguard(Spec, frozen=True, gc=False):
    """Addresses of a node's WireGuard interface."""

    interface_ipv4_address: str = field(default="", name="interfaceIPv4Address")
    interface_ipv6_address: str = field(default="", name="interfaceIPv6Address")


class NodeAddress(Spec, frozen=True, gc=False):
    """An address of a node, with or without a length. type: InternalIP, ExternalIP, CalicoNodeIP."""

    address: str
    type: str = ""


class NodeInterface(Spec, frozen=True, gc=False):
    """An interface of a node and its addresses."""

    name: str = ""
    addresses: tuple[str, ...] = ()


class NodeSpec(Spec, frozen=True, gc=False):
    """What others need to know of a node."""

    bgp: NodeBgp | None = None
    ipv4_vxlan_tunnel_addr: str = field(default="", name="ipv4VXLANTunnelAddr")
    ipv6_vxlan_tunnel_addr: str = field(default="", name="ipv6VXLANTunnelAddr")
    vxlan_tunnel_mac_addr: str = field(default="", name="vxlanTunnelMACAddr")
    vxlan_tunnel_mac_addr_v6: str = field(default="", name="vxlanTunnelMACAddrV6")
    orch_refs: tuple[OrchRef, ...] = ()
    wireguard: NodeWireguard | None = None
    addresses: tuple[NodeAddress, ...] = ()
    interfaces: tuple[NodeInterface, ...] = ()


class Node(Resource, frozen=True, gc=False, kw_only=True):
    """A host; the name is the one that endpoints give as theirs."""

    spec: NodeSpec


class ClusterInformationSpec(Spec, frozen=True, gc=False):
    """What the cluster is. datastore_ready: agents wait until it is true."""

    cluster_guid: str = field(default="", name="clusterGUID")
    cluster_type: str = ""
    calico_version: str = ""
    datastore_ready: bool | None = None
    variant: str = ""


class ClusterInformation(Resource, frozen=True, gc=False, kw_only=True):
    """The state of the cluster; there is one, named `default`."""

    spec: ClusterInformationSpec


class FelixConfiguration(Resource, frozen=True, gc=False, kw_only=True):
    """Settings of all agents (`default`), or of one (`node.<name>`).

    spec: values by the names that `felix.config.table` and `felix.config.known` list; their reader judges the values.
    """

    spec: dict[str, object]
