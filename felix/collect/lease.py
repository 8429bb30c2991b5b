"""The election: of all agents one collects, as long as its lease in etcd lives. Shell.

Whoever puts the key first has it. Every write of the collector is made on condition that the key is still its own, so
one that was paused and knows nothing of its successor changes nothing; it also stops by its own clock when it could not
renew the lease in time.
"""

from __future__ import annotations

import asyncio
import logging
import random
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager, suppress
from dataclasses import dataclass

from felix.datastore.etcd import EtcdClient
from felix.datastore.faults import EtcdUnavailable, LeaseLost
from felix.datastore.fence import is_absent
from felix.datastore.types import Compare, PutOp, RangeOp, Target
from felix.errors import PeerError, Remedy
from felix.model.keys import COLLECTOR

log = logging.getLogger(__name__)

_REVOKE_WAIT_S = 1.0


class Deposed(PeerError):
    """This process does not hold the office any more; whatever it was about to write was not written."""

    remedy = Remedy.RETRY


@dataclass(frozen=True, slots=True)
class Office:
    """That one process is the collector. created: revision at which it became so."""

    created: int

    def stands(self) -> Compare:
        """Returns the condition that it still is."""
        return Compare(COLLECTOR, Target.CREATE_REVISION, self.created)


class Election:
    """One candidate. ttl_s: a collector that is gone is replaced after that time and up to as much again."""

    def __init__(self, client: EtcdClient, name: str, ttl_s: float) -> None:
        self.ttl_s = max(1.0, round(ttl_s))
        self._client = client
        self._name = name
        self._old_lease = 0

    @asynccontextmanager
    async def hold(self) -> AsyncIterator[Office]:
        """Waits until this candidate is the collector, and stays so until left; then others may be at once.

        What runs inside is cancelled when the lease is lost or could not be renewed in time; Deposed is raised then.
        Raises what etcd raises, too.
        """
        office, lease, asked_at = await self._win()
        self._old_lease = lease
        renewing: asyncio.Task[None] | None = None
        try:
            async with asyncio.timeout_at(asked_at + self.ttl_s) as deadline:
                renewing = asyncio.create_task(self._renew(lease, deadline), name="collector lease")
                yield office
        except TimeoutError as error:
            if not deadline.expired():
                raise
            raise Deposed("the lease of the collector could not be renewed in time") from error
        finally:
            if renewing is not None:
                renewing.cancel()
                with suppress(asyncio.CancelledError):
                    await renewing
            await self._leave()

    async def _win(self) -> tuple[Office, int, float]:
        """Returns the office once it is had, its lease, and the moment from which that lives."""
        while True:
            if self._old_lease:
                await self._leave()
            pair = await self._client.get(COLLECTOR)
            if pair is None:
                asked_at = asyncio.get_running_loop().time()
                lease = self._old_lease = await self._client.grant_lease(round(self.ttl_s))
                put = PutOp(COLLECTOR, self._name.encode(), lease)
                result = await self._client.txn([is_absent(COLLECTOR)], [put], [RangeOp(COLLECTOR)])
                if result.succeeded:
                    return Office(result.revision), lease, asked_at
                await self._leave()
            # the key goes by itself when its owner is gone; who asks more often learns it little sooner
            await asyncio.sleep(self.ttl_s * (0.5 + 0.5 * random.random()))

    async def _renew(self, lease: int, deadline: asyncio.Timeout) -> None:
        """Moves the deadline as long as the lease lives; brings it forward to now when it does not."""
        while True:
            await asyncio.sleep(self.ttl_s / 3)
            asked_at = asyncio.get_running_loop().time()
            try:
                await self._client.keep_alive(lease)
                deadline.reschedule(asked_at + self.ttl_s)
            except LeaseLost:
                deadline.reschedule(asyncio.get_running_loop().time())
                return
            except PeerError as error:
                log.debug("the lease of the collector was not renewed: %s", error)

    async def _leave(self) -> None:
        """The office is nobody's as far as this process had it; if etcd does not answer, its lease runs out."""
        lease = self._old_lease
        with suppress(TimeoutError, EtcdUnavailable):
            async with asyncio.timeout(_REVOKE_WAIT_S):
                with suppress(LeaseLost):
                    await self._client.revoke_lease(lease)
                self._old_lease = 0
