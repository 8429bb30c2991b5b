"""`felix replace`: change resources that exist."""

from __future__ import annotations

import argparse

from felix.cli.write import Verb, add_write_parser

_EXAMPLE = """\
  felix get gnp allow-web -o yaml > web.yaml; edit web.yaml
  felix replace -f web.yaml          refused if somebody changed it meanwhile"""


def add_parser(subparsers: argparse._SubParsersAction[argparse.ArgumentParser]) -> None:
    """`felix replace` is known to the parser."""
    add_write_parser(subparsers, Verb.REPLACE, "change resources that exist", _EXAMPLE)
