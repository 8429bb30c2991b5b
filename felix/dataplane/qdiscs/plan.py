"""Which workload interfaces need a shaper, a filter and a device behind it, and which have others, or none.

Nothing here closes anybody: where the kernel refuses, the endpoint is connected without the limit, and says so.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from typing import NamedTuple, TypeVar

from felix.calc.desired import LocalEndpoint
from felix.dataplane.netlink.message import Refusal
from felix.dataplane.qdiscs.render import DEVICE_PREFIX, device_of, make_shaper
from felix.dataplane.qdiscs.types import (
    QdiscEvent,
    QdiscFound,
    QdiscPlanned,
    QdiscResult,
    RedirectEvent,
    RedirectFound,
    Shaper,
    TrafficEvent,
    TrafficFound,
)
from felix.model.keys import ResourceKey
from felix.reconcile.delta import DeltaTracker

V = TypeVar("V")

_GONE = frozenset({2, 3, 19, 22})  # ENOENT, ESRCH, ENODEV, EINVAL (another's handle): nothing of ours left to remove
_MISSING = frozenset({19})  # ENODEV: it went meanwhile, and the news of that will come


class _Wish(NamedTuple):
    """What an endpoint asks for. inward: towards it. outward: away from it."""

    interface: str
    inward: Shaper | None
    outward: Shaper | None


class QdiscPlan:
    """Desired and believed shapers, filters and devices. Pure state; only what has one, or should, is kept.

    `write_port` is the netlink port of the socket that applies: its echoes are not news.
    """

    def __init__(self, write_port: int = 0) -> None:
        self.write_port = write_port
        self._is_read = False
        self._wish_by_key: dict[ResourceKey, _Wish] = {}
        self._keys_by_interface: dict[str, set[ResourceKey]] = {}
        self._interface_by_device: dict[str, str] = {}
        self._index_by_name: dict[str, int] = {}
        self._name_by_index: dict[int, str] = {}
        self._shapers: DeltaTracker[int, Shaper] = DeltaTracker()
        self._redirects: DeltaTracker[int, int] = DeltaTracker()
        self._devices: DeltaTracker[str, bool] = DeltaTracker()  # the value: whether it is up
        self._refusals: dict[tuple[str, int | str], Refusal] = {}
        self._replay: list[TrafficEvent] | None = None

    # What is wanted

    def on_delta(self, endpoints: Mapping[ResourceKey, LocalEndpoint | None]) -> None:
        """These endpoints are wanted from now on, or not any more (None)."""
        touched: dict[str, None] = {}
        for key, endpoint in endpoints.items():
            before = self._wish_by_key.pop(key, None)
            if before is not None:
                keys = self._keys_by_interface[before.interface]
                keys.discard(key)
                if not keys:
                    del self._keys_by_interface[before.interface]
                touched[before.interface] = None
            wish = None if endpoint is None else _read_wish(endpoint)
            if wish is not None:
                self._wish_by_key[key] = wish
                self._keys_by_interface.setdefault(wish.interface, set()).add(key)
                touched[wish.interface] = None
        for interface in touched:
            self._settle(interface)

    def _settle(self, interface: str) -> None:
        keys = self._keys_by_interface.get(interface)
        wish = self._wish_by_key[min(keys)] if keys else _Wish(interface, None, None)
        device = device_of(interface)
        index = self._index_by_name.get(interface)
        device_index = self._index_by_name.get(device)
        for name, subject in (("shaper", index), ("shaper", device_index), ("redirect", index), ("device", device)):
            if subject is not None:
                self._refusals.pop((name, subject), None)
        if wish.outward is not None and index is not None:
            self._interface_by_device[device] = interface
            self._devices.set_desired(device, True)
        else:
            self._interface_by_device.pop(device, None)
            self._devices.drop_desired(device)
        _want(self._shapers, index, wish.inward)
        _want(self._shapers, device_index, wish.outward if index is not None else None)
        _want(self._redirects, index, device_index if wish.outward is not None else None)

    # What is there

    def on_link(self, index: int, name: str, is_up: bool = True) -> None:
        """The interface `index` is called `name`, and is up or not."""
        before = self._name_by_index.get(index)
        if before != name:
            if before is not None:
                self.on_link_gone(index)
            other = self._index_by_name.get(name)
            if other is not None:
                self.on_link_gone(other)
            self._name_by_index[index] = name
            self._index_by_name[name] = index
        if name.startswith(DEVICE_PREFIX):
            self._devices.note_present(name, is_up)
            interface = self._interface_by_device.get(name)
            if before != name and interface is not None:
                self._settle(interface)
        elif before != name:
            self._settle(name)

    def on_link_gone(self, index: int) -> None:
        """There is no interface `index` any more, or not of the name that it had."""
        name = self._name_by_index.pop(index, None)
        for tracker in (self._shapers, self._redirects):
            tracker.drop_desired(index)
            tracker.note_absent(index)
        for kind in ("shaper", "redirect"):
            self._refusals.pop((kind, index), None)
        if name is None or self._index_by_name.get(name) != index:
            return
        del self._index_by_name[name]
        self._devices.note_absent(name)
        interface = self._interface_by_device.get(name, name)
        if interface in self._keys_by_interface:
            self._settle(interface)

    def on_event(self, event: TrafficEvent) -> bool:
        """A root or a filter of ours changed; returns whether that leaves something to do."""
        if event.port and event.port == self.write_port:
            return False
        if self._replay is not None:
            self._replay.append(event)
        self._take(event)
        return not self.is_settled

    def start_read(self) -> None:
        """A dump begins: events from now on are kept, to be told again after it."""
        self._replay = []

    def replace_believed(self, links: Iterable[tuple[int, str, bool]], found: Iterable[TrafficFound]) -> None:
        """Exactly these interfaces (index, name, up) and this on them were read since `start_read`.

        What was refused before is tried again.
        """
        replay, self._replay = self._replay or [], None
        read = {index: (name, is_up) for index, name, is_up in links}
        for index in self._name_by_index.keys() - read.keys():
            self.on_link_gone(index)
        for index, (name, is_up) in read.items():
            self.on_link(index, name, is_up)
        self._shapers.replace_believed(())
        self._redirects.replace_believed(())
        for one in found:
            match one:
                case QdiscFound(link):
                    self._believe_root(link, one)
                case RedirectFound(link, device):
                    self._redirects.note_present(link, device)
        self._refusals.clear()
        self._is_read = True
        for event in replay:
            self._take(event)

    def _take(self, event: TrafficEvent) -> None:
        match event:
            case QdiscEvent(link, found):
                self._believe_root(link, found)
            case RedirectEvent(link, None):
                self._redirects.note_absent(link)
            case RedirectEvent(link, int(device)):
                self._redirects.note_present(link, device)

    def _believe_root(self, link: int, found: QdiscFound | None) -> None:
        """Others' count as nothing: they give way where a shaper is wanted, and are not ours to remove elsewhere."""
        if found is not None and found.is_ours and found.shaper is not None:
            self._shapers.note_present(link, found.shaper)
        else:
            self._shapers.note_absent(link)

    # What to do

    def plan(self, may_delete: bool) -> QdiscPlanned:
        """Returns what to write and, with `may_delete`, remove; empty before the first read."""
        if not self._is_read or all(one.is_settled for one in (self._shapers, self._redirects, self._devices)):
            return QdiscPlanned()
        refused = self._refusals
        shapers = tuple(one for one in self._shapers.pending_updates() if ("shaper", one[0]) not in refused)
        redirects = tuple(one for one in self._redirects.pending_updates() if ("redirect", one[0]) not in refused)
        devices = tuple(name for name, _ in self._devices.pending_updates() if ("device", name) not in refused)
        planned = QdiscPlanned(devices=devices, shapers=shapers, redirects=redirects)
        if not may_delete:
            return planned
        stale_devices = [name for name in self._devices.pending_deletes() if ("device", name) not in refused]
        return QdiscPlanned(
            stale_redirects=tuple(
                link for link in self._redirects.pending_deletes() if ("redirect", link) not in refused
            ),
            devices=devices,
            stale=tuple(link for link in self._shapers.pending_deletes() if ("shaper", link) not in refused),
            shapers=shapers,
            redirects=redirects,
            stale_devices=tuple(self._index_by_name[name] for name in stale_devices),
        )

    def absorb(self, planned: QdiscPlanned, result: QdiscResult) -> None:
        """The kernel gave these answers; what it refused is not tried again before the next read or another wish.

        Devices are believed when their link is announced, and until it is gone.
        """
        for link, refusal in zip(planned.stale_redirects, result.stale_redirects, strict=True):
            if self._is_gone("redirect", link, refusal):
                self._redirects.note_absent(link)
        for link, refusal in zip(planned.stale, result.stale, strict=True):
            if self._is_gone("shaper", link, refusal):
                self._shapers.note_absent(link)
        for name, refusal in zip(planned.devices, result.devices, strict=True):
            self._is_done("device", name, refusal)
        for (link, shaper), refusal in zip(planned.shapers, result.shapers, strict=True):
            if self._is_done("shaper", link, refusal):
                self._shapers.note_present(link, shaper)
        for (link, device), refusal in zip(planned.redirects, result.redirects, strict=True):
            if self._is_done("redirect", link, refusal):
                self._redirects.note_present(link, device)
        for index, refusal in zip(planned.stale_devices, result.stale_devices, strict=True):
            self._is_gone("device", self._name_by_index.get(index, ""), refusal)

    def _is_gone(self, kind: str, subject: int | str, refusal: Refusal | None) -> bool:
        return refusal in _GONE or self._is_done(kind, subject, refusal)

    def _is_done(self, kind: str, subject: int | str, refusal: Refusal | None) -> bool:
        if refusal is not None and refusal not in _MISSING:
            self._refusals[kind, subject] = refusal
        return refusal is None

    @property
    def is_settled(self) -> bool:
        """Whether nothing is left to do, what was refused aside."""
        return self._is_read and not self.plan(may_delete=True)

    def find_shortfall(self, interface: str) -> str:
        """Returns why the bandwidth of an endpoint is not limited as it asks for; empty when it is."""
        if not self._refusals:
            return ""
        device, index = device_of(interface), self._index_by_name.get(interface)
        device_index = self._index_by_name.get(device)
        asked = {
            "bandwidth towards it is not limited, the kernel refuses a tbf qdisc": ("shaper", index),
            "bandwidth of what it sends is not limited, the kernel refuses an ifb device": ("device", device),
            "bandwidth of what it sends is not limited, the kernel refuses a tbf qdisc": ("shaper", device_index),
            "bandwidth of what it sends is not limited, the kernel refuses a u32 filter with mirred": (
                "redirect",
                index,
            ),
        }
        found = []
        for text, (kind, subject) in asked.items():
            refusal = None if subject is None else self._refusals.get((kind, subject))
            if refusal is not None:
                found.append(f"{text}: {refusal.text or f'errno {int(refusal)}'}")
        return "; ".join(found)


def _read_wish(endpoint: LocalEndpoint) -> _Wish | None:
    limits = endpoint.limits
    if limits is None or (limits.bandwidth_in is None and limits.bandwidth_out is None):
        return None
    inward = make_shaper(limits.bandwidth_in) if limits.bandwidth_in is not None else None
    outward = make_shaper(limits.bandwidth_out) if limits.bandwidth_out is not None else None
    return _Wish(endpoint.interface, inward, outward)


def _want(tracker: DeltaTracker[int, V], index: int | None, value: V | None) -> None:
    if index is None:
        return
    if value is None:
        tracker.drop_desired(index)
    else:
        tracker.set_desired(index, value)
