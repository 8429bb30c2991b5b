"""Whose tracked connections must go: those of addresses that left this host or moved to another interface.

A connection outlives the endpoint that had it; the next owner of the address must not inherit it.
"""

from __future__ import annotations

from collections.abc import Mapping

from felix.calc.desired import LocalEndpoint
from felix.dataplane.conntrack.types import ConntrackResult
from felix.model.keys import ResourceKey
from felix.model.net import Net

ConntrackPlanned = frozenset[Net]
"""Addresses whose entries go, in either direction and on either side of a translation. Empty: nothing to do."""


class ConntrackPlan:
    """Addresses to flush. Pure state; a restart flushes nothing, for nothing has left in its sight."""

    def __init__(self) -> None:
        self._endpoint_by_key: dict[ResourceKey, LocalEndpoint] = {}
        self._pending: set[Net] = set()
        self._since_plan: set[Net] = set()
        self._owners_by_address: dict[Net, int] = {}
        self.reason = ""

    def on_delta(self, endpoints: Mapping[ResourceKey, LocalEndpoint | None]) -> None:
        """These endpoints are wanted from now on, or not any more (None)."""
        for key, endpoint in endpoints.items():
            before = self._endpoint_by_key.pop(key, None)
            has_moved = before is not None and endpoint is not None and before.interface != endpoint.interface
            if before is not None:
                kept = frozenset(endpoint.routed) if endpoint is not None and not has_moved else frozenset()
                lost = [net for net in before.routed if net not in kept]
                self._pending.update(lost)
                self._since_plan.update(lost)
                for net in before.routed:
                    self._count_owner(net, -1)
            if endpoint is not None:
                self._endpoint_by_key[key] = endpoint
                for net in endpoint.routed:
                    self._count_owner(net, 1)

    def plan(self) -> ConntrackPlanned:
        """Returns the addresses to flush now; to be carried out after the rules and routes that end their traffic."""
        self._since_plan.clear()
        return frozenset(self._pending)

    @property
    def has_inherited(self) -> bool:
        """Whether there is something for `plan_inherited`."""
        return any(net in self._owners_by_address for net in self._pending)

    def plan_inherited(self) -> ConntrackPlanned:
        """Returns those of the addresses that have an owner again: to be flushed after the rules that end the traffic
        of the former one, and before the routes that lead to the new one. No other flush may be under way.
        """
        self._since_plan.clear()
        return frozenset(net for net in self._pending if net in self._owners_by_address)

    def absorb(self, planned: ConntrackPlanned, result: ConntrackResult) -> None:
        """The flush ended so. It is not repeated: `reason` says why entries may be left, empty if none are."""
        self._pending -= planned - self._since_plan
        self.reason = result.reason

    def _count_owner(self, net: Net, step: int) -> None:
        count = self._owners_by_address.get(net, 0) + step
        if count:
            self._owners_by_address[net] = count
        else:
            del self._owners_by_address[net]
