"""`felix policy`: what policies do on this host."""

from __future__ import annotations

import argparse
import sys
from collections.abc import Iterator, Sequence
from pathlib import Path

import msgspec

from felix.cli.connection import ask_agent
from felix.config.exits import ExitCode
from felix.config.load import load_settings
from felix.errors import DataError, EnvironmentFault
from felix.obs.counts import PolicyCount

_EXAMPLES = """\
examples:
  felix policy counters
  felix policy counters default.web          of policies and profiles of this name alone
  felix policy counters -o json

Counted are packets that open a flow, not those of flows that were let through before. Of a staged policy it is what
it would do. Policies are counted unless the setting PolicyCountersEnabled is off, single rules when PolicyRuleCounters
says so, staged policies always. Asks the agent of this host; needs root.
"""


def add_parser(subparsers: argparse._SubParsersAction[argparse.ArgumentParser]) -> None:
    """`felix policy` is known to the parser."""
    parser = subparsers.add_parser(
        "policy",
        help="show what policies do on this host",
        description="Shows what policies do on this host.",
        epilog=_EXAMPLES,
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    verbs = parser.add_subparsers(title="commands", metavar="COMMAND", required=True)
    counters = verbs.add_parser(
        "counters",
        help="show how many packets policies allowed, denied, passed on",
        description="Shows how many packets policies and profiles in use on this host allowed, denied or passed on.",
        epilog=_EXAMPLES,
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    counters.add_argument("names", nargs="*", metavar="NAME", help="only policies and profiles of this name")
    counters.add_argument(
        "-o", "--output", choices=("table", "json"), default="table", help="form of the output (default: table)"
    )
    counters.add_argument("--config-file", type=Path, metavar="FILE", help="settings (default: /etc/calico/felix.cfg)")
    counters.set_defaults(func=_counters)


def _counters(arguments: argparse.Namespace) -> int:
    try:
        run_dir = Path(load_settings(arguments.config_file).settings.run_dir)
    except DataError as error:
        print(f"felix: {error}", file=sys.stderr)
        return ExitCode.BAD_SETTING
    answer = ask_agent(run_dir, "GET", "/v1/policy-counters")
    try:
        counts = msgspec.convert(answer, list[PolicyCount])
    except msgspec.ValidationError as error:
        raise EnvironmentFault(f"what answers in {run_dir} is no agent that this command knows: {error}") from error
    wanted = [one for one in counts if not arguments.names or one.name in arguments.names]
    missing = sorted(set(arguments.names) - {one.name for one in wanted})
    for name in missing:
        print(
            f"felix: no policy or profile {name} is in use on this host and counted;"
            " see: felix get np,gnp,profile, and the setting PolicyCountersEnabled",
            file=sys.stderr,
        )
    if arguments.output == "json":
        print(msgspec.json.format(msgspec.json.encode(wanted)).decode())
    elif wanted or not missing:
        print("\n".join(render_counts(wanted)))
    return ExitCode.FAILED if missing else ExitCode.OK


def render_counts(counts: Sequence[PolicyCount]) -> Iterator[str]:
    """Yields the lines for people: one per counter, in the order given."""
    rows = [("POLICY", "TIER", "DIRECTION", "RULE", "ACTION", "PACKETS", "BYTES")]
    for one in counts:
        path = f"{one.namespace}/{one.name}" if one.namespace else one.name
        rule = "all" if one.rule is None else str(one.rule)
        words = (f"{one.kind}({path})", one.tier, one.direction, rule, one.action)
        rows.append((*words, str(one.packets), str(one.bytes)))
    widths = [max(len(row[column]) for row in rows) for column in range(len(rows[0]))]
    for row in rows:
        cells = [
            cell.rjust(width) if at > 4 else cell.ljust(width)
            for at, (cell, width) in enumerate(zip(row, widths, strict=True))
        ]
        yield "  ".join(cells).rstrip()
