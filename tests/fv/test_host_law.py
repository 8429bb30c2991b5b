"""The three-way law at the host's own interfaces: stored records, a modelled kernel and the real kernel agree about
packets that the host receives, sends and passes on, with host endpoints and all four kinds of policies for them, and
with somebody else's translation of destinations in between.
"""

from __future__ import annotations

import os
from collections import Counter
from collections.abc import Iterator
from dataclasses import dataclass, replace

import pytest
from hypothesis import HealthCheck, Phase, given, settings
from hypothesis import strategies as st

from felix.calc.graph import CalcGraph
from felix.dataplane.addresses.types import AddressEvent
from felix.dataplane.hosts import HostInterfaces
from felix.dataplane.nft.apply import NftWorker, apply_teardown
from felix.dataplane.nft.plan import NftPlan
from felix.dataplane.nft.read import read_table
from felix.dataplane.nft.types import FloodConfig, KernelTable, LogRate, NftConfig
from felix.model.keys import ResourceKey
from felix.model.net import parse_net
from felix.policy.evaluate import Direction, Verdict, World
from felix.policy.host import Port, evaluate_forwarded, evaluate_received, evaluate_sent, is_untracked
from felix.policy.packet import Packet
from tests.fv.test_three_way_law import find_interface, find_local_addresses
from tests.model.fake_nft import FakeNft
from tests.model.host_worlds import host_worlds
from tests.model.nft_worlds import drive
from tests.model.worlds import PROTOCOLS, PolicyRecord, draw_packet, world_updates
from tests.support.host_wire import HOST, HOST_ADDRESSES, Entry, HostWire
from tests.support.packets import find_flow, opens_flow, reverse
from tests.support.wire import UPLINK

pytestmark = pytest.mark.fv

_HERE = "h1"
_WORKLOADS = 6
_EXAMPLES = int(os.environ.get("FELIX_LAW_EXAMPLES", "0"))
_LAW = settings(
    max_examples=_EXAMPLES or 50,
    derandomize=not _EXAMPLES,
    phases=(Phase.generate,),  # a smaller example takes minutes to find; the failure tells what happened
    deadline=None,
    suppress_health_check=list(HealthCheck),
    database=None,
)
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
_CONFIGS = st.builds(
    NftConfig,
    counted_rules=st.sampled_from([0, 2]),
    flood=st.sampled_from([FloodConfig(), FloodConfig(per_s=100_000, burst=100_000)]),
    log_rate=st.sampled_from([None, LogRate(10, "minute", 5)]),
)
_UPLINK_PORT = Port(UPLINK, frozenset(HOST_ADDRESSES))


@dataclass(frozen=True, repr=False)
class History:
    """Worlds that follow each other, and packets to try in each of them: those that come in, and the host's own."""

    config: NftConfig
    worlds: tuple[World, ...]
    incoming: tuple[Packet, ...]
    outgoing: tuple[Packet, ...]


@st.composite
def histories(draw: st.DrawFn) -> History:
    """Draws a world, another one, and the same without host endpoints."""
    first, other = draw(host_worlds()), draw(host_worlds())
    steps = (first, replace(other, workloads=first.workloads), replace(first, host_endpoints={}), first)
    packets = [draw_packet(draw, first, PROTOCOLS) for _ in range(30)]
    own = {net.version: net.value for net in HOST_ADDRESSES}
    incoming, outgoing = [], []
    for packet in packets:
        way = draw(st.integers(0, 4))
        if way == 0:
            outgoing.append(_aimed(draw, packet._replace(source=own[packet.version]), _TRANSLATED_OUT))
        elif way == 1:
            incoming.append(packet._replace(destination=own[packet.version]))
        elif way == 2:
            incoming.append(_aimed(draw, packet, _TRANSLATED_IN))
        else:
            incoming.append(packet)
    seen: set[object] = set()
    return History(draw(_CONFIGS), steps, tuple(_tell_apart(incoming, seen)), tuple(_tell_apart(outgoing, seen)))


def _aimed(draw: st.DrawFn, packet: Packet, addresses: dict[str, str]) -> Packet:
    nets = [net for net in map(parse_net, addresses) if net.version == packet.version]
    return packet._replace(destination=nets[draw(st.integers(0, len(nets) - 1))].value)


def _tell_apart(packets: list[Packet], seen: set[object]) -> Iterator[Packet]:
    """Yields packets that open flows of which none is another, before and after translation."""
    for packet in packets:
        forms = {packet, translate(packet, _TRANSLATED_IN) or packet, translate(packet, _TRANSLATED_OUT) or packet}
        flows = {flow for one in forms for flow in (find_flow(one), find_flow(reverse(one)))}
        if opens_flow(packet) and packet.source != packet.destination and not flows & seen:
            seen |= flows
            yield packet


def translate(packet: Packet, addresses: dict[str, str]) -> Packet | None:
    """Returns what somebody's rules make of a packet; None: nothing else."""
    for before, after in addresses.items():
        if packet.destination_net == parse_net(before):
            return packet._replace(destination=parse_net(after).value)
    return None


class Bench:
    """Both kernels, the wire through the real one, and what has been tried."""

    def __init__(self) -> None:
        names = [f"cali{number}" for number in range(_WORKLOADS)]
        addresses = [
            (parse_net(text), name)
            for number, name in enumerate(names, 1)
            for text in (f"10.65.0.{number}", f"fd00:65::{number:x}")
        ]
        rules = [
            "; ".join(f"{_word(old)} daddr {old} dnat {_word(old)} to {new}" for old, new in addresses.items())
            for addresses in (_TRANSLATED_IN, _TRANSLATED_OUT)
        ]
        self.wire = HostWire(names, addresses)
        try:
            self.wire.listen()
            self.wire.host.execute("nft", _DNAT.format(pre=rules[0] + ";", out=rules[1] + ";"))
            self.worker = NftWorker(self.wire.host.enter_thread)
        except BaseException:
            self.wire.close()
            raise
        self.tried: Counter[str] = Counter()

    def close(self) -> None:
        self.worker.close()
        self.wire.close()


def _word(address: str) -> str:
    return "ip6" if ":" in address else "ip"


@pytest.fixture(scope="module")
def bench() -> Iterator[Bench]:
    bench = Bench()
    try:
        yield bench
    finally:
        print("\ntried:", *(f"{count} {what}," for what, count in sorted(bench.tried.items())))
        bench.close()


class Run:
    """One history on both kernels."""

    def __init__(self, bench: Bench, config: NftConfig) -> None:
        self._bench = bench
        self._config = config
        self._graph = CalcGraph(_HERE)
        self._hosts = make_interfaces()
        self._fake = FakeNft()
        self._plans = NftPlan(config), NftPlan(config)
        self._stored: dict[ResourceKey, PolicyRecord] = {}
        for plan in self._plans:
            plan.replace_believed(KernelTable())
        assert bench.worker.call_blocking(apply_teardown) == ""

    def enter(self, world: World) -> None:
        """Both tables are those of `world`; only what differs was written."""
        wanted = dict(world_updates(world))
        for key in self._stored.keys() - wanted.keys():
            self._graph.on_update(key, None)
        for key, record in wanted.items():
            if self._stored.get(key) != record:
                self._graph.on_update(key, record)
        self._stored = dict(wanted)
        delta = self._graph.flush()
        self._hosts.on_delta(delta.host_endpoints)
        bindings = self._hosts.pop_bindings()
        faked, real = self._plans
        for plan in self._plans:
            plan.on_delta(delta)
            plan.bind_hosts(bindings)
        for result in (*drive(self._fake, faked), *self._bench.worker.call_blocking(drive, real)):
            assert not result.error
            assert not result.closed
            assert not result.refused
            assert not result.skipped
        assert faked.is_settled
        assert real.is_settled
        self._bench.wire.route(find_local_addresses(world, _HERE))

    def check(self, world: World, history: History) -> None:
        """Every packet meets the same fate three times."""
        self._bench.wire.forget_flows()
        entries = [Entry(one, find_interface(world, _HERE, one.source_net)) for one in history.incoming]
        # What comes from a workload for the host itself, or for an address that is translated, is another law's.
        entries = [one for one in entries if one.place == UPLINK or not _is_for_host(one.packet)]
        entries += [Entry(one, HOST) for one in history.outgoing]
        for entry, seen in zip(entries, self._bench.wire.try_entries(entries), strict=True):
            verdict, faked, target = self._ask(world, entry)
            fates = (verdict.allowed, faked, bool(seen))
            assert len(set(fates)) == 1, describe(entry, target, fates, seen, verdict)
            assert seen in ("", target), describe(entry, target, fates, seen, verdict)
            self._note(entry, target, verdict)

    def _ask(self, world: World, entry: Entry) -> tuple[Verdict, bool, str]:
        packet = entry.packet
        if entry.place == HOST:
            after = translate(packet, _TRANSLATED_OUT)
            target = find_interface(world, _HERE, (after or packet).destination_net)
            if target != UPLINK:
                return Verdict(True, ()), self._fake.is_sent(packet, target), target
            verdict = evaluate_sent(world, _HERE, _UPLINK_PORT, packet, after)
            return verdict, self._fake.is_sent(packet, UPLINK, translated=after), UPLINK
        after = translate(packet, _TRANSLATED_IN)
        if is_lost(world, packet, after):
            after = None
        if (after or packet).destination_net in HOST_ADDRESSES:
            verdict = evaluate_received(world, _HERE, _UPLINK_PORT, packet, after)
            return verdict, self._fake.is_received(packet, UPLINK, translated=after), HOST
        target = find_interface(world, _HERE, (after or packet).destination_net)
        ports = tuple(_UPLINK_PORT if name == UPLINK else None for name in (entry.place, target))
        verdict = evaluate_forwarded(world, _HERE, (ports[0], ports[1]), packet, after)
        return verdict, self._fake.is_forwarded(packet, entry.place, target, translated=after), target

    def _note(self, entry: Entry, target: str, verdict: Verdict) -> None:
        way = "sent" if entry.place == HOST else "received" if target == HOST else "forwarded"
        asked = sorted({step.endpoint.kind for step in verdict.trace}) or ["nobody"]
        self._bench.tried[f"{way}, {'passed' if verdict.allowed else 'dropped'}, {' and '.join(asked)} asked"] += 1

    def check_restart(self, world: World) -> None:
        """Who starts now, in this world, finds both tables as they should be."""
        graph = CalcGraph(_HERE)
        for key, record in world_updates(world):
            graph.on_update(key, record)
        delta = graph.flush()
        hosts = make_interfaces()
        hosts.on_delta(delta.host_endpoints)
        bindings = hosts.pop_bindings()
        for table in (read_table(self._fake), self._bench.worker.call_blocking(read_table)):
            plan = NftPlan(self._config)
            plan.replace_believed(table)
            plan.on_delta(delta)
            plan.bind_hosts(bindings)
            assert plan.is_settled


def make_interfaces() -> HostInterfaces:
    """Returns the interfaces of the wire's host."""
    hosts = HostInterfaces(("cali",))
    hosts.on_link(7, UPLINK)
    for net in HOST_ADDRESSES:
        hosts.on_address(AddressEvent(7, net, True))
    return hosts


def is_lost(world: World, packet: Packet, after: Packet | None) -> bool:
    """Whether a translation does not happen, because untracked policy keeps the packet from being tracked."""
    return after is not None and is_untracked(world, _HERE, _UPLINK_PORT, Direction.INGRESS, packet)


def _is_for_host(packet: Packet) -> bool:
    return packet.destination_net in HOST_ADDRESSES or translate(packet, _TRANSLATED_IN) is not None


def describe(entry: Entry, target: str, fates: tuple[bool, bool, bool], seen: str, verdict: Verdict) -> str:
    """Returns what a person needs to find out who is wrong."""
    meaning, faked, real = ("passes" if fate else "dropped" for fate in fates)
    steps = "".join(f"\n    {step}" for step in verdict.trace)
    return f"{entry}, to {target}, seen at {seen!r}: by meaning {meaning}, in the fake {faked}, really {real}{steps}"


@pytest.mark.filterwarnings("ignore:Generating overly large repr")  # of a failure
@_LAW
@given(history=histories())
def test_packet_at_the_host_meets_the_same_fate_by_meaning_in_the_fake_and_in_the_kernel(
    bench: Bench, history: History
) -> None:
    run = Run(bench, history.config)
    for world in history.worlds:
        run.enter(world)
        run.check(world, history)
        bench.tried["worlds"] += 1
    run.check_restart(history.worlds[-1])


def test_wire_without_a_table_lets_everything_through(bench: Bench) -> None:
    assert bench.worker.call_blocking(apply_teardown) == ""
    bench.wire.forget_flows()
    outside = {4: parse_net("198.51.100.1").value, 6: parse_net("2001:db9::1").value}
    own = {net.version: net.value for net in HOST_ADDRESSES}
    packets = [Packet(version, outside[version], own[version], 0) for version in (4, 6)]
    tried = [
        one._replace(protocol=number, source_port=5, destination_port=6) for one in packets for number in (6, 17, 132)
    ]
    tried += [one._replace(protocol=number) for one in packets for number in (47, 4)]
    tried += [packets[0]._replace(protocol=1, icmp_type=8, icmp_code=0)]
    tried += [packets[1]._replace(protocol=58, icmp_type=128, icmp_code=0)]
    assert bench.wire.try_entries([Entry(one, UPLINK) for one in tried]) == [HOST] * len(tried)
    assert bench.wire.try_entries([Entry(reverse(one), HOST) for one in tried]) == [UPLINK] * len(tried)
