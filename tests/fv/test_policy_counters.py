"""What policies decided is counted in the kernel, and told by metrics and on the command line."""

from __future__ import annotations

import pytest

from felix.__main__ import main
from felix.lab.store import Document, Json
from tests.support.e2e import metric
from tests.support.fv import Fleet

pytestmark = pytest.mark.fv

_POLICY = """
{{kind: GlobalNetworkPolicy, name: default.counted, spec: {{selector: role == 'server', types: [Ingress],
 ingress: [{{action: Deny, protocol: TCP, destination: {{ports: [{port}]}}}}, {{action: Allow}}]}}}}"""


def count(fleet: Fleet, action: str, policy: str = "default.counted") -> float:
    return metric(fleet.h1, "felix_policy_packets", policy=policy, action=action)


def test_counters_of_a_policy_stay_when_its_rules_change_and_go_with_it(
    fleet: Fleet, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("FELIX_RUNDIR", str(fleet.h1.rundir))
    with fleet.stored(_POLICY.format(port=81)):
        assert count(fleet, "Allow") == count(fleet, "Deny") == 0
        fleet.check(("udp 53 to near",), ("4 tcp 81 to near",))
        allowed, denied = count(fleet, "Allow"), count(fleet, "Deny")
        assert allowed == 2  # one of each family
        assert denied >= 1  # and as often as it was sent again
        fleet.wait_applied(fleet.put("GlobalNetworkPolicy", "default.counted", _changed()))
        assert (count(fleet, "Allow"), count(fleet, "Deny")) >= (allowed, denied)
        fleet.check(("4 tcp 80 to near",), ())
        assert count(fleet, "Allow") == allowed + 1
        assert main(["policy", "counters", "default.counted"]) == 0
        rows = [line.split() for line in capsys.readouterr().out.splitlines()]
        assert [row[:6] for row in rows[1:]] == [
            ["GlobalNetworkPolicy(default.counted)", "default", "ingress", "all", "Allow", f"{allowed + 1:.0f}"],
            [
                "GlobalNetworkPolicy(default.counted)",
                "default",
                "ingress",
                "all",
                "Deny",
                f"{count(fleet, 'Deny'):.0f}",
            ],
        ]
    fleet.wait_applied(fleet.put("Profile", "bystander", {}))
    assert 'policy="default.counted"' not in fleet.h1.metrics()


def _changed() -> Document:
    rules: list[Json] = [{"action": "Deny", "protocol": "TCP", "destination": {"ports": [82]}}, {"action": "Allow"}]
    return {"selector": "role == 'server'", "types": ["Ingress"], "ingress": rules}


_STAGED = """
{kind: StagedGlobalNetworkPolicy, name: default.tried, spec: {selector: role == 'server', types: [Ingress], order: 5,
 ingress: [{action: Deny, protocol: TCP, destination: {ports: [81]}}, {action: Log}, {action: Allow}]}}
---
{kind: GlobalNetworkPolicy, name: default.real, spec: {selector: role == 'server', types: [Ingress], order: 3,
 ingress: [{action: Allow, protocol: UDP}]}}
---
{kind: GlobalNetworkPolicy, name: default.rest, spec: {selector: role == 'server', types: [Ingress], order: 7,
 ingress: [{action: Allow}]}}"""


def test_staged_policy_counts_what_it_would_do_and_does_nothing(fleet: Fleet) -> None:
    with fleet.stored(_STAGED):
        fleet.check(("tcp 81 to near", "tcp 80 to near", "udp 53 to near", "icmp 8 to near"), ())
        would = {action: count(fleet, action, "default.tried") for action in ("Allow", "Deny")}
        assert would == {"Deny": 2, "Allow": 3}  # what the policy before it allowed did not come to it
    with fleet.stored(_STAGED.replace("order: 5", "order: 5, stagedAction: Delete")):
        fleet.check(("tcp 81 to near",), ())
        assert 'policy="default.tried"' not in fleet.h1.metrics()


_STAGED_AT_HOST = """
{kind: HostEndpoint, name: h1-eth0, labels: {role: edge}, spec: {node: h1, interfaceName: eth0, profiles: [open]}}
---
{kind: StagedGlobalNetworkPolicy, name: default.normal, spec: {selector: role == 'edge', types: [Ingress, Egress],
 ingress: [{action: Deny, protocol: TCP, destination: {ports: [80]}}, {action: Allow}],
 egress: [{action: Deny, protocol: UDP, destination: {ports: [81]}}]}}
---
{kind: StagedGlobalNetworkPolicy, name: default.passing, spec: {selector: role == 'edge', applyOnForward: true,
 types: [Ingress, Egress], ingress: [{action: Deny, protocol: UDP, destination: {ports: [53]}}],
 egress: [{action: Allow, protocol: UDP, destination: {ports: [53]}}]}}
---
{kind: StagedGlobalNetworkPolicy, name: default.before, spec: {selector: role == 'edge', applyOnForward: true,
 preDNAT: true, types: [Ingress], ingress: [{action: Deny, protocol: UDP, destination: {ports: [80]}}]}}
---
{kind: StagedGlobalNetworkPolicy, name: default.raw, spec: {selector: role == 'edge', applyOnForward: true,
 doNotTrack: true, types: [Ingress], ingress: [{action: Allow, protocol: UDP, destination: {ports: [82]}}]}}"""


def test_staged_policies_at_host_endpoints_count_what_they_would_do_and_do_nothing(fleet: Fleet) -> None:
    flows = (
        "outside tcp 80 to h1",
        "outside udp 80 to h1",
        "outside udp 82 to h1",
        "h1 udp 81 to outside",
        "outside udp 53 to near",
        "udp 53 to far",
    )
    with fleet.stored(_STAGED_AT_HOST):
        fleet.check_packets(flows, ())
        would = {
            (name, action): count(fleet, action, f"default.{name}")
            for name in ("normal", "passing", "before", "raw")
            for action in ("Allow", "Deny")
        }
        tracked = fleet.h1.run(["conntrack", "-L", "-p", "udp"]).stdout
    assert "dport=82 " in tracked
    assert would["normal", "Deny"] >= 4  # one of each family, in each direction
    assert would["normal", "Allow"] >= 4  # the others to the host, and what else came meanwhile
    others = [would["passing", "Deny"], would["passing", "Allow"], would["before", "Deny"], would["raw", "Allow"]]
    assert min(others) >= 2
    assert would["before", "Allow"] == would["raw", "Deny"] == 0
