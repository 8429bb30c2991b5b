"""What a record must satisfy, beyond its types, before anything is computed from it. Rules of policy: `rules`."""

from __future__ import annotations

import re
from collections.abc import Iterator, Sequence

from felix.model.bgp import BGPConfigurationSpec, BGPPeerSpec, FilterRule
from felix.model.cluster import NodeSpec
from felix.model.endpoints import HostEndpointSpec, WorkloadEndpointSpec
from felix.model.net import Net, parse_address, parse_net
from felix.model.networks import IPPoolSpec
from felix.model.policies import DEFAULT_TIER, GlobalNetworkPolicySpec, NetworkPolicySpec
from felix.model.records import (
    BGPConfiguration,
    BGPFilter,
    BGPPeer,
    GlobalNetworkPolicy,
    GlobalNetworkSet,
    HostEndpoint,
    IPPool,
    IPReservation,
    NetworkPolicy,
    NetworkSet,
    Node,
    ResourceRecord,
    StagedGlobalNetworkPolicy,
    StagedNetworkPolicy,
    Tier,
    WorkloadEndpoint,
)
from felix.model.rules import find_net_flaws, find_selector_flaws, is_net
from felix.model.shape import Flaw, Path
from felix.model.values import duration_s, parse_peer_address

INTERFACE = re.compile(r"(?!\.{1,2}\Z)[A-Za-z0-9_.-]{1,15}")
MAC = re.compile(r"([0-9A-Fa-f]{2}:){5}[0-9A-Fa-f]{2}")
# What may stand between quotes in BIRD's configuration; patterns of interfaces have * and ?.
_INTERFACE_PATTERN = re.compile(r"[A-Za-z0-9_.*?:@-]{1,64}")
_COMMUNITY = re.compile(r"[0-9]{1,10}:[0-9]{1,10}(:[0-9]{1,10})?")
_NOT_A_WORKLOAD = tuple(
    parse_net(text)
    for text in ("0.0.0.0/8", "127.0.0.0/8", "224.0.0.0/4", "255.255.255.255/32", "::/128", "::1/128", "ff00::/8")
)
SPEC: Path = ("spec",)
AN_INTERFACE = "expected the name of an interface: 1 to 15 of A-Z a-z 0-9 _ . -"
AN_ADDRESS = "expected an address like 10.0.0.1 or 2001:db8::1"


def find_flaws(record: ResourceRecord) -> Iterator[Flaw]:
    """Yields why a record cannot be used, apart from rules of policies and profiles; nothing for a good one."""
    match record:
        case WorkloadEndpoint(spec=endpoint):
            yield from _find_workload_flaws(endpoint)
        case HostEndpoint(spec=host_endpoint):
            yield from _find_host_endpoint_flaws(host_endpoint)
        case GlobalNetworkPolicy() | NetworkPolicy() | StagedGlobalNetworkPolicy() | StagedNetworkPolicy():
            yield from _find_policy_flaws(record.spec)
        case Tier(metadata=metadata, spec=tier) if metadata.name == DEFAULT_TIER and tier.default_action != "Deny":
            yield Flaw((*SPEC, "defaultAction"), tier.default_action, "the tier default always ends in Deny")
        case NetworkSet(spec=nets) | GlobalNetworkSet(spec=nets):
            yield from find_net_flaws(nets.nets, (*SPEC, "nets"))
        case IPPool(spec=pool):
            yield from _find_pool_flaws(pool)
        case IPReservation(spec=reservation):
            yield from find_net_flaws(reservation.reserved_cidrs, (*SPEC, "reservedCIDRs"))
        case Node(spec=node):
            yield from _find_node_flaws(node)
        case BGPConfiguration(spec=configuration):
            yield from _find_bgp_configuration_flaws(configuration)
        case BGPPeer(spec=peer):
            yield from _find_peer_flaws(peer)
        case BGPFilter(spec=rules):
            for name, version, group in (
                ("importV4", 4, rules.import_v4),
                ("importV6", 6, rules.import_v6),
                ("exportV4", 4, rules.export_v4),
                ("exportV6", 6, rules.export_v6),
            ):
                for index, rule in enumerate(group):
                    yield from _find_filter_rule_flaws(rule, version, (*SPEC, name, index))


def _find_workload_flaws(spec: WorkloadEndpointSpec) -> Iterator[Flaw]:
    if not spec.node:
        yield Flaw((*SPEC, "node"), "", "is missing; expected the name of a node")
    if not INTERFACE.fullmatch(spec.interface_name):
        yield Flaw((*SPEC, "interfaceName"), spec.interface_name, AN_INTERFACE)
    if spec.mac and not MAC.fullmatch(spec.mac):
        yield Flaw((*SPEC, "mac"), spec.mac, "expected a MAC address like 0a:1b:2c:3d:4e:5f")
    for index, text in enumerate(spec.ip_networks):
        net = _find_address(text)
        if net is None:
            yield Flaw((*SPEC, "ipNetworks", index), text, "expected one address, with /32 or /128")
        elif _is_special(net):
            yield Flaw((*SPEC, "ipNetworks", index), text, "expected a unicast address that a workload can have")
    for index, nat in enumerate(spec.ip_nats):
        for name, text in (("internalIP", nat.internal_ip), ("externalIP", nat.external_ip)):
            if _find_address(text) is None:
                yield Flaw((*SPEC, "ipNATs", index, name), text, AN_ADDRESS)
    yield from _find_address_flaws(
        (("ipv4Gateway", spec.ipv4_gateway), ("ipv6Gateway", spec.ipv6_gateway)),
        SPEC,
    )
    yield from find_net_flaws(spec.allow_spoofed_source_prefixes, (*SPEC, "allowSpoofedSourcePrefixes"))


def _find_host_endpoint_flaws(spec: HostEndpointSpec) -> Iterator[Flaw]:
    if not spec.node:
        yield Flaw((*SPEC, "node"), "", "is missing; expected the name of a node")
    if not spec.interface_name and not spec.expected_ips:
        yield Flaw((*SPEC, "interfaceName"), "", "is missing; a host endpoint needs it, or expectedIPs")
    if spec.interface_name not in {"", "*"} and not INTERFACE.fullmatch(spec.interface_name):
        yield Flaw((*SPEC, "interfaceName"), spec.interface_name, AN_INTERFACE + ", or * for all")
    for index, text in enumerate(spec.expected_ips):
        if _find_address(text) is None:
            yield Flaw((*SPEC, "expectedIPs", index), text, AN_ADDRESS)


def _find_policy_flaws(spec: NetworkPolicySpec) -> Iterator[Flaw]:
    yield from find_selector_flaws(spec.selector, (*SPEC, "selector"))
    if isinstance(spec, GlobalNetworkPolicySpec):
        yield from find_selector_flaws(spec.namespace_selector, (*SPEC, "namespaceSelector"))
    if spec.service_account_selector:
        # Without it the policy would select more than it should.
        path = (*SPEC, "serviceAccountSelector")
        reason = "cannot be enforced: service accounts need Kubernetes; a policy with it selects nothing"
        yield Flaw(path, spec.service_account_selector, reason, True)


def _find_pool_flaws(spec: IPPoolSpec) -> Iterator[Flaw]:
    if not is_net(spec.cidr):
        yield Flaw((*SPEC, "cidr"), spec.cidr, "expected a prefix like 10.0.0.0/16 or 2001:db8::/64")
    else:
        net = parse_net(spec.cidr)
        lowest, highest = (20, 32) if net.version == 4 else (116, 128)
        if spec.block_size and not max(lowest, net.length) <= spec.block_size <= highest:
            if net.length > highest or spec.block_size < net.length:
                reason = f"expected a block size not below the pool's own prefix length, {net.length}"
            else:
                reason = f"expected a block size from {lowest} to {highest} in a pool of IPv{net.version}"
            yield Flaw((*SPEC, "blockSize"), spec.block_size, reason)
    yield from find_selector_flaws(spec.node_selector, (*SPEC, "nodeSelector"))
    yield from find_selector_flaws(spec.namespace_selector, (*SPEC, "namespaceSelector"))


def _find_node_flaws(spec: NodeSpec) -> Iterator[Flaw]:
    bgp = spec.bgp
    if bgp is not None:
        path = (*SPEC, "bgp")
        for name, version, text in (("ipv4Address", 4, bgp.ipv4_address), ("ipv6Address", 6, bgp.ipv6_address)):
            if text and (not is_net(text) or parse_net(text).version != version):
                example = "10.0.0.1/24" if version == 4 else "2001:db8::1/64"
                yield Flaw((*path, name), text, f"expected an address with the length of its network, like {example}")
        yield from _find_address_flaws((("ipv4IPIPTunnelAddr", bgp.ipv4_ipip_tunnel_addr),), path)
        cluster_id = bgp.route_reflector_cluster_id
        found = _find_address(cluster_id) if cluster_id else None
        if cluster_id and (found is None or found.version != 4):
            yield Flaw((*path, "routeReflectorClusterID"), cluster_id, "expected a cluster id like 244.0.0.1")
    yield from _find_address_flaws(
        (("ipv4VXLANTunnelAddr", spec.ipv4_vxlan_tunnel_addr), ("ipv6VXLANTunnelAddr", spec.ipv6_vxlan_tunnel_addr)),
        SPEC,
    )


def _find_bgp_configuration_flaws(spec: BGPConfigurationSpec) -> Iterator[Flaw]:
    for index, one in enumerate(spec.prefix_advertisements):
        path = (*SPEC, "prefixAdvertisements", index)
        if not is_net(one.cidr):
            yield Flaw((*path, "cidr"), one.cidr, "expected a prefix like 10.0.0.0/16")
        names = {community.name for community in spec.communities}
        for position, text in enumerate(one.communities):
            if text not in names and not _COMMUNITY.fullmatch(text):
                reason = "expected a community like 64512:120, or the name of one of spec.communities"
                yield Flaw((*path, "communities", position), text, reason)
    for index, text in enumerate(spec.ignored_interfaces):
        if not _INTERFACE_PATTERN.fullmatch(text):
            yield Flaw((*SPEC, "ignoredInterfaces", index), text, "expected the name of an interface, or a pattern")
    for name, nets in (
        ("serviceClusterIPs", spec.service_cluster_ips),
        ("serviceExternalIPs", spec.service_external_ips),
        ("serviceLoadBalancerIPs", spec.service_load_balancer_ips),
    ):
        for index, net in enumerate(nets):
            if not is_net(net.cidr):
                yield Flaw((*SPEC, name, index, "cidr"), net.cidr, "expected a prefix like 10.96.0.0/12")
    yield from _find_address_flaws(
        (
            ("localWorkloadPeeringIPV4", spec.local_workload_peering_ipv4),
            ("localWorkloadPeeringIPV6", spec.local_workload_peering_ipv6),
        ),
        SPEC,
    )
    yield from _find_duration_flaws((("nodeMeshMaxRestartTime", spec.node_mesh_max_restart_time),))


def _find_peer_flaws(spec: BGPPeerSpec) -> Iterator[Flaw]:
    for name, text in (
        ("nodeSelector", spec.node_selector),
        ("peerSelector", spec.peer_selector),
        ("localWorkloadSelector", spec.local_workload_selector),
    ):
        yield from find_selector_flaws(text, (*SPEC, name))
    if spec.peer_ip:
        try:
            parse_peer_address(spec.peer_ip)
        except ValueError:
            reason = "expected an address, or with a port 10.0.0.1:1179 or [2001:db8::1]:1179"
            yield Flaw((*SPEC, "peerIP"), spec.peer_ip, reason)
    yield from _find_address_flaws((("reachableBy", spec.reachable_by),), SPEC)
    yield from _find_duration_flaws((("maxRestartTime", spec.max_restart_time), ("keepaliveTime", spec.keepalive_time)))


def _find_filter_rule_flaws(rule: FilterRule, version: int, path: Path) -> Iterator[Flaw]:
    if rule.cidr and (not is_net(rule.cidr) or parse_net(rule.cidr).version != version):
        yield Flaw((*path, "cidr"), rule.cidr, f"expected a prefix of IPv{version}")
    if bool(rule.cidr) != (rule.match_operator is not None):
        yield Flaw((*path, "matchOperator"), "", "cidr and matchOperator need each other")
    if rule.prefix_length is not None:
        if not rule.cidr:
            yield Flaw((*path, "prefixLength"), "", "prefixLength needs cidr")
        bits = 32 if version == 4 else 128
        for name, length in (("min", rule.prefix_length.min), ("max", rule.prefix_length.max)):
            if length is not None and length > bits:
                yield Flaw((*path, "prefixLength", name), length, f"expected a whole number from 0 to {bits}")
    if rule.interface and not _INTERFACE_PATTERN.fullmatch(rule.interface):
        yield Flaw((*path, "interface"), rule.interface, "expected the name of an interface, or a pattern")
    for index, text in enumerate(rule.communities.values if rule.communities else ()):
        if not _COMMUNITY.fullmatch(text):
            yield Flaw((*path, "communities", "values", index), text, "expected a community like 64512:120")
    if rule.operations and rule.action != "Accept":
        yield Flaw((*path, "operations"), "", "operations need action Accept")
    for index, operation in enumerate(rule.operations):
        added = operation.add_community
        given = [one for one in (added, operation.prepend_as_path, operation.set_priority) if one is not None]
        if len(given) != 1:
            reason = "expected exactly one of addCommunity, prependASPath, setPriority"
            yield Flaw((*path, "operations", index), len(given), reason)
        if added is not None and not _COMMUNITY.fullmatch(added.value):
            where = (*path, "operations", index, "addCommunity", "value")
            yield Flaw(where, added.value, "expected a community like 64512:120")


def _find_address_flaws(texts: Sequence[tuple[str, str]], path: Path) -> Iterator[Flaw]:
    for name, text in texts:
        if text and _find_address(text) is None:
            yield Flaw((*path, name), text, AN_ADDRESS)


def _find_duration_flaws(texts: Sequence[tuple[str, str]]) -> Iterator[Flaw]:
    for name, text in texts:
        try:
            duration_s(text)
        except ValueError as error:
            yield Flaw((*SPEC, name), text, str(error))


def _is_special(net: Net) -> bool:
    return any(one.version == net.version and one.value <= net.value <= one.last for one in _NOT_A_WORKLOAD)


def _find_address(text: str) -> Net | None:
    try:
        return parse_address(text) if is_net(text) else None
    except ValueError:
        return None
