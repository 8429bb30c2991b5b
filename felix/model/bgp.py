"""Records of BGP: the configuration of all speakers or of one, peers, and filters."""

from __future__ import annotations

from typing import Annotated, Literal

from msgspec import Meta, field

from felix.model.metadata import Resource, Spec
from felix.model.scalars import AsNumber, Count, Duration, LogSeverity, PortNumber, RoutePriority

Switch = Literal["Enabled", "Disabled"]


class SecretKeyRef(Spec, frozen=True, gc=False):
    """An entry of a Kubernetes secret."""

    key: str
    name: str = ""
    optional: bool | None = None


class BGPPassword(Spec, frozen=True, gc=False):
    """Where a password is kept."""

    secret_key_ref: SecretKeyRef | None = None


class Community(Spec, frozen=True, gc=False):
    """A name for a community `aa:nn` or a large community `aa:nn:mm`."""

    name: str = ""
    value: Annotated[str, Meta(pattern=r"^[0-9]+:[0-9]+(:[0-9]+)?$")] | None = None


class PrefixAdvertisement(Spec, frozen=True, gc=False):
    """Communities, by value or by name, that routes inside a prefix are given."""

    cidr: str = ""
    communities: tuple[str, ...] = ()


class ServiceNet(Spec, frozen=True, gc=False):
    """A prefix of service addresses."""

    cidr: str = ""


class BGPConfigurationSpec(Spec, frozen=True, gc=False):
    """How nodes speak BGP; None and empty are not set, so the value of `default`, or Calico's own, applies."""

    as_number: AsNumber | None = None
    bind_mode: Literal["None", "NodeIP"] | None = None
    communities: tuple[Community, ...] = ()
    ignored_interfaces: tuple[str, ...] = ()
    ipv4_normal_route_priority: RoutePriority | None = None
    ipv6_normal_route_priority: RoutePriority | None = None
    listen_port: PortNumber | None = None
    local_workload_peering_ipv4: str = field(default="", name="localWorkloadPeeringIPV4")
    local_workload_peering_ipv6: str = field(default="", name="localWorkloadPeeringIPV6")
    log_severity_screen: LogSeverity = ""
    node_mesh_max_restart_time: Duration = ""
    node_mesh_password: BGPPassword | None = None
    node_to_node_mesh_enabled: bool | None = None
    prefix_advertisements: tuple[PrefixAdvertisement, ...] = ()
    program_cluster_routes: Switch | None = None
    service_cluster_ips: tuple[ServiceNet, ...] = field(default=(), name="serviceClusterIPs")
    service_external_ips: tuple[ServiceNet, ...] = field(default=(), name="serviceExternalIPs")
    service_load_balancer_ips: tuple[ServiceNet, ...] = field(default=(), name="serviceLoadBalancerIPs")
    service_load_balancer_aggregation: Switch | None = None


class BGPConfiguration(Resource, frozen=True, gc=False, kw_only=True):
    """How all nodes speak BGP (`default`), or one (`node.<name>`)."""

    spec: BGPConfigurationSpec


class BGPPeerSpec(Spec, frozen=True, gc=False):
    """Which nodes speak to whom, and how. Empty: not set.

    peer_ip: an address, or `a.b.c.d:port`, `[v6]:port` (`parse_peer_address` of `felix.model.values` reads it).
    """

    node: str = ""
    node_selector: str = ""
    peer_ip: Annotated[str, Meta(max_length=64)] = field(default="", name="peerIP")
    peer_selector: str = ""
    local_workload_selector: str = ""
    as_number: AsNumber | None = None
    local_as_number: AsNumber | None = field(default=None, name="localASNumber")
    keep_original_next_hop: bool = False
    next_hop_mode: Literal["Auto", "Self", "Keep"] | None = None
    password: BGPPassword | None = None
    source_address: Literal["", "UseNodeIP", "None"] = ""
    max_restart_time: Duration = ""
    keepalive_time: Duration = ""
    num_allowed_local_as_numbers: Count | None = field(default=None, name="numAllowedLocalASNumbers")
    ttl_security: Annotated[int, Meta(ge=0, le=255)] | None = None
    reachable_by: str = ""
    filters: tuple[str, ...] = ()
    reverse_peering: Literal["Auto", "Manual"] | None = None


class BGPPeer(Resource, frozen=True, gc=False, kw_only=True):
    """A neighbour of all nodes, of one, or of those that a selector names."""

    spec: BGPPeerSpec


class PrefixLengths(Spec, frozen=True, gc=False):
    """Prefix lengths, both ends included; None is the end of what is possible."""

    min: Annotated[int, Meta(ge=0, le=128)] | None = None
    max: Annotated[int, Meta(ge=0, le=128)] | None = None


class CommunityMatch(Spec, frozen=True, gc=False):
    """Communities that a route must carry."""

    values: Annotated[tuple[str, ...], Meta(min_length=1, max_length=1)]


class AddCommunity(Spec, frozen=True, gc=False):
    """The route gets a community."""

    value: Annotated[str, Meta(max_length=32)]


class PrependAsPath(Spec, frozen=True, gc=False):
    """The route's path gets these in front, in this order."""

    prefix: Annotated[tuple[AsNumber, ...], Meta(min_length=1, max_length=10)]


class SetPriority(Spec, frozen=True, gc=False):
    """The route gets a metric."""

    value: RoutePriority


class FilterOperation(Spec, frozen=True, gc=False):
    """One change of a route; exactly one field is set."""

    add_community: AddCommunity | None = None
    prepend_as_path: PrependAsPath | None = field(default=None, name="prependASPath")
    set_priority: SetPriority | None = None


# As with rules of policy: an unknown field could only narrow the rule, and to ignore it would let routes through.
class FilterRule(Spec, frozen=True, gc=False, forbid_unknown_fields=True):
    """One rule of a filter; conditions that are not set hold for every route."""

    action: Literal["Accept", "Reject"]
    cidr: Annotated[str, Meta(max_length=43)] = ""
    match_operator: Literal["Equal", "NotEqual", "In", "NotIn"] | None = None
    prefix_length: PrefixLengths | None = None
    source: Literal["RemotePeers"] | None = None
    interface: str = ""
    peer_type: Literal["eBGP", "iBGP"] | None = None
    communities: CommunityMatch | None = None
    as_path_prefix: Annotated[tuple[AsNumber, ...], Meta(max_length=10)] = ()
    priority: RoutePriority | None = None
    operations: Annotated[tuple[FilterOperation, ...], Meta(max_length=10)] = ()


class BGPFilterSpec(Spec, frozen=True, gc=False):
    """Rules for routes that come in and go out, per family, in order."""

    import_v4: tuple[FilterRule, ...] = ()
    import_v6: tuple[FilterRule, ...] = ()
    export_v4: tuple[FilterRule, ...] = ()
    export_v6: tuple[FilterRule, ...] = ()


class BGPFilter(Resource, frozen=True, gc=False, kw_only=True):
    """Which routes are exchanged with peers that name it."""

    spec: BGPFilterSpec
