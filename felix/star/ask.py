"""How others are asked over the network: one try, with a deadline, and a word for what came of it.

Nothing is kept between tries, neither connections nor names: what is tested is whether a new connection works now.
"""

from __future__ import annotations

import asyncio
import socket
import ssl
import threading
from contextlib import closing, suppress

import aiohttp
import msgspec
from aiohttp.abc import AbstractResolver, ResolveResult

from felix.star.matrix import Response
from felix.star.targets import ANSWERED, complete_url, parse_place

ANSWER_BYTES_MOST = 1 << 20

Found = list[tuple[socket.AddressFamily, str, int]]


class Resolver(AbstractResolver):
    """Looks names up in threads that nothing waits for.

    A lookup cannot be stopped, and a nameserver that policy hides takes many seconds: whoever gave up goes on, and the
    program ends without it. Who asks for a name that is being looked up waits for the same lookup.
    """

    def __init__(self) -> None:
        self._lookup_by_host: dict[str, asyncio.Future[Found]] = {}

    async def resolve(
        self, host: str, port: int = 0, family: socket.AddressFamily = socket.AF_UNSPEC
    ) -> list[ResolveResult]:
        """Returns the addresses of `host`; raises OSError when it has none."""
        found = await self.find(host)
        return [
            ResolveResult(hostname=host, host=address, port=port, family=one, proto=0, flags=socket.AI_NUMERICHOST)
            for one, address, _ in found
            if family in {socket.AF_UNSPEC, one}
        ]

    async def close(self) -> None:
        """Nothing has to be closed."""

    async def find(self, host: str) -> Found:
        """Returns family, address and scope of each address of `host`; raises OSError when it has none."""
        lookup = self._lookup_by_host.get(host)
        if lookup is None:
            lookup = asyncio.get_running_loop().create_future()
            self._lookup_by_host[host] = lookup
            lookup.add_done_callback(lambda _: self._lookup_by_host.pop(host))
            threading.Thread(target=_look_up, args=(host, lookup), daemon=True, name=f"lookup-{host}").start()
        return await asyncio.shield(lookup)


def _look_up(host: str, lookup: asyncio.Future[Found]) -> None:
    found: Found = []
    failure: Exception | None = None
    try:
        for family, _, _, _, address in socket.getaddrinfo(host, None, type=socket.SOCK_STREAM):
            found.append((family, str(address[0]), int(address[3]) if len(address) == 4 else 0))
    except (OSError, UnicodeError) as error:
        failure = error if isinstance(error, OSError) else OSError(str(error))

    def settle() -> None:
        if lookup.cancelled():
            return
        if failure is None:
            lookup.set_result(found)
        else:
            lookup.set_exception(failure)
            lookup.exception()  # somebody may have stopped waiting; that is no news

    with suppress(RuntimeError):  # the program has ended meanwhile
        lookup.get_loop().call_soon_threadsafe(settle)


class Asker:
    """Asks others. Use it with `async with`; every try ends after `timeout_s`."""

    def __init__(self, timeout_s: float) -> None:
        self._timeout_s = timeout_s
        self._resolver = Resolver()
        self._session: aiohttp.ClientSession | None = None

    async def __aenter__(self) -> Asker:
        connector = aiohttp.TCPConnector(force_close=True, limit=0, use_dns_cache=False, resolver=self._resolver)
        timeout = aiohttp.ClientTimeout(total=self._timeout_s)
        self._session = aiohttp.ClientSession(connector=connector, timeout=timeout, cookie_jar=aiohttp.DummyCookieJar())
        return self

    async def __aexit__(self, *_: object) -> None:
        await self._get_session().close()

    async def probe(self, url: str) -> str:
        """Returns `ok` when `url` is reached: any answer of HTTP, or the connection for `tcp://`; else why not."""
        try:
            if url.startswith("tcp://"):
                await self._connect(url)
            else:
                async with self._get_session().get(complete_url(url), allow_redirects=False):
                    pass
        except (OSError, aiohttp.ClientError, ValueError) as error:
            return name_failure(error)
        return ANSWERED

    async def fetch(self, url: str) -> Response | None:
        """Returns the answer of `url` with any status; None when there is none, or no JSON of at most a megabyte.

        Redirections are not followed: what is asked is what was named, not what an answer names.
        """
        try:
            async with self._get_session().get(complete_url(url), allow_redirects=False) as answer:
                body = await answer.content.read(ANSWER_BYTES_MOST + 1)
                while len(body) <= ANSWER_BYTES_MOST and (chunk := await answer.content.read(ANSWER_BYTES_MOST)):
                    body += chunk
            if len(body) > ANSWER_BYTES_MOST:
                return None
            msgspec.json.decode(body)
        except (OSError, aiohttp.ClientError, ValueError, RecursionError):
            return None
        return Response(url, answer.status, msgspec.Raw(body))

    async def _connect(self, url: str) -> None:
        place = parse_place(url)
        async with asyncio.timeout(self._timeout_s):
            failure = OSError(f"{place.host} has no address")
            for family, address, scope in await self._resolver.find(place.host):
                with closing(socket.socket(family, socket.SOCK_STREAM)) as connection:
                    connection.setblocking(False)
                    where = (address, place.port, 0, scope) if family == socket.AF_INET6 else (address, place.port)
                    try:
                        await asyncio.get_running_loop().sock_connect(connection, where)
                    except OSError as error:
                        failure = error
                    else:
                        return
            raise failure

    def _get_session(self) -> aiohttp.ClientSession:
        if self._session is None:
            raise RuntimeError("an Asker is used with `async with`")
        return self._session


def name_failure(error: Exception) -> str:
    """Returns the word of `Target.outcome` for what ended a try."""
    match error:
        case TimeoutError():
            return "timeout"
        case aiohttp.ClientSSLError() | ssl.SSLError() | ssl.CertificateError():
            return "tls"
        case aiohttp.ClientConnectorError():
            return name_failure(error.os_error)
        case socket.gaierror():
            return "no-name"
        case ConnectionRefusedError():
            return "refused"
        case aiohttp.ServerDisconnectedError() | ConnectionError():
            return "reset"
        case OSError():
            return "unreachable"
    return "no-http"
