"""VXLAN devices and what is on them, as values: what identifies each, what can differ, what a plan consists of."""

from __future__ import annotations

import enum
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import NamedTuple

from felix.dataplane.netlink.message import Refusal
from felix.model.net import Net

DEVICE_BY_VERSION: Mapping[int, str] = {4: "vxlan.calico", 6: "vxlan-v6.calico"}
"""The one device of each family. Whatever VXLAN device has that name is ours, and everything on it."""

ADDED_BYTES: Mapping[int, int] = {4: 50, 6: 70}
"""By the tunnel of each family, to each packet."""

VERSION_BY_DEVICE: Mapping[str, int] = {name: version for version, name in DEVICE_BY_VERSION.items()}


class Device(NamedTuple):
    """A VXLAN device, as wanted or as found.

    vni, port (UDP), bound, is_plain: fixed when it is made. bound: index of the one interface that outer packets may
    leave by, 0: any. is_plain: it sends nowhere but where its entries say. local: source of outer packets, None if the
    kernel chooses. is_learning: it makes entries of its own. mac: six bytes. makes_addresses: the kernel gives it an
    IPv6 address, and asks for routers.
    """

    vni: int
    port: int
    bound: int
    is_plain: bool
    local: Net | None
    is_learning: bool
    mac: bytes
    mtu: int
    is_up: bool
    makes_addresses: bool

    def needs_new(self, found: Device) -> bool:
        """Whether `found` cannot become this."""
        return found[:4] != self[:4]


class Parent(NamedTuple):
    """The interface that has the host's own address: its index (`link`) and MTU."""

    link: int
    mtu: int


class DeviceFound(NamedTuple):
    """What has the name of our device. device: None if it is no VXLAN device: then it is not ours. kind: what it is."""

    link: int
    kind: str
    device: Device | None


class Kind(enum.Enum):
    """What can be on a device.

    ADDRESS: of the device itself. ENTRY: of its forwarding table: to which host frames for a MAC are sent.
    NEIGHBOUR: the MAC of an address.
    """

    ADDRESS = "address"
    ENTRY = "entry"
    NEIGHBOUR = "neighbour"


class Item(NamedTuple):
    """One thing on the device of family `version`. subject: MAC of an ENTRY, address of the others.

    length: of the prefix that an ADDRESS came with; 0 for the others.
    """

    kind: Kind
    version: int
    subject: Net | bytes
    length: int = 0

    def __str__(self) -> str:
        subject = self.subject.hex(":") if isinstance(self.subject, bytes) else self.subject.address
        return f"{self.kind.value} {subject}"


Worth = Net | bytes | None
"""What an item says: an ENTRY the other host's address, a NEIGHBOUR the MAC. None: that it is there, or too much."""


class DeviceEvent(NamedTuple):
    """An interface is so now; found: None: it is gone, or has another name than ours."""

    link: int
    name: str
    found: DeviceFound | None


class ItemEvent(NamedTuple):
    """Something on a device, given by its index, came, changed or went. Only what is permanent counts as there.

    port: who asked for it; 0 where the kernel does not say, as for entries. item: its `version` is not known here: 0.
    """

    link: int
    item: Item
    worth: Worth
    is_there: bool
    port: int


TunnelEvent = DeviceEvent | ItemEvent


@dataclass(frozen=True, slots=True)
class TunnelState:
    """What was read: devices by family, and everything on them, also of devices that are not ours."""

    devices: Mapping[int, DeviceFound] = field(default_factory=dict)
    items: Sequence[ItemEvent] = ()


class MakeDevice(NamedTuple):
    """The device comes to be; it must not be there."""

    version: int
    device: Device


class ChangeDevice(NamedTuple):
    """The device `link` becomes what is wanted, from what was found."""

    version: int
    link: int
    found: Device
    device: Device


class RemoveDevice(NamedTuple):
    """The device `link` goes, with everything on it."""

    version: int
    link: int


class PutItem(NamedTuple):
    """The item is on the device `link`, in place of what its subject had."""

    link: int
    item: Item
    worth: Worth


class RemoveItem(NamedTuple):
    """The item is not on the device `link` any more."""

    link: int
    item: Item


TunnelOperation = MakeDevice | ChangeDevice | RemoveDevice | PutItem | RemoveItem
TunnelPlanned = tuple[TunnelOperation, ...]
"""Operations in the order in which they must reach the kernel. Empty: no system call."""


@dataclass(frozen=True, slots=True)
class TunnelResult:
    """What became of a plan: one answer for each operation, in order; None: done."""

    answers: tuple[Refusal | None, ...]
