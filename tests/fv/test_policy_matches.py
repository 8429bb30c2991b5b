"""Every condition of a rule on the real kernel: packets that it lets through and packets that it does not.

Each case runs twice: as ingress policy of the servers, and as egress policy of those who send. Every flow goes to a
container on the same host and to one on the other host, in both families, and the reference meaning has to agree.
"""

from __future__ import annotations

from typing import NamedTuple

import pytest

from tests.support.flows import Flow
from tests.support.fv import Fleet

pytestmark = pytest.mark.fv


class Case(NamedTuple):
    """rules: YAML of a list of rules. others: manifests that they need. The remaining texts are flows."""

    rules: str
    allowed: tuple[str, ...]
    denied: tuple[str, ...]
    others: str = ""


_OUTSIDE_SET = """
---
kind: GlobalNetworkSet
name: partners
labels: {kind: partner}
spec: {nets: [10.0.0.254/32, "fd00:10::fe/128"]}
"""
_WIDE_SET = """
---
kind: GlobalNetworkSet
name: wide
labels: {kind: wide}
spec: {nets: [10.0.0.128/25, 192.168.1.8/30, "fd00:10::80/121", "fd00:192:168::1:8/126"]}
"""
_BLUE_SET = """
---
kind: NetworkSet
name: friends
namespace: blue
labels: {kind: friend}
spec: {nets: [192.168.1.12, "fd00:192:168::1:c"]}
"""

CASES = {
    "everything": Case("[{action: Allow}]", ("tcp 80", "udp 53", "icmp 8", "icmp6 128", "ip 253"), ()),
    "nothing": Case("[]", (), ("tcp 80", "udp 53", "icmp 8", "icmp6 128", "ip 253")),
    "deny": Case("[{action: Deny, protocol: TCP}, {action: Allow}]", ("udp 53", "icmp 8", "icmp6 128"), ("tcp 80",)),
    "log": Case("[{action: Log}, {action: Allow, protocol: TCP}, {action: Log}]", ("tcp 80",), ("udp 53", "icmp 8")),
    "pass to profiles": Case("[{action: Pass, protocol: UDP}]", ("udp 53",), ("tcp 80", "icmp6 128")),
    "order of rules": Case(
        "[{action: Allow, protocol: TCP, destination: {ports: [80]}}, {action: Deny, protocol: TCP}, {action: Allow}]",
        ("tcp 80", "udp 81"),
        ("tcp 81",),
    ),
    # Protocols
    "protocol TCP": Case("[{action: Allow, protocol: TCP}]", ("tcp 80",), ("udp 53", "icmp 8", "icmp6 128", "ip 253")),
    "protocol UDP": Case("[{action: Allow, protocol: UDP}]", ("udp 53",), ("tcp 80", "icmp 8", "icmp6 128")),
    "protocol ICMP": Case("[{action: Allow, protocol: ICMP}]", ("icmp 8", "icmp 13"), ("tcp 80", "icmp6 128")),
    "protocol ICMPv6": Case("[{action: Allow, protocol: ICMPv6}]", ("icmp6 128",), ("tcp 80", "icmp 8")),
    "protocol number": Case("[{action: Allow, protocol: 253}]", ("ip 253",), ("ip 254", "tcp 80", "icmp 8")),
    "protocol number of TCP": Case("[{action: Allow, protocol: 6}]", ("tcp 80",), ("udp 53", "ip 253")),
    "notProtocol": Case(
        "[{action: Allow, notProtocol: TCP}]", ("udp 53", "icmp 8", "icmp6 128", "ip 253"), ("tcp 80",)
    ),
    "notProtocol number": Case("[{action: Allow, notProtocol: 253}]", ("ip 254", "tcp 80"), ("ip 253",)),
    # Ports
    "destination ports": Case(
        "[{action: Allow, protocol: TCP, destination: {ports: [80, '90:92', 1000]}}]",
        ("tcp 80", "tcp 90", "tcp 92", "tcp 1000"),
        ("tcp 79", "tcp 81", "tcp 89", "tcp 93", "udp 80"),
    ),
    "destination notPorts": Case(
        "[{action: Allow, protocol: UDP, destination: {notPorts: [80, '90:92']}}]",
        ("udp 79", "udp 89", "udp 93"),
        ("udp 80", "udp 90", "udp 92", "tcp 79"),
    ),
    "source ports": Case(
        "[{action: Allow, protocol: TCP, source: {ports: ['5000:5002', 6000]}}]",
        ("tcp 80 from 5000", "tcp 80 from 5002", "tcp 80 from 6000"),
        ("tcp 80 from 4999", "tcp 80 from 5003", "udp 53 from 5000"),
    ),
    "source notPorts": Case(
        "[{action: Allow, protocol: UDP, source: {notPorts: ['5000:5002']}}]",
        ("udp 53 from 4999", "udp 53 from 5003"),
        ("udp 53 from 5000", "udp 53 from 5002"),
    ),
    "ports of both sides": Case(
        "[{action: Allow, protocol: TCP, source: {notPorts: [5000]}, destination: {ports: ['80:82'], notPorts: [81]}}]",
        ("tcp 80 from 5001", "tcp 82 from 5001"),
        ("tcp 80 from 5000", "tcp 81 from 5001", "tcp 83 from 5001"),
    ),
    # Ports with names: http is 80 of near and 8000 of far, dns is 53 of both, status is 5000 of client
    "destination port name": Case(
        "[{action: Allow, protocol: TCP, destination: {ports: [http]}}]",
        ("tcp 80 to near", "tcp 8000 to far"),
        ("tcp 8000 to near", "tcp 80 to far", "udp 80 to near", "tcp 53 to near"),
    ),
    "port name of another protocol": Case(
        "[{action: Allow, protocol: TCP, destination: {ports: [dns]}}]", (), ("tcp 53", "udp 53")
    ),
    "port name and numbers": Case(
        "[{action: Allow, protocol: TCP, destination: {ports: [http, 90, '100:101']}}]",
        ("tcp 80 to near", "tcp 8000 to far", "tcp 90", "tcp 101"),
        ("tcp 8000 to near", "tcp 91"),
    ),
    "port name of those selected": Case(
        "[{action: Allow, protocol: TCP, destination: {selector: grade == 'gold', ports: [http]}}]",
        ("tcp 80 to near",),
        ("tcp 8000 to far", "tcp 80 to far", "tcp 90 to near"),
    ),
    "port name, number and selector": Case(
        "[{action: Allow, protocol: TCP, destination: {selector: grade == 'gold', ports: [http, 90]}}]",
        ("tcp 80 to near", "tcp 90 to near"),
        ("tcp 8000 to far", "tcp 90 to far"),
    ),
    "destination port name excluded": Case(
        "[{action: Allow, protocol: TCP, destination: {notPorts: [http, 91]}}]",
        ("tcp 8000 to near", "tcp 80 to far", "tcp 90"),
        ("tcp 80 to near", "tcp 8000 to far", "tcp 91", "udp 90"),
    ),
    "source port name": Case(
        "[{action: Allow, protocol: TCP, source: {ports: [status]}}]",
        ("tcp 80 from 5000",),
        ("tcp 80 from 5001", "guest tcp 80 from 5000"),
    ),
    "port name that nobody has": Case(
        "[{action: Allow, protocol: UDP, destination: {ports: [nothing]}}]", (), ("udp 53", "tcp 80")
    ),
    "port name in one family": Case(
        "[{action: Allow, ipVersion: 6, protocol: UDP, destination: {ports: [dns]}}]", ("6 udp 53",), ("4 udp 53",)
    ),
    # Nets
    "source nets": Case(
        "[{action: Allow, source: {nets: [192.168.1.8/30, 'fd00:192:168::1:a/128']}}]",
        ("tcp 80", "udp 53", "icmp 8", "icmp6 128"),
        ("guest tcp 80", "guest icmp 8", "guest icmp6 128", "outside tcp 80"),
    ),
    "source notNets": Case(
        "[{action: Allow, source: {notNets: [192.168.1.10/32, 'fd00:192:168::1:8/126']}}]",
        ("guest tcp 80", "guest udp 53", "outside tcp 80"),
        ("tcp 80", "udp 53", "icmp 8", "icmp6 128"),
    ),
    "destination nets": Case(
        "[{action: Allow, destination: {nets: [192.168.1.0/24, 'fd00:192:168::1:0/122']}}]",
        ("tcp 80 to near", "icmp6 128 to near"),
        ("tcp 80 to far", "icmp 8 to far", "udp 53 to outside"),
    ),
    "destination notNets": Case(
        "[{action: Allow, destination: {notNets: [192.168.1.0/24, 'fd00:192:168::1:0/122']}}]",
        ("tcp 80 to far", "udp 53 to outside"),
        ("tcp 80 to near", "icmp 8 to near"),
    ),
    "nets of one family": Case("[{action: Allow, source: {nets: [0.0.0.0/0]}}]", ("4 tcp 80", "icmp 8"), ("6 tcp 80",)),
    "notNets of one family": Case(
        "[{action: Allow, source: {notNets: ['::/0']}}]", ("4 tcp 80", "icmp 8"), ("6 tcp 80", "icmp6 128")
    ),
    "nets without notNets": Case(
        "[{action: Allow, source: {nets: [192.168.0.0/16, 'fc00::/7'], notNets: [192.168.1.12, 'fd00:192:168::1:c']}}]",
        ("tcp 80", "6 outside tcp 80"),
        ("guest tcp 80", "4 outside tcp 80"),
    ),
    # Selectors
    "source selector": Case(
        "[{action: Allow, source: {selector: color == 'green'}}]",
        ("tcp 80", "udp 53", "icmp 8", "icmp6 128"),
        ("guest tcp 80", "outside tcp 80"),
    ),
    "source notSelector": Case(
        "[{action: Allow, source: {notSelector: has(color)}}]",
        ("guest tcp 80", "outside tcp 80"),
        ("tcp 80", "icmp6 128"),
    ),
    "destination selector": Case(
        "[{action: Allow, destination: {selector: \"grade in {'gold'}\"}}]",
        ("tcp 80 to near", "icmp 8 to near"),
        ("tcp 80 to far", "udp 53 to outside"),
    ),
    "destination notSelector": Case(
        "[{action: Allow, destination: {notSelector: grade == 'gold'}}]",
        ("tcp 80 to far", "udp 53 to outside"),
        ("tcp 80 to near",),
    ),
    "selector and notSelector": Case(
        "[{action: Allow, source: {selector: role == 'client', notSelector: has(color)}}]",
        ("guest tcp 80",),
        ("tcp 80", "outside tcp 80"),
    ),
    "selector and nets": Case(
        "[{action: Allow, source: {selector: role == 'client', nets: [192.168.1.12/32]}}]",
        ("4 guest tcp 80",),
        ("tcp 80", "6 guest tcp 80"),
    ),
    "namespaceSelector": Case(
        "[{action: Allow, source: {namespaceSelector: team == 'web'}}]", ("tcp 80",), ("guest tcp 80", "outside tcp 80")
    ),
    "namespaceSelector and selector": Case(
        "[{action: Allow, source: {namespaceSelector: has(team), selector: '!has(color)'}}]",
        ("guest tcp 80", "guest icmp6 128"),
        ("tcp 80", "outside tcp 80"),
    ),
    "namespaceSelector of the destination": Case(
        "[{action: Allow, destination: {namespaceSelector: team == 'db'}}]", ("tcp 80 to far",), ("tcp 80 to near",)
    ),
    "namespaceSelector all": Case(
        "[{action: Allow, source: {namespaceSelector: all()}}]",
        ("tcp 80", "guest tcp 80"),
        ("outside tcp 80",),
        _OUTSIDE_SET,
    ),
    "namespaceSelector global": Case(
        "[{action: Allow, source: {namespaceSelector: global()}}]",
        ("outside tcp 80", "outside icmp 8", "outside icmp6 128"),
        ("tcp 80", "guest tcp 80"),
        _OUTSIDE_SET,
    ),
    "namespaceSelector global of the destination": Case(
        "[{action: Allow, destination: {namespaceSelector: global(), selector: has(kind)}}]",
        ("udp 53 to outside",),
        ("tcp 80",),
        _OUTSIDE_SET,
    ),
    "global network set": Case(
        "[{action: Allow, source: {selector: kind == 'wide'}}]",
        ("tcp 80", "outside tcp 80"),
        ("guest tcp 80",),
        _WIDE_SET,
    ),
    "not in a global network set": Case(
        "[{action: Allow, source: {notSelector: kind == 'wide'}}]",
        ("guest tcp 80",),
        ("tcp 80", "outside tcp 80"),
        _WIDE_SET,
    ),
    "network set": Case(
        "[{action: Allow, source: {selector: kind == 'friend', namespaceSelector: team == 'web'}}]",
        ("guest tcp 80",),
        ("tcp 80", "outside tcp 80"),
        _BLUE_SET,
    ),
    # ICMP
    "ICMP type": Case(
        "[{action: Allow, protocol: ICMP, icmp: {type: 8}}]", ("icmp 8", "icmp 8/1"), ("icmp 13", "icmp6 128", "tcp 80")
    ),
    "ICMP type and code": Case(
        "[{action: Allow, protocol: ICMP, icmp: {type: 8, code: 1}}]", ("icmp 8/1",), ("icmp 8", "icmp 8/2", "icmp 13")
    ),
    "ICMPv6 type": Case(
        "[{action: Allow, protocol: ICMPv6, icmp: {type: 128}}]", ("icmp6 128", "icmp6 128/1"), ("icmp6 139", "icmp 8")
    ),
    "ICMPv6 type and code": Case(
        "[{action: Allow, protocol: ICMPv6, icmp: {type: 128, code: 0}}]", ("icmp6 128",), ("icmp6 128/1", "icmp6 139")
    ),
    "notICMP type": Case(
        "[{action: Allow, protocol: ICMP, notICMP: {type: 8}}]", ("icmp 13",), ("icmp 8", "icmp 8/1", "icmp6 128")
    ),
    "notICMP type and code": Case(
        "[{action: Allow, protocol: ICMPv6, notICMP: {type: 128, code: 1}}]",
        ("icmp6 128", "icmp6 139"),
        ("icmp6 128/1", "icmp 8"),
    ),
    # Families
    "ipVersion 4": Case(
        "[{action: Allow, ipVersion: 4}]", ("4 tcp 80", "4 udp 53", "icmp 8"), ("6 tcp 80", "icmp6 128")
    ),
    "ipVersion 6": Case(
        "[{action: Allow, ipVersion: 6}]", ("6 tcp 80", "6 udp 53", "icmp6 128"), ("4 tcp 80", "icmp 8")
    ),
}

_POLICY = """
{{kind: GlobalNetworkPolicy, name: default.rules, spec: {{tier: default, order: 100, selector: role == '{role}',
 types: [{type}], {list}: {rules}}}}}
{others}"""


@pytest.mark.parametrize("case", CASES.values(), ids=[name.replace(" ", "-") for name in CASES])
def test_ingress_rule_lets_through_what_it_says_and_nothing_else(fleet: Fleet, case: Case) -> None:
    policy = _POLICY.format(role="server", type="Ingress", list="ingress", rules=case.rules, others=case.others)
    with fleet.stored(policy):
        fleet.check(case.allowed, case.denied, _is_to_outside)


@pytest.mark.parametrize("case", CASES.values(), ids=[name.replace(" ", "-") for name in CASES])
def test_egress_rule_lets_through_what_it_says_and_nothing_else(fleet: Fleet, case: Case) -> None:
    policy = _POLICY.format(role="client", type="Egress", list="egress", rules=case.rules, others=case.others)
    with fleet.stored(policy):
        fleet.check(case.allowed, case.denied, _is_from_outside)


def _is_to_outside(flow: Flow) -> bool:
    return flow.target == "outside"  # nobody's policy says what may come to it


def _is_from_outside(flow: Flow) -> bool:
    return flow.source == "outside"
