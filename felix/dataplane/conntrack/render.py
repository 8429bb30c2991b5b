"""Requests to the kernel's connection table (linux/netfilter/nfnetlink_conntrack.h)."""

from __future__ import annotations

import struct

from felix.dataplane.netlink.message import attribute, message, nested, nfnetlink_header
from felix.model.net import Net

_SUBSYSTEM = 1 << 8
CT_NEW = _SUBSYSTEM
CT_GET = _SUBSYSTEM | 1
CT_DELETE = _SUBSYSTEM | 2
CTA_TUPLE_ORIG = 1
CTA_TUPLE_REPLY = 2
CTA_TUPLE_IP = 1
CTA_TUPLE_PROTO = 2
CTA_TUPLE_MASTER = 14
CTA_ZONE = 18
CTA_ID = 12
_CTA_FILTER = 25
_FILTER_ORIG_FLAGS, _FILTER_REPLY_FLAGS = 1, 2
_FILTER_SOURCE = 1
_V4_SOURCE = 1
NFGENMSG_BYTES = 4
_NUMBER = struct.Struct("=I")
_FAMILY = {4: 2, 6: 10}


def render_dump(version: int | None = None) -> bytes:
    """Returns the request for all entries, of one family or of both."""
    return message(CT_GET, 0, nfnetlink_header(_FAMILY[version] if version else 0))


def render_dumps_of(address: Net) -> list[bytes]:
    """Returns the requests that together give every entry in which one side is the IPv4 `address`.

    Kernels before 5.8 do not know the filter and answer with everything. For IPv6 there is none: kernels compare those
    addresses the wrong way round (ctnetlink_filter_match_tuple in net/netfilter/nf_conntrack_netlink.c, seen in 6.18).
    """
    side = nested(CTA_TUPLE_IP, attribute(_V4_SOURCE, address.packed))
    requests = []
    for tuple_ in (CTA_TUPLE_ORIG, CTA_TUPLE_REPLY):
        flags = nested(
            _CTA_FILTER,
            attribute(_FILTER_ORIG_FLAGS, _NUMBER.pack(_FILTER_SOURCE if tuple_ == CTA_TUPLE_ORIG else 0)),
            attribute(_FILTER_REPLY_FLAGS, _NUMBER.pack(_FILTER_SOURCE if tuple_ == CTA_TUPLE_REPLY else 0)),
        )
        requests.append(message(CT_GET, 0, nfnetlink_header(_FAMILY[4]) + nested(tuple_, side) + flags))
    return requests


def render_removal(family: int, attributes: bytes) -> bytes:
    """Returns the request that removes the one entry with these packed attributes (original tuple, zone, id)."""
    return message(CT_DELETE, 0, nfnetlink_header(family) + attributes)
