"""How much there is: the numbers behind the metrics that Calico's dashboards know."""

from __future__ import annotations

from collections import Counter
from dataclasses import dataclass

from felix.model.keys import ResourceKey


@dataclass(frozen=True, slots=True)
class ClusterTotals:
    """Usable records of the whole cluster, by kind; policies are GlobalNetworkPolicy and NetworkPolicy."""

    hosts: int
    host_endpoints: int
    workload_endpoints: int
    tiers: int
    policies: int
    profiles: int


@dataclass(frozen=True, slots=True)
class CalcStats:
    """What is in use on this host, and the totals of the cluster.

    local_endpoints: connected ones. policies: those that are enforced here, without profiles. selectors: of rules,
    each with an address set. set_items: endpoints and network sets of the cluster that have addresses.
    tunnel_ends: other hosts that are reached over VXLAN, per family. tunnel_routes: prefixes at other hosts that pools
    with vxlanMode lead to.
    """

    local_endpoints: int
    policies: int
    selectors: int
    set_items: int
    tunnel_ends: int
    tunnel_routes: int
    cluster: ClusterTotals


class ClusterTally:
    """Which resources are stored, counted by kind."""

    def __init__(self) -> None:
        self._keys: set[ResourceKey] = set()
        self._count_by_kind: Counter[str] = Counter()

    def count(self, key: ResourceKey, *, is_stored: bool) -> None:
        """`key` has a usable record, or has none; told as often as you like."""
        if is_stored == (key in self._keys):
            return
        if is_stored:
            self._keys.add(key)
        else:
            self._keys.remove(key)
        self._count_by_kind[key.kind] += 1 if is_stored else -1

    def get_totals(self) -> ClusterTotals:
        """Returns the totals of now."""
        count = self._count_by_kind
        return ClusterTotals(
            hosts=count["Node"],
            host_endpoints=count["HostEndpoint"],
            workload_endpoints=count["WorkloadEndpoint"],
            tiers=count["Tier"],
            policies=count["GlobalNetworkPolicy"] + count["NetworkPolicy"],
            profiles=count["Profile"],
        )
