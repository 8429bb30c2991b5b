"""What the table, once it is as it should be, does to the first packet of a flow: asked about flows that are open.

Looks into the very policies and members that the kernel is told; nothing is kept twice but who owns an address.
"""

from __future__ import annotations

from collections.abc import Mapping

from felix.calc.desired import CompiledPolicy, LocalEndpoint, PortMember, SetRef
from felix.dataplane.nft.elements import address_key, port_key
from felix.dataplane.nft.members import MemberBook
from felix.dataplane.nft.names import address_set, port_set
from felix.dataplane.nft.types import ElementShape, NftConfig
from felix.model.keys import ResourceKey
from felix.model.net import Net
from felix.policy.compiled import CompiledView
from felix.policy.evaluate import Direction
from felix.policy.host_settings import HostSettings
from felix.policy.packet import UDP, Packet

_HASHES = {4: ElementShape.IPV4, 6: ElementShape.IPV6}
_RANGES = {4: ElementShape.IPV4_RANGE, 6: ElementShape.IPV6_RANGE}
_SERVED_PORTS = {(68, 67), (546, 547)}
_DNS = 53


class Verdicts:
    """Asks desired state; cost is that of one packet. Agrees with the rendered chains, which a property test proves."""

    def __init__(self, config: NftConfig, policies: Mapping[ResourceKey, CompiledPolicy], members: MemberBook) -> None:
        self._settings = HostSettings(config.allows_vxlan, config.allows_ipip, config.vxlan_port)
        self._view = CompiledView(policies, _Members(members))
        self._endpoint_by_address: dict[Net, LocalEndpoint] = {}

    def claim(self, endpoint: LocalEndpoint) -> None:
        """The addresses of the endpoint are its own from now on."""
        for net in endpoint.addresses:
            self._endpoint_by_address[net] = endpoint

    def release(self, endpoint: LocalEndpoint) -> None:
        """The addresses that the endpoint still has are nobody's."""
        for net in endpoint.addresses:
            if self._endpoint_by_address.get(net) is endpoint:
                del self._endpoint_by_address[net]

    def is_allowed(self, packet: Packet, own: frozenset[Net] = frozenset()) -> bool:
        """Whether a first packet passes: egress of the endpoint that owns its source, ingress of the other.

        own: addresses of the host itself, as far as they are the packet's. What the host sends, it may; what an
        endpoint sends to the host is judged by the endpoint's egress alone, and what the host serves to all passes.
        """
        if packet.source_net in own:
            return True
        is_to_host = packet.destination_net in own
        if is_to_host and _is_served(packet):
            return True
        source = self._endpoint_by_address.get(packet.source_net)
        if source is not None:
            if self._settings.is_encapsulated(packet):
                return False
            if not self._view.is_allowed(source.egress, Direction.EGRESS, packet):
                return False
        destination = None if is_to_host else self._endpoint_by_address.get(packet.destination_net)
        return destination is None or self._view.is_allowed(destination.ingress, Direction.INGRESS, packet)


def _is_served(packet: Packet) -> bool:
    ports = packet.source_port, packet.destination_port
    return packet.protocol == UDP and (packet.destination_port == _DNS or ports in _SERVED_PORTS)


class _Members:
    """The members that the kernel's sets are to have."""

    def __init__(self, book: MemberBook) -> None:
        self._book = book

    def is_member(self, reference: SetRef, address: Net) -> bool:
        version = address.version
        if self._book.is_wanted(address_set(reference.id, _HASHES[version]), address.packed):
            return True
        if not (reference.nets4 if version == 4 else reference.nets6):
            return False
        name = address_set(reference.id, _RANGES[version])
        for length in range(address.bits):
            host_bits = address.bits - length
            around = Net(version, address.value >> host_bits << host_bits, length)
            if self._book.is_wanted(name, address_key(around)[1]):
                return True
        return False

    def is_port_member(self, set_id: str, member: PortMember) -> bool:
        shape, key = port_key(member)
        return self._book.is_wanted(port_set(set_id, shape), key)
