"""Asks Mesos masters for their state, in turn and again; and this host for its addresses."""

from __future__ import annotations

import asyncio
import logging
import ssl
from collections.abc import Callable, Iterable
from contextlib import suppress
from typing import NoReturn

import aiohttp
from pyroute2 import IPRoute

from felix.clock import monotonic_s
from felix.dns.config import DnsConfig, format_place
from felix.dns.events import SUBSCRIBE, BadStream, RecordReader, is_news
from felix.dns.mesos import MesosNames, find_hosts
from felix.dns.names import normalize_address
from felix.dns.state import BadState, Place, State, parse_place, read_state
from felix.errors import DataError, PeerError

log = logging.getLogger(__name__)

STATE_LIMIT = 512 * 1024 * 1024
_CHUNK = 1 << 16
_SLICE_OWNERS = 50
_RESOLVE_S = 2.0
_HOSTS_LIMIT = 1000
_SPACING_S = 0.1  # the least between two readings that events ask for; five times as long as one takes, if that is more
_EVENTS_AGAIN_S = 10.0
_EVENTS_SILENT_S = 60.0  # Mesos sends a heartbeat every 15 s


class MasterSource:
    """Keeps `names` as the leading master says.

    on_change: called whenever the zone may have changed, also while a state is taken over. on_loaded: whenever all of a
    state has been taken over. failure: why the last attempt failed, empty when it did not.
    """

    def __init__(
        self, config: DnsConfig, names: MesosNames, on_change: Callable[[], None], on_loaded: Callable[[], None]
    ) -> None:
        self.failure = "not read yet"
        self.leader: Place | None = None
        self.failures = 0
        self.loads = 0
        self.has_events = False
        self._config = config
        self._names = names
        self._on_change = on_change
        self._on_loaded = on_loaded
        self._masters = tuple(place for one in config.masters if (place := parse_place(one)))
        self._scheme = "https" if config.https_on else "http"
        self._is_wanted = asyncio.Event()
        self._has_leader = asyncio.Event()

    async def run(self) -> NoReturn:
        """Follows the masters until cancelled. Raises DataError at once for TLS files that cannot be used."""
        auth = aiohttp.BasicAuth(self._config.principal, self._config.secret) if self._config.principal else None
        connector = aiohttp.TCPConnector(ssl=_make_tls(self._config), limit=8)
        async with (
            aiohttp.ClientSession(connector=connector, auth=auth, trust_env=False) as session,
            asyncio.TaskGroup() as group,
        ):
            if self._config.event_refresh:
                group.create_task(self._follow_events(session), name="mesos events")
            while True:
                self._is_wanted.clear()
                began_at = monotonic_s()
                await self._refresh(session)
                await asyncio.sleep(max(_SPACING_S, 5 * (monotonic_s() - began_at)) if self.has_events else 0)
                with suppress(TimeoutError):
                    async with asyncio.timeout(self._config.refresh_seconds):
                        await self._is_wanted.wait()
        raise AssertionError("a source ends only by being cancelled")

    async def _refresh(self, session: aiohttp.ClientSession) -> None:
        try:
            state = await self._ask_masters(session)
        except PeerError as error:
            self.failures += 1
            if not self.failure or self.loads == 0:
                log.warning("no state of Mesos, what was known stays: %s", error)
            self.failure = str(error)
            return
        addresses = await _resolve_hosts(find_hosts(state))
        for number, _ in enumerate(self._names.apply(state, addresses), 1):
            if number % _SLICE_OWNERS == 0:
                self._on_change()
                await asyncio.sleep(0)
        self._on_change()
        if self.failure:
            log.info("state of Mesos read from %s", format_place(state.leader))
        self.failure = ""
        self.loads += 1
        self._on_loaded()

    async def _ask_masters(self, session: aiohttp.ClientSession) -> State:
        """Returns the state of the leading master, whoever names it. Raises PeerError with what each one said."""
        pending = list(dict.fromkeys((*((self.leader,) if self.leader else ()), *self._masters)))
        failures: list[str] = []
        asked: set[Place] = set()
        while pending:
            place = pending.pop(0)
            asked.add(place)
            try:
                async with asyncio.timeout(self._config.state_timeout_seconds):
                    state = read_state(await self._get(session, place))
            except (aiohttp.ClientError, OSError, TimeoutError, BadState) as error:
                failures.append(f"{format_place(place)}: {str(error) or type(error).__name__}")
                continue
            if state.leader == place:
                self.leader = place
                self._has_leader.set()
                return state
            # one that follows knows who leads, but not what is so now
            failures.append(f"{format_place(place)}: names {format_place(state.leader)} as leader")
            if state.leader not in asked:
                pending = [state.leader, *(one for one in pending if one != state.leader)]
        self.leader = None
        self._has_leader.clear()
        raise PeerError("; ".join(failures))

    async def _get(self, session: aiohttp.ClientSession, place: Place) -> bytes:
        for path in ("/master/state", "/master/state.json"):
            url = f"{self._scheme}://{format_place(place)}{path}"
            async with session.get(url, headers={"Accept": "application/json"}) as response:
                if response.status == 404 and path == "/master/state":
                    continue  # before 2018
                if response.status != 200:
                    raise BadState(f"{path} answers {response.status} {response.reason}")
                body = bytearray()
                async for chunk in response.content.iter_chunked(_CHUNK):
                    body += chunk
                    if len(body) > STATE_LIMIT:
                        raise BadState(f"{path} is longer than {STATE_LIMIT} bytes")
                return bytes(body)
        raise BadState("has neither /master/state nor /master/state.json")

    async def _follow_events(self, session: aiohttp.ClientSession) -> NoReturn:
        """Wants a reading whenever the leader says that something happened."""
        was_told = False
        while True:
            await self._has_leader.wait()
            place = self.leader
            if place is None:
                continue
            try:
                await self._read_events(session, place)
            except (aiohttp.ClientError, OSError, TimeoutError, BadStream) as error:
                if not was_told:
                    interval_s = self._config.refresh_seconds
                    log.info("no events from %s, reading every %d s: %s", format_place(place), interval_s, error)
                was_told = True
            self.has_events = False
            await asyncio.sleep(_EVENTS_AGAIN_S)

    async def _read_events(self, session: aiohttp.ClientSession, place: Place) -> None:
        url = f"{self._scheme}://{format_place(place)}/api/v1"
        headers = {"Content-Type": "application/json", "Accept": "application/json"}
        timeout = aiohttp.ClientTimeout(total=None, sock_connect=10, sock_read=_EVENTS_SILENT_S)
        async with session.post(url, data=SUBSCRIBE, headers=headers, timeout=timeout) as response:
            if response.status != 200:
                raise BadStream(f"/api/v1 answers {response.status}")
            self.has_events = True
            self._is_wanted.set()  # for what happened between the last reading and now
            reader = RecordReader()
            async for chunk in response.content.iter_chunked(_CHUNK):
                if any(is_news(one) for one in reader.feed(chunk)):
                    self._is_wanted.set()


def read_own_addresses() -> tuple[str, ...]:
    """Returns the addresses of this host that others can reach, of both families; waits for the kernel."""
    with IPRoute() as route:
        texts = [attribute for one in route.get_addr() for attribute in one.get_attrs("IFA_ADDRESS")]
    addresses = (normalize_address(str(text)) for text in texts)
    return tuple(
        one for one in dict.fromkeys(addresses) if one and not one.startswith(("127.", "fe80:")) and one != "::1"
    )


async def _resolve_hosts(hosts: Iterable[str]) -> dict[str, tuple[str, ...]]:
    """Returns the addresses of those hosts that have some, by the host's own resolver."""
    loop = asyncio.get_running_loop()

    async def resolve(host: str) -> tuple[str, ...]:
        try:
            async with asyncio.timeout(_RESOLVE_S):
                found = await loop.getaddrinfo(host, None)
        except (OSError, TimeoutError, UnicodeError):
            return ()
        addresses = (normalize_address(str(one[4][0])) for one in found)
        return tuple(dict.fromkeys(address for address in addresses if address))

    wanted = sorted(hosts)[:_HOSTS_LIMIT]
    found = await asyncio.gather(*(resolve(host) for host in wanted))
    return {host: addresses for host, addresses in zip(wanted, found, strict=True) if addresses}


def _make_tls(config: DnsConfig) -> ssl.SSLContext | bool:
    if not config.https_on:
        return True
    try:
        context = ssl.create_default_context(cafile=config.ca_file or None)
        if config.cert_file:
            context.load_cert_chain(config.cert_file, config.key_file or None)
    except (OSError, ssl.SSLError) as error:
        files = ", ".join(filter(None, (config.ca_file, config.cert_file, config.key_file)))
        raise DataError(f"TLS files cannot be used ({files}): {error}") from error
    return context
