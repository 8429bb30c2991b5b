"""The VXLAN devices of a kernel and what is on them, with the habits that matter here; tests/contract/test_tunnels.py
holds it against the real one.

A device that goes down loses its neighbours and IPv6 addresses; one that changes its MAC, its neighbours; one that
loses its last IPv4 address, its IPv4 neighbours. No two devices of a family have one VNI and port. Entries do not say
who wrote them. Events wait in a queue until delivered.
"""

from __future__ import annotations

from collections import deque
from dataclasses import dataclass, field
from typing import assert_never

from felix.dataplane.netlink.message import Refusal
from felix.dataplane.tunnels.plan import TunnelPlan
from felix.dataplane.tunnels.types import (
    DEVICE_BY_VERSION,
    VERSION_BY_DEVICE,
    ChangeDevice,
    Device,
    DeviceEvent,
    DeviceFound,
    Item,
    ItemEvent,
    Kind,
    MakeDevice,
    PutItem,
    RemoveDevice,
    RemoveItem,
    TunnelEvent,
    TunnelOperation,
    TunnelPlanned,
    TunnelResult,
    TunnelState,
    Worth,
)
from felix.model.net import Net

OWN_PORT = 77
FOREIGN_PORT = 5
DEFAULT_MTU = 1500
_EXISTS, _MISSING, _NO_ADDRESS, _NO_ENTRY = (
    Refusal(17, "exists"),
    Refusal(19, "no such device"),
    Refusal(99, "no such address"),
    Refusal(2, "no such entry"),
)


@dataclass
class Held:
    """One interface; device None: no VXLAN device. Items are without family."""

    link: int
    kind: str
    device: Device | None
    items: dict[Item, Worth] = field(default_factory=dict)


class FakeTunnels:
    """Everything is public: tests look at `held`, by name."""

    def __init__(self) -> None:
        self.held: dict[str, Held] = {}
        self.queue: deque[TunnelEvent] = deque()
        self.is_refusing = False  # whatever it is told to make or put
        self.writes = 0
        self._next_link = 20

    def make(self, name: str, device: Device | None, kind: str = "vxlan") -> Refusal | None:
        """There is such an interface."""
        ids = [_identify(one.device) for one in self.held.values() if one.device is not None]
        if name in self.held or (device is not None and _identify(device) in ids):
            return _EXISTS
        if device is not None and not device.mtu:
            device = device._replace(mtu=DEFAULT_MTU)
        self.held[name] = Held(self._next_link, kind, device)
        self._next_link += 1
        self._announce(name)
        return None

    def remove(self, name: str) -> Refusal | None:
        """There is no interface of that name."""
        held = self.held.pop(name, None)
        if held is None:
            return _MISSING
        self.queue.append(DeviceEvent(held.link, name, None))
        return None

    def rename(self, name: str, new: str) -> None:
        """The interface has another name."""
        if name in self.held and new not in self.held:
            held = self.held[new] = self.held.pop(name)
            self._announce(new)
            if new not in VERSION_BY_DEVICE:
                held.items.clear()

    def change(self, name: str, device: Device) -> Refusal | None:
        """The VXLAN device is so; what only a new one can be stays."""
        held = self.held[name]
        assert held.device is not None
        is_other = held.device.mac != device.mac
        held.device = device._replace(
            vni=held.device.vni, port=held.device.port, bound=held.device.bound, is_plain=held.device.is_plain
        )
        self._announce(name)
        if not device.is_up or is_other:
            self._drop(name, Kind.NEIGHBOUR, (4, 6))
        if not device.is_up:
            self._drop(name, Kind.ADDRESS, (6,))
        return None

    def _drop(self, name: str, kind: Kind, versions: tuple[int, ...]) -> None:
        for item in _find(self.held[name], kind, versions):
            self.take(name, item, port=0)

    def put(self, name: str, item: Item, worth: Worth, port: int = FOREIGN_PORT) -> Refusal | None:
        """The item is there."""
        held = self.held.get(name)
        if held is None or held.device is None:
            return _MISSING
        if item.kind is not Kind.ENTRY and not held.device.is_up:
            return Refusal(100, "network is down")
        is_six = isinstance(item.subject, Net) and item.subject.version == 6
        if item.kind is Kind.ADDRESS and any(one == item or (is_six and one[:3] == item[:3]) for one in held.items):
            return _EXISTS
        held.items[item] = worth
        self._tell(held, item, worth, True, port)
        return None

    def take(self, name: str, item: Item, port: int = FOREIGN_PORT) -> Refusal | None:
        """The item is not there."""
        held = self.held.get(name)
        if held is None:
            return _MISSING
        if item not in held.items:
            return _NO_ADDRESS if item.kind is Kind.ADDRESS else _NO_ENTRY
        del held.items[item]
        self._tell(held, item, None, False, port)
        if item in _find(Held(0, "", None, {item: None}), Kind.ADDRESS, (4,)) and not _find(held, Kind.ADDRESS, (4,)):
            self._drop(name, Kind.NEIGHBOUR, (4,))
        return None

    def apply(self, planned: TunnelPlanned) -> TunnelResult:
        """What `apply_tunnels` does."""
        answers = tuple(self._apply(operation) for operation in planned)
        self.writes += sum(answer is None for answer in answers)
        return TunnelResult(answers)

    def read(self) -> TunnelState:
        """What `read_tunnels` returns."""
        devices = {
            version: DeviceFound(self.held[name].link, self.held[name].kind, self.held[name].device)
            for version, name in DEVICE_BY_VERSION.items()
            if name in self.held
        }
        items = [
            ItemEvent(held.link, item, worth, True, 0)
            for name, held in self.held.items()
            if name in VERSION_BY_DEVICE
            for item, worth in held.items.items()
        ]
        return TunnelState(devices, items)

    def deliver(self, plan: TunnelPlan, limit: int | None = None) -> None:
        """The plan hears the oldest events, all or up to `limit`."""
        for _ in range(len(self.queue) if limit is None else min(limit, len(self.queue))):
            event = self.queue.popleft()
            if is_concern(plan, event):
                plan.on_event(event)

    def _apply(self, operation: TunnelOperation) -> Refusal | None:
        if self.is_refusing and not isinstance(operation, RemoveDevice | RemoveItem):
            return Refusal(95, "not here")
        match operation:
            case MakeDevice(version, device):
                return self.make(DEVICE_BY_VERSION[version], device)
            case ChangeDevice(_, link, _, device):
                name = self._find_name(link)
                return _MISSING if name is None else self.change(name, device)
            case RemoveDevice(_, link):
                name = self._find_name(link)
                return _MISSING if name is None else self.remove(name)
            case PutItem(link, item, worth):
                name = self._find_name(link)
                return _MISSING if name is None else self.put(name, item._replace(version=0), worth, OWN_PORT)
            case RemoveItem(link, item):
                name = self._find_name(link)
                return _MISSING if name is None else self.take(name, item._replace(version=0), OWN_PORT)
            case _:
                assert_never(operation)

    def _find_name(self, link: int) -> str | None:
        return next((name for name, held in self.held.items() if held.link == link), None)

    def _announce(self, name: str) -> None:
        held = self.held[name]
        found = DeviceFound(held.link, held.kind, held.device) if name in VERSION_BY_DEVICE else None
        self.queue.append(DeviceEvent(held.link, name, found))

    def _tell(self, held: Held, item: Item, worth: Worth, is_there: bool, port: int) -> None:
        port = 0 if item.kind is Kind.ENTRY else port
        self.queue.append(ItemEvent(held.link, item, worth, is_there, port))


def _identify(device: Device) -> tuple[int, int, int]:
    return device.vni, device.port, 4 if device.local is None else device.local.version


def _find(held: Held, kind: Kind, versions: tuple[int, ...]) -> list[Item]:
    return [
        item
        for item in held.items
        if item.kind is kind and isinstance(item.subject, Net) and item.subject.version in versions
    ]


def is_concern(plan: TunnelPlan, event: TunnelEvent) -> bool:
    """Whether `parse_tunnel_events` would have yielded the event."""
    return event.link in plan.links or (not isinstance(event, ItemEvent) and event.name in VERSION_BY_DEVICE)
