"""Which routes of this host differ from what is wanted, and what repairs them without a gap.

A route is wanted for every address of a local endpoint whose interface exists and is up, for every prefix of another
host to which a way is given, and a blackhole for every own block; of several for one prefix, the first of these counts.
The kernel drops the routes of an interface that goes down, the IPv4 ones without a word: link events count.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping, Sequence
from types import MappingProxyType
from typing import NamedTuple

from felix.calc.desired import LocalEndpoint
from felix.dataplane.netlink.message import Refusal
from felix.dataplane.routes.claims import AddressClaims
from felix.dataplane.routes.hops import Hops
from felix.dataplane.routes.types import (
    RTN_BLACKHOLE,
    RTN_UNICAST,
    SCOPE_LINK,
    SCOPE_UNIVERSE,
    Hop,
    RouteConfig,
    RouteEvent,
    RouteKey,
    RouteOperation,
    RoutePlanned,
    RouteResult,
    RouteValue,
    Verb,
)
from felix.model.keys import ResourceKey
from felix.model.net import Net
from felix.reconcile.delta import DeltaTracker

_GONE = frozenset({2, 3, 19})  # ENOENT, ESRCH, ENODEV: nothing left to delete


class _Link(NamedTuple):
    name: str
    is_up: bool


class _LinkNews(NamedTuple):
    interface: int
    link: _Link | None  # None: it is gone


class RoutePlan:
    """Desired and believed routes. Pure state: the driver carries operations to the kernel and results back.

    Nothing is planned before `replace_believed` was called once. Between `start_read` and `replace_believed` no
    operations may be under way. `write_port` is the netlink port of the socket that applies: its echoes are not news.
    """

    def __init__(self, config: RouteConfig, write_port: int = 0) -> None:
        self.config = config
        self.write_port = write_port
        self.needs_read = True
        self._claims = AddressClaims()
        self._hops = Hops()
        self._blocks: set[Net] = set()
        # A believed value is every route at that key: IPv6 and "append" allow several, and we want exactly one.
        self._routes: DeltaTracker[RouteKey, tuple[RouteValue, ...]] = DeltaTracker()
        self._keys_by_index: dict[int, set[RouteKey]] = {}  # believed routes through each interface
        self._link_by_index: dict[int, _Link] = {}
        self._index_by_name: dict[str, int] = {}
        self._refusal_by_key: dict[RouteKey, Refusal] = {}
        self._in_flight: dict[RouteKey, int] = {}  # and the interface of the operation
        self._contested: set[RouteKey] = set()
        self._unheard: set[RouteKey] = set()  # written, and the kernel's echo is still to come
        # Keys where somebody else wrote: a replace there may hit his route and leave ours, which only a read can tell.
        self._suspect: set[RouteKey] = set()
        self._replay: list[RouteEvent | _LinkNews] | None = None
        self._foreign_ports: set[int] = set()
        self._is_read = False

    # What is wanted

    def on_delta(
        self, endpoints: Mapping[ResourceKey, LocalEndpoint | None], blocks: Mapping[Net, bool | None]
    ) -> None:
        """These endpoints and blocks are wanted from now on, or not any more (None)."""
        for net in self._claims.on_delta(endpoints):
            self._settle_net(net)
        for block, wanted in blocks.items():
            if block.is_address:  # it is an endpoint's own route, or nobody's
                continue
            if wanted:
                self._blocks.add(block)
            else:
                self._blocks.discard(block)
            self._settle_net(block)

    def on_hops(self, hops: Mapping[Net, Hop | None]) -> None:
        """These prefixes of other hosts are reached so from now on, or by no way (None)."""
        for net, hop in hops.items():
            self._hops.set_hop(net, hop)
            self._settle_net(net)

    # What is there

    def on_link(self, index: int, name: str, is_up: bool) -> None:
        """The interface `index` is called `name` now, and is administratively up or not."""
        self._hear_link(_LinkNews(index, _Link(name, is_up)))

    def on_link_gone(self, index: int) -> None:
        """There is no interface `index` any more; its routes went with it."""
        self._hear_link(_LinkNews(index, None))

    def replace_links(self, links: Iterable[tuple[int, str, bool]]) -> None:
        """Exactly these interfaces (index, name, up) were read. Whether they flapped meanwhile only a read can tell."""
        read = list(links)
        present = {index for index, _, _ in read}
        for index in self._link_by_index.keys() - present:
            self._drop_link(index)
        for index, name, is_up in read:
            self._take_link(index, _Link(name, is_up))

    def on_route(self, event: RouteEvent) -> bool:
        """One announced change happened; returns whether that may leave something to do."""
        if event.port and event.port == self.write_port:
            self._unheard.discard(event.key)
            return False  # `absorb` tells the same, in the right order
        if self._replay is not None:
            self._replay.append(event)
        is_concerned = self._take_event(event)
        if is_concerned and event.port:
            self._foreign_ports.add(event.port)
        return is_concerned

    def pop_foreign_ports(self) -> set[int]:
        """Returns the netlink ports that changed routes of ours since the last call; mostly the process's pid."""
        ports, self._foreign_ports = self._foreign_ports, set()
        return ports

    def start_read(self) -> None:
        """A dump begins: events from now on are kept, to be told again after it."""
        self._replay = []
        self.needs_read = False

    def replace_believed(self, routes: Iterable[tuple[RouteKey, RouteValue]]) -> None:
        """Exactly these routes of ours were read since `start_read`; later events are told again on top."""
        values_by_key: dict[RouteKey, tuple[RouteValue, ...]] = {}
        for key, value in routes:
            values_by_key[key] = (*values_by_key.get(key, ()), value)
        self._routes.replace_believed(values_by_key.items())
        self._keys_by_index = {}
        for key, values in values_by_key.items():
            self._index_values(key, values)
        desired = self._routes.desired
        self._suspect = {key for key, values in values_by_key.items() if desired.get(key) != values}
        replay, self._replay = self._replay or [], None
        self._refusal_by_key.clear()
        self._is_read = True
        for event in replay:
            if isinstance(event, _LinkNews):
                self._take_link_news(event)
            else:
                self._take_event(event)

    def mark_unknown(self) -> None:
        """What is believed may be wrong (events were lost, a write ended without answer): read before the next plan."""
        self.needs_read = True
        self._replay = None
        self._unheard.clear()

    # What to do

    def plan_removals(self, may_delete: bool) -> RoutePlanned:
        """Returns the deletions that come before everything else; () without `may_delete` or before the first read.

        A route whose prefix is about to be written in another shape (another metric, say) is left for
        `plan_additions`, which removes it after its successor stands.
        """
        if not may_delete or not self._is_read:
            return ()
        renewed = {key.net for key, _ in self._routes.pending_updates()} if self._routes.updates_count else frozenset()
        return self._begin(self._deletes(lambda net: net not in renewed))

    def plan_additions(self, may_delete: bool) -> RoutePlanned:
        """Returns the routes to write, each in one step for its prefix, and then the deletions left over."""
        if not self._is_read:
            return ()
        operations: list[RouteOperation] = []
        # A gateway is only taken where it can be reached, which a route of ours may be for.
        updates = sorted(self._routes.pending_updates(), key=lambda update: update[1][0].gateway is not None)
        for key, (value,) in updates:
            if key in self._refusal_by_key:
                continue
            believed = self._routes.believed.get(key, ())
            if len(believed) > 1:
                if not may_delete:
                    continue
                kept = value if value in believed else believed[0]
                surplus = list(believed)
                surplus.remove(kept)
                operations += [RouteOperation(Verb.DELETE, key, one) for one in surplus]
                believed = (kept,)
            if believed != (value,):
                operations.append(RouteOperation(Verb.REPLACE, key, value))
        if may_delete:
            operations += self._deletes(lambda net: True)
        return self._begin(operations)

    def absorb(self, planned: RoutePlanned, result: RouteResult) -> None:
        """The kernel gave these answers; what it refused is not tried again before something about it changes."""
        for operation, refusal in zip(planned, result.answers, strict=True):
            key, value = operation.key, operation.value
            if operation.verb is Verb.DELETE:
                self.needs_read |= value.is_multipath  # one of several, and which only a read can tell
                if refusal is None or refusal in _GONE:
                    self._believe_without(key, value)
                else:
                    self._refusal_by_key[key] = refusal
                if refusal is not None:
                    self._unheard.discard(key)
            elif refusal is None:
                self.needs_read |= key in self._suspect
                self._suspect.discard(key)
                self._believe(key, (value,))
            else:
                self._unheard.discard(key)
                self._refusal_by_key[key] = refusal
        self._in_flight.clear()
        contested, self._contested = self._contested, set()
        for key in contested:
            self._lose(key)

    def retry_failed(self) -> None:
        """Refused operations are planned again."""
        self._refusal_by_key.clear()

    @property
    def refusal_by_key(self) -> Mapping[RouteKey, Refusal]:
        """What the kernel did not take, and why; a live view."""
        return MappingProxyType(self._refusal_by_key)

    def find_refusal(self, net: Net) -> Refusal | None:
        """Returns why the kernel does not take the route of an address, None if it has not refused it."""
        return self._refusal_by_key.get(self._key_of(net))

    def is_routed(self, net: Net) -> bool:
        """Whether a route is wanted for the address of an endpoint, and is believed to stand as wanted."""
        key = self._key_of(net)
        wanted = self._routes.desired.get(key)
        return wanted is not None and self._routes.believed.get(key) == wanted

    @property
    def is_settled(self) -> bool:
        """Whether nothing is left to do, refused operations aside."""
        return self._is_read and not self.needs_read and not self._open_work()

    @property
    def routes(self) -> DeltaTracker[RouteKey, tuple[RouteValue, ...]]:
        """The tracker, to be looked at (metrics), not changed."""
        return self._routes

    # Wants, from claims and links

    def _key_of(self, net: Net) -> RouteKey:
        return RouteKey(net, self.config.priority4 if net.version == 4 else self.config.priority6)

    def _settle_interface(self, name: str) -> None:
        for net in (*self._claims.nets_of(name), *self._hops.nets_by(name)):
            self._settle_net(net)

    def _settle_net(self, net: Net) -> None:
        self._want(self._key_of(net), self._find_wanted(net))

    def _find_wanted(self, net: Net) -> RouteValue | None:
        interface = self._claims.find_interface(net)
        if interface is not None:
            index = self._find_up(interface)
            scope = SCOPE_LINK if net.version == 4 else SCOPE_UNIVERSE
            return None if index is None else RouteValue(RTN_UNICAST, scope, index)
        hop = self._hops.find_hop(net)
        if hop is not None:
            index = self._find_up(hop.interface)
            scope = SCOPE_LINK if net.version == 4 and hop.gateway is None else SCOPE_UNIVERSE
            is_onlink = hop.gateway is not None
            return None if index is None else RouteValue(RTN_UNICAST, scope, index, (), hop.gateway, is_onlink)
        return RouteValue(RTN_BLACKHOLE, SCOPE_UNIVERSE, 0) if net in self._blocks else None

    def _find_up(self, interface: str) -> int | None:
        """Returns the index of the interface of that name, None if there is none or it is down."""
        index = self._index_by_name.get(interface)
        return index if index is not None and self._link_by_index[index].is_up else None

    def _want(self, key: RouteKey, value: RouteValue | None) -> None:
        self._refusal_by_key.pop(key, None)
        if value is None:
            # What is believed there may be less than what is there; the write that would have told will not come.
            self.needs_read |= key in self._suspect
            self._routes.drop_desired(key)
        else:
            self._routes.set_desired(key, (value,))

    # Interfaces

    def _hear_link(self, news: _LinkNews) -> None:
        if self._replay is not None:
            self._replay.append(news)
        self._take_link_news(news)

    def _take_link_news(self, news: _LinkNews) -> None:
        if news.link is None:
            self._drop_link(news.interface)
        else:
            self._take_link(news.interface, news.link)

    def _take_link(self, index: int, link: _Link) -> None:
        before = self._link_by_index.get(index)
        if before == link:
            return
        other = self._index_by_name.get(link.name)
        if other is not None and other != index:  # its own news, a rename or the end, has not come yet
            self._drop_link(other)
        if before is not None and before.name != link.name and self._index_by_name.get(before.name) == index:
            del self._index_by_name[before.name]
        self._link_by_index[index] = link
        self._index_by_name[link.name] = index
        if not link.is_up:
            self._forget_routes_through(index)
        self._settle_interface(link.name)
        if before is not None and before.name != link.name:
            self._settle_interface(before.name)

    def _drop_link(self, index: int) -> None:
        link = self._link_by_index.pop(index, None)
        self._forget_routes_through(index)
        if link is not None and self._index_by_name.get(link.name) == index:
            del self._index_by_name[link.name]
            self._settle_interface(link.name)

    # Beliefs, from reads, events and answers

    def _believe(self, key: RouteKey, values: tuple[RouteValue, ...]) -> None:
        for value in self._routes.believed.get(key, ()):
            keys = self._keys_by_index.get(value.interface)
            if keys is not None:
                keys.discard(key)
                if not keys:
                    del self._keys_by_index[value.interface]
        self._refusal_by_key.pop(key, None)
        if values:
            self._routes.note_present(key, values)
            self._index_values(key, values)
        else:
            self._routes.note_absent(key)

    def _believe_without(self, key: RouteKey, value: RouteValue) -> None:
        remaining = list(self._routes.believed.get(key, ()))
        if value in remaining:  # IPv6 can hold the same one twice
            remaining.remove(value)
        self._believe(key, tuple(remaining))

    def _index_values(self, key: RouteKey, values: tuple[RouteValue, ...]) -> None:
        for value in values:
            if value.interface:
                self._keys_by_index.setdefault(value.interface, set()).add(key)

    def _forget_routes_through(self, index: int) -> None:
        for key in list(self._keys_by_index.get(index, ())):
            remaining = tuple(one for one in self._routes.believed[key] if one.interface != index)
            self._believe(key, remaining)
        # A write under way may have come before or after the change of the link.
        self._contested.update(key for key, through in self._in_flight.items() if through == index)

    def _take_event(self, event: RouteEvent) -> bool:
        key, value = event.key, event.value
        if key in self._in_flight:  # before or after our own write? `absorb` settles it
            self._contested.add(key)
        elif key in self._unheard:  # it happened before our write, and the write ended with what it says
            self._lose(key)
            return not self.is_settled
        believed = self._routes.believed.get(key, ())
        if not event.is_ours:
            # A foreign route took the place of ours, or of one of several; where that is in doubt already, only a
            # read can tell.
            self.needs_read |= key in self._suspect
            if believed:
                self._suspect.add(key)
                self._lose(key)
            return not self.is_settled
        self.needs_read |= value.is_multipath
        if not event.is_new:
            # Removed in a shape that was never announced; where somebody else wrote, it may be one of several.
            self.needs_read |= bool(believed) and (value not in believed or key in self._suspect)
            self._believe_without(key, value)
            return not self.is_settled
        if event.is_replace:  # of the first one there, which may be none of ours
            self.needs_read |= key in self._suspect or len(believed) > 1
            self._believe(key, (value,))
        elif value not in believed:
            self._believe(key, (*believed, value))
        self._suspect.add(key)
        return not self.is_settled

    def _lose(self, key: RouteKey) -> None:
        if key in self._routes.desired:
            self._suspect.add(key)
            self._believe(key, ())  # writing it again is harmless, believing the wrong thing is not
        else:
            self.needs_read = True

    # Work

    def _deletes(self, is_due: Callable[[Net], bool]) -> list[RouteOperation]:
        return [
            RouteOperation(Verb.DELETE, key, value)
            for key in self._routes.pending_deletes()
            if key not in self._refusal_by_key and is_due(key.net)
            for value in self._routes.believed[key]
        ]

    def _begin(self, operations: Sequence[RouteOperation]) -> RoutePlanned:
        self._contested.clear()
        self._in_flight = {operation.key: operation.value.interface for operation in operations}
        self._unheard.update(self._in_flight)
        return tuple(operations)

    def _open_work(self) -> bool:
        pending = self._routes.updates_count + self._routes.deletes_count
        return pending > len(self._refusal_by_key)
