"""Generated worlds and packets for every law about policy: hypothesis strategies over stored records.

    worlds()                    a small `World`: 2-6 workloads in 2 namespaces on 2 hosts, both families, profiles with
                                labels and rules, tiers, policies of all kinds with all rule matches, network sets
                                whose nets overlap each other and the workloads' addresses, external addresses and
                                spoofed prefixes of workloads, pools of which some hide, the addresses of hosts
    packets(world)              a packet likely to hit a boundary: workloads' own and neighbouring addresses, ports at
                                the ends of ranges, ICMP types that rules name
    worlds_with_packets()       a world and some packets
    world_updates(world)        the same world as (key, record) pairs in key order, as decoded updates
    world_puts(world)           ... and as (etcd key, JSON) pairs

Everything is written as Calico's JSON and read through the codec, so what these worlds hold is what etcd could hold.
No two workloads share an address or an interface; protocols are those of the packet's family (no ICMPv6 in IPv4).
"""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from typing import TypeAlias, TypeVar

import msgspec
from hypothesis import strategies as st

from felix.model.codec import decode, encode
from felix.model.keys import ResourceKey, format_key
from felix.model.net import parse_address, parse_net
from felix.model.records import (
    GlobalNetworkPolicy,
    GlobalNetworkSet,
    HostEndpoint,
    IPPool,
    NetworkPolicy,
    NetworkSet,
    Node,
    Profile,
    StagedGlobalNetworkPolicy,
    StagedNetworkPolicy,
    Tier,
    WorkloadEndpoint,
)
from felix.model.values import protocol_number
from felix.policy.evaluate import World
from felix.policy.packet import ICMP, ICMPV6, SCTP, TCP, UDP, UDPLITE, Packet

Json: TypeAlias = "bool | int | float | str | Sequence[Json] | Mapping[str, Json] | None"
Document = dict[str, Json]
PolicyRecord = (
    WorkloadEndpoint
    | HostEndpoint
    | Profile
    | Tier
    | GlobalNetworkPolicy
    | NetworkPolicy
    | StagedGlobalNetworkPolicy
    | StagedNetworkPolicy
    | NetworkSet
    | GlobalNetworkSet
    | IPPool
    | Node
)
T = TypeVar("T")
R = TypeVar("R", bound=msgspec.Struct)

HOSTS = ("h1", "h2")
NAMESPACES = ("blue", "red")
PROFILES = ("p0", "p1", "kns.blue", "kns.red")
MISSING_PROFILE = "ghost"
MISSING_TIER = "vanished"
PROTOCOLS = (TCP, UDP, SCTP, UDPLITE, ICMP, ICMPV6, 47, 4)

NETS = """
10.65.0.0/30 10.65.0.0/29 10.65.0.2/31 10.65.0.1/32 10.65.0.3 10.65.0.0/16 192.0.2.0/24 192.0.2.128/25 192.0.2.129/32
0.0.0.0/0 0.0.0.0/1 fd00:65::/126 fd00:65::/125 fd00:65::2/127 fd00:65::1/128 fd00:65::/64 2001:db8::/32
2001:db8::1/128 ::/0
""".split()
OUTSIDERS = ("192.0.2.1", "192.0.2.127", "192.0.2.128", "192.0.2.129", "10.65.0.0", "10.65.0.8", "198.51.100.1")
OUTSIDERS6 = ("2001:db8::1", "2001:db8::2", "2001:db9::1", "fd00:65::8", "fd00:66::1")
EXTERNALS = {
    4: ("172.30.0.1", "172.30.0.2", "10.65.0.1", "10.65.0.7", "198.51.100.1"),
    6: ("fd00:172::1", "fd00:172::2", "fd00:65::1", "fd00:65::7", "2001:db9::1"),
}
"""What may be an external address: of a workload itself, of a node, or of nobody."""
NODE_ADDRESSES = {"h1": ("192.0.2.130/24", "2001:db8::82/64"), "h2": ("198.51.100.1/24", "2001:db9::1/64")}
_POOLS = ("10.65.0.0/30", "10.65.0.0/29", "10.65.0.0/16", "172.30.0.0/24", "192.0.2.0/25", "0.0.0.0/0")
_POOLS6 = ("fd00:65::/126", "fd00:65::/64", "fd00:172::/64", "2001:db8::/64", "::/0")
_SPOOFED = ("192.0.2.0/25", "10.65.0.0/30", "10.65.0.8/32", "2001:db8::/64", "fd00:65::2/128", "0.0.0.0/0", "::/0")
PORT_NAMES = ("http", "metrics")
PORTS: tuple[int | str, ...] = (
    *PORT_NAMES,
    *PORT_NAMES,
    *PORT_NAMES,
    80,
    "80",
    "80:90",
    "1:1",
    "1000:2000",
    9000,
    "9000:65535",
    65535,
    "0:79",
    "0:65535",
)
PORT_NUMBERS = (1, 2, 79, 80, 81, 90, 91, 999, 1000, 2000, 2001, 4789, 8999, 9000, 9001, 65534, 65535)
# Neighbour discovery has rules of its own beside policy: types 133-137 are left out.
ICMP_TYPES = {ICMP: (0, 3, 8, 11), ICMPV6: (1, 3, 128, 129)}
ICMP_CODES = (0, 1, 3)

LABEL_NAMES = st.sampled_from(["app", "role"])
LABEL_VALUES = st.sampled_from(["web", "db", "webdb"])
LABELS = st.dictionaries(LABEL_NAMES, LABEL_VALUES, max_size=2)


def rarely(values: st.SearchStrategy[Json], odds: int = 4) -> st.SearchStrategy[Json]:
    """Draws one of `values` once in about `odds` times, else None."""
    return st.integers(1, odds).flatmap(lambda number: values if number == odds else st.none())


_ATOMS = st.one_of(
    st.builds("{} == '{}'".format, LABEL_NAMES, LABEL_VALUES),
    st.builds("{} != '{}'".format, LABEL_NAMES, LABEL_VALUES),
    st.builds("{} in {{'{}', '{}'}}".format, LABEL_NAMES, LABEL_VALUES, LABEL_VALUES),
    st.builds("{} not in {{'{}'}}".format, LABEL_NAMES, LABEL_VALUES),
    st.builds("has({})".format, LABEL_NAMES),
    st.builds("{} starts with 'we'".format, LABEL_NAMES),
    st.builds("{} contains 'd'".format, LABEL_NAMES),
    st.sampled_from(["all()", "projectcalico.org/namespace == 'blue'", "projectcalico.org/orchestrator == 'cni'"]),
)
SELECTORS = st.one_of(
    _ATOMS,
    st.builds("{} && {}".format, _ATOMS, _ATOMS),
    st.builds("{} || {}".format, _ATOMS, _ATOMS),
    st.builds("!({})".format, _ATOMS),
)
NAMESPACE_SELECTORS = st.sampled_from(["all()", "global()", "team == 'web'", "has(team)", "!has(team)", "team != 'db'"])
_NET_LISTS = st.lists(st.sampled_from(NETS), min_size=1, max_size=3, unique=True)
_PORT_LISTS = st.lists(st.sampled_from(PORT_NAMES), min_size=1, max_size=1) | st.lists(
    st.sampled_from(PORTS), min_size=1, max_size=3, unique=True
)


def _given(**members: Json) -> Document:
    return {name: value for name, value in members.items() if value is not None}


_CONDITIONS: tuple[tuple[str, st.SearchStrategy[Json]], ...] = (
    ("nets", _NET_LISTS),
    ("selector", SELECTORS),
    ("nets", _NET_LISTS),
    ("selector", SELECTORS),
    ("namespaceSelector", NAMESPACE_SELECTORS),
    ("notNets", _NET_LISTS),
    ("notSelector", SELECTORS),
)
_ENDPOINT_PORTS: st.SearchStrategy[list[Document]] = st.lists(
    st.fixed_dictionaries(
        {
            "name": st.sampled_from(PORT_NAMES),
            "protocol": st.sampled_from(["TCP", "TCP", "UDP", "SCTP", "UDPLite", 6]),
            "port": st.sampled_from([80, 81, 9000]),
        }
    ),
    max_size=3,
)
_SOME_CONDITIONS = st.lists(st.sampled_from(_CONDITIONS), max_size=2)
_SOME_PORTS, _SOME_NOT_PORTS = rarely(_PORT_LISTS, 2), rarely(_PORT_LISTS, 4)


@st.composite
def entities(draw: st.DrawFn, has_ports: bool) -> Document:
    """Draws one side of a rule: none, one or two conditions; on ports only if `has_ports`."""
    entity = {name: draw(values) for name, values in draw(_SOME_CONDITIONS)}
    if has_ports:
        entity |= _given(ports=draw(_SOME_PORTS), notPorts=draw(_SOME_NOT_PORTS))
    return entity


_ENTITIES = st.one_of(st.just(Document()), entities(has_ports=False))
_ENTITIES_WITH_PORTS = st.one_of(st.just(Document()), entities(has_ports=True))
_ACTIONS = st.sampled_from(["Allow", "Allow", "Allow", "Deny", "Deny", "Pass", "Log", "Log"])
_RULE_PROTOCOLS = st.sampled_from(
    [None, None, None, None, "TCP", "TCP", "TCP", "UDP", "SCTP", "UDPLite", "ICMP", "ICMPv6", 6, 47, 4, "136"]
)
_RULE_NOT_PROTOCOLS = rarely(st.sampled_from(["TCP", "UDP", "ICMP", "SCTP", 47, 136]), 6)
_RULE_VERSIONS = {
    version: rarely(st.sampled_from([4, 6] if version is None else [version]), 6) for version in (None, 4, 6)
}
_ICMP_BY_PROTOCOL: dict[str, st.SearchStrategy[Json]] = {
    name: st.builds(
        lambda type, code: _given(type=type, code=code),
        st.sampled_from(ICMP_TYPES[protocol]),
        rarely(st.sampled_from(ICMP_CODES), 2),
    )
    for name, protocol in (("ICMP", ICMP), ("ICMPv6", ICMPV6))
}
_SOME_ICMP = {name: rarely(values, 2) for name, values in _ICMP_BY_PROTOCOL.items()}
_VERSION_BY_PROTOCOL = {"ICMP": 4, "ICMPv6": 6}


@st.composite
def rules(draw: st.DrawFn) -> Document:
    """Draws a rule that Calico's validation would take."""
    protocol = draw(_RULE_PROTOCOLS)
    name = str(protocol)
    icmp = _given(icmp=draw(_SOME_ICMP[name]), notICMP=draw(_SOME_ICMP[name])) if name in _SOME_ICMP else {}
    sides = _ENTITIES_WITH_PORTS if protocol in ("TCP", "UDP", "SCTP", "UDPLite", 6, "136") else _ENTITIES
    return _given(
        action=draw(_ACTIONS),
        ipVersion=draw(_RULE_VERSIONS[_VERSION_BY_PROTOCOL.get(name)]),
        protocol=protocol,
        notProtocol=draw(_RULE_NOT_PROTOCOLS),
        source=draw(sides),
        destination=draw(sides),
        **icmp,
    )


# Often the last rule lets everything else pass that came so far: worlds that deny all of it prove little.
RULE_LISTS = st.tuples(
    st.lists(rules(), max_size=3),
    st.sampled_from([[Document(action="Allow")], [], [Document(action="Allow")], [Document(action="Pass")]]),
).map(lambda drawn: [*drawn[0], *drawn[1]])
_TYPES = st.sampled_from([["Ingress"], ["Egress"], ["Ingress", "Egress"]])
_ORDERS = st.sampled_from([None, 1, 1.5, 10, 1000])
_PRESENT = st.sampled_from([True, True, True, False])
_POLICY_KINDS = st.sampled_from(
    ["GlobalNetworkPolicy", "NetworkPolicy"] * 3 + ["StagedGlobalNetworkPolicy", "StagedNetworkPolicy"]
)
_STAGED_ACTIONS = st.sampled_from([None, "Set", "Set", "Learn", "Delete", "Ignore"])
_POLICY_TIERS = st.sampled_from([None, "default", "early", "early", "late", MISSING_TIER])
_POLICY_SELECTORS = rarely(SELECTORS, 3)
_POLICY_NAMESPACE_SELECTORS = rarely(NAMESPACE_SELECTORS, 6)
_NAMESPACES = st.sampled_from(NAMESPACES)
_HOSTS = st.sampled_from(HOSTS)
_VERSIONS = st.sampled_from([(4, 6), (4, 6), (4,), (6,)])
_PROFILE_LISTS = st.lists(st.sampled_from([*PROFILES, MISSING_PROFILE]), min_size=1, max_size=3, unique=True)
_ONE_IN_EIGHT = st.integers(1, 8).map(lambda number: number == 8)
_POLICY_COUNTS = st.sampled_from([3, 2, 4, 1, 0])
_HOST_POLICY_FLAGS = st.sampled_from(["doNotTrack", "preDNAT"])


@st.composite
def _policies(draw: st.DrawFn, number: int) -> tuple[ResourceKey, Document]:
    kind = draw(_POLICY_KINDS)
    is_global = "Global" in kind
    tier = draw(_POLICY_TIERS)
    prefix = f"{tier}." if tier and draw(st.booleans()) else ""
    spec = _given(
        tier=tier,
        order=draw(_ORDERS),
        selector=draw(_POLICY_SELECTORS),
        types=draw(_TYPES),
        ingress=draw(RULE_LISTS),
        egress=draw(RULE_LISTS),
        namespaceSelector=draw(_POLICY_NAMESPACE_SELECTORS) if is_global else None,
    )
    if is_global and draw(_ONE_IN_EIGHT):
        spec |= {draw(_HOST_POLICY_FLAGS): True, "applyOnForward": True}
        spec |= {"types": ["Ingress"], "egress": []}
    if kind.startswith("Staged"):
        spec |= _given(stagedAction=draw(_STAGED_ACTIONS))
    namespace = "" if is_global else draw(_NAMESPACES)
    return ResourceKey(kind, namespace, f"{prefix}policy-{number}"), spec


# So wide that no packet of a test exceeds them: what is about limits must not change what policy says.
_LIMITS: st.SearchStrategy[Document] = st.sampled_from(
    [
        {},
        {"dscp": 46},
        {"dscp": 10, "egressPacketRate": 10_000, "egressPacketBurst": 10_000},
        {"egressPacketRate": 10_000, "egressPacketBurst": 10_000, "ingressMaxConnections": 100_000},
        {"ingressPacketRate": 10_000, "ingressPacketBurst": 10_000, "egressMaxConnections": 100_000},
    ]
)


# Seldom the same for two, seldom of the workload that it is for: both lead nowhere.
_EXTERNAL_NUMBERS = st.lists(
    st.tuples(st.sampled_from([4, 6]), st.integers(0, 4), st.sampled_from([True] * 5 + [False])), max_size=3
)
_SPOOFED_LISTS = rarely(st.lists(st.sampled_from(_SPOOFED), min_size=1, max_size=2, unique=True), 3)


@st.composite
def _workloads(draw: st.DrawFn, number: int) -> tuple[ResourceKey, Document, dict[str, str]]:
    node = draw(_HOSTS)
    networks = draw(_VERSIONS)
    addresses = {4: f"10.65.0.{number + 1}/32", 6: f"fd00:65::{number + 1:x}/128"}
    spec: Document = {
        "node": node,
        "orchestrator": "cni",
        "workload": f"w{number}",
        "endpoint": "eth0",
        "containerID": f"w{number}",
        "interfaceName": f"cali{number}",
        "mac": f"02:00:00:00:00:{number:02x}",
        "ipNetworks": [addresses[version] for version in networks],
        "profiles": draw(_PROFILE_LISTS),
        "ports": draw(_ENDPOINT_PORTS),
        "qosControls": draw(_LIMITS),
    }
    spec |= _given(allowSpoofedSourcePrefixes=draw(_SPOOFED_LISTS))
    spec["ipNATs"] = [
        {"externalIP": EXTERNALS[version][which], "internalIP": _bare(addresses[version if is_own else 10 - version])}
        for version, which, is_own in draw(_EXTERNAL_NUMBERS)
    ]
    namespace = draw(_NAMESPACES)
    return ResourceKey("WorkloadEndpoint", namespace, f"{node}-cni-w{number}-eth0"), spec, draw(LABELS)


def _bare(net: str) -> str:
    return net.partition("/")[0]


@st.composite
def _profiles(draw: st.DrawFn, name: str) -> Document:
    if name.startswith("kns."):
        labels = draw(st.dictionaries(st.just("pcns.team"), LABEL_VALUES, max_size=1))
    else:
        labels = draw(LABELS)
    return {"ingress": draw(RULE_LISTS), "egress": draw(RULE_LISTS), "labelsToApply": labels}


def read_record(key: ResourceKey, spec: Mapping[str, Json], labels: Mapping[str, str] | None, kind: type[R]) -> R:
    """Returns the record that the codec makes of a spec; fails the test when it has anything to say against it."""
    metadata: Document = {"name": key.name, "labels": dict(labels or {})}
    if key.namespace:
        metadata["namespace"] = key.namespace
    document = {"apiVersion": "projectcalico.org/v3", "kind": key.kind, "metadata": metadata, "spec": spec}
    decoded = decode(key, json.dumps(document).encode())
    assert not decoded.problems, decoded.problems
    assert isinstance(decoded.record, kind), decoded.record
    return decoded.record


_NODES = {
    ResourceKey("Node", "", name): read_record(
        ResourceKey("Node", "", name), {"bgp": {"ipv4Address": ipv4, "ipv6Address": ipv6}}, None, Node
    )
    for name, (ipv4, ipv6) in NODE_ADDRESSES.items()
}


@st.composite
def worlds(draw: st.DrawFn) -> World:
    """Draws a world; see the module's text."""
    workloads = {}
    for number in range(draw(st.integers(2, 6))):
        key, spec, labels = draw(_workloads(number))
        workloads[key] = read_record(key, spec, labels, WorkloadEndpoint)
    profiles = {}
    for name in PROFILES:
        key = ResourceKey("Profile", "", name)
        if draw(_PRESENT):
            profiles[key] = read_record(key, draw(_profiles(name)), None, Profile)
    tiers = {}
    for name in [name for name in ("default", "early", "late") if draw(_PRESENT)]:
        key = ResourceKey("Tier", "", name)
        action = "Deny" if name == "default" else draw(st.sampled_from(["Pass", "Deny", None]))
        order = 1_000_000 if name == "default" else draw(_ORDERS)
        tiers[key] = read_record(key, _given(order=order, defaultAction=action), None, Tier)
    policies = {}
    for number in range(draw(_POLICY_COUNTS)):
        key, spec = draw(_policies(number))
        policies[key] = read_record(key, spec, None, _policy_type(key.kind))
    return World(
        workloads,
        draw(_host_endpoints()),
        profiles,
        tiers,
        policies,
        draw(_network_sets()),
        pools=_make_pools(draw(_POOL_CHOICES)),
        nodes=_NODES if draw(_PRESENT) else {},
    )


_POOL_CHOICES = st.lists(st.tuples(st.sampled_from([*_POOLS, *_POOLS6]), st.booleans()), max_size=3, unique_by=str)


def _make_pools(choices: Sequence[tuple[str, bool]]) -> dict[ResourceKey, IPPool]:
    pools = {}
    for number, (cidr, hides) in enumerate(choices):
        key = ResourceKey("IPPool", "", f"pool-{number}")
        spec: Document = {"cidr": cidr, "natOutgoing": hides, "blockSize": 128 if ":" in cidr else 32}
        pools[key] = read_record(key, spec, None, IPPool)
    return pools


PolicyType = (
    type[GlobalNetworkPolicy] | type[NetworkPolicy] | type[StagedGlobalNetworkPolicy] | type[StagedNetworkPolicy]
)


def _policy_type(kind: str) -> PolicyType:
    types: dict[str, PolicyType] = {
        "GlobalNetworkPolicy": GlobalNetworkPolicy,
        "NetworkPolicy": NetworkPolicy,
        "StagedGlobalNetworkPolicy": StagedGlobalNetworkPolicy,
        "StagedNetworkPolicy": StagedNetworkPolicy,
    }
    return types[kind]


@st.composite
def _host_endpoints(draw: st.DrawFn) -> dict[ResourceKey, HostEndpoint]:
    if draw(st.integers(1, 4)) != 4:
        return {}
    key = ResourceKey("HostEndpoint", "", "h1-eth0")
    spec: Document = {"node": "h1", "interfaceName": "eth0", "expectedIPs": ["192.0.2.1", "2001:db8::1"]}
    spec["ports"] = draw(_ENDPOINT_PORTS)
    return {key: read_record(key, spec, draw(LABELS), HostEndpoint)}


# Sets of nets around those outside, with labels that few workloads have: else what selectors say is the same without.
# Some hold each other, three deep and in everything.
_NESTS = [
    ["10.65.0.0/16", "10.65.0.0/29", "10.65.0.0/30", "10.65.0.2/31", "10.65.0.3"],
    ["0.0.0.0/0", "192.0.2.0/24", "192.0.2.128/25", "192.0.2.129/32"],
    ["::/0", "fd00:65::/64", "fd00:65::/125", "fd00:65::/126", "fd00:65::2/127"],
]
_SET_NETS = st.lists(
    st.sampled_from([*(net for net in NETS if net.startswith(("192.", "2001:", "10.65.0.0/29"))), *NETS]),
    min_size=1,
    max_size=3,
    unique=True,
) | st.sampled_from(_NESTS).flatmap(lambda nest: st.lists(st.sampled_from(nest), min_size=3, max_size=5, unique=True))
_SET_LABELS = st.one_of(st.dictionaries(LABEL_NAMES, LABEL_VALUES, min_size=1, max_size=2), LABELS)
_SET_COUNTS = st.sampled_from([2, 1, 3, 0])
_SET_NAMESPACES = st.sampled_from(["", *NAMESPACES])


@st.composite
def _network_sets(draw: st.DrawFn) -> dict[ResourceKey, NetworkSet | GlobalNetworkSet]:
    sets: dict[ResourceKey, NetworkSet | GlobalNetworkSet] = {}
    for number in range(draw(_SET_COUNTS)):
        namespace = draw(_SET_NAMESPACES)
        spec: Document = {"nets": draw(_SET_NETS)}
        labels = draw(_SET_LABELS)
        key = ResourceKey("NetworkSet" if namespace else "GlobalNetworkSet", namespace, f"set-{number}")
        if namespace:
            sets[key] = read_record(key, spec, labels, NetworkSet)
        else:
            sets[key] = read_record(key, spec, labels, GlobalNetworkSet)
    return sets


@st.composite
def packets(draw: st.DrawFn, world: World, protocols: Sequence[int] = PROTOCOLS) -> Packet:
    """Draws a packet between workloads, mostly, or to or from addresses near them; never from a thing to itself.

    protocols: those allowed, of PROTOCOLS; at least one that is not ICMP.
    """
    return draw_packet(draw, world, protocols)


def draw_packet(draw: st.DrawFn, world: World, protocols: Sequence[int]) -> Packet:
    """As `packets`, for use inside other strategies: making a strategy per packet costs more than all else."""
    version = _pick(draw, (4, 6))
    owned = [
        net.value
        for workload in world.workloads.values()
        for net in map(parse_address, workload.spec.ip_networks)
        if net.version == version
    ]
    others = [parse_net(text).value for text in (OUTSIDERS if version == 4 else OUTSIDERS6)]
    from_inside, to_inside = _pick(draw, ((True, True), (True, False), (False, True)))
    source = _pick(draw, owned if owned and from_inside else others)
    destination = _pick(draw, [value for value in (owned if to_inside else others) if value != source] or others)
    if source == destination:
        source = others[0] if destination != others[0] else others[1]
    named = [one for one in _find_named_ports(world, version, destination) if one[0] in protocols]
    is_named = _pick(draw, (True, False))
    if named and is_named:
        protocol, port = _pick(draw, named)
        return Packet(version, source, destination, protocol, _pick(draw, PORT_NUMBERS), port)
    alien = ICMPV6 if version == 4 else ICMP
    protocol = _pick(draw, [number for number in protocols if number != alien])
    if protocol in (TCP, UDP, SCTP, UDPLITE):
        return Packet(version, source, destination, protocol, _pick(draw, PORT_NUMBERS), _pick(draw, PORT_NUMBERS))
    if protocol in ICMP_TYPES:
        icmp_type, code = _pick(draw, ICMP_TYPES[protocol]), _pick(draw, ICMP_CODES)
        return Packet(version, source, destination, protocol, icmp_type=icmp_type, icmp_code=code)
    return Packet(version, source, destination, protocol)


def _find_named_ports(world: World, version: int, address: int) -> list[tuple[int, int]]:
    """Returns protocol and number of the ports with names of whoever has the address."""
    return [
        (number, port.port)
        for workload in world.workloads.values()
        if any(net.version == version and net.value == address for net in map(parse_address, workload.spec.ip_networks))
        for port in workload.spec.ports
        if (number := protocol_number(port.protocol)) is not None
    ]


def _pick(draw: st.DrawFn, options: Sequence[T]) -> T:
    # Not sampled_from: that is made anew for every list, at a hundred times the cost of drawing a number.
    return options[draw(st.integers(0, len(options) - 1))]


@st.composite
def worlds_with_packets(draw: st.DrawFn, count: int = 5) -> tuple[World, list[Packet]]:
    """Draws a world and `count` packets for it."""
    world = draw(worlds())
    return world, [draw_packet(draw, world, PROTOCOLS) for _ in range(count)]


def world_updates(world: World) -> list[tuple[ResourceKey, PolicyRecord]]:
    """Returns everything in a world as decoded updates, in the order of keys."""
    parts: tuple[Mapping[ResourceKey, PolicyRecord], ...] = (
        world.workloads,
        world.host_endpoints,
        world.profiles,
        world.tiers,
        world.policies,
        world.network_sets,
        world.pools,
        world.nodes,
    )
    return sorted((pair for part in parts for pair in part.items()), key=lambda pair: pair[0])


def world_puts(world: World) -> list[tuple[str, bytes]]:
    """Returns everything in a world as it would be written to etcd, in the order of keys."""
    return [(format_key(key), encode(record)) for key, record in world_updates(world)]
