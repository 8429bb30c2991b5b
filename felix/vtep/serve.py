"""Keeps this host's address in the tunnel: looks whenever what it stands on changed, again after a failure. Shell."""

from __future__ import annotations

import asyncio
import logging
import random
from collections.abc import Callable, Mapping
from typing import NoReturn

from felix.calc.tunnels import TunnelWish
from felix.clock import monotonic_s
from felix.errors import FelixError, Problem
from felix.model.keys import ResourceKey, format_key
from felix.reconcile.retry import BackOff, RetryQueue
from felix.vtep.apply import VtepStore

log = logging.getLogger(__name__)

_BACK_OFF = BackOff(first_s=0.5, most_s=30.0)


class VtepKeeper:
    """Owns the address of this host in the tunnel, by family. on_problems: called when they are others than before."""

    def __init__(self, store: VtepStore, node: str, on_problems: Callable[[tuple[Problem, ...]], None]) -> None:
        self._store = store
        self._subject = format_key(ResourceKey("Node", "", node))
        self._on_problems = on_problems
        self._wish_by_family: dict[int, TunnelWish] = {}
        self._due: dict[int, None] = {}
        self._retries: RetryQueue[int] = RetryQueue(_BACK_OFF)
        self._problem_by_family: dict[int, Problem] = {}
        self._told: tuple[Problem, ...] = ()
        self._wake = asyncio.Event()
        self.errors_count = 0

    def on_wishes(self, wishes: Mapping[int, TunnelWish]) -> None:
        """This is what the Node says and should say from now on."""
        for family, wish in wishes.items():
            if self._wish_by_family.get(family) != wish:
                self._wish_by_family[family] = wish
                self._due[family] = None
        self._wake.set()

    async def run(self) -> NoReturn:
        """Works until cancelled. The address stays as it is then: a restart is no farewell."""
        while True:
            await self._wait()
            self._wake.clear()
            due = dict.fromkeys([*self._due, *self._retries.take_due(monotonic_s())])
            self._due.clear()
            for family in due:
                await self._settle(family)
            problems = tuple(self._problem_by_family[family] for family in sorted(self._problem_by_family))
            if problems != self._told:
                self._told = problems
                self._on_problems(problems)

    async def _wait(self) -> None:
        due_at = self._retries.next_due_at()
        wait_s = None if due_at is None else max(0.0, due_at - monotonic_s())
        try:
            async with asyncio.timeout(wait_s):
                await self._wake.wait()
        except TimeoutError:
            return

    async def _settle(self, family: int) -> None:
        wish = self._wish_by_family[family]
        try:
            address = await self._store.settle(family, wish)
        except FelixError as error:
            self.errors_count += 1
            self._retries.note_failed(family, monotonic_s(), random.random())
            reason = f"VXLAN: this host's address in the tunnel is not as it should be: {error}"
            self._problem_by_family[family] = Problem(self._subject, f"IPv{family}", wish.address, reason)
            return
        self._retries.note_done(family)
        self._problem_by_family.pop(family, None)
        if address is None and wish.is_on:
            reason = (
                "VXLAN: no pool with vxlanMode gives this host an address in the tunnel; see disabled, nodeSelector "
            )
            reason += "and allowedUses of each"
            self._problem_by_family[family] = Problem(self._subject, f"IPv{family}", "", reason)
