"""What each part of the rule language becomes: stored rules with the nft rules that stand for them."""

from __future__ import annotations

import json

from felix.calc.compile import compile_rules
from felix.calc.desired import Action, CompiledPolicy, CompiledRule, Stack, StackTier
from felix.dataplane.nft.names import INGRESS, policy_chain
from felix.dataplane.nft.stack import render_policy, render_stack
from felix.dataplane.nft.types import DenyAction, LogRate, NftConfig
from felix.model.codec import decode
from felix.model.keys import ResourceKey
from felix.model.records import NetworkPolicy
from tests.conftest import CheckGolden

_KEY = ResourceKey("NetworkPolicy", "shop", "security.web")

Rule = dict[str, object]
RULES: tuple[Rule, ...] = (
    {"action": "Allow"},
    {"action": "Deny", "ipVersion": 6},
    {"action": "Pass", "protocol": "SCTP"},
    {"action": "Allow", "notProtocol": 47},
    {"action": "Allow", "protocol": 253},
    {"action": "Log", "protocol": "UDPLite", "destination": {"ports": [7]}},
    {"action": "Allow", "protocol": "TCP", "destination": {"ports": [80, "8000:8010", 8011]}},
    {"action": "Allow", "protocol": "TCP", "source": {"notPorts": [1]}, "destination": {"notPorts": [2]}},
    {"action": "Allow", "protocol": "TCP", "destination": {"ports": ["http"]}},
    {"action": "Allow", "protocol": "TCP", "destination": {"ports": ["http", 90], "selector": "role == 'web'"}},
    {"action": "Allow", "protocol": "UDP", "source": {"notPorts": ["dns"]}},
    {"action": "Allow", "protocol": "ICMP", "icmp": {"type": 8, "code": 0}},
    {"action": "Allow", "protocol": "ICMPv6", "notICMP": {"type": 128, "code": 1}},
    {"action": "Allow", "source": {"nets": ["10.1.2.3/8", "192.0.2.1", "fd00::/8"]}},
    {"action": "Allow", "source": {"notNets": ["10.0.0.0/8"]}},
    {"action": "Allow", "source": {"nets": ["10.0.0.0/8"], "notNets": ["10.1.0.0/16", "fd00::/8"]}},
    {"action": "Allow", "source": {"notNets": ["0.0.0.0/0"]}},
    {"action": "Deny", "source": {"nets": ["10.0.0.0/8"]}, "destination": {"nets": ["fd00::/8"]}},
    {"action": "Deny", "ipVersion": 6, "source": {"nets": ["10.0.0.0/8"]}},
    {"action": "Allow", "source": {"selector": "role == 'web'", "notSelector": "has(quarantine)"}},
    {"action": "Allow", "source": {"namespaceSelector": "global()"}},
    {"action": "Deny", "metadata": {"annotations": {"ticket": "NET-7", "why": 'a "quoted" reason'}}},
)


def _render(rule: Rule, config: NftConfig) -> str:
    metadata = {"name": _KEY.name, "namespace": _KEY.namespace}
    spec = {"tier": "security", "types": ["Ingress"], "ingress": [rule]}
    document = {"apiVersion": "projectcalico.org/v3", "kind": _KEY.kind, "metadata": metadata, "spec": spec}
    decoded = decode(_KEY, json.dumps(document).encode())
    assert isinstance(decoded.record, NetworkPolicy)
    assert not decoded.problems
    lines = render_policy(config, INGRESS, _KEY, compile_rules(_KEY, decoded.record).policy)
    return "\n".join([json.dumps(rule), *(f"    {line}" for line in lines or ("(nothing: no packet can match)",)), ""])


def test_rules_become_nft_rules_as_expected(check_golden: CheckGolden) -> None:
    check_golden("nft/rules.txt", "\n".join(_render(rule, NftConfig(counts_policies=False)) for rule in RULES))


def test_staged_policy_becomes_counters_without_a_verdict_as_expected(check_golden: CheckGolden) -> None:
    key = ResourceKey("StagedGlobalNetworkPolicy", "", "web")
    rules = tuple(CompiledRule(action, protocol=6) for action in Action)
    both = Stack((StackTier("default", (key, _KEY), Action.DENY),), ())
    alone = Stack((StackTier("default", (key,), Action.PASS),), ())
    policies = {key: CompiledPolicy(rules, ()), _KEY: CompiledPolicy((CompiledRule(Action.ALLOW),), ())}
    rendered = {policy_chain(INGRESS, key): render_policy(NftConfig(), INGRESS, key, policies[key])}
    for stack in (both, alone):
        rendered |= render_stack(NftConfig(), INGRESS, stack, policies).chains
    check_golden("nft/staged.txt", "\n".join("\n    ".join((name, *lines)) + "\n" for name, lines in rendered.items()))


def test_settings_of_log_and_deny_shape_rules_as_expected(check_golden: CheckGolden) -> None:
    config = NftConfig(
        log_prefix="%t %k %p %n 100%: ", log_rate=LogRate(10, "minute", 7), deny=DenyAction.REJECT, counted_rules=9
    )
    check_golden("nft/settings.txt", "\n".join(_render({"action": action}, config) for action in ("Log", "Deny")))
