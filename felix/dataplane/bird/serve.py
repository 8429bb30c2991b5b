"""Keeps BIRD running what the datastore says, and looks at it: apply on change, retry on failure, read at intervals."""

from __future__ import annotations

import asyncio
import random
from collections.abc import Callable
from dataclasses import dataclass
from typing import NoReturn

from felix.calc.bgp import BgpInputs
from felix.dataplane.bird.apply import BirdPlace, apply_bird
from felix.dataplane.bird.context import build_context
from felix.dataplane.bird.read import read_state
from felix.dataplane.bird.types import BirdOptions, BirdOutcome, BirdState
from felix.errors import FelixError, Problem
from felix.reconcile.retry import BackOff

_SETTLE_S = 0.05  # a burst of changed nodes costs one reconfiguration
_LOOK_S = 5.0


@dataclass(slots=True)
class BirdReport:
    """BIRD after an apply or a look. state: None when it does not answer. fault: why, or why it refuses; empty: none.

    outcome: of the apply that this follows, None after a mere look. problems: what is left out of its configuration.
    """

    state: BirdState | None = None
    outcome: BirdOutcome | None = None
    fault: str = ""
    problems: tuple[Problem, ...] = ()


class BirdKeeper:
    """The BIRD of this host. on_report: called after each apply and each look, on the loop's thread."""

    def __init__(self, place: BirdPlace, options: BirdOptions, on_report: Callable[[BirdReport], None]) -> None:
        self._place = place
        self._options = options
        self._on_report = on_report
        self._inputs: BgpInputs | None = None
        self._changed = asyncio.Event()
        self._digest = ""
        self._failures = 0
        self._problems: tuple[Problem, ...] = ()
        self._backoff = BackOff(first_s=0.5, most_s=10.0)

    def on_inputs(self, inputs: BgpInputs) -> None:
        """BIRD shall run what `inputs` amount to."""
        self._inputs = inputs
        self._changed.set()

    async def run(self) -> NoReturn:
        """Applies and looks until cancelled. A BIRD that is away or refuses concerns nobody but BIRD."""
        while True:
            wait_s = self._backoff.delay_s(self._failures, random.random()) if self._failures else _LOOK_S
            if await self._has_changed(wait_s):
                await asyncio.sleep(_SETTLE_S)
                self._changed.clear()
                await self._apply()
            else:
                await self._look()

    async def _has_changed(self, within_s: float) -> bool:
        try:
            async with asyncio.timeout(within_s):
                return await self._changed.wait()
        except TimeoutError:
            return False

    async def _apply(self) -> None:
        if self._inputs is None:
            return
        context, left_out = build_context(self._inputs, self._options)
        outcome = await apply_bird(self._place, context)
        self._digest = outcome.digest
        self._problems = (*left_out, *outcome.problems)
        self._failures = self._failures + 1 if outcome.fault else 0
        self._on_report(BirdReport(await self._find_state(), outcome, outcome.fault, self._problems))

    async def _look(self) -> None:
        """BIRD was asked how it is; it gets its configuration again when it is back or runs another one."""
        state = await self._find_state()
        fault = "" if state is not None else f"BIRD does not answer on {self._place.socket}"
        if self._inputs is not None and (self._failures or (state is not None and state.digest != self._digest)):
            await self._apply()
            return
        self._on_report(BirdReport(state, None, fault, self._problems))

    async def _find_state(self) -> BirdState | None:
        try:
            return await read_state(self._place.socket, self._place.timeout_s)
        except (FelixError, OSError):
            return None
