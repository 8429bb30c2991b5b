"""Which workload interfaces are there, and what on them differs from what their endpoints need.

Nothing is wanted of an interface before it exists and is up. An interface that went down and came back is verified
anew, and its permanent neighbours are written again: the kernel drops them with the link.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping

from felix.calc.desired import LocalEndpoint
from felix.dataplane.links.render import is_safe_name, render_host_settings, render_settings
from felix.dataplane.links.types import (
    HOST,
    Link,
    LinkConfig,
    LinkEvent,
    LinkGone,
    LinkPlanned,
    LinkResult,
    LinkState,
    NeighbourEvent,
    NeighbourKey,
    NeighbourValue,
    SettingEvent,
    Settings,
)
from felix.dataplane.netlink.message import Refusal
from felix.model.keys import ResourceKey
from felix.reconcile.delta import DeltaTracker

_GONE = frozenset({2, 3, 6, 19})  # ENOENT, ESRCH, ENXIO, ENODEV: nothing left to remove


class LinkPlan:
    """Interfaces of this namespace, and desired and believed settings and neighbours. Pure state.

    Nothing is planned before `replace_believed` was called once. Between `start_read` and `replace_believed` no plan
    may be under way. `write_port` is the netlink port of the socket that applies: its echoes are not news.
    """

    def __init__(self, config: LinkConfig, write_port: int = 0) -> None:
        self.config = config
        self.write_port = write_port
        self.needs_read = True
        self._is_read = False
        self._endpoint_by_key: dict[ResourceKey, LocalEndpoint] = {}
        self._claims_by_interface: dict[str, dict[ResourceKey, LocalEndpoint]] = {}
        self._link_by_index: dict[int, Link] = {}
        self._index_by_name: dict[str, int] = {}
        self._settings: DeltaTracker[int, Settings] = DeltaTracker()
        self._neighbours: DeltaTracker[NeighbourKey, NeighbourValue] = DeltaTracker()
        self._desired_by_index: dict[int, tuple[NeighbourKey, ...]] = {}
        self._believed_by_index: dict[int, set[NeighbourKey]] = {}
        self._reason_by_link: dict[int, str] = {}
        self._refusal_by_neighbour: dict[NeighbourKey, Refusal] = {}
        self._touched: set[int] = set()  # links with news since the last plan
        self._replay: list[LinkEvent] | None = None
        self._state_by_endpoint: dict[ResourceKey, LinkState] = {}
        self._changed_states: dict[ResourceKey, LinkState] = {}
        if config.has_host_forwarding:
            self._settings.set_desired(HOST, render_host_settings(config))

    # What is wanted

    def on_delta(self, endpoints: Mapping[ResourceKey, LocalEndpoint | None]) -> None:
        """These endpoints are wanted from now on, or not any more (None). What was set for a former one stays set,
        except its permanent neighbours; unclaimed interfaces are closed by rules, not by switches.
        """
        touched: dict[str, None] = {}
        for key, endpoint in endpoints.items():
            before = self._endpoint_by_key.pop(key, None)
            if before is not None:
                claims = self._claims_by_interface[before.interface]
                del claims[key]
                if not claims:
                    del self._claims_by_interface[before.interface]
                touched[before.interface] = None
                self._state_by_endpoint.pop(key, None)
                self._changed_states.pop(key, None)
            if endpoint is not None:
                self._endpoint_by_key[key] = endpoint
                self._claims_by_interface.setdefault(endpoint.interface, {})[key] = endpoint
                touched[endpoint.interface] = None
        for name in touched:
            self._settle_interface(name)

    # What is there

    def on_event(self, event: LinkEvent) -> None:
        """One announced change happened."""
        if self._replay is not None:
            self._replay.append(event)
        self._take_event(event)

    def start_read(self) -> None:
        """Dumps begin: events from now on are kept, to be told again after them."""
        self._replay = []
        self.needs_read = False

    def replace_believed(
        self, links: Iterable[Link], neighbours: Iterable[tuple[NeighbourKey, NeighbourValue]]
    ) -> None:
        """Exactly these interfaces and permanent neighbours were read since `start_read`.

        All settings count as unverified: an interface may have gone and come back unseen.
        """
        replay, self._replay = self._replay or [], None
        self._is_read = True
        read = {link.index: link for link in links}
        for index in self._link_by_index.keys() - read.keys():
            self._drop_link(index)
        for link in read.values():
            self._take_link(link)
        ours = {key: value for key, value in neighbours if value.is_ours}
        self._neighbours.replace_believed(ours.items())
        self._believed_by_index = {}
        for key in ours:
            self._believed_by_index.setdefault(key.link, set()).add(key)
        self.retry_failed()
        self.verify_settings()
        for event in replay:
            self._take_event(event)

    def mark_unknown(self) -> None:
        """What is believed may be wrong (events were lost, a write ended without answer): read before the next plan."""
        self.needs_read = True
        self._replay = None

    def verify_settings(self) -> None:
        """The next plan reads every setting again and mends what is wrong: most of them change without an event."""
        self._settings.replace_believed(())

    # What to do

    def plan(self, may_delete: bool) -> LinkPlanned:
        """Returns what to verify, write and, with `may_delete`, remove; empty before the first read."""
        self._touched.clear()
        if not self._is_read:
            return LinkPlanned()
        return LinkPlanned(
            tuple(value for key, value in self._settings.pending_updates() if key not in self._reason_by_link),
            tuple(one for one in self._neighbours.pending_updates() if one[0] not in self._refusal_by_neighbour),
            tuple(key for key in self._neighbours.pending_deletes() if key not in self._refusal_by_neighbour)
            if may_delete
            else (),
        )

    def absorb(self, planned: LinkPlanned, result: LinkResult) -> None:
        """The plan ended so; what failed is not tried again before its interface changes or `retry_failed`."""
        for settings in planned.settings:
            reason = result.reason_by_link.get(settings.link)
            if settings.link in self._touched:
                continue  # before or after the change? verify it again
            if reason is None:
                self._settings.note_present(settings.link, settings)
                if settings.link not in self._settings.desired:
                    self._settings.note_absent(settings.link)
            else:
                self._reason_by_link[settings.link] = reason
        for (key, value), refusal in zip(planned.neighbours, result.neighbours, strict=True):
            if refusal is None and key.link not in self._touched:
                self._believe(key, value)
            elif refusal is not None and key.link not in self._touched:
                self._refusal_by_neighbour[key] = refusal
        for key, refusal in zip(planned.stale_neighbours, result.stale_neighbours, strict=True):
            if refusal is None or refusal in _GONE:
                self._believe(key, None)
            else:
                self._refusal_by_neighbour[key] = refusal

    def retry_failed(self) -> None:
        """What failed is planned again."""
        self._refusal_by_neighbour.clear()
        self._reason_by_link.clear()

    @property
    def is_settled(self) -> bool:
        """Whether nothing is left to do, failures aside."""
        open_settings = self._settings.updates_count - len(self._reason_by_link)
        open_neighbours = self._neighbours.updates_count + self._neighbours.deletes_count
        is_done = open_settings <= 0 and open_neighbours <= len(self._refusal_by_neighbour)
        return self._is_read and not self.needs_read and is_done

    # What others want to know

    @property
    def links(self) -> Iterable[Link]:
        """Every interface known now; a live view."""
        return self._link_by_index.values()

    def find_link(self, name: str) -> Link | None:
        """Returns the interface of that name, None if there is none."""
        index = self._index_by_name.get(name)
        return None if index is None else self._link_by_index[index]

    def pop_states(self) -> dict[ResourceKey, LinkState]:
        """Returns the state of the interface of every endpoint where it changed since the last call."""
        changed, self._changed_states = self._changed_states, {}
        return changed

    @property
    def reason_by_interface(self) -> dict[str, str]:
        """Why settings or neighbours of an interface could not be made, by its name."""
        reasons: dict[str, str] = {
            name: "the name cannot stand for one interface under /proc/sys"
            for name in self._claims_by_interface
            if not is_safe_name(name)
        }
        for index, reason in self._reason_by_link.items():
            reasons[self._name_of(index)] = reason
        for key, refusal in self._refusal_by_neighbour.items():
            reasons[self._name_of(key.link)] = f"neighbour {key.address.address}: errno {int(refusal)} {refusal.text}"
        return reasons

    @property
    def sysctls_desired(self) -> Mapping[int, Settings]:
        """Wanted settings by interface index, HOST for the host; a live, read-only view."""
        return self._settings.desired

    @property
    def failed_count(self) -> int:
        """How many settings and neighbours wait for a retry."""
        return len(self._reason_by_link) + len(self._refusal_by_neighbour)

    # Wants, from claims and links

    def _settle_interface(self, name: str) -> None:
        claims = self._claims_by_interface.get(name)
        endpoint = claims[min(claims)] if claims else None
        link = self.find_link(name)
        if link is not None:
            is_wanted = endpoint is not None and link.is_up and is_safe_name(name)
            self._reason_by_link.pop(link.index, None)
            settings = None
            if is_wanted and endpoint is not None:
                is_spoofing = self.config.allows_spoofing and bool(endpoint.spoofed)
                settings = render_settings(self.config, link.index, name, is_spoofing=is_spoofing)
            self._want_settings(link.index, settings)
            self._want_neighbours(link.index, endpoint if is_wanted else None)
        if endpoint is not None:
            self._note_state(endpoint.key, link)

    def _want_settings(self, index: int, settings: Settings | None) -> None:
        if settings is not None:
            self._settings.set_desired(index, settings)
        else:
            self._settings.drop_desired(index)
            self._settings.note_absent(index)  # whatever is set there stays; nobody vouches for it any more

    def _want_neighbours(self, index: int, endpoint: LocalEndpoint | None) -> None:
        wanted: dict[NeighbourKey, NeighbourValue] = {}
        if endpoint is not None and endpoint.mac is not None:
            value = NeighbourValue(bytes.fromhex(endpoint.mac.replace(":", "")), True)
            families = (4, 6) if self.config.has_ipv6 else (4,)
            wanted = {NeighbourKey(index, net): value for net in endpoint.addresses if net.version in families}
        for key in self._desired_by_index.pop(index, ()):
            self._refusal_by_neighbour.pop(key, None)
            if key not in wanted:
                self._neighbours.drop_desired(key)
        for key, value in wanted.items():
            self._neighbours.set_desired(key, value)
        if wanted:
            self._desired_by_index[index] = tuple(wanted)

    def _note_state(self, key: ResourceKey, link: Link | None) -> None:
        state = LinkState.ABSENT if link is None else LinkState.UP if link.is_operational else LinkState.DOWN
        if self._state_by_endpoint.get(key) is not state:
            self._state_by_endpoint[key] = state
            self._changed_states[key] = state

    # Beliefs, from reads, events and answers

    def _take_event(self, event: LinkEvent) -> None:
        match event:
            case Link():
                self._take_link(event)
            case LinkGone(index):
                self._drop_link(index)
            case NeighbourEvent(key, value, port):
                if port and port == self.write_port:
                    return  # `absorb` tells the same, in the right order
                is_ours = value is not None and value.is_ours
                if key in self._neighbours.desired or key in self._neighbours.believed or is_ours:
                    self._touched.add(key.link)
                    self._believe(key, value if is_ours else None)
            case SettingEvent(index, is_as_wanted):
                if not is_as_wanted:
                    self._touched.add(index)
                    self._settings.note_absent(index)

    def _take_link(self, link: Link) -> None:
        before = self._link_by_index.get(link.index)
        if before == link:
            return
        other = self._index_by_name.get(link.name)
        if other is not None and other != link.index:  # its own news, a rename or the end, has not come yet
            self._drop_link(other)
        is_renamed = before is not None and before.name != link.name
        if before is not None and is_renamed and self._index_by_name.get(before.name) == link.index:
            del self._index_by_name[before.name]
        self._link_by_index[link.index] = link
        self._index_by_name[link.name] = link.index
        if before is None or is_renamed or before.is_up != link.is_up:
            self._touched.add(link.index)
            self._settings.note_absent(link.index)
            if not link.is_up:
                self._forget_neighbours(link.index)
        if before is not None and is_renamed:
            self._settle_interface(before.name)
        self._settle_interface(link.name)

    def _drop_link(self, index: int) -> None:
        link = self._link_by_index.pop(index, None)
        if link is None:
            return
        self._touched.add(index)
        self._reason_by_link.pop(index, None)
        self._want_settings(index, None)
        self._want_neighbours(index, None)
        self._forget_neighbours(index)
        if self._index_by_name.get(link.name) == index:
            del self._index_by_name[link.name]
            self._settle_interface(link.name)

    def _forget_neighbours(self, index: int) -> None:
        for key in list(self._believed_by_index.get(index, ())):
            self._believe(key, None)

    def _believe(self, key: NeighbourKey, value: NeighbourValue | None) -> None:
        self._refusal_by_neighbour.pop(key, None)
        if value is not None:
            self._neighbours.note_present(key, value)
            self._believed_by_index.setdefault(key.link, set()).add(key)
            return
        self._neighbours.note_absent(key)
        keys = self._believed_by_index.get(key.link)
        if keys is not None:
            keys.discard(key)
            if not keys:
                del self._believed_by_index[key.link]

    def _name_of(self, index: int) -> str:
        link = self._link_by_index.get(index)
        return link.name if link is not None else f"interface {index}"
