"""Shapers as rtnetlink messages (linux/pkt_sched.h), and what an endpoint's bandwidth means in the kernel's terms."""

from __future__ import annotations

import struct

from felix.calc.desired import Bandwidth
from felix.dataplane.netlink.message import NLM_F_CREATE, NLM_F_REPLACE, attribute, message, nested
from felix.dataplane.qdiscs.types import Shaper

RTM_NEWQDISC = 36
RTM_DELQDISC = 37
RTM_GETQDISC = 38
TCMSG = struct.Struct("=BxxxiIII")  # family, interface, handle, parent, info
TCA_KIND, TCA_OPTIONS = 1, 2
TBF_PARMS, TBF_RATE64, TBF_PRATE64 = 1, 4, 5
RATESPEC = struct.Struct("=BBHhHI")  # cell log, link layer, overhead, cell align, mpu, rate
PARAMETERS = struct.Struct(f"={RATESPEC.size}s{RATESPEC.size}sIII")  # rate, peak rate, limit, buffer, mtu
KIND = b"tbf\0"
ROOT = 0xFFFFFFFF
HANDLE = 0xFE1C0000
"""What marks a shaper as ours; only such a one is ever removed."""

_RATE32_LIMIT = 0xFFFFFFFF
_TICK_NS = 64
_NS = 1_000_000_000
_BUFFER_LIMIT_NS = 0xFFFFFFFF  # the kernel keeps no more, about four seconds
_LATENCY_S = 0.025
_ETHERNET = 1  # link layer
_PEAK_BURST_LEAST_BYTES = 64 * 1024
_QUEUE_LEAST_BYTES = 128 * 1024  # two segments as programs hand them over, or short ones would all be lost behind one


def make_shaper(bandwidth: Bandwidth) -> Shaper:
    """Returns the shaper for a bandwidth. Bursts longer than four seconds of their rate are cut to that."""
    rate = max(1, bandwidth.rate_bits // 8)
    waiting = max(int(rate * _LATENCY_S), _QUEUE_LEAST_BYTES)
    limit = min(waiting + bandwidth.burst_bytes, 0xFFFFFFFF)
    peak = bandwidth.peak_bits // 8
    peak_burst = _ticks(max(bandwidth.least_bytes, _PEAK_BURST_LEAST_BYTES), peak) if peak else 0
    return Shaper(rate, _ticks(bandwidth.burst_bytes, rate), limit, peak, peak_burst)


def render_shaper(link: int, shaper: Shaper) -> bytes:
    """Returns the request that puts the shaper at the root of an interface, in place of what is there."""
    parameters = PARAMETERS.pack(
        _ratespec(shaper.rate_bytes),
        _ratespec(shaper.peak_bytes),
        shaper.limit_bytes,
        shaper.burst,
        shaper.peak_burst,
    )
    options = [attribute(TBF_PARMS, parameters)]
    for type_, rate in ((TBF_RATE64, shaper.rate_bytes), (TBF_PRATE64, shaper.peak_bytes)):
        if rate > _RATE32_LIMIT:
            options.append(attribute(type_, struct.pack("=Q", rate)))
    body = TCMSG.pack(0, link, HANDLE, ROOT, 0) + attribute(TCA_KIND, KIND) + nested(TCA_OPTIONS, *options)
    return message(RTM_NEWQDISC, NLM_F_CREATE | NLM_F_REPLACE, body)


def render_removal(link: int) -> bytes:
    """Returns the request that removes our shaper from the root of an interface, and nobody else's."""
    return message(RTM_DELQDISC, 0, TCMSG.pack(0, link, HANDLE, ROOT, 0))


def render_dump() -> bytes:
    """Returns the request for the queueing disciplines of all interfaces."""
    return message(RTM_GETQDISC, 0, TCMSG.pack(0, 0, 0, 0, 0))


def _ticks(size_bytes: int, rate_bytes: int) -> int:
    return max(1, min(size_bytes * _NS // rate_bytes, _BUFFER_LIMIT_NS) // _TICK_NS)


def _ratespec(rate: int) -> bytes:
    return RATESPEC.pack(0, _ETHERNET if rate else 0, 0, 0, 0, min(rate, _RATE32_LIMIT))
