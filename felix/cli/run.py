"""`felix run`: the agent, in the foreground."""

from __future__ import annotations

import argparse
import logging
import sys
from pathlib import Path

from felix.agent import Agent, LogParts
from felix.cli.serve import run_server
from felix.config.exits import ExitCode
from felix.config.load import load_settings
from felix.config.resolve import Resolved
from felix.errors import DataError
from felix.obs.log import LogCounts, LogOptions, start_logging

_EXAMPLES = """\
examples:
  felix run
  FELIX_ETCDENDPOINTS=http://10.0.0.1:2379 FELIX_LOGSEVERITYSCREEN=debug felix run
  felix run --config-file /etc/calico/felix.cfg

Settings come from the environment (FELIX_<NAME>), the file, and FelixConfiguration resources, in this order; see
docs/config.md. SIGTERM stops the agent and leaves everything in the kernel as it is.
"""


def add_parser(subparsers: argparse._SubParsersAction[argparse.ArgumentParser]) -> None:
    """`felix run` is known to the parser."""
    parser = subparsers.add_parser(
        "run",
        help="the agent, in the foreground",
        description="Enforces policy and routes for the workloads of this host until it is stopped.",
        epilog=_EXAMPLES,
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    parser.add_argument("--config-file", type=Path, metavar="FILE", help="settings (default: /etc/calico/felix.cfg)")
    parser.set_defaults(func=_run)


def _run(arguments: argparse.Namespace) -> int:
    try:
        resolved = load_settings(arguments.config_file)
    except DataError as error:
        print(f"felix: {error}", file=sys.stderr)
        return ExitCode.BAD_SETTING
    settings = resolved.settings
    counts = LogCounts()
    logs = start_logging(
        LogOptions(
            settings.log_severity_screen,
            settings.log_severity_file,
            settings.log_file_path,
            is_json=settings.log_format == "json",
        ),
        hooks=counts.hooks,
    )
    for notice in resolved.notices:
        logging.getLogger(__name__).warning("setting: %s", notice)
    work = _serve(resolved, arguments.config_file, LogParts(logs, counts))
    return run_server(work, "stopped by a bug of Felix, what is in the kernel stays in force")


async def _serve(resolved: Resolved, config_file: Path | None, logs: LogParts) -> None:
    await Agent(resolved, config_file, logs).run()
