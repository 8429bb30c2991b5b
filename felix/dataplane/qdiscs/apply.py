"""Shapers into the kernel."""

from __future__ import annotations

from felix.dataplane.netlink.apply import NetlinkSocket
from felix.dataplane.qdiscs.render import render_removal, render_shaper
from felix.dataplane.qdiscs.types import QdiscPlanned, QdiscResult


def apply_qdiscs(netlink: NetlinkSocket, planned: QdiscPlanned) -> QdiscResult:
    """Shapers stand and stale ones are gone, except those that the kernel refused.

    Blocks; for a worker thread. Raises ResyncRequired or PeerError when it is unknown what was done: read again.
    """
    messages = [render_removal(link) for link in planned.stale]
    messages += [render_shaper(link, shaper) for link, shaper in planned.shapers]
    answers = tuple(netlink.transact(messages)) if messages else ()
    split = len(planned.stale)
    return QdiscResult(answers[split:], answers[:split])
