"""Shapers as rtnetlink messages (linux/pkt_sched.h), and what an endpoint's bandwidth means in the kernel's terms.

A qdisc shapes what an interface sends. What a workload sends comes in by its interface, so it is led through a device
of its own on the way: a filter on the interface (u32, mirred) and an `ifb` that sends it, shaped, to where it was.
"""

from __future__ import annotations

import base64
import hashlib
import struct

from felix.calc.desired import Bandwidth
from felix.dataplane.netlink.message import NLM_F_CREATE, NLM_F_EXCL, NLM_F_REPLACE, attribute, message, nested
from felix.dataplane.qdiscs.types import Shaper

RTM_NEWLINK = 16
RTM_DELLINK = 17
RTM_NEWTFILTER = 44
RTM_DELTFILTER = 45
RTM_GETTFILTER = 46
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

CLSACT = 0xFFFFFFF1
"""The parent of the one qdisc that takes filters for what comes in, be it `clsact` or `ingress`."""

INCOMING = 0xFFFFFFF2
FILTER_PRIORITY = 0xFE1C
"""What marks a filter as ours."""

DEVICE_PREFIX = "fxbw-"
"""What marks a device as ours."""

U32_SEL, U32_ACT = 5, 7
ACT_KIND, ACT_OPTIONS = 1, 2
MIRRED_PARMS = 2
MIRRED = struct.Struct("=IIiiiiI")  # index, capab, action, refcnt, bindcnt; what to do; device
_ALL_PROTOCOLS = 0x0300  # ETH_P_ALL in network order
_MATCH_ALL = struct.pack(">BBBBHHhhI", 1, 0, 1, 0, 0, 0, 0, 0, 0) + bytes(16)  # terminal, one key that masks everything
_STOLEN = 4
_REDIRECT = 1
_IFINFOMSG = struct.Struct("=BxHiII")
_IFF_UP = 1
_IFLA_IFNAME, _IFLA_LINKINFO, _INFO_KIND = 3, 18, 1

_RATE32_LIMIT = 0xFFFFFFFF
_TICK_NS = 64
_NS = 1_000_000_000
_BUFFER_LIMIT_NS = 0xFFFFFFFF  # the kernel keeps no more, about four seconds
_LATENCY_S = 0.025
_ETHERNET = 1  # link layer
_RATE_LEAST_BYTES = 2_500
_BURST_LEAST_BYTES = 10 * 1024
_PEAK_BURST_LEAST_BYTES = 64 * 1024
# At slow rates. A connection doubles what it has under way until something is lost, and nothing behind that reaches the
# receiver's program before it was sent again. With more room more of it is lost at once: with 48 KiB at 1 Mbit/s a
# receiver has 82 % of the rate after 4 s, with 16 KiB all of it.
_QUEUE_LEAST_BYTES = 16 * 1024


def make_shaper(bandwidth: Bandwidth) -> Shaper:
    """Returns the shaper for a bandwidth.

    Bursts longer than four seconds of their rate are cut to that. A bucket that holds no whole frame would let no whole
    frame pass, so burst and rate have a least value: 10 KiB, and 20 kbit/s, at which they last for four seconds.
    """
    rate = max(_RATE_LEAST_BYTES, bandwidth.rate_bits // 8)
    burst = max(_BURST_LEAST_BYTES, bandwidth.burst_bytes)
    waiting = max(int(rate * _LATENCY_S), _QUEUE_LEAST_BYTES)
    limit = min(waiting + burst, 0xFFFFFFFF)
    peak = bandwidth.peak_bits // 8 if bandwidth.peak_bits // 8 > rate else 0
    peak_burst = _ticks(max(bandwidth.least_bytes, _PEAK_BURST_LEAST_BYTES), peak) if peak else 0
    return Shaper(rate, _ticks(burst, rate), limit, peak, peak_burst)


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


def device_of(interface: str) -> str:
    """Returns the name of the device that what comes in by an interface is led through."""
    digest = hashlib.blake2b(interface.encode("utf-8", "surrogateescape"), digest_size=6).digest()
    return DEVICE_PREFIX + base64.b32encode(digest).decode().lower().rstrip("=")


def render_device(name: str) -> bytes:
    """Returns the request after which the device is there, and up."""
    body = (
        _IFINFOMSG.pack(0, 0, 0, _IFF_UP, _IFF_UP)
        + attribute(_IFLA_IFNAME, name.encode() + b"\0")
        + nested(_IFLA_LINKINFO, attribute(_INFO_KIND, b"ifb\0"))
    )
    return message(RTM_NEWLINK, NLM_F_CREATE, body)


def render_device_removal(index: int) -> bytes:
    """Returns the request that removes a device."""
    return message(RTM_DELLINK, 0, _IFINFOMSG.pack(0, 0, index, 0, 0))


def render_redirect(link: int, device: int) -> list[bytes]:
    """Returns the requests after which what comes in by an interface is led through a device.

    The first removes a filter of ours that leads elsewhere, the second makes what filters hang on; both may be refused.
    """
    base = message(
        RTM_NEWQDISC,
        NLM_F_CREATE | NLM_F_EXCL,
        TCMSG.pack(0, link, 0xFFFF0000, CLSACT, 0) + attribute(TCA_KIND, b"clsact\0"),
    )
    parameters = MIRRED.pack(0, 0, _STOLEN, 0, 0, _REDIRECT, device)
    action = nested(1, attribute(ACT_KIND, b"mirred\0"), nested(ACT_OPTIONS, attribute(MIRRED_PARMS, parameters)))
    body = (
        TCMSG.pack(0, link, 0, INCOMING, FILTER_PRIORITY << 16 | _ALL_PROTOCOLS)
        + attribute(TCA_KIND, b"u32\0")
        + nested(TCA_OPTIONS, attribute(U32_SEL, _MATCH_ALL), nested(U32_ACT, action))
    )
    return [render_redirect_removal(link), base, message(RTM_NEWTFILTER, NLM_F_CREATE | NLM_F_EXCL, body)]


def render_redirect_removal(link: int) -> bytes:
    """Returns the request that removes our filter from an interface, and nobody else's."""
    return message(RTM_DELTFILTER, 0, TCMSG.pack(0, link, 0, INCOMING, FILTER_PRIORITY << 16 | _ALL_PROTOCOLS))


def render_filter_dump(link: int) -> bytes:
    """Returns the request for the filters on what comes in by one interface."""
    return message(RTM_GETTFILTER, 0, TCMSG.pack(0, link, 0, INCOMING, 0))


def render_dump() -> bytes:
    """Returns the request for the queueing disciplines of all interfaces."""
    return message(RTM_GETQDISC, 0, TCMSG.pack(0, 0, 0, 0, 0))


def _ticks(size_bytes: int, rate_bytes: int) -> int:
    return max(1, min(size_bytes * _NS // rate_bytes, _BUFFER_LIMIT_NS) // _TICK_NS)


def _ratespec(rate: int) -> bytes:
    return RATESPEC.pack(0, _ETHERNET if rate else 0, 0, 0, 0, min(rate, _RATE32_LIMIT))
