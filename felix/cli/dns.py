"""`felix dns`: service discovery, over DNS and HTTP."""

from __future__ import annotations

import argparse
import dataclasses
import os
import sys
from pathlib import Path

from felix.cli.connection import CONNECTION_HELP, add_connection_options, find_settings
from felix.cli.serve import run_server
from felix.config.exits import ExitCode
from felix.datastore.load import EtcdSettings
from felix.dns.config import DnsConfig, read_config, settle_config
from felix.dns.main import DnsService
from felix.errors import DataError
from felix.obs.log import LEVEL_BY_NAME, LogOptions, start_logging

_EXAMPLES = f"""\
examples:
  felix dns --config /etc/mesos-dns/config.json
  felix dns --config dns.json --check            say what is wrong with it, and end
  felix dns                                      names of endpoints in etcd, domain felix, port 53

The file is Mesos-DNS's, with "datastore" for names from etcd; docs/discovery.md tells all keys. Exit code 78: the file
cannot be used; 69: an address cannot be had.

{CONNECTION_HELP}"""


def add_parser(subparsers: argparse._SubParsersAction[argparse.ArgumentParser]) -> None:
    """`felix dns` is known to the parser."""
    parser = subparsers.add_parser(
        "dns",
        help="service discovery: DNS and HTTP",
        description="Serves names of endpoints in etcd and of a Mesos master's tasks until it is stopped.",
        epilog=_EXAMPLES,
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    parser.add_argument("--config", type=Path, metavar="FILE", help="Mesos-DNS's JSON (default: names from etcd only)")
    parser.add_argument("--check", action="store_true", help="read the file, print what it has to say, and end")
    parser.add_argument(
        "--log-level", default="INFO", type=str.upper, choices=list(LEVEL_BY_NAME), help="severity (default: INFO)"
    )
    add_connection_options(parser)
    parser.set_defaults(func=_dns)


def _dns(arguments: argparse.Namespace) -> int:
    try:
        config = _read(arguments.config)
    except DataError as error:
        print(f"felix: {error}", file=sys.stderr)
        return ExitCode.BAD_SETTING
    if arguments.check:
        print("\n".join(config.notices) or "nothing is wrong")
        return ExitCode.FAILED if config.notices else ExitCode.OK
    start_logging(LogOptions(arguments.log_level, "NONE", "", is_json=False))
    endpoints = arguments.etcd_endpoints or (config.datastore.etcd_endpoints if config.datastore else "")
    etcd = find_settings(endpoints, os.environ) if config.datastore else None
    if config.datastore and etcd:
        config = dataclasses.replace(
            config, datastore=dataclasses.replace(config.datastore, etcd_endpoints=",".join(etcd.endpoints))
        )
    return run_server(_serve(config, etcd), "stopped by a bug of Felix")


async def _serve(config: DnsConfig, etcd: EtcdSettings | None) -> None:
    await DnsService(config, etcd).run()


def _read(path: Path | None) -> DnsConfig:
    if path is None:
        return settle_config({"datastore": {}}, "no file")
    try:
        text = path.read_bytes()
    except OSError as error:
        raise DataError(f"{path}: cannot be read: {error.strerror or error}") from error
    return read_config(text, str(path))
