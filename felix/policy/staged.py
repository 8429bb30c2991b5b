"""Staged policies: tried out on the packets that come by, and never enforced.

One stands where it would stand if it were enforced, or directly before the enforced policy of its name, which it would
replace; what it would do is counted, and then everything goes on as if it were not there. `Set` and `Learn` are tried
by their rules. `Delete` has nothing to try: what the policy that would go decides is counted there. `Ignore` is a
remark.
"""

from __future__ import annotations

from felix.model.records import StagedGlobalNetworkPolicy, StagedNetworkPolicy

_PREFIX = "Staged"
_TRIED = ("Set", "Learn")


def is_staged(kind: str) -> bool:
    """Whether policies of this kind are tried and not enforced."""
    return kind.startswith(_PREFIX)


def enforced_kind(kind: str) -> str:
    """Returns the kind that a staged policy would be if it were enforced; other kinds are that already."""
    return kind.removeprefix(_PREFIX)


def is_tried(policy: StagedGlobalNetworkPolicy | StagedNetworkPolicy) -> bool:
    """Whether the rules of a staged policy are tried on packets."""
    return policy.spec.staged_action in _TRIED
