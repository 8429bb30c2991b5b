"""The three-way law: what stored records mean, what a modelled kernel does with the rendered table, and what the real
kernel does to real packets are the same.

Each example is a short history of worlds: the table is built from nothing for the first one and changed by deltas for
the others, in the fake kernel and in the real one, and after each step packets go through both.
FELIX_LAW_EXAMPLES says how many histories are tried, and makes them other ones each time.
"""

from __future__ import annotations

import itertools
from collections import Counter
from collections.abc import Iterator
from dataclasses import dataclass, replace
from typing import NamedTuple

import pytest
from hypothesis import given
from hypothesis import strategies as st

from felix.calc.desired import Action
from felix.dataplane.conntrack.apply import find_flows, remove_flows
from felix.dataplane.conntrack.revoke import RevocationPlan
from felix.dataplane.conntrack.types import ConntrackResult
from felix.dataplane.nft.apply import apply_teardown
from felix.dataplane.nft.read import read_counters
from felix.dataplane.nft.types import DenyAction, FloodConfig, LogRate, NftConfig
from felix.model.keys import ResourceKey
from felix.model.net import Net, parse_net
from felix.policy.evaluate import Verdict, World, evaluate
from felix.policy.packet import ICMP, ICMPV6, SCTP, TCP, UDP, Packet
from felix.policy.staged import is_staged
from tests.model.worlds import HOSTS, PROTOCOLS, draw_packet, worlds
from tests.support.law import (
    WORKLOAD_ADDRESSES,
    WORKLOAD_INTERFACES,
    Bench,
    Tables,
    find_interface,
    find_local_addresses,
    law,
)
from tests.support.packets import first_packets, opens_flow, reverse
from tests.support.wire import UPLINK, Sent, Wire

pytestmark = pytest.mark.fv

_REMEMBERED = (TCP, UDP, SCTP, ICMP, ICMPV6)
"""Protocols whose connections every kernel tells as they were opened."""
_LAW = law(130, is_made_small=False)
_CONFIGS = st.builds(
    NftConfig,
    drop_invalid=st.booleans(),
    deny=st.sampled_from(DenyAction),
    log_prefix=st.sampled_from(["calico-packet: ", "%t %k %n %p: "]),
    counted_rules=st.sampled_from([0, 2]),
    flood=st.sampled_from([FloodConfig(), FloodConfig(per_s=100_000, burst=100_000)]),
    log_rate=st.sampled_from([None, LogRate(10, "minute", 5), LogRate(1, "second", 1)]),
)


@dataclass(frozen=True, repr=False)
class History:
    """Worlds that follow each other on a host, and packets to try in each of them."""

    host: str
    worlds: tuple[World, ...]
    packets: tuple[Packet, ...]
    config: NftConfig

    def _repr_pretty_(self, printer: object, cycle: bool) -> None:
        """Shown, it would be longer than anybody reads: what failed says enough, with its part of the world."""


@st.composite
def histories(draw: st.DrawFn) -> History:
    """Draws a world, the same workloads under other policies, another world, and the first one again."""
    # Without pools nobody hides: here packets are known by their addresses.
    first, other = (replace(draw(worlds()), pools={}) for _ in range(2))
    steps = (first, replace(other, workloads=first.workloads), other, first)
    host = max(HOSTS, key=lambda name: sum(len(find_local_addresses(world, name)) for world in (first, other)))
    packets = first_packets([draw_packet(draw, world, PROTOCOLS) for world in (first, other) for _ in range(12)])
    local = [one for one in packets if any(set(find_way(world, host, one)) != {UPLINK} for world in (first, other))]
    return History(host, steps, tuple(local), draw(_CONFIGS))


class Way(NamedTuple):
    """The interface at which a packet comes in, and the one at which it leaves if it may."""

    entry: str
    exit: str


@pytest.fixture(scope="module")
def bench() -> Iterator[Bench[Wire]]:
    bench = Bench(Wire(WORKLOAD_INTERFACES, WORKLOAD_ADDRESSES))
    try:
        yield bench
    finally:
        bench.close()


class Run:
    """One history on both kernels."""

    def __init__(self, bench: Bench[Wire], history: History) -> None:
        self._bench = bench
        self._host = history.host
        self._config = history.config
        self._tables = Tables(bench.worker, history.host, history.config, has_host_endpoints=False)
        self._fake = self._tables.fake
        self._counted: dict[str, int] = {}
        self._revocation = RevocationPlan()
        self._opened: list[Packet] = []
        self._before = World()

    def enter(self, world: World) -> None:
        """Both tables, and the routes, are those of `world`; only what differs was written.

        Of the connections that the world before has let pass, those that this one does not are cut, and no others.
        """
        delta = self._tables.enter(world)
        self._revocation.on_delta(delta, delta.endpoints)
        self._revocation.commit()
        looked_at = self._revocation.take()
        if self._opened and world.workloads == self._before.workloads:
            assert looked_at is not None  # there are no host endpoints
            self._check_cut(world, looked_at)
        self._counted = dict(self._fake.counts)
        self._bench.wire.route(find_local_addresses(world, self._host))

    def _check_cut(self, world: World, looked_at: frozenset[Net]) -> None:
        """Connections that were opened in the world before, which has the same workloads, are judged in this one."""
        socket = self._bench.wire.netfilter
        verdicts = self._tables.plans[1].verdicts
        flows = find_flows(socket, [net for net, _ in WORKLOAD_ADDRESSES]).flows
        denied = [
            flow
            for flow in flows
            if {flow.packet.source_net, flow.packet.destination_net} & looked_at
            and not verdicts.is_allowed(flow.packet)
        ]
        assert remove_flows(socket, denied) == ConntrackResult(len(denied))
        kept = {flow.packet for flow in flows if flow not in denied}
        local = {net for net, _ in find_local_addresses(world, self._host)}
        for packet in self._opened:
            if not local & {packet.source_net, packet.destination_net}:
                continue
            is_allowed = evaluate(world, packet, self._host).allowed
            assert (packet in kept) is is_allowed, f"{packet} is {'allowed' if is_allowed else 'denied'}"
            self._bench.tried[f"connections {'kept' if is_allowed else 'cut'}"] += 1

    def check(self, world: World, packets: tuple[Packet, ...]) -> None:
        """Every packet meets the same fate three times; where it passed, a reply passes too."""
        ways = [find_way(world, self._host, packet) for packet in packets]
        self._bench.wire.forget_flows()
        # Some come with options in front of the transport header: policy must look behind them.
        sends = [
            Sent(one, way.entry, number % 4 == 3) for number, (one, way) in enumerate(zip(packets, ways, strict=True))
        ]
        arrived = self._bench.wire.exchange(sends)
        for packet, way, seen in zip(packets, ways, arrived, strict=True):
            assert seen in ("", way.exit), f"{packet} came out at {seen}, not at {way.exit}"
            verdict = evaluate(world, packet, self._host)
            state = "new" if opens_flow(packet) else "invalid"
            is_dropped_untold = state == "invalid" and self._config.drop_invalid and set(way) != {UPLINK}
            faked = self._fake.is_forwarded(packet, *way, state)
            fates = (verdict.allowed and not is_dropped_untold, faked, bool(seen))
            assert len(set(fates)) == 1, describe(packet, way, fates, verdict)
            self._note(packet, verdict, bool(seen))
        self._before = world
        self._opened = [
            packet
            for packet, seen in zip(packets, arrived, strict=True)
            if seen and packet.protocol in _REMEMBERED and opens_flow(packet)
        ]
        self._check_counters(world, packets)
        self._check_replies([(packet, way) for packet, way, seen in zip(packets, ways, arrived, strict=True) if seen])

    def _check_counters(self, world: World, packets: tuple[Packet, ...]) -> None:
        """What policies have decided is counted three times alike, whatever was written anew meanwhile."""
        before, self._counted = self._counted, dict(self._fake.counts)
        counted_by_name = self._tables.plans[0].counted_by_name
        assert counted_by_name == self._tables.plans[1].counted_by_name
        real = self._bench.worker.call_blocking(read_counters)
        assert {name: self._fake.counts[name] for name in counted_by_name} == {
            name: real[name].packets for name in counted_by_name
        }
        meant: Counter[tuple[ResourceKey, str, Action, int | None]] = Counter()
        for packet in packets:
            if self._is_asked_about(world, packet):
                verdict = evaluate(world, packet, self._host)
                for step in (*verdict.trace, *verdict.staged):
                    if step.policy is not None and step.action is not Action.LOG:
                        what = (step.policy, step.direction.value.lower(), step.action)
                        meant.update([(*what, None), (*what, step.rule)])
        for name, counted in counted_by_name.items():
            seen = self._fake.counts[name] - before.get(name, 0)
            assert seen == meant[(counted.key, counted.direction, counted.action, counted.rule)], (name, counted)
            self._bench.tried["packets counted by rules"] += seen if counted.rule is not None else 0
            self._bench.tried[f"packets {counted.action.value} by staged"] += seen * is_staged(counted.key.kind)

    def _is_asked_about(self, world: World, packet: Packet) -> bool:
        """Whether policy sees the packet: one that connection tracking calls invalid may be dropped before."""
        is_local = set(find_way(world, self._host, packet)) != {UPLINK}
        return is_local and (opens_flow(packet) or not self._config.drop_invalid)

    def _check_replies(self, passed: list[tuple[Packet, Way]]) -> None:
        sends = [Sent(reverse(packet), way.exit) for packet, way in passed if packet.protocol == UDP]
        entries = [way.entry for packet, way in passed if packet.protocol == UDP]
        for (reply, entry, _), exit_, seen in zip(sends, entries, self._bench.wire.exchange(sends), strict=True):
            fates = (True, self._fake.is_forwarded(reply, entry, exit_, "established"), bool(seen))
            assert all(fates), describe(reply, Way(entry, exit_), fates, None)
            self._bench.tried["replies"] += 1

    def _note(self, packet: Packet, verdict: Verdict, has_passed: bool) -> None:
        tried = self._bench.tried
        last = verdict.trace[-1] if verdict.trace else None
        decided = "nobody" if last is None else last.policy.kind if last.policy else "an end"
        tried[f"packets {'passed' if has_passed else 'dropped'}, decided by {decided}"] += 1
        tried[f"packets of protocol {packet.protocol} in IPv{packet.version}"] += 1

    def check_spoofed(self, world: World, packets: tuple[Packet, ...]) -> None:
        """No packet passes that comes from a workload's interface without being from one of its addresses."""
        entries = itertools.cycle(sorted({name for _, name in find_local_addresses(world, self._host)}) or [UPLINK])
        ways = [Way(next(entries), find_interface(world, self._host, packet.destination_net)) for packet in packets]
        spoofed = [
            (packet, way)
            for packet, way in zip(packets, ways, strict=True)
            if way.entry not in (UPLINK, find_interface(world, self._host, packet.source_net))
        ]
        self._bench.wire.forget_flows()
        arrived = self._bench.wire.exchange([Sent(packet, way.entry) for packet, way in spoofed])
        for (packet, way), seen in zip(spoofed, arrived, strict=True):
            fates = (False, self._fake.is_forwarded(packet, *way), bool(seen))
            assert not any(fates), describe(packet, way, fates, None)
            self._bench.tried["packets spoofed"] += 1

    def check_restart(self, world: World) -> None:
        """Who starts now, in this world, finds both tables as they should be."""
        self._tables.check_restart(world)


def find_way(world: World, host: str, packet: Packet) -> Way:
    """Returns where a packet comes in and where it should leave."""
    return Way(find_interface(world, host, packet.source_net), find_interface(world, host, packet.destination_net))


def describe(packet: Packet, way: Way, fates: tuple[bool, bool, bool], verdict: Verdict | None) -> str:
    """Returns what a person needs to find out who is wrong."""
    meaning, faked, real = ("passes" if fate else "dropped" for fate in fates)
    steps = "".join(f"\n    {step}" for step in verdict.trace) if verdict else ""
    return (
        f"{packet}, {way.entry} to {way.exit}: by meaning {meaning}, in the fake {faked}, in the kernel {real}{steps}"
    )


@pytest.mark.timeout(600)  # only a failure takes long: it is made small first
@_LAW
@given(history=histories())
def test_packet_in_generated_worlds_meets_the_same_fate_by_meaning_in_the_fake_and_in_the_kernel(
    bench: Bench[Wire], history: History
) -> None:
    run = Run(bench, history)
    for world in history.worlds:
        run.enter(world)
        run.check_spoofed(world, history.packets)
        run.check(world, history.packets)
        bench.tried["worlds"] += 1
    run.check_restart(history.worlds[-1])


@pytest.mark.parametrize("has_options", [False, True])
def test_packet_where_no_table_is_comes_out_where_its_address_is(bench: Bench[Wire], has_options: bool) -> None:
    assert bench.worker.call_blocking(apply_teardown) == ""
    bench.wire.forget_flows()
    addresses = [parse_net(text) for text in ("10.65.0.1", "10.65.0.2", "fd00:65::1", "fd00:65::2")]
    bench.wire.route([(net, "cali0" if net.value % 2 else "cali1") for net in addresses])
    one4, two4, one6, two6 = (net.value for net in addresses)
    samples = (Packet(4, one4, two4, 0), Packet(6, one6, two6, 0))
    packets = [
        sample._replace(protocol=number, source_port=1, destination_port=2)
        for sample in samples
        for number in (6, 17, 132, 136)
    ]
    packets += [sample._replace(protocol=number) for sample in samples for number in (47, 59, 255)]
    packets += [Packet(4, one4, two4, 1, icmp_type=type_, icmp_code=1) for type_ in (0, 3, 8, 11)]
    packets += [Packet(6, one6, two6, 58, icmp_type=type_, icmp_code=1) for type_ in (1, 3, 128, 129)]
    arrived = bench.wire.exchange([Sent(packet, "cali0", has_options) for packet in packets])
    assert arrived == ["cali1"] * len(packets)
