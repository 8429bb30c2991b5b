"""What the settings of a host say about packets, beside all policy: the part that the meaning of policy depends on."""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass
from typing import NamedTuple

from felix.model.net import Net
from felix.policy.packet import ICMPV6, TCP, UDP, Packet

IPIP = 4
HOST_DISCOVERY_TYPES = (130, 131, 132, 133, 134, 135, 136, 143)
"""ICMPv6 without which a host has no neighbours and no router: MLD, and ND without redirects."""


class Failsafe(NamedTuple):
    """Packets that no policy of a host endpoint stops: to this port, 1-65535, from or to `net` (None: anywhere).

    net is where the packet comes from if it comes in, and where it goes to if it goes out.
    """

    protocol: int
    port: int
    net: Net | None = None


def _failsafes(tcp: Iterable[int], udp: Iterable[int]) -> tuple[Failsafe, ...]:
    return (*(Failsafe(TCP, port) for port in tcp), *(Failsafe(UDP, port) for port in udp))


FAILSAFES_IN = _failsafes((22, 179, 2379, 2380, 5473, 6443, 6666, 6667), (68,))
FAILSAFES_OUT = _failsafes((179, 2379, 2380, 5473, 6443, 6666, 6667), (53, 67))
"""Calico's defaults: login, BGP, etcd, Typha, Kubernetes; DHCP and DNS."""


@dataclass(frozen=True, slots=True)
class HostSettings:
    """allows_vxlan, allows_ipip: whether workloads may send packets in packets. vxlan_port: UDP port of the first.

    failsafes_in, failsafes_out: towards the host, and from it.
    accepts_workloads: whether the host takes what a workload's policy lets it send there.
    allows_spoofing: whether endpoints may send from their allowSpoofedSourcePrefixes.
    has_floating: whether external addresses lead to endpoints.
    hides_behind: what hidden sources become in its family; None, and in the other: the address of the host itself.
    spares_hosts: whether sources are not hidden from hosts. hides_at: the only interfaces at which they are, as
    NatConfig says.
    """

    allows_vxlan: bool = False
    allows_ipip: bool = False
    vxlan_port: int = 4789
    failsafes_in: tuple[Failsafe, ...] = FAILSAFES_IN
    failsafes_out: tuple[Failsafe, ...] = FAILSAFES_OUT
    accepts_workloads: bool = False
    allows_spoofing: bool = False
    has_floating: bool = False
    hides_behind: Net | None = None
    spares_hosts: bool = False
    hides_at: str = ""

    def is_encapsulated(self, packet: Packet) -> bool:
        """Whether no workload may send such a packet, because it carries another one past policy."""
        if packet.protocol == UDP and packet.destination_port == self.vxlan_port:
            return not self.allows_vxlan
        return packet.protocol == IPIP and not self.allows_ipip

    def is_failsafe(self, packet: Packet, *, is_inward: bool) -> bool:
        """Whether no policy of a host endpoint may stop a packet that comes in or goes out as the first of a flow."""
        if packet.protocol == ICMPV6 and packet.icmp_type in HOST_DISCOVERY_TYPES:
            return True
        far = packet.source_net if is_inward else packet.destination_net
        rules = self.failsafes_in if is_inward else self.failsafes_out
        return any(_is_meant(rule, packet.protocol, packet.destination_port, far) for rule in rules)

    def is_failsafe_untracked(self, packet: Packet, *, is_inward: bool) -> bool:
        """The same where nobody knows flows: an answer to a failsafe passes too."""
        far = packet.source_net if is_inward else packet.destination_net
        rules = self.failsafes_out if is_inward else self.failsafes_in
        return self.is_failsafe(packet, is_inward=is_inward) or any(
            _is_meant(rule, packet.protocol, packet.source_port, far) for rule in rules
        )


def _is_meant(rule: Failsafe, protocol: int, port: int | None, far: Net) -> bool:
    if (rule.protocol, rule.port) != (protocol, port):
        return False
    return rule.net is None or (rule.net.version == far.version and rule.net.value <= far.value <= rule.net.last)
