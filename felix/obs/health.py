"""Whether the agent is alive and whether it is ready, from what its parts say about themselves.

Alive means that every part made progress lately, not that it finished something: a slow kernel must not get the
agent killed. Ready means that every part that counts says so and is not stuck. The two are asked at the moment of
the question, so a part that froze cannot go on to look well.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import NamedTuple

from felix.clock import Clock, monotonic_s


class Verdict(NamedTuple):
    """An answer, and what a person would want to know about it; the text may be empty."""

    is_good: bool
    detail: str


class ComponentState(NamedTuple):
    """One part at the moment of the question. timeout_s 0: never counts as stuck. counts: towards readiness."""

    name: str
    is_live: bool
    is_ready: bool
    counts: bool
    silent_s: float
    timeout_s: float
    detail: str


class Component:
    """What one part says about itself. Get one from `Health.component`."""

    def __init__(self, name: str, timeout_s: float, *, counts: bool, clock: Clock) -> None:
        self.name = name
        self.timeout_s = timeout_s
        self.counts = counts
        self._clock = clock
        self._heard = clock()
        self._ready = Verdict(not counts, "" if not counts else "not yet")
        self._ask: Callable[[], Verdict] | None = None

    def beat(self) -> None:
        """Says "I make progress"; call it from the very loop that does the work, also inside long work."""
        self._heard = self._clock()

    def set_ready(self, is_ready: bool, detail: str = "") -> None:
        """Says whether this part does its job now, and why not; implies a beat."""
        self._ready = Verdict(is_ready, detail)
        self.beat()

    def ask_with(self, ask: Callable[[], Verdict]) -> None:
        """From now on readiness also needs `ask`, called at each question; it must not wait."""
        self._ask = ask

    def state(self) -> ComponentState:
        """Returns how this part stands now."""
        silent_s = self._clock() - self._heard
        is_live = self.timeout_s <= 0 or silent_s <= self.timeout_s
        ready, detail = self._ready
        if ready and self._ask is not None:
            ready, detail = self._ask()
        if not is_live:
            detail = f"silent for {silent_s:.0f} s, allowed are {self.timeout_s:g} s" + (detail and f"; {detail}")
        return ComponentState(self.name, is_live, ready and is_live, self.counts, silent_s, self.timeout_s, detail)


class Health:
    """All parts of the agent. timeouts_s: overrides by name, as HealthTimeoutOverrides."""

    def __init__(self, clock: Clock = monotonic_s, timeouts_s: Mapping[str, float] | None = None) -> None:
        self._clock = clock
        self._timeouts_s = dict(timeouts_s or {})
        self._default_timeout_s_by_name: dict[str, float] = {}
        self._component_by_name: dict[str, Component] = {}

    def component(self, name: str, timeout_s: float = 0.0, *, counts: bool = True) -> Component:
        """Returns a new part. counts: whether the agent is only ready when this part is.

        timeout_s: how long it may stay silent, 0 for ever. Raises ValueError when the name is taken.
        """
        if name in self._component_by_name:
            raise ValueError(f"there is already a component {name}")
        self._default_timeout_s_by_name[name] = timeout_s
        component = Component(name, self._timeouts_s.get(name, timeout_s), counts=counts, clock=self._clock)
        self._component_by_name[name] = component
        return component

    def override_timeouts(self, timeouts_s: Mapping[str, float]) -> None:
        """Uses these timeouts, by name, instead of earlier overrides; the others get their own back."""
        self._timeouts_s = dict(timeouts_s)
        for name, component in self._component_by_name.items():
            component.timeout_s = self._timeouts_s.get(name, self._default_timeout_s_by_name[name])

    def states(self) -> tuple[ComponentState, ...]:
        """Returns how each part stands now, in the order they were made."""
        return tuple(component.state() for component in self._component_by_name.values())

    def is_live(self) -> bool:
        """Whether no part is stuck."""
        return all(state.is_live for state in self.states())

    def is_ready(self) -> bool:
        """Whether all parts that count are ready; False while there is none."""
        states = [state for state in self.states() if state.counts]
        return bool(states) and all(state.is_ready for state in states) and self.is_live()


def render_states(states: tuple[ComponentState, ...]) -> str:
    """Returns a table for people, one line per part."""
    head = ("component", "timeout", "live", "ready", "detail")
    rows = [head] + [
        (
            state.name,
            f"{state.timeout_s:g}s" if state.timeout_s > 0 else "-",
            "yes" if state.is_live else "NO",
            ("yes" if state.is_ready else "NO")
            if state.counts
            else ("yes" if state.is_ready else "no") + " (optional)",
            state.detail,
        )
        for state in states
    ]
    widths = [max(len(row[column]) for row in rows) for column in range(len(head))]
    return "".join(
        "  ".join(cell.ljust(width) for cell, width in zip(row, widths, strict=True)).rstrip() + "\n" for row in rows
    )
