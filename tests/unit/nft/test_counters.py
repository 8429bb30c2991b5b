"""Which counters there are, and that those of a rule follow the rule and not its place."""

from __future__ import annotations

from felix.calc.compile import compile_rules
from felix.calc.desired import Action, CompiledPolicy
from felix.dataplane.nft.counters import Counted, CounterBook
from felix.dataplane.nft.names import INGRESS
from felix.dataplane.nft.stack import render_policy
from felix.dataplane.nft.types import Lines, NftConfig, ObjectName
from felix.model.keys import ResourceKey
from felix.model.records import GlobalNetworkPolicy
from felix.reconcile.delta import DeltaTracker
from tests.unit.policy.build import make_record

KEY = ResourceKey("GlobalNetworkPolicy", "", "p")
TCP, UDP, LOG, REST = (
    {"action": "Allow", "protocol": "TCP"},
    {"action": "Deny", "protocol": "UDP"},
    {"action": "Log"},
    {"action": "Pass"},
)


def compiled(*rules: dict[str, str]) -> CompiledPolicy:
    spec = {"types": ["Ingress"], "ingress": rules}
    return compile_rules(KEY, make_record(GlobalNetworkPolicy, "p", spec)).policy


def counted(config: NftConfig, *policies: CompiledPolicy | None) -> dict[Counted, str]:
    """Returns the names of the counters after these policies were told, one after the other."""
    objects: DeltaTracker[ObjectName, Lines] = DeltaTracker()
    book = CounterBook(config, objects)
    for policy in policies:
        book.set_policy(KEY, policy)
    assert {name.name for name in objects.desired} == set(book.counted_by_name)
    return {one: name for name, one in book.counted_by_name.items()}


def names_of_rules(*rules: dict[str, str]) -> dict[int, str]:
    found = counted(NftConfig(counted_rules=9), compiled(*rules))
    return {one.rule: name for one, name in found.items() if one.rule is not None}


def test_policy_has_a_counter_for_each_action_that_occurs() -> None:
    found = counted(NftConfig(), compiled(TCP, UDP, LOG, TCP))
    assert {(one.direction, one.action, one.rule, one.tier) for one in found} == {
        (INGRESS, Action.ALLOW, None, "default"),
        (INGRESS, Action.DENY, None, "default"),
    }


def test_counters_follow_what_is_told_last_and_go_with_the_policy() -> None:
    config = NftConfig(counted_rules=9)
    assert counted(config, compiled(TCP), compiled(UDP, REST)) == counted(config, compiled(UDP, REST))
    assert counted(config, compiled(TCP), None) == {}


def test_counter_of_a_rule_is_the_same_wherever_the_rule_stands() -> None:
    alone, behind = names_of_rules(TCP), names_of_rules(UDP, LOG, TCP)
    assert behind[2] == alone[0]
    assert len(set(behind.values())) == 2


def test_equal_rules_of_a_policy_have_counters_of_their_own() -> None:
    assert len(set(names_of_rules(TCP, TCP, UDP, TCP).values())) == 4


def test_rules_behind_the_limit_and_policies_that_are_not_counted_have_none() -> None:
    policy = compiled(LOG, TCP, UDP, REST)
    found = counted(NftConfig(counted_rules=2, counts_policies=False), policy)
    assert [(one.action, one.rule) for one in found] == [(Action.ALLOW, 1)]
    assert counted(NftConfig(counts_policies=False), policy) == {}


def test_rules_count_into_the_counters_that_there_are() -> None:
    policy = compiled(TCP, UDP, LOG, TCP, REST)
    for config in (NftConfig(), NftConfig(counted_rules=2), NftConfig(counted_rules=9, counts_policies=False)):
        text = "\n".join(render_policy(config, INGRESS, KEY, policy))
        names = set(counted(config, policy).values())
        assert {part.partition('"')[0] for part in text.split('counter name "')[1:]} == names


def test_staged_policy_is_counted_whatever_settings_say() -> None:
    staged = ResourceKey("StagedGlobalNetworkPolicy", "", "tried")
    book = CounterBook(NftConfig(counts_policies=False), DeltaTracker())
    book.set_policy(staged, compiled(TCP, REST))
    assert {one.key for one in book.counted_by_name.values()} == {staged}
