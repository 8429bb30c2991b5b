"""Writing devices and what is on them: one call, one socket, as few system calls as the buffers allow."""

from __future__ import annotations

from felix.dataplane.netlink.apply import NetlinkSocket
from felix.dataplane.netlink.message import Refusal
from felix.dataplane.tunnels.render import render_operation
from felix.dataplane.tunnels.types import TunnelPlanned, TunnelResult


def apply_tunnels(socket: NetlinkSocket, planned: TunnelPlanned) -> TunnelResult:
    """The kernel has seen every operation, in order; one that it refused did not stop the others.

    Blocks; for a worker thread. Raises ResyncRequired or PeerError when what was applied is unknown: read again.
    """
    groups = [render_operation(operation) for operation in planned]
    answers = iter(socket.transact([one for group in groups for one in group]) if groups else ())
    return TunnelResult(tuple(_find_first([next(answers) for _ in group]) for group in groups))


def _find_first(answers: list[Refusal | None]) -> Refusal | None:
    return next((answer for answer in answers if answer is not None), None)
