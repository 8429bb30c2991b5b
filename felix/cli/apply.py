"""`felix apply`: create resources, or change those that exist."""

from __future__ import annotations

import argparse

from felix.cli.write import Verb, add_write_parser

_EXAMPLE = """\
  felix apply -f policy.yaml
  felix apply -f manifests/ -f -     a folder, then standard input"""


def add_parser(subparsers: argparse._SubParsersAction[argparse.ArgumentParser]) -> None:
    """`felix apply` is known to the parser."""
    add_write_parser(subparsers, Verb.APPLY, "create resources, or change those that exist", _EXAMPLE)
