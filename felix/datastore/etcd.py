"""Etcd's client: every call has a deadline, tries every endpoint, renews its token, and ends awaited or cancelled."""

from __future__ import annotations

import asyncio
import logging
import random
from collections.abc import AsyncIterator, Awaitable, Callable, Sequence
from contextlib import asynccontextmanager
from dataclasses import dataclass
from typing import TypeVar

import grpc
import grpc.aio

from felix.clock import monotonic_s
from felix.datastore import messages as wire
from felix.datastore.faults import (
    AuthenticationFailed,
    EtcdRefused,
    EtcdUnavailable,
    PermissionDenied,
    TokenRefused,
    translate,
)
from felix.datastore.lease import keep_alive
from felix.datastore.load import Endpoint, EtcdSettings, Line, TlsFiles, load_tls, open_channel, parse_endpoint
from felix.datastore.messages import Method, Q, R, encode_key
from felix.datastore.read import WatchStream, open_watch
from felix.datastore.rpc import etcd_pb2 as pb
from felix.datastore.types import Compare, Header, KeyValue, MemberStatus, Op, RangePage, TxnResult
from felix.errors import DataError

__all__ = ["EtcdClient", "EtcdSettings"]

PAGE_KEYS = 1000

T = TypeVar("T")
log = logging.getLogger(__name__)


@dataclass(slots=True)
class _Link:
    """The connection to one endpoint. `users` counts calls under way; a retired link is closed by the last of them."""

    endpoint: Endpoint
    tls: TlsFiles
    channel: grpc.aio.Channel
    users: int = 0
    is_suspect: bool = False
    is_retired: bool = False


Act = Callable[[_Link, Line], Awaitable[T]]


class EtcdClient:
    """One user of one etcd cluster. Make it inside a running loop and close it there.

    Every method waits at most `settings.timeout_s` unless it says otherwise, and raises EtcdUnavailable when nobody
    answered by then, or EtcdRefused (see `faults`) when etcd said no. Reads are linearizable. A write that may have
    been carried out is not sent a second time: its error's `is_unsent` is False and the caller has to look.
    Raises DataError at once for endpoints and TLS files that cannot be used.
    """

    def __init__(self, settings: EtcdSettings) -> None:
        self._settings = settings
        self._endpoints = [parse_endpoint(text, is_tls_default=settings.has_tls_files) for text in settings.endpoints]
        if not self._endpoints:
            raise DataError("no etcd endpoint is given")
        random.shuffle(self._endpoints)  # many hosts with one configuration spread over the members
        load_tls(settings)
        self._links: dict[Endpoint, _Link] = {}
        self._token = ""
        self._has_token = not settings.username
        self._authenticating = asyncio.Lock()

    @property
    def endpoint(self) -> str:
        """The endpoint that is tried first at present."""
        return self._endpoints[0].target

    async def get(self, key: str) -> KeyValue | None:
        """Returns what is stored under `key`, or None."""
        response = await self._call(wire.RANGE, pb.RangeRequest(key=encode_key(key)), is_repeatable=True)
        return wire.read_pair(response.kvs[0]) if response.kvs else None

    async def get_header(self, key: str) -> Header:
        """Returns the store's identity and newest revision; `key` is any key that this user may read."""
        request = pb.RangeRequest(key=encode_key(key), count_only=True)
        header = (await self._call(wire.RANGE, request, is_repeatable=True)).header
        return Header(header.cluster_id, header.revision)

    async def range(self, start: str, end: str, *, revision: int = 0, limit: int = 0) -> RangePage:
        """Returns the keys from `start` up to but not including `end`, at most `limit` (0: all), at `revision`.

        Revision 0 is the newest; the page tells which that was. Raises Compacted when it is no longer kept.
        """
        request = pb.RangeRequest(key=encode_key(start), range_end=encode_key(end), revision=revision, limit=limit)
        page = wire.read_page(await self._call(wire.RANGE, request, is_repeatable=True))
        # the header tells the newest revision even when an older one was read
        return RangePage(page.kvs, revision, page.more, page.cluster_id) if revision else page

    async def pages(
        self, start: str, end: str, page_keys: int = PAGE_KEYS, *, revision: int = 0
    ) -> AsyncIterator[RangePage]:
        """Yields the whole range page by page, at least one, all at `revision`; 0: the newest at the first page."""
        page = await self.range(start, end, revision=revision, limit=page_keys)
        yield page
        while page.more:
            start = wire.key_behind(page.kvs[-1].key)
            page = await self.range(start, end, revision=page.revision, limit=page_keys)
            yield page

    async def list_prefix(self, prefix: str) -> tuple[list[KeyValue], int]:
        """Returns all keys with `prefix` in key order, and the one revision at which they were read."""
        kvs: list[KeyValue] = []
        revision = 0
        async for page in self.pages(prefix, wire.prefix_end(prefix)):
            kvs.extend(page.kvs)
            revision = page.revision
        return kvs, revision

    async def put(self, key: str, value: bytes, *, lease: int = 0) -> int:
        """`key` holds `value` afterwards, as long as `lease` lives; returns the revision. Raises LeaseLost."""
        request = pb.PutRequest(key=encode_key(key), value=value, lease=lease)
        return (await self._call(wire.PUT, request)).header.revision

    async def delete(self, key: str) -> bool:
        """`key` is gone afterwards; returns whether it was there."""
        response = await self._call(wire.DELETE, pb.DeleteRangeRequest(key=encode_key(key)))
        return response.deleted > 0

    async def delete_prefix(self, prefix: str) -> int:
        """No key with `prefix` is there afterwards; returns how many were."""
        end = encode_key(wire.prefix_end(prefix))
        request = pb.DeleteRangeRequest(key=encode_key(prefix), range_end=end)
        return (await self._call(wire.DELETE, request)).deleted

    async def txn(self, compares: Sequence[Compare], success: Sequence[Op], failure: Sequence[Op] = ()) -> TxnResult:
        """Either all of `success` happened (every condition held) or all of `failure`, at one revision."""
        return wire.read_txn(await self._call(wire.TXN, wire.format_txn(compares, success, failure)))

    async def grant_lease(self, ttl_s: int) -> int:
        """Returns a new lease that lives `ttl_s` (≥ 1) seconds from now or from its latest `keep_alive`."""
        return (await self._call(wire.GRANT, pb.LeaseGrantRequest(TTL=ttl_s))).ID

    async def keep_alive(self, lease: int) -> int:
        """`lease` lives its whole time again; returns that time in seconds. Raises LeaseLost when it is gone."""
        return await self._attempt(lambda _, line: keep_alive(line, lease), wire.KEEP_ALIVE.name, is_repeatable=True)

    async def revoke_lease(self, lease: int) -> None:
        """`lease` and every key attached to it are gone. Raises LeaseLost when they were already."""
        await self._call(wire.REVOKE, pb.LeaseRevokeRequest(ID=lease))

    async def compact(self, revision: int) -> None:
        """No revision before `revision` can be read or watched any more."""
        await self._call(wire.COMPACT, pb.CompactionRequest(revision=revision, physical=True))

    async def status(self) -> MemberStatus:
        """Returns the state of the member that answers."""
        return wire.read_status(await self._call(wire.STATUS, pb.StatusRequest(), is_repeatable=True))

    @asynccontextmanager
    async def watch(self, start: str, end: str, revision: int) -> AsyncIterator[WatchStream]:
        """Gives a stream of every change of the range from `revision` on (inclusive, ≥ 1), until it is left.

        Raises Compacted when that revision is no longer kept, at entry or from the stream. The opening has the deadline
        of a call, the stream has none.
        """
        request = wire.format_watch(start, end, revision)

        async def act(link: _Link, line: Line) -> tuple[_Link, WatchStream]:
            stream = await open_watch(line, request)
            link.users += 1
            return link, stream

        link, stream = await self._attempt(act, wire.WATCH.name, is_repeatable=True)
        try:
            yield stream
        except EtcdUnavailable:
            link.is_suspect = True
            self._turn_from(link.endpoint)
            raise
        finally:
            await stream.close()
            await self._release(link)

    async def close(self) -> None:
        """All connections are closed; calls under way are cancelled."""
        links, self._links = self._links, {}
        for link in links.values():
            await link.channel.close()

    async def _call(self, method: Method[Q, R], request: Q, *, is_repeatable: bool = False) -> R:
        async def act(_: _Link, line: Line) -> R:
            return await _exchange(line, method, request)

        return await self._attempt(act, method.name, is_repeatable=is_repeatable)

    async def _attempt(self, act: Act[T], name: str, *, is_repeatable: bool) -> T:
        """Returns what `act` returned on the first endpoint where it worked; at most one round, within the deadline."""
        deadline = monotonic_s() + self._settings.timeout_s
        failures = 0
        has_renewed = False
        while True:
            endpoint = self._endpoints[0]
            # a read leaves time for the other endpoints, a write that got no answer is not sent to them anyway
            share = len(self._endpoints) - failures if is_repeatable else 1
            left_s = (deadline - monotonic_s()) / share
            link = self._use(endpoint)
            try:
                if not self._has_token:
                    await self._authenticate(link, left_s)
                return await act(link, self._line(link, left_s, name))
            except (TokenRefused, PermissionDenied) as error:
                # etcd 3.4 says "permission denied" to a watch with a stale token (etcd issue 12385)
                is_token = isinstance(error, TokenRefused) or name == wire.WATCH.name
                if has_renewed or not is_token or not self._settings.username:
                    raise
                has_renewed = True
                self._has_token = False
            except EtcdUnavailable as error:
                failures += 1
                link.is_suspect = True
                self._turn_from(endpoint)
                if failures == len(self._endpoints) or not (is_repeatable or error.is_unsent):
                    raise
            finally:
                await self._release(link)

    async def _authenticate(self, link: _Link, timeout_s: float) -> None:
        """A token is there afterwards, unless the cluster wants none. Only one of many callers asks for it."""
        async with self._authenticating:
            if self._has_token:
                return
            line = Line(link.channel, grpc.aio.Metadata(), timeout_s, f"Authenticate at {link.endpoint.target}")
            request = pb.AuthenticateRequest(name=self._settings.username, password=self._settings.password)
            try:
                self._token = (await _exchange(line, wire.AUTHENTICATE, request)).token
            except AuthenticationFailed:
                raise
            except EtcdRefused as error:
                if "not enabled" not in str(error):
                    raise
                log.info("etcd authentication is not enabled, the user name is not used")
                self._token = ""
            self._has_token = True

    def _line(self, link: _Link, timeout_s: float, name: str) -> Line:
        metadata = grpc.aio.Metadata(("hasleader", "true"))
        if self._token:
            metadata.add("token", self._token)
        return Line(link.channel, metadata, max(timeout_s, 0.001), f"{name} at {link.endpoint.target}")

    def _turn_from(self, endpoint: Endpoint) -> None:
        """`endpoint` is tried last from now on; unless another call turned from it before."""
        if self._endpoints[0] == endpoint and len(self._endpoints) > 1:
            self._endpoints.append(self._endpoints.pop(0))
            log.debug("etcd endpoint %s does not answer, turning to %s", endpoint.target, self.endpoint)

    def _use(self, endpoint: Endpoint) -> _Link:
        """Returns the link to `endpoint`, with the present TLS files if it failed before; to be released."""
        link = self._links.get(endpoint)
        if link is None or link.is_suspect:
            tls = self._load_tls(link)
            if link is None or tls != link.tls:
                if link is not None:
                    link.is_retired = True
                    log.info("TLS files have changed, connecting anew to etcd endpoint %s", endpoint.target)
                link = self._links[endpoint] = _Link(endpoint, tls, open_channel(endpoint, tls))
            link.is_suspect = False
        link.users += 1
        return link

    def _load_tls(self, link: _Link | None) -> TlsFiles:
        try:
            return load_tls(self._settings)
        except DataError:
            if link is None:
                raise
            return link.tls  # somebody is just replacing the files; a later failure looks again

    async def _release(self, link: _Link) -> None:
        link.users -= 1
        if link.is_retired and not link.users:
            await link.channel.close()


async def _exchange(line: Line, method: Method[Q, R], request: Q) -> R:
    """Returns the answer to one request. Raises what the status means; nothing is left running."""
    call = line.channel.unary_unary(method.path, method.request.SerializeToString, method.response.FromString)
    try:
        return await call(request, timeout=line.timeout_s, metadata=line.metadata)
    except grpc.aio.AioRpcError as error:
        raise translate(error.code().name, error.details() or "", line.where) from error
