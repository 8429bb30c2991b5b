"""Which prefixes are pools, which of them hide behind their host when they talk to the outside, and where hosts are."""

from __future__ import annotations

from collections.abc import Iterable

from felix.calc.cover import PrefixCover
from felix.calc.desired import HOSTS, MASQUERADED, POOLS, MemberDelta
from felix.errors import Problem, shorten
from felix.model.keys import ResourceKey, format_key
from felix.model.net import Net, parse_net
from felix.model.records import IPPool


class NetCover:
    """Nets that several objects bring; of nets inside one another only the outermost are told."""

    __slots__ = ("_count_by_net", "_cover_by_version")

    def __init__(self) -> None:
        self._count_by_net: dict[Net, int] = {}
        self._cover_by_version = (PrefixCover(4), PrefixCover(6))

    def add(self, net: Net, delta: MemberDelta) -> None:
        """One more object brings `net`."""
        count = self._count_by_net.get(net, 0)
        self._count_by_net[net] = count + 1
        if not count:
            change = self._cover_by_version[net.version == 6].add(net)
            delta.note(change.added, change.removed)

    def remove(self, net: Net, delta: MemberDelta) -> None:
        """One object less brings `net`; at least one did."""
        count = self._count_by_net.pop(net) - 1
        if count:
            self._count_by_net[net] = count
        else:
            change = self._cover_by_version[net.version == 6].remove(net)
            delta.note(change.added, change.removed)


class PoolNets:
    """The named nets of `DesiredDelta.nets`, kept up to date by pools and nodes; costs what changes."""

    def __init__(self) -> None:
        self._pools = NetCover()
        self._masqueraded = NetCover()
        self._hosts = NetCover()
        self._nets_by_key: dict[ResourceKey, tuple[tuple[str, Net], ...]] = {}
        self._delta_by_name: dict[str, MemberDelta] = {}

    def set_pool(self, key: ResourceKey, pool: IPPool | None) -> Problem | None:
        """The pool is so from now on (None: there is none); returns why it counts as none."""
        problem = None
        wanted: list[tuple[str, Net]] = []
        if pool is not None:
            try:
                net = parse_net(pool.spec.cidr)
                wanted = [(POOLS, net), (MASQUERADED, net)] if pool.spec.nat_outgoing else [(POOLS, net)]
            except ValueError as error:
                problem = Problem(format_key(key), "spec.cidr", shorten(pool.spec.cidr), str(error))
        self._set(key, tuple(wanted))
        return problem

    def set_host(self, key: ResourceKey, addresses: Iterable[Net]) -> None:
        """These are the addresses of a host from now on."""
        self._set(key, tuple((HOSTS, net) for net in dict.fromkeys(addresses)))

    def pop_changes(self) -> dict[str, MemberDelta]:
        """Returns what came and went by name since the last call; names without change are left out."""
        changes, self._delta_by_name = self._delta_by_name, {}
        return {name: delta for name, delta in changes.items() if delta.added or delta.removed}

    def _set(self, key: ResourceKey, wanted: tuple[tuple[str, Net], ...]) -> None:
        before = self._nets_by_key.pop(key, ())
        if wanted:
            self._nets_by_key[key] = wanted
        if before == wanted:
            return
        for name, net in wanted:  # first: what stays must not go and come
            self._find_cover(name).add(net, self._delta_by_name.setdefault(name, MemberDelta()))
        for name, net in before:
            self._find_cover(name).remove(net, self._delta_by_name.setdefault(name, MemberDelta()))

    def _find_cover(self, name: str) -> NetCover:
        return {POOLS: self._pools, MASQUERADED: self._masqueraded, HOSTS: self._hosts}[name]
