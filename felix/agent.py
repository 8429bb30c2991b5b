"""The agent: builds its parts, connects them, and opens the task group in which they run. Nothing else.

etcd ─▶ watch ─▶ mailbox ─▶ intake (decode, calculate) ─▶ driver ─▶ kernel
                                      └──▶ BIRD keeper ─▶ BIRD
"""

from __future__ import annotations

import asyncio
import gc
import logging
import signal
from collections import Counter
from collections.abc import Mapping
from pathlib import Path
from typing import NoReturn

from prometheus_client import CollectorRegistry

from felix.clock import monotonic_s
from felix.config.load import host_source, load_local
from felix.config.resolve import Resolved, datastore_sources, find_changes, resolve
from felix.config.table import Settings
from felix.dataplane.bird.apply import BirdPlace
from felix.dataplane.bird.read import read_secrets
from felix.dataplane.bird.serve import BirdKeeper
from felix.dataplane.bird.types import BirdOptions
from felix.dataplane.cycle import Cycle
from felix.dataplane.driver import Driver, DriverConfig
from felix.dataplane.links.read import has_ipv6
from felix.dataplane.links.types import LinkConfig
from felix.dataplane.nft.types import NftConfig, ToHostAction
from felix.dataplane.routes.types import RouteConfig
from felix.datastore.etcd import EtcdClient
from felix.datastore.load import EtcdSettings
from felix.datastore.mailbox import Batch, Mailbox
from felix.datastore.report import AgentReporter, EndpointReporter, ReportSettings
from felix.datastore.watch import DatastoreWatch
from felix.intake import Intake
from felix.model.keys import WATCH_END, WATCH_START
from felix.obs.health import Health, Verdict
from felix.obs.log import LogControl
from felix.obs.metrics import Metrics
from felix.obs.notify import Notifier
from felix.obs.serve import Door, keep_pulse, serve_health, serve_local_api, serve_metrics
from felix.reconcile.brake import TOLERATED_ENDPOINTS, Hold, find_hold
from felix.report import AgentReport

log = logging.getLogger(__name__)

_SLICE_UPDATES = 200  # decoded before the loop breathes
_SLICE_POLICIES = 50
_PENDING_LIMIT_S = 10.0
_HOLD_LOOK_S = 1.0
_CONSENT = "confirm-deletion"  # a file in the run directory


class Agent:
    """One agent. resolved: settings of environment and file, `config_file` that file; what the datastore adds comes
    later. `run` returns when it is told to stop; everything in the kernel stays as it is.
    """

    def __init__(self, resolved: Resolved, config_file: Path | None, logs: LogControl) -> None:
        settings = resolved.settings
        self._resolved = resolved
        self._config_file = config_file
        self._logs = logs
        self._metrics = Metrics(CollectorRegistry(), has_process_metrics=settings.prometheus_process_metrics_enabled)
        self._intake = Intake(settings.felix_hostname)
        self._report = AgentReport(self._metrics, self._intake, Path(settings.endpoint_status_path_prefix))
        self._client = EtcdClient(_etcd_settings(settings))
        self._mailbox = Mailbox()
        self._watch = DatastoreWatch(self._client, WATCH_START, WATCH_END, self._mailbox.put)
        self._driver = self._make_driver(settings)
        self._bird = BirdKeeper(
            BirdPlace(Path(settings.bird_config_dir) / "bird.conf", Path(settings.bird_control_socket)),
            BirdOptions(
                read_secrets(Path(settings.state_dir) / "secrets"), interface_prefixes=settings.interface_prefixes
            ),
            self._report.on_bird,
        )
        self._health = Health(timeouts_s=dict(settings.health_timeout_overrides))
        self._datastore_health = self._health.component("datastore", 90.0)
        self._dataplane_health = self._health.component("dataplane", 90.0)
        self._dataplane_health.ask_with(self._is_keeping_up)
        self._notifier = Notifier()
        self._stop = asyncio.Event()
        self._synced = asyncio.Event()
        self._doors: list[Door] = []
        self._is_in_sync = False
        self._revision = 0

    async def run(self) -> None:
        """Works until SIGTERM or SIGINT. Raises EnvironmentFault when another agent runs or the kernel is unfit."""
        loop = asyncio.get_running_loop()
        for number in (signal.SIGTERM, signal.SIGINT):
            loop.add_signal_handler(number, self._stop.set)
        settings = self._resolved.settings
        self._metrics.host.labels(settings.felix_hostname).set(1)
        self._metrics.resync_state.set(1)
        try:
            await self._open_doors(settings)
            self._report.open_files()
            await self._driver.start()
            await self._work(settings)
        finally:
            self._notifier.stopping()
            for door in self._doors:
                await door.close()
            await self._driver.close()
            await self._client.close()
        log.info("stopped; what is in the kernel stays in force")

    # --- Parts and tasks ---

    async def _open_doors(self, settings: Settings) -> None:
        self._doors.append(
            await serve_local_api(Path(settings.run_dir) / "felix.sock", {"/v1/status": self._answer_status})
        )
        if settings.health_enabled:
            self._doors.append(await serve_health(self._health, settings.health_host, settings.health_port))
        if settings.prometheus_metrics_enabled:
            host, port = settings.prometheus_metrics_host, settings.prometheus_metrics_port
            self._doors.append(await serve_metrics(self._metrics.registry, host, port))

    async def _work(self, settings: Settings) -> None:
        reports = ReportSettings(
            settings.felix_hostname,
            interval_s=settings.reporting_interval_s,
            ttl_s=settings.reporting_ttl_s,
            delay_s=settings.endpoint_reporting_delay_s,
        )
        async with asyncio.TaskGroup() as group:
            tasks = [
                group.create_task(self._watch.run(), name="watch"),
                group.create_task(self._feed(), name="feed"),
                group.create_task(self._drive(), name="driver"),
                group.create_task(self._bird.run(), name="bird"),
                group.create_task(keep_pulse(self._beat, 1.0), name="pulse"),
            ]
            if settings.reporting_interval_s:
                tasks.append(group.create_task(AgentReporter(self._client, reports).run(), name="agent status"))
            if settings.endpoint_reporting_enabled:
                reporter = self._report.endpoint_reporter = EndpointReporter(self._client, reports)
                tasks.append(group.create_task(reporter.run(), name="endpoint status"))
            log.info("felix on %s: watching %s", settings.felix_hostname, ", ".join(settings.etcd_urls))
            await self._stop.wait()
            for task in tasks:
                task.cancel()

    async def _drive(self) -> NoReturn:
        await self._synced.wait()
        await self._driver.run()

    # --- From the mailbox to the driver ---

    async def _feed(self) -> NoReturn:
        while True:
            batch = await self._next_batch()
            arrived_at = monotonic_s()
            await self._take(batch)
            if self._is_in_sync and self._intake.is_datastore_ready:
                await self._hand_on(arrived_at)

    async def _next_batch(self) -> Batch:
        """Waits for mail; while a deletion is held no longer than a second, so that its end is noticed."""
        if self._report.hold is None:
            return await self._mailbox.take()
        try:
            async with asyncio.timeout(_HOLD_LOOK_S):
                return await self._mailbox.take()
        except TimeoutError:
            return self._mailbox.take_now()

    async def _take(self, batch: Batch) -> None:
        if batch.resync_reason is not None:
            self._metrics.resyncs_started.inc()
            self._metrics.resync_state.set(2)
            log.info("reading everything from the datastore: %s", batch.resync_reason)
        if batch.cluster_change is not None:
            log.error("the datastore is another one than before, or went back in time: %s", batch.cluster_change)
        counts: Counter[str] = Counter()
        started_at = monotonic_s()
        for number, update in enumerate(batch.updates.values(), 1):
            counts[self._intake.on_update(update.key, update.value, update.revision)] += 1
            self._revision = max(self._revision, update.revision)
            if number % _SLICE_UPDATES == 0:
                await self._breathe()
        if batch.updates:
            self._metrics.calc_graph_update_time_seconds.observe(monotonic_s() - started_at)
        for kind, count in counts.items():
            self._metrics.calc_graph_updates_processed.inc(kind or "other", by=count)
        self._metrics.seen_revision.set(self._revision)
        if batch.in_sync_revision is not None:
            self._revision = max(self._revision, batch.in_sync_revision)
            self._is_in_sync = True
            self._metrics.resync_state.set(3)
            self._datastore_health.set_ready(True, f"in sync at revision {batch.in_sync_revision}")

    async def _hand_on(self, arrived_at: float) -> None:
        """What changed is with the driver and the BIRD keeper; the first time, everything is."""
        while not self._intake.graph.settle(_SLICE_POLICIES):
            await self._breathe()
        if self._is_holding():
            return
        await self._take_configuration()
        delta = self._intake.graph.flush()
        self._report.on_problems(self._intake.pop_problems())
        if delta:
            self._metrics.calc_graph_output_events.inc()
        self._driver.on_delta(delta, self._revision, arrived_at)
        inputs = self._intake.graph.pop_bgp_inputs()
        if inputs is not None:
            self._bird.on_inputs(inputs)
        if not self._synced.is_set():
            self._driver.on_in_sync()
            self._synced.set()

    def _is_holding(self) -> bool:
        """Whether so much would be deleted at once that it needs a person's word."""
        hold = self._find_hold()
        if hold is None and self._report.hold is None:
            return False
        consent = Path(self._resolved.settings.run_dir) / _CONSENT
        if self._report.hold is not None and consent.exists():
            log.warning("%s is there: the deletion is confirmed", consent)
            hold = None
        if self._report.hold is None or hold is None:
            consent.unlink(missing_ok=True)  # given before the question, or used up
        self._report.on_hold(hold, consent, self._datastore_health)
        return hold is not None

    def _find_hold(self) -> Hold | None:
        graph = self._intake.graph
        if self._synced.is_set():
            leaving = [name for name in graph.find_leaving() if self._driver.has_interface(name)]
        else:  # an earlier run's endpoints are as dear as our own
            leaving = [name for name in self._driver.served_interfaces if not graph.is_claimed(name)]
        # Counting those in force costs all of them, so only when many go.
        return find_hold(leaving, len(self._driver.served_interfaces)) if len(leaving) > TOLERATED_ENDPOINTS else None

    async def _breathe(self) -> None:
        self._datastore_health.beat()
        await asyncio.sleep(0)

    # --- Settings of the datastore ---

    async def _take_configuration(self) -> None:
        if not self._intake.has_new_configuration:
            return
        self._intake.has_new_configuration = False
        before = self._resolved
        sources = datastore_sources(before.settings.felix_hostname, self._intake.configurations)
        self._resolved = resolve((*load_local(self._config_file), *sources, host_source()), before)
        self._report.on_settings(self._resolved.problems)
        for notice in self._resolved.notices:
            if notice not in before.notices:
                log.warning("setting: %s", notice)
        changes = find_changes(before.settings, self._resolved.settings)
        settings = self._resolved.settings
        self._logs.set_levels(settings.log_severity_screen, settings.log_severity_file)
        self._health.override_timeouts(dict(settings.health_timeout_overrides))
        if changes.restart and not self._synced.is_set():
            await self._replace_driver(settings)
        elif changes.restart:
            self._metrics.restart_wanted.set(1)
            log.warning("settings changed that take effect with the next start: %s", ", ".join(changes.restart))

    async def _replace_driver(self, settings: Settings) -> None:
        """The driver works by settings of the datastore; nothing of policy has been written before."""
        await self._driver.close()
        self._driver = self._make_driver(settings)
        await self._driver.start()

    def _make_driver(self, settings: Settings) -> Driver:
        config = _driver_config(settings)
        return Driver(config, self._on_cycle, self._metrics.foreign_changes.inc)

    # --- What others see ---

    def _on_cycle(self, cycle: Cycle) -> None:
        is_first = not self._report.is_settled_once
        self._report.on_cycle(cycle, self._driver)
        if is_first and self._report.is_settled_once:
            self._report.on_complete()
            gc.freeze()  # what a start leaves lives on; walking all of it again would stop the loop for 0.1 s and more
            self._dataplane_health.set_ready(True, "programmed")
            text = f"in sync at revision {cycle.revision}, {sum(cycle.writes_by_family.values())} kernel writes"
            self._notifier.ready(text)
            log.info("ready: %s, first cycle %.0f ms", text, cycle.duration_s * 1000)

    def _is_keeping_up(self) -> Verdict:
        waited_s = self._driver.oldest_wait_s(monotonic_s())
        return Verdict(waited_s < _PENDING_LIMIT_S, f"oldest change waits for {waited_s:.1f} s" if waited_s else "")

    def _beat(self, lag_s: float) -> None:
        self._metrics.loop_lag_seconds.set(lag_s)
        self._metrics.etcd_connected.set(self._watch.is_connected)
        self._report.on_health(self._driver, self._dataplane_health)
        self._report.on_stats(self._intake.graph.stats())  # counts all policies: once a second, not with every change
        self._datastore_health.beat()
        if not self._synced.is_set():
            self._dataplane_health.beat()  # the driver waits for the datastore; a restart would not help
        if self._notifier.watchdog_interval_s and self._health.is_live():
            self._notifier.alive()

    async def _answer_status(self, _: Mapping[str, str]) -> object:
        """Returns what `felix status` shows."""
        bird = self._report.bird
        return {
            "host": self._resolved.settings.felix_hostname,
            "ready": self._health.is_ready(),
            "datastore": {
                "endpoints": self._resolved.settings.etcd_urls,
                "connected": self._watch.is_connected,
                "failure": self._watch.failure,
                "revision": self._revision,
            },
            "held": str(self._report.hold or ""),
            "dataplane": {"revision": self._report.applied_revision, "cycles": self._report.cycles_count},
            "endpoints": {
                str(key): {"status": report.condition.value, "reason": report.reason}
                for key, report in self._driver.board.reports.items()
            },
            "bgp": {
                "fault": bird.fault,
                "sessions": {
                    one.name: one.bgp_state for one in (bird.state.protocols if bird.state else ()) if one.kind == "BGP"
                },
            },
            "problems": [str(problem) for problem in self._report.problems],
        }


def _etcd_settings(settings: Settings) -> EtcdSettings:
    return EtcdSettings(
        settings.etcd_urls,
        settings.etcd_ca_file,
        settings.etcd_cert_file,
        settings.etcd_key_file,
        settings.etcd_username,
        settings.etcd_password,
    )


def _driver_config(settings: Settings) -> DriverConfig:
    return DriverConfig(
        nft=NftConfig(
            interface_prefixes=settings.interface_prefixes,
            to_host=ToHostAction(settings.default_endpoint_to_host_action),
            drop_invalid=not settings.disable_conntrack_invalid_check,
            log_prefix=f"{settings.log_prefix}: ",
        ),
        routes=RouteConfig(
            priority4=settings.ipv4_normal_route_priority, priority6=settings.ipv6_normal_route_priority
        ),
        links=LinkConfig(
            has_host_forwarding=settings.ip_forwarding == "Enabled", has_ipv6=settings.ipv6_support and has_ipv6()
        ),
        nft_refresh_s=settings.nftables_refresh_interval_s,
        routes_refresh_s=settings.route_refresh_interval_s,
        links_refresh_s=settings.interface_refresh_interval_s,
    )
