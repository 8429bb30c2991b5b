"""Who comes first."""

from __future__ import annotations

from felix.calc.desired import Action
from felix.model.keys import ResourceKey
from felix.policy.order import PolicyPlace, place_of_missing_tier, policy_sort_key, tier_sort_key


def test_tiers_stand_by_order_then_name_and_missing_ones_last() -> None:
    places = [
        place_of_missing_tier("aaa"),
        tier_sort_key("no-order", None, "Deny"),
        tier_sort_key("b", 10, "Deny"),
        tier_sort_key("a", 10, "Deny"),
        place_of_missing_tier("default"),
        tier_sort_key("z", -1.5, "Pass"),
    ]
    assert [place.name for place in sorted(places)] == ["z", "a", "b", "default", "no-order", "aaa"]


def test_tier_ends_in_deny_unless_it_says_pass() -> None:
    assert tier_sort_key("a", 1, "Pass").default_action is Action.PASS
    for word in ("Deny", "", None):
        assert tier_sort_key("a", 1, word).default_action is Action.DENY
    assert place_of_missing_tier("a").default_action is Action.DENY
    assert place_of_missing_tier("default") == tier_sort_key("default", 1_000_000, "Deny")


def place(name: str, order: float | None, namespace: str = "", tier: str = "t") -> PolicyPlace:
    return policy_sort_key(
        ResourceKey("NetworkPolicy" if namespace else "GlobalNetworkPolicy", namespace, name), tier, order
    )


def test_policies_stand_by_order_then_name_namespace_and_kind() -> None:
    places = [
        place("a", None),
        place("b", 10),
        place("a", 10, "red"),
        place("a", 10, "blue"),
        place("a", 10),
        place("z", 0.5),
    ]
    assert sorted(places) == [places[5], places[4], places[3], places[2], places[1], places[0]]


def test_policy_name_with_its_tier_as_prefix_stands_where_it_stands_without() -> None:
    assert place("t.a", 1) == place("a", 1)
    assert place("other.a", 1) != place("a", 1)
    assert place("default.a", 1, tier="") == place("a", 1, tier="default")


def test_staged_policy_stands_directly_before_the_one_that_it_would_replace() -> None:
    keys = [
        ResourceKey(kind, "", name)
        for kind in ("GlobalNetworkPolicy", "StagedGlobalNetworkPolicy")
        for name in ("a", "b", "default.c")
    ]
    stood = sorted(keys, key=lambda key: policy_sort_key(key, "default", 1.0))
    assert [(key.name, key.kind.startswith("Staged")) for key in stood] == [
        (name, staged) for name in ("a", "b", "default.c") for staged in (True, False)
    ]
