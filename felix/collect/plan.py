"""Since when what has been wrong, and what is due. Pure: the collector's whole judgement.

Nothing is due that was not seen, unchanged, at every look for a whole grace period by this one tracker. A look that
comes so late that nobody can say what was in between begins everything anew.
"""

from __future__ import annotations

from collections.abc import Hashable, Iterable, Mapping
from typing import Generic, TypeVar

from felix.collect.findings import count_given, find_findings
from felix.collect.hosts import Holding, find_holdings, judge_hosts
from felix.collect.types import (
    KINDS,
    AddressLeak,
    Due,
    Finding,
    Graces,
    HostState,
    LostHost,
    Reach,
    World,
    kind_of,
)
from felix.datastore.fence import FenceState
from felix.ipam.audit import audit

TOLERATED_ADDRESSES = 10
"""So many addresses may always go at once, and up to half of all."""

K = TypeVar("K", bound=Hashable)


class Since(Generic[K]):
    """Since when each of some things has been so, without a break."""

    def __init__(self) -> None:
        self._since: dict[K, float] = {}

    def note(self, present: Iterable[K], now: float) -> None:
        """These are so now, and no others."""
        self._since = {one: self._since.get(one, now) for one in present}

    def age_s(self, one: K, now: float) -> float:
        """Returns for how long a thing that is so has been so."""
        return now - self._since[one]

    def clear(self) -> None:
        """Nothing is known to have been so before."""
        self._since.clear()


class Tracker:
    """What one collector has seen. name: of its own host, which lives as long as somebody asks."""

    def __init__(self, name: str) -> None:
        self._name = name
        self._findings: Since[Finding] = Since()
        self._hosts: Since[tuple[str, int]] = Since()
        self._looked_at: float | None = None

    def restart(self) -> None:
        """Everything that is found next is found for the first time."""
        self._findings.clear()
        self._hosts.clear()
        self._looked_at = None

    def on_world(self, world: World, reach: Reach, graces: Graces, now: float) -> Due:
        """Returns what is due at `now`, the moment before `world` was read."""
        longest_s = max(graces.shortest_s, 0.0)
        if self._looked_at is not None and now - self._looked_at > longest_s:
            self.restart()
        self._looked_at = now
        found = audit(world.inventory)
        findings = list(find_findings(world.inventory, found))
        self._findings.note(findings, now)
        due = [one for one in findings if graces.leak_s and self._findings.age_s(one, now) >= graces.leak_s]
        held: list[str] = []
        if reason := _hold_addresses(due, world):
            held.append(reason)
            due = [one for one in due if not isinstance(one, AddressLeak)]
        holdings = find_holdings(world.inventory)
        states = dict(judge_hosts(world, holdings, reach))
        states.pop(self._name, None)
        resume = tuple(
            fence
            for host, fence in world.fences.items()
            if fence.state is FenceState.CLEANING and host not in world.alive and host != self._name
        )
        lost = self._find_lost(world, holdings, states, graces, now)
        if lost and reach.blindness:
            held.append(f"{len(lost)} hosts seem to be lost, but {reach.blindness}")
            lost = []
        elif reason := _hold_hosts(lost, world, holdings):
            held.append(reason)
            lost = []
        counts = dict.fromkeys((*KINDS, "kept"), 0)
        for one in findings:
            counts[kind_of(one)] += 1
        counts["kept"] = sum(bool(leak.kept) for leak in found.leaks)
        return Due(
            tuple(due),
            tuple(lost),
            resume,
            tuple(fence for host, fence in world.fences.items() if host in world.alive),
            tuple(held),
            counts,
            states,
        )

    def _find_lost(
        self,
        world: World,
        holdings: Mapping[str, Holding],
        states: Mapping[str, HostState],
        graces: Graces,
        now: float,
    ) -> list[LostHost]:
        """Returns the hosts that have been silent for long enough. An endpoint of it that changes is a sign of life."""
        silent = {
            host: holdings[host].newest
            for host, state in states.items()
            if state is HostState.SILENT and not _is_being_cleaned(world, host)
        }
        self._hosts.note(silent.items(), now)
        lost = []
        for host, newest in silent.items():
            # A person who deletes the Node says that the host will not come back.
            grace_s = graces.lost_host_s if host in world.inventory.hosts else graces.leak_s
            age_s = self._hosts.age_s((host, newest), now)
            if grace_s and age_s >= grace_s:
                lost.append(LostHost(host, age_s))
        return lost


def _is_being_cleaned(world: World, host: str) -> bool:
    fence = world.fences.get(host)
    return fence is not None and fence.state is FenceState.CLEANING


def _hold_addresses(due: Iterable[Finding], world: World) -> str:
    """Returns why so many addresses are not taken back by themselves: endpoints may have been deleted by mistake."""
    count = sum(isinstance(one, AddressLeak) for one in due)
    if count <= TOLERATED_ADDRESSES:
        return ""
    given = count_given(world.inventory)
    if 2 * count <= given:
        return ""
    return (
        f"{count} of {given} addresses have no endpoint: so many are not taken back without a person's word; "
        "see felix ipam release --from-report"
    )


def _hold_hosts(lost: Iterable[LostHost], world: World, holdings: Mapping[str, Holding]) -> str:
    """Returns why so many hosts are not given up: it may be the collector that is cut off."""
    missed = [one.name for one in lost if one.name in world.inventory.hosts]
    known = len({*holdings, *world.alive})
    if len(missed) <= 1 or 2 * len(missed) <= known:
        return ""
    return (
        f"{len(missed)} of {known} hosts seem to be lost: so many are not given up without a person's word; "
        f"see felix ipam release --host {missed[0]} --force"
    )
