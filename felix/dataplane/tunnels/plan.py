"""What of the VXLAN devices, and of what is on them, differs from what is wanted, and what mends it.

A device is changed in place where the kernel can, else made anew. After every change of a device all is read again:
what went with it, or did not, the kernel says in part only.
"""

from __future__ import annotations

from collections.abc import Collection, Iterable, Iterator, Mapping
from types import MappingProxyType
from typing import assert_never

from felix.calc.claims import Claims
from felix.calc.desired import OwnVtep, RemoteVtep
from felix.dataplane.netlink.message import Refusal
from felix.dataplane.tunnels.types import (
    ADDED_BYTES,
    DEVICE_BY_VERSION,
    VERSION_BY_DEVICE,
    ChangeDevice,
    Device,
    DeviceFound,
    Item,
    ItemEvent,
    Kind,
    MakeDevice,
    Parent,
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
from felix.model.keys import ResourceKey
from felix.model.net import Net
from felix.reconcile.delta import DeltaTracker

_GONE = frozenset({2, 3, 6, 19, 99})  # ENOENT, ESRCH, ENXIO, ENODEV, EADDRNOTAVAIL: nothing left to remove
_MTU_LEAST_BYTES = 68  # of IPv4; no interface has less


class TunnelPlan:
    """Desired and believed devices, addresses, entries and neighbours. Pure state.

    Nothing is planned before `replace_believed` was called once. Between `start_read` and `replace_believed` no plan
    may be under way.
    """

    def __init__(self) -> None:
        self.needs_read = True
        self._is_read = False
        self._own_by_version: dict[int, OwnVtep] = {}
        self._parent_by_version: dict[int, Parent] = {}
        self._remote_by_key: dict[ResourceKey, RemoteVtep] = {}
        self._claims: Claims[Net | tuple[int, str]] = Claims()  # addresses, and MACs by family
        self._used_by_key: dict[ResourceKey, RemoteVtep] = {}
        self._rival_by_key: dict[ResourceKey, ResourceKey] = {}  # who has what this one claims too
        self._found_by_version: dict[int, DeviceFound] = {}
        self._version_by_index: dict[int, int] = {}
        self._items: DeltaTracker[Item, Worth] = DeltaTracker()
        self._refusal_by_subject: dict[Item | int, Refusal] = {}  # int: the device of that family
        self._in_flight: dict[Item, TunnelOperation] = {}
        self._is_contested = False
        self._replay: list[TunnelEvent] | None = None

    # What is wanted

    def on_delta(self, own: Mapping[int, OwnVtep | None], remote: Mapping[tuple[int, str], RemoteVtep | None]) -> None:
        """These ends of tunnels are wanted from now on, or not any more (None)."""
        for version, vtep in own.items():
            before = self._own_by_version.pop(version, None)
            if vtep is not None:
                self._own_by_version[version] = vtep
            self._want_address(version, before, vtep)
            self._refusal_by_subject.pop(version, None)
        touched: dict[ResourceKey, None] = {}
        for (version, node), end in remote.items():
            key = _key_of(version, node)
            self._remote_by_key.pop(key, None)
            if end is not None:
                self._remote_by_key[key] = end
            touched[key] = None
            touched.update(dict.fromkeys(sorted(self._claims.set_claims(key, _things_of(end)))))
        for key in touched:
            self._withdraw(key)
        for key in touched:
            self._settle_remote(key)

    def on_parent(self, version: int, parent: Parent | None) -> bool:
        """The own address of that family is on this interface now, None: on none. Returns whether that is news."""
        if self._parent_by_version.get(version) == parent:
            return False
        self._refusal_by_subject.pop(version, None)
        if parent is None:
            del self._parent_by_version[version]
        else:
            self._parent_by_version[version] = parent
        return True

    # What is there

    @property
    def links(self) -> Collection[int]:
        """The indexes of what has the names of our devices; a live view."""
        return self._version_by_index.keys()

    def has_device(self, version: int) -> bool:
        """Whether the device of that family is there, is ours, and is wanted."""
        found = self._found_by_version.get(version)
        return version in self._own_by_version and found is not None and found.device is not None

    @property
    def standing(self) -> frozenset[int]:
        """The families whose device is there and is ours, wanted or not."""
        return frozenset(version for version, found in self._found_by_version.items() if found.device is not None)

    def on_event(self, event: TunnelEvent) -> bool:
        """One announced change happened; returns whether that leaves something to do."""
        if self._replay is not None:
            self._replay.append(event)
        return self._take(event) and not self.is_settled

    def start_read(self) -> None:
        """A dump begins: events from now on are kept, to be told again after it."""
        self._replay = []
        self.needs_read = False

    def replace_believed(self, state: TunnelState) -> None:
        """Exactly this was read since `start_read`. What was refused before is tried again."""
        if self._replay is None:  # events were lost since
            return
        replay, self._replay = self._replay, None
        self._found_by_version = dict(state.devices)
        self._index_devices()
        present: dict[Item, Worth] = {}
        for one in state.items:
            item = self._identify(one)
            if item is not None and one.is_there:
                present[item] = None if item in present else one.worth  # several: more than we ever want
        self._items.replace_believed(present.items())
        self._refusal_by_subject.clear()
        self._is_read = True
        for event in replay:
            self._take(event)

    def mark_unknown(self) -> None:
        """What is believed may be wrong (events were lost, a write ended without answer): read before the next plan."""
        self.needs_read = True
        self._replay = None
        self._in_flight.clear()

    # What to do

    def plan_additions(self, may_delete: bool) -> TunnelPlanned:
        """Returns what to make, change and write; with `may_delete`, also what must go for that."""
        if not self._is_read:
            return ()
        operations: list[TunnelOperation] = []
        for version in self._own_by_version:
            if version not in self._refusal_by_subject:
                operations += self._plan_device(version, may_delete)
        changed = {one.version for one in operations if isinstance(one, RemoveDevice | MakeDevice)}
        for item, worth in self._items.pending_updates():
            index = self._find_index(item.version)
            if index is None or item.version in changed or item in self._refusal_by_subject:
                continue
            if may_delete and item.kind is Kind.ADDRESS:  # IPv6 takes no address that is there with another prefix
                operations += [
                    RemoveItem(index, one)
                    for one in self._items.pending_deletes()
                    if one[:3] == item[:3] and one not in self._refusal_by_subject
                ]
            operations.append(PutItem(index, item, worth))
        return self._begin(operations)

    def plan_removals(self, may_delete: bool) -> TunnelPlanned:
        """Returns what has to go, after routes that led to it; () without `may_delete` or before the first read."""
        if not may_delete or not self._is_read:
            return ()
        operations: list[TunnelOperation] = [
            RemoveDevice(version, found.link)
            for version, found in self._found_by_version.items()
            if found.device is not None and version not in self._own_by_version
            if version not in self._refusal_by_subject
        ]
        for item in self._items.pending_deletes():
            index = self._find_index(item.version)
            if index is not None and item.version in self._own_by_version and item not in self._refusal_by_subject:
                operations.append(RemoveItem(index, item))
        return self._begin(operations)

    def absorb(self, planned: TunnelPlanned, result: TunnelResult) -> None:
        """The kernel gave these answers; what it refused is not tried again before something about it changes."""
        for operation, refusal in zip(planned, result.answers, strict=True):
            match operation:
                case MakeDevice(version) | ChangeDevice(version) | RemoveDevice(version):
                    is_gone = isinstance(operation, RemoveDevice) and refusal in _GONE
                    if refusal is not None and not is_gone:
                        self._refusal_by_subject[version] = refusal
                    self.needs_read |= refusal is None or is_gone
                case PutItem(_, item, worth):
                    if refusal is None:
                        self._believe(operation.link, item, worth, True)
                    else:
                        self._refusal_by_subject[item] = refusal
                case RemoveItem(_, item):
                    if refusal is None or refusal in _GONE:
                        self._believe(operation.link, item, None, False)
                    else:
                        self._refusal_by_subject[item] = refusal
                case _:
                    assert_never(operation)
        self._in_flight.clear()
        self.needs_read |= self._is_contested
        self._is_contested = False

    def retry_failed(self) -> None:
        """What was refused is planned again, after a look at what is there."""
        self.needs_read |= bool(self._refusal_by_subject)
        self._refusal_by_subject.clear()

    @property
    def is_settled(self) -> bool:
        """Whether nothing is left to do, refusals aside."""
        return self._is_read and not self.needs_read and not any(self._open_work())

    @property
    def believed(self) -> DeltaTracker[Item, Worth]:
        """The tracker of what is on devices, to be looked at, not changed."""
        return self._items

    # What others want to know

    @property
    def refusals_count(self) -> int:
        """How many operations wait for a retry."""
        return len(self._refusal_by_subject)

    def find_reasons(self) -> Iterator[tuple[str, str]]:
        """Yields what keeps a device from what is wanted of it: its name and the reason, one for each."""
        refused: dict[int, list[str]] = {}
        for subject, refusal in self._refusal_by_subject.items():
            version, what = (subject, "device") if isinstance(subject, int) else (subject.version, str(subject))
            refused.setdefault(version, []).append(f"{what} refused: {refusal.text or f'errno {int(refusal)}'}")
        for version, name in DEVICE_BY_VERSION.items():
            found = self._found_by_version.get(version)
            if version in self._own_by_version and found is not None and found.device is None:
                kind = f"a {found.kind} device" if found.kind else "no virtual device"
                yield name, f"there is an interface of that name, which is {kind} and not ours; remove or rename it"
            elif reasons := refused.get(version):
                more = f" and {len(reasons) - 1} more" if len(reasons) > 1 else ""
                yield name, f"the kernel does not take what is needed: {reasons[0]}{more}"

    @property
    def rivals(self) -> Mapping[ResourceKey, ResourceKey]:
        """Hosts whose end of the tunnel is not used, and who has the same address or MAC and is; a live view."""
        return MappingProxyType(self._rival_by_key)

    # Wants

    def _want_address(self, version: int, before: OwnVtep | None, vtep: OwnVtep | None) -> None:
        for one, want in ((before, False), (vtep, True)):
            if one is not None and one.address is not None:
                item = Item(Kind.ADDRESS, version, one.address, one.address.length)
                self._refusal_by_subject.pop(item, None)
                if want:
                    self._items.set_desired(item, None)
                else:
                    self._items.drop_desired(item)

    def _withdraw(self, key: ResourceKey) -> None:
        end = self._used_by_key.pop(key, None)
        for item, _ in () if end is None else _items_of(end):
            self._refusal_by_subject.pop(item, None)
            self._items.drop_desired(item)

    def _settle_remote(self, key: ResourceKey) -> None:
        end = self._remote_by_key.get(key)
        winners = [self._claims.find_winner(thing) for thing in _things_of(end)]
        rival = next((one for one in winners if one is not None and one != key), None)
        if rival is None:
            self._rival_by_key.pop(key, None)
        else:
            self._rival_by_key[key] = rival
        if end is not None and rival is None:
            self._used_by_key[key] = end
            for item, worth in _items_of(end):
                self._items.set_desired(item, worth)

    def _plan_device(self, version: int, may_delete: bool) -> list[TunnelOperation]:
        found = self._found_by_version.get(version)
        if found is None:
            return [MakeDevice(version, self._make_wanted(version, None))]
        if found.device is None:
            return []
        wanted = self._make_wanted(version, found.device)
        if wanted == found.device:
            return []
        if not wanted.needs_new(found.device):
            return [ChangeDevice(version, found.link, found.device, wanted)]
        return [RemoveDevice(version, found.link), MakeDevice(version, wanted)] if may_delete else []

    def _make_wanted(self, version: int, found: Device | None) -> Device:
        """Where the wish leaves something open, what is found will do."""
        own, parent = self._own_by_version[version], self._parent_by_version.get(version)
        mtu = own.mtu or (max(parent.mtu - ADDED_BYTES[version], _MTU_LEAST_BYTES) if parent else 0)
        bound = found.bound if found is not None and (parent is None or found.bound == parent.link) else 0
        return Device(
            vni=own.vni,
            port=own.port,
            bound=bound,
            is_plain=True,
            local=own.parent,
            is_learning=False,
            mac=bytes.fromhex(own.mac.replace(":", "")),
            mtu=mtu or (found.mtu if found is not None else 0),
            is_up=True,
            makes_addresses=False,
        )

    # Beliefs, from reads, events and answers

    def _take(self, event: TunnelEvent) -> bool:
        """Returns whether the event says anything new."""
        if isinstance(event, ItemEvent):
            return self._take_item(event)
        before = self._version_by_index.get(event.link)
        after = None if event.found is None else VERSION_BY_DEVICE[event.name]
        is_news = before != after
        if before is not None and before != after:
            del self._found_by_version[before]
        if after is not None and event.found is not None:
            is_news |= self._found_by_version.get(after) != event.found
            self._found_by_version[after] = event.found
        if is_news:
            self._index_devices()
            for version in (before, after):
                if version is not None:
                    self._refusal_by_subject.pop(version, None)
            self.needs_read = True
        return is_news

    def _take_item(self, event: ItemEvent) -> bool:
        item = self._identify(event)
        if item is None:
            return False
        is_known = item in self._items.believed
        if event.is_there == is_known and (not is_known or self._items.believed[item] == event.worth):
            # Nothing new, unless a write under way would have changed it.
            self._is_contested |= item in self._in_flight
            return False
        if item in self._in_flight and _is_effect(self._in_flight[item], event):
            return False  # the echo of a write, or somebody did the same; `absorb` tells
        self._is_contested |= item in self._in_flight
        self._believe(event.link, item, event.worth, event.is_there)
        return True

    def _identify(self, event: ItemEvent) -> Item | None:
        """Returns the item with its family; None if it is on no device of ours, or of no concern.

        Addresses of the other family are the kernel's own, or somebody's.
        """
        version = self._version_by_index.get(event.link)
        if version is None or self._find_index(version) is None:
            return None
        item, subject = event.item, event.item.subject
        if item.kind is Kind.ADDRESS and isinstance(subject, Net) and subject.version != version:
            return None
        return item._replace(version=version)

    def _believe(self, index: int, item: Item, worth: Worth, is_there: bool) -> None:
        if self._find_index(item.version) != index:
            return
        self._refusal_by_subject.pop(item, None)
        if is_there:
            self._items.note_present(item, worth)
        else:
            self._items.note_absent(item)

    def _index_devices(self) -> None:
        self._version_by_index.clear()
        self._version_by_index.update({found.link: version for version, found in self._found_by_version.items()})

    # Work

    def _find_index(self, version: int) -> int | None:
        """Returns the index of the device, None if there is none of ours."""
        found = self._found_by_version.get(version)
        return found.link if found is not None and found.device is not None else None

    def _begin(self, operations: Iterable[TunnelOperation]) -> TunnelPlanned:
        planned = tuple(operations)
        self._is_contested = False
        self._in_flight = {one.item: one for one in planned if isinstance(one, PutItem | RemoveItem)}
        return planned

    def _open_work(self) -> Iterator[bool]:
        """Yields for each part whether something is left to do there that was not refused."""
        refused = self._refusal_by_subject
        for version in DEVICE_BY_VERSION:
            if version in refused:
                continue
            found = self._found_by_version.get(version)
            if version in self._own_by_version:
                yield bool(self._plan_device(version, may_delete=True))
            else:
                yield found is not None and found.device is not None
        if self._items.is_settled:
            return
        for item, _ in self._items.pending_updates():
            yield self._find_index(item.version) is not None and item not in refused
        for item in self._items.pending_deletes():
            yield item.version in self._own_by_version and item not in refused


def _key_of(version: int, node: str) -> ResourceKey:
    return ResourceKey("Node", str(version), node)  # a node's two ends may claim the same MAC


def _things_of(remote: RemoteVtep | None) -> tuple[Net | tuple[int, str], ...]:
    return () if remote is None else (remote.address, (remote.address.version, remote.mac))


def _items_of(remote: RemoteVtep) -> tuple[tuple[Item, Worth], ...]:
    version, mac = remote.address.version, bytes.fromhex(remote.mac.replace(":", ""))
    return (
        (Item(Kind.ENTRY, version, mac), remote.outer),
        (Item(Kind.NEIGHBOUR, version, remote.address), mac),
    )


def _is_effect(operation: TunnelOperation, event: ItemEvent) -> bool:
    if isinstance(operation, PutItem):
        return event.is_there and event.worth == operation.worth
    return isinstance(operation, RemoveItem) and not event.is_there
