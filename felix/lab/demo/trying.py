"""Real packets between all places of a table, many at once. Shell."""

from __future__ import annotations

import asyncio
import http.client
import json
import socket
import time
from collections.abc import Mapping
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass

from felix.errors import PeerError
from felix.lab.demo.expected import OTHER_HOST, OWN_HOST, Expected, Pair
from felix.lab.demo.report import ICMP, TCP, Cell, make_cells
from felix.lab.place import Place

# One that should get through has time on a busy machine; one that should not is not waited for that long.
_OPEN_S, _CLOSED_S = 5.0, 1.0
_AT_ONCE = 24


@dataclass(frozen=True, slots=True)
class Target:
    """Something that listens. place: where it runs; host, other_host: the host of that, and one that it is not."""

    place: Place
    address: str
    port: int
    host: Place
    other_host: Place


def try_tcp(place: Place, address: str, port: int, timeout_s: float) -> str:
    """Returns what became of a connection: `ok` if whatever listens there answered, as any HTTP server does."""
    try:
        connection = place.open(address, port, "tcp", timeout_s)
    except TimeoutError:
        return "timeout"
    except ConnectionRefusedError:
        return "refused"
    except OSError:
        return "unreachable"
    with connection:
        return ask_on(connection, timeout_s)


def ask_on(connection: socket.socket, timeout_s: float) -> str:
    """Returns what became of a question on an open connection: `ok` if whatever listens there answered."""
    connection.settimeout(timeout_s)
    try:
        connection.sendall(b"GET /status HTTP/1.0\r\nHost: demo\r\nConnection: close\r\n\r\n")
        return "ok" if connection.recv(16) else "reset"
    except TimeoutError:
        return "timeout"
    except OSError:
        return "reset"


def fetch(place: Place, address: str, port: int, path: str, timeout_s: float = 5.0) -> object:
    """Returns the JSON that a GET from inside `place` brings; raises PeerError."""
    return _ask(place, (address, port), f"GET {path}", b"", timeout_s)


def post(place: Place, address: str, port: int, path: str, document: object) -> None:
    """The document was taken; raises PeerError."""
    _ask(place, (address, port), f"POST {path}", json.dumps(document).encode(), 5.0)


def _ask(place: Place, where: tuple[str, int], request: str, body: bytes, timeout_s: float) -> object:
    (address, port), (method, path) = where, request.split()
    connection = http.client.HTTPConnection(address, port, timeout=timeout_s)
    try:
        connection.sock = place.open(address, port, "tcp", timeout_s)
        connection.request(method, path, body or None)
        response = connection.getresponse()
        text = response.read()
        if response.status // 100 != 2:
            raise PeerError(f"{method} http://{address}:{port}{path}: status {response.status}: {text[:200]!r}")
        return json.loads(text) if text else None
    except (OSError, ValueError, http.client.HTTPException) as failure:
        raise PeerError(f"{method} http://{address}:{port}{path}: {failure}") from failure
    finally:
        connection.close()


class Tries:
    """Sends packets in threads of its own. `close` when done."""

    def __init__(self) -> None:
        self._pool = ThreadPoolExecutor(_AT_ONCE)

    def close(self) -> None:
        """No thread runs."""
        self._pool.shutdown()

    async def measure(
        self, expected: Expected, sources: Mapping[str, Place], targets: Mapping[str, Target], by: str
    ) -> list[Cell]:
        """Returns all cells, each tried once. sources: places by name; the hosts' rows depend on the target."""
        loop = asyncio.get_running_loop()

        def try_one(pair: Pair) -> str:
            target = targets[pair[1]]
            place = {OWN_HOST: target.host, OTHER_HOST: target.other_host}.get(pair[0]) or sources[pair[0]]
            timeout_s = _OPEN_S if expected[pair] else _CLOSED_S
            if by == TCP:
                return try_tcp(place, target.address, target.port, timeout_s)
            assert by == ICMP
            return place.connect(target.address, protocol="icmp", timeout_s=timeout_s).outcome

        outcomes = await asyncio.gather(*(loop.run_in_executor(self._pool, try_one, pair) for pair in expected))
        return make_cells(expected, by, dict(zip(expected, outcomes, strict=True)))

    async def wait_icmp(self, source: Place, address: str, *, is_open: bool, timeout_s: float = 10.0) -> float | None:
        """Returns the seconds until a ping got through, or one was sent that did not; None when that never came."""
        loop = asyncio.get_running_loop()
        started = time.monotonic()
        while (sent_s := time.monotonic() - started) < timeout_s:
            result = await loop.run_in_executor(
                self._pool, lambda: source.connect(address, protocol="icmp", timeout_s=0.3)
            )
            if result.ok == is_open:
                return time.monotonic() - started if is_open else sent_s
        return None
