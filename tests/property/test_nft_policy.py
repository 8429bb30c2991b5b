"""The law of policy: what the rendered table does to a packet is what the stored records mean."""

from __future__ import annotations

from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from felix.calc.graph import CalcGraph
from felix.dataplane.nft.plan import NftPlan
from felix.dataplane.nft.read import read_table
from felix.dataplane.nft.types import KernelTable, NftConfig
from felix.policy.evaluate import World, evaluate, find_workload
from felix.policy.packet import Packet
from tests.model.fake_nft import FakeNft
from tests.model.nft_worlds import drive
from tests.model.worlds import packets, world_updates, worlds, worlds_with_packets

HOST = "h1"
_UPLINK = "eth0"


def program(kernel: FakeNft, plan: NftPlan, graph: CalcGraph) -> None:
    plan.on_delta(graph.flush())
    for result in drive(kernel, plan):
        assert not result.error
        assert not result.closed
        assert not result.refused
    assert plan.is_settled


def start(world: World) -> tuple[CalcGraph, NftPlan]:
    graph = CalcGraph(HOST)
    for key, record in world_updates(world):
        graph.on_update(key, record)
    plan = NftPlan(NftConfig())
    return graph, plan


def passes(kernel: FakeNft, world: World, packet: Packet) -> bool:
    """Sends a packet between the interfaces on which its addresses are."""
    names = []
    for net in (packet.source_net, packet.destination_net):
        owner = find_workload(world, net)
        is_here = owner is not None and world.workloads[owner].spec.node == HOST
        names.append(world.workloads[owner].spec.interface_name if owner and is_here else _UPLINK)
    entry, exit_ = names
    return kernel.is_forwarded(packet, entry, exit_)


@settings(max_examples=150, deadline=None, suppress_health_check=list(HealthCheck))
@given(case=worlds_with_packets())
def test_packet_in_rendered_table_meets_the_meaning_of_policy(case: tuple[World, list[Packet]]) -> None:
    world, samples = case
    kernel = FakeNft()
    graph, plan = start(world)
    plan.replace_believed(KernelTable())
    program(kernel, plan, graph)
    for packet in samples:
        verdict = evaluate(world, packet, HOST)
        assert passes(kernel, world, packet) is verdict.allowed, (packet, verdict)


@settings(max_examples=60, deadline=None, suppress_health_check=list(HealthCheck))
@given(data=st.data())
def test_change_of_world_ends_as_if_started_with_it_and_cold_start_is_never_open(data: st.DataObject) -> None:
    before, after = data.draw(worlds()), data.draw(worlds())
    samples = [data.draw(packets(after)) for _ in range(4)]
    kernel = FakeNft()
    graph, plan = start(before)
    plan.replace_believed(KernelTable())
    program(kernel, plan, graph)
    kept = dict(world_updates(after))
    for key, _ in world_updates(before):
        if key not in kept:
            graph.on_update(key, None)
    for key, record in kept.items():
        graph.on_update(key, record)
    program(kernel, plan, graph)

    other = FakeNft()
    fresh_graph, fresh_plan = start(after)
    fresh_plan.replace_believed(KernelTable())
    verdicts = {packet: evaluate(after, packet, HOST).allowed for packet in samples}

    def check_not_open() -> None:
        for packet, is_allowed in verdicts.items():
            assert is_allowed or not passes(other, after, packet)

    other.after_write = check_not_open
    program(other, fresh_plan, fresh_graph)
    assert kernel.table == other.table or _shape(kernel) == _shape(other)

    restarted_graph, restarted = start(after)
    restarted.replace_believed(read_table(kernel))
    writes = kernel.writes
    program(kernel, restarted, restarted_graph)
    assert kernel.writes == writes


def _shape(kernel: FakeNft) -> object:
    table = read_table(kernel)
    return table.chains, table.objects, table.elements
