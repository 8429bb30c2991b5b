"""What the settings of a host say about packets, beside all policy: the part that the meaning of policy depends on."""

from __future__ import annotations

from dataclasses import dataclass

from felix.policy.packet import UDP, Packet

IPIP = 4


@dataclass(frozen=True, slots=True)
class HostSettings:
    """allows_vxlan, allows_ipip: whether workloads may send packets in packets. vxlan_port: UDP port of the first."""

    allows_vxlan: bool = False
    allows_ipip: bool = False
    vxlan_port: int = 4789

    def is_encapsulated(self, packet: Packet) -> bool:
        """Whether no workload may send such a packet, because it carries another one past policy."""
        if packet.protocol == UDP and packet.destination_port == self.vxlan_port:
            return not self.allows_vxlan
        return packet.protocol == IPIP and not self.allows_ipip
