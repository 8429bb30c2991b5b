"""Who reaches whom, measured with real packets: what `felix lab reach` shows. Shell."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor

from felix.lab.lab import Workload

Pair = tuple[str, str]
Outcomes = tuple[str, ...]
"""What each try came to, one per family that both ends have."""


def measure(
    workloads: Mapping[str, Workload], port: int, protocol: str = "tcp", timeout_s: float = 1.0
) -> dict[Pair, Outcomes]:
    """Tries `port` from every workload to every other, in each family that both have; all at once."""
    pairs = [(source, target) for source in workloads for target in workloads if source != target]

    def try_pair(pair: Pair) -> Outcomes:
        source, target = workloads[pair[0]], workloads[pair[1]]
        families = ((source.ipv4, target.ipv4), (source.ipv6, target.ipv6))
        addresses = [there for here, there in families if here and there]
        return tuple(source.connect(address, port, protocol, timeout_s).outcome for address in addresses)

    with ThreadPoolExecutor(max_workers=16) as pool:
        return dict(zip(pairs, pool.map(try_pair, pairs), strict=True))


def render_seen(names: Sequence[str], seen: Mapping[Pair, Outcomes]) -> str:
    """Returns a row per source, a column per target: `yes`, `no`, or the outcomes of IPv4 and IPv6 if they differ."""
    rows = [["source", *names]]
    rows += [
        [source, *("-" if source == target else _describe(seen[source, target]) for target in names)]
        for source in names
    ]
    width = max(len(text) for row in rows for text in row) + 2
    return "\n".join("".join(text.ljust(width) for text in row).rstrip() for row in rows)


def _describe(outcomes: Outcomes) -> str:
    words = [{"ok": "yes", "timeout": "no"}.get(outcome, outcome) for outcome in outcomes]
    return "/".join(words if len(set(words)) > 1 else words[:1]) or "no address"
