"""Requests to the kernel's connection table (linux/netfilter/nfnetlink_conntrack.h)."""

from __future__ import annotations

from felix.dataplane.netlink.message import message, nfnetlink_header

_SUBSYSTEM = 1 << 8
CT_NEW = _SUBSYSTEM
CT_GET = _SUBSYSTEM | 1
CT_DELETE = _SUBSYSTEM | 2
CTA_TUPLE_ORIG = 1
CTA_TUPLE_REPLY = 2
CTA_TUPLE_IP = 1
CTA_ZONE = 18
CTA_ID = 12
NFGENMSG_BYTES = 4


def render_dump() -> bytes:
    """Returns the request for all entries of both families."""
    return message(CT_GET, 0, nfnetlink_header(0))


def render_removal(family: int, attributes: bytes) -> bytes:
    """Returns the request that removes the one entry with these packed attributes (original tuple, zone, id)."""
    return message(CT_DELETE, 0, nfnetlink_header(family) + attributes)
