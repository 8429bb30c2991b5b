"""What a staged policy is said to do is what it would do if it were enforced."""

from __future__ import annotations

from dataclasses import replace

import msgspec
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from felix.model.keys import ResourceKey
from felix.model.net import parse_net
from felix.model.records import Policy, StagedGlobalNetworkPolicy, StagedNetworkPolicy
from felix.policy.evaluate import Direction, Verdict, World, evaluate_endpoint, is_about_workloads
from felix.policy.host import Port, evaluate_forwarded, evaluate_received, evaluate_sent
from felix.policy.packet import Packet
from felix.policy.staged import enforced_kind, is_staged
from tests.model.host_worlds import host_worlds
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


@st.composite
def host_trials(draw: st.DrawFn) -> tuple[World, ResourceKey, list[Packet]]:
    """The same with host endpoints; the policy is one that could be for them, of any kind."""
    world = draw(host_worlds().filter(lambda world: bool(_host_keys(world))))
    return world, draw(st.sampled_from(_host_keys(world))), [draw_packet(draw, world, PROTOCOLS) for _ in range(10)]


def _host_keys(world: World) -> list[ResourceKey]:
    return [key for key in world.policies if key.kind == "GlobalNetworkPolicy" and key.name.startswith("host-")]


def _evaluate_at_host(world: World, packet: Packet) -> list[Verdict]:
    """Returns what becomes of a packet in all ways that it may take through the host."""
    near, far = Port("eth0", frozenset({parse_net("192.0.2.130")})), Port("eth9")
    return [
        evaluate_received(world, "h1", near, packet),
        evaluate_sent(world, "h1", near, packet),
        evaluate_forwarded(world, "h1", (near, far), packet),
    ]


@settings(max_examples=30, deadline=None, suppress_health_check=list(HealthCheck))
@given(trial=host_trials())
def test_staged_policy_at_host_endpoints_would_do_what_it_does_once_enforced(
    trial: tuple[World, ResourceKey, list[Packet]],
) -> None:
    enforced, key, packets = trial
    staged, staged_key = stage(enforced, key, "Set")
    for packet in packets:
        for real, tried in zip(_evaluate_at_host(enforced, packet), _evaluate_at_host(staged, packet), strict=True):
            done = [
                (step.rule, step.action) for step in real.trace if step.policy == key and step.action.value != "Log"
            ]
            would = [(step.rule, step.action) for step in tried.staged if step.policy == staged_key]
            # Behind what it would end, it is asked again: by policy after translation, and where the packet leaves.
            assert would[: len(done)] == done


@settings(max_examples=30, deadline=None, suppress_health_check=list(HealthCheck))
@given(trial=host_trials(), action=st.sampled_from(["Set", "Delete", "Ignore"]))
def test_staged_policy_at_host_endpoints_decides_as_if_it_were_not_there(
    trial: tuple[World, ResourceKey, list[Packet]], action: str
) -> None:
    enforced, key, packets = trial
    staged, staged_key = stage(enforced, key, action)
    without = replace(enforced, policies={one: two for one, two in enforced.policies.items() if one != key})
    for packet in packets:
        for tried, plain in zip(_evaluate_at_host(staged, packet), _evaluate_at_host(without, packet), strict=True):
            assert tried[:2] == plain[:2]
            assert action == "Set" or staged_key not in [step.policy for step in tried.staged]
