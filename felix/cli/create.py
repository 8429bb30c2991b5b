"""`felix create`: create resources that do not exist yet."""

from __future__ import annotations

import argparse

from felix.cli.write import Verb, add_write_parser

_EXAMPLE = """\
  felix create -f policy.yaml
  felix create --skip-exists -f defaults/"""


def add_parser(subparsers: argparse._SubParsersAction[argparse.ArgumentParser]) -> None:
    """`felix create` is known to the parser."""
    add_write_parser(subparsers, Verb.CREATE, "create resources that do not exist yet", _EXAMPLE)
