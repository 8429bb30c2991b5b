"""Routes and links of one namespace, kept true the way the agent does it, for tests against the real kernel."""

from __future__ import annotations

import asyncio
from collections.abc import Callable

from felix.dataplane.links import watch as link_watch
from felix.dataplane.links.apply import apply_links
from felix.dataplane.links.plan import LinkPlan
from felix.dataplane.links.read import read_links, read_neighbours
from felix.dataplane.links.types import Link, LinkConfig, SysctlMended
from felix.dataplane.netlink.apply import NetlinkSocket
from felix.dataplane.netlink.message import NETLINK_ROUTE
from felix.dataplane.netlink.watch import NetlinkWatch
from felix.dataplane.routes import watch as route_watch
from felix.dataplane.routes.apply import apply_routes
from felix.dataplane.routes.plan import RoutePlan
from felix.dataplane.routes.read import read_routes
from felix.dataplane.routes.types import RouteConfig, RouteOperation, RoutePlanned


class Keeper:
    """Links and routes of the calling thread's namespace; use it on one event loop there.

    The calls that an agent makes in a worker are made in place: a test has nobody to keep waiting.
    """

    def __init__(self, event_buffer_bytes: int = 8 << 20, has_host_forwarding: bool = False) -> None:
        self.socket = NetlinkSocket(NETLINK_ROUTE)
        self.links = LinkPlan(LinkConfig(has_host_forwarding=has_host_forwarding), self.socket.port)
        self.routes = RoutePlan(RouteConfig(), self.socket.port)
        self.watch = NetlinkWatch(
            NETLINK_ROUTE,
            link_watch.GROUPS + route_watch.GROUPS,
            self._on_datagram,
            self._on_overrun,
            event_buffer_bytes,
        )
        self.operations: list[RouteOperation] = []
        self.mended: list[SysctlMended] = []
        self.neighbours_count = 0
        self.reads_count = 0

    def open(self) -> None:
        """Events come in from now on; nothing is read or written yet."""
        self.watch.open()

    def close(self) -> None:
        """Both sockets are closed."""
        self.watch.close()
        self.socket.close()

    def cycle(self, may_delete: bool = True) -> None:
        """One round: read if need be, then removals, link settings, additions."""
        if self.links.needs_read or self.routes.needs_read:
            self.read()
        self._apply_routes(self.routes.plan_removals(may_delete))
        planned = self.links.plan(may_delete)
        if planned:
            result = apply_links(self.socket, self.links.config, planned)
            self.links.absorb(planned, result)
            self.mended += result.mended
            self.neighbours_count += len(planned.neighbours) + len(planned.stale_neighbours)
        self._apply_routes(self.routes.plan_additions(may_delete))

    def read(self) -> None:
        """Everything is read again."""
        self.reads_count += 1
        self.links.start_read()
        self.routes.start_read()
        links, neighbours = read_links(self.socket), read_neighbours(self.socket, self.links.config)
        routes = read_routes(self.socket, self.routes.config)
        self.links.replace_believed(links, neighbours)
        self.routes.replace_links((link.index, link.name, link.is_up) for link in self.links.links)
        self.routes.replace_believed(routes)

    async def settle(self, is_done: Callable[[], bool], within_s: float = 5.0) -> None:
        """Rounds follow events until `is_done`; raises TimeoutError if that does not come about."""
        async with asyncio.timeout(within_s):
            while True:
                self.cycle()
                if is_done():
                    return
                await asyncio.sleep(0.005)  # the loop takes events meanwhile

    def _apply_routes(self, planned: RoutePlanned) -> None:
        if planned:
            self.operations += planned
            self.routes.absorb(planned, apply_routes(self.socket, self.routes.config, planned))

    def _on_datagram(self, datagram: bytes) -> None:
        for news in link_watch.feed(self.links, datagram):
            if isinstance(news, Link):
                self.routes.on_link(news.index, news.name, news.is_up)
            else:
                self.routes.on_link_gone(news.index)
        route_watch.feed(self.routes, datagram)

    def _on_overrun(self) -> None:
        self.links.mark_unknown()
        self.routes.mark_unknown()
