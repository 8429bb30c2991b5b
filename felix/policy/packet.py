"""The packet that policy is asked about: the first one of a flow, as the kernel sees it when it is forwarded."""

from __future__ import annotations

from typing import NamedTuple

from felix.model.net import Net, format_address

ICMP, TCP, UDP, ICMPV6, SCTP, UDPLITE = 1, 6, 17, 58, 132, 136


class Packet(NamedTuple):
    """One packet.

    version: 4 or 6. source, destination: addresses as integers of that family. protocol: IP protocol number.
    source_port, destination_port: 0-65535, None unless the protocol has ports (TCP, UDP, SCTP, UDPLite).
    icmp_type, icmp_code: 0-255, None unless the protocol is ICMP in IPv4 or ICMPv6 in IPv6.
    """

    version: int
    source: int
    destination: int
    protocol: int
    source_port: int | None = None
    destination_port: int | None = None
    icmp_type: int | None = None
    icmp_code: int | None = None

    @property
    def source_net(self) -> Net:
        """The source address as a prefix of one address."""
        return Net(self.version, self.source, 32 if self.version == 4 else 128)

    @property
    def destination_net(self) -> Net:
        """The destination address as a prefix of one address."""
        return Net(self.version, self.destination, 32 if self.version == 4 else 128)

    def __str__(self) -> str:
        ends = []
        for value, port in ((self.source, self.source_port), (self.destination, self.destination_port)):
            address = format_address(self.version, value)
            ends.append(address if port is None else f"[{address}]:{port}")
        icmp = "" if self.icmp_type is None else f" type {self.icmp_type} code {self.icmp_code}"
        return f"{ends[0]} → {ends[1]} protocol {self.protocol}{icmp}"


class Way(NamedTuple):
    """By which interface a host sends to an address; empty for what it cannot send to.

    is_own: it is an address of the host itself, or one that reaches several, the host among them.
    """

    interface: str
    is_own: bool = False
