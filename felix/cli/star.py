"""`felix star`: the two programs of the Star demonstration, with the options of the original."""

from __future__ import annotations

import argparse
import asyncio
import logging
import math
import sys
from collections.abc import Callable, Coroutine
from pathlib import Path

import uvloop

from felix.config.exits import ExitCode
from felix.errors import DataError, EnvironmentFault
from felix.star.collect import run_collector
from felix.star.faults import BadInput, CannotListen
from felix.star.probe import run_probe
from felix.star.resources import Resource, decode_resources
from felix.star.rhythm import pick_timeout
from felix.star.serve import open_listener
from felix.star.targets import parse_urls

_RESOURCES_BYTES_MOST = 1 << 20
_EXAMPLES = """\
examples:
  felix star probe --urls=http://10.0.0.2:9000/status
  felix star collect --resources-file=probes.json          then open http://127.0.0.1:9001/

Each verb's --help has more, and docs/star.md. `make demo` shows both at work.
"""
_PROBE_EXAMPLES = """\
examples:
  felix star probe --urls=http://10.0.0.2:9000/status,http://10.0.0.3:9000/status
  felix star probe --urls=tcp://10.0.0.4:5432 --http-address=:: --http-probe-seconds=0.5

GET /status tells which targets were reached: any answer of HTTP counts, whatever its status. A target with the scheme
tcp:// is reached when it takes the connection.
"""
_COLLECT_EXAMPLES = """\
examples:
  felix star collect --resources-file=probes.json          then open http://127.0.0.1:9001/
  curl -d '{"id":"A","url":"http://10.0.0.2:9000/status"}' http://127.0.0.1:9001/resources
  curl -X DELETE http://127.0.0.1:9001/resources/A
  curl http://127.0.0.1:9001/matrix                        what the page shows, as JSON
  curl -N http://127.0.0.1:9001/events                     the same, now and after every change

The file is a JSON array of {"id", "url"}; "label", "group" and "expected" are optional, see docs/star.md.
"""


def add_parser(subparsers: argparse._SubParsersAction[argparse.ArgumentParser]) -> None:
    """`felix star` and its verbs are known to the parser."""
    parser = subparsers.add_parser(
        "star",
        help="the Star demonstration: who reaches whom, on a page",
        description="Probes try who reaches whom; a collector asks them all, and shows it on one page.",
        epilog=_EXAMPLES,
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    verbs = parser.add_subparsers(dest="verb", required=True, metavar="VERB")

    probe = _add_verb(verbs, "probe", "try again and again which targets are reachable", _PROBE_EXAMPLES, _probe)
    probe.add_argument("--urls", required=True, metavar="URL,...", help="the targets")
    _add_server(probe, port=9000)
    _add_rhythm(probe, "--http-probe-seconds", "--http-probe-timeout-seconds", "probes of one target")

    collect = _add_verb(verbs, "collect", "ask probes, and show who reaches whom", _COLLECT_EXAMPLES, _collect)
    collect.add_argument("--resources-file", type=Path, metavar="FILE", help="which probes to ask, as a JSON array")
    _add_server(collect, port=9001)
    _add_rhythm(collect, "--http-request-seconds", "--http-request-timeout-seconds", "requests to one resource")


def _add_verb(
    verbs: argparse._SubParsersAction[argparse.ArgumentParser],
    name: str,
    text: str,
    examples: str,
    function: Callable[[argparse.Namespace], int],
) -> argparse.ArgumentParser:
    verb = verbs.add_parser(
        name,
        help=text,
        description=f"{text[0].upper()}{text[1:]}. Runs until SIGTERM or SIGINT.",
        epilog=examples,
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    verb.set_defaults(func=function)
    return verb


def _add_server(verb: argparse.ArgumentParser, port: int) -> None:
    verb.add_argument(
        "--http-address",
        default="0.0.0.0",
        metavar="ADDRESS",
        help="where to listen (default: 0.0.0.0; :: is both families)",
    )
    verb.add_argument("--http-port", type=_port, default=port, metavar="PORT", help=f"default: {port}; 0: any free one")
    verb.add_argument("--logfile", type=Path, metavar="FILE", help="log there instead of standard output")


def _add_rhythm(verb: argparse.ArgumentParser, interval: str, timeout: str, what: str) -> None:
    verb.add_argument(
        interval, dest="interval_s", type=_seconds, default=5.0, metavar="S", help=f"between {what} (default: 5)"
    )
    verb.add_argument(
        timeout,
        dest="timeout_s",
        type=_seconds,
        metavar="S",
        help="how long one may take (default: the interval, at most 2)",
    )
    verb.set_defaults(timeout_option=timeout)


def _port(text: str) -> int:
    if not text.isascii() or not text.isdigit() or int(text) > 65535:
        raise argparse.ArgumentTypeError(f"{text!r} is no port; 0 to 65535 are")
    return int(text)


def _seconds(text: str) -> float:
    try:
        seconds = float(text)
    except ValueError:
        seconds = math.nan
    if not 0.05 <= seconds <= 3600:
        raise argparse.ArgumentTypeError(f"{text!r} is no number of seconds from 0.05 to 3600")
    return seconds


def _probe(arguments: argparse.Namespace) -> int:
    def start(timeout_s: float) -> Coroutine[None, None, None]:
        urls = parse_urls(arguments.urls)
        return run_probe(
            urls, open_listener(arguments.http_address, arguments.http_port), arguments.interval_s, timeout_s
        )

    return _run(arguments, start)


def _collect(arguments: argparse.Namespace) -> int:
    def start(timeout_s: float) -> Coroutine[None, None, None]:
        resources = _load(arguments.resources_file) if arguments.resources_file else []
        listener = open_listener(arguments.http_address, arguments.http_port)
        return run_collector(resources, listener, arguments.interval_s, timeout_s)

    return _run(arguments, start)


def _run(arguments: argparse.Namespace, start: Callable[[float], Coroutine[None, None, None]]) -> int:
    handler = _open_log(arguments.logfile)
    try:
        work = start(pick_timeout(arguments.interval_s, arguments.timeout_s, arguments.timeout_option))
    except BadInput as error:
        raise DataError(str(error)) from error
    except CannotListen as error:
        raise EnvironmentFault(str(error)) from error
    logging.basicConfig(level=logging.INFO, handlers=[handler], force=True)
    with asyncio.Runner(loop_factory=uvloop.new_event_loop) as runner:
        runner.run(work)
    return ExitCode.OK


def _load(path: Path) -> list[Resource]:
    try:
        with path.open("rb") as file:
            content = file.read(_RESOURCES_BYTES_MOST + 1)
    except OSError as error:
        raise DataError(f"--resources-file {path}: {error.strerror}") from error
    if len(content) > _RESOURCES_BYTES_MOST:
        raise DataError(f"--resources-file {path}: more than {_RESOURCES_BYTES_MOST} bytes")
    try:
        return decode_resources(content)
    except BadInput as error:
        raise DataError(f"--resources-file {path}: {error}") from error


def _open_log(path: Path | None) -> logging.Handler:
    """As the original: to standard output, unless there is a file."""
    try:
        handler = logging.StreamHandler(sys.stdout) if path is None else logging.FileHandler(path, delay=True)
        if path is not None:
            path.open("a").close()
    except OSError as error:
        raise DataError(f"--logfile {path}: {error.strerror}") from error
    handler.setFormatter(logging.Formatter("%(asctime)s %(levelname)s %(message)s"))
    return handler
