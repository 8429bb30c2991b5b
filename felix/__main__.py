"""The `felix` command: finds the sub-command, imports only that one, and turns errors into messages and exit codes."""

from __future__ import annotations

import argparse
import importlib
import os
import sys
from collections.abc import Sequence

from felix.config.exits import ExitCode, exit_code
from felix.errors import FelixError

HELP_BY_COMMAND = {
    "run": "run the agent in the foreground",
    "status": "show how the agent of this host is",
    "get": "show resources",
    "apply": "create resources, or change those that exist",
    "create": "create resources that do not exist yet",
    "replace": "change resources that exist",
    "delete": "delete resources",
    "validate": "check manifests without writing anything",
    "policy": "what policies do on this host: counters",
    "ipam": "addresses: who has which, leaks, configuration",
    "dns": "service discovery: names of endpoints and of Mesos tasks",
    "lab": "virtual hosts in network namespaces, to try all of it",
    "star": "the Star demonstration: who reaches whom, on a page",
    "version": "show which version this is",
}
_EXAMPLES = """\
examples:
  felix run                      the agent of this host
  felix status                   how it is
  felix apply -f policy.yaml     write resources
  felix get gnp -o wide          show global network policies
  felix lab up                   no host at hand: two virtual ones

felix COMMAND --help tells more. Orchestrators call felix-cni, felix-ipam and felix-mesos; each has --help too.
Exit codes: docs/exit-codes.md.
"""


class _ShowVersion(argparse.Action):
    """Finds the version only when it is asked for: every other command starts without that."""

    def __call__(self, parser: argparse.ArgumentParser, *_: object) -> None:
        print(f"Felix {importlib.import_module('felix.cli.version').find_version()}")
        parser.exit()


def make_parser(wanted: str) -> argparse.ArgumentParser:
    """Returns the parser; only the command `wanted` is imported and knows its options."""
    parser = argparse.ArgumentParser(
        prog="felix",
        description="Per-host networking and security agent of an IP-per-container data centre.",
        epilog=_EXAMPLES,
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    parser.add_argument("--version", action=_ShowVersion, nargs=0, help="show which version this is, and exit")
    subparsers = parser.add_subparsers(title="commands", metavar="COMMAND", dest="command", required=True)
    for name, text in HELP_BY_COMMAND.items():
        if name == wanted:
            importlib.import_module(f"felix.cli.{name}").add_parser(subparsers)
        else:
            subparsers.add_parser(name, help=text)
    return parser


def main(argv: Sequence[str] | None = None) -> int:
    """Runs one command and returns its exit code; errors of Felix become one message on standard error."""
    # Before gRPC is imported: its fork handlers are no use to children that are exec'd at once, and log every fork.
    os.environ.setdefault("GRPC_ENABLE_FORK_SUPPORT", "0")
    words = list(sys.argv[1:] if argv is None else argv)
    wanted = next((word for word in words if not word.startswith("-")), "")
    try:
        arguments = make_parser(wanted).parse_args(words)
        result: int = arguments.func(arguments)
        sys.stdout.flush()
    except FelixError as error:
        print(f"felix: {error}", file=sys.stderr)
        return exit_code(error)
    except KeyboardInterrupt:
        return ExitCode.INTERRUPTED
    except BrokenPipeError:
        # Who reads has gone, as `| head` does; Python would complain once more when it flushes at exit.
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
        return ExitCode.FAILED
    return int(result)


if __name__ == "__main__":
    sys.exit(main())
