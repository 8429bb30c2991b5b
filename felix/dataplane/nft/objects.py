"""Named counters as nf_tables netlink messages (linux/netfilter/nf_tables.h), as quick to make as elements of sets."""

from __future__ import annotations

import struct
from collections.abc import Iterable

from felix.dataplane.netlink.message import NLM_F_CREATE, attribute, batch, message, nested, nfnetlink_header
from felix.dataplane.nft.types import TABLE

_SUBSYSTEM = 10
_NFPROTO_INET = 1
_MSG_NEWOBJ, _MSG_DELOBJ = _SUBSYSTEM << 8 | 18, _SUBSYSTEM << 8 | 20
_OBJ_TABLE, _OBJ_NAME, _OBJ_TYPE, _OBJ_DATA = 1, 2, 3, 4
_COUNTER = struct.pack(">I", 1)
_COUNTER_BYTES, _COUNTER_PACKETS = 1, 2
_ZERO = struct.pack(">Q", 0)


def pack_counters(made: Iterable[str], removed: Iterable[str]) -> list[bytes]:
    """Returns one transaction after which the first are there, at zero, and the others are not."""
    messages = [message(_MSG_DELOBJ, 0, _head(name)) for name in removed]
    messages += [pack_counter(name) for name in made]
    return batch(_SUBSYSTEM, messages)


def pack_counter(name: str) -> bytes:
    """Returns the message that makes one counter, at zero."""
    zero = nested(_OBJ_DATA, attribute(_COUNTER_BYTES, _ZERO), attribute(_COUNTER_PACKETS, _ZERO))
    return message(_MSG_NEWOBJ, NLM_F_CREATE, _head(name) + zero)


def _head(name: str) -> bytes:
    return b"".join(
        (
            nfnetlink_header(_NFPROTO_INET),
            attribute(_OBJ_TABLE, TABLE.encode() + b"\0"),
            attribute(_OBJ_NAME, name.encode() + b"\0"),
            attribute(_OBJ_TYPE, _COUNTER),
        )
    )
