"""Waiting until the kernel enforces an endpoint, until anything may be begun, for one's turn: woken, never by looking.
Shell."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Callable, Hashable, Iterable
from contextlib import asynccontextmanager
from typing import Generic, TypeVar

from felix.attach.endpoint import Attachment
from felix.attach.types import Code, Refusal
from felix.calc.desired import LocalEndpoint
from felix.dataplane.cycle import EndpointCondition, EndpointReport
from felix.model.keys import ResourceKey

K = TypeVar("K", bound=Hashable)
Look = Callable[[ResourceKey], tuple[LocalEndpoint | None, EndpointReport | None]]
"""Returns what is wanted of an endpoint now, and how it stands."""


class EnforcementWatch:
    """Who waits for which endpoint. A cycle costs what it reports, whoever waits."""

    def __init__(self, look: Look) -> None:
        self._look = look
        self._events: dict[ResourceKey, asyncio.Event] = {}

    def on_cycle(self, keys: Iterable[ResourceKey]) -> None:
        """How these endpoints stand has changed."""
        if self._events:
            for key in keys:
                event = self._events.get(key)
                if event is not None:
                    event.set()

    async def wait_enforced(self, one: Attachment) -> None:
        """The kernel enforces the endpoint with exactly its interface and addresses, and leads packets to it.

        Raises Refusal when another endpoint has what is this one's. Only one may wait for an endpoint at a time.
        """
        event = self._events[one.key] = asyncio.Event()
        try:
            while not is_enforced(one, *self._look(one.key)):
                event.clear()
                await event.wait()
        finally:
            del self._events[one.key]

    def seen_revision(self, key: ResourceKey) -> int:
        """Returns at which revision of the datastore the endpoint stood when the agent last looked; 0: it did not."""
        endpoint, _ = self._look(key)
        return endpoint.revision if endpoint is not None else 0

    def explain(self, one: Attachment) -> str:
        """Returns why an endpoint is not enforced yet."""
        endpoint, report = self._look(one.key)
        if endpoint is None:
            return "the agent has not taken its endpoint from the datastore"
        return report.reason if report is not None and report.reason else "the kernel does not enforce it yet"


def is_enforced(one: Attachment, endpoint: LocalEndpoint | None, report: EndpointReport | None) -> bool:
    """Whether the endpoint is up with exactly what it should have, in the form that it has now or a later one.

    Raises Refusal when an address of it is another endpoint's: then it never will be.
    """
    if endpoint is None or report is None or endpoint.interface != one.host_interface:
        return False
    if endpoint.revision < one.revision:
        return False  # an earlier life of the container, which may have had the same address
    missing = set(one.addresses) - set(endpoint.addresses)
    if missing and set(endpoint.addresses) < set(one.addresses):
        texts = ", ".join(sorted(net.address for net in missing))
        raise Refusal(Code.CONFLICT, f"{texts} is an address of another endpoint or host; see felix status")
    return not missing and len(endpoint.addresses) == len(one.addresses) and report.condition is EndpointCondition.UP


class Gate:
    """Whether anything may be begun. find_obstacle: says why not; empty: it may."""

    def __init__(self, find_obstacle: Callable[[], str]) -> None:
        self._find_obstacle = find_obstacle
        self._news = asyncio.Event()

    @property
    def obstacle(self) -> str:
        """Why nothing may be begun now; empty when it may."""
        return self._find_obstacle()

    def on_news(self) -> None:
        """The answer may be another now."""
        self._news.set()

    async def wait_open(self) -> None:
        """There is no obstacle."""
        while self._find_obstacle():
            self._news.clear()
            await self._news.wait()


class Lanes(Generic[K]):
    """Of those who work on the same thing one does at a time. Costs nothing for things that nobody works on."""

    def __init__(self) -> None:
        self._users: dict[K, tuple[asyncio.Lock, int]] = {}

    def __len__(self) -> int:
        return len(self._users)

    @asynccontextmanager
    async def enter(self, thing: K) -> AsyncIterator[None]:
        """Only the caller works on that thing until this is left; who came first goes first."""
        lock, users = self._users.get(thing) or (asyncio.Lock(), 0)
        self._users[thing] = lock, users + 1
        try:
            async with lock:
                yield
        finally:
            lock, users = self._users.pop(thing)
            if users > 1:
                self._users[thing] = lock, users - 1
