"""Every setting that Felix supports, in one table: the fields of `Settings`, each with what there is to know about it.

Names are Calico's unless marked as own. Loading, documentation, the comparison of two settings and the hints for
misspelt names all read this table; a new setting is one new field. Names that Calico has and Felix has not: `known`.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Mapping
from dataclasses import dataclass, field
from types import MappingProxyType
from typing import Annotated, Literal, NamedTuple, get_type_hints

from felix.config import readers
from felix.config.readers import Reader, choice, whole

Group = Literal["Datastore", "Dataplane", "BGP", "Status", "Addresses", "Health and metrics", "Logs", "Files"]


class About(NamedTuple):
    """What there is to know about one setting, beside its type and default.

    name: in the environment (FELIX_ and this in capitals) and in the file.
    yaml_name: in a FelixConfiguration; empty: the name with a small first letter.
    is_local: never read from the datastore, because it is needed to get there or differs per host.
    is_live: a changed value takes effect at once, otherwise after a restart.
    is_secret: the value is never shown. is_own: Calico has no such setting. unit: of the value, may be empty.
    """

    name: str
    group: Group
    reader: Reader
    description: str
    yaml_name: str = ""
    unit: str = ""
    is_local: bool = False
    is_live: bool = False
    is_secret: bool = False
    is_own: bool = False


_LEVEL = choice("TRACE", "DEBUG", "INFO", "WARNING", "ERROR", "FATAL", "NONE")

_LOG_PREFIX_TEXT = (
    "How kernel log lines of rules with action Log start. %t stands for the tier, %k the kind (gnp, np, profile), %n "
    "the name and %p the namespace and name of the policy."
)


@dataclass(frozen=True, slots=True, kw_only=True)
class Settings:
    """The settings in force. Durations are seconds (0 switches the periodic act off); an empty path or host is none."""

    datastore_type: Annotated[
        str,
        About(
            "DatastoreType", "Datastore", choice("etcdv3"), "Kind of datastore; etcd v3 is the only one.", is_local=True
        ),
    ] = "etcdv3"
    etcd_endpoints: Annotated[
        tuple[str, ...],
        About(
            "EtcdEndpoints",
            "Datastore",
            readers.ENDPOINT_URLS,
            "Members of the etcd cluster. Wins over EtcdScheme and EtcdAddr. All have the same scheme.",
            is_local=True,
        ),
    ] = ()
    etcd_addr: Annotated[
        str, About("EtcdAddr", "Datastore", readers.ADDRESS_AND_PORT, "The one etcd member to talk to.", is_local=True)
    ] = "127.0.0.1:2379"
    etcd_scheme: Annotated[
        str, About("EtcdScheme", "Datastore", choice("http", "https"), "How to talk to EtcdAddr.", is_local=True)
    ] = "http"
    etcd_ca_file: Annotated[
        str,
        About(
            "EtcdCaFile",
            "Datastore",
            readers.PATH,
            "Certificates (PEM) that etcd's certificate is checked against.",
            is_local=True,
        ),
    ] = ""
    etcd_cert_file: Annotated[
        str,
        About("EtcdCertFile", "Datastore", readers.PATH, "Certificate (PEM) that Felix shows to etcd.", is_local=True),
    ] = ""
    etcd_key_file: Annotated[
        str, About("EtcdKeyFile", "Datastore", readers.PATH, "Private key (PEM) of EtcdCertFile.", is_local=True)
    ] = ""
    etcd_username: Annotated[
        str, About("EtcdUsername", "Datastore", readers.TEXT, "User name for etcd.", is_local=True, is_own=True)
    ] = ""
    etcd_password: Annotated[
        str,
        About(
            "EtcdPassword",
            "Datastore",
            readers.TEXT,
            "Password for etcd. Keep it out of files that others can read.",
            is_local=True,
            is_secret=True,
            is_own=True,
        ),
    ] = field(default="", repr=False)
    felix_hostname: Annotated[
        str,
        About(
            "FelixHostname",
            "Datastore",
            readers.NODE_NAME,
            "Name of this host, as in its Node resource. Empty: the name that the system has for itself.",
            is_local=True,
        ),
    ] = ""
    interface_prefixes: Annotated[
        tuple[str, ...],
        About(
            "InterfacePrefix",
            "Dataplane",
            readers.INTERFACE_PREFIXES,
            "How names of workload interfaces start. One that no endpoint claims is closed.",
        ),
    ] = ("cali",)
    default_endpoint_to_host_action: Annotated[
        str,
        About(
            "DefaultEndpointToHostAction",
            "Dataplane",
            choice("DROP", "ACCEPT", "RETURN"),
            "What happens to packets from a workload to its own host that the workload's egress policy allows. "
            "RETURN leaves them to the host's own rules.",
        ),
    ] = "DROP"
    allow_vxlan_packets_from_workloads: Annotated[
        bool,
        About(
            "AllowVXLANPacketsFromWorkloads",
            "Dataplane",
            readers.BOOL,
            "Whether workloads may send VXLAN packets (UDP to VXLANPort); they carry others past policy.",
            yaml_name="allowVXLANPacketsFromWorkloads",
        ),
    ] = False
    allow_ipip_packets_from_workloads: Annotated[
        bool,
        About(
            "AllowIPIPPacketsFromWorkloads",
            "Dataplane",
            readers.BOOL,
            "Whether workloads may send IP-in-IP packets (protocol 4); they carry others past policy.",
            yaml_name="allowIPIPPacketsFromWorkloads",
        ),
    ] = False
    vxlan_port: Annotated[
        int,
        About("VXLANPort", "Dataplane", whole(1, 65535), "UDP port of VXLAN packets.", yaml_name="vxlanPort"),
    ] = 4789
    vxlan_enabled: Annotated[
        str,
        About(
            "VXLANEnabled",
            "Dataplane",
            readers.SWITCH,
            "Whether this host has a VXLAN tunnel. auto: while a pool of the family has vxlanMode Always or "
            "CrossSubnet; true: for IPv4 always; false: never, and such pools are not reached.",
            yaml_name="vxlanEnabled",
        ),
    ] = "auto"
    vxlan_vni: Annotated[
        int,
        About(
            "VXLANVNI",
            "Dataplane",
            whole(1, 16_777_215),
            "Network identifier of the tunnel, the same on all hosts.",
            yaml_name="vxlanVNI",
        ),
    ] = 4096
    vxlan_mtu: Annotated[
        int,
        About(
            "VXLANMTU",
            "Dataplane",
            whole(0, 65535),
            "MTU of the IPv4 tunnel; 0: that of the interface that it leaves by less 50. Containers that ask for no "
            "MTU get it too.",
            yaml_name="vxlanMTU",
        ),
    ] = 0
    vxlan_mtu_v6: Annotated[
        int,
        About(
            "VXLANMTUV6",
            "Dataplane",
            whole(0, 65535),
            "MTU of the IPv6 tunnel; 0: that of the interface that it leaves by less 70.",
            yaml_name="vxlanMTUV6",
        ),
    ] = 0
    external_nodes: Annotated[
        tuple[str, ...],
        About(
            "ExternalNodesCIDRList",
            "Dataplane",
            readers.NETS,
            "From where packets of the tunnel are taken besides the hosts of this cluster.",
            yaml_name="externalNodesList",
        ),
    ] = ()
    failsafe_inbound_host_ports: Annotated[
        tuple[str, ...],
        About(
            "FailsafeInboundHostPorts",
            "Dataplane",
            readers.FAILSAFES,
            "What no policy of a host endpoint stops on its way in; a prefix is where it comes from. "
            "Replaces the default; without etcd's and BGP's ports a policy can cut this host off.",
        ),
    ] = readers.read_failsafes("tcp:22,udp:68,tcp:179,tcp:2379,tcp:2380,tcp:5473,tcp:6443,tcp:6666,tcp:6667")
    failsafe_outbound_host_ports: Annotated[
        tuple[str, ...],
        About(
            "FailsafeOutboundHostPorts",
            "Dataplane",
            readers.FAILSAFES,
            "What no policy of a host endpoint stops on its way out; a prefix is where it goes to. "
            "Replaces the default; without etcd's and BGP's ports a policy can cut this host off.",
        ),
    ] = readers.read_failsafes("udp:53,udp:67,tcp:179,tcp:2379,tcp:2380,tcp:5473,tcp:6443,tcp:6666,tcp:6667")
    ipv6_support: Annotated[
        bool, About("Ipv6Support", "Dataplane", readers.BOOL, "Whether workloads may use IPv6; if not, it is dropped.")
    ] = True
    ip_forwarding: Annotated[
        str,
        About(
            "IPForwarding",
            "Dataplane",
            choice("Enabled", "Disabled"),
            "Whether Felix switches the host's IP forwarding on. Workloads need it; somebody else may do it.",
            yaml_name="ipForwarding",
        ),
    ] = "Enabled"
    disable_conntrack_invalid_check: Annotated[
        bool,
        About(
            "DisableConntrackInvalidCheck",
            "Dataplane",
            readers.BOOL,
            "Whether packets that connection tracking calls invalid are judged by policy instead of dropped.",
        ),
    ] = False
    workload_source_spoofing: Annotated[
        str,
        About(
            "WorkloadSourceSpoofing",
            "Dataplane",
            choice("Any", "Disabled"),
            "Whether workload endpoints may send from the prefixes in their allowSpoofedSourcePrefixes.",
        ),
    ] = "Disabled"
    checks_workload_macs: Annotated[
        bool,
        About(
            "CheckWorkloadMACs",
            "Dataplane",
            readers.BOOL,
            "Whether packets of a workload endpoint that names its MAC are dropped when they have another one.",
            yaml_name="checkWorkloadMACs",
            is_own=True,
        ),
    ] = False
    revokes_connections: Annotated[
        bool,
        About(
            "RevokeConnections",
            "Dataplane",
            readers.BOOL,
            "Whether open connections are cut, within a second, that policy has ceased to allow. If not, they live on "
            "until they end by themselves.",
            is_own=True,
        ),
    ] = True
    ipv4_normal_route_priority: Annotated[
        int,
        About(
            "IPv4NormalRoutePriority",
            "Dataplane",
            whole(1, 2147483646),
            "Metric of IPv4 routes to local workloads; the lowest metric wins.",
            yaml_name="ipv4NormalRoutePriority",
        ),
    ] = 1024
    ipv6_normal_route_priority: Annotated[
        int,
        About(
            "IPv6NormalRoutePriority",
            "Dataplane",
            whole(1, 2147483646),
            "Metric of IPv6 routes to local workloads; the lowest metric wins.",
            yaml_name="ipv6NormalRoutePriority",
        ),
    ] = 1024
    route_refresh_interval_s: Annotated[
        float,
        About(
            "RouteRefreshInterval",
            "Dataplane",
            readers.SECONDS,
            "How often all routes are read and compared, beside the repair by event. 0: never.",
            unit="s",
            is_live=True,
        ),
    ] = 90.0
    nftables_refresh_interval_s: Annotated[
        float,
        About(
            "NftablesRefreshInterval",
            "Dataplane",
            readers.SECONDS,
            "How often the nftables table is read and compared, beside the repair by event. 0: never.",
            unit="s",
            is_live=True,
        ),
    ] = 180.0
    interface_refresh_interval_s: Annotated[
        float,
        About(
            "InterfaceRefreshInterval",
            "Dataplane",
            readers.SECONDS,
            "How often all interfaces are listed and compared, beside the kernel's events. 0: never.",
            unit="s",
            is_live=True,
        ),
    ] = 90.0
    netlink_timeout_s: Annotated[
        float,
        About(
            "NetlinkTimeoutSecs",
            "Dataplane",
            readers.SECONDS,
            "How long to wait for the kernel's answer to one request.",
            yaml_name="netlinkTimeout",
            unit="s",
        ),
    ] = 10.0
    log_prefix: Annotated[str, About("LogPrefix", "Dataplane", readers.LOG_PREFIX, _LOG_PREFIX_TEXT)] = "calico-packet"
    log_action_rate_limit: Annotated[
        str,
        About(
            "LogActionRateLimit",
            "Dataplane",
            readers.LOG_RATE,
            "How often each rule with action Log may write a line. None: as often as it matches.",
        ),
    ] = ""
    log_action_rate_limit_burst: Annotated[
        int,
        About(
            "LogActionRateLimitBurst",
            "Dataplane",
            whole(0, 9999),
            "How many lines a rule with action Log may write at once before the limit counts; 0 is 1.",
        ),
    ] = 5
    policy_counters_enabled: Annotated[
        bool,
        About(
            "PolicyCountersEnabled",
            "Dataplane",
            readers.BOOL,
            "Whether it is counted what each policy and profile allows, denies and passes on. Staged policies are "
            "counted in any case.",
            is_own=True,
        ),
    ] = True
    policy_rule_counters: Annotated[
        int,
        About(
            "PolicyRuleCounters",
            "Dataplane",
            whole(0, 1000),
            "How many rules of each policy and direction, from the first on, are counted one by one.",
            is_own=True,
        ),
    ] = 0
    nftables_filter_deny_action: Annotated[
        str,
        About(
            "NftablesFilterDenyAction",
            "Dataplane",
            choice("DROP", "REJECT"),
            "What becomes of packets that policy denies. REJECT tells the sender (ICMP port unreachable).",
        ),
    ] = "DROP"
    nat_outgoing_address: Annotated[
        str,
        About(
            "NATOutgoingAddress",
            "Dataplane",
            readers.ADDRESS,
            "What the traffic of pools with natOutgoing hides behind when it leaves the pools, in this address's "
            "family; none: the address of the interface that it leaves by.",
            yaml_name="natOutgoingAddress",
        ),
    ] = ""
    nat_outgoing_exclusions: Annotated[
        str,
        About(
            "NATOutgoingExclusions",
            "Dataplane",
            choice("IPPoolsOnly", "IPPoolsAndHostIPs"),
            "Where such traffic keeps its source: to all pools, or to the addresses of all hosts too.",
            yaml_name="natOutgoingExclusions",
        ),
    ] = "IPPoolsOnly"
    nat_port_range: Annotated[
        tuple[int, int] | None,
        About(
            "NATPortRange",
            "Dataplane",
            readers.PORT_RANGE,
            "Source ports of such TCP and UDP traffic; none: any.",
            yaml_name="natPortRange",
        ),
    ] = None
    nat_outgoing_interface: Annotated[
        str,
        About(
            "IptablesNATOutgoingInterfaceFilter",
            "Dataplane",
            readers.INTERFACE_FILTER,
            "The interface by which such traffic must leave to be hidden, as eth0 or eth+; none: any.",
            yaml_name="iptablesNATOutgoingInterfaceFilter",
        ),
    ] = ""
    floating_ips: Annotated[
        str,
        About(
            "FloatingIPs",
            "Dataplane",
            choice("Enabled", "Disabled"),
            "Whether the external addresses of workload endpoints (ipNATs) lead to them.",
            yaml_name="floatingIPs",
        ),
    ] = "Disabled"
    new_connection_rate: Annotated[
        int,
        About(
            "NewConnectionRatePerSource",
            "Dataplane",
            whole(0, 1_000_000),
            "How many new connections one source may open in a second, from or to workloads of this host; what is over "
            "that is dropped. IPv6 sources outside the pools count by /64. 0: any number.",
            is_own=True,
        ),
    ] = 0
    new_connection_burst: Annotated[
        int,
        About(
            "NewConnectionBurstPerSource",
            "Dataplane",
            whole(1, 1_000_000),
            "How many of them it may open at once.",
            is_own=True,
        ),
    ] = 100
    attachment_grace_s: Annotated[
        float,
        About(
            "AttachmentGraceSecs",
            "Dataplane",
            readers.SECONDS,
            "How long a container that Felix attached may be without its interface before its endpoint and addresses "
            "are given back. 0: for ever.",
            yaml_name="attachmentGracePeriod",
            unit="s",
            is_own=True,
        ),
    ] = 900.0
    host_profile_nets: Annotated[
        tuple[str, ...],
        About(
            "HostProfileNets",
            "Dataplane",
            readers.NETS,
            "What containers may talk with beside their own host if they are in no group, as the machines of the "
            "orchestrator. Read when the profile default_<host> is made.",
            is_own=True,
        ),
    ] = ()
    bird_config_dir: Annotated[
        str,
        About(
            "BirdConfigDir",
            "BGP",
            readers.NEEDED_PATH,
            "Folder of the rendered bird.conf.",
            is_local=True,
            is_own=True,
        ),
    ] = "/run/felix/bird"
    bird_control_socket: Annotated[
        str,
        About(
            "BirdControlSocket",
            "BGP",
            readers.PATH,
            "Control socket of BIRD; none: this host runs no BIRD and nothing is rendered.",
            is_local=True,
            is_own=True,
        ),
    ] = "/run/bird/bird.ctl"
    endpoint_reporting_enabled: Annotated[
        bool,
        About(
            "EndpointReportingEnabled",
            "Status",
            readers.BOOL,
            "Whether the status of each local endpoint is written to the datastore.",
        ),
    ] = False
    endpoint_reporting_delay_s: Annotated[
        float,
        About(
            "EndpointReportingDelaySecs",
            "Status",
            readers.SECONDS,
            "Shortest time between two status writes for one endpoint.",
            yaml_name="endpointReportingDelay",
            unit="s",
        ),
    ] = 1.0
    reporting_interval_s: Annotated[
        float,
        About(
            "ReportingIntervalSecs",
            "Status",
            readers.SECONDS,
            "How often Felix says in the datastore that it is alive. 0: never.",
            yaml_name="reportingInterval",
            unit="s",
        ),
    ] = 30.0
    reporting_ttl_s: Annotated[
        float,
        About(
            "ReportingTTLSecs",
            "Status",
            readers.SECONDS,
            "After how long without a word this host counts as down. More than ReportingIntervalSecs.",
            yaml_name="reportingTTL",
            unit="s",
        ),
    ] = 90.0
    endpoint_status_path_prefix: Annotated[
        str,
        About(
            "EndpointStatusPathPrefix",
            "Status",
            readers.PATH,
            "Folder in which endpoint-status/ gets one file per programmed endpoint; none: no files.",
        ),
    ] = "/var/run/calico"
    ipam_leak_grace_period_s: Annotated[
        float,
        About(
            "IPAMLeakGracePeriod",
            "Addresses",
            readers.SECONDS,
            "How long an address that nobody uses, or a record of addresses that does not hold, must have been so "
            "before it is taken back. 0: never.",
            yaml_name="ipamLeakGracePeriod",
            unit="s",
            is_live=True,
            is_own=True,
        ),
    ] = 900.0
    lost_host_grace_period_s: Annotated[
        float,
        About(
            "LostHostGracePeriod",
            "Addresses",
            readers.SECONDS,
            "How long a host must have given no sign of life before its endpoints go and its addresses are taken "
            "back. 0: never.",
            unit="s",
            is_live=True,
            is_own=True,
        ),
    ] = 3600.0
    health_enabled: Annotated[
        bool, About("HealthEnabled", "Health and metrics", readers.BOOL, "Whether /liveness and /readiness are served.")
    ] = False
    health_host: Annotated[
        str, About("HealthHost", "Health and metrics", readers.HOST, "Address that they are served on; none: all.")
    ] = "localhost"
    health_port: Annotated[
        int, About("HealthPort", "Health and metrics", readers.PORT, "Port that they are served on; 0: any free one.")
    ] = 9099
    health_timeout_overrides: Annotated[
        tuple[tuple[str, float], ...],
        About(
            "HealthTimeoutOverrides",
            "Health and metrics",
            readers.DURATIONS_BY_NAME,
            "How long a component may stay silent before it counts as stuck, per component. 0: for ever.",
            unit="s",
            is_live=True,
        ),
    ] = ()
    prometheus_metrics_enabled: Annotated[
        bool, About("PrometheusMetricsEnabled", "Health and metrics", readers.BOOL, "Whether /metrics is served.")
    ] = False
    prometheus_metrics_host: Annotated[
        str, About("PrometheusMetricsHost", "Health and metrics", readers.HOST, "Address it is served on; none: all.")
    ] = ""
    prometheus_metrics_port: Annotated[
        int,
        About("PrometheusMetricsPort", "Health and metrics", readers.PORT, "Port it is served on; 0: any free one."),
    ] = 9091
    prometheus_process_metrics_enabled: Annotated[
        bool,
        About(
            "PrometheusProcessMetricsEnabled",
            "Health and metrics",
            readers.BOOL,
            "Whether process_* (CPU, memory, files) are among the metrics.",
        ),
    ] = True
    log_severity_screen: Annotated[
        str,
        About("LogSeverityScreen", "Logs", _LEVEL, "Least severity that is written to standard error.", is_live=True),
    ] = "INFO"
    log_severity_file: Annotated[
        str, About("LogSeverityFile", "Logs", _LEVEL, "Least severity that is written to LogFilePath.", is_live=True)
    ] = "INFO"
    log_file_path: Annotated[
        str, About("LogFilePath", "Logs", readers.PATH, "Log file; none: standard error only.")
    ] = "/var/log/calico/felix.log"
    log_format: Annotated[
        str,
        About("LogFormat", "Logs", choice("text", "json"), "Plain lines, or one JSON object per line.", is_own=True),
    ] = "text"
    run_dir: Annotated[
        str,
        About(
            "RunDir",
            "Files",
            readers.NEEDED_PATH,
            "Folder of the local API's socket, felix.sock.",
            is_local=True,
            is_own=True,
        ),
    ] = "/run/felix"
    state_dir: Annotated[
        str,
        About(
            "StateDir",
            "Files",
            readers.NEEDED_PATH,
            "Folder of the last known good desired state.",
            is_local=True,
            is_own=True,
        ),
    ] = "/var/lib/felix"

    @property
    def etcd_urls(self) -> tuple[str, ...]:
        """The etcd members to talk to: EtcdEndpoints, or EtcdScheme and EtcdAddr; never empty."""
        return self.etcd_endpoints or (f"{self.etcd_scheme}://{self.etcd_addr}",)


class Setting(NamedTuple):
    """One row of the table. attribute: of `Settings`. yaml_name: in a FelixConfiguration, empty for local ones."""

    attribute: str
    about: About
    default: object
    yaml_name: str

    @property
    def environment_name(self) -> str:
        """The variable that sets it."""
        return f"FELIX_{self.about.name.upper()}"


def _rows() -> tuple[Setting, ...]:
    rows = []
    hints = get_type_hints(Settings, include_extras=True)
    for entry in dataclasses.fields(Settings):
        (about,) = hints[entry.name].__metadata__
        spelled = about.yaml_name or about.name[0].lower() + about.name[1:]
        rows.append(Setting(entry.name, about, entry.default, "" if about.is_local else spelled))
    return tuple(rows)


SETTINGS: tuple[Setting, ...] = _rows()
SETTING_BY_LOWERED_NAME: Mapping[str, Setting] = MappingProxyType({row.about.name.lower(): row for row in SETTINGS})
SETTING_BY_YAML_NAME: Mapping[str, Setting] = MappingProxyType(
    {row.yaml_name: row for row in SETTINGS if row.yaml_name}
)
