"""The settings of Calico's Felix that this Felix knows by name and does not support, and why.

Whoever brings a configuration along is told once per name what will not happen, instead of finding out by himself.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from types import MappingProxyType
from typing import NamedTuple


class Reason(NamedTuple):
    """Why `names` (as in Calico's file, separated by blanks) are not supported."""

    text: str
    names: str


REASONS = (
    Reason(
        "Felix watches etcd itself, there is no Typha between",
        """TyphaAddr TyphaCAFile TyphaCN TyphaCertFile TyphaK8sNamespace TyphaK8sServiceName TyphaKeyFile
        TyphaReadTimeout TyphaURISAN TyphaWriteTimeout""",
    ),
    Reason("Felix is not written in Go", "GoGCThreshold GoMaxProcs GoMemoryLimitMB PrometheusGoMetricsEnabled"),
    Reason("kernel features are found out by trying, and named when missing", "FeatureDetectOverride FeatureGates"),
    Reason(
        "not supported yet",
        """LogDebugFilenameRegex LogSeveritySys PrometheusMetricsCAFile
        PrometheusMetricsCertFile PrometheusMetricsClientAuth PrometheusMetricsKeyFile OpenstackRegion
        DeviceRouteSourceAddress DeviceRouteSourceAddressIPv6 IPv4ElevatedRoutePriority IPv6ElevatedRoutePriority
        LiveMigrationRouteConvergenceTime RouteSource MTUIfacePattern RequireMTUFile
        InterfaceExclude NftablesFilterAllowAction NftablesMangleAllowAction""",
    ),
    Reason("it is for OpenStack", "MetadataAddr MetadataPort"),
    Reason(
        "VXLAN is the one overlay",
        """IpInIpEnabled IpInIpMtu
        ProgramClusterRoutes WireguardEnabled WireguardEnabledV6 WireguardHostEncryptionEnabled WireguardInterfaceName
        WireguardInterfaceNameV6 WireguardListeningPort WireguardListeningPortV6 WireguardMTU WireguardMTUV6
        WireguardPersistentKeepAlive WireguardRoutingRulePriority WireguardThreadingEnabled
        PrometheusWireGuardMetricsEnabled""",
    ),
    Reason(
        "Felix always marks its routes with protocol 80 in the main table and touches no others",
        "DeviceRouteProtocol RemoveExternalRoutes RouteSyncDisabled RouteTableRange RouteTableRanges",
    ),
    Reason(
        "Felix programs nftables, in a table of its own, from within, and needs no packet marks",
        """NFTablesMode NftablesMarkMask ChainInsertMode DataplaneDriver UseInternalDataplaneDriver IptablesBackend
        IptablesFilterAllowAction IptablesFilterDenyAction IptablesLockProbeIntervalMillis IptablesMangleAllowAction
        IptablesMarkMask IptablesPostWriteCheckIntervalSecs IptablesRefreshInterval IpsetsRefreshInterval MaxIpsetSize
        XDPEnabled GenericXDPEnabled XDPRefreshInterval""",
    ),
    Reason("use HealthTimeoutOverrides", "DataplaneWatchdogTimeout"),
    Reason(
        "it needs Kubernetes",
        """KubeNodePortRanges ServiceLoopPrevention IstioAmbientMode IstioDSCPMark PolicySyncPathPrefix
        SidecarAccelerationEnabled FlowLogsCollectorDebugTrace FlowLogsFlushInterval FlowLogsGoldmaneServer
        FlowLogsLocalReporter FlowLogsPolicyEvaluationMode""",
    ),
    Reason("it needs a cloud's own interface", "AWSSrcDstCheck"),
    Reason("it needs Windows", "WindowsManageFirewallRules"),
    Reason(
        "Felix reports to nobody outside",
        "UsageReportingEnabled UsageReportingInitialDelaySecs UsageReportingIntervalSecs",
    ),
    Reason(
        "it is for tests of the Go implementation",
        """DebugBPFCgroupV2 DebugCPUProfilePath DebugDisableLogDropping DebugHost DebugMemoryProfilePath DebugPanicAfter
        DebugPort DebugSimulateCalcGraphHangAfter DebugSimulateDataRace DebugSimulateDataplaneApplyDelay
        DebugSimulateDataplaneHangAfter""",
    ),
    Reason(
        "there is no eBPF dataplane",
        """CgroupV2Path BPFAttachType BPFCTLBLogFilter BPFConnectTimeLoadBalancing BPFConnectTimeLoadBalancingEnabled
        BPFConntrackCleanupMode BPFConntrackLogLevel BPFConntrackTimeouts BPFDSROptoutCIDRs BPFDataIfacePattern
        BPFDisableGROForIfaces BPFDisableUnprivileged BPFEnabled BPFEnforceRPF BPFExcludeCIDRsFromNAT
        BPFExportBufferSizeMB BPFExtToServiceConnmark BPFExternalServiceMode BPFForceTrackPacketsFromIfaces
        BPFHostConntrackBypass BPFHostNetworkedNATWithoutCTLB BPFJITHardening BPFKubeProxyHealthzPort
        BPFKubeProxyIptablesCleanupEnabled BPFKubeProxyMinSyncPeriod BPFL3IfacePattern BPFLogFilters BPFLogLevel
        BPFMaglevMaxEndpointsPerService BPFMaglevMaxServices BPFMapSizeConntrack BPFMapSizeConntrackCleanupQueue
        BPFMapSizeConntrackScaling BPFMapSizeIPSets BPFMapSizeIfState BPFMapSizeNATAffinity BPFMapSizeNATBackend
        BPFMapSizeNATFrontend BPFMapSizePerCPUConntrack BPFMapSizeRoute BPFPSNATPorts BPFPolicyDebugEnabled
        BPFProfiling BPFRedirectToPeer""",
    ),
)

SPELLING_IN_RESOURCES: Mapping[str, str] = MappingProxyType(
    {
        "IptablesLockProbeIntervalMillis": "iptablesLockProbeInterval",
        "IptablesPostWriteCheckIntervalSecs": "iptablesPostWriteCheckInterval",
        "BPFConntrackCleanupMode": "bpfConntrackMode",
        "IpInIpEnabled": "ipipEnabled",
        "IpInIpMtu": "ipipMTU",
        "WireguardPersistentKeepAlive": "wireguardKeepAlive",
        "UsageReportingInitialDelaySecs": "usageReportingInitialDelay",
        "UsageReportingIntervalSecs": "usageReportingInterval",
    }
)
"""Names that a FelixConfiguration spells otherwise than by the case of its letters."""


def _entries() -> Iterator[tuple[str, Reason]]:
    for reason in REASONS:
        for name in reason.names.split():
            yield name.lower(), reason
            if name in SPELLING_IN_RESOURCES:
                yield SPELLING_IN_RESOURCES[name].lower(), reason


REASON_BY_LOWERED_NAME: Mapping[str, Reason] = MappingProxyType(dict(_entries()))
"""For either spelling, in small letters."""
