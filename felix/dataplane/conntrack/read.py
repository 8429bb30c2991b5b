"""Which tracked connections have one of some addresses."""

from __future__ import annotations

import re
from collections.abc import Collection

from felix.dataplane.conntrack.render import (
    CT_NEW,
    CTA_ID,
    CTA_TUPLE_IP,
    CTA_TUPLE_ORIG,
    CTA_TUPLE_REPLY,
    CTA_ZONE,
    NFGENMSG_BYTES,
    render_dump,
    render_removal,
)
from felix.dataplane.netlink.apply import NetlinkSocket
from felix.dataplane.netlink.message import Message, attribute, nested, parse_attributes, parse_messages
from felix.model.net import Net

_ADDRESS_TYPES = (1, 2, 3, 4)  # CTA_IP_V4_SRC, V4_DST, V6_SRC, V6_DST


def read_removals(socket: NetlinkSocket, addresses: Collection[Net]) -> list[bytes]:
    """Returns a removal request for every entry with one of `addresses` in any place of its two tuples; one dump.

    Blocks; raises what `NetlinkSocket.dump` raises.
    """
    packed = frozenset(address.packed for address in addresses)
    # Half a million entries are too many to take apart in Python: bytes that occur nowhere need not be parsed.
    has_candidate = re.compile(b"|".join(re.escape(one) for one in sorted(packed)), re.DOTALL).search
    removals = []
    for datagram in socket.dump(render_dump(), keep=lambda datagram: has_candidate(datagram) is not None):
        for one in parse_messages(datagram):
            if one.type == CT_NEW and has_candidate(one.body) is not None:
                removals += _find_removal(one, packed)
    return removals


def _find_removal(one: Message, packed: frozenset[bytes]) -> list[bytes]:
    payloads = parse_attributes(one.body, NFGENMSG_BYTES)
    original = payloads.get(CTA_TUPLE_ORIG)
    if original is None or not any(
        _has_address(payloads.get(tuple_, b""), packed) for tuple_ in (CTA_TUPLE_ORIG, CTA_TUPLE_REPLY)
    ):
        return []
    attributes = nested(CTA_TUPLE_ORIG, original)
    for type_ in (CTA_ZONE, CTA_ID):  # the id: a new connection with the same tuple is none of ours
        if type_ in payloads:
            attributes += attribute(type_, payloads[type_])
    return [render_removal(one.body[0], attributes)]


def _has_address(tuple_: bytes, packed: frozenset[bytes]) -> bool:
    addresses = parse_attributes(parse_attributes(tuple_).get(CTA_TUPLE_IP, b""))
    return any(addresses.get(type_) in packed for type_ in _ADDRESS_TYPES)
