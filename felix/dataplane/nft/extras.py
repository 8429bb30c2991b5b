"""Chains of features beside policy: they come and go with what needs them, and a kernel that lacks one costs no more.

Policy fails closed; a feature that the kernel refuses is left out and named, and everybody stays connected. Chains that
hang on a hook exist only as long as somebody needs them, so what nobody uses costs no packet anything.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterable, Mapping
from types import MappingProxyType

from felix.calc.desired import (
    HOSTS,
    MASQUERADED,
    POOLS,
    TUNNEL_PEERS,
    DesiredDelta,
    LocalEndpoint,
    MemberDelta,
    SourceRate,
)
from felix.dataplane.nft.base import declare
from felix.dataplane.nft.cuts import CutBook
from felix.dataplane.nft.elements import name_key, range_key
from felix.dataplane.nft.floating import FloatingBook
from felix.dataplane.nft.floods import FLOOD_TO, flood_objects, rate_chain, rate_objects, render_floods, render_rate
from felix.dataplane.nft.hosts import HOST_PREFIX
from felix.dataplane.nft.limits import (
    CLASSES,
    LIMIT_MAPS,
    class_chain,
    needed_chains,
    render_class,
    render_limit_hooks,
    render_limits,
)
from felix.dataplane.nft.members import MemberBook
from felix.dataplane.nft.nat import net_set, render_nat
from felix.dataplane.nft.tunnels import TUNNEL_GUARD, TUNNEL_PREFIX, render_tunnels
from felix.dataplane.nft.types import ApplyResult, ElementShape, Lines, NftConfig, ObjectName
from felix.model.net import Net
from felix.reconcile.delta import DeltaTracker

_PREFIXES = ("nat-", "limit-", "limits-", "dscp-", "flood-", "cut-", HOST_PREFIX, TUNNEL_PREFIX)
_HOOK = "type "
_RANGES = {4: ElementShape.IPV4_RANGE, 6: ElementShape.IPV6_RANGE}


def is_extra(chain: str) -> bool:
    """Whether a chain of that name belongs to a feature."""
    return chain.startswith(_PREFIXES)


class Extras:
    """Wanted and believed chains of features, and the sets and maps that they look into."""

    def __init__(self, config: NftConfig, objects: DeltaTracker[ObjectName, Lines], members: MemberBook) -> None:
        self._config = config
        self._tracker: DeltaTracker[str, Lines] = DeltaTracker()
        self._objects = objects
        self._members = members
        self._nets = _NetSets(objects, members)
        self._floating = FloatingBook(objects, members)
        self.cuts = CutBook(objects, members)
        self._used_maps: set[str] = set()
        self._users_by_class: Counter[int] = Counter()
        self._tunnels: dict[int, Net] = {}  # to this host's own address
        self._users_by_rate: Counter[SourceRate] = Counter()
        self._devices: frozenset[int] = frozenset()
        for name, lines in flood_objects(config.flood).items():
            objects.set_desired(name, lines)
        self._skipped: dict[str, tuple[Lines, str]] = {}
        self._hooked: frozenset[str] = frozenset()
        self._others: Mapping[str, Lines] = {}
        self.version = 0  # changes when something is left out, or no longer is

    @property
    def tracker(self) -> DeltaTracker[str, Lines]:
        """Wanted and believed lines by chain, to be looked at."""
        return self._tracker

    @property
    def reason_by_chain(self) -> Mapping[str, str]:
        """Why the kernel does not have a chain as it should be."""
        return MappingProxyType({chain: reason for chain, (_, reason) in self._skipped.items()})

    def on_delta(self, delta: DesiredDelta) -> None:
        """Pools, hosts and tunnels are other ones from now on; endpoints are told by `claim` and `release`."""
        for name, change in delta.nets.items():
            self._nets.change(name, change)
        for version, vtep in delta.own_vteps.items():
            if vtep is None:
                self._tunnels.pop(version, None)
            else:
                self._tunnels[version] = vtep.parent

    @property
    def tunnels(self) -> Mapping[int, Net]:
        """The families in which this host is to have a tunnel, with its own address in each."""
        return self._tunnels

    def on_tunnel_devices(self, versions: frozenset[int]) -> bool:
        """Devices of tunnels of these families stand, wanted or not: nobody else's packets may come out of them.

        Returns whether that is news; then call `settle`.
        """
        is_news = versions != self._devices
        self._devices = versions
        return is_news

    @property
    def guards_tunnels(self) -> bool:
        """Whether the kernel is believed to take packets of tunnels from known hosts only."""
        wanted = self._render_tunnels().get(TUNNEL_GUARD)
        return wanted is None or self._tracker.believed.get(TUNNEL_GUARD) == wanted

    def _render_tunnels(self) -> dict[str, Lines]:
        return render_tunnels(self._config.vxlan_port, self._tunnels, self._devices.union(self._tunnels))

    def claim(self, endpoint: LocalEndpoint) -> None:
        """The endpoint has the external addresses and limits that it asks for, as soon as `settle` was called.

        Nobody else has its interface and its addresses.
        """
        if endpoint.floating and self._config.nat.has_floating:
            self._floating.claim(endpoint.floating)
        if endpoint.limits is not None:
            interface = name_key(endpoint.interface)
            for map_, (chain, lines) in render_limits(endpoint.interface, endpoint.limits).items():
                self._open_map(map_)
                self._want(chain, lines)
                self._members.want(map_, interface, chain)
            dscp = endpoint.limits.dscp
            if dscp is not None:
                self._users_by_class[dscp] += 1
                self._open_map(CLASSES)
                self._members.want(CLASSES, interface, class_chain(dscp))
            rate = endpoint.limits.per_source
            if rate is not None:
                self._open_map(FLOOD_TO)
                self._members.want(FLOOD_TO, interface, rate_chain(rate))
                self._add_rate(rate)

    def release(self, endpoint: LocalEndpoint) -> None:
        """The endpoint, which was claimed, has nothing."""
        if endpoint.floating and self._config.nat.has_floating:
            self._floating.release(endpoint.floating)
        if endpoint.limits is not None:
            interface = name_key(endpoint.interface)
            for map_, (chain, _) in render_limits(endpoint.interface, endpoint.limits).items():
                self._drop(chain)
                self._members.drop(map_, interface)
            dscp = endpoint.limits.dscp
            if dscp is not None:
                self._users_by_class[dscp] -= 1
                self._members.drop(CLASSES, interface)
            rate = endpoint.limits.per_source
            if rate is not None:
                self._members.drop(FLOOD_TO, interface)
                self._drop_rate(rate)

    def settle(self, others: Mapping[str, Lines] | None = None) -> None:
        """Wanted chains follow everything that was told; call it after changes.

        others: chains that are wanted besides, as decided elsewhere; None: those that were given last.
        """
        if others is not None:
            self._others = others
        for map_ in [map_ for map_ in self._used_maps if not self._members.count(map_)]:
            self._close_map(map_)
        masqueraded = self._nets.versions(MASQUERADED)
        floating = self._floating.settle()
        self._nets.need(MASQUERADED, is_needed=bool(masqueraded))
        classes = [dscp for dscp, users in self._users_by_class.items() if users]
        has_sources = self._config.flood.per_s or self._users_by_rate
        self._nets.need(POOLS, is_needed=bool(masqueraded or floating or classes or has_sources))
        self._nets.need(HOSTS, is_needed=bool(masqueraded and self._config.nat.spares_hosts))
        self._nets.need(TUNNEL_PEERS, is_needed=bool(self._tunnels or self._devices))
        hooked = {
            **self._others,
            **self._render_tunnels(),
            **render_nat(self._config.nat, masqueraded, floating),
            **{class_chain(dscp): render_class(dscp) for dscp in classes},
            **render_limit_hooks(self._used_maps),
            **render_floods(self._config),
            **self.cuts.settle(),
        }
        for chain in self._hooked - hooked.keys():
            self._drop(chain)
        for chain, lines in hooked.items():
            self._want(chain, lines)
        self._hooked = frozenset(hooked)

    def find_shortfall(self, endpoint: LocalEndpoint) -> str:
        """Returns which limits of an endpoint the kernel does not have, and why; empty when all is well."""
        if not self._skipped or endpoint.limits is None:
            return ""
        missing = sorted(needed_chains(endpoint.interface, endpoint.limits) & self._skipped.keys())
        return "; ".join(f"not limited as wanted, the kernel refuses {one}: {self._skipped[one][1]}" for one in missing)

    def _add_rate(self, rate: SourceRate) -> None:
        self._users_by_rate[rate] += 1
        if self._users_by_rate[rate] == 1:
            for name, lines in rate_objects(rate).items():
                self._objects.set_desired(name, lines)
            self._want(rate_chain(rate), render_rate(rate))

    def _drop_rate(self, rate: SourceRate) -> None:
        self._users_by_rate[rate] -= 1
        if not self._users_by_rate[rate]:
            del self._users_by_rate[rate]
            self._drop(rate_chain(rate))
            for name in rate_objects(rate):
                self._objects.drop_desired(name)

    def _open_map(self, map_: str) -> None:
        if map_ not in self._used_maps:
            self._used_maps.add(map_)
            self._members.open_set(map_, LIMIT_MAPS[map_])
            self._objects.set_desired(ObjectName("map", map_), declare(LIMIT_MAPS[map_]))

    def _close_map(self, map_: str) -> None:
        self._used_maps.remove(map_)
        self._members.close_set(map_)
        self._objects.drop_desired(ObjectName("map", map_))

    def retry(self, prefix: str) -> None:
        """Chains whose names begin so and that were refused are wanted again: what they lead to is another thing."""
        for chain in [chain for chain in self._skipped if chain.startswith(prefix)]:
            lines, _ = self._skipped.pop(chain)
            self._tracker.set_desired(chain, lines)
            self.version += 1

    # --- The kernel ---

    def replace_believed(self, chains: Iterable[tuple[str, Lines]]) -> None:
        """Exactly these chains of features were read. What was refused before is tried again."""
        skipped, self._skipped = self._skipped, {}
        for chain, (lines, _) in skipped.items():
            self._tracker.set_desired(chain, lines)
        self.version += bool(skipped)
        self._tracker.replace_believed(chains)

    def plan(self) -> tuple[tuple[str, Lines], ...]:
        """Returns the chains to write, none before one that it refers to."""
        return tuple(
            sorted(self._tracker.pending_updates(), key=lambda item: (is_hooked(item[1]), item[0] not in self._hooked))
        )

    def absorb(self, planned: Iterable[tuple[str, Lines]], result: ApplyResult) -> None:
        """The kernel took what `result` says."""
        written = set(result.chains)
        for chain, lines in planned:
            if chain in written:
                self._tracker.note_present(chain, lines)
            elif chain in result.skipped:
                self._skip(chain, lines, result.skipped[chain])

    def _skip(self, chain: str, lines: Lines, reason: str) -> None:
        is_wanted = self._tracker.desired.get(chain) == lines
        if is_guard(chain) and chain in self._tracker.believed:
            if is_wanted:
                self._tracker.set_desired(chain, self._tracker.believed[chain])
        elif is_hooked(lines):
            self._tracker.note_absent(chain)
            self._tracker.drop_desired(chain)
        else:
            self._tracker.note_present(chain, ())
            if is_wanted:
                self._tracker.set_desired(chain, ())
        if is_wanted:
            self._skipped[chain] = lines, reason
            self.version += 1

    def _want(self, chain: str, lines: Lines) -> None:
        skipped = self._skipped.get(chain)
        if skipped is not None:
            if skipped[0] == lines:
                return
            del self._skipped[chain]
            self.version += 1
        self._tracker.set_desired(chain, lines)

    def _drop(self, chain: str) -> None:
        self.version += self._skipped.pop(chain, None) is not None
        self._tracker.drop_desired(chain)


def is_hooked(lines: Lines) -> bool:
    """Whether the kernel leads packets to a chain with these lines by itself."""
    return bool(lines) and lines[0].startswith(_HOOK)


def is_guard(chain: str) -> bool:
    """Whether interfaces of the host, or tunnels, are open without that chain: refused, it stays as it was."""
    return chain.startswith(HOST_PREFIX) or chain == TUNNEL_GUARD


class _NetSets:
    """Named nets as interval sets, one per family; those exist that a rule looks into."""

    def __init__(self, objects: DeltaTracker[ObjectName, Lines], members: MemberBook) -> None:
        self._objects = objects
        self._members = members
        self._nets_by_name: dict[str, set[Net]] = {}
        self._needed: set[str] = set()

    def change(self, name: str, delta: MemberDelta) -> None:
        """Nets of that name came and went."""
        nets = self._nets_by_name.setdefault(name, set())
        nets -= delta.removed
        nets |= delta.added
        if name in self._needed:
            for net in delta.removed:
                self._members.drop(net_set(name, net.version), range_key(net)[1])
            for net in delta.added:
                self._members.want(net_set(name, net.version), range_key(net)[1])

    def versions(self, name: str) -> frozenset[int]:
        """Returns the families of the nets of that name."""
        return frozenset(net.version for net in self._nets_by_name.get(name, ()))

    def need(self, name: str, *, is_needed: bool) -> None:
        """The kernel has the nets of that name, or need not."""
        if is_needed == (name in self._needed):
            return
        self._needed ^= {name}
        for version, shape in _RANGES.items():
            set_ = net_set(name, version)
            if is_needed:
                self._members.open_set(set_, shape)
                self._objects.set_desired(ObjectName("set", set_), declare(shape))
            else:
                self._members.close_set(set_)
                self._objects.drop_desired(ObjectName("set", set_))
        if is_needed:
            for net in self._nets_by_name.get(name, ()):
                self._members.want(net_set(name, net.version), range_key(net)[1])
