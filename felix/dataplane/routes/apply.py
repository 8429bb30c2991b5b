"""Writing routes: one call, one socket, as few system calls as the buffers allow."""

from __future__ import annotations

from felix.dataplane.netlink.apply import NetlinkSocket
from felix.dataplane.routes.render import render_operation
from felix.dataplane.routes.types import RouteConfig, RoutePlanned, RouteResult


def apply_routes(socket: NetlinkSocket, config: RouteConfig, planned: RoutePlanned) -> RouteResult:
    """The kernel has seen every operation, in order; one that it refused did not stop the others.

    Blocks; for a worker thread. Raises ResyncRequired or PeerError when what was applied is unknown: read again.
    """
    if not planned:
        return RouteResult(())
    return RouteResult(tuple(socket.transact([render_operation(config, operation) for operation in planned])))
