"""`python -m tests.bench`: the figures of Felix beside what nobody could do faster, measured in the same run."""

from __future__ import annotations

import argparse
import asyncio
import json
import os
import platform
import subprocess
import sys
from pathlib import Path

import uvloop

from tests.bench import rows
from tests.bench.figures import Figure, format_json, render_table
from tests.bench.rows import Plan
from tests.bench.world import Sizes

_ROWS = ("1", "2", "3", "4", "5", "6", "memory", "idle", "churn", "cni")
_INSIDE = "BENCH_INSIDE"


def main() -> int:
    """Measures in a network namespace of its own; returns 0 when it could, whatever the figures are."""
    arguments = _parse()
    if os.geteuid() != 0:
        print("bench: needs root, for network namespaces", file=sys.stderr)
        return 2
    if os.environ.get(_INSIDE) != "1":
        # its own namespace from before the first thread: the machine's network is never touched
        command = ["unshare", "--net", "--", sys.executable, "-m", "tests.bench", *sys.argv[1:]]
        os.execvpe(command[0], command, {**os.environ, _INSIDE: "1"})
    subprocess.run(["ip", "link", "set", "lo", "up"], check=True)
    figures: list[Figure] = []
    try:
        with asyncio.Runner(loop_factory=uvloop.new_event_loop) as runner:
            runner.run(rows.run(_plan(arguments), _say, figures))
    finally:
        figures.sort(key=lambda figure: figure.row)
        print(render_table(figures))
        _write(arguments.json, figures)
    return 0


def _parse() -> argparse.Namespace:
    parser = argparse.ArgumentParser(prog="python -m tests.bench", description=__doc__)
    parser.add_argument("--rows", default=",".join(_ROWS), help=f"which, of {','.join(_ROWS)} (default: all)")
    parser.add_argument("--local", type=int, default=1000, help="local endpoints (default: %(default)s)")
    parser.add_argument("--remote", type=int, default=10_000, help="endpoints of other hosts (default: %(default)s)")
    parser.add_argument("--policies", type=int, default=1000, help="policies (default: %(default)s)")
    parser.add_argument("--set-members", type=int, default=100_000, help="of each large set (default: %(default)s)")
    parser.add_argument("--large", type=int, default=4000, help="local endpoints of row 2 (default: %(default)s)")
    parser.add_argument("--small", type=int, default=100, help="compared with these (default: %(default)s)")
    parser.add_argument("--changes", type=int, default=200, help="timed changes of each figure (default: %(default)s)")
    parser.add_argument("--json", type=Path, metavar="FILE", help="also write the figures there")
    parser.add_argument("--profile", type=Path, metavar="DIR", help="run agents under cProfile, output into DIR")
    parser.add_argument(
        "--etcd-on-disk", action="store_true", help="etcd's data in the temporary directory, not memory"
    )
    parser.add_argument("--quick", action="store_true", help="a tenth of everything: does it run, not how fast it is")
    arguments = parser.parse_args()
    unknown = set(arguments.rows.split(",")) - set(_ROWS)
    if unknown:
        parser.error(f"--rows: there is no {', '.join(sorted(unknown))}; choose from {','.join(_ROWS)}")
    return arguments


def _plan(arguments: argparse.Namespace) -> Plan:
    share = 10 if arguments.quick else 1
    sizes = Sizes(
        arguments.local // share,
        arguments.remote // share,
        arguments.policies // share,
        spare=min(200, max(20, arguments.changes // share)),
    )
    return Plan(
        frozenset(arguments.rows.split(",")),
        sizes,
        set_members=arguments.set_members // share,
        large=arguments.large // share,
        small=arguments.small // share or 10,
        changes=arguments.changes // share or 1,
        cold_starts=1 if arguments.quick else 3,
        restarts=2 if arguments.quick else 4,
        idle_s=6.0 if arguments.quick else 60.0,
        churn_s=6.0 if arguments.quick else 60.0,
        profile=arguments.profile,
        is_on_disk=arguments.etcd_on_disk,
    )


def _say(text: str) -> None:
    print(f"bench: {text}", file=sys.stderr, flush=True)


def _write(path: Path | None, figures: list[Figure]) -> None:
    machine = {
        "cores": len(os.sched_getaffinity(0)),
        "kernel": platform.release(),
        "python": platform.python_version(),
    }
    text = json.dumps({"machine": machine, "figures": format_json(figures)}, indent=1)
    if path is not None:
        path.write_text(text + "\n")
    else:
        print(text)


if __name__ == "__main__":
    sys.exit(main())
