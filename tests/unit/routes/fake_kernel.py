"""A kernel's main table and its interfaces, with the habits that matter here; tests/fv/test_routes.py has the real one.

Routes of an interface that goes down vanish: IPv6 says so, IPv4 does not. A replace takes the first route of its key,
whoever's it is, and is announced as one event. Events wait in a queue until delivered.
"""

from __future__ import annotations

from collections import deque
from typing import NamedTuple

from felix.dataplane.netlink.message import Refusal
from felix.dataplane.routes.plan import RoutePlan
from felix.dataplane.routes.types import (
    RTN_UNICAST,
    RouteEvent,
    RouteKey,
    RouteOperation,
    RoutePlanned,
    RouteResult,
    RouteValue,
    Verb,
)

OWN_PORT = 77
_FOREIGN_PORT = 5


class Held(NamedTuple):
    """One route in the table."""

    is_ours: bool
    value: RouteValue


class LinkNews(NamedTuple):
    """An interface's event; name None: it is gone."""

    link: int
    name: str | None
    is_up: bool


class FakeKernel:
    """Everything is public: tests look at `table` and `links`."""

    def __init__(self) -> None:
        self.table: dict[RouteKey, list[Held]] = {}
        self.links: dict[int, tuple[str, bool]] = {}
        self.queue: deque[RouteEvent | LinkNews] = deque()

    def set_link(self, link: int, name: str | None, is_up: bool) -> None:
        """The interface has this name and state, or is gone (None). Names are unique: a clash changes nothing."""
        if name is None:
            if self.links.pop(link, None) is not None:
                self._drop_routes(link)
                self.queue.append(LinkNews(link, None, False))
            return
        if any(other != link and taken == name for other, (taken, _) in self.links.items()):
            return
        self.links[link] = (name, is_up)
        if not is_up:
            self._drop_routes(link)
        self.queue.append(LinkNews(link, name, is_up))

    def put(self, key: RouteKey, held: Held, port: int = _FOREIGN_PORT, append: bool = False) -> Refusal | None:
        """A route is written, replacing the first of its key or, with `append`, beside it."""
        if held.value.kind == RTN_UNICAST and not self.links.get(held.value.interface, ("", False))[1]:
            return Refusal(100, "network is down")
        routes = self.table.setdefault(key, [])
        if append and held in routes:
            return Refusal(17, "exists")
        is_replace = bool(routes) and not append
        if is_replace:
            routes[0] = held
        else:
            routes.append(held)
        self.queue.append(RouteEvent(True, is_replace, held.is_ours, port, key, held.value))
        return None

    def remove(self, key: RouteKey, held: Held, port: int = _FOREIGN_PORT) -> Refusal | None:
        """Exactly that route is removed."""
        routes = self.table.get(key, [])
        if held not in routes:
            return Refusal(3, "no such route")
        routes.remove(held)
        if not routes:
            del self.table[key]
        self.queue.append(RouteEvent(False, False, held.is_ours, port, key, held.value))
        return None

    def apply(self, planned: RoutePlanned) -> RouteResult:
        """What `apply_routes` does."""
        return RouteResult(tuple(self._apply(operation) for operation in planned))

    def read(self) -> list[tuple[RouteKey, RouteValue]]:
        """What `read_routes` returns."""
        return [(key, held.value) for key, routes in self.table.items() for held in routes if held.is_ours]

    def deliver(self, plan: RoutePlan, limit: int | None = None) -> None:
        """The plan hears the oldest events, all or up to `limit`."""
        for _ in range(len(self.queue) if limit is None else min(limit, len(self.queue))):
            event = self.queue.popleft()
            if isinstance(event, RouteEvent):
                if event.is_ours or event.is_replace:
                    plan.on_route(event)
            elif event.name is None:
                plan.on_link_gone(event.link)
            else:
                plan.on_link(event.link, event.name, event.is_up)

    def _apply(self, operation: RouteOperation) -> Refusal | None:
        held = Held(True, operation.value)
        if operation.verb is Verb.REPLACE:
            return self.put(operation.key, held, OWN_PORT)
        return self.remove(operation.key, held, OWN_PORT)

    def _drop_routes(self, link: int) -> None:
        for key, routes in list(self.table.items()):
            for held in [one for one in routes if one.value.interface == link]:
                self.remove(key, held, port=0)
                if key.net.version == 4:
                    self.queue.pop()
