"""What policies decided, from the kernel's counters, for the command line and for metrics. Pure."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from typing import NamedTuple

from felix.dataplane.nft.base import COUNTERS
from felix.dataplane.nft.counters import Counted
from felix.dataplane.nft.types import Count
from felix.obs.counts import PolicyCount
from felix.obs.metrics import Metrics

SERIES_LIMIT = 5000
OTHERS = "(others)"


class _Order(NamedTuple):
    kind: str
    namespace: str
    name: str
    direction: str
    rule: int
    action: str


def make_counts(counted_by_name: Mapping[str, Counted], count_by_name: Mapping[str, Count]) -> list[PolicyCount]:
    """Returns what is counted and what was seen of it, by policy and direction; counters that are gone are left out."""
    found = [
        PolicyCount(
            kind=one.key.kind,
            namespace=one.key.namespace,
            name=one.key.name,
            tier=one.tier,
            direction=one.direction,
            action=one.action.value,
            packets=count_by_name[name].packets,
            bytes=count_by_name[name].size_bytes,
            rule=one.rule,
        )
        for name, one in counted_by_name.items()
        if name in count_by_name
    ]
    return sorted(found, key=_rank)


def _rank(count: PolicyCount) -> _Order:
    rule = -1 if count.rule is None else count.rule
    return _Order(count.kind, count.namespace, count.name, count.direction, rule, count.action)


def show_counts(metrics: Metrics, counts: Iterable[PolicyCount], count_by_name: Mapping[str, Count]) -> None:
    """Metrics say what the kernel counted; of more than SERIES_LIMIT series the last ones are one."""
    packets: dict[tuple[str, ...], float] = {}
    for one in counts:
        if one.rule is not None:
            continue  # there may be very many
        labels = (one.kind, one.namespace, one.name, one.direction, one.action)
        if len(packets) >= SERIES_LIMIT:
            labels = (OTHERS, "", OTHERS, one.direction, one.action)
        packets[labels] = packets.get(labels, 0.0) + one.packets
    metrics.policy_packets.replace(packets)
    metrics.dropped_packets.replace(
        {(reason,): float(count_by_name[reason].packets) for reason in COUNTERS if reason in count_by_name}
    )
