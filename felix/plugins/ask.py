"""Asking the agent on its Unix socket: one request, one answer in JSON. Few modules, all of the standard library."""

from __future__ import annotations

import contextlib
import json
import socket
import time

SOCKET = "/run/felix/felix.sock"


class NoAgent(Exception):
    """Nobody answers there. is_sent: the agent may have begun what it was asked for, nobody knows how that ended."""

    def __init__(self, text: str, *, is_sent: bool = False) -> None:
        super().__init__(text)
        self.is_sent = is_sent


class Refused(Exception):
    """The agent answers that it will not or cannot. status: of HTTP; code: the agent's word for why, may be empty.

    differences: of what is from what should be, for what was checked.
    """

    def __init__(self, text: str, status: int, code: str = "", differences: tuple[str, ...] = ()) -> None:
        super().__init__(text)
        self.status = status
        self.code = code
        self.differences = differences


def ask(path: str, method: str, route: str, body: object = None, timeout_s: float = 5.0) -> object:
    """Returns what the agent on the socket at `path` answers, decoded; body: what JSON can say, None for none.

    Waits at most `timeout_s`. Raises NoAgent when nobody answers, Refused when the agent says no.
    """
    answer = _exchange(path, _render(method, route, body), time.monotonic() + timeout_s)
    head, _, rest = answer.partition(b"\r\n\r\n")
    try:
        status = int(head.split(b" ", 2)[1])
        value = json.loads(rest)
    except (ValueError, IndexError):
        raise NoAgent(f"what answers on {path} is no Felix agent: {answer[:60]!r}", is_sent=True) from None
    if status != 200:
        error = value if isinstance(value, dict) else {}
        differences = tuple(map(str, error.get("differences") or ()))
        raise Refused(str(error.get("error", rest[:200])), status, str(error.get("code", "")), differences)
    return value


def _render(method: str, route: str, body: object) -> bytes:
    content = b"" if body is None else json.dumps(body).encode()
    head = f"{method} {route} HTTP/1.0\r\nHost: felix\r\nContent-Type: application/json\r\n"
    return f"{head}Content-Length: {len(content)}\r\n\r\n".encode() + content


def _exchange(path: str, request: bytes, deadline: float) -> bytes:
    is_sent = False
    with contextlib.closing(socket.socket(socket.AF_UNIX, socket.SOCK_STREAM)) as connection:
        try:
            connection.settimeout(max(0.001, deadline - time.monotonic()))
            connection.connect(path)
            connection.sendall(request)
            is_sent = True
            pieces = []
            while True:
                connection.settimeout(max(0.001, deadline - time.monotonic()))
                piece = connection.recv(65536)
                if not piece:
                    break
                pieces.append(piece)
        except OSError as error:
            hint = "ask as root" if isinstance(error, PermissionError) else "is felix running?"
            why = "no answer in time" if isinstance(error, TimeoutError) else error.strerror or str(error)
            raise NoAgent(f"no agent answers on {path} ({why}); {hint}", is_sent=is_sent) from error
    if not pieces:
        raise NoAgent(f"the agent on {path} ended before it answered", is_sent=True)
    return b"".join(pieces)
