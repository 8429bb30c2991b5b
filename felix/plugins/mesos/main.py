"""`felix-mesos`: one request of net-modules on standard input, one answer in JSON on standard output. Shell."""

from __future__ import annotations

import json
import os
import signal
import sys
import time
from collections.abc import Mapping, Sequence
from contextlib import suppress
from types import FrameType

from felix.plugins.ask import SOCKET, NoAgent, Refused, ask
from felix.plugins.mesos.request import REQUEST_LIMIT, BadRequest, parse_request, show
from felix.plugins.mesos.verbs import VERBS, Answer, Failed

PROTOCOL = "0.25 to 0.28"
TIMEOUT_VARIABLE = "FELIX_MESOS_TIMEOUT"
TIMEOUT_S = 30.0
TIMEOUT_LIMIT_S = 600.0
ANSWER_LIMIT = 40960
"""Bytes that net-modules reads of an answer."""

_RESTART_S = 10.0  # an agent that restarts answers again within that
_RETRY_S = 0.05
_UNDO_SHARE = 0.15  # of the time: what is kept to give back what a failed call may have got
_TEXT_LIMIT = 4000

HELP = f"""\
felix-mesos: the plug-in of Mesos' net-modules, for addresses and for isolation

It takes no arguments. Mesos starts it once per request, which is JSON on standard input; the answer is JSON on
standard output, and the exit code 1 when it has an error. In the modules file of the Mesos agent:

  "parameters": [
    {{"key": "ipam_command",     "value": "/usr/local/bin/felix-mesos"}},
    {{"key": "isolator_command", "value": "/usr/local/bin/felix-mesos"}}
  ]

By hand, an address for a launch, and back again:

  felix-mesos <<< '{{"command": "allocate", "args": {{"hostname": "h1", "num_ipv4": 1, "num_ipv6": 0,
                    "uid": "0f6b3c0e-6a0b-4f4e-9d3e-2b1a5c7d8e9f"}}}}'
  felix-mesos <<< '{{"command": "release", "args": {{"uid": "0f6b3c0e-6a0b-4f4e-9d3e-2b1a5c7d8e9f"}}}}'

environment:
  FELIX_RUNDIR           where the agent's socket felix.sock is; {os.path.dirname(SOCKET)}
  {TIMEOUT_VARIABLE}    seconds after which a request ends with an error; {TIMEOUT_S:g}

verbs: {", ".join(VERBS)}. An agent of this host must run: felix status.
"""


class TimeUp(Exception):
    """The request took longer than Mesos should wait."""


class Agent:
    """The agent of this host, asked until `deadline` (monotonic seconds). `undo` makes the last calls possible."""

    def __init__(self, path: str, started: float, deadline: float) -> None:
        self._path = path
        self._patient_until = min(deadline, started + _RESTART_S)
        self._deadline = deadline
        self._first_until = deadline - _UNDO_SHARE * (deadline - started)
        self._is_first = True

    def ask(self, route: str, body: Answer, is_repeatable: bool) -> object:
        """Returns what the agent answers; asks again while it restarts. Raises NoAgent, Refused."""
        until = self._first_until if self._is_first else self._deadline
        self._is_first = False
        while True:
            left = max(0.05, until - time.monotonic())
            try:
                return ask(self._path, "POST", route, body | {"deadline_s": left * 0.9}, left)
            except NoAgent as error:
                if error.is_sent and not is_repeatable:
                    raise
                problem: NoAgent | Refused = error
            except Refused as error:
                if error.code != "unavailable" or not is_repeatable:
                    raise
                problem = error
            if time.monotonic() + _RETRY_S >= min(until, self._patient_until):
                raise problem
            time.sleep(_RETRY_S)


def respond(data: bytes, environment: Mapping[str, str], started: float) -> tuple[Answer, str]:
    """Returns the answer to a request, whatever happens, and what the log should say of it, may be empty."""
    verb = "request"
    try:
        deadline = started + read_timeout(environment)
        verb, args = parse_request(data, frozenset(VERBS))
        agent = Agent(find_socket(environment), started, deadline)
        return {**VERBS[verb](args, agent.ask), "error": None}, ""
    except (BadRequest, NoAgent, Refused, TimeUp) as error:
        return {"error": str(error)[:_TEXT_LIMIT]}, f"{verb}: {error}"
    except Failed as error:
        return {"error": str(error)[:_TEXT_LIMIT]}, f"{verb}: {error} {error.detail}".rstrip()
    except Exception as error:
        text = f"Unhandled error: {type(error).__name__}: {error}"
        return {"error": text[:_TEXT_LIMIT]}, f"{verb}: {text}\n{_trace()}"


def read_timeout(environment: Mapping[str, str]) -> float:
    """Returns how many seconds a request may take. Raises BadRequest for a setting that makes no sense."""
    text = environment.get(TIMEOUT_VARIABLE, "")
    try:
        seconds = float(text) if text else TIMEOUT_S
    except ValueError:
        seconds = -1.0
    if not 0 < seconds <= TIMEOUT_LIMIT_S:
        raise BadRequest(f"{TIMEOUT_VARIABLE} must be seconds up to {TIMEOUT_LIMIT_S:g}, not: {show(text)}")
    return seconds


def find_socket(environment: Mapping[str, str]) -> str:
    """Returns where the agent listens."""
    folder = environment.get("FELIX_RUNDIR", "")
    return os.path.join(folder, os.path.basename(SOCKET)) if folder else SOCKET


def render(answer: Answer) -> bytes:
    """Returns an answer as net-modules reads it: one line, never more than it reads."""
    line = json.dumps(answer).encode() + b"\n"
    if len(line) > ANSWER_LIMIT:
        text = f"{str(answer.get('error'))[: _TEXT_LIMIT // 8]}…"
        line = json.dumps({"error": text}).encode() + b"\n"
    return line


def main(arguments: Sequence[str] | None = None) -> int:
    """Answers the request on standard input; returns the exit code."""
    started = time.monotonic()
    words = list(sys.argv[1:] if arguments is None else arguments)
    if words in (["--help"], ["-h"]) or (not words and os.isatty(0)):
        sys.stdout.write(HELP)
        return 0
    if words == ["--version"]:
        sys.stdout.write(f"felix-mesos: net-modules protocol of Mesos {PROTOCOL}; verbs: {', '.join(VERBS)}\n")
        return 0
    if words:
        answer: Answer = {"error": f"felix-mesos takes JSON on standard input, no arguments: {show(' '.join(words))}"}
        log = f"{answer['error']}; see felix-mesos --help"
    else:
        answer, log = _respond_in_time(started)
    return _finish(answer, log)


def _respond_in_time(started: float) -> tuple[Answer, str]:
    """Returns the answer; also when nobody ever ends standard input, or when something hangs."""
    try:
        limit = read_timeout(os.environ)
    except BadRequest:
        limit = TIMEOUT_S
    signal.signal(signal.SIGALRM, _end)
    signal.setitimer(signal.ITIMER_REAL, limit + 0.5)
    try:
        answer = respond(_read_request(), os.environ, started)
        signal.setitimer(signal.ITIMER_REAL, 0)
    except TimeUp as error:
        return {"error": str(error)}, str(error)
    except OSError as error:
        text = f"Request cannot be read: {error.strerror}"
        return {"error": text}, text
    return answer


def _end(number: int, frame: FrameType | None) -> None:
    raise TimeUp(f"the request took too long; see {TIMEOUT_VARIABLE}")


def _finish(answer: Answer, log: str) -> int:
    """The answer is written, and the log's line to standard error, which Mesos takes into its own log."""
    if log:
        with suppress(OSError):  # nobody reads it, which is nobody's fault
            _write(2, f"felix-mesos[{os.getpid()}]: {log}\n".encode(errors="backslashreplace"))
    try:
        _write(1, render(answer))
    except OSError:
        return 1
    return 0 if answer["error"] is None else 1


def _read_request() -> bytes:
    """Returns what is on standard input until its end, or until it is more than any request."""
    data = b""
    while len(data) <= REQUEST_LIMIT and (piece := os.read(0, 65536)):
        data += piece
    return data


def _write(descriptor: int, data: bytes) -> None:
    while data:
        data = data[os.write(descriptor, data) :]


def _trace() -> str:
    from traceback import format_exc  # for faults of ours only; its import costs milliseconds

    return format_exc()


if __name__ == "__main__":
    sys.exit(main())
