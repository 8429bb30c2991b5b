"""Laws of the reference meaning over generated worlds, and that the worlds are worth having."""

from __future__ import annotations

from collections import Counter
from collections.abc import Mapping
from dataclasses import replace
from typing import TypeVar

from hypothesis import HealthCheck, given, settings
from msgspec import structs

from felix.calc.desired import Action
from felix.model.codec import decode
from felix.model.keys import ResourceKey, parse_key
from felix.model.records import GlobalNetworkPolicy
from felix.policy.evaluate import World, evaluate
from felix.policy.packet import Packet
from tests.model.worlds import world_puts, world_updates, worlds, worlds_with_packets
from tests.unit.policy.build import make_record, rule

R = TypeVar("R")
Worlds = tuple[World, list[Packet]]
SLOW = settings(max_examples=60, deadline=None, suppress_health_check=[HealthCheck.too_slow])


@given(worlds_with_packets())
@SLOW
def test_evaluate_always_ends_with_the_step_that_decided(drawn: Worlds) -> None:
    world, packets = drawn
    for packet in packets:
        verdict = evaluate(world, packet)
        last = verdict.trace[-1].action if verdict.trace else Action.ALLOW
        assert last is (Action.ALLOW if verdict.allowed else Action.DENY)
        assert verdict == evaluate(world, packet)


def _reversed(records: Mapping[ResourceKey, R]) -> dict[ResourceKey, R]:
    return dict(reversed(list(records.items())))


@given(worlds_with_packets())
@SLOW
def test_evaluate_does_not_depend_on_the_order_of_records(drawn: Worlds) -> None:
    world, packets = drawn
    reordered = World(
        workloads=_reversed(world.workloads),
        host_endpoints=_reversed(world.host_endpoints),
        profiles=_reversed(world.profiles),
        tiers=_reversed(world.tiers),
        policies=_reversed(world.policies),
        network_sets=_reversed(world.network_sets),
        settings=world.settings,
    )
    for packet in packets:
        assert evaluate(reordered, packet) == evaluate(world, packet)


@given(worlds_with_packets())
@SLOW
def test_evaluate_with_a_first_tier_that_denies_all_allows_nothing_of_workloads(drawn: Worlds) -> None:
    world, packets = drawn
    denial = make_record(
        GlobalNetworkPolicy,
        "closed",
        {
            "tier": "early",
            "order": -1,
            "types": ["Ingress", "Egress"],
            "ingress": [rule("Deny")],
            "egress": [rule("Deny")],
        },
    )
    key = next(iter(world.workloads))._replace(kind="GlobalNetworkPolicy", namespace="", name="closed")
    tiers = {tier: record for tier, record in world.tiers.items() if tier.name == "early"}
    closed = replace(world, tiers=tiers, policies={key: denial})
    for packet in packets:
        if evaluate(world, packet).trace:
            assert not evaluate(closed, packet).allowed


@given(worlds())
@SLOW
def test_worlds_survive_being_written_and_read_again(world: World) -> None:
    read = []
    for path, value in world_puts(world):
        key = parse_key(path)
        assert key is not None
        decoded = decode(key, value)
        assert decoded.problems == ()
        read.append((key, decoded.record))
    assert read == world_updates(world)


def _without_named_ports(world: World) -> World:
    workloads = {
        key: structs.replace(one, spec=structs.replace(one.spec, ports=())) for key, one in world.workloads.items()
    }
    hosts = {
        key: structs.replace(one, spec=structs.replace(one.spec, ports=())) for key, one in world.host_endpoints.items()
    }
    return replace(world, workloads=workloads, host_endpoints=hosts)


def test_worlds_and_packets_reach_every_action_and_both_verdicts() -> None:
    seen: Counter[str] = Counter()

    @given(worlds_with_packets(count=10))
    @settings(max_examples=400, deadline=None, database=None, derandomize=True, suppress_health_check=list(HealthCheck))
    def collect(drawn: Worlds) -> None:
        world, packets = drawn
        nameless = _without_named_ports(world)
        for packet in packets:
            verdict = evaluate(world, packet)
            seen["named port"] += verdict != evaluate(nameless, packet)
            seen["staged"] += len(verdict.staged)
            seen["allowed" if verdict.allowed else "denied"] += bool(verdict.trace)
            seen.update(
                f"{step.action.value} by {step.policy.kind if step.policy else 'end'}" for step in verdict.trace
            )

    collect()
    for action in ("Allow", "Deny", "Log", "Pass"):
        for kind in ("GlobalNetworkPolicy", "NetworkPolicy", "Profile"):
            assert seen[f"{action} by {kind}"], (action, kind, seen)
    assert seen["named port"], seen
    assert seen["staged"], seen
    assert seen["Deny by end"]
    assert seen["Pass by end"]
    assert seen["allowed"] * 20 > seen["denied"], seen
