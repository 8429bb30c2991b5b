"""What a manifest must satisfy beyond what the agent needs: contradictions and slips that only a person can settle."""

from __future__ import annotations

import re
from collections.abc import Iterator, Mapping, Sequence

from felix.model.bgp import BGPConfigurationSpec, BGPPeerSpec
from felix.model.checks import SPEC
from felix.model.endpoints import EndpointPort
from felix.model.metadata import Metadata
from felix.model.net import parse_net
from felix.model.networks import IPPoolSpec
from felix.model.policies import EntityRule, GlobalNetworkPolicySpec, NetworkPolicySpec, Rule
from felix.model.records import (
    BGPConfiguration,
    BGPPeer,
    ClusterInformation,
    GlobalNetworkPolicy,
    HostEndpoint,
    IPAMConfiguration,
    IPPool,
    NetworkPolicy,
    Profile,
    ResourceRecord,
    StagedGlobalNetworkPolicy,
    StagedNetworkPolicy,
    Tier,
    WorkloadEndpoint,
)
from felix.model.rules import is_net
from felix.model.shape import Flaw, Path
from felix.model.values import PORT_PROTOCOLS, is_port_name, protocol_number, workload_endpoint_name

_LABEL_PART = re.compile(r"[A-Za-z0-9]([A-Za-z0-9_.-]{0,61}[A-Za-z0-9])?")
_LABEL_PREFIX = re.compile(r"[a-z0-9]([a-z0-9.-]{0,251}[a-z0-9])?")
_PASSING_TIERS = ("kube-admin", "kube-baseline")
_PER_NODE_BGP_FIELDS = ("prefix_advertisements", "listen_port", "log_severity_screen")
_NOT_POOLS = tuple(
    parse_net(text) for text in ("127.0.0.0/8", "169.254.0.0/16", "224.0.0.0/4", "fe80::/10", "ff00::/8")
)


def find_strict_flaws(record: ResourceRecord) -> Iterator[Flaw]:
    """Yields contradictions inside a record of which all values are right one by one."""
    yield from _find_label_flaws(record.metadata.labels, ("metadata", "labels"))
    match record:
        case GlobalNetworkPolicy() | NetworkPolicy() | StagedGlobalNetworkPolicy() | StagedNetworkPolicy():
            yield from _find_policy_flaws(record.spec)
        case Profile(spec=profile):
            yield from _find_label_flaws(profile.labels_to_apply, (*SPEC, "labelsToApply"))
            yield from _find_rules_flaws(profile.ingress, profile.egress)
        case Tier(metadata=Metadata(name=name), spec=tier) if name in _PASSING_TIERS and tier.default_action != "Pass":
            yield Flaw((*SPEC, "defaultAction"), tier.default_action, f"the tier {name} always ends in Pass")
        case WorkloadEndpoint():
            yield from _find_workload_flaws(record)
        case HostEndpoint(spec=host_endpoint):
            yield from _find_port_flaws(host_endpoint.ports)
        case IPPool(spec=pool):
            yield from _find_pool_flaws(pool)
        case BGPPeer(spec=peer):
            yield from _find_peer_flaws(peer)
        case BGPConfiguration(metadata=Metadata(name=name), spec=configuration):
            yield from _find_bgp_configuration_flaws(name, configuration)
        case IPAMConfiguration(spec=addresses) if not (addresses.strict_affinity or addresses.auto_allocate_blocks):
            reason = "expected true here or in strictAffinity: otherwise hosts share blocks that nobody allocates"
            yield Flaw((*SPEC, "autoAllocateBlocks"), False, reason)
        case ClusterInformation() | IPAMConfiguration() if record.metadata.name != "default":
            yield Flaw(("metadata", "name"), record.metadata.name, "expected default; there is only one")


def _find_label_flaws(labels: Mapping[str, str], path: Path) -> Iterator[Flaw]:
    for key, value in labels.items():
        prefix, slash, name = key.rpartition("/")
        if not _LABEL_PART.fullmatch(name) or (slash and not _LABEL_PREFIX.fullmatch(prefix)):
            yield Flaw((*path, key), key, "expected a label like role or example.org/role, 63 characters at most")
        if value and not _LABEL_PART.fullmatch(value):
            yield Flaw((*path, key), value, "expected at most 63 of A-Z a-z 0-9 _ . -, a letter or digit at both ends")


def _find_policy_flaws(spec: NetworkPolicySpec) -> Iterator[Flaw]:
    if len(set(spec.types)) != len(spec.types):
        yield Flaw((*SPEC, "types"), list(spec.types), "expected each of Ingress and Egress at most once")
    yield from _find_rules_flaws(spec.ingress, spec.egress)
    if not isinstance(spec, GlobalNetworkPolicySpec):
        return
    if spec.pre_dnat and spec.do_not_track:
        yield Flaw((*SPEC, "preDNAT"), True, "preDNAT and doNotTrack exclude each other")
    if (spec.pre_dnat or spec.do_not_track) and not spec.apply_on_forward:
        name = "preDNAT" if spec.pre_dnat else "doNotTrack"
        yield Flaw((*SPEC, "applyOnForward"), False, f"{name} needs applyOnForward: true")
    if spec.pre_dnat and (spec.egress or "Egress" in spec.types):
        yield Flaw((*SPEC, "egress" if spec.egress else "types"), "", "a preDNAT policy is for ingress only")


def _find_rules_flaws(ingress: tuple[Rule, ...], egress: tuple[Rule, ...]) -> Iterator[Flaw]:
    for name, rules in (("ingress", ingress), ("egress", egress)):
        for index, rule in enumerate(rules):
            yield from _find_family_flaws(rule, (*SPEC, name, index))


def _find_family_flaws(rule: Rule, path: Path) -> Iterator[Flaw]:
    """Yields why no packet could ever match the rule: its families contradict each other."""
    number = None if rule.protocol is None else protocol_number(rule.protocol)
    if (number, rule.ip_version) in {(1, 6), (58, 4)}:
        yield Flaw((*path, "protocol"), rule.protocol, f"this protocol does not exist in IPv{rule.ip_version}")
    if rule.ip_version is not None:
        for name, entity in (("source", rule.source), ("destination", rule.destination)):
            yield from _find_net_family_flaws(entity, rule.ip_version, (*path, name))


def _find_net_family_flaws(entity: EntityRule, version: int, path: Path) -> Iterator[Flaw]:
    for name, nets in (("nets", entity.nets), ("notNets", entity.not_nets)):
        for index, text in enumerate(nets):
            if is_net(text) and parse_net(text).version != version:
                yield Flaw((*path, name, index), text, f"the rule is for IPv{version} only")


def _find_workload_flaws(record: WorkloadEndpoint) -> Iterator[Flaw]:
    spec = record.spec
    needed = {"node": spec.node, "orchestrator": spec.orchestrator, "endpoint": spec.endpoint}
    if spec.orchestrator == "cni":
        needed["containerID"] = spec.container_id
    elif spec.orchestrator == "k8s":
        needed["pod"] = spec.pod
    elif spec.orchestrator != "libnetwork":
        needed["workload"] = spec.workload
    missing = [name for name, value in needed.items() if not value]
    for name in missing:
        yield Flaw((*SPEC, name), "", "is missing; the endpoint's name is made of it")
    if not missing and record.metadata.name != workload_endpoint_name(spec):
        reason = f"expected {workload_endpoint_name(spec)}: node, orchestrator, workload, endpoint, dashes doubled"
        yield Flaw(("metadata", "name"), record.metadata.name, reason)
    yield from _find_port_flaws(spec.ports)


def _find_port_flaws(ports: Sequence[EndpointPort]) -> Iterator[Flaw]:
    for index, port in enumerate(ports):
        if not is_port_name(port.name):
            reason = "expected a name of at most 128 letters, digits, dots, dashes and underscores, not a number"
            yield Flaw((*SPEC, "ports", index, "name"), port.name, reason)
        if protocol_number(port.protocol) not in PORT_PROTOCOLS:
            yield Flaw((*SPEC, "ports", index, "protocol"), port.protocol, "expected TCP, UDP, SCTP or UDPLite")


def _find_pool_flaws(spec: IPPoolSpec) -> Iterator[Flaw]:
    net = parse_net(spec.cidr)
    if str(net) != spec.cidr.lower():
        yield Flaw(
            (*SPEC, "cidr"), spec.cidr, f"has bits behind its prefix length, or is not in short form; give {net}"
        )
    for other in _NOT_POOLS:
        if net.overlaps(other):
            yield Flaw((*SPEC, "cidr"), spec.cidr, f"overlaps with {other}, which is not for workloads")
    is_ipip, is_vxlan = (mode in {"Always", "CrossSubnet"} for mode in (spec.ipip_mode, spec.vxlan_mode))
    if is_ipip and is_vxlan:
        yield Flaw((*SPEC, "vxlanMode"), spec.vxlan_mode, "ipipMode and vxlanMode exclude each other")
    if is_ipip and net.version == 6:
        yield Flaw((*SPEC, "ipipMode"), spec.ipip_mode, "IPIP carries IPv4 only; use vxlanMode")
    elif is_ipip and not is_vxlan:
        reason = "has no effect: there are no IPIP tunnels, routes into this pool go without; use vxlanMode"
        yield Flaw((*SPEC, "ipipMode"), spec.ipip_mode, reason, True)
    if "LoadBalancer" in spec.allowed_uses:
        if is_ipip or is_vxlan:
            yield Flaw((*SPEC, "allowedUses"), "LoadBalancer", "a LoadBalancer pool has neither ipipMode nor vxlanMode")
        if len(set(spec.allowed_uses)) > 1:
            yield Flaw((*SPEC, "allowedUses"), list(spec.allowed_uses), "LoadBalancer excludes other uses")


def _find_peer_flaws(spec: BGPPeerSpec) -> Iterator[Flaw]:
    def exclude(first: str, first_value: object, second: str, second_value: object) -> Iterator[Flaw]:
        if first_value and second_value:
            yield Flaw((*SPEC, first), first_value, f"{first} and {second} exclude each other")

    local = spec.local_workload_selector
    yield from exclude("node", spec.node, "nodeSelector", spec.node_selector)
    yield from exclude("peerIP", spec.peer_ip, "peerSelector", spec.peer_selector)
    yield from exclude("asNumber", spec.as_number, "peerSelector", spec.peer_selector)
    yield from exclude("peerIP", spec.peer_ip, "localWorkloadSelector", local)
    yield from exclude("peerSelector", spec.peer_selector, "localWorkloadSelector", local)
    if local and not spec.as_number:
        yield Flaw((*SPEC, "asNumber"), "", "is missing; localWorkloadSelector needs it")
    if not local and not spec.peer_ip and not spec.peer_selector:
        reason = "is missing; a peer needs peerIP, peerSelector or localWorkloadSelector"
        yield Flaw((*SPEC, "peerIP"), "", reason)
    if spec.peer_ip and not spec.as_number:
        yield Flaw((*SPEC, "asNumber"), "", "is missing; peerIP needs it")
    if spec.keep_original_next_hop and spec.next_hop_mode not in {None, "Keep"}:
        yield Flaw((*SPEC, "nextHopMode"), spec.next_hop_mode, "contradicts keepOriginalNextHop: true")


def _find_bgp_configuration_flaws(name: str, spec: BGPConfigurationSpec) -> Iterator[Flaw]:
    if name != "default" and not name.startswith("node."):
        yield Flaw(("metadata", "name"), name, "expected default or node.<name of a node>")
    if name.startswith("node."):
        for field in type(spec).__struct_fields__:
            if field not in _PER_NODE_BGP_FIELDS and getattr(spec, field) != getattr(_NO_BGP_CONFIGURATION, field):
                reason = "can only be set in BGPConfiguration default"
                encoded = dict(zip(spec.__struct_fields__, spec.__struct_encode_fields__, strict=True))[field]
                yield Flaw((*SPEC, encoded), "", reason)
    if spec.node_to_node_mesh_enabled is False:
        if spec.node_mesh_password is not None:
            yield Flaw((*SPEC, "nodeMeshPassword"), "", "needs nodeToNodeMeshEnabled: true")
        if spec.node_mesh_max_restart_time:
            reason = "needs nodeToNodeMeshEnabled: true"
            yield Flaw((*SPEC, "nodeMeshMaxRestartTime"), spec.node_mesh_max_restart_time, reason)


_NO_BGP_CONFIGURATION = BGPConfigurationSpec()
