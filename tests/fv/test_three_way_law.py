"""The three-way law: what stored records mean, what a modelled kernel does with the rendered table, and what the real
kernel does to real packets are the same.

Each example is a short history of worlds: the table is built from nothing for the first one and changed by deltas for
the others, in the fake kernel and in the real one, and after each step packets go through both.
FELIX_LAW_EXAMPLES says how many histories are tried, and makes them other ones each time.
"""

from __future__ import annotations

import itertools
import os
from collections import Counter
from collections.abc import Iterator
from dataclasses import dataclass, replace
from typing import NamedTuple

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from felix.calc.desired import Action
from felix.calc.graph import CalcGraph
from felix.dataplane.nft.apply import NftWorker, apply_teardown
from felix.dataplane.nft.plan import NftPlan
from felix.dataplane.nft.read import read_counters, read_table
from felix.dataplane.nft.types import DenyAction, FloodConfig, KernelTable, LogRate, NftConfig
from felix.model.keys import ResourceKey
from felix.model.net import Net, parse_net
from felix.policy.evaluate import Verdict, World, evaluate, find_workload
from felix.policy.packet import UDP, Packet
from felix.policy.staged import is_staged
from tests.model.fake_nft import FakeNft
from tests.model.nft_worlds import drive
from tests.model.worlds import HOSTS, PROTOCOLS, PolicyRecord, draw_packet, world_updates, worlds
from tests.support.packets import first_packets, opens_flow, reverse
from tests.support.wire import UPLINK, Sent, Wire

pytestmark = pytest.mark.fv

_WORKLOADS = 6
_EXAMPLES = int(os.environ.get("FELIX_LAW_EXAMPLES", "0"))
_LAW = settings(
    max_examples=_EXAMPLES or 150,
    derandomize=not _EXAMPLES,
    deadline=None,
    suppress_health_check=list(HealthCheck),
    database=None,
)


_CONFIGS = st.builds(
    NftConfig,
    drop_invalid=st.booleans(),
    deny=st.sampled_from(DenyAction),
    log_prefix=st.sampled_from(["calico-packet: ", "%t %k %n %p: "]),
    counted_rules=st.sampled_from([0, 2]),
    flood=st.sampled_from([FloodConfig(), FloodConfig(per_s=100_000, burst=100_000)]),
    log_rate=st.sampled_from([None, LogRate(10, "minute", 5), LogRate(1, "second", 1)]),
)


@dataclass(frozen=True, repr=False)  # shown, it would be longer than anybody reads
class History:
    """Worlds that follow each other on a host, and packets to try in each of them."""

    host: str
    worlds: tuple[World, ...]
    packets: tuple[Packet, ...]
    config: NftConfig


@st.composite
def histories(draw: st.DrawFn) -> History:
    """Draws a world, the same workloads under other policies, another world, and the first one again."""
    first, other = draw(worlds()), draw(worlds())
    steps = (first, replace(other, workloads=first.workloads), other, first)
    host = max(HOSTS, key=lambda name: sum(len(find_local_addresses(world, name)) for world in (first, other)))
    packets = first_packets([draw_packet(draw, world, PROTOCOLS) for world in (first, other) for _ in range(12)])
    local = [one for one in packets if any(set(find_way(world, host, one)) != {UPLINK} for world in (first, other))]
    return History(host, steps, tuple(local), draw(_CONFIGS))


class Way(NamedTuple):
    """The interface at which a packet comes in, and the one at which it leaves if it may."""

    entry: str
    exit: str


class Bench:
    """Both kernels, the wire through the real one, and what has been tried on them."""

    def __init__(self) -> None:
        names = [f"cali{number}" for number in range(_WORKLOADS)]
        addresses = [
            (parse_net(text), name)
            for number, name in enumerate(names, 1)
            for text in (f"10.65.0.{number}", f"fd00:65::{number:x}")
        ]
        self.wire = Wire(names, addresses)
        self.worker = NftWorker(self.wire.host.enter_thread)
        self.tried: Counter[str] = Counter()

    def close(self) -> None:
        self.worker.close()
        self.wire.close()


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

    def __init__(self, bench: Bench, history: History) -> None:
        self._bench = bench
        self._host = history.host
        self._config = config = history.config
        self._graph = CalcGraph(self._host)
        self._fake = FakeNft()
        self._plans = NftPlan(config), NftPlan(config)
        self._counted: dict[str, int] = {}
        self._stored: dict[ResourceKey, PolicyRecord] = {}
        for plan in self._plans:
            plan.replace_believed(KernelTable())
        assert bench.worker.call_blocking(apply_teardown) == ""

    def enter(self, world: World) -> None:
        """Both tables, and the routes, are those of `world`; only what differs was written."""
        wanted = dict(world_updates(world))
        for key in self._stored.keys() - wanted.keys():
            self._graph.on_update(key, None)
        for key, record in wanted.items():
            if self._stored.get(key) != record:
                self._graph.on_update(key, record)
        self._stored = dict(wanted)
        delta = self._graph.flush()
        faked, real = self._plans
        for plan in self._plans:
            plan.on_delta(delta)
        for result in (*drive(self._fake, faked), *self._bench.worker.call_blocking(drive, real)):
            assert not result.error
            assert not result.closed
            assert not result.refused
        assert faked.is_settled
        assert real.is_settled
        self._counted = dict(self._fake.counts)
        self._bench.wire.route(find_local_addresses(world, self._host))

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
        self._check_counters(world, packets)
        self._check_replies([(packet, way) for packet, way, seen in zip(packets, ways, arrived, strict=True) if seen])

    def _check_counters(self, world: World, packets: tuple[Packet, ...]) -> None:
        """What policies have decided is counted three times alike, whatever was written anew meanwhile."""
        before, self._counted = self._counted, dict(self._fake.counts)
        counted_by_name = self._plans[0].counted_by_name
        assert counted_by_name == self._plans[1].counted_by_name
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
        graph = CalcGraph(self._host)
        for key, record in world_updates(world):
            graph.on_update(key, record)
        delta = graph.flush()
        for table in (read_table(self._fake), self._bench.worker.call_blocking(read_table)):
            plan = NftPlan(self._config)
            plan.on_delta(delta)
            plan.replace_believed(table)
            assert plan.is_settled


def find_local_addresses(world: World, host: str) -> list[tuple[Net, str]]:
    """Returns the addresses of a host's workloads, each with its interface."""
    return [
        (parse_net(text), workload.spec.interface_name)
        for workload in world.workloads.values()
        if workload.spec.node == host
        for text in workload.spec.ip_networks
    ]


def find_way(world: World, host: str, packet: Packet) -> Way:
    """Returns where a packet comes in and where it should leave."""
    return Way(find_interface(world, host, packet.source_net), find_interface(world, host, packet.destination_net))


def find_interface(world: World, host: str, address: Net) -> str:
    """Returns the interface of a host behind which an address is."""
    owner = find_workload(world, address)
    if owner is None or world.workloads[owner].spec.node != host:
        return UPLINK
    return world.workloads[owner].spec.interface_name


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
    bench: Bench, history: History
) -> None:
    run = Run(bench, history)
    for world in history.worlds:
        run.enter(world)
        run.check(world, history.packets)
        run.check_spoofed(world, history.packets)
        bench.tried["worlds"] += 1
    run.check_restart(history.worlds[-1])


@pytest.mark.parametrize("has_options", [False, True])
def test_packet_where_no_table_is_comes_out_where_its_address_is(bench: Bench, has_options: bool) -> None:
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
