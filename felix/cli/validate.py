"""`felix validate`: manifests are judged as `felix apply` would, without etcd."""

from __future__ import annotations

import argparse

from felix.cli.manifest import read_manifest
from felix.cli.store import DEFAULT_NAMESPACE
from felix.cli.write import FILE_HELP, judge_sheets
from felix.config.exits import ExitCode
from felix.errors import DataError

_EXAMPLE = """\
examples:
  felix validate -f policy.yaml
  felix validate -R -f manifests/ && echo good

Needs no etcd. Exit code 0: all can be applied; 65: something cannot, each fault with file, document, line and field.
"""


def add_parser(subparsers: argparse._SubParsersAction[argparse.ArgumentParser]) -> None:
    """`felix validate` is known to the parser."""
    parser = subparsers.add_parser(
        "validate",
        help="check manifests without writing anything",
        description="Checks manifests without writing anything.",
        epilog=_EXAMPLE,
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    parser.add_argument("-f", "--filename", action="append", required=True, metavar="FILE", help=FILE_HELP)
    parser.add_argument("-R", "--recursive", action="store_true", help="go into folders of folders")
    parser.add_argument("--allow-unknown", action="store_true", help="accept fields that Felix does not know")
    parser.set_defaults(func=_validate)


def _validate(arguments: argparse.Namespace) -> int:
    sheets = read_manifest(arguments.filename, is_recursive=arguments.recursive)
    orders, messages = judge_sheets(sheets, DEFAULT_NAMESPACE, allow_unknown=arguments.allow_unknown)
    if messages:
        raise DataError("\n".join(messages))
    print(f"Successfully validated {len(orders)} resource(s)")
    return ExitCode.OK
