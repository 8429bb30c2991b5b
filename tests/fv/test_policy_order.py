"""Which policy decides, on the real kernel: tiers, orders, types, namespaces, profiles; and what is not enforced."""

from __future__ import annotations

from typing import NamedTuple

import pytest

from tests.support.fv import Fleet

pytestmark = pytest.mark.fv


class Case(NamedTuple):
    """manifests: YAML documents. The remaining texts are flows."""

    manifests: str
    allowed: tuple[str, ...]
    denied: tuple[str, ...]


CASES = {
    "tier that denies at its end": Case(
        """
{kind: Tier, name: early, spec: {order: 10, defaultAction: Deny}}
---
{kind: GlobalNetworkPolicy, name: early.some, spec: {tier: early, selector: role == 'server', types: [Ingress],
 ingress: [{action: Allow, protocol: TCP}]}}
---
{kind: GlobalNetworkPolicy, name: default.all, spec: {tier: default, types: [Ingress], ingress: [{action: Allow}]}}""",
        ("tcp 80",),
        ("udp 53", "icmp 8", "icmp6 128"),
    ),
    "tier that denies unless it says otherwise": Case(
        """
{kind: Tier, name: early, spec: {order: 10}}
---
{kind: GlobalNetworkPolicy, name: early.some, spec: {tier: early, selector: role == 'server', types: [Ingress],
 ingress: [{action: Allow, protocol: TCP}]}}""",
        ("tcp 80",),
        ("udp 53", "icmp6 128"),
    ),
    "tier that passes at its end": Case(
        """
{kind: Tier, name: early, spec: {order: 10, defaultAction: Pass}}
---
{kind: GlobalNetworkPolicy, name: early.some, spec: {tier: early, selector: role == 'server', types: [Ingress],
 ingress: [{action: Deny, protocol: TCP, destination: {ports: [81]}}]}}
---
{kind: GlobalNetworkPolicy, name: default.tcp, spec: {tier: default, selector: role == 'server', types: [Ingress],
 ingress: [{action: Allow, protocol: TCP}]}}""",
        ("tcp 80",),
        ("tcp 81", "udp 53"),
    ),
    "tier that passes to profiles": Case(
        """
{kind: Tier, name: early, spec: {order: 10, defaultAction: Pass}}
---
{kind: GlobalNetworkPolicy, name: early.some, spec: {tier: early, selector: role == 'server', types: [Ingress],
 ingress: [{action: Deny, protocol: TCP, destination: {ports: [81]}}]}}""",
        ("tcp 80", "udp 53", "icmp6 128"),
        ("tcp 81",),
    ),
    "tier without a policy for the endpoint": Case(
        """
{kind: Tier, name: early, spec: {order: 10, defaultAction: Deny}}
---
{kind: GlobalNetworkPolicy, name: early.some, spec: {tier: early, selector: grade == 'gold', types: [Ingress]}}""",
        ("tcp 80 to far", "icmp6 128 to far"),
        ("tcp 80 to near", "icmp6 128 to near"),
    ),
    "rule that passes to the next tier": Case(
        """
{kind: Tier, name: early, spec: {order: 10, defaultAction: Deny}}
---
{kind: GlobalNetworkPolicy, name: early.some, spec: {tier: early, selector: role == 'server', types: [Ingress],
 ingress: [{action: Pass, protocol: UDP}, {action: Allow, protocol: TCP, destination: {ports: [80]}}]}}
---
{kind: GlobalNetworkPolicy, name: default.udp, spec: {tier: default, selector: role == 'server', types: [Ingress],
 ingress: [{action: Allow, protocol: UDP, destination: {ports: [53]}}, {action: Allow, protocol: TCP}]}}""",
        ("tcp 80", "udp 53"),
        ("udp 54", "tcp 81", "icmp 8"),
    ),
    "order of tiers": Case(
        """
{kind: Tier, name: a-late, spec: {order: 20}}
---
{kind: Tier, name: b-early, spec: {order: 10.5}}
---
{kind: GlobalNetworkPolicy, name: a-late.rules, spec: {tier: a-late, selector: role == 'server', types: [Ingress],
 ingress: [{action: Allow}]}}
---
{kind: GlobalNetworkPolicy, name: b-early.rules, spec: {tier: b-early, selector: role == 'server', types: [Ingress],
 ingress: [{action: Deny, protocol: TCP}, {action: Pass}]}}""",
        ("udp 53", "icmp 8"),
        ("tcp 80",),
    ),
    "order of policies": Case(
        """
{kind: GlobalNetworkPolicy, name: default.a, spec: {order: 2, selector: role == 'server', types: [Ingress],
 ingress: [{action: Deny, protocol: TCP}, {action: Allow, protocol: UDP}]}}
---
{kind: GlobalNetworkPolicy, name: default.b, spec: {order: 1, selector: role == 'server', types: [Ingress],
 ingress: [{action: Allow, protocol: TCP, destination: {ports: [80]}}]}}
---
{kind: GlobalNetworkPolicy, name: default.c, spec: {selector: role == 'server', types: [Ingress],
 ingress: [{action: Allow, protocol: TCP}, {action: Deny, protocol: UDP}, {action: Allow, protocol: ICMP}]}}""",
        ("tcp 80", "udp 53", "icmp 8"),
        ("tcp 81", "icmp6 128"),
    ),
    "order of policies by name": Case(
        """
{kind: GlobalNetworkPolicy, name: default.b, spec: {order: 1, selector: role == 'server', types: [Ingress],
 ingress: [{action: Allow}]}}
---
{kind: GlobalNetworkPolicy, name: default.a, spec: {order: 1, selector: role == 'server', types: [Ingress],
 ingress: [{action: Deny, protocol: TCP}]}}""",
        ("udp 53",),
        ("tcp 80",),
    ),
    "types that are not named": Case(
        """
{kind: GlobalNetworkPolicy, name: default.out, spec: {selector: role == 'client',
 egress: [{action: Allow, protocol: TCP}]}}
---
{kind: GlobalNetworkPolicy, name: default.in, spec: {selector: grade == 'gold',
 ingress: [{action: Allow, destination: {ports: [80]}, protocol: TCP}]}}""",
        ("tcp 80", "tcp 81 to far", "outside udp 53 to far"),
        ("udp 53", "tcp 81 to near"),
    ),
    "both types in one policy": Case(
        """
{kind: GlobalNetworkPolicy, name: default.both, spec: {selector: all(), types: [Ingress, Egress],
 ingress: [{action: Allow, protocol: TCP, destination: {ports: ['80:82']}}],
 egress: [{action: Allow, protocol: TCP, destination: {ports: ['82:84']}}]}}""",
        ("tcp 82", "outside tcp 80"),
        ("tcp 80", "tcp 84", "udp 82"),
    ),
    "policy of a namespace": Case(
        """
{kind: NetworkPolicy, namespace: blue, name: default.rules, spec: {tier: default, selector: role == 'server',
 types: [Ingress], ingress: [{action: Allow, source: {selector: role == 'client'}}]}}""",
        ("tcp 80", "guest tcp 80 to far", "outside tcp 80 to far"),
        ("guest tcp 80 to near", "outside tcp 80 to near"),
    ),
    "policy of a namespace that looks into others": Case(
        """
{kind: NetworkPolicy, namespace: blue, name: default.rules, spec: {selector: role == 'server', types: [Ingress],
 ingress: [{action: Allow, source: {namespaceSelector: team == 'db', selector: role == 'client'}}]}}""",
        ("guest tcp 80 to near", "tcp 80 to far"),
        ("tcp 80 to near",),
    ),
    "global policy of some namespaces": Case(
        """
{kind: GlobalNetworkPolicy, name: default.db, spec: {namespaceSelector: team == 'db', selector: role == 'server',
 types: [Ingress], ingress: [{action: Allow, protocol: ICMP}]}}""",
        ("tcp 80 to near", "icmp 8"),
        ("tcp 80 to far", "icmp6 128 to far"),
    ),
    "policy without its tier's name": Case(
        """
{kind: GlobalNetworkPolicy, name: plain, spec: {selector: role == 'server', types: [Ingress],
 ingress: [{action: Allow, protocol: TCP}]}}""",
        ("tcp 80",),
        ("udp 53",),
    ),
    "staged policies": Case(
        """
{kind: StagedGlobalNetworkPolicy, name: default.later, spec: {selector: all(), types: [Ingress, Egress]}}
---
{kind: StagedNetworkPolicy, namespace: blue, name: default.later, spec: {selector: all(), types: [Ingress, Egress]}}""",
        ("tcp 80", "icmp6 128"),
        (),
    ),
    "policies of host endpoints": Case(
        """
{kind: GlobalNetworkPolicy, name: default.raw, spec: {selector: all(), types: [Ingress], doNotTrack: true,
 applyOnForward: true}}
---
{kind: GlobalNetworkPolicy, name: default.nat, spec: {selector: all(), types: [Ingress], preDNAT: true,
 applyOnForward: true}}""",
        ("tcp 80", "icmp6 128"),
        (),
    ),
    "rule that nobody understands": Case(
        """
{kind: GlobalNetworkPolicy, name: default.odd, spec: {selector: role == 'server', types: [Ingress],
 ingress: [{action: Allow, protocol: TCP, destination: {ports: [80]}}, {action: Perhaps}, {action: Allow}]}}""",
        ("tcp 80",),
        ("tcp 81", "udp 53"),
    ),
}


@pytest.mark.parametrize("case", CASES.values(), ids=[name.replace(" ", "-") for name in CASES])
def test_policies_decide_together_as_they_say(fleet: Fleet, case: Case) -> None:
    with fleet.stored(case.manifests):
        fleet.check(case.allowed, case.denied)


def test_profile_without_policy_decides_in_both_directions(fleet: Fleet) -> None:
    manifests = """
{kind: Profile, name: web, spec: {ingress: [{action: Allow, protocol: TCP, destination: {ports: [80]}}], egress: []}}
---
{kind: Profile, name: ping, spec: {ingress: [{action: Allow, protocol: ICMPv6}]}}"""
    with fleet.stored(manifests):
        with fleet.changed("near", profiles=["kns.blue", "web", "ping"]):
            fleet.check(("tcp 80", "icmp6 128 to near", "udp 53 to far"), ("udp 53 to near", "near tcp 80 to far"))
        with fleet.changed("near", profiles=["missing"]):
            fleet.check(("tcp 80 to far",), ("tcp 80 to near", "near tcp 80 to far"))
        with fleet.changed("near", profiles=[]):
            fleet.check((), ("tcp 80 to near", "near tcp 80 to far"))
    fleet.check(("tcp 80", "near tcp 80 to far"), ())


def test_label_of_a_profile_is_inherited_and_can_be_lost(fleet: Fleet) -> None:
    manifests = """
{kind: Profile, name: lends, spec: {labelsToApply: {club: chess}}}
---
{kind: GlobalNetworkPolicy, name: default.club, spec: {selector: role == 'server', types: [Ingress],
 ingress: [{action: Allow, source: {selector: club == 'chess'}}]}}"""
    with fleet.stored(manifests):
        fleet.check((), ("tcp 80", "guest tcp 80"))
        with fleet.changed("guest", profiles=["open", "lends"]):
            fleet.check(("guest tcp 80", "guest icmp6 128"), ("tcp 80",))
        fleet.check((), ("guest tcp 80",))


def test_policy_that_changes_is_enforced_at_once_and_gone_when_deleted(fleet: Fleet) -> None:
    policy = """
{{kind: GlobalNetworkPolicy, name: default.moving, spec: {{selector: role == 'server', types: [Ingress],
 ingress: [{{action: Allow, protocol: TCP, destination: {{ports: [{port}]}}}}]}}}}"""
    with fleet.stored(policy.format(port=80)):
        fleet.check(("tcp 80",), ("tcp 81",))
        with fleet.stored(policy.format(port=81)):
            fleet.check(("tcp 81",), ("tcp 80",))
        fleet.wait_applied(fleet.put("Profile", "bystander", {}))  # its deletion is in the kernel too
        fleet.check(("tcp 80", "tcp 81", "icmp 8"), ())


def test_member_that_joins_and_leaves_a_set_is_let_through_meanwhile(fleet: Fleet) -> None:
    manifests = """
{kind: GlobalNetworkPolicy, name: default.joined, spec: {selector: role == 'server', types: [Ingress],
 ingress: [{action: Allow, source: {selector: "has(joined)"}}]}}"""
    with fleet.stored(manifests):
        fleet.check((), ("tcp 80",))
        with fleet.stored("{kind: GlobalNetworkSet, name: j, labels: {joined: ''}, spec: {nets: [192.168.1.10/32]}}"):
            fleet.check(("4 tcp 80",), ("6 tcp 80", "guest tcp 80"))
        fleet.wait_applied(fleet.put("Profile", "bystander", {}))
        fleet.check((), ("tcp 80",))
