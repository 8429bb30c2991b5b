"""What stands at the root of interfaces: dumps and events turned into values."""

from __future__ import annotations

import struct
from collections.abc import Iterator

from felix.dataplane.netlink.apply import NetlinkSocket
from felix.dataplane.netlink.message import Message, parse_attributes, parse_messages
from felix.dataplane.qdiscs.render import (
    HANDLE,
    KIND,
    PARAMETERS,
    RATESPEC,
    ROOT,
    RTM_DELQDISC,
    RTM_NEWQDISC,
    TBF_PARMS,
    TBF_PRATE64,
    TBF_RATE64,
    TCA_KIND,
    TCA_OPTIONS,
    TCMSG,
    render_dump,
)
from felix.dataplane.qdiscs.types import QdiscEvent, QdiscFound, Shaper
from felix.errors import KernelRefused

_RATE64 = struct.Struct("=Q")


def read_qdiscs(socket: NetlinkSocket) -> list[QdiscFound]:
    """Returns what stands at the root of every interface that has a queueing discipline of its own.

    Empty on a kernel without traffic control. Blocks; raises what `NetlinkSocket.dump` raises for lost answers.
    """
    try:
        datagrams = socket.dump(render_dump())
    except KernelRefused:
        return []
    events = (_parse(one) for datagram in datagrams for one in parse_messages(datagram))
    return [event.found for event in events if event is not None and event.found is not None]


def parse_qdisc_events(datagram: bytes) -> Iterator[QdiscEvent]:
    """Yields what a datagram says about the roots of interfaces; skips everything else."""
    for one in parse_messages(datagram):
        event = _parse(one)
        if event is not None:
            yield event


def _parse(one: Message) -> QdiscEvent | None:
    if one.type not in (RTM_NEWQDISC, RTM_DELQDISC) or len(one.body) < TCMSG.size:
        return None
    _, link, handle, parent, _ = TCMSG.unpack_from(one.body)
    if parent != ROOT or not handle:  # without handle: what the kernel has where nobody wants anything
        return None
    if one.type == RTM_DELQDISC:
        return QdiscEvent(link, None, one.port)
    payloads = parse_attributes(one.body, TCMSG.size)
    shaper = _parse_shaper(payloads.get(TCA_OPTIONS, b"")) if payloads.get(TCA_KIND) == KIND else None
    return QdiscEvent(link, QdiscFound(link, handle == HANDLE, shaper), one.port)


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
