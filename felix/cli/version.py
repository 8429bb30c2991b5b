"""`felix version`."""

from __future__ import annotations

import argparse
import importlib.metadata
import json
import platform

_EXAMPLE = """\
examples:
  felix version
  felix version -o json
"""


def add_parser(subparsers: argparse._SubParsersAction[argparse.ArgumentParser]) -> None:
    """`felix version` is known to the parser."""
    parser = subparsers.add_parser(
        "version",
        help="show which version this is",
        description="Shows which version this is.",
        epilog=_EXAMPLE,
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    parser.add_argument(
        "-o", "--output", choices=("text", "json"), default="text", help="form of the output (default: text)"
    )
    parser.set_defaults(func=_show)


def _show(arguments: argparse.Namespace) -> int:
    versions = {"felix": find_version(), "python": platform.python_version(), "kernel": platform.release()}
    if arguments.output == "json":
        print(json.dumps(versions))
    else:
        print("\n".join(f"{name.capitalize()} {version}" for name, version in versions.items()))
    return 0


def find_version() -> str:
    """Returns the version of the installed package, or `unknown` when Felix runs from its sources."""
    try:
        return importlib.metadata.version("felix")
    except importlib.metadata.PackageNotFoundError:
        return "unknown"
