"""What stands at the root of interfaces, and our filters: dumps and events turned into values."""

from __future__ import annotations

import struct
from collections.abc import Iterator

from felix.dataplane.netlink.apply import NetlinkSocket
from felix.dataplane.netlink.message import Message, parse_attribute_list, parse_attributes, parse_messages
from felix.dataplane.qdiscs.render import (
    ACT_OPTIONS,
    CLSACT,
    FILTER_PRIORITY,
    HANDLE,
    INCOMING,
    KIND,
    MIRRED,
    MIRRED_PARMS,
    PARAMETERS,
    RATESPEC,
    ROOT,
    RTM_DELQDISC,
    RTM_DELTFILTER,
    RTM_NEWQDISC,
    RTM_NEWTFILTER,
    TBF_PARMS,
    TBF_PRATE64,
    TBF_RATE64,
    TCA_KIND,
    TCA_OPTIONS,
    TCMSG,
    U32_ACT,
    render_dump,
    render_filter_dump,
)
from felix.dataplane.qdiscs.types import (
    QdiscEvent,
    QdiscFound,
    RedirectEvent,
    RedirectFound,
    Shaper,
    TrafficEvent,
    TrafficFound,
)
from felix.errors import KernelRefused

_RATE64 = struct.Struct("=Q")


def read_qdiscs(socket: NetlinkSocket) -> list[TrafficFound]:
    """Returns what stands at the root of every interface that has a queueing discipline of its own, and our filters.

    Empty on a kernel without traffic control. Blocks; raises what `NetlinkSocket.dump` raises for lost answers.
    """
    try:
        found, filtered = _read(socket, render_dump())
        for link in filtered:
            found += _read(socket, render_filter_dump(link))[0]
    except KernelRefused:
        return []
    return found


def _read(socket: NetlinkSocket, request: bytes) -> tuple[list[TrafficFound], list[int]]:
    """Returns what a dump says, and the interfaces that may have filters."""
    found: list[TrafficFound] = []
    filtered: list[int] = []
    for datagram in socket.dump(request):
        for one in parse_messages(datagram):
            if one.type == RTM_NEWQDISC and len(one.body) >= TCMSG.size:
                _, link, _, parent, _ = TCMSG.unpack_from(one.body)
                filtered += [link] if parent == CLSACT else []
            match _parse(one):
                case QdiscEvent(_, QdiscFound() as root):
                    found.append(root)
                case RedirectEvent(link, int(device)):
                    found.append(RedirectFound(link, device))
                case _:
                    pass
    return found, filtered


def parse_traffic_events(datagram: bytes) -> Iterator[TrafficEvent]:
    """Yields what a datagram says about the roots of interfaces and our filters; skips everything else."""
    for one in parse_messages(datagram):
        event = _parse(one)
        if event is not None:
            yield event


def _parse(one: Message) -> TrafficEvent | None:
    if one.type not in (RTM_NEWQDISC, RTM_DELQDISC, RTM_NEWTFILTER, RTM_DELTFILTER) or len(one.body) < TCMSG.size:
        return None
    _, link, handle, parent, info = TCMSG.unpack_from(one.body)
    if one.type in (RTM_NEWTFILTER, RTM_DELTFILTER):
        if parent & 0xFFFF0000 != INCOMING & 0xFFFF0000 or info >> 16 != FILTER_PRIORITY:
            return None
        if one.type == RTM_DELTFILTER:
            return RedirectEvent(link, None, one.port)
        device = _parse_device(parse_attributes(one.body, TCMSG.size).get(TCA_OPTIONS, b""))
        return None if device is None else RedirectEvent(link, device, one.port)
    if parent == CLSACT and one.type == RTM_DELQDISC:  # filters go with it, without a word
        return RedirectEvent(link, None, one.port)
    if parent != ROOT or not handle:  # without handle: what the kernel has where nobody wants anything
        return None
    if one.type == RTM_DELQDISC:
        return QdiscEvent(link, None, one.port)
    payloads = parse_attributes(one.body, TCMSG.size)
    shaper = _parse_shaper(payloads.get(TCA_OPTIONS, b"")) if payloads.get(TCA_KIND) == KIND else None
    return QdiscEvent(link, QdiscFound(link, handle == HANDLE, shaper), one.port)


def _parse_device(options: bytes) -> int | None:
    """Returns where a u32 filter leads; None for what else u32 lists (its tables)."""
    for _, action in parse_attribute_list(parse_attributes(options).get(U32_ACT, b"")):
        parameters = parse_attributes(parse_attributes(action).get(ACT_OPTIONS, b"")).get(MIRRED_PARMS, b"")
        if len(parameters) >= MIRRED.size:
            return int(MIRRED.unpack_from(parameters)[-1])
    return None


def _parse_shaper(options: bytes) -> Shaper | None:
    payloads = parse_attributes(options)
    parameters = payloads.get(TBF_PARMS, b"")
    if len(parameters) < PARAMETERS.size:
        return None
    rate, peak, limit, burst, peak_burst = PARAMETERS.unpack_from(parameters)
    return Shaper(
        _rate(rate, payloads.get(TBF_RATE64)), burst, limit, _rate(peak, payloads.get(TBF_PRATE64)), peak_burst
    )


def _rate(ratespec: bytes, wide: bytes | None) -> int:
    if wide is not None and len(wide) == _RATE64.size:
        return int(_RATE64.unpack(wide)[0])
    return int(RATESPEC.unpack(ratespec)[-1])
