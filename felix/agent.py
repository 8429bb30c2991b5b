"""The agent: builds its parts, connects them, and opens the task group in which they run. Nothing else.

etcd ─▶ watch ─▶ mailbox ─▶ intake (decode, calculate) ─▶ driver ─▶ kernel
                                      └──▶ BIRD keeper ─▶ BIRD
"""

from __future__ import annotations

import asyncio
import contextlib
import gc
import importlib.metadata
import logging
import signal
from collections import Counter
from collections.abc import Coroutine, Mapping, Sequence
from pathlib import Path
from typing import Any, NamedTuple, NoReturn
from urllib.parse import urlsplit

from prometheus_client import CollectorRegistry

from felix.attach.agent import AttachParts, AttachPorts
from felix.calc.desired import LocalEndpoint
from felix.calc.tunnels import TunnelSettings
from felix.clock import monotonic_s
from felix.collect.apply import clean_own
from felix.collect.serve import Collector, Surroundings
from felix.collect.types import Graces, Reach
from felix.config.load import host_source, load_local
from felix.config.readers import split_failsafe
from felix.config.resolve import Resolved, datastore_sources, find_changes, resolve
from felix.config.table import Settings
from felix.dataplane.bird.apply import BirdPlace
from felix.dataplane.bird.read import read_secrets
from felix.dataplane.bird.serve import BirdKeeper, BirdReport
from felix.dataplane.bird.types import BirdOptions
from felix.dataplane.cycle import Cycle, EndpointReport
from felix.dataplane.driver import Driver, DriverConfig, RefreshIntervals
from felix.dataplane.links.read import has_ipv6
from felix.dataplane.links.types import LinkConfig
from felix.dataplane.netlink.apply import ANSWER_WAIT_S
from felix.dataplane.nft.types import DenyAction, FloodConfig, LogRate, NatConfig, NftConfig, ToHostAction
from felix.dataplane.routes.types import RouteConfig
from felix.dataplane.serve import HostKernel
from felix.datastore.etcd import EtcdClient
from felix.datastore.fence import Fence
from felix.datastore.load import EtcdSettings
from felix.datastore.mailbox import Batch, Mailbox
from felix.datastore.report import AgentReporter, EndpointReporter, ReportSettings, find_fence
from felix.datastore.watch import DatastoreWatch
from felix.errors import EnvironmentFault, FelixError, PeerError
from felix.intake import Intake
from felix.model.keys import WATCH_END, WATCH_START, ResourceKey
from felix.model.net import Net, parse_address, parse_net
from felix.obs.health import Health, Verdict
from felix.obs.log import LogControl, LogCounts
from felix.obs.metrics import Metrics
from felix.obs.notify import Notifier
from felix.obs.serve import Door, Reply, keep_pulse, serve_health, serve_local_api, serve_metrics
from felix.policy.host_settings import Failsafe
from felix.policy.rules import get_protocol
from felix.policy_counts import make_counts, show_counts
from felix.reconcile.brake import TOLERATED_ENDPOINTS, Hold, find_hold
from felix.report import AgentReport
from felix.vtep.apply import VtepStore
from felix.vtep.serve import VtepKeeper

log = logging.getLogger(__name__)

_SLICE_UPDATES = 200  # decoded before the loop breathes
_SLICE_POLICIES = 50
_PENDING_LIMIT_S = 10.0
_PULSE_S = 1.0
_SIGN_OF_LIFE_S = 0.5  # of the feed when nothing comes; shorter than any sensible timeout of a component
_FENCE_LOOK_S = 1.0  # how often a host that holds a deletion looks whether it was given up
_CLEAN_LOOK_S = 0.05
_CLEAN_LOOKS = 600  # whether the interfaces of a host that was given up are closed; then it begins anew
_DOORS = ("health", "metrics")
_CONSENT = "confirm-deletion"  # a file in the run directory


class _Place(NamedTuple):
    host: str
    port: int


class LogParts(NamedTuple):
    """The log as the agent needs it."""

    control: LogControl
    counts: LogCounts


class Agent:
    """One agent. resolved: settings of environment and file, `config_file` that file; the datastore's come later.

    `run` returns when it is told to stop; everything in the kernel stays as it is. Raises DataError for a bad file.
    """

    def __init__(self, resolved: Resolved, config_file: Path | None, logs: LogParts) -> None:
        settings = resolved.settings
        self._resolved = resolved
        self._sources = (*load_local(config_file), host_source())  # once: edits of the file are for the next start
        self._logs = logs
        self._metrics = Metrics(CollectorRegistry(), has_process_metrics=settings.prometheus_process_metrics_enabled)
        self._intake = Intake(settings.felix_hostname, _reserved_addresses(settings))
        self._report = AgentReport(self._metrics, self._intake)
        self._client = EtcdClient(_etcd_settings(settings))
        self._mailbox = Mailbox()
        self._watch = DatastoreWatch(self._client, WATCH_START, WATCH_END, self._mailbox.put)
        self._kernel, self._driver = self._make_driver(settings)
        self._bird: BirdKeeper | None = None
        self._reporter: AgentReporter | None = None
        self._collector: Collector | None = None
        self._vtep: VtepKeeper | None = None
        self._attach = self._make_attach()
        self._fence: Fence | None = None
        self._fence_looked_at = -_FENCE_LOOK_S
        self._health = Health(timeouts_s=dict(settings.health_timeout_overrides))
        self._datastore_health = self._health.component("datastore", 90.0)
        self._dataplane_health = self._health.component("dataplane", 90.0)
        self._dataplane_health.ask_with(self._is_keeping_up)
        self._bgp_health = self._health.component("bgp", counts=False)
        self._notifier = Notifier()
        self._stop = asyncio.Event()
        self._synced = asyncio.Event()
        self._failure: BaseException | None = None
        self._doors: dict[str, tuple[_Place, Door]] = {}
        self._group: asyncio.TaskGroup | None = None
        self._tasks: list[asyncio.Task[None]] = []
        self._is_whole = False  # whether everything stored has been seen, and no reading of all is under way
        self._is_configured = False
        self._settings_in_force = settings
        self._revision = 0

    async def run(self) -> None:
        """Works until SIGTERM or SIGINT. Raises EnvironmentFault when another agent runs or the kernel is unfit."""
        loop = asyncio.get_running_loop()
        for number in (signal.SIGTERM, signal.SIGINT):
            loop.add_signal_handler(number, self._stop.set)
        loop.set_exception_handler(self._on_loop_failure)
        settings = self._resolved.settings
        self._metrics.host.labels(settings.felix_hostname).set(1)
        self._metrics.build_info.labels(_find_version()).set(1)
        self._metrics.resync_state.set(1)
        api: Door | None = None
        try:
            gets = {
                "/v1/status": self._answer_status,
                "/v1/policy-counters": self._answer_counts,
                **self._attach.routes.answers(),
            }
            api = await serve_local_api(Path(settings.run_dir) / "felix.sock", gets, self._attach.routes.acts())
            for name in _DOORS:
                await self._settle_door(name, settings)
            await self._driver.start()
            await self._work(settings)
        finally:
            self._notifier.stopping()
            await self._attach.service.close()
            await self._driver.close()
            for door in filter(None, (api, *(door for _, door in self._doors.values()))):
                await door.close()
            await self._client.close()
        if self._failure is not None:
            raise self._failure
        log.info("stopped; what is in the kernel stays in force")

    # --- Parts and tasks ---

    async def _work(self, settings: Settings) -> None:
        """Runs until told to stop; a task that fails ends all others, and is raised."""
        async with asyncio.TaskGroup() as self._group:
            self._start_task("watch", self._watch.run())
            self._start_task("feed", self._feed())
            self._start_task("driver", self._drive())
            self._start_task("pulse", keep_pulse(self._beat, _PULSE_S))
            log.info("felix on %s: watching %s", settings.felix_hostname, ", ".join(settings.etcd_urls))
            await self._stop.wait()
            for task in self._tasks:
                task.cancel()

    def _start_task(self, name: str, work: Coroutine[None, None, None]) -> None:
        assert self._group is not None
        self._tasks.append(self._group.create_task(work, name=name))

    def _on_loop_failure(self, loop: asyncio.AbstractEventLoop, context: dict[str, Any]) -> None:
        """A callback of ours that failed has lost what it was told: better to begin anew than to go on without."""
        error = context.get("exception")
        if "handle" not in context or error is None or isinstance(error, OSError):
            loop.default_exception_handler(context)  # a connection or a task of a library, which looks after itself
            return
        self._failure = self._failure or error
        self._stop.set()

    async def _settle_door(self, name: str, settings: Settings) -> None:
        """The door is open where `settings` want it, or closed if they do not. Raises EnvironmentFault."""
        place = _find_door(name, settings)
        opened, door = self._doors.pop(name, (None, None))
        if door is not None and opened is not None and opened == place:
            self._doors[name] = (opened, door)
            return
        if door is not None:
            await door.close()
        if place is None:
            return
        if name == "health":
            door = await serve_health(self._health, place.host, place.port)
        else:
            door = await serve_metrics(self._metrics.registry, place.host, place.port, self._refresh_counts)
        self._doors[name] = (place, door)

    async def _start_parts(self, settings: Settings) -> None:
        """The parts that settings of the datastore shape are there; everything stored has been seen by now."""
        self._attach.configure(settings, has_ipv6=_driver_config(settings).links.has_ipv6)
        self._start_task("attach debts", self._attach.service.debts.run())
        self._start_task("attach sweep", self._attach.cleaner.run())
        for name in _DOORS:
            try:
                await self._settle_door(name, settings)
            except EnvironmentFault as error:
                log.error("%s", error)  # a resource may not keep agents from enforcing policy
        self._report.open_files(settings.endpoint_status_path_prefix)
        if settings.bird_control_socket:
            place = BirdPlace(Path(settings.bird_config_dir) / "bird.conf", Path(settings.bird_control_socket))
            secrets = read_secrets(Path(settings.state_dir) / "secrets")
            options = BirdOptions(secrets, interface_prefixes=settings.interface_prefixes)
            self._bird = BirdKeeper(place, options, self._on_bird)
            self._start_task("bird", self._bird.run())
        else:
            self._on_bird(BirdReport(fault="this host runs no BIRD (BirdControlSocket is none)"))
        reports = ReportSettings(
            settings.felix_hostname,
            interval_s=settings.reporting_interval_s,
            ttl_s=settings.reporting_ttl_s,
            delay_s=settings.endpoint_reporting_delay_s,
        )
        self._reporter = AgentReporter(self._client, reports, self._clean, self._attach.service.gate.on_news)
        self._start_task("agent status", self._reporter.run())
        surroundings = Surroundings(self._find_graces, self._find_doubt, self._find_reach)
        vteps = VtepStore(self._client, settings.felix_hostname)
        self._vtep = VtepKeeper(vteps, settings.felix_hostname, self._report.on_tunnel_address)
        self._start_task("vxlan address", self._vtep.run())
        self._collector = Collector(self._client, settings.felix_hostname, surroundings, self._metrics)
        self._start_task("collector", self._collector.run())
        if settings.endpoint_reporting_enabled:
            reporter = self._report.endpoint_reporter = EndpointReporter(self._client, reports)
            self._start_task("endpoint status", reporter.run())

    async def _drive(self) -> NoReturn:
        await self._synced.wait()
        await self._driver.run()

    # --- From the mailbox to the driver ---

    async def _feed(self) -> NoReturn:
        while True:
            self._attach.service.gate.on_news()
            batch = await self._next_batch()
            self._datastore_health.beat()
            if batch is None:
                continue
            arrived_at = monotonic_s()
            await self._take(batch)
            # Between the pages of a resync the state is one that never was: what stood before goes on to stand.
            if self._is_whole and self._intake.is_datastore_ready:
                await self._hand_on(arrived_at)

    async def _next_batch(self) -> Batch | None:
        """Waits for mail, but not for ever; while a deletion is held, no mail counts as mail."""
        try:
            async with asyncio.timeout(_SIGN_OF_LIFE_S):
                return await self._mailbox.take()
        except TimeoutError:
            return None if self._report.hold is None else self._mailbox.take_now()

    async def _take(self, batch: Batch) -> None:
        if batch.resync_reason is not None:
            self._metrics.resyncs_started.inc()
            self._metrics.resync_state.set(2)
            self._is_whole = False
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
            self._is_whole = True
            self._metrics.resync_state.set(3)
            self._datastore_health.set_ready(True, f"in sync at revision {batch.in_sync_revision}")

    async def _hand_on(self, arrived_at: float) -> None:
        """What changed is with the driver and the BIRD keeper; the first time, everything is."""
        while not self._intake.graph.settle(_SLICE_POLICIES):
            await self._breathe()
        if await self._is_holding():
            return
        await self._take_configuration()
        if not self._is_configured:
            self._is_configured = True
            self._intake.graph.tunnels.configure(_tunnel_settings(self._resolved.settings))
            await self._start_parts(self._resolved.settings)
        delta = self._intake.graph.flush()
        self._report.on_problems(self._intake.pop_problems())
        if delta:
            self._metrics.calc_graph_output_events.inc()
        self._driver.on_delta(delta, self._revision, arrived_at)
        inputs = self._intake.graph.pop_bgp_inputs()
        if inputs is not None and self._bird is not None:
            self._bird.on_inputs(inputs)
        wishes = self._intake.graph.tunnels.pop_wishes()
        if wishes is not None and self._vtep is not None:
            self._vtep.on_wishes(wishes)
        if not self._synced.is_set():
            self._driver.on_in_sync()
            self._synced.set()

    async def _is_holding(self) -> bool:
        """Whether so much would be deleted at once that it needs a person's word."""
        hold = self._find_hold()
        if hold is not None and await self._is_given_up():
            log.error("%s; %s, their containers lose their network", self._fence, hold)
            hold = None  # their addresses may be others' by now
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

    # --- Given up, and collecting ---

    async def _is_given_up(self) -> bool:
        """Whether a fence keeps this host out, as far as etcd tells; asked once a second at most."""
        if monotonic_s() - self._fence_looked_at >= _FENCE_LOOK_S:
            self._fence_looked_at = monotonic_s()
            try:
                self._fence = await find_fence(self._client, self._resolved.settings.felix_hostname)
            except PeerError as error:
                log.debug("whether this host was given up is not known: %s", error)
        return self._fence is not None

    async def _clean(self, fence: Fence) -> None:
        """Nothing is left of the endpoints that this host had when it was given up, in etcd and in the kernel."""
        self._fence = fence
        names = ", ".join(fence.endpoints) or "none of its endpoints was left"
        log.error("%s; it takes part again once it has cleaned up. Lost their network: %s", fence, names)
        gone = await clean_own(self._client, fence)
        for _ in range(_CLEAN_LOOKS):
            if not self._driver.served_interfaces:
                break
            await asyncio.sleep(_CLEAN_LOOK_S)
        else:
            left = ", ".join(self._driver.served_interfaces[:5])
            raise PeerError(f"{fence}, and its interfaces are still open: {left}")
        log.warning("%s; it has cleaned up, and takes part again: %s", fence, gone)

    @property
    def refusal(self) -> str:
        """Why no container may be attached to this host now; empty when it may."""
        return self._reporter.refusal if self._reporter is not None else "the agent is starting"

    def _find_graces(self) -> Graces:
        settings = self._resolved.settings
        return Graces(settings.ipam_leak_grace_period_s, settings.lost_host_grace_period_s)

    def _find_doubt(self) -> str:
        if self._report.hold is not None:
            return "this agent holds a mass deletion"
        if not self._is_whole or not self._intake.is_datastore_ready:
            return "the datastore is not ready, or still being read"
        return ""

    async def _find_reach(self) -> Reach:
        if self._bird is None:
            return Reach()
        state = self._report.bird.state
        if state is None or not any(one.is_established for one in state.protocols):
            return Reach(blindness="this host has no BGP session that would tell whether their routes are there")
        try:
            return Reach(await self._kernel.read_learnt_routes())
        except OSError as error:
            return Reach(blindness=f"routes cannot be read: {error.strerror}")

    async def _breathe(self) -> None:
        self._datastore_health.beat()
        await asyncio.sleep(0)

    # --- Settings of the datastore ---

    async def _take_configuration(self) -> None:
        """Settings of the datastore count from now on: all of them at first, the live ones later."""
        if not self._intake.has_new_configuration:
            return
        self._intake.has_new_configuration = False
        before = self._resolved
        *local, host = self._sources
        sources = datastore_sources(before.settings.felix_hostname, self._intake.configurations)
        self._resolved = resolve((*local, *sources, host), before)
        self._report.on_settings(self._resolved.problems)
        for notice in self._resolved.notices:
            if notice not in before.notices:
                log.warning("setting: %s", notice)
        settings = self._resolved.settings
        self._logs.control.set_levels(settings.log_severity_screen, settings.log_severity_file)
        self._health.override_timeouts(dict(settings.health_timeout_overrides))
        if self._is_configured:
            self._driver.set_refresh(_refresh_intervals(settings))
            self._note_restart(find_changes(self._settings_in_force, settings).restart)
        else:
            await self._replace_driver(settings)
            self._settings_in_force = settings

    def _note_restart(self, names: Sequence[str]) -> None:
        self._metrics.restart_wanted.set(bool(names))
        if names:
            log.warning("settings changed that take effect with the next start: %s", ", ".join(names))

    async def _replace_driver(self, settings: Settings) -> None:
        """The driver works by settings of the datastore; nothing of policy has been written before."""
        await self._driver.close()
        self._kernel, self._driver = self._make_driver(settings)
        await self._driver.start()

    def _make_driver(self, settings: Settings) -> tuple[HostKernel, Driver]:
        config = _driver_config(settings)
        kernel = HostKernel(config.routes, config.links, settings.netlink_timeout_s or ANSWER_WAIT_S)
        driver = Driver(config, kernel, self._on_cycle, self._metrics.foreign_changes.inc)
        driver.set_refresh(_refresh_intervals(settings))
        return kernel, driver

    # --- Containers ---

    def _make_attach(self) -> AttachParts:
        return AttachParts(
            self._resolved.settings.felix_hostname,
            self._client,
            self._intake.attachments,
            AttachPorts(
                find_obstacle=self._find_obstacle,
                look=self._look_at,
                has_interface=self._has_interface,
                on_done=self._note_attach,
                on_refusal=self._metrics.attach_failures.inc,
            ),
        )

    def _look_at(self, key: ResourceKey) -> tuple[LocalEndpoint | None, EndpointReport | None]:
        board = self._driver.board  # of the driver of now: the first one is replaced
        return board.endpoints.get(key), board.reports.get(key)

    def _note_attach(self, took_ms: Mapping[str, float]) -> None:
        for step, value in took_ms.items():
            self._metrics.attach_seconds.labels(step).observe(value / 1000)

    def _has_interface(self, name: str) -> bool:
        return self._driver.has_interface(name)

    def _find_obstacle(self) -> str:
        """Returns why no container may be attached or detached now; empty when it may."""
        if not self._intake.is_datastore_ready:
            return "the datastore is not ready (ClusterInformation default says datastoreReady: false)"
        if not self._watch.is_connected:
            return f"etcd is away ({self._watch.failure or 'not connected yet'})"
        if not self._synced.is_set() or not self._is_whole:
            return "the agent is not in sync with the datastore yet"
        if self._report.hold is not None:
            return f"a deletion is held: {self._report.hold}"
        return self.refusal

    # --- What others see ---

    def _on_cycle(self, cycle: Cycle) -> None:
        is_first = not self._report.is_settled_once
        self._report.on_cycle(cycle, self._driver)
        self._attach.set_mtu(self._driver.find_tunnel_mtu())
        self._attach.enforcement.on_cycle(cycle.endpoints)
        if is_first and self._report.is_settled_once:
            self._report.on_complete()
            gc.freeze()  # what a start leaves lives on; walking all of it again would stop the loop for 0.1 s and more
            self._dataplane_health.set_ready(True, "programmed")
            text = f"in sync at revision {cycle.revision}, {sum(cycle.writes_by_family.values())} kernel writes"
            self._notifier.ready(text)
            log.info("ready: %s, first cycle %.0f ms", text, cycle.duration_s * 1000)

    def _on_bird(self, report: BirdReport) -> None:
        self._report.on_bird(report)
        self._bgp_health.set_ready(not report.fault, report.fault)

    def _is_keeping_up(self) -> Verdict:
        waited_s = self._driver.oldest_wait_s(monotonic_s())
        return Verdict(waited_s < _PENDING_LIMIT_S, f"oldest change waits for {waited_s:.1f} s" if waited_s else "")

    def _beat(self, lag_s: float) -> None:
        self._metrics.loop_lag_seconds.set(lag_s)
        self._metrics.etcd_connected.set(self._watch.is_connected)
        self._metrics.fenced.set(self._reporter is not None and self._reporter.fence is not None)
        self._report.on_health(self._driver, self._dataplane_health)
        self._report.on_counts(self._driver.counts, self._kernel.nft_calls, self._logs.counts)
        if self._vtep is not None:
            self._metrics.vxlan_address_errors.raise_to(self._vtep.errors_count)
        self._metrics.attachments.set(len(self._intake.attachments))
        self._metrics.attach_debts.set(len(self._attach.service.debts))
        self._report.on_stats(self._intake.graph.stats())  # counts all policies: once a second, not with every change
        if not self._synced.is_set():
            self._dataplane_health.beat()  # the driver waits for the datastore; a restart would not help
        if self._notifier.watchdog_interval_s and self._health.is_live():
            self._notifier.alive()

    async def _refresh_counts(self) -> None:
        """Metrics say what the kernel has counted until now; they stay as they are if it cannot be asked."""
        try:
            found = await self._kernel.read_counters()
        except (FelixError, OSError) as error:
            log.debug("counters cannot be read: %s", error)
            return
        show_counts(self._metrics, make_counts(self._driver.nft.counted_by_name, found), found)

    async def _answer_counts(self, _: Mapping[str, str]) -> object:
        """Returns what `felix policy counters` shows."""
        try:
            found = await self._kernel.read_counters()
        except (FelixError, OSError) as error:
            return Reply({"error": f"counters cannot be read: {error}", "code": "unavailable"}, 503)
        return make_counts(self._driver.nft.counted_by_name, found)

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
            "fenced": str((self._reporter.fence if self._reporter is not None else self._fence) or ""),
            "collector": self._collector is not None and self._collector.is_leader,
            "dataplane": {"revision": self._report.applied_revision, "cycles": self._report.cycles_count},
            "attachments": len(self._intake.attachments),
            "endpoints": {
                str(key): {"status": report.condition.value, "reason": report.reason}
                for key, report in {**self._driver.board.reports, **self._driver.host_reports}.items()
            },
            "bgp": {
                "fault": bird.fault,
                "sessions": {
                    one.name: one.bgp_state for one in (bird.state.protocols if bird.state else ()) if one.kind == "BGP"
                },
            },
            "vxlan": {
                "addresses": {
                    f"IPv{family}": vtep.address.address if vtep.address is not None else ""
                    for family, vtep in self._intake.graph.tunnels.own.items()
                },
                "hosts": self._intake.graph.tunnels.ends_count,
                "routes": self._intake.graph.tunnels.routes_count,
            },
            "problems": [str(problem) for problem in self._report.problems],
        }


def _find_version() -> str:
    try:
        return importlib.metadata.version("felix")
    except importlib.metadata.PackageNotFoundError:
        return "unknown"


def _reserved_addresses(settings: Settings) -> list[Net]:
    """Returns addresses that a workload must not draw to itself: its gateway's, and etcd's where they are literal."""
    hosts = ["169.254.1.1", *(urlsplit(url).hostname or "" for url in settings.etcd_urls)]
    found = []
    for host in hosts:
        with contextlib.suppress(ValueError):  # a name
            found.append(parse_address(host))
    return found


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
            log_rate=_find_log_rate(settings),
            deny=DenyAction(settings.nftables_filter_deny_action),
            counts_policies=settings.policy_counters_enabled,
            counted_rules=settings.policy_rule_counters,
            allows_vxlan=settings.allow_vxlan_packets_from_workloads,
            allows_ipip=settings.allow_ipip_packets_from_workloads,
            vxlan_port=settings.vxlan_port,
            allows_spoofing=settings.workload_source_spoofing == "Any",
            checks_macs=settings.checks_workload_macs,
            failsafes_in=_failsafes(settings.failsafe_inbound_host_ports),
            failsafes_out=_failsafes(settings.failsafe_outbound_host_ports),
            nat=NatConfig(
                address=parse_address(settings.nat_outgoing_address) if settings.nat_outgoing_address else None,
                ports=settings.nat_port_range,
                spares_hosts=settings.nat_outgoing_exclusions == "IPPoolsAndHostIPs",
                interface=settings.nat_outgoing_interface,
                has_floating=settings.floating_ips == "Enabled",
            ),
            flood=FloodConfig(settings.new_connection_rate, settings.new_connection_burst),
        ),
        routes=RouteConfig(
            priority4=settings.ipv4_normal_route_priority, priority6=settings.ipv6_normal_route_priority
        ),
        links=LinkConfig(
            has_host_forwarding=settings.ip_forwarding == "Enabled",
            has_ipv6=settings.ipv6_support and has_ipv6(),
            allows_spoofing=settings.workload_source_spoofing == "Any",
        ),
        revokes=settings.revokes_connections,
    )


def _tunnel_settings(settings: Settings) -> TunnelSettings:
    return TunnelSettings(
        is_enabled={"true": True, "false": False}.get(settings.vxlan_enabled),
        vni=settings.vxlan_vni,
        port=settings.vxlan_port,
        mtu4=settings.vxlan_mtu,
        mtu6=settings.vxlan_mtu_v6,
        externals=tuple(parse_net(text) for text in settings.external_nodes),
        has_ipv6=settings.ipv6_support and has_ipv6(),
    )


def _find_log_rate(settings: Settings) -> LogRate | None:
    count, slash, unit = settings.log_action_rate_limit.partition("/")
    return LogRate(int(count), unit, max(1, settings.log_action_rate_limit_burst)) if slash else None


def _failsafes(items: Sequence[str]) -> tuple[Failsafe, ...]:
    parts = map(split_failsafe, items)
    return tuple(Failsafe(get_protocol(name), int(port), parse_net(net) if net else None) for name, net, port in parts)


def _refresh_intervals(settings: Settings) -> RefreshIntervals:
    return RefreshIntervals(
        nft_s=settings.nftables_refresh_interval_s,
        routes_s=settings.route_refresh_interval_s,
        links_s=settings.interface_refresh_interval_s,
    )


def _find_door(name: str, settings: Settings) -> _Place | None:
    if name == "health":
        return _Place(settings.health_host, settings.health_port) if settings.health_enabled else None
    if settings.prometheus_metrics_enabled:
        return _Place(settings.prometheus_metrics_host, settings.prometheus_metrics_port)
    return None
