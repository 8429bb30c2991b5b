"""`felix dns` as a program: builds the parts, starts them in order, and says how they are.

Order: addresses are tried, HTTP opens, sources are read; DNS opens when the first source has said all, and a domain
whose source has not is answered with SERVFAIL, never with a no. A source that goes away leaves what it said.
"""

from __future__ import annotations

import asyncio
import contextlib
import gc
import importlib.metadata
import logging
import signal
from typing import NoReturn

from felix.clock import monotonic_s, wall_s
from felix.datastore.etcd import EtcdClient, EtcdSettings
from felix.dns.answer import Answerer, Origin
from felix.dns.api.serve import HttpServer, serve_http
from felix.dns.ask import Forwarder
from felix.dns.config import DatastoreNames, DnsConfig
from felix.dns.endpoints import Collision, EndpointNames
from felix.dns.mesos import ListedFramework, MesosNames, MesosOptions
from felix.dns.names import is_below
from felix.dns.read import MasterSource, read_own_addresses
from felix.dns.respond import Responder, ResponderOptions
from felix.dns.serve import Server, bind
from felix.dns.watch import EndpointSource, explain_hold
from felix.dns.zone import Record, Zone, address_record
from felix.obs.health import Health, Verdict
from felix.obs.metrics import DnsMetrics
from felix.obs.notify import Notifier

log = logging.getLogger(__name__)

_PULSE_S = 1.0
_STUCK_S = 30.0
_RCODES = {0: "NOERROR", 1: "FORMERR", 2: "SERVFAIL", 3: "NXDOMAIN", 4: "NOTIMP", 5: "REFUSED", 16: "BADVERS"}


class DnsService:
    """The server, from start to end. etcd: None without names from the datastore. Attributes are for reading."""

    def __init__(self, config: DnsConfig, etcd: EtcdSettings | None = None) -> None:
        self.config = config
        self.version = _find_version()
        self.zone = Zone()
        self.metrics = DnsMetrics()
        self.health = Health()
        self.origins: list[Origin] = []
        self.is_serving = asyncio.Event()
        self.http: HttpServer | None = None
        self._etcd = etcd
        self._mesos: tuple[Origin, MesosNames, MasterSource] | None = None
        self._datastore: tuple[Origin, EndpointNames, EndpointSource] | None = None
        self._client: EtcdClient | None = None
        self._loaded_at: dict[str, float] = {}
        self._servers: list[Server] = []
        self._loop_health = self.health.component("loop", _STUCK_S)
        self._dns_health = self.health.component("dns")
        self._has_data = asyncio.Event()
        self._stop = asyncio.Event()
        self._notifier = Notifier()
        self._build_sources()
        self._forwarder = Forwarder(config.timeout, config.forwards)
        self._responder = self._make_responder()

    @property
    def frameworks(self) -> tuple[ListedFramework, ...]:
        """Mesos' frameworks and tasks that have names."""
        return self._mesos[1].frameworks if self._mesos else ()

    @property
    def collisions(self) -> dict[str, Collision]:
        """Names that several services want."""
        return self._datastore[1].collision_by_name if self._datastore else {}

    @property
    def problems(self) -> list[str]:
        """What cannot have names, and why."""
        found = [str(problem) for problem in self._mesos[1].problems] if self._mesos else []
        if self._datastore:
            found += [str(problem) for problem in self._datastore[2].problem_by_key.values()]
        return found

    async def run(self) -> None:
        """Serves until `stop` or SIGTERM. Raises EnvironmentFault when an address cannot be had."""
        for notice in self.config.notices:
            log.warning("%s", notice)
        await self._put_own_names()
        if self.config.dns_on:
            for listener in self.config.listeners:
                for one in bind(listener, self.config.port):  # only tried, so that a fault is told at once
                    one.close()
        if self.config.http_on:
            self.http = await serve_http(self, self.config.http_listener, self.config.http_port)
        loop = asyncio.get_running_loop()
        signals = (signal.SIGTERM, signal.SIGINT)
        for number in signals:
            loop.add_signal_handler(number, self._stop.set)
        try:
            await self._run_parts()
        finally:
            for number in signals:
                loop.remove_signal_handler(number)
            self._notifier.stopping()
            await self._close()

    def stop(self) -> None:
        """`run` ends soon."""
        self._stop.set()

    async def _run_parts(self) -> None:
        async with asyncio.TaskGroup() as group:
            tasks = [group.create_task(self._beat(), name="pulse"), group.create_task(self._serve(), name="dns")]
            if self._mesos:
                tasks.append(group.create_task(self._mesos[2].run(), name="mesos"))
            if self._datastore:
                tasks.append(group.create_task(self._datastore[2].run(), name="datastore"))
            await self._stop.wait()
            for task in tasks:
                task.cancel()

    async def _serve(self) -> None:
        await self._has_data.wait()
        if self.config.dns_on:
            for listener in self.config.listeners:
                server = Server(*bind(listener, self.config.port), self._responder, self._forwarder)
                self._servers.append(server)
                await server.start(self.config.tcp_connections)
        text = f"{self.zone.names_count} names in {', '.join(self.config.domains)}"
        if self._datastore is not None and (count := self._datastore[1].nameless_count):
            templates = 'the label app, unless "names" of "datastore" say otherwise'
            log.info("%d endpoints in etcd have no name: they lack what the templates ask for (%s)", count, templates)
        self._dns_health.set_ready(True, "serving")
        self._notifier.ready(text)
        self.is_serving.set()
        log.info("serving %s on %s port %d", text, ", ".join(self.config.listeners), self.config.port)

    async def _close(self) -> None:
        for server in self._servers:
            await server.close()
        if self.http is not None:
            await self.http.close()
        if self._client is not None:
            await self._client.close()

    # --- Sources ---

    def _build_sources(self) -> None:
        config = self.config
        if config.masters:
            options = MesosOptions(
                config.domain,
                config.masters,
                config.ip_sources,
                is_rfc952=config.enforce_rfc952,
                has_reverse=not config.compat,
            )
            origin = self._make_origin(config.domain, config.ttl, config.soa_minttl, config.soa_mname, config.soa_rname)
            names = MesosNames(self.zone, options)
            source = MasterSource(config, names, lambda: self._on_change(origin), lambda: self._on_loaded(origin))
            self._mesos = origin, names, source
            self.health.component("mesos", counts=False).ask_with(lambda: _judge(source.failure, source.loads))
        if config.datastore and self._etcd:
            self._datastore = self._build_datastore(config.datastore, self._etcd)

    def _build_datastore(
        self, wanted: DatastoreNames, etcd: EtcdSettings
    ) -> tuple[Origin, EndpointNames, EndpointSource]:
        mname = f"ns1.{wanted.domain}"
        origin = self._make_origin(wanted.domain, wanted.ttl, wanted.ttl, mname, f"root.{mname}")
        names = EndpointNames(self.zone, wanted.templates, has_reverse=not self.config.compat)
        self._client = EtcdClient(etcd)
        source = EndpointSource(
            self._client,
            names,
            lambda: self._on_change(origin),
            lambda: self._on_loaded(origin),
            self.metrics.dns_update_seconds.observe,
        )
        self.health.component("datastore", counts=False).ask_with(
            lambda: Verdict(False, explain_hold(source.hold)) if source.hold else _judge(source.failure, source.loads)
        )
        return origin, names, source

    def _make_origin(self, name: str, ttl: int, negative_ttl: int, mname: str, rname: str) -> Origin:
        config = self.config
        times = (config.soa_refresh, config.soa_retry, config.soa_expire)
        origin = Origin(name, ttl, negative_ttl, mname, rname, *times)
        self.origins.append(origin)
        return origin

    def _make_responder(self) -> Responder:
        config = self.config
        answerer = Answerer(self.zone, self.origins, config.compat, config.srv_weight)
        options = ResponderOptions(config.external_on, config.recurse_on, config.set_truncate_bit, config.udp_size)
        return Responder(answerer, options, config.resolvers, config.zone_resolvers)

    async def _put_own_names(self) -> None:
        """The names of this server that SOA and NS records tell have its addresses."""
        addresses = [one for one in self.config.listeners if one not in {"0.0.0.0", "::"}]
        if len(addresses) < len(self.config.listeners):
            # a thread, because pyroute2 runs a loop of its own
            for address in await asyncio.to_thread(read_own_addresses):
                if ("::" if ":" in address else "0.0.0.0") in self.config.listeners:
                    addresses.append(address)
        for origin in self.origins:
            if is_below(origin.mname, origin.name):
                records: list[Record] = [address_record(origin.mname, one) for one in addresses]
                self.zone.put(("server", origin.name), records)

    def _on_change(self, origin: Origin) -> None:
        changed = self.zone.pop_changed()
        if changed:
            origin.note_change(wall_s())
            self._responder.forget(changed)

    def _on_loaded(self, origin: Origin) -> None:
        self._loaded_at[origin.name] = monotonic_s()
        if not origin.is_loaded:
            gc.collect()
            gc.freeze()  # what was read lives on; walking all of it again would stop the loop for 0.1 s and more
        origin.is_loaded = True
        self._has_data.set()

    # --- What others see ---

    async def _beat(self) -> NoReturn:
        loop = asyncio.get_running_loop()
        while True:
            self._loop_health.set_ready(True)
            if self._notifier.watchdog_interval_s and self.health.is_live():
                self._notifier.alive()
            began_at = loop.time()
            await asyncio.sleep(_PULSE_S)
            self.metrics.dns_loop_lag_seconds.set(max(0.0, loop.time() - began_at - _PULSE_S))

    def settle_metrics(self) -> None:
        """Metrics that are counted elsewhere say what is so now."""
        metrics = self.metrics
        for code, count in self._responder.rcodes.items():
            metrics.dns_answers.raise_to(count, _RCODES.get(code, str(code)))
        metrics.dns_answers_kept.raise_to(self._responder.hits)
        for outcome, count in self._forwarder.outcomes.items():
            metrics.dns_forwarded.raise_to(count, outcome)
        metrics.dns_forwards_under_way.set(self._forwarder.under_way)
        metrics.dns_queries.raise_to(sum(one.queries_udp for one in self._servers), "udp")
        metrics.dns_queries.raise_to(sum(one.queries_tcp for one in self._servers), "tcp")
        metrics.dns_bugs.raise_to(sum(one.bugs for one in self._servers))
        metrics.dns_tcp_connections.set(sum(one.connections for one in self._servers))
        metrics.dns_tcp_evicted.raise_to(sum(one.evicted for one in self._servers))
        metrics.dns_names.set(self.zone.names_count)
        metrics.dns_records.set(self.zone.records_count)
        metrics.dns_collisions.set(len(self.collisions))
        metrics.dns_problems.set(len(self.problems))
        sources = []
        if self._mesos:
            sources.append(("mesos", self._mesos[0], self._mesos[2].failure, self._mesos[2].loads))
        if self._datastore:
            sources.append(("datastore", self._datastore[0], self._datastore[2].failure, self._datastore[2].loads))
            hold = self._datastore[2].hold
            metrics.dns_held.set(len(hold.leaving) if hold else 0)
        for name, origin, failure, loads in sources:
            metrics.dns_source_up.labels(name).set(not failure)
            metrics.dns_source_loads.raise_to(loads, name)
            since_s = monotonic_s() - self._loaded_at.get(origin.name, monotonic_s())
            metrics.dns_source_stale_seconds.labels(name).set(since_s if failure and loads else 0.0)


def _judge(failure: str, loads: int) -> Verdict:
    if not failure:
        return Verdict(True, "")
    return Verdict(False, f"what was known is served, it may be stale: {failure}" if loads else failure)


def _find_version() -> str:
    with contextlib.suppress(importlib.metadata.PackageNotFoundError):
        return importlib.metadata.version("felix")
    return "unknown"
