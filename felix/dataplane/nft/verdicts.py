"""What the table, once it is as it should be, does to the first packet of a flow: asked about flows that are open.

Looks into the very policies and members that the kernel is told; nothing is kept twice but who owns an address.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from types import MappingProxyType

from felix.calc.desired import LocalEndpoint, PortMember, SetRef
from felix.dataplane.nft.chains import ChainBook
from felix.dataplane.nft.elements import address_key, port_key
from felix.dataplane.nft.host_verdicts import HostVerdicts, closed_on
from felix.dataplane.nft.hosts import HostDispatch
from felix.dataplane.nft.members import MemberBook
from felix.dataplane.nft.names import EGRESS, INGRESS, address_set, port_set
from felix.dataplane.nft.types import ElementShape, NftConfig
from felix.model.keys import ResourceKey
from felix.model.net import Net
from felix.policy.compiled import CompiledView
from felix.policy.evaluate import Direction
from felix.policy.host_settings import HostSettings
from felix.policy.packet import UDP, Packet, Way

_HASHES = {4: ElementShape.IPV4, 6: ElementShape.IPV6}
_RANGES = {4: ElementShape.IPV4_RANGE, 6: ElementShape.IPV6_RANGE}
_SERVED_PORTS = {(68, 67), (546, 547)}
_DNS = 53
_LOOP = "lo"
_NOWHERE = Way("")
_NOBODY: Mapping[Net, Way] = MappingProxyType({})


class Verdicts:
    """Asks desired state; cost is that of one packet. Agrees with the rendered chains, which a property test proves."""

    def __init__(self, config: NftConfig, chains: ChainBook, members: MemberBook, hosts: HostDispatch) -> None:
        self._settings = HostSettings(
            config.allows_vxlan, config.allows_ipip, config.vxlan_port, config.failsafes_in, config.failsafes_out
        )
        self._config = config
        self._chains = chains
        self._view = CompiledView(chains.policies, _Members(members))
        self._hosts = HostVerdicts(self._settings, self._view, hosts, chains)
        self._endpoint_by_address: dict[Net, LocalEndpoint] = {}
        self._spoofing_by_interface: dict[str, LocalEndpoint] = {}
        self._closed: set[ResourceKey] = set()

    def claim(self, endpoint: LocalEndpoint) -> None:
        """The addresses of the endpoint are its own from now on."""
        for net in endpoint.addresses:
            self._endpoint_by_address[net] = endpoint
        if endpoint.spoofed and self._config.allows_spoofing:
            self._spoofing_by_interface[endpoint.interface] = endpoint

    def release(self, endpoint: LocalEndpoint) -> None:
        """The addresses that the endpoint still has are nobody's."""
        for net in endpoint.addresses:
            if self._endpoint_by_address.get(net) is endpoint:
                del self._endpoint_by_address[net]
        if self._spoofing_by_interface.get(endpoint.interface) is endpoint:
            del self._spoofing_by_interface[endpoint.interface]
        self._closed.discard(endpoint.key)

    def close(self, key: ResourceKey) -> None:
        """Nothing leads to the endpoint of that key nor from it, until it is released."""
        self._closed.add(key)

    def is_certain(self, packet: Packet, first: Packet | None = None) -> bool:
        """Whether a first packet passes, whichever interfaces lead to its two ends, and whosever they are."""
        source = self._endpoint_by_address.get(packet.source_net)
        destination = self._endpoint_by_address.get(packet.destination_net)
        if not self._is_passing(source, packet) or not self._is_arriving(destination, packet):
            return False
        if source is None and not all(
            self._is_passing(one, packet)
            for one in self._spoofing_by_interface.values()
            if _is_among(one.spoofed, packet.source_net)
        ):
            return False
        return not self._hosts.has_any or self._hosts.is_allowed_everywhere(
            first or packet, packet, enters=source is None, leaves=destination is None
        )

    def is_allowed(self, packet: Packet, ways: Mapping[Net, Way] = _NOBODY, first: Packet | None = None) -> bool:
        """Whether a first packet passes: egress of the endpoint that owns its source, ingress of the other, and policy
        of the host's interfaces that lead to ends that are no endpoint's.

        ways: those to its two ends, as far as known. first: what it was before a translation of its destination.
        What the host sends to its endpoints, it may; what an endpoint sends to the host is judged by the endpoint's
        egress alone, and what the host serves to all its endpoints passes.
        """
        first = first or packet
        there, here = ways.get(packet.source_net, _NOWHERE), ways.get(packet.destination_net, _NOWHERE)
        if there.is_own:
            is_loop = here.is_own and here.interface == _LOOP
            return self._hosts.is_sent(here.interface, first, packet) and (
                not is_loop or self._hosts.is_received(_LOOP, first, packet)
            )
        source = self._endpoint_by_address.get(packet.source_net)
        if source is None:
            source = self._spoofing_by_interface.get(there.interface)
            if source is not None and not _is_among(source.spoofed, packet.source_net):
                return False
        if source is None and there.interface:
            is_entering = self._hosts.is_received if here.is_own else self._hosts.is_entering
            if not is_entering(there.interface, first, packet):
                return False
        if here.is_own:
            is_local = source is not None or there.interface.startswith(self._config.interface_prefixes)
            return (is_local and _is_served(packet)) or self._is_passing(source, packet)
        if not self._is_passing(source, packet):
            return False
        destination = self._endpoint_by_address.get(packet.destination_net)
        if destination is not None:
            return self._is_arriving(destination, packet)
        return not here.interface or self._hosts.is_leaving(here.interface, packet)

    def _is_passing(self, source: LocalEndpoint | None, packet: Packet) -> bool:
        if source is None:
            return True
        return (
            source.key not in self._closed
            and not self._settings.is_encapsulated(packet)
            and self._view.is_allowed(source.egress, Direction.EGRESS, packet, closed_on(self._chains, EGRESS))
        )

    def _is_arriving(self, destination: LocalEndpoint | None, packet: Packet) -> bool:
        return destination is None or (
            destination.key not in self._closed
            and self._view.is_allowed(destination.ingress, Direction.INGRESS, packet, closed_on(self._chains, INGRESS))
        )


def _is_among(nets: Iterable[Net], address: Net) -> bool:
    return any(net.version == address.version and net.value <= address.value <= net.last for net in nets)


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
