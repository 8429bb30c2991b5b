"""What VXLAN devices of ours the kernel has, and what is on them: dumps and events turned into values."""

from __future__ import annotations

import struct
from collections.abc import Collection, Iterator

from felix.dataplane.netlink.apply import NetlinkSocket
from felix.dataplane.netlink.message import HEADER, Message, parse_attributes, parse_messages
from felix.dataplane.tunnels.render import (
    ADDR_GEN_MODE_NONE,
    AF_BRIDGE,
    AF_INET,
    AF_INET6,
    IFA_ADDRESS,
    IFA_LOCAL,
    IFADDRMSG,
    IFF_UP,
    IFINFOMSG,
    IFLA_ADDRESS,
    IFLA_AF_SPEC,
    IFLA_IFNAME,
    IFLA_LINKINFO,
    IFLA_MTU,
    INDEX_OFFSET,
    INET6_ADDR_GEN_MODE,
    INFO_DATA,
    INFO_KIND,
    NDA_DST,
    NDA_IFINDEX,
    NDA_LLADDR,
    NDA_PORT,
    NDA_VNI,
    NDMSG,
    NUD_PERMANENT,
    RTM_DELADDR,
    RTM_DELLINK,
    RTM_DELNEIGH,
    RTM_NEWADDR,
    RTM_NEWLINK,
    RTM_NEWNEIGH,
    VXLAN_COLLECT_METADATA,
    VXLAN_GROUP,
    VXLAN_GROUP6,
    VXLAN_ID,
    VXLAN_KIND,
    VXLAN_LEARNING,
    VXLAN_LINK,
    VXLAN_LOCAL,
    VXLAN_LOCAL6,
    VXLAN_PORT,
    render_device_question,
    render_item_dumps,
)
from felix.dataplane.tunnels.types import (
    DEVICE_BY_VERSION,
    VERSION_BY_DEVICE,
    Device,
    DeviceEvent,
    DeviceFound,
    Item,
    ItemEvent,
    Kind,
    TunnelEvent,
    TunnelState,
    Worth,
)
from felix.errors import KernelRefused
from felix.model.net import Net

_NAME_HINT = b"vxlan"  # in both names, and in no other message but by chance
_NUMBER = struct.Struct("=I")
_INDEX = struct.Struct("=i")
_PORT = struct.Struct(">H")
_VERSION_BY_BYTES = {4: 4, 16: 6}
_LINK_TYPES = (RTM_NEWLINK, RTM_DELLINK)
_ITEM_TYPES = (RTM_NEWADDR, RTM_DELADDR, RTM_NEWNEIGH, RTM_DELNEIGH)
_TYPES = frozenset((*_LINK_TYPES, *_ITEM_TYPES))


def read_tunnels(socket: NetlinkSocket) -> TunnelState:
    """Returns our devices and what is on them, permanent or wanted by nobody.

    Blocks; for a worker thread. Raises what `NetlinkSocket.get` and `dump` raise for lost answers.
    """
    devices: dict[int, DeviceFound] = {}
    items: list[ItemEvent] = []
    for version, name in DEVICE_BY_VERSION.items():
        answer = socket.get(render_device_question(name))
        event = _parse_device(answer) if isinstance(answer, Message) else None
        if event is None or event.found is None:
            continue
        devices[version] = event.found
        if event.found.device is None:
            continue
        for request in render_item_dumps(event.link):
            try:
                datagrams = socket.dump(request)
            except KernelRefused:  # a kernel without IPv6, or the device went meanwhile, which is announced
                continue
            for datagram in datagrams:
                found = parse_tunnel_events(datagram, (event.link,))
                items += [one for one in found if isinstance(one, ItemEvent) and one.is_there]
    return TunnelState(devices, items)


def parse_tunnel_events(datagram: bytes, links: Collection[int]) -> Iterator[TunnelEvent]:
    """Yields what a datagram says about devices of our names, and about the interfaces `links`; all else costs a look
    at its header. A datagram is about one kind of thing.
    """
    if len(datagram) < HEADER.size or HEADER.unpack_from(datagram)[1] not in _TYPES:
        return
    has_name = _NAME_HINT in datagram
    if not has_name and not links:
        return
    for one in parse_messages(datagram):
        if len(one.body) < INDEX_OFFSET + _INDEX.size:
            continue
        is_known = _INDEX.unpack_from(one.body, INDEX_OFFSET)[0] in links
        event: TunnelEvent | None = None
        if one.type in _LINK_TYPES and (has_name or is_known):
            event = _parse_device(one)
            if event is not None and event.name not in VERSION_BY_DEVICE and not is_known:
                continue
        elif one.type in _ITEM_TYPES and is_known:
            event = _parse_address(one) if one.type in (RTM_NEWADDR, RTM_DELADDR) else _parse_neighbour(one)
        if event is not None:
            yield event


def _parse_device(one: Message) -> DeviceEvent | None:
    if one.type not in _LINK_TYPES or len(one.body) < IFINFOMSG.size:
        return None
    family, _, index, flags, _ = IFINFOMSG.unpack_from(one.body)
    if family != 0:  # a bridge speaks of its ports in the same words
        return None
    payloads = parse_attributes(one.body, IFINFOMSG.size)
    name = payloads.get(IFLA_IFNAME, b"").rstrip(b"\0").decode(errors="surrogateescape")
    if one.type == RTM_DELLINK or name not in VERSION_BY_DEVICE:
        return DeviceEvent(index, name, None)
    info = parse_attributes(payloads.get(IFLA_LINKINFO, b""))
    kind = info.get(INFO_KIND, b"").rstrip(b"\0")
    device = None
    if kind == VXLAN_KIND:
        device = _read_device(VERSION_BY_DEVICE[name], flags, payloads, parse_attributes(info.get(INFO_DATA, b"")))
    return DeviceEvent(index, name, DeviceFound(index, kind.decode(errors="replace"), device))


def _read_device(version: int, flags: int, payloads: dict[int, bytes], options: dict[int, bytes]) -> Device:
    local = options.get(VXLAN_LOCAL if version == 4 else VXLAN_LOCAL6)
    elsewhere = (VXLAN_GROUP, VXLAN_GROUP6, VXLAN_COLLECT_METADATA)
    spec = parse_attributes(parse_attributes(payloads.get(IFLA_AF_SPEC, b"")).get(AF_INET6, b""))
    mode = spec.get(INET6_ADDR_GEN_MODE)
    return Device(
        vni=_number(options.get(VXLAN_ID)),
        port=_PORT.unpack(options[VXLAN_PORT])[0] if len(options.get(VXLAN_PORT, b"")) == _PORT.size else 0,
        bound=_number(options.get(VXLAN_LINK)),
        is_plain=not any(any(options.get(type_, b"")) for type_ in elsewhere),
        local=None if local is None else _parse_net(local),
        is_learning=any(options.get(VXLAN_LEARNING, b"")),
        mac=payloads.get(IFLA_ADDRESS, b""),
        mtu=_number(payloads.get(IFLA_MTU)),
        is_up=bool(flags & IFF_UP),
        makes_addresses=version == 6 and mode is not None and mode != bytes([ADDR_GEN_MODE_NONE]),
    )


def _parse_address(one: Message) -> ItemEvent | None:
    if len(one.body) < IFADDRMSG.size:
        return None
    _, length, _, _, index = IFADDRMSG.unpack_from(one.body)
    payloads = parse_attributes(one.body, IFADDRMSG.size)
    address = _parse_net(payloads.get(IFA_LOCAL, payloads.get(IFA_ADDRESS, b"")))
    if address is None:
        return None
    return ItemEvent(index, Item(Kind.ADDRESS, 0, address, length), None, one.type == RTM_NEWADDR, one.port)


def _parse_neighbour(one: Message) -> ItemEvent | None:
    if len(one.body) < NDMSG.size:
        return None
    family, index, state, _, _ = NDMSG.unpack_from(one.body)
    payloads = parse_attributes(one.body, NDMSG.size)
    address, mac = _parse_net(payloads.get(NDA_DST, b"")), payloads.get(NDA_LLADDR, b"")
    worth: Worth
    if family == AF_BRIDGE:
        item = Item(Kind.ENTRY, 0, mac)
        is_more = NDA_PORT in payloads or NDA_VNI in payloads or NDA_IFINDEX in payloads
        worth = None if is_more else address
    elif family in (AF_INET, AF_INET6) and address is not None:
        item, worth = Item(Kind.NEIGHBOUR, 0, address), mac
    else:
        return None
    return ItemEvent(index, item, worth, one.type == RTM_NEWNEIGH and bool(state & NUD_PERMANENT), one.port)


def _parse_net(packed: bytes) -> Net | None:
    version = _VERSION_BY_BYTES.get(len(packed))
    return None if version is None else Net(version, int.from_bytes(packed, "big"), len(packed) * 8)


def _number(payload: bytes | None) -> int:
    return int(_NUMBER.unpack(payload)[0]) if payload is not None and len(payload) == _NUMBER.size else 0
