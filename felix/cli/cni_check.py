"""`felix lab cni-check`: whether a CNI plug-in does what the specification says."""

from __future__ import annotations

import argparse
import json
import sys
from pathlib import Path

from felix.config.exits import ExitCode
from felix.errors import DataError
from felix.lab.cni.conformance import CNI_PATH, Wish, run_checks
from felix.lab.cni.shape import VERSIONS
from felix.lab.cni.verdict import Verdict, render_verdict
from felix.lab.lab import Lab, check_root

_DESCRIPTION = """\
Call a CNI plug-in as runtimes call it, and check what it answers and does: every verb (VERSION, ADD, CHECK, DEL, GC,
STATUS) in every version of the specification, errors and their codes, several containers at once, and that nothing
is left. A line per case; exit code 0 when none failed, 1 otherwise. What the plug-in does not list is skipped.

The plug-in runs in network namespaces of the check's own, which are gone afterwards, so this machine's network is not
touched. With --host it runs on a host of a lab, where agent and etcd are: felix-cni and felix-ipam need that.

For bridge, ptp, host-local, felix-cni and felix-ipam a configuration is known. For others, or for another one, give
--conf FILE: the configuration of one plug-in, or a list of plug-ins of which that one is taken, as in

  {"name": "cnicheck", "type": "bridge", "bridge": "br0", "isGateway": true,
   "ipam": {"type": "host-local", "dataDir": "/tmp/cnicheck", "ranges": [[{"subnet": "10.77.0.0/24"}]],
            "routes": [{"dst": "0.0.0.0/0"}]}}

cniVersion is set by the check. Give a network name that nothing else uses: GC is called with the check's own
containers, so a plug-in that does it takes everything else away that is attached to the network of this name.
"""


def fill_parser(parser: argparse.ArgumentParser) -> None:
    """The verb's options are known, and what it does is explained."""
    parser.description = _DESCRIPTION
    parser.add_argument("plugin", metavar="PLUGIN", help="a path, or a name to look for in --cni-path")
    parser.add_argument("--conf", type=Path, metavar="FILE", help="the plug-in's configuration, JSON")
    parser.add_argument(
        "--cni-path", default=CNI_PATH, metavar="DIRS", help=f"where plug-ins are, separated by : (default: {CNI_PATH})"
    )
    parser.add_argument(
        "--versions",
        default=",".join(VERSIONS),
        metavar="LIST",
        help="versions to try, as in 0.4.0,1.0.0 (default: all)",
    )
    parser.add_argument(
        "--ipam",
        action="store_true",
        help="the plug-in gives addresses and makes no interface (known of host-local and felix-ipam)",
    )
    parser.add_argument("--host", metavar="HOST", help="run on this host of the lab: h1, h2, ...")
    parser.add_argument(
        "--timeout", type=float, default=30.0, metavar="S", help="how long one call may take (default: 30 s)"
    )
    parser.add_argument("-q", "--quiet", action="store_true", help="leave out the cases that pass")
    parser.add_argument("-o", "--output", choices=("table", "json"), default="table")
    parser.set_defaults(func=run)


def run(arguments: argparse.Namespace) -> int:
    """The plug-in was checked and the verdicts are on standard output; returns the exit code."""
    check_root()
    is_table = arguments.output == "table"

    def tell(verdict: Verdict) -> None:
        if is_table and not (arguments.quiet and verdict.outcome == "pass"):
            print(render_verdict(verdict), flush=True)

    report = run_checks(_read_wish(arguments), tell)
    if is_table:
        print(f"\n{report.summary()}")
    else:
        json.dump(report.document(), sys.stdout, indent=2)
        print()
    return ExitCode.OK if report.is_good else ExitCode.FAILED


def _read_wish(arguments: argparse.Namespace) -> Wish:
    host = None
    if arguments.host:
        lab = Lab(arguments.name)
        if not lab.is_up():
            raise DataError(f"lab {lab.name!r} is not up; start it with: felix lab up --name {lab.name}")
        host = lab.host(arguments.host)
    return Wish(
        plugin=arguments.plugin,
        config=arguments.conf,
        cni_path=arguments.cni_path,
        versions=[version for version in arguments.versions.split(",") if version],
        is_ipam=arguments.ipam or Path(arguments.plugin).name in {"host-local", "felix-ipam"},
        host=host,
        timeout_s=arguments.timeout,
    )
