"""The law of the way: whichever transaction took effect last, no endpoint is reachable without its policy.

A change of world takes several transactions. After each of them the fake kernel is asked about packets; it refuses by
itself whatever would refer to nothing, and `program` takes no refusal.
"""

from __future__ import annotations

from dataclasses import replace

from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from felix.dataplane.nft.types import KernelTable
from felix.policy.evaluate import World, evaluate, find_workload
from felix.policy.packet import Packet
from tests.model.fake_nft import FakeNft
from tests.model.worlds import PROTOCOLS, draw_packet, world_updates, worlds
from tests.property.test_nft_policy import HOST, passes, program, start


@st.composite
def changes(draw: st.DrawFn) -> tuple[World, World, list[Packet]]:
    """Draws a world, what it becomes, and packets: all is different, or some workloads are new, or come from afar."""
    before, after = draw(worlds()), draw(worlds())
    match draw(st.integers(0, 2)):
        case 0:
            kept = dict(list(after.workloads.items())[::2])
            before = replace(after, workloads=kept)
        case 1:
            before = replace(before, workloads=dict(list(after.workloads.items())[::2]))
        case _:
            pass
    return before, after, [draw_packet(draw, after, PROTOCOLS) for _ in range(10)]


def local_interfaces(world: World, packet: Packet) -> set[str]:
    """Returns the interfaces of the host's workloads that a packet comes from or goes to."""
    keys = {find_workload(world, net) for net in (packet.source_net, packet.destination_net)}
    specs = [world.workloads[key].spec for key in keys if key is not None]
    return {spec.interface_name for spec in specs if spec.node == HOST}


@settings(max_examples=150, deadline=None, suppress_health_check=list(HealthCheck))
@given(change=changes())
def test_new_endpoint_during_any_change_is_reached_only_as_its_policy_allows(
    change: tuple[World, World, list[Packet]],
) -> None:
    before, after, packets = change
    kernel = FakeNft()
    graph, plan = start(before)
    plan.replace_believed(KernelTable())
    program(kernel, plan, graph)
    for key in dict(world_updates(before)).keys() - dict(world_updates(after)).keys():
        graph.on_update(key, None)
    for key, record in world_updates(after):
        graph.on_update(key, record)
    known = {one.spec.interface_name for one in before.workloads.values() if one.spec.node == HOST}
    denied = [
        packet
        for packet in packets
        if local_interfaces(after, packet) - known and not evaluate(after, packet, HOST).allowed
    ]

    def check_still_closed() -> None:
        assert not [str(packet) for packet in denied if passes(kernel, after, packet)]

    kernel.after_write = check_still_closed
    program(kernel, plan, graph)


@settings(max_examples=100, deadline=None, suppress_health_check=list(HealthCheck))
@given(change=changes())
def test_endpoint_that_leaves_is_closed_in_the_end_whatever_was_allowed(
    change: tuple[World, World, list[Packet]],
) -> None:
    after, before, packets = change  # the other way round: here workloads go
    kernel = FakeNft()
    graph, plan = start(before)
    plan.replace_believed(KernelTable())
    program(kernel, plan, graph)
    for key in dict(world_updates(before)).keys() - dict(world_updates(after)).keys():
        graph.on_update(key, None)
    for key, record in world_updates(after):
        graph.on_update(key, record)
    program(kernel, plan, graph)
    here = {one.spec.interface_name for one in after.workloads.values() if one.spec.node == HOST}
    for packet in packets:
        for name in local_interfaces(before, packet) - here:
            assert not kernel.is_forwarded(packet, name, "eth0")
            assert not kernel.is_forwarded(packet, "eth0", name)
