"""VXLAN devices and what is on them as rtnetlink messages (linux/if_link.h, linux/neighbour.h, linux/if_addr.h)."""

from __future__ import annotations

import struct
from typing import assert_never

from felix.dataplane.netlink.message import NLM_F_CREATE, NLM_F_EXCL, NLM_F_REPLACE, attribute, message, nested
from felix.dataplane.tunnels.types import (
    DEVICE_BY_VERSION,
    ChangeDevice,
    Device,
    Item,
    Kind,
    MakeDevice,
    PutItem,
    RemoveDevice,
    RemoveItem,
    TunnelOperation,
    Worth,
)
from felix.model.net import Net

AF_BRIDGE, AF_INET, AF_INET6 = 7, 2, 10
RTM_NEWLINK, RTM_DELLINK, RTM_GETLINK = 16, 17, 18
RTM_NEWADDR, RTM_DELADDR, RTM_GETADDR = 20, 21, 22
RTM_NEWNEIGH, RTM_DELNEIGH, RTM_GETNEIGH = 28, 29, 30

IFINFOMSG = struct.Struct("=BxHiII")  # family, device type, index, flags, change
IFADDRMSG = struct.Struct("=BBBBI")  # family, prefix length, flags, scope, index
NDMSG = struct.Struct("=BxxxiHBB")  # family, index, state, flags, type
INDEX_OFFSET = 4
"""Where the index of the interface is in all three of them."""

IFF_UP = 1
IFLA_ADDRESS, IFLA_IFNAME, IFLA_MTU, IFLA_LINKINFO, IFLA_AF_SPEC = 1, 3, 4, 18, 26
INFO_KIND, INFO_DATA = 1, 2
VXLAN_KIND = b"vxlan"
VXLAN_ID, VXLAN_GROUP, VXLAN_LINK, VXLAN_LOCAL, VXLAN_LEARNING = 1, 2, 3, 4, 7
VXLAN_PORT, VXLAN_GROUP6, VXLAN_LOCAL6, VXLAN_COLLECT_METADATA = 15, 16, 17, 25
INET6_ADDR_GEN_MODE, ADDR_GEN_MODE_NONE = 8, 1
IFA_ADDRESS, IFA_LOCAL, IFA_FLAGS = 1, 2, 8
_IFA_F_NODAD, _IFA_F_NOPREFIXROUTE = 0x02, 0x200
NDA_DST, NDA_LLADDR, NDA_PORT, NDA_VNI, NDA_IFINDEX, _NDA_IFINDEX_FILTER = 1, 2, 6, 7, 8, 8
NUD_PERMANENT = 0x80
_NTF_SELF = 0x02
_NUMBER = struct.Struct("=I")
_PORT = struct.Struct(">H")


def render_operation(operation: TunnelOperation) -> list[bytes]:
    """Returns the requests that carry out one operation, in order; if one is refused, those after it are to be, too."""
    match operation:
        case MakeDevice(version, device):
            return _render_making(version, device)
        case ChangeDevice():
            return _render_change(operation)
        case RemoveDevice(_, link):
            return [message(RTM_DELLINK, 0, IFINFOMSG.pack(0, 0, link, 0, 0))]
        case PutItem(link, item, worth):
            return [_render_item(link, item, worth)]
        case RemoveItem(link, item):
            return [_render_item_removal(link, item)]
        case _:
            assert_never(operation)


def render_device_question(name: str) -> bytes:
    """Returns the request for the interface of that name."""
    return message(RTM_GETLINK, 0, IFINFOMSG.pack(0, 0, 0, 0, 0) + attribute(IFLA_IFNAME, name.encode() + b"\0"))


def render_item_dumps(index: int) -> list[bytes]:
    """Returns the requests for all that is on an interface; old kernels answer with what is on others too."""
    by_index = attribute(_NDA_IFINDEX_FILTER, _NUMBER.pack(index))
    return [
        message(RTM_GETADDR, 0, IFADDRMSG.pack(0, 0, 0, 0, index)),
        message(RTM_GETNEIGH, 0, NDMSG.pack(AF_BRIDGE, index, 0, 0, 0)),
        message(RTM_GETNEIGH, 0, NDMSG.pack(AF_INET, 0, 0, 0, 0) + by_index),
        message(RTM_GETNEIGH, 0, NDMSG.pack(AF_INET6, 0, 0, 0, 0) + by_index),
    ]


def _render_making(version: int, device: Device) -> list[bytes]:
    """It is bound to no other interface: routes say by which way outer packets go, as for all that the host sends.

    The kernel takes no mode for IPv6 addresses from who makes a device, and makes one when it rises, so those are steps
    of their own. Without such an address it asks no routers, and no router's answer counts.
    """
    name = attribute(IFLA_IFNAME, DEVICE_BY_VERSION[version].encode() + b"\0")
    parts = [
        IFINFOMSG.pack(0, 0, 0, 0, 0),
        name,
        attribute(IFLA_ADDRESS, device.mac),
        _render_linkinfo(
            attribute(VXLAN_ID, _NUMBER.pack(device.vni)),
            attribute(VXLAN_PORT, _PORT.pack(device.port)),
            _render_learning(device),
            _render_local(device.local),
        ),
    ]
    if device.mtu:
        parts.append(attribute(IFLA_MTU, _NUMBER.pack(device.mtu)))
    messages = [message(RTM_NEWLINK, NLM_F_CREATE | NLM_F_EXCL, b"".join(parts))]
    # These name what only a VXLAN device takes: whatever else may have the name stays as it is.
    guard = name + _render_linkinfo(_render_learning(device))
    if version == 6 and not device.makes_addresses:
        messages.append(message(RTM_NEWLINK, 0, IFINFOMSG.pack(0, 0, 0, 0, 0) + guard + _render_address_mode()))
    if device.is_up:
        messages.append(message(RTM_NEWLINK, 0, IFINFOMSG.pack(0, 0, 0, IFF_UP, IFF_UP) + guard))
    return messages


def _render_change(change: ChangeDevice) -> list[bytes]:
    found, device = change.found, change.device
    messages = []
    if found.makes_addresses and not device.makes_addresses:  # before it rises
        messages.append(message(RTM_NEWLINK, 0, IFINFOMSG.pack(0, 0, change.link, 0, 0) + _render_address_mode()))
    parts = [IFINFOMSG.pack(0, 0, change.link, IFF_UP if device.is_up else 0, IFF_UP)]
    if found.mac != device.mac:
        parts.append(attribute(IFLA_ADDRESS, device.mac))
    if found.mtu != device.mtu:
        parts.append(attribute(IFLA_MTU, _NUMBER.pack(device.mtu)))
    options = []
    if found.local != device.local:
        options.append(_render_local(device.local))
    if found.is_learning != device.is_learning:
        options.append(_render_learning(device))
    if options:  # not together with an MTU
        header = IFINFOMSG.pack(0, 0, change.link, 0, 0)
        messages.append(message(RTM_NEWLINK, 0, header + _render_linkinfo(*options)))
    return [*messages, message(RTM_NEWLINK, 0, b"".join(parts))]


def _render_learning(device: Device) -> bytes:
    return attribute(VXLAN_LEARNING, bytes([device.is_learning]))


def _render_linkinfo(*options: bytes) -> bytes:
    return nested(IFLA_LINKINFO, attribute(INFO_KIND, VXLAN_KIND), nested(INFO_DATA, *options))


def _render_local(local: Net | None) -> bytes:
    if local is None:
        return b""
    return attribute(VXLAN_LOCAL if local.version == 4 else VXLAN_LOCAL6, local.packed)


def _render_address_mode() -> bytes:
    return nested(IFLA_AF_SPEC, nested(AF_INET6, attribute(INET6_ADDR_GEN_MODE, bytes([ADDR_GEN_MODE_NONE]))))


def _render_item(index: int, item: Item, worth: Worth) -> bytes:
    if item.kind is Kind.ADDRESS:
        # Not to replace: IPv6 would keep the address as it is, of another prefix, and say that all is well.
        extra = attribute(IFA_FLAGS, _NUMBER.pack(_IFA_F_NOPREFIXROUTE | _IFA_F_NODAD))
        return message(RTM_NEWADDR, NLM_F_CREATE | NLM_F_EXCL, _render_address(index, item) + extra)
    flags = NLM_F_CREATE | NLM_F_REPLACE
    body = _render_neighbour(index, item, NUD_PERMANENT)
    if item.kind is Kind.ENTRY:
        assert isinstance(worth, Net)
        return message(RTM_NEWNEIGH, flags, body + attribute(NDA_DST, worth.packed))
    assert isinstance(worth, bytes)
    # Without a protocol: by that, permanent neighbours of workloads are known, and those that nobody wants removed.
    return message(RTM_NEWNEIGH, flags, body + attribute(NDA_LLADDR, worth))


def _render_item_removal(index: int, item: Item) -> bytes:
    if item.kind is Kind.ADDRESS:
        return message(RTM_DELADDR, 0, _render_address(index, item))
    return message(RTM_DELNEIGH, 0, _render_neighbour(index, item, 0))


def _render_address(index: int, item: Item) -> bytes:
    assert isinstance(item.subject, Net)
    family = AF_INET if item.subject.version == 4 else AF_INET6
    packed = item.subject.packed
    header = IFADDRMSG.pack(family, item.length, 0, 0, index)
    return header + attribute(IFA_LOCAL, packed) + attribute(IFA_ADDRESS, packed)


def _render_neighbour(index: int, item: Item, state: int) -> bytes:
    if isinstance(item.subject, bytes):
        return NDMSG.pack(AF_BRIDGE, index, state, _NTF_SELF, 0) + attribute(NDA_LLADDR, item.subject)
    family = AF_INET if item.subject.version == 4 else AF_INET6
    return NDMSG.pack(family, index, state, 0, 0) + attribute(NDA_DST, item.subject.packed)
