"""The reference meaning of policy, case by case."""

from __future__ import annotations

import pytest

from felix.calc.desired import Action
from felix.model.keys import ResourceKey
from felix.model.records import StagedGlobalNetworkPolicy
from felix.policy.evaluate import Direction, Verdict, World, evaluate, evaluate_endpoint
from felix.policy.packet import ICMP, ICMPV6, UDP, Packet
from tests.unit.policy.build import WorldBuilder, make_record, packet, rule

WEB, OUTSIDE = "10.65.0.1", "192.0.2.7"
WEB6, OUTSIDE6 = "fd00::1", "2001:db8::7"
INWARD = packet(OUTSIDE, WEB)
OUTWARD = packet(WEB, OUTSIDE)
ALLOW = [rule("Allow")]


@pytest.fixture
def builder() -> WorldBuilder:
    """A world with one workload that no policy and no profile says anything about."""
    builder = WorldBuilder()
    builder.workload("web", [WEB, WEB6], {"app": "web"}, ["p0", "p1"])
    return builder


def is_allowed(builder: WorldBuilder, packet: Packet) -> bool:
    return evaluate(builder.world, packet).allowed


def actions(world: World, packet: Packet) -> list[Action]:
    return [step.action for step in evaluate(world, packet).trace]


def test_packet_that_concerns_no_workload_is_allowed(builder: WorldBuilder) -> None:
    assert evaluate(builder.world, packet(OUTSIDE, "192.0.2.8")) == Verdict(True, ())


def test_workload_without_policy_and_profiles_is_closed_in_both_directions(builder: WorldBuilder) -> None:
    assert not is_allowed(builder, INWARD)
    assert not is_allowed(builder, OUTWARD)


def test_profiles_decide_in_order_and_missing_ones_say_nothing(builder: WorldBuilder) -> None:
    p1 = builder.profile("p1", ingress=ALLOW)
    verdict = evaluate(builder.world, INWARD)
    assert verdict.allowed
    assert [(step.policy, step.rule) for step in verdict.trace] == [(p1, 0)]
    assert not is_allowed(builder, OUTWARD)
    builder.profile("p0", ingress=[rule("Deny")])
    assert not is_allowed(builder, INWARD)
    builder.profile("p0", ingress=[rule("Pass"), rule("Deny")])
    assert is_allowed(builder, INWARD)


def test_policy_that_applies_but_does_not_match_ends_the_tier_in_deny(builder: WorldBuilder) -> None:
    builder.profile("p0", ingress=ALLOW, egress=ALLOW)
    builder.policy("p", selector="app == 'web'", ingress=[rule("Allow", source={"nets": ["10.0.0.0/8"]})])
    assert not is_allowed(builder, INWARD)
    assert is_allowed(builder, packet("10.1.1.1", WEB))
    assert is_allowed(builder, OUTWARD), "a policy of type Ingress leaves egress to the profiles"
    builder.policy("p", selector="app == 'other'")
    assert is_allowed(builder, INWARD)


def test_policy_of_a_type_without_rules_denies_that_direction(builder: WorldBuilder) -> None:
    builder.profile("p0", ingress=ALLOW, egress=ALLOW)
    builder.policy("p", types=["Egress"], ingress=ALLOW)
    assert is_allowed(builder, INWARD)
    assert not is_allowed(builder, OUTWARD)


def test_log_goes_on_and_appears_in_the_trace(builder: WorldBuilder) -> None:
    builder.policy("p", ingress=[rule("Log"), rule("Log"), rule("Allow"), rule("Deny")])
    assert actions(builder.world, INWARD) == [Action.LOG, Action.LOG, Action.ALLOW]
    builder.policy("p", ingress=[rule("Log")])
    assert actions(builder.world, INWARD) == [Action.LOG, Action.DENY]


def test_policies_of_a_tier_decide_by_order_then_name(builder: WorldBuilder) -> None:
    builder.policy("b", order=10, ingress=[rule("Deny")])
    builder.policy("z", order=5, ingress=[rule("Allow", protocol="UDP")])
    assert not is_allowed(builder, INWARD)
    builder.policy("a", order=10, ingress=ALLOW)
    assert is_allowed(builder, INWARD)
    builder.policy("a", ingress=ALLOW)  # no order: last
    assert not is_allowed(builder, INWARD)


def test_pass_skips_the_rest_of_the_tier(builder: WorldBuilder) -> None:
    builder.tier("early", 1)
    builder.policy("e1", tier="early", order=1, ingress=[rule("Pass"), rule("Deny")])
    builder.policy("e2", tier="early", order=2, ingress=[rule("Deny")])
    builder.policy("d", ingress=ALLOW)
    assert actions(builder.world, INWARD) == [Action.PASS, Action.ALLOW]
    builder.policy("d", selector="!all()")
    builder.profile("p0", ingress=ALLOW)
    assert actions(builder.world, INWARD) == [Action.PASS, Action.ALLOW], (
        "Pass from the last tier leads to the profiles"
    )


def test_tier_default_action_pass_goes_on_to_the_next_tier(builder: WorldBuilder) -> None:
    builder.tier("early", 1, "Pass")
    builder.policy("e", tier="early")
    builder.policy("d", ingress=ALLOW)
    assert actions(builder.world, INWARD) == [Action.PASS, Action.ALLOW]
    builder.tier("early", 1, "Deny")
    assert actions(builder.world, INWARD) == [Action.DENY]


def test_tier_without_a_policy_for_the_endpoint_is_skipped(builder: WorldBuilder) -> None:
    builder.tier("early", 1)
    builder.policy("e", tier="early", selector="app == 'other'", ingress=[rule("Deny")])
    builder.policy("d", ingress=ALLOW)
    assert actions(builder.world, INWARD) == [Action.ALLOW]


def test_tier_that_does_not_exist_stands_last_and_denies(builder: WorldBuilder) -> None:
    builder.profile("p0", ingress=ALLOW)
    builder.policy("v", tier="vanished", order=-5, ingress=[rule("Allow", protocol="UDP")])
    assert not is_allowed(builder, INWARD)
    assert is_allowed(builder, packet(OUTSIDE, WEB, UDP))
    builder.policy("d", order=5, ingress=[rule("Deny")])
    assert not is_allowed(builder, packet(OUTSIDE, WEB, UDP))


def test_staged_untracked_and_pre_dnat_policies_do_not_decide_about_workloads(builder: WorldBuilder) -> None:
    builder.profile("p0", ingress=ALLOW)
    key = ResourceKey("StagedGlobalNetworkPolicy", "", "s")
    staged = make_record(StagedGlobalNetworkPolicy, "s", {"types": ["Ingress"], "ingress": [rule("Deny")]})
    builder.policy("u", doNotTrack=True, applyOnForward=True, ingress=[rule("Deny")])
    builder.policy("n", preDNAT=True, applyOnForward=True, ingress=[rule("Deny")])
    world = World(builder.workloads, {}, builder.profiles, {}, {**builder.policies, key: staged})
    assert evaluate(world, INWARD).allowed


def test_policy_whose_selector_is_none_counts_as_missing(builder: WorldBuilder) -> None:
    builder.policy("p", selector="app =", ingress=ALLOW)
    assert not is_allowed(builder, INWARD)


def test_both_ends_have_to_allow(builder: WorldBuilder) -> None:
    builder.workload("db", ["10.65.0.2"], {"app": "db"}, ["p0"])
    builder.profile("p0", ingress=ALLOW, egress=ALLOW)
    across = packet(WEB, "10.65.0.2")
    assert is_allowed(builder, across)
    trace = evaluate(builder.world, across).trace
    assert [(step.endpoint.name, step.direction) for step in trace] == [
        ("web", Direction.EGRESS),
        ("db", Direction.INGRESS),
    ]
    builder.policy("p", selector="app == 'db'", ingress=[rule("Deny")])
    assert not is_allowed(builder, across)
    assert evaluate(builder.world, across, host="elsewhere").allowed
    builder.policy("p", selector="app == 'web'", types=["Egress"], egress=[rule("Deny")])
    assert not is_allowed(builder, across)
    assert is_allowed(builder, packet("10.65.0.2", WEB))


def test_evaluate_endpoint_looks_at_one_direction_only(builder: WorldBuilder) -> None:
    builder.profile("p0", ingress=ALLOW)
    key = ResourceKey("WorkloadEndpoint", "blue", "web")
    assert evaluate_endpoint(builder.world, key, Direction.INGRESS, INWARD).allowed
    assert not evaluate_endpoint(builder.world, key, Direction.EGRESS, INWARD).allowed


PING = packet(OUTSIDE, WEB, ICMP, icmp_type=8, icmp_code=0)
PING6 = packet(OUTSIDE6, WEB6, ICMPV6, icmp_type=128, icmp_code=0)
INWARD6 = packet(OUTSIDE6, WEB6)


@pytest.mark.parametrize(
    ("members", "given", "expected"),
    [
        ({}, INWARD, True),
        ({"ipVersion": 4}, INWARD, True),
        ({"ipVersion": 6}, INWARD, False),
        ({"ipVersion": 6}, INWARD6, True),
        ({"protocol": "TCP"}, INWARD, True),
        ({"protocol": 17}, INWARD, False),
        ({"notProtocol": "TCP"}, INWARD, False),
        ({"notProtocol": "UDP"}, INWARD, True),
        ({"source": {"nets": ["192.0.2.0/24"]}}, INWARD, True),
        ({"source": {"nets": ["192.0.2.0/29", "192.0.2.8/29"]}}, INWARD, True),
        ({"source": {"nets": ["192.0.2.8/29"]}}, INWARD, False),
        ({"source": {"nets": ["2001:db8::/32"]}}, INWARD, False),
        ({"source": {"nets": ["2001:db8::/32", "192.0.2.0/24"]}}, INWARD6, True),
        ({"source": {"nets": ["0.0.0.0/0"]}}, INWARD6, False),
        ({"source": {"nets": []}}, INWARD, True),
        ({"source": {"notNets": ["192.0.2.0/24"]}}, INWARD, False),
        ({"source": {"notNets": ["192.0.2.0/24"]}}, INWARD6, True),
        ({"source": {"nets": ["192.0.0.0/16"], "notNets": ["192.0.2.7"]}}, INWARD, False),
        ({"source": {"nets": ["192.0.2.0/24"]}, "destination": {"nets": ["fd00::/64"]}}, INWARD, False),
        ({"protocol": "TCP", "destination": {"ports": [80]}}, INWARD, True),
        ({"protocol": "TCP", "destination": {"ports": [81, "70:80"]}}, INWARD, True),
        ({"protocol": "TCP", "destination": {"ports": ["81:90"]}}, INWARD, False),
        ({"protocol": "TCP", "destination": {"notPorts": ["79:81"]}}, INWARD, False),
        ({"protocol": "TCP", "destination": {"notPorts": [79, 81]}}, INWARD, True),
        ({"protocol": "TCP", "source": {"ports": [40000]}}, INWARD, True),
        ({"protocol": "UDP", "destination": {"ports": [80]}}, INWARD, False),
        ({"protocol": "ICMP"}, PING, True),
        ({"protocol": "ICMP"}, PING6, False),
        ({"protocol": "ICMPv6", "icmp": {"type": 128}}, PING6, True),
        ({"protocol": "ICMP", "icmp": {"type": 8}}, PING, True),
        ({"protocol": "ICMP", "icmp": {"type": 8, "code": 0}}, PING, True),
        ({"protocol": "ICMP", "icmp": {"type": 8, "code": 1}}, PING, False),
        ({"protocol": "ICMP", "icmp": {"type": 0}}, PING, False),
        ({"protocol": "ICMP", "notICMP": {"type": 8}}, PING, False),
        ({"protocol": "ICMP", "notICMP": {"type": 8, "code": 1}}, PING, True),
        ({"protocol": "ICMP", "notICMP": {"type": 0, "code": 0}}, PING, True),
        ({"protocol": "ICMP", "notICMP": {"type": 0, "code": 0}}, INWARD, False),
        ({"source": {"selector": "all()"}}, INWARD, False),
        ({"destination": {"selector": "app == 'web'"}}, INWARD, True),
        ({"destination": {"notSelector": "app == 'web'"}}, INWARD, False),
        ({"source": {"notSelector": "app == 'web'"}}, INWARD, True),
        ({"source": {"ports": [80]}}, INWARD, False),  # a rule that cannot be read denies
    ],
)
def test_rule_matches_a_packet_when_every_condition_holds(
    builder: WorldBuilder, members: dict[str, object], given: Packet, expected: bool
) -> None:
    builder.policy("p", ingress=[rule("Allow", **members)])
    assert is_allowed(builder, given) is expected


def test_selectors_find_network_sets_by_containment_and_endpoints_by_inherited_labels(builder: WorldBuilder) -> None:
    builder.policy("p", ingress=[rule("Allow", source={"selector": "role == 'client'"})])
    assert not is_allowed(builder, INWARD)
    builder.network_set("s", ["192.0.2.0/25", "2001:db8::/64"], {"role": "client"})
    assert is_allowed(builder, INWARD)
    assert is_allowed(builder, INWARD6)
    assert not is_allowed(builder, packet("192.0.2.128", WEB))
    near = packet("10.65.0.9", WEB)
    builder.workload("c", ["10.65.0.9"], {}, ["clients"])
    builder.profile("clients", {"role": "client"}, egress=ALLOW)
    assert is_allowed(builder, near)
    builder.workload("c", ["10.65.0.9"], {"role": "other"}, ["clients"])
    assert not is_allowed(builder, near)


def test_later_profile_overrides_the_labels_of_an_earlier_one(builder: WorldBuilder) -> None:
    builder.profile("p0", {"zone": "a"}, ingress=ALLOW)
    builder.profile("p1", {"zone": "b"})
    builder.policy("p", selector="zone == 'b'")
    assert not is_allowed(builder, INWARD)
    builder.policy("p", selector="zone == 'a'")
    assert is_allowed(builder, INWARD)


def test_network_policy_sees_its_own_namespace_only(builder: WorldBuilder) -> None:
    builder.workload("near", ["10.65.0.2"], {"role": "client"}, ["open"], namespace="blue")
    builder.workload("far", ["10.65.0.3"], {"role": "client"}, ["open", "kns.red"], namespace="red")
    builder.profile("open", ingress=ALLOW, egress=ALLOW)
    builder.profile("kns.red", {"pcns.team": "x"})
    builder.network_set("s", ["192.0.2.0/24"], {"role": "client"}, namespace="red")
    near, far = packet("10.65.0.2", WEB), packet("10.65.0.3", WEB)

    def allowed_from(**source: object) -> tuple[bool, bool, bool]:
        builder.policy("p", namespace="blue", selector="app == 'web'", ingress=[rule("Allow", source=source)])
        return is_allowed(builder, near), is_allowed(builder, far), is_allowed(builder, INWARD)

    assert allowed_from(selector="role == 'client'") == (True, False, False)
    assert allowed_from(selector="all()") == (True, False, False)
    assert allowed_from(notSelector="role == 'none'") == (True, False, False)
    assert allowed_from(notNets=["10.65.0.3"]) == (True, False, True)
    assert allowed_from() == (True, True, True)
    assert allowed_from(namespaceSelector="team == 'x'") == (False, True, True)
    assert allowed_from(namespaceSelector="all()", notNets=["192.0.2.7"]) == (True, True, False)
    assert allowed_from(namespaceSelector="global()") == (False, False, False)
    builder.policies.clear()
    builder.policy("p", namespace="red", ingress=[rule("Deny")])
    assert not is_allowed(builder, INWARD), "without policy and profile it is closed"
    builder.profile("p0", ingress=ALLOW)
    assert is_allowed(builder, INWARD), "a policy of another namespace says nothing"


def test_address_claimed_twice_belongs_to_the_lowest_key(builder: WorldBuilder) -> None:
    builder.workload("other", [WEB], {}, ["open"])
    builder.profile("open", ingress=ALLOW)
    assert is_allowed(builder, INWARD)
    assert evaluate(builder.world, INWARD).trace[0].endpoint.name == "other"
