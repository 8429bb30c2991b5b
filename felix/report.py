"""Tells the world what the agent did: metrics, health, status in the datastore, endpoint files, the log. Shell."""

from __future__ import annotations

import logging
from collections import Counter
from collections.abc import Mapping
from pathlib import Path

from felix.calc.stats import CalcStats
from felix.clock import monotonic_s
from felix.dataplane.bird.serve import BirdReport
from felix.dataplane.bird.types import BirdState, ProtocolState
from felix.dataplane.cycle import Cycle, EndpointCondition, EndpointReport
from felix.dataplane.driver import Driver, DriverCounts
from felix.dataplane.nft.apply import NftCalls
from felix.datastore.report import EndpointReporter
from felix.datastore.status import EndpointState, WorkloadId
from felix.errors import Problem
from felix.intake import EndpointIdentity, Intake
from felix.model.keys import IPAM, ResourceKey
from felix.obs.endpoint_files import EndpointFiles, format_file_name, render_endpoint_file
from felix.obs.health import Component
from felix.obs.log import LogCounts
from felix.obs.metrics import Metrics
from felix.reconcile.brake import Hold

log = logging.getLogger(__name__)

_DIRECTIONS = ("imported", "exported")
_RULED_KINDS = frozenset(
    {"GlobalNetworkPolicy", "NetworkPolicy", "Profile", "StagedGlobalNetworkPolicy", "StagedNetworkPolicy"}
)


class AgentReport:
    """Where cycles, problems and looks at BIRD are turned into what people and programs can see."""

    def __init__(self, metrics: Metrics, intake: Intake) -> None:
        self._metrics = metrics
        self._intake = intake
        self._files: EndpointFiles | None = None
        self._identity_by_key: dict[ResourceKey, EndpointIdentity] = {}
        self._conditions: Counter[str] = Counter()
        self._report_by_key: dict[ResourceKey, EndpointReport] = {}
        self._problem_counts: Counter[str] = Counter()
        self._problems_by_subject: dict[str, tuple[Problem, ...]] = {}
        self._dataplane_problems: dict[ResourceKey, Problem] = {}
        self.endpoint_reporter: EndpointReporter | None = None
        self.bird = BirdReport(fault="not asked yet")
        self._setting_problems: tuple[Problem, ...] = ()
        self._tunnel_problems: tuple[Problem, ...] = ()
        self.hold: Hold | None = None
        self.applied_revision = 0
        for kind in ("bgp", "dataplane", "settings", "vxlan"):
            metrics.problems.labels(kind).set(0)
        self.cycles_count = 0

    def open_files(self, prefix: str) -> None:
        """Endpoint files of an earlier run are known. Empty prefix, or no directory to be had: there are none."""
        if not prefix:
            return
        files = EndpointFiles(Path(prefix))
        try:
            files.load()
            self._files = files
        except OSError as error:
            log.warning("endpoint files cannot be kept (%s); plug-ins that wait for them will wait in vain", error)

    @property
    def problems(self) -> list[Problem]:
        """Everything that is wrong with what is stored or cannot be programmed, as known now."""
        found = [problem for problems in self._problems_by_subject.values() for problem in problems]
        beside = (*self._setting_problems, *self._tunnel_problems, *self._dataplane_problems.values())
        return [*found, *beside, *self.bird.problems]

    @property
    def is_settled_once(self) -> bool:
        """Whether everything that was known at some moment has been in the kernel."""
        return self.applied_revision > 0

    def on_problems(self, news: Mapping[str, tuple[Problem, ...]]) -> None:
        """This is wrong with these stored objects now; the log says it once, when it begins and when it ends."""
        for subject, problems in news.items():
            before = self._problems_by_subject.pop(subject, ())
            kind = _kind_of(subject)
            self._count_problems(kind, self._problem_counts[kind] + len(problems) - len(before))
            if problems:
                self._problems_by_subject[subject] = problems
                for problem in problems:
                    log.warning(str(problem))  # as the message: the log holds back what repeats, not the 21st object
            elif before:
                log.info(f"{subject}: all right now")

    def on_settings(self, problems: tuple[Problem, ...]) -> None:
        """This is wrong with settings now; the log says each once."""
        for problem in problems:
            if problem not in self._setting_problems:
                log.warning("setting: %s", problem)
        self._setting_problems = problems
        self._count_problems("settings", len(problems))

    def on_tunnel_address(self, problems: tuple[Problem, ...]) -> None:
        """This keeps the host from its address in the tunnel; nothing any more when empty."""
        for problem in problems:
            log.error("%s", problem)
        if self._tunnel_problems and not problems:
            log.info("VXLAN: this host has its address in the tunnel")
        self._tunnel_problems = problems
        self._count_problems("vxlan", len(problems))

    def on_hold(self, hold: Hold | None, consent: Path, datastore: Component) -> None:
        """A mass deletion waits until the file `consent` is made, or does not any more (None)."""
        before, self.hold = self.hold, hold
        self._metrics.mass_deletion_held.set(len(hold.leaving) if hold else 0)
        if hold is None:
            if before is not None:
                datastore.set_ready(True, "a held deletion has ended")
                log.warning("a held deletion has ended: what the datastore says is in force again")
            return
        text = f"deletion held: {hold}; everything stays as it was. If it is meant: touch {consent}"
        datastore.set_ready(False, text)
        if before is None:
            log.error("%s", text)

    def on_stats(self, stats: CalcStats) -> None:
        """Calculation counts this much."""
        metrics = self._metrics
        metrics.active_local_endpoints.set(stats.local_endpoints)
        metrics.active_local_policies.set(stats.policies)
        metrics.active_local_selectors.set(stats.selectors)
        metrics.vxlan_remote_ends.set(stats.tunnel_ends)
        metrics.vxlan_routes.set(stats.tunnel_routes)
        metrics.label_index_num_endpoints.set(stats.set_items)
        metrics.label_index_num_active_selectors.set(stats.selectors)
        metrics.cluster_num_hosts.set(stats.cluster.hosts)
        metrics.cluster_num_host_endpoints.set(stats.cluster.host_endpoints)
        metrics.cluster_num_workload_endpoints.set(stats.cluster.workload_endpoints)
        metrics.cluster_num_tiers.set(stats.cluster.tiers)
        metrics.cluster_num_policies.set(stats.cluster.policies)
        metrics.cluster_num_profiles.set(stats.cluster.profiles)

    def on_cycle(self, cycle: Cycle, driver: Driver) -> None:
        """One apply cycle ended."""
        self.cycles_count += 1
        metrics = self._metrics
        metrics.int_dataplane_apply_time_seconds.observe(cycle.duration_s)
        for latency_s in cycle.latencies_s:
            metrics.endpoint_programming_seconds.observe(latency_s)
        for family, count in cycle.writes_by_family.items():
            metrics.kernel_writes.inc(family, by=count)
        if cycle.failures:
            metrics.int_dataplane_failures.inc()
        if cycle.revision:
            if not self.applied_revision:
                metrics.int_dataplane_initial_resync_time_seconds.set(cycle.duration_s)
            self.applied_revision = max(self.applied_revision, cycle.revision)
            metrics.applied_revision.set(self.applied_revision)
        if cycle.problems is not None and cycle.problems != self._dataplane_problems:
            for key, problem in cycle.problems.items():
                if self._dataplane_problems.get(key) != problem:
                    log.error("%s", problem)
            self._name_refused(cycle.problems)
            self._dataplane_problems = cycle.problems
            self._count_problems("dataplane", len(cycle.problems))
        for key, report in cycle.endpoints.items():
            self._on_endpoint(key, report, driver)
        if cycle.endpoints:
            for condition in EndpointCondition:
                metrics.endpoints_by_status.labels(condition.value).set(self._conditions[condition.value])

    def on_complete(self) -> None:
        """The first whole cycle has ended: what earlier runs left of endpoints that are gone is removed."""
        if self._files is not None:
            try:
                self._files.keep_only({_file_name(identity) for identity in self._identity_by_key.values()})
            except OSError as error:
                log.warning("endpoint files of an earlier run cannot be removed: %s", error)
        if self.endpoint_reporter is not None:
            self.endpoint_reporter.on_in_sync()

    def on_bird(self, report: BirdReport) -> None:
        """BIRD was told or looked at."""
        if report.fault and report.fault != self.bird.fault:
            log.warning("BGP: %s; policy and local routes are not concerned", report.fault)
        elif self.bird.fault and not report.fault and report.outcome is not None:
            log.info("BGP: BIRD runs the wanted configuration")
        for problem in report.problems:
            if problem not in self.bird.problems:
                log.warning("BGP: %s", problem)
        self._count_sessions(self.bird.state, report.state)
        self.bird = report
        metrics = self._metrics
        metrics.bird_up.set(report.state is not None)
        if report.outcome is not None and report.outcome.is_configured:
            metrics.bird_reloads.inc()
        if report.outcome is not None and report.fault:
            metrics.bird_reload_errors.inc()
        self._count_problems("bgp", len(report.problems))

    def _count_sessions(self, before: BirdState | None, now: BirdState | None) -> None:
        """The metrics of sessions are those of now; without an answer of BIRD there is no session."""
        metrics, sessions = self._metrics, _sessions_of(now)
        for name in _sessions_of(before).keys() - sessions.keys():
            metrics.bgp_peer_up.remove(name)
            for direction in _DIRECTIONS:
                metrics.bgp_routes.remove(name, direction)
        for name, session in sessions.items():
            metrics.bgp_peer_up.labels(name).set(session.is_established)
            counts = (sum(one.imported for one in session.channels), sum(one.exported for one in session.channels))
            for direction, count in zip(_DIRECTIONS, counts, strict=True):
                metrics.bgp_routes.labels(name, direction).set(count)

    def on_health(self, driver: Driver, dataplane: Component) -> None:
        """What only shows when one looks: ages and counts of the driver."""
        metrics = self._metrics
        metrics.oldest_pending_change_seconds.set(driver.oldest_wait_s(monotonic_s()))
        metrics.nft_chains.set(driver.nft.chains_count)
        metrics.nft_sets.set(driver.nft.sets_count)
        metrics.route_table_num_routes.set(driver.routes_count)
        metrics.unclaimed_interfaces.set(driver.count_unclaimed())
        if monotonic_s() - driver.last_progress_at < dataplane.timeout_s:
            dataplane.beat()

    def on_counts(self, driver: DriverCounts, nft: NftCalls, logs: LogCounts) -> None:
        """What is counted elsewhere is shown."""
        metrics, reporter = self._metrics, self.endpoint_reporter
        for family, count in driver.reads_by_family.items():
            metrics.kernel_reads.raise_to(count, family)
        for family, count in driver.lost_by_family.items():
            metrics.netlink_overruns.raise_to(count, family)
        metrics.conntrack_entries_removed.raise_to(driver.flushed, "left")
        metrics.conntrack_entries_removed.raise_to(driver.revoked, "denied")
        metrics.nft_calls.raise_to(nft.runs)
        metrics.nft_errors.raise_to(nft.run_errors)
        metrics.nft_text_calls.raise_to(nft.texts)
        metrics.nft_set_calls.raise_to(nft.changes)
        metrics.nft_set_errors.raise_to(nft.change_errors)
        metrics.nft_list_calls.raise_to(nft.lists)
        metrics.nft_list_errors.raise_to(nft.list_errors)
        metrics.log_errors.raise_to(logs.errors)
        metrics.logs_dropped.raise_to(logs.dropped)
        if reporter is not None:
            metrics.status_writes.raise_to(reporter.writes_count)
            metrics.status_write_errors.raise_to(reporter.failures_count)

    def _on_endpoint(self, key: ResourceKey, report: EndpointReport | None, driver: Driver) -> None:
        before = self._report_by_key.pop(key, None)
        if before is not None:
            self._conditions[before.condition.value] -= 1
        if report is not None:
            self._report_by_key[key] = report
            self._conditions[report.condition.value] += 1
            if report.condition is EndpointCondition.ERROR and report != before:
                log.warning("%s: %s", key, report.reason)
        if key.kind == "HostEndpoint":
            self._write_host_status(key.name, report)
            return
        former = self._identity_by_key.pop(key, None)
        identity = self._intake.identities.get(key, former) if report is not None else None
        if former is not None and former != identity:
            self._write_status(former, None)
            self._write_file(key, former, None, driver)
        if identity is not None:
            self._identity_by_key[key] = identity
            self._write_status(identity, report)
            self._write_file(key, identity, report, driver)

    def _write_status(self, identity: EndpointIdentity, report: EndpointReport | None) -> None:
        if self.endpoint_reporter is None:
            return
        name = WorkloadId(identity.orchestrator, f"{identity.namespace}/{identity.workload}", identity.endpoint)
        if report is None:
            self.endpoint_reporter.drop_workload(name)
        else:
            self.endpoint_reporter.set_workload(name, EndpointState(report.condition.value))

    def _write_host_status(self, name: str, report: EndpointReport | None) -> None:
        if self.endpoint_reporter is None:
            return
        if report is None:
            self.endpoint_reporter.drop_host_endpoint(name)
        else:
            self.endpoint_reporter.set_host_endpoint(name, EndpointState(report.condition.value))

    def _write_file(
        self, key: ResourceKey, identity: EndpointIdentity, report: EndpointReport | None, driver: Driver
    ) -> None:
        if self._files is None:
            return
        endpoint = driver.board.endpoints.get(key)
        try:
            if report is not None and report.condition is EndpointCondition.UP and endpoint is not None:
                self._files.put(_file_name(identity), render_endpoint_file(endpoint))
            else:
                self._files.drop(_file_name(identity))
        except OSError as error:
            log.warning("endpoint file of %s cannot be written: %s", key, error)

    def _name_refused(self, problems: Mapping[ResourceKey, Problem]) -> None:
        before = {key for key in self._dataplane_problems if key.kind in _RULED_KINDS}
        now = {key for key in problems if key.kind in _RULED_KINDS}
        for key in before - now:
            self._metrics.refused_policies.remove(*key)
        for key in now - before:
            self._metrics.refused_policies.labels(*key).set(1)

    def _count_problems(self, kind: str, count: int) -> None:
        if self._problem_counts[kind] != count:
            self._problem_counts[kind] = count
            self._metrics.problems.labels(kind).set(count)


def _kind_of(subject: str) -> str:
    return "ipam" if subject.startswith(IPAM) else subject.split("/")[5]


def _sessions_of(state: BirdState | None) -> dict[str, ProtocolState]:
    return {one.name: one for one in (state.protocols if state is not None else ()) if one.kind == "BGP"}


def _file_name(identity: EndpointIdentity) -> str:
    return format_file_name(*identity)
