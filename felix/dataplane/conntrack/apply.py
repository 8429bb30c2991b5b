"""Flushing tracked connections: one dump per batch of addresses, then only what matched is removed."""

from __future__ import annotations

import os
from collections.abc import Collection, Sequence

from felix.dataplane.conntrack.plan import ConntrackPlanned
from felix.dataplane.conntrack.read import read_flows, read_part, read_removals
from felix.dataplane.conntrack.types import ConntrackResult, FlowsRead, OpenFlow
from felix.dataplane.netlink.apply import NetlinkSocket
from felix.errors import FelixError
from felix.model.net import Net

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
        return _remove(socket, read_removals(socket, planned))
    except FelixError as error:
        return ConntrackResult(0, f"tracked connections (nf_conntrack_netlink): {error}")


def find_flows(socket: NetlinkSocket, addresses: Collection[Net]) -> FlowsRead:
    """Returns the tracked connections that one of `addresses` opened or that lead to one of them, each once.

    As `apply_conntrack`: blocks, raises OSError for a broken socket and nothing else.
    """
    try:
        return FlowsRead(tuple({flow.removal: flow for flow in read_flows(socket, addresses)}.values()))
    except FelixError as error:
        return FlowsRead(reason=f"tracked connections (nf_conntrack_netlink): {error}")


def count_flows(_: NetlinkSocket) -> int:
    """Returns how many connections are tracked, 0 where nobody knows."""
    try:
        with open("/proc/sys/net/netfilter/nf_conntrack_count", "rb") as file:
            return int(file.read())
    except (OSError, ValueError):
        return 0


def find_part(socket: NetlinkSocket, part: int, parts: int) -> FlowsRead:
    """Returns the tracked connections of one of `parts` parts, which together are all. As `find_flows`."""
    try:
        return FlowsRead(tuple(read_part(socket, part, parts)))
    except FelixError as error:
        return FlowsRead(reason=f"tracked connections (nf_conntrack_netlink): {error}")


def remove_flows(socket: NetlinkSocket, flows: Sequence[OpenFlow]) -> ConntrackResult:
    """These entries are gone, and no other was touched, or the result says why. As `apply_conntrack`."""
    try:
        return _remove(socket, [flow.removal for flow in flows])
    except FelixError as error:
        return ConntrackResult(0, f"tracked connections (nf_conntrack_netlink): {error}")


def _remove(socket: NetlinkSocket, removals: Sequence[bytes]) -> ConntrackResult:
    answers = socket.transact(removals)
    refusals = [one for one in answers if one is not None and one != _ENOENT]
    reason = f"{len(refusals)} entries were not removed: {os.strerror(refusals[0])}" if refusals else ""
    return ConntrackResult(len(removals) - len(refusals), reason)
