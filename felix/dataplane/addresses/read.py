"""What addresses the interfaces have: a dump and events turned into values."""

from __future__ import annotations

import struct
from collections.abc import Iterator

from felix.dataplane.addresses.types import AddressEvent
from felix.dataplane.netlink.apply import NetlinkSocket
from felix.dataplane.netlink.message import message, parse_attributes, parse_messages
from felix.model.net import Net

_RTM_NEWADDR, _RTM_DELADDR, _RTM_GETADDR = 20, 21, 22
_IFADDRMSG = struct.Struct("=BBBBI")  # family, prefix length, flags, scope, index
_IFA_ADDRESS, _IFA_LOCAL = 1, 2
_VERSION_BY_BYTES = {4: 4, 16: 6}


def read_addresses(socket: NetlinkSocket) -> list[AddressEvent]:
    """Returns every address of both families. Blocks; raises what `NetlinkSocket.dump` raises."""
    request = message(_RTM_GETADDR, 0, _IFADDRMSG.pack(0, 0, 0, 0, 0))
    return [event for datagram in socket.dump(request) for event in parse_address_events(datagram)]


def parse_address_events(datagram: bytes) -> Iterator[AddressEvent]:
    """Yields what a datagram says about addresses; skips everything else."""
    for one in parse_messages(datagram):
        if one.type not in (_RTM_NEWADDR, _RTM_DELADDR) or len(one.body) < _IFADDRMSG.size:
            continue
        *_, index = _IFADDRMSG.unpack_from(one.body)
        payloads = parse_attributes(one.body, _IFADDRMSG.size)
        packed = payloads.get(_IFA_LOCAL, payloads.get(_IFA_ADDRESS, b""))  # at point-to-point links they differ
        version = _VERSION_BY_BYTES.get(len(packed))
        if version is not None:
            address = Net(version, int.from_bytes(packed, "big"), len(packed) * 8)
            yield AddressEvent(index, address, one.type == _RTM_NEWADDR)
