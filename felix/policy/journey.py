"""The reference meaning of addresses: what becomes of a packet at one host, from where it comes in to what its receiver
sees of it.

    whose is it? ─▶ an external destination becomes an endpoint's ─▶ policy ─▶ a source hides, or becomes external

What policy says is the matter of `evaluate` and `host`. As they do, this looks at stored records, and is written to be
read. Discovery and DHCP with addresses that a workload does not have yet are left out.
"""

from __future__ import annotations

import operator
from collections.abc import Iterable, Iterator
from typing import NamedTuple

from felix.calc.desired import Action
from felix.model.keys import ResourceKey
from felix.model.net import Net, parse_address, parse_net
from felix.model.records import WorkloadEndpoint
from felix.policy.evaluate import Direction, Step, Verdict, World, evaluate_between
from felix.policy.host import Port, decide_early, evaluate_forwarded, evaluate_received, evaluate_sent, is_untracked
from felix.policy.packet import UDP, Packet

HOST = ""
"""Where a packet is that the host itself sends or receives."""
_SERVED_PORTS = {(68, 67), (546, 547)}
_DNS = 53


class Site(NamedTuple):
    """A host, and its interface to everything that is not a workload of its own.

    workload_prefix: how the names of interfaces begin that are for workloads.
    """

    node: str
    uplink: Port
    workload_prefix: str = "cali"


class Journey(NamedTuple):
    """What becomes of the first packet of a flow.

    exit: where it goes, or would if it might: an interface, or HOST. packet: as it is seen there.
    is_hidden: its source port, or echo identifier, is any that was free.
    dscp: the class that it is marked with; of an endpoint that says it as a number.
    is_answered: it is denied in a place where the sender can be told, if denied packets are answered.
    """

    verdict: Verdict
    exit: str
    packet: Packet
    is_hidden: bool = False
    dscp: int = 0
    is_answered: bool = False


def travel(world: World, site: Site, entry: str, packet: Packet, foreign: Packet | None = None) -> Journey:
    """Returns what becomes of a packet that comes in by an interface, or is the host's own (HOST).

    foreign: what somebody else's translation of destinations makes of it; None: nothing.
    """
    sender = find_behind(world, site, entry)
    if entry.startswith(site.workload_prefix) and (sender is None or not may_send(world, sender, packet)):
        return Journey(_deny(sender), find_exit(world, site, packet), packet)
    is_tracked = not _is_untracked(world, site, entry, packet)
    after = (foreign or _to_endpoint(world, site, packet)) if is_tracked else packet
    exit_ = find_exit(world, site, after)
    verdict = _judge(world, site, (entry, exit_), packet, after)
    is_answered = not verdict.allowed and _is_answered(world, site, (entry, exit_), packet, after)
    left, is_hidden = after, False
    if is_tracked and exit_ != HOST:
        left, is_hidden = translate_source(world, site, exit_, after)
    dscp = 0
    if sender is not None and exit_ != HOST and not is_inside(after.destination_net, _pool_nets(world)):
        controls = world.workloads[sender].spec.qos_controls
        dscp = int((controls and controls.dscp) or 0)
    return Journey(verdict, exit_, left, is_hidden, dscp, is_answered)


def may_send(world: World, sender: ResourceKey, packet: Packet) -> bool:
    """Whether a workload may use the packet's source: its own address, or in a prefix that it is allowed besides."""
    spec = world.workloads[sender].spec
    if packet.source_net in map(parse_net, spec.ip_networks):
        return True
    prefixes = map(parse_net, spec.allow_spoofed_source_prefixes)
    return world.settings.allows_spoofing and is_inside(packet.source_net, prefixes)


def find_behind(world: World, site: Site, interface: str) -> ResourceKey | None:
    """Returns the workload of an interface of the host; None if there is none."""
    return min((key for key, one in _local(world, site) if one.spec.interface_name == interface), default=None)


def find_exit(world: World, site: Site, packet: Packet) -> str:
    """Returns where a packet goes: the interface of an endpoint, the uplink, or HOST."""
    target = find_floating(world, site).get(packet.destination_net, packet.destination_net)
    for _, workload in _local(world, site):
        if target in map(parse_net, workload.spec.ip_networks):
            return workload.spec.interface_name
    return HOST if target in site.uplink.addresses else site.uplink.name


def find_floating(world: World, site: Site) -> dict[Net, Net]:
    """Returns the addresses of this host's endpoints by the external ones that lead there.

    Of several endpoints that claim one, it is the one's with the lowest key; who has an address itself keeps it.
    """
    if not world.settings.has_floating:
        return {}
    taken = {parse_net(text) for _, workload in _local(world, site) for text in workload.spec.ip_networks}
    taken.update(host_addresses(world))
    found: dict[Net, Net] = {}
    for _, workload in sorted(_local(world, site), key=operator.itemgetter(0)):
        own = set(map(parse_net, workload.spec.ip_networks))
        claimed: dict[Net, Net] = {}
        for nat in workload.spec.ip_nats:
            external, internal = parse_address(nat.external_ip), parse_address(nat.internal_ip)
            if internal in own and internal.version == external.version:
                claimed.setdefault(external, internal)
        found = claimed | found
    return {external: internal for external, internal in found.items() if external not in taken}


def translate_source(world: World, site: Site, exit_: str, packet: Packet) -> tuple[Packet, bool]:
    """Returns a packet as it leaves by an interface, and whether its source hides behind the host."""
    settings = world.settings
    target = packet.destination_net
    receiver = find_behind(world, site, exit_)
    externals = [external for external, own in find_floating(world, site).items() if own == packet.source_net]
    returns = receiver is not None and packet.source_net in map(parse_net, world.workloads[receiver].spec.ip_networks)
    is_outward = not is_inside(target, _pool_nets(world))
    if externals and (returns or is_outward):
        return packet._replace(source=min(externals).value), False
    is_spared = settings.spares_hosts and target in host_addresses(world)
    if not is_outward or is_spared or not is_inside(packet.source_net, _pool_nets(world, hidden=True)):
        return packet, False
    name = settings.hides_at
    if name and not (exit_.startswith(name[:-1]) if name.endswith("+") else exit_ == name):
        return packet, False
    own = [net for net in site.uplink.addresses if net.version == packet.version]
    if settings.hides_behind is not None and settings.hides_behind.version == packet.version:
        own = [settings.hides_behind]
    return packet._replace(source=min(own).value), True


def host_addresses(world: World) -> set[Net]:
    """Returns the addresses that nodes say are theirs, of BGP."""
    texts = [
        text
        for node in world.nodes.values()
        if node.spec.bgp is not None
        for text in (node.spec.bgp.ipv4_address, node.spec.bgp.ipv6_address)
    ]
    return {parse_address(text.partition("/")[0]) for text in texts if text}


def is_inside(address: Net, nets: Iterable[Net]) -> bool:
    """Whether an address lies in one of the nets."""
    return any(net.version == address.version and net.value <= address.value <= net.last for net in nets)


def _local(world: World, site: Site) -> Iterator[tuple[ResourceKey, WorkloadEndpoint]]:
    return ((key, workload) for key, workload in world.workloads.items() if workload.spec.node == site.node)


def _pool_nets(world: World, *, hidden: bool = False) -> list[Net]:
    return [parse_net(pool.spec.cidr) for pool in world.pools.values() if pool.spec.nat_outgoing or not hidden]


def _to_endpoint(world: World, site: Site, packet: Packet) -> Packet:
    internal = find_floating(world, site).get(packet.destination_net)
    return packet if internal is None else packet._replace(destination=internal.value)


def _is_untracked(world: World, site: Site, entry: str, packet: Packet) -> bool:
    """Whether untracked policy keeps connection tracking from seeing it, which then translates nothing."""
    if entry == site.uplink.name:
        return is_untracked(world, site.node, site.uplink, Direction.INGRESS, packet)
    is_sent_out = entry == HOST and find_exit(world, site, packet) == site.uplink.name
    return is_sent_out and is_untracked(world, site.node, site.uplink, Direction.EGRESS, packet)


def _judge(world: World, site: Site, way: tuple[str, str], packet: Packet, after: Packet) -> Verdict:
    sender, receiver = (find_behind(world, site, place) for place in way)
    if sender is not None and way[1] == HOST:
        if _is_served(after):
            return Verdict(True, ())
        verdict = evaluate_between(world, after, sender, None)
        return verdict if world.settings.accepts_workloads or not verdict.allowed else _deny(sender)
    if way[0] == HOST:
        if receiver is not None:
            return Verdict(True, ())
        return evaluate_sent(world, site.node, site.uplink, packet, after)
    if way[1] == HOST:
        return evaluate_received(world, site.node, site.uplink, packet, after)
    entry, exit_ = (site.uplink if place == site.uplink.name else None for place in way)
    return evaluate_forwarded(world, site.node, (entry, exit_), packet, after, ends=(sender, receiver))


def _is_answered(world: World, site: Site, way: tuple[str, str], packet: Packet, after: Packet) -> bool:
    """Whether who sent a denied packet is told: not by what decides before translation, nor by what is always so."""
    if way[0] == HOST:
        return False
    if way[0] == site.uplink.name:
        return decide_early(world, site.node, site.uplink, packet) is not False
    sender = find_behind(world, site, way[0])
    if world.settings.is_encapsulated(after):
        return False
    return way[1] != HOST or not evaluate_between(world, after, sender, None).allowed


def _is_served(packet: Packet) -> bool:
    """Whether every host serves such a packet to its workloads, whatever their policy is: DHCP and DNS."""
    ports = packet.source_port, packet.destination_port
    return packet.protocol == UDP and (packet.destination_port == _DNS or ports in _SERVED_PORTS)


def _deny(sender: ResourceKey | None) -> Verdict:
    steps = () if sender is None else (Step(sender, Direction.EGRESS, "", None, None, Action.DENY),)
    return Verdict(False, steps)
