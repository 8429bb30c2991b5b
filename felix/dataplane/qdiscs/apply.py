"""Shapers, filters and devices into the kernel."""

from __future__ import annotations

from collections.abc import Iterator

from felix.dataplane.netlink.apply import NetlinkSocket
from felix.dataplane.netlink.message import Refusal
from felix.dataplane.qdiscs.render import (
    render_device,
    render_device_removal,
    render_redirect,
    render_redirect_removal,
    render_removal,
    render_shaper,
)
from felix.dataplane.qdiscs.types import Answers, QdiscPlanned, QdiscResult


def apply_qdiscs(netlink: NetlinkSocket, planned: QdiscPlanned) -> QdiscResult:
    """Everything of the plan was done, except what the kernel refused.

    Blocks; for a worker thread. Raises ResyncRequired or PeerError when it is unknown what was done: read again.
    """
    groups = [
        [[render_redirect_removal(link)] for link in planned.stale_redirects],
        [[render_device(name)] for name in planned.devices],
        [[render_removal(link)] for link in planned.stale],
        [[render_shaper(link, shaper)] for link, shaper in planned.shapers],
        [render_redirect(link, device) for link, device in planned.redirects],
        [[render_device_removal(index)] for index in planned.stale_devices],
    ]
    messages = [one for group in groups for entry in group for one in entry]
    answers = iter(netlink.transact(messages) if messages else ())
    return QdiscResult(*(_take(group, answers) for group in groups))


def _take(group: list[list[bytes]], answers: Iterator[Refusal | None]) -> Answers:
    """Returns for each entry the answer to its last message: those before it may be refused."""
    return tuple([next(answers) for _ in entry][-1] for entry in group)
