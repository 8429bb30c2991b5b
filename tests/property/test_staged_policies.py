"""What a staged policy is said to do is what it would do if it were enforced."""

from __future__ import annotations

from dataclasses import replace

import msgspec
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from felix.model.keys import ResourceKey
from felix.model.records import Policy, StagedGlobalNetworkPolicy, StagedNetworkPolicy
from felix.policy.evaluate import Direction, World, evaluate_endpoint, is_about_workloads
from felix.policy.packet import Packet
from felix.policy.staged import enforced_kind, is_staged
from tests.model.worlds import PROTOCOLS, draw_packet, read_record, worlds


@st.composite
def trials(draw: st.DrawFn) -> tuple[World, ResourceKey, list[Packet]]:
    """Draws a world in which one policy is staged that was enforced, its key, and packets."""
    world = draw(worlds().filter(_has_enforced))
    key = draw(st.sampled_from([key for key, policy in world.policies.items() if _is_enforced(key, policy)]))
    return world, key, [draw_packet(draw, world, PROTOCOLS) for _ in range(10)]


def _has_enforced(world: World) -> bool:
    return any(_is_enforced(key, policy) for key, policy in world.policies.items())


def _is_enforced(
    key: ResourceKey,
    policy: Policy,
) -> bool:
    return not is_staged(key.kind) and is_about_workloads(policy)


def stage(world: World, key: ResourceKey, action: str) -> tuple[World, ResourceKey]:
    """Returns the world with that policy staged, and its new key."""
    staged_key = key._replace(kind=f"Staged{key.kind}")
    spec = msgspec.to_builtins(world.policies[key].spec) | {"stagedAction": action}
    policies = {one: policy for one, policy in world.policies.items() if one != key}
    if key.namespace:
        policies[staged_key] = read_record(staged_key, spec, None, StagedNetworkPolicy)
    else:
        policies[staged_key] = read_record(staged_key, spec, None, StagedGlobalNetworkPolicy)
    return replace(world, policies=policies), staged_key


@settings(max_examples=100, deadline=None, suppress_health_check=list(HealthCheck))
@given(trial=trials(), is_learning=st.booleans())
def test_staged_policy_would_do_what_it_does_once_enforced(
    trial: tuple[World, ResourceKey, list[Packet]], is_learning: bool
) -> None:
    enforced, key, packets = trial
    staged, staged_key = stage(enforced, key, "Learn" if is_learning else "Set")
    assert enforced_kind(staged_key.kind) == key.kind
    for packet in packets:
        for endpoint in enforced.workloads:
            for direction in Direction:
                trace = evaluate_endpoint(enforced, endpoint, direction, packet).trace
                done = [(step.rule, step.action) for step in trace if step.policy == key and step.action.value != "Log"]
                tried = evaluate_endpoint(staged, endpoint, direction, packet).staged
                assert [(step.rule, step.action) for step in tried if step.policy == staged_key] == done


@settings(max_examples=60, deadline=None, suppress_health_check=list(HealthCheck))
@given(trial=trials(), action=st.sampled_from(["Set", "Learn", "Delete", "Ignore"]))
def test_staged_policy_decides_as_if_it_were_not_there(
    trial: tuple[World, ResourceKey, list[Packet]], action: str
) -> None:
    enforced, key, packets = trial
    staged, staged_key = stage(enforced, key, action)
    without = replace(enforced, policies={one: two for one, two in enforced.policies.items() if one != key})
    for packet in packets:
        for endpoint in enforced.workloads:
            for direction in Direction:
                verdict = evaluate_endpoint(staged, endpoint, direction, packet)
                assert verdict[:2] == evaluate_endpoint(without, endpoint, direction, packet)[:2]
                is_tried = action in ("Set", "Learn")
                assert is_tried or staged_key not in [step.policy for step in verdict.staged]
