"""Follows the workload endpoints in etcd, so that a name is there as soon as its endpoint is.

When most endpoints go at once, as when etcd was emptied or replaced, their names stay: see felix.reconcile.brake. That
ends when so many are back that the rest may go, or when the server is started again, which reads what is stored.
"""

from __future__ import annotations

import asyncio
import logging
from collections.abc import Callable
from typing import NoReturn

from felix.clock import monotonic_s
from felix.datastore.etcd import EtcdClient
from felix.datastore.mailbox import Batch, Mailbox
from felix.datastore.watch import DatastoreWatch
from felix.dns.endpoints import EndpointNames, read_facts
from felix.errors import Problem
from felix.model.codec import decode
from felix.model.endpoints import WorkloadEndpoint
from felix.model.keys import PLURAL_BY_KIND, RESOURCES, parse_key
from felix.reconcile.brake import Hold, find_hold

log = logging.getLogger(__name__)

_START = f"{RESOURCES}{PLURAL_BY_KIND['WorkloadEndpoint']}/"
_END = _START[:-1] + "0"  # the character behind the slash
_SLICE_UPDATES = 50


def explain_hold(hold: Hold) -> str:
    """Returns what is held, and what to do."""
    return f"{hold}: their names stay; if they are gone for good, start felix dns again"


class EndpointSource:
    """Keeps `names` as etcd says.

    on_change: called whenever the zone may have changed. on_loaded: whenever everything stored has been seen.
    problem_by_key: what cannot have names, and why. hold: the endpoints that are gone and whose names stay; None: none.
    """

    def __init__(
        self,
        client: EtcdClient,
        names: EndpointNames,
        on_change: Callable[[], None],
        on_loaded: Callable[[], None],
        on_taken: Callable[[float], None],
    ) -> None:
        self.problem_by_key: dict[str, Problem] = {}
        self.hold: Hold | None = None
        self.loads = 0
        self._held: set[str] = set()
        self._names = names
        self._on_change = on_change
        self._on_loaded = on_loaded
        self._on_taken = on_taken
        self._mailbox = Mailbox()
        self.watch = DatastoreWatch(client, _START, _END, self._mailbox.put)

    @property
    def failure(self) -> str:
        """Why nothing is heard of etcd at present; empty when all is well."""
        if self.watch.is_connected:
            return ""
        return self.watch.failure or "not read yet"

    async def run(self) -> NoReturn:
        """Follows etcd until cancelled."""
        async with asyncio.TaskGroup() as group:
            group.create_task(self.watch.run(), name="dns watch")
            while True:
                batch = await self._mailbox.take()
                began_at = monotonic_s()
                await self._take(batch)
                self._on_taken(monotonic_s() - began_at)
        raise AssertionError("a source ends only by being cancelled")

    async def _take(self, batch: Batch) -> None:
        if batch.cluster_change is not None:
            log.error("the datastore is another one than before, or went back in time: %s", batch.cluster_change)
        leaving = self._find_leaving(batch)
        self._note_hold(find_hold(sorted(leaving), self._names.endpoints_count))
        self._held = leaving if self.hold else set()
        values: dict[str, bytes | None] = {} if self.hold else dict.fromkeys(_START + name for name in leaving)
        values |= {update.key: update.value for update in batch.updates.values()}
        for number, (path, value) in enumerate(values.items(), 1):
            if path.removeprefix(_START) not in self._held:
                self._on_update(path, value)
            if number % _SLICE_UPDATES == 0:
                self._on_change()
                await asyncio.sleep(0)
        self._on_change()
        self._tell_collisions()
        if batch.in_sync_revision is not None:
            self.loads += 1
            self._on_loaded()

    def _find_leaving(self, batch: Batch) -> set[str]:
        """Returns the endpoints that have names and are not stored any more."""
        leaving = set(self._held)
        for update in batch.updates.values():
            name = update.key.removeprefix(_START)
            if update.value is not None:
                leaving.discard(name)
            elif self._names.is_known(name):
                leaving.add(name)
        return leaving

    def _note_hold(self, hold: Hold | None) -> None:
        if hold is not None and self.hold is None:
            log.error("%s", explain_hold(hold))
        elif hold is None and self.hold is not None:
            log.warning("so many endpoints are back that the names of the others go")
        self.hold = hold

    def _on_update(self, path: str, value: bytes | None) -> None:
        key = parse_key(path)
        name = path.removeprefix(_START)
        facts = None
        problem = None
        if value is not None and key is not None:
            record, problems = decode(key, value)
            problem = problems[0] if problems else None
            facts = read_facts(record) if isinstance(record, WorkloadEndpoint) else None
        self._names.put(name, facts)
        if problem is None:
            self.problem_by_key.pop(name, None)
        elif self.problem_by_key.get(name) != problem:
            self.problem_by_key[name] = problem
            log.warning("%s", problem)

    def _tell_collisions(self) -> None:
        for name, collision in self._names.pop_news().items():
            if collision is None:
                log.info("nobody contests the name %s any more", name)
            else:
                log.warning("several services want one name: %s", collision)
