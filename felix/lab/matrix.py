"""Who can reach whom, measured with real connections and held against what is expected. Shell."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass

from felix.lab.lab import Workload

Pair = tuple[str, str]


@dataclass(frozen=True, slots=True)
class Cell:
    """One direction between two workloads: whether it should work, and what each try (one per family) came to."""

    expected: bool
    outcomes: tuple[str, ...]

    @property
    def is_right(self) -> bool:
        """Whether every try answered as expected; a refused connection is neither open nor filtered: never right."""
        return bool(self.outcomes) and all(
            outcome == ("ok" if self.expected else "timeout") for outcome in self.outcomes
        )


def measure(
    workloads: Mapping[str, Workload],
    port: int,
    is_expected: Callable[[str, str], bool],
    protocol: str = "tcp",
    timeout_s: float = 1.0,
) -> dict[Pair, Cell]:
    """Tries `port` from every workload to every other, in each family that both have; all at once."""
    pairs = [(source, target) for source in workloads for target in workloads if source != target]

    def try_pair(pair: Pair) -> Cell:
        source, target = workloads[pair[0]], workloads[pair[1]]
        families = ((source.ipv4, target.ipv4), (source.ipv6, target.ipv6))
        addresses = [there for here, there in families if here and there]
        outcomes = tuple(source.connect(address, port, protocol, timeout_s).outcome for address in addresses)
        return Cell(is_expected(*pair), outcomes)

    with ThreadPoolExecutor(max_workers=16) as pool:
        return dict(zip(pairs, pool.map(try_pair, pairs), strict=True))


def render_matrix(names: Sequence[str], cells: Mapping[Pair, Cell]) -> str:
    """Returns two matrices side by side, what is expected and what was seen: a row per source, a column per target."""
    expected = _render_half("expected", names, lambda pair: "yes" if cells[pair].expected else "no")
    seen = _render_half("seen", names, lambda pair: _describe(cells[pair]))
    return "\n".join(f"{left}   {right}".rstrip() for left, right in zip(expected, seen, strict=True))


def render_seen(names: Sequence[str], cells: Mapping[Pair, Cell]) -> str:
    """Returns what was seen, whatever was expected: `yes`, `no`, or the outcomes of IPv4 and IPv6 where they differ."""
    lines = _render_half("source", names, lambda pair: _describe_outcomes(cells[pair]))
    return "\n".join(line.rstrip() for line in lines)


def _describe_outcomes(cell: Cell) -> str:
    words = [{"ok": "yes", "timeout": "no"}.get(outcome, outcome) for outcome in cell.outcomes]
    return "/".join(words if len(set(words)) > 1 else words[:1]) or "no address"


def _render_half(title: str, names: Sequence[str], word: Callable[[Pair], str]) -> list[str]:
    rows = [[title, *names]]
    rows += [[source, *("-" if source == target else word((source, target)) for target in names)] for source in names]
    width = max(len(text) for row in rows for text in row) + 2
    return ["".join(text.ljust(width) for text in row) for row in rows]


def _describe(cell: Cell) -> str:
    if cell.is_right:
        return "yes" if cell.expected else "no"
    return f"{'/'.join(cell.outcomes) or 'no address'}!"
