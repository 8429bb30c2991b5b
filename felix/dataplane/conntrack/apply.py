"""Flushing tracked connections: one dump per batch of addresses, then only what matched is removed."""

from __future__ import annotations

import os

from felix.dataplane.conntrack.plan import ConntrackPlanned
from felix.dataplane.conntrack.read import read_removals
from felix.dataplane.conntrack.types import ConntrackResult
from felix.dataplane.netlink.apply import NetlinkSocket
from felix.errors import FelixError

_ENOENT = 2  # it ended by itself meanwhile


def apply_conntrack(socket: NetlinkSocket, planned: ConntrackPlanned) -> ConntrackResult:
    """No tracked connection of the planned addresses is left, or the result says why; no other one was touched.

    socket: of NETLINK_NETFILTER, kept open between calls: closing one makes the kernel hold the lock of nf_tables for
    a whole RCU grace period (nft_rcv_nl_event in net/netfilter/nf_tables_api.c), 10 to 50 ms for whoever writes next.
    Blocks, seconds for huge tables; for a worker thread that nothing urgent waits for. Raises OSError for a broken
    socket and nothing else: connections that are left are a lesser evil.
    """
    if not planned:
        return ConntrackResult()
    try:
        removals = read_removals(socket, planned)
        refusals = [one for one in socket.transact(removals) if one is not None and one != _ENOENT]
    except FelixError as error:
        return ConntrackResult(0, f"tracked connections (nf_conntrack_netlink): {error}")
    reason = f"{len(refusals)} entries were not removed: {os.strerror(refusals[0])}" if refusals else ""
    return ConntrackResult(len(removals) - len(refusals), reason)
