"""The three-way law of a whole host: stored records, a modelled kernel and the real kernel agree about packets that the
host receives, sends and passes on: whether they arrive, where, from and to which addresses, marked how; and whether the
sender of a denied one is told.

In the worlds are workloads, host endpoints, all kinds of policies for both, pools that hide, external addresses, and
prefixes that workloads may send from; and there is somebody else's translation of destinations in between.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass, replace

import pytest
from hypothesis import given
from hypothesis import strategies as st

from felix.dataplane.nft.apply import apply_teardown
from felix.dataplane.nft.types import DenyAction, FloodConfig, LogRate, NatConfig, NftConfig, ToHostAction
from felix.model.net import Net, parse_net
from felix.policy.evaluate import Direction, World
from felix.policy.host import Port, is_untracked
from felix.policy.host_settings import FAILSAFES_IN, FAILSAFES_OUT, IPIP, Failsafe, HostSettings
from felix.policy.journey import HOST, Journey, Site, find_behind, find_exit, find_floating, may_send, travel
from felix.policy.packet import TCP, UDP, Packet, Way
from tests.model.fake_nft import Fate
from tests.model.host_worlds import host_worlds
from tests.model.worlds import EXTERNALS, PROTOCOLS, draw_packet
from tests.support.host_wire import Entry, HostWire, Seen
from tests.support.law import (
    HOST_ADDRESSES,
    WORKLOAD_ADDRESSES,
    WORKLOAD_INTERFACES,
    Bench,
    Tables,
    find_interface,
    find_local_addresses,
    law,
)
from tests.support.packets import Flow, find_flow, opens_flow, reverse
from tests.support.wire import UPLINK

pytestmark = pytest.mark.fv

_LAW = law(40, is_made_small=False)
_SITE = Site("h1", Port(UPLINK, frozenset(HOST_ADDRESSES)))
_OWN = {net.version: net.value for net in HOST_ADDRESSES}
_TRANSLATED_IN = {
    "192.0.2.66": "192.0.2.130",
    "2001:db8::66": "2001:db8::82",
    "192.0.2.67": "10.65.0.1",
    "2001:db8::67": "fd00:65::1",
}
_TRANSLATED_OUT = {"192.0.2.68": "192.0.2.127", "2001:db8::68": "2001:db8::2"}
_DNAT = """
table inet somebody {{
 chain pre {{ type nat hook prerouting priority -100; policy accept; {pre} }}
 chain out {{ type nat hook output priority -100; policy accept; {out} }}
}}
"""
_OUTSIDE = {4: parse_net("198.51.100.7").value, 6: parse_net("2001:db9::7").value}
_NEAR = parse_net("192.0.2.0/25")
_HIDING = st.builds(
    NatConfig,
    address=st.sampled_from([None, None, parse_net("192.0.2.131"), parse_net("2001:db8::83")]),
    ports=st.sampled_from([None, (40_000, 40_999), (40_000, 40_000)]),
    spares_hosts=st.booleans(),
    interface=st.sampled_from(["", "", "eth+", "eth0", "eth9"]),
    has_floating=st.sampled_from([True, True, True, False]),
)
_CONFIGS = st.builds(
    NftConfig,
    to_host=st.sampled_from(ToHostAction),
    deny=st.sampled_from(DenyAction),
    counted_rules=st.sampled_from([0, 2]),
    allows_vxlan=st.booleans(),
    allows_ipip=st.booleans(),
    allows_spoofing=st.booleans(),
    failsafes_in=st.sampled_from([FAILSAFES_IN, (*FAILSAFES_IN, Failsafe(TCP, 80, _NEAR), Failsafe(UDP, 81))]),
    failsafes_out=st.sampled_from([FAILSAFES_OUT, (*FAILSAFES_OUT, Failsafe(TCP, 90, _NEAR))]),
    nat=_HIDING,
    flood=st.sampled_from([FloodConfig(), FloodConfig(per_s=100_000, burst=100_000)]),
    log_rate=st.sampled_from([None, LogRate(10, "minute", 5)]),
)


def make_settings(config: NftConfig) -> HostSettings:
    """Returns what that configuration says about packets, beside all policy."""
    nat = config.nat
    return HostSettings(
        allows_vxlan=config.allows_vxlan,
        allows_ipip=config.allows_ipip,
        vxlan_port=config.vxlan_port,
        failsafes_in=config.failsafes_in,
        failsafes_out=config.failsafes_out,
        accepts_workloads=config.to_host is not ToHostAction.DROP,
        allows_spoofing=config.allows_spoofing,
        has_floating=nat.has_floating,
        hides_behind=nat.address,
        spares_hosts=nat.spares_hosts,
        hides_at=nat.interface,
    )


@dataclass(frozen=True, repr=False)
class History:
    """Worlds that follow each other, and packets to try in each of them. Entry places of "?": by their source."""

    config: NftConfig
    worlds: tuple[World, ...]
    entries: tuple[Entry, ...]

    def _repr_pretty_(self, printer: object, cycle: bool) -> None:
        """Shown, it would be longer than anybody reads: what failed says enough, with its part of the world."""


@st.composite
def histories(draw: st.DrawFn) -> History:
    """Draws a world, another one, and the same without host endpoints."""
    first, other = draw(host_worlds()), draw(host_worlds())
    steps = (first, replace(other, workloads=first.workloads), replace(first, host_endpoints={}), first)
    config = draw(_CONFIGS)
    settings = make_settings(config)
    liars = [
        (one.spec.interface_name, net)
        for one in first.workloads.values()
        if one.spec.node == _SITE.node
        for net in map(parse_net, one.spec.allow_spoofed_source_prefixes)
    ]
    entries = [_draw_entry(draw, draw_packet(draw, first, PROTOCOLS), liars) for _ in range(40)]
    return History(
        config,
        tuple(replace(world, settings=settings) for world in steps),
        tuple(one for one in entries if opens_flow(one.packet)),
    )


def _draw_entry(draw: st.DrawFn, packet: Packet, liars: Sequence[tuple[str, Net]]) -> Entry:
    version = packet.version
    allowed = [(name, net) for name, net in liars if net.version == version]
    match draw(st.integers(0, 7)):
        case 0:
            return Entry(_aimed(draw, packet._replace(source=_OWN[version]), list(_TRANSLATED_OUT)), HOST)
        case 1:
            return Entry(_aimed(draw, packet._replace(source=_OWN[version]), EXTERNALS[version]), HOST)
        case 2:
            return Entry(_to_host(draw, packet), "?")
        case 3:
            return Entry(_aimed(draw, packet, list(_TRANSLATED_IN)), "?")
        case 4:
            return Entry(_aimed(draw, packet, EXTERNALS[version]), "?")
        case 5 if allowed:
            name, net = draw(st.sampled_from(allowed))
            number = draw(st.integers(0, 2)) if net.value else _OUTSIDE[version]
            return Entry(packet._replace(source=net.value + number), name)
        case 5:
            return Entry(packet, draw(st.sampled_from(WORKLOAD_INTERFACES)))
        case _:
            return Entry(packet, "?")


def _to_host(draw: st.DrawFn, packet: Packet) -> Packet:
    if packet.protocol == UDP and draw(st.booleans()):
        packet = packet._replace(destination_port=53)
    return packet._replace(destination=_OWN[packet.version])


def _aimed(draw: st.DrawFn, packet: Packet, addresses: Sequence[str]) -> Packet:
    nets = [net for net in map(parse_net, addresses) if net.version == packet.version]
    return packet._replace(destination=nets[draw(st.integers(0, len(nets) - 1))].value)


def translate(packet: Packet, place: str) -> Packet | None:
    """Returns what somebody's rules make of a packet; None: nothing else."""
    for before, after in (_TRANSLATED_OUT if place == HOST else _TRANSLATED_IN).items():
        if packet.destination_net == parse_net(before):
            return packet._replace(destination=parse_net(after).value)
    return None


@pytest.fixture(scope="module")
def bench() -> Iterator[Bench[HostWire]]:
    rules = [
        "; ".join(f"{_word(old)} daddr {old} dnat {_word(old)} to {new}" for old, new in addresses.items())
        for addresses in (_TRANSLATED_IN, _TRANSLATED_OUT)
    ]
    external = [
        (parse_net(text), name) for texts in EXTERNALS.values() for text in texts for name in WORKLOAD_INTERFACES
    ]
    wire = HostWire(WORKLOAD_INTERFACES, [*WORKLOAD_ADDRESSES, *external])
    try:
        wire.listen()
        wire.host.execute("nft", _DNAT.format(pre=rules[0] + ";", out=rules[1] + ";"))
        bench = Bench(wire)
    except BaseException:
        wire.close()
        raise
    try:
        yield bench
    finally:
        bench.close()


def _word(address: str) -> str:
    return "ip6" if ":" in address else "ip"


class Run:
    """One history on both kernels."""

    def __init__(self, bench: Bench[HostWire], config: NftConfig) -> None:
        self._bench = bench
        self._config = config
        self.tables = Tables(bench.worker, _SITE.node, config, has_host_endpoints=True)
        self.tables.fake.own_addresses = _OWN

    def enter(self, world: World) -> None:
        """Both tables, and the routes, are those of `world`; only what differs was written."""
        self.tables.enter(world)
        owned = find_local_addresses(world, _SITE.node)
        interfaces = dict(owned)
        external = [(one, interfaces[internal]) for one, internal in find_floating(world, _SITE).items()]
        self._bench.wire.route([*owned, *external])

    def check(self, world: World, entries: Sequence[Entry]) -> None:
        """Every packet meets the same fate three times."""
        self._bench.wire.forget_flows()
        trials = list(choose(world, entries))
        arrived = self._bench.wire.try_entries([entry for entry, _ in trials])
        for (entry, journey), seen in zip(trials, arrived, strict=True):
            self._compare(world, entry, journey, seen)
            self._check_judge(world, entry, journey)
            self._bench.tried["answered"] += bool(seen.answered_at)
            self._note(world, entry, journey)

    def _compare(self, world: World, entry: Entry, journey: Journey, seen: Seen) -> None:
        fate = self.tables.fake.travel(
            entry.packet,
            entry.place,
            lambda packet: find_exit(world, _SITE, packet),
            translated=translate(entry.packet, entry.place),
        )
        if not is_answer_certain(world, entry):
            journey, fate = journey._replace(is_answered=False), fate._replace(is_answered=False)
            seen = seen._replace(answered_at="")
        meant = describe_journey(journey, self._config)
        faked = describe_fate(fate)
        real = describe_seen(seen, journey, find_exit(world, _SITE, reverse(entry.packet)))
        if not (meant == faked == real):
            steps = "".join(f"\n    {step}" for step in journey.verdict.trace)
            keys = {step.policy for step in journey.verdict.trace} & world.policies.keys()
            steps += "".join(f"\n    {world.policies[key]}" for key in sorted(filter(None, keys)))
            pytest.fail(f"{entry}\nby meaning {meant}\nin the fake {faked}\nreally      {real}{steps}")
        ports = self._config.nat.ports
        if journey.is_hidden and seen.packet is not None and ports is not None and seen.packet.protocol in (TCP, UDP):
            assert ports[0] <= (seen.packet.source_port or 0) <= ports[1]

    def _check_judge(self, world: World, entry: Entry, journey: Journey) -> None:
        """A connection that is open is judged as its first packet is now."""
        packet, place = entry
        sender = find_behind(world, _SITE, place)
        if place in WORKLOAD_INTERFACES and (sender is None or not may_send(world, sender, packet)):
            return  # nobody opens a connection like that
        if place not in (HOST, find_exit(world, _SITE, reverse(packet))):
            return  # of an open connection it is known where answers go, not where it came from
        if sender is not None and journey.exit == HOST:
            return  # settings say more about it than policy, and are not looked at again
        if has_no_track(world, entry):
            return
        after = journey.packet._replace(source=packet.source, source_port=packet.source_port)
        if after.destination_net in find_floating(world, _SITE):
            return  # somebody else's translation led to an external address, which no endpoint takes for its own
        if world.settings.is_failsafe_untracked(after, is_inward=place != HOST):
            return  # spared, also where it is the answer to one that is
        ways = {
            net: Way("lo", True) if where == HOST else Way(where)
            for net, where in ((after.destination_net, journey.exit), (after.source_net, place))
        }
        allowed = self.tables.plans[0].verdicts.is_allowed(after, ways, packet)
        assert allowed is journey.verdict.allowed, f"{entry}, judged as {after} by {ways}: {journey.verdict}"
        self._bench.tried["judged as open"] += 1

    def _note(self, world: World, entry: Entry, journey: Journey) -> None:
        way = "sent" if entry.place == HOST else "received" if journey.exit == HOST else "forwarded"
        asked = sorted({step.endpoint.kind for step in journey.verdict.trace}) or ["nobody"]
        tried = self._bench.tried
        tried[f"{way}, {'passed' if journey.verdict.allowed else 'dropped'}, {' and '.join(asked)} asked"] += 1
        if journey.verdict.allowed:
            tried["hidden"] += journey.is_hidden
            tried["from an external address"] += journey.packet.source != entry.packet.source and not journey.is_hidden
            tried["to another destination"] += journey.packet.destination != entry.packet.destination
            tried["marked"] += bool(journey.dscp)
            is_own = entry.place in (HOST, UPLINK, find_interface(world, _SITE.node, entry.packet.source_net))
            tried["from a spoofed prefix"] += not is_own


def is_answer_certain(world: World, entry: Entry) -> bool:
    """Whether who is denied is told, if he should be.

    The kernel looks for a checksum in packets in packets before it answers, and there is none (nf_reject_verify_csum).
    An answer about a packet that was not tracked belongs to nothing, so policy for what the host sends decides.
    """
    return entry.packet.protocol != IPIP and not (entry.place == UPLINK and has_no_track(world, entry))


def has_no_track(world: World, entry: Entry) -> bool:
    """Whether connection tracking does not see the packet."""
    direction = Direction.EGRESS if entry.place == HOST else Direction.INGRESS
    at_uplink = entry.place in (HOST, UPLINK)
    return at_uplink and is_untracked(world, _SITE.node, _SITE.uplink, direction, entry.packet)


def choose(world: World, entries: Sequence[Entry]) -> list[tuple[Entry, Journey]]:
    """Returns packets with what should become of them: none belongs to the flow of another, however it is translated.

    Those that hide come last: the kernel finds a port for them that is nobody's.
    """
    seen: set[Flow] = set()
    chosen = []
    for packet, place in entries:
        entry = Entry(packet, find_interface(world, _SITE.node, packet.source_net) if place == "?" else place)
        journey = travel(world, _SITE, entry.place, packet, translate(packet, entry.place))
        if any(one.source == one.destination for one in (packet, journey.packet)):
            continue  # hosts take it for their own
        if packet.source_net in find_floating(world, _SITE):
            continue  # somebody outside lies, and answers to him go to whose address it is
        forms = [packet, reverse(packet), journey.packet, reverse(journey.packet)]
        flows = {find_flow(one) for one in forms}
        if not flows & seen:
            seen |= flows
            chosen.append((entry, journey))
    return sorted(chosen, key=lambda pair: pair[1].is_hidden)


def describe_journey(journey: Journey, config: NftConfig) -> str:
    """Returns what should be seen."""
    if not journey.verdict.allowed:
        return "answered" if journey.is_answered and config.deny is DenyAction.REJECT else "dropped"
    return _describe(journey.exit, journey.packet, journey.dscp, journey.is_hidden)


def describe_fate(fate: Fate) -> str:
    """Returns what is seen in the fake."""
    if fate.passing is None:
        return "answered" if fate.is_answered else "dropped"
    packet = fate.passing.packet
    return _describe(fate.passing.oif, packet, fate.passing.dscp, packet.source_port is None)


def describe_seen(seen: Seen, journey: Journey, back: str) -> str:
    """Returns what is seen in the real kernel. back: where answers go."""
    if seen.place is None or seen.packet is None:
        if not seen.answered_at:
            return "dropped"
        return "answered" if seen.answered_at == back else f"answered at {seen.answered_at}"
    return _describe(seen.place, seen.packet, seen.dscp, journey.is_hidden)


def _describe(place: str, packet: Packet, dscp: int, has_any_port: bool) -> str:
    shown = packet._replace(source_port=None) if has_any_port else packet
    return f"at {place or 'the host'}: {shown}, class {dscp}"


@pytest.mark.timeout(1200)  # for many examples
@_LAW
@given(history=histories())
def test_packet_at_the_host_meets_the_same_fate_by_meaning_in_the_fake_and_in_the_kernel(
    bench: Bench[HostWire], history: History
) -> None:
    run = Run(bench, history.config)
    for world in history.worlds:
        run.enter(world)
        run.check(world, history.entries)
        bench.tried["worlds"] += 1
    run.tables.check_restart(history.worlds[-1])


def test_wire_without_a_table_lets_everything_through(bench: Bench[HostWire]) -> None:
    assert bench.worker.call_blocking(apply_teardown) == ""
    bench.wire.forget_flows()
    outside = {4: parse_net("198.51.100.1").value, 6: parse_net("2001:db9::1").value}
    packets = [Packet(version, outside[version], _OWN[version], 0) for version in (4, 6)]
    tried = [
        one._replace(protocol=number, source_port=5, destination_port=6) for one in packets for number in (6, 17, 132)
    ]
    tried += [one._replace(protocol=number) for one in packets for number in (47, 4)]
    tried += [packets[0]._replace(protocol=1, icmp_type=8, icmp_code=0)]
    tried += [packets[1]._replace(protocol=58, icmp_type=128, icmp_code=0)]
    received = bench.wire.try_entries([Entry(one, UPLINK) for one in tried])
    assert [(one.place, one.packet) for one in received] == [(HOST, packet) for packet in tried]
    sent = bench.wire.try_entries([Entry(reverse(one), HOST) for one in tried])
    assert [(one.place, one.packet) for one in sent] == [(UPLINK, reverse(packet)) for packet in tried]
