"""`felix`: finds the sub-command, imports its module and nothing else, and runs it."""

from __future__ import annotations

import argparse
import importlib
import sys

from felix.config.exits import exit_code
from felix.errors import FelixError

COMMANDS = ("run", "lab")


def main() -> int:
    """Returns the exit code of the sub-command that the command line names."""
    parser = argparse.ArgumentParser(prog="felix", description="Networking and security of one host's containers.")
    subparsers = parser.add_subparsers(dest="command", required=True, metavar="COMMAND")
    for name in COMMANDS:
        importlib.import_module(f"felix.cli.{name}").add_parser(subparsers)
    arguments = parser.parse_args()
    try:
        return int(arguments.func(arguments))
    except FelixError as error:
        print(f"felix: {error}", file=sys.stderr)
        return exit_code(error)


if __name__ == "__main__":
    sys.exit(main())
