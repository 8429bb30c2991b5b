"""Who comes first: the order of tiers, and of policies inside a tier. Pure keys, shared by all who have to sort.

Tiers stand by order, then by name; policies of a tier by order, then by name, namespace and kind. Without an order a
thing stands behind all that have one. A tier that policies name but nobody has defined stands behind all others and
ends in Deny, so a policy never loses its teeth because somebody deleted its tier. The tier `default` is built in:
when it is not stored, it has the order and the action that it always has.
"""

from __future__ import annotations

import math
from typing import NamedTuple

from felix.calc.desired import Action
from felix.model.keys import ResourceKey
from felix.policy.staged import enforced_kind, is_staged

DEFAULT_TIER = "default"
DEFAULT_TIER_ORDER = 1_000_000.0


class TierPlace(NamedTuple):
    """Where a tier stands among others, and how it ends; sorts by itself, names being unique.

    default_action: Action.DENY or Action.PASS, for packets that none of the endpoint's policies in the tier decides.
    """

    is_missing: bool
    order: float
    name: str
    default_action: Action


class PolicyPlace(NamedTuple):
    """Where a policy stands inside its tier; sorts by itself among policies of the same tier."""

    tier: str
    order: float
    tie_break: str
    is_enforced: bool = True  # a staged policy comes before the enforced one that it would replace


def tier_sort_key(name: str, order: float | None, default_action: str | None) -> TierPlace:
    """Returns the place of a stored tier; `default_action` is "Deny", "Pass", or empty for Deny."""
    ending = Action.PASS if default_action == Action.PASS.value else Action.DENY
    return TierPlace(False, math.inf if order is None else float(order), name, ending)


def place_of_missing_tier(name: str) -> TierPlace:
    """Returns the place of a tier that is not stored: the built-in one for `default`, else behind all, with Deny."""
    if name == DEFAULT_TIER:
        return TierPlace(False, DEFAULT_TIER_ORDER, name, Action.DENY)
    return TierPlace(True, math.inf, name, Action.DENY)


def policy_sort_key(key: ResourceKey, tier: str, order: float | None) -> PolicyPlace:
    """Returns the place of a policy in its tier; an empty `tier` is `default`."""
    tier = tier or DEFAULT_TIER
    # Names may or may not carry their tier as a prefix; the same policy has to stand in the same place either way.
    name = key.name.removeprefix(f"{tier}.")
    # One text, not three fields: Calico compares it so, and `-` and `.` sort before the slash.
    return PolicyPlace(
        tier,
        math.inf if order is None else float(order),
        f"{name}/{key.namespace}/{enforced_kind(key.kind)}",
        not is_staged(key.kind),
    )
