"""Writing devices and what is on them: one call, one socket, as few system calls as the buffers allow."""

from __future__ import annotations

from felix.dataplane.netlink.apply import NetlinkSocket
from felix.dataplane.tunnels.render import render_operation
from felix.dataplane.tunnels.types import TunnelPlanned, TunnelResult


def apply_tunnels(socket: NetlinkSocket, planned: TunnelPlanned) -> TunnelResult:
    """The kernel has seen every operation, in order; one that it refused did not stop the others.

    Blocks; for a worker thread. Raises ResyncRequired or PeerError when what was applied is unknown: read again.
    """
    if not planned:
        return TunnelResult(())
    return TunnelResult(tuple(socket.transact([render_operation(operation) for operation in planned])))
