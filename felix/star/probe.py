"""`felix star probe`: tries every target again and again, and tells which ones it reached."""

from __future__ import annotations

import asyncio
import logging
import socket
from collections.abc import Awaitable, Callable, Sequence
from functools import partial

from aiohttp import web

from felix.star.ask import Asker
from felix.star.rhythm import keep_rhythm
from felix.star.serve import make_application, reply_json, say_where, serve_while
from felix.star.targets import ANSWERED, Status, StatusDocument, Target

log = logging.getLogger(__name__)

Try = Callable[[str], Awaitable[str]]
"""Tries a URL once; returns a word of `Target.outcome`."""


class Probe:
    """The targets and what is known of them. Each has at most one try under way."""

    def __init__(self, urls: Sequence[str], attempt: Try, interval_s: float) -> None:
        self._targets = [Target(url) for url in urls]
        self._attempt = attempt
        self._interval_s = interval_s

    def show(self) -> StatusDocument:
        """Returns what `GET /status` answers."""
        return StatusDocument(Status(self._targets))

    async def run(self) -> None:
        """Tries all targets, now and at every interval; runs until cancelled."""
        async with asyncio.TaskGroup() as tasks:
            tasks.create_task(asyncio.Event().wait())  # no target at all: nothing to do, for ever
            for target in self._targets:
                tasks.create_task(keep_rhythm(partial(self._try, target), self._interval_s))

    async def _try(self, target: Target) -> None:
        outcome = await self._attempt(target.url)
        if outcome != target.outcome:
            log.info("%s: %s (was %s)", target.url, outcome, target.outcome)
        target.outcome = outcome
        target.reachable = outcome == ANSWERED


def make_probe_application(probe: Probe) -> web.Application:
    """Returns what a probe answers: `GET /status`, and nothing else."""

    async def show_status(_: web.Request) -> web.Response:
        return reply_json(probe.show())

    return make_application([web.get("/status", show_status)])


async def run_probe(urls: Sequence[str], listener: socket.socket, interval_s: float, timeout_s: float) -> None:
    """Probes and answers on `listener` until SIGTERM or SIGINT."""
    async with Asker(timeout_s) as asker:
        probe = Probe(urls, asker.probe, interval_s)
        log.info("%d targets every %g s; %sstatus", len(urls), interval_s, say_where(listener))
        await serve_while(listener, make_probe_application(probe), probe.run())
