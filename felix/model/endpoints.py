"""Records of the things that have addresses and are protected: workload and host endpoints, and their profiles."""

from __future__ import annotations

from msgspec import field

from felix.model.metadata import Resource, Spec
from felix.model.policies import Rule
from felix.model.scalars import Count, PortNumber


class EndpointPort(Spec, frozen=True, gc=False):
    """A port with a name, for rules that name ports. host_port, host_ip: of workload endpoints only."""

    name: str
    port: PortNumber
    protocol: int | str
    host_port: int = 0
    host_ip: str = field(default="", name="hostIP")


class IpNat(Spec, frozen=True, gc=False):
    """An address outside that stands for one of the endpoint's own."""

    internal_ip: str = field(default="", name="internalIP")
    external_ip: str = field(default="", name="externalIP")


class QosControls(Spec, frozen=True, gc=False):
    """Limits of an endpoint; None is no limit.

    Bandwidth and peak rate: bits per second. Burst and min burst: bits, bytes. Packet rate: packets per second.
    dscp: 0-63 or the name of a class.
    """

    ingress_bandwidth: Count | None = None
    egress_bandwidth: Count | None = None
    ingress_burst: Count | None = None
    egress_burst: Count | None = None
    ingress_peakrate: Count | None = None
    egress_peakrate: Count | None = None
    ingress_minburst: Count | None = None
    egress_minburst: Count | None = None
    ingress_packet_rate: Count | None = None
    egress_packet_rate: Count | None = None
    ingress_packet_burst: Count | None = None
    egress_packet_burst: Count | None = None
    ingress_max_connections: Count | None = None
    egress_max_connections: Count | None = None
    dscp: int | str | None = None


class WorkloadEndpointSpec(Spec, frozen=True, gc=False):
    """Where a workload is attached, and who it is. `ip_networks` are single addresses with their /32 or /128."""

    orchestrator: str = ""
    workload: str = ""
    node: str = ""
    container_id: str = field(default="", name="containerID")
    pod: str = ""
    endpoint: str = ""
    service_account_name: str = ""
    interface_name: str = ""
    mac: str = ""
    ip_networks: tuple[str, ...] = ()
    ip_nats: tuple[IpNat, ...] = field(default=(), name="ipNATs")
    ipv4_gateway: str = ""
    ipv6_gateway: str = ""
    profiles: tuple[str, ...] = ()
    ports: tuple[EndpointPort, ...] = ()
    allow_spoofed_source_prefixes: tuple[str, ...] = ()
    qos_controls: QosControls | None = None


class WorkloadEndpoint(Resource, frozen=True, gc=False, kw_only=True):
    """One interface of one workload."""

    spec: WorkloadEndpointSpec


class HostEndpointSpec(Spec, frozen=True, gc=False):
    """Interfaces of a host itself: the one named, all (`*`), or those that have one of `expected_ips`."""

    node: str = ""
    interface_name: str = ""
    expected_ips: tuple[str, ...] = field(default=(), name="expectedIPs")
    profiles: tuple[str, ...] = ()
    ports: tuple[EndpointPort, ...] = ()


class HostEndpoint(Resource, frozen=True, gc=False, kw_only=True):
    """Interfaces of a host that policy protects."""

    spec: HostEndpointSpec


class ProfileSpec(Spec, frozen=True, gc=False):
    """Rules that apply when no policy decided, and labels that endpoints with the profile inherit."""

    ingress: tuple[Rule, ...] = ()
    egress: tuple[Rule, ...] = ()
    labels_to_apply: dict[str, str] = field(default_factory=dict)


class Profile(Resource, frozen=True, gc=False, kw_only=True):
    """What endpoints that name it have in common."""

    spec: ProfileSpec
