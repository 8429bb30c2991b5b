"""What calculation takes from each kind of record: nets, claims, places. Bad values are left out and reported."""

from __future__ import annotations

import contextlib
import re
from collections.abc import Iterable
from typing import NamedTuple

from felix.calc.desired import FloatingAddress
from felix.calc.endpoints import EndpointSpec
from felix.calc.limits import read_limits, read_source_rate
from felix.calc.matches import Placement
from felix.calc.port_sets import NamedPort
from felix.errors import Problem, shorten
from felix.model.endpoints import EndpointPort
from felix.model.keys import ResourceKey, format_key
from felix.model.net import Net, parse_address, parse_net
from felix.model.records import (
    GlobalNetworkPolicy,
    Node,
    Policy,
    StagedGlobalNetworkPolicy,
    StagedNetworkPolicy,
    WorkloadEndpoint,
)
from felix.model.values import PORT_PROTOCOLS, protocol_number
from felix.policy.order import policy_sort_key
from felix.policy.scope import endpoint_labels, policy_selector
from felix.policy.staged import is_staged, is_tried
from felix.selector.parse import SelectorError

INTERFACE_PATTERN = re.compile(r"[^\s/:]{1,15}")
MAC_PATTERN = re.compile(r"[0-9a-f]{2}(:[0-9a-f]{2}){5}")


class NetsRead(NamedTuple):
    """The nets that could be read, distinct, in the order of the record, and what is wrong with the others."""

    nets: tuple[Net, ...]
    problems: tuple[Problem, ...]


def read_nets(key: ResourceKey, field: str, texts: Iterable[str], *, addresses_only: bool = False) -> NetsRead:
    """Returns the nets that `texts` name; with `addresses_only`, a prefix of several addresses is a problem."""
    nets: dict[Net, None] = {}
    problems = []
    for index, text in enumerate(texts):
        try:
            nets[parse_address(text) if addresses_only else parse_net(text)] = None
        except ValueError as error:
            problems.append(Problem(format_key(key), f"{field}[{index}]", shorten(text), str(error)))
    return NetsRead(tuple(nets), tuple(problems))


class PortsRead(NamedTuple):
    """The ports with names that could be read, distinct, and what is wrong with the others."""

    ports: tuple[NamedPort, ...]
    problems: tuple[Problem, ...]


def read_ports(key: ResourceKey, ports: Iterable[EndpointPort]) -> PortsRead:
    """Returns the named ports of an endpoint; one whose protocol has no ports is a problem, and nobody's."""
    found: dict[NamedPort, None] = {}
    problems = []
    for index, one in enumerate(ports):
        protocol = protocol_number(one.protocol)
        if protocol is None or protocol not in PORT_PROTOCOLS:
            reason = "is not TCP, UDP, SCTP or UDPLite; rules that name the port do not mean it"
            problems.append(
                Problem(format_key(key), f"spec.ports[{index}].protocol", shorten(str(one.protocol)), reason)
            )
        else:
            found[NamedPort(one.name, protocol, one.port)] = None
    return PortsRead(tuple(found), tuple(problems))


def read_endpoint(key: ResourceKey, record: WorkloadEndpoint, read: NetsRead, revision: int) -> EndpointSpec:
    """Returns what a local endpoint asks for; without a usable interface name it is not connected, and says so."""
    problems = list(read.problems)
    interface = record.spec.interface_name or ""
    if not INTERFACE_PATTERN.fullmatch(interface) or interface in {".", ".."}:
        reason = "is no name of an interface: 1-15 characters without blanks, slashes and colons"
        problems.append(Problem(format_key(key), "spec.interfaceName", shorten(interface), reason))
        interface = ""
    mac = (record.spec.mac or "").lower().replace("-", ":")
    if mac and not MAC_PATTERN.fullmatch(mac):
        problems.append(
            Problem(format_key(key), "spec.mac", shorten(mac), "is no MAC address, such as 02:00:5e:00:53:01")
        )
        mac = ""
    labels, profiles = endpoint_labels(record), record.spec.profiles
    floating, found = _read_floating(key, record, read.nets)
    limits, more = read_limits(key, record.spec.qos_controls)
    spoofed = read_nets(key, "spec.allowSpoofedSourcePrefixes", record.spec.allow_spoofed_source_prefixes)
    problems += (*found, *more, *spoofed.problems)
    return EndpointSpec(
        interface, read.nets, mac or None, labels, profiles, revision, tuple(problems), floating, limits, spoofed.nets
    )


def _read_floating(
    key: ResourceKey, record: WorkloadEndpoint, own: tuple[Net, ...]
) -> tuple[tuple[FloatingAddress, ...], list[Problem]]:
    floating: dict[Net, FloatingAddress] = {}
    problems = []
    for index, nat in enumerate(record.spec.ip_nats):
        try:
            internal = parse_address(nat.internal_ip)
            one = FloatingAddress(parse_address(nat.external_ip), internal)
            if internal not in own:
                raise ValueError(f"{nat.internal_ip} is no address of this endpoint")
            if one.external.version != internal.version:
                raise ValueError(f"{nat.external_ip} and {nat.internal_ip} are not of one family")
            floating.setdefault(one.external, one)
        except ValueError as error:
            text = f"{nat.external_ip} to {nat.internal_ip}"
            problems.append(Problem(format_key(key), f"spec.ipNATs[{index}]", shorten(text), str(error)))
    return tuple(floating.values()), problems


def read_node_addresses(record: Node) -> tuple[Net, ...]:
    """Returns every address that a node says is its own; texts that are no address are left out."""
    spec = record.spec
    texts = [address.address for address in spec.addresses]
    texts += [spec.ipv4_vxlan_tunnel_addr, spec.ipv6_vxlan_tunnel_addr]
    if spec.bgp is not None:
        texts += [spec.bgp.ipv4_address, spec.bgp.ipv6_address, spec.bgp.ipv4_ipip_tunnel_addr]
    nets = []
    for text in texts:
        with contextlib.suppress(ValueError):
            nets.append(parse_address(text.partition("/")[0]))
    return tuple(nets)


def place_policy(key: ResourceKey, record: Policy) -> Placement | Problem | None:
    """Returns where a policy stands, None if it is not for workloads, or why nobody can tell whom it selects."""
    spec = record.spec
    namespace_selector = ""
    if isinstance(record, StagedNetworkPolicy | StagedGlobalNetworkPolicy) and not is_tried(record):
        return None
    if isinstance(record, GlobalNetworkPolicy | StagedGlobalNetworkPolicy):
        if record.spec.do_not_track or record.spec.pre_dnat:
            return None
        namespace_selector = record.spec.namespace_selector
    try:
        selector = policy_selector(key.namespace, spec.selector, namespace_selector)
    except SelectorError as error:
        return Problem(format_key(key), "spec.selector", shorten(spec.selector), str(error))
    if not spec.types:
        return None
    place = policy_sort_key(key, spec.tier, spec.order)
    rate = None if is_staged(key.kind) else read_source_rate(key, record)[0]
    return Placement(selector, place, "Ingress" in spec.types, "Egress" in spec.types, per_source=rate)
