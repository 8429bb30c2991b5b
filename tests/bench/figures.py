"""What a run of the benchmarks says: figures with their goals and floors, as a table and as JSON. Pure."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field


@dataclass(frozen=True, slots=True)
class Figure:
    """One measured number beside what it should be and what nobody could do faster.

    goal: the most it may be, None without one. floor: None where there is none; floor_text says what it is.
    detail: other numbers of the same measurement, by name, in the unit that the name ends with.
    """

    row: str
    name: str
    unit: str
    value: float
    goal: float | None = None
    floor: float | None = None
    floor_text: str = ""
    detail: Mapping[str, float] = field(default_factory=dict)

    @property
    def is_reached(self) -> bool | None:
        """Whether the goal is reached; None without a goal."""
        return None if self.goal is None else self.value <= self.goal


def quantile(values: Sequence[float], share: float) -> float:
    """Returns the value below which `share` (0-1) of the values lie; of nothing, not a number."""
    if not values:
        return float("nan")
    ordered = sorted(values)
    return ordered[min(len(ordered) - 1, int(share * len(ordered)))]


def summarize(latencies_s: Sequence[float], prefix: str = "") -> dict[str, float]:
    """Returns median, p99, extremes in milliseconds, and the count."""
    ms = [1000 * value for value in latencies_s]
    return {
        f"{prefix}p50_ms": quantile(ms, 0.5),
        f"{prefix}p99_ms": quantile(ms, 0.99),
        f"{prefix}min_ms": min(ms, default=float("nan")),
        f"{prefix}max_ms": max(ms, default=float("nan")),
        f"{prefix}count": float(len(ms)),
    }


def render_table(figures: Sequence[Figure]) -> str:
    """Returns one line per figure, and below it the details."""
    rows = [("figure", "measured", "goal", "", "floor", "ratio")]
    details: list[str] = [""]
    for figure in figures:
        verdict = {None: "", True: "reached", False: "MISSED"}[figure.is_reached]
        ratio = f"{figure.value / figure.floor:.1f}" if figure.floor else ""
        rows.append(
            (
                f"{figure.row}: {figure.name}",
                f"{_number(figure.value)} {figure.unit}",
                "" if figure.goal is None else f"{_number(figure.goal)}",
                verdict,
                "" if figure.floor is None else f"{_number(figure.floor)}",
                ratio,
            )
        )
        more = [figure.floor_text] if figure.floor_text else []
        if figure.detail:
            more.append(", ".join(f"{name} {_number(value)}" for name, value in figure.detail.items()))
        details.append("; ".join(more))
    widths = [max(len(row[column]) for row in rows) for column in range(len(rows[0]))]
    lines = []
    for row, more_text in zip(rows, details, strict=True):
        lines.append("  ".join(cell.ljust(width) for cell, width in zip(row, widths, strict=True)).rstrip())
        if more_text:
            lines.append(f"    {more_text}")
    return "\n".join(lines)


def format_json(figures: Sequence[Figure]) -> list[dict[str, object]]:
    """Returns the figures as JSON values."""
    return [
        {
            "row": figure.row,
            "name": figure.name,
            "unit": figure.unit,
            "value": _rounded(figure.value),
            "goal": figure.goal,
            "reached": figure.is_reached,
            "floor": None if figure.floor is None else _rounded(figure.floor),
            "floor_is": figure.floor_text,
            "detail": {name: _rounded(value) for name, value in figure.detail.items()},
        }
        for figure in figures
    ]


def _number(value: float) -> str:
    if value == int(value) and abs(value) < 1e9:
        return str(int(value))
    return f"{value:.3g}" if abs(value) < 100 else f"{value:.0f}"


def _rounded(value: float) -> float | None:
    return None if math.isnan(value) else round(value, 4)
