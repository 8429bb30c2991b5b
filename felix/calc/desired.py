"""What calculation hands to the dataplane: the desired state of this host, in terms of policy, not of any kernel.

Everything here is immutable and hashable, so "did it change" is `==` and "who shares it" is a dictionary.
"""

from __future__ import annotations

import enum
from collections.abc import Iterable
from dataclasses import dataclass, field
from typing import NamedTuple

from felix.model.keys import ResourceKey
from felix.model.net import Net


class Action(enum.Enum):
    """What a rule does to a packet that it matches. LOG goes on to the next rule."""

    ALLOW = "Allow"
    DENY = "Deny"
    PASS = "Pass"
    LOG = "Log"


class PortRange(NamedTuple):
    """Ports `first` to `last`, both included, 0-65535."""

    first: int
    last: int


class IcmpMatch(NamedTuple):
    """An ICMP type 0-254 and, if not None, its code 0-255."""

    type: int
    code: int | None


class SetRef(NamedTuple):
    """An address set, and whether it has prefixes of several addresses now, per family.

    Single addresses and prefixes live in different kernel sets. A rule must look into the prefix set of a family
    if and only if its flag is true; calculation hands out the rule anew when a flag changes.
    """

    id: str
    nets4: bool
    nets6: bool


class PortMember(NamedTuple):
    """One element of a port set: an address (/32 or /128), the IP protocol number, and the port 1-65535."""

    address: Net
    protocol: int
    port: int


@dataclass(frozen=True, slots=True)
class EntityMatch:
    """Conditions on one side of a packet; all that are given must hold.

    nets: the side is in one of them; None = no condition; an empty tuple matches nothing. not_nets: in none of them.
    sets: the side is a member of every one. not_sets: it is a member of none.
    ports, port_sets: the port is in one of the ranges, or address, protocol and port are in one of these port sets;
    without any set None = no condition, an empty tuple of ranges matches nothing. not_ports, not_port_sets: in none.
    """

    nets: tuple[Net, ...] | None = None
    not_nets: tuple[Net, ...] = ()
    sets: tuple[SetRef, ...] = ()
    not_sets: tuple[SetRef, ...] = ()
    ports: tuple[PortRange, ...] | None = None
    not_ports: tuple[PortRange, ...] = ()
    port_sets: tuple[str, ...] = ()
    not_port_sets: tuple[str, ...] = ()


ANY_ENTITY = EntityMatch()


@dataclass(frozen=True, slots=True)
class CompiledRule:
    """One rule: an action, and conditions that must all hold. A rule without conditions matches every packet.

    ip_version: 4, 6 or None. protocol, not_protocol: IP protocol numbers 0-255 or None.
    icmp, not_icmp: on the ICMP header of the packet's protocol, which `protocol` says; NOT (type and code).
    note: the rule's annotations, for people. id: stands for the rule as it is stored, for counters; not unique.
        Neither decides anything.
    """

    action: Action
    ip_version: int | None = None
    protocol: int | None = None
    not_protocol: int | None = None
    icmp: IcmpMatch | None = None
    not_icmp: IcmpMatch | None = None
    source: EntityMatch = ANY_ENTITY
    destination: EntityMatch = ANY_ENTITY
    note: str = ""
    id: str = ""


DENY_ALL = CompiledRule(Action.DENY)


@dataclass(frozen=True, slots=True)
class CompiledPolicy:
    """The rules of one policy or profile that some local endpoint uses, in order, for each direction.

    ingress: towards the endpoint. egress: away from it. Falling off the end means "no match here".
    tier: of a policy, for logs; empty for a profile.
    """

    ingress: tuple[CompiledRule, ...]
    egress: tuple[CompiledRule, ...]
    tier: str = ""


class StackTier(NamedTuple):
    """One tier as an endpoint sees it: its policies in order (never empty) and what happens when none matches.

    policies: keys of GlobalNetworkPolicy and NetworkPolicy, and of their staged kinds, whose rules decide nothing (see
    `felix.policy.staged`). default_action: Action.DENY or Action.PASS, which it is if all are staged.
    """

    name: str
    policies: tuple[ResourceKey, ...]
    default_action: Action


class Stack(NamedTuple):
    """What decides about one direction of an endpoint: tiers in order, then profiles in order, then deny.

    A packet that leaves the last tier by Pass, or an endpoint without tiers, goes on to the profiles.
    A profile that does not exist is left out of `CompiledPolicy`s; a stack may still name it: it then matches nothing.
    ending: PASS in place of DENY: whatever nothing decided about is left to others, and tiers do not end in a denial.
    untracked, pre_dnat: tiers that have decided earlier on the packet's way: what they allowed, this stack allows too.
    """

    tiers: tuple[StackTier, ...]
    profiles: tuple[ResourceKey, ...]
    ending: Action = Action.DENY
    untracked: tuple[StackTier, ...] = ()
    pre_dnat: tuple[StackTier, ...] = ()


class PacketRate(NamedTuple):
    """Packets per second, and how many may come at once."""

    per_s: int
    burst: int


class SourceRate(NamedTuple):
    """New connections a second from one source, and how many of them at once. The lower of two is the stricter."""

    per_s: int
    burst: int


class Bandwidth(NamedTuple):
    """Bits per second; bytes that may pass at once. peak_bits: at which rate those may, 0: any; then `least_bytes` may
    pass even faster.
    """

    rate_bits: int
    burst_bytes: int
    peak_bits: int = 0
    least_bytes: int = 0


@dataclass(frozen=True, slots=True)
class Limits:
    """How much an endpoint may do; None and 0 are no limit. in: towards it, out: away from it.

    connections: open at once. dscp: what its packets that leave the pools are marked with.
    per_source: how many connections one source may open towards it.
    """

    packets_in: PacketRate | None = None
    packets_out: PacketRate | None = None
    connections_in: int = 0
    connections_out: int = 0
    bandwidth_in: Bandwidth | None = None
    bandwidth_out: Bandwidth | None = None
    dscp: int | None = None
    per_source: SourceRate | None = None


class FloatingAddress(NamedTuple):
    """An external address that stands for one of an endpoint's own, of the same family."""

    external: Net
    internal: Net


@dataclass(frozen=True, slots=True)
class LocalEndpoint:
    """A workload endpoint of this host that is to be connected.

    interface: name of the host end, 1-15 characters, claimed by this endpoint alone.
    addresses: single addresses (/32, /128) that are this endpoint's alone, in the order of its record; may be empty.
    mac: lower-case, colon separated, or None: then no permanent neighbour is written.
    revision: etcd mod revision of the record. floating: external addresses that are this endpoint's alone.
    spoofed: prefixes that it may send from besides, if the host allows that at all.
    left_out: what it asks for and the settings of the host do not give, as people are told; empty when nothing.
    """

    key: ResourceKey
    interface: str
    addresses: tuple[Net, ...]
    mac: str | None
    ingress: Stack
    egress: Stack
    revision: int
    floating: tuple[FloatingAddress, ...] = ()
    limits: Limits | None = None
    spoofed: tuple[Net, ...] = ()
    left_out: str = ""

    @property
    def routed(self) -> tuple[Net, ...]:
        """All addresses that lead to it: its own and the external ones."""
        return (*self.addresses, *(one.external for one in self.floating)) if self.floating else self.addresses


ALL_INTERFACES = "*"


class HostStacks(NamedTuple):
    """What decides about packets at an interface of the host itself, by where they are met; None: nothing does.

    ingress, egress: from outside to the host's own programs, and back. forward: passed on, in from or out to outside.
    pre_dnat: whatever comes in, before its destination may be translated. untracked: the same and whatever the host
    sends, before connection tracking, which does not see what these allow.
    """

    ingress: Stack
    egress: Stack
    forward_ingress: Stack | None = None
    forward_egress: Stack | None = None
    pre_dnat: Stack | None = None
    untracked_ingress: Stack | None = None
    untracked_egress: Stack | None = None


@dataclass(frozen=True, slots=True)
class LocalHostEndpoint:
    """A host endpoint of this host.

    interface: a name of 1-15 characters, ALL_INTERFACES, or empty: then it is the interfaces with one of `addresses`.
    """

    key: ResourceKey
    interface: str
    addresses: tuple[Net, ...]
    stacks: HostStacks


@dataclass(slots=True)
class MemberDelta:
    """Members of one set that came and went since the last flush; the two never overlap.

    Members are prefixes of either family; no member is inside another of the same set (outermost only), except
    that single addresses are kept even when a prefix covers them.
    """

    added: set[Net] = field(default_factory=set)
    removed: set[Net] = field(default_factory=set)

    def note(self, added: Iterable[Net], removed: Iterable[Net]) -> None:
        """These came and went on top of what is noted; what went and came back did neither."""
        for net in removed:
            if net in self.added:
                self.added.remove(net)
            else:
                self.removed.add(net)
        for net in added:
            if net in self.removed:
                self.removed.remove(net)
            else:
                self.added.add(net)


POOLS, MASQUERADED, HOSTS, TUNNEL_PEERS = "pools", "masquerade", "hosts", "vxlan"
"""Names of `DesiredDelta.nets`: all pools, those whose traffic to the outside hides, the addresses of all hosts, and
from where packets of the tunnel are taken.
"""


@dataclass(slots=True)
class PortDelta:
    """Members of one port set that came and went since the last flush; the two never overlap."""

    added: set[PortMember] = field(default_factory=set)
    removed: set[PortMember] = field(default_factory=set)


class OwnVtep(NamedTuple):
    """This host's end of the VXLAN tunnel, for one family.

    address: /32 or /128, what the device has and others send to; None until there is one: the device is there without.
    mac: of the device; lower-case, colon separated. parent: the node's address (/32, /128): source of outer packets,
    and on the interface that leads to hosts of the same subnet. vni: 1-16777215. port: of UDP.
    mtu: of the device; 0: that of the parent's interface less what the tunnel adds, 50 bytes (IPv6: 70).
    """

    address: Net | None
    mac: str
    parent: Net
    vni: int
    port: int
    mtu: int


class RemoteVtep(NamedTuple):
    """Another host's end of the tunnel. address: gateway of what lies behind it, with this `mac`. outer: where packets
    for that `mac` are sent. All single addresses of one family.
    """

    address: Net
    mac: str
    outer: Net


class ClusterRoute(NamedTuple):
    """How a prefix of another host is reached; exactly one of `vtep` and `direct` is there.

    node: the host's name. vtep: the gateway over the tunnel, `address` of that host's `RemoteVtep`.
    direct: the gateway on the interface of `OwnVtep.parent`: the other host's own address, in the same subnet.
    """

    node: str
    vtep: Net | None
    direct: Net | None


@dataclass(slots=True)
class DesiredDelta:
    """Changes of desired state since the last flush; None as a value means "no longer wanted".

    Every set that a policy names is in `sets` or was in an earlier delta; the same for policies that endpoints name,
    except profiles that do not exist.
    sets, port_sets: id -> True (wanted) or None. blocks: own allocation blocks, for blackhole routes.
    nets: by name; no member lies inside another.
    own_vteps: by family, 4 or 6; without one there is no tunnel of that family. remote_vteps: by family and node.
    cluster_routes: by prefix: blocks of other hosts, and addresses (/32, /128) that are elsewhere than their block.
    """

    sets: dict[str, bool | None] = field(default_factory=dict)
    members: dict[str, MemberDelta] = field(default_factory=dict)
    policies: dict[ResourceKey, CompiledPolicy | None] = field(default_factory=dict)
    endpoints: dict[ResourceKey, LocalEndpoint | None] = field(default_factory=dict)
    blocks: dict[Net, bool | None] = field(default_factory=dict)
    port_sets: dict[str, bool | None] = field(default_factory=dict)
    port_members: dict[str, PortDelta] = field(default_factory=dict)
    nets: dict[str, MemberDelta] = field(default_factory=dict)
    host_endpoints: dict[ResourceKey, LocalHostEndpoint | None] = field(default_factory=dict)
    own_vteps: dict[int, OwnVtep | None] = field(default_factory=dict)
    remote_vteps: dict[tuple[int, str], RemoteVtep | None] = field(default_factory=dict)
    cluster_routes: dict[Net, ClusterRoute | None] = field(default_factory=dict)

    def __bool__(self) -> bool:
        return bool(
            self.sets
            or self.members
            or self.policies
            or self.endpoints
            or self.blocks
            or self.port_sets
            or self.port_members
            or self.nets
            or self.host_endpoints
            or self.own_vteps
            or self.remote_vteps
            or self.cluster_routes
        )
