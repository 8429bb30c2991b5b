"""Every metric of Felix, declared once. Names of Calico's Felix are used where they mean the same.

One `Metrics` belongs to one registry, which is the agent's; tests make their own.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from typing import NamedTuple

from prometheus_client import CollectorRegistry, Gauge, Histogram, Summary
from prometheus_client.metrics_core import Metric
from prometheus_client.process_collector import ProcessCollector
from prometheus_client.registry import Collector

LATENCY_BUCKETS_S = (0.001, 0.002, 0.005, 0.01, 0.02, 0.05, 0.1, 0.2, 0.5, 1.0, 2.0, 5.0, 10.0, 30.0)


class Row(NamedTuple):
    """One declared metric, for its document. labels: names, may be empty."""

    name: str
    type: str
    labels: tuple[str, ...]
    text: str


class Count(Collector):
    """A number that only grows, per combination of labels, exposed under exactly its name.

    The Prometheus library's own counter adds `_total` to each name; dashboards made for Calico expect the bare one.
    """

    def __init__(self, name: str, text: str, labels: tuple[str, ...]) -> None:
        self._name = name
        self._text = text
        self._labels = labels
        self._value_by_labels: dict[tuple[str, ...], float] = {} if labels else {(): 0.0}

    def inc(self, *labels: str, by: float = 1.0) -> None:
        """Adds `by`, not negative, to the number of these label values, one per declared label, in order."""
        if len(labels) != len(self._labels) or by < 0:
            raise ValueError(f"{self._name} takes labels {self._labels} and grows only")
        self._value_by_labels[labels] = self._value_by_labels.get(labels, 0.0) + by

    def raise_to(self, total: float, *labels: str) -> None:
        """The number is `total`, counted elsewhere, unless it is more already."""
        self.inc(*labels, by=max(0.0, total - self.value(*labels)))

    def replace(self, value_by_labels: Mapping[tuple[str, ...], float]) -> None:
        """The numbers are these, counted elsewhere, and there are no others."""
        self._value_by_labels = dict(value_by_labels)

    def value(self, *labels: str) -> float:
        """Returns the number so far; 0 for label values not seen yet."""
        return self._value_by_labels.get(labels, 0.0)

    def collect(self) -> Iterable[Metric]:
        """Returns what a scrape shows."""
        metric = Metric(self._name, self._text, "unknown")
        for labels, value in list(self._value_by_labels.items()):
            metric.add_sample(self._name, dict(zip(self._labels, labels, strict=True)), value)
        return [metric]


class _Declaring:
    """Makes metrics on one registry and remembers a row for each."""

    def __init__(self, registry: CollectorRegistry) -> None:
        self.registry = registry
        self.rows: list[Row] = []

    def _note(self, name: str, kind: str, text: str, labels: tuple[str, ...]) -> None:
        self.rows.append(Row(f"felix_{name}", kind, labels, text))

    def gauge(self, name: str, text: str, *labels: str) -> Gauge:
        self._note(name, "gauge", text, labels)
        return Gauge(f"felix_{name}", text, labels, registry=self.registry)

    def count(self, name: str, text: str, *labels: str) -> Count:
        self._note(name, "counter", text, labels)
        count = Count(f"felix_{name}", text, labels)
        self.registry.register(count)
        return count

    def summary(self, name: str, text: str) -> Summary:
        self._note(name, "summary", text, ())
        return Summary(f"felix_{name}", text, registry=self.registry)

    def histogram(self, name: str, text: str, *labels: str) -> Histogram:
        self._note(name, "histogram", text, labels)
        return Histogram(f"felix_{name}", text, labels, buckets=LATENCY_BUCKETS_S, registry=self.registry)


class Metrics:
    """All metrics, each an attribute of its name without `felix_`, on `registry`. rows: what was declared, in order."""

    def __init__(self, registry: CollectorRegistry | None = None, *, has_process_metrics: bool = False) -> None:
        self.registry = registry or CollectorRegistry()
        declare = _Declaring(self.registry)
        self._declare_state(declare)
        self._declare_attaching(declare)
        self._declare_calculation(declare)
        self._declare_dataplane(declare)
        self._declare_datastore(declare)
        self._declare_process(declare)
        self.rows = tuple(declare.rows)
        if has_process_metrics:
            ProcessCollector(registry=self.registry)

    def _declare_state(self, declare: _Declaring) -> None:
        self.host = declare.gauge("host", "Always 1; carries the name of this host.", "host")
        self.active_local_endpoints = declare.gauge("active_local_endpoints", "Workload endpoints of this host.")
        self.active_local_policies = declare.gauge("active_local_policies", "Policies that apply to one of them.")
        self.active_local_selectors = declare.gauge("active_local_selectors", "Selectors that such policies use.")
        self.endpoints_by_status = declare.gauge("endpoints", "Local endpoints by status: up, down or error.", "status")
        self.unclaimed_interfaces = declare.gauge(
            "unclaimed_interfaces", "Workload interfaces that no endpoint claims; they are closed."
        )
        self.mass_deletion_held = declare.gauge(
            "mass_deletion_held", "Endpoints kept although the datastore lost them all at once; 0: nothing is held."
        )
        self.problems = declare.gauge(
            "problems", "Objects that cannot be used or programmed now, by kind of resource or by family.", "kind"
        )
        self.refused_policies = declare.gauge(
            "refused_policies",
            "Always 1; names policies and profiles whose rules the kernel refuses: but for staged ones they deny all.",
            "kind",
            "namespace",
            "policy",
        )
        self.vxlan_remote_ends = declare.gauge(
            "vxlan_remote_ends", "Other hosts that the VXLAN tunnel leads to, one for each family."
        )
        self.vxlan_routes = declare.gauge(
            "vxlan_routes", "Prefixes at other hosts that pools with vxlanMode lead to, by the tunnel or direct."
        )
        self.vxlan_address_errors = declare.count(
            "vxlan_address_errors", "Attempts to give this host its address in the tunnel that failed."
        )
        self.endpoint_programming_seconds = declare.histogram(
            "endpoint_programming_seconds",
            "From the arrival of an endpoint's change to the moment the kernel enforces it.",
        )
        self.oldest_pending_change_seconds = declare.gauge(
            "oldest_pending_change_seconds", "Age of the oldest change that the kernel does not enforce yet; 0: none."
        )
        self.cluster_num_hosts = declare.gauge("cluster_num_hosts", "Nodes in the datastore.")
        self.cluster_num_workload_endpoints = declare.gauge(
            "cluster_num_workload_endpoints", "Workload endpoints in the datastore."
        )
        self.cluster_num_host_endpoints = declare.gauge(
            "cluster_num_host_endpoints", "Host endpoints in the datastore."
        )
        self.cluster_num_tiers = declare.gauge("cluster_num_tiers", "Tiers in the datastore.")
        self.cluster_num_policies = declare.gauge("cluster_num_policies", "Policies in the datastore.")
        self.cluster_num_profiles = declare.gauge("cluster_num_profiles", "Profiles in the datastore.")

    def _declare_attaching(self, declare: _Declaring) -> None:
        self.attachments = declare.gauge("attachments", "Containers that the agent attached, by interface.")
        self.attach_seconds = declare.histogram(
            "attach_seconds", "Time of an attach that succeeded, by step: allocate, veth, enforce, and total.", "step"
        )
        self.attach_failures = declare.count(
            "attach_failures", "Requests about containers and addresses that were refused, by code.", "code"
        )
        self.attach_debts = declare.gauge(
            "attach_debts", "What is still to be undone of attaches that failed while etcd was away."
        )

    def _declare_calculation(self, declare: _Declaring) -> None:
        self.calc_graph_updates_processed = declare.count(
            "calc_graph_updates_processed", "Changes taken from the datastore, by kind of resource.", "type"
        )
        self.calc_graph_output_events = declare.count(
            "calc_graph_output_events", "Changes of desired state handed to the dataplane."
        )
        self.calc_graph_update_time_seconds = declare.summary(
            "calc_graph_update_time_seconds", "Time to calculate one batch of changes."
        )
        self.label_index_num_endpoints = declare.gauge(
            "label_index_num_endpoints", "Endpoints and network sets in the selector index."
        )
        self.label_index_num_active_selectors = declare.gauge(
            "label_index_num_active_selectors", "Selectors in the selector index."
        )

    def _declare_dataplane(self, declare: _Declaring) -> None:
        self.int_dataplane_apply_time_seconds = declare.summary(
            "int_dataplane_apply_time_seconds", "Duration of one apply cycle."
        )
        self.int_dataplane_initial_resync_time_seconds = declare.gauge(
            "int_dataplane_initial_resync_time_seconds", "Duration of the first full apply."
        )
        self.int_dataplane_failures = declare.count(
            "int_dataplane_failures", "Apply cycles in which something failed that will be tried again."
        )
        self.kernel_writes = declare.count(
            "kernel_writes", "Operations that changed something, by family of the dataplane.", "family"
        )
        self.kernel_reads = declare.count("kernel_reads", "Full reads of what is there, by family.", "family")
        self.foreign_changes = declare.count(
            "foreign_changes", "Changes of our objects by others, by family and program if known.", "family", "program"
        )
        self.netlink_overruns = declare.count(
            "netlink_overruns", "Times that the kernel dropped events for us, which makes us read again.", "family"
        )
        self.policy_packets = declare.count(
            "policy_packets",
            "Packets that opened a flow, by policy or profile in use here and what it did; of staged ones, would do.",
            "kind",
            "namespace",
            "policy",
            "direction",
            "action",
        )
        self.dropped_packets = declare.count("dropped_packets", "Packets dropped beside rules, by reason.", "reason")
        self.nft_calls = declare.count("nft_calls", "Transactions of chains and set declarations.")
        self.nft_errors = declare.count("nft_errors", "Those that were refused.")
        self.nft_text_calls = declare.count(
            "nft_text_calls", "Transactions of chains and set declarations that had to go through libnftables."
        )
        self.nft_set_calls = declare.count("nft_set_calls", "Transactions of set and map elements.")
        self.nft_set_errors = declare.count("nft_set_errors", "Those that were refused.")
        self.nft_list_calls = declare.count("nft_list_calls", "Listings of the table.")
        self.nft_list_errors = declare.count("nft_list_errors", "Listings that failed.")
        self.nft_chains = declare.gauge("nft_chains", "Chains in our table.")
        self.nft_sets = declare.gauge("nft_sets", "Sets and maps in our table.")
        self.route_table_num_routes = declare.gauge("route_table_num_routes", "Routes that are ours.")
        self.conntrack_entries_removed = declare.count(
            "conntrack_entries_removed",
            "Tracked connections cut: left, because their address is gone or moved; denied, because policy no longer "
            "allows them.",
            "reason",
        )
        self.bird_up = declare.gauge("bird_up", "1 if BIRD answers on its control socket.")
        self.bird_reloads = declare.count("bird_reloads", "Configurations that BIRD took.")
        self.bird_reload_errors = declare.count("bird_reload_errors", "Configurations that were refused.")
        self.bgp_peer_up = declare.gauge("bgp_peer_up", "1 if the session with this peer is established.", "peer")
        self.bgp_routes = declare.gauge(
            "bgp_routes", "Routes of the session, by peer and direction: imported or exported.", "peer", "direction"
        )

    def _declare_datastore(self, declare: _Declaring) -> None:
        self.resync_state = declare.gauge("resync_state", "1: waiting for the datastore, 2: reading, 3: in sync.")
        self.resyncs_started = declare.count("resyncs_started", "Times that everything was read again.")
        self.seen_revision = declare.gauge("seen_revision", "Newest revision of the datastore that arrived.")
        self.applied_revision = declare.gauge(
            "applied_revision", "Revision up to which the kernel enforces everything."
        )
        self.etcd_connected = declare.gauge("etcd_connected", "1 if the watch of etcd stands.")
        self.status_writes = declare.count("status_writes", "Status keys written to the datastore.")
        self.status_write_errors = declare.count("status_write_errors", "Those that failed and are tried again.")
        self._declare_collection(declare)

    def _declare_collection(self, declare: _Declaring) -> None:
        self.fenced = declare.gauge(
            "fenced", "1 if this host was given up as lost and has to clean up before it takes part again."
        )
        self.collector_leader = declare.gauge(
            "collector_leader", "1 if this agent is the one that collects leaked addresses and lost hosts."
        )
        self.ipam_leaks = declare.gauge(
            "ipam_leaks",
            "What the collector has found wrong: address, handle, count, affinity; kept: addresses that only a person "
            "may take back. 0 on all agents but the collector.",
            "kind",
        )
        self.ipam_collected_total = declare.count(
            "ipam_collected_total",
            "What this agent took back: address, handle, count, affinity of leaks; endpoint, host_address of lost "
            "hosts.",
            "kind",
        )
        self.lost_hosts = declare.gauge(
            "lost_hosts",
            "Hosts without a sign of life: silent (the grace period runs), reachable (its agent is silent, its routes "
            "are there), fenced (given up). 0 on all agents but the collector.",
            "state",
        )

    def _declare_process(self, declare: _Declaring) -> None:
        self.build_info = declare.gauge("build_info", "Always 1; carries the version of Felix.", "version")
        self.restart_wanted = declare.gauge("restart_wanted", "1 if a changed setting waits for a restart.")
        self.loop_lag_seconds = declare.gauge(
            "loop_lag_seconds", "By how much the last pulse of the event loop was late."
        )
        self.log_errors = declare.count("log_errors", "Records of severity ERROR or worse.")
        self.logs_dropped = declare.count("logs_dropped", "Log records held back because they repeat too often.")


class DnsMetrics:
    """All metrics of `felix dns`, a process of its own; as `Metrics`."""

    def __init__(self, registry: CollectorRegistry | None = None) -> None:
        self.registry = registry or CollectorRegistry()
        declare = _Declaring(self.registry)
        self.dns_queries = declare.count("dns_queries", "Questions, by transport: udp or tcp.", "transport")
        self.dns_answers = declare.count("dns_answers", "Answers out of our own zones, by code.", "rcode")
        self.dns_answers_kept = declare.count("dns_answers_kept", "Those of them that were answered out of memory.")
        self.dns_forwarded = declare.count(
            "dns_forwarded",
            "Questions for others: answered, failed, overload; resolver_failed counts attempts.",
            "outcome",
        )
        self.dns_forwards_under_way = declare.gauge("dns_forwards_under_way", "Questions that wait for a resolver.")
        self.dns_bugs = declare.count("dns_bugs", "Questions that Felix itself failed at; the log has each one.")
        self.dns_tcp_connections = declare.gauge("dns_tcp_connections", "Open TCP connections.")
        self.dns_tcp_evicted = declare.count("dns_tcp_evicted", "Connections closed to make room for new ones.")
        self.dns_names = declare.gauge("dns_names", "Names that have records.")
        self.dns_records = declare.gauge("dns_records", "Records.")
        self.dns_collisions = declare.gauge(
            "dns_collisions", "Names that several services want; /v1/collisions has them."
        )
        self.dns_problems = declare.gauge(
            "dns_problems", "Tasks and endpoints that cannot be read or named; /v1/problems has them."
        )
        self.dns_held = declare.gauge(
            "dns_held", "Endpoints that left etcd, most of all at once, and whose names stay until somebody looks."
        )
        self.dns_source_up = declare.gauge(
            "dns_source_up", "Whether a source (mesos, datastore) answers; 0: what it said last is served.", "source"
        )
        self.dns_source_stale_seconds = declare.gauge(
            "dns_source_stale_seconds", "Since when a source that is away said all; 0 while it is there.", "source"
        )
        self.dns_source_loads = declare.count("dns_source_loads", "Times that all of a source was read.", "source")
        self.dns_update_seconds = declare.histogram(
            "dns_update_seconds", "From the arrival of changes of endpoints to answers that have them."
        )
        self.dns_loop_lag_seconds = declare.gauge("dns_loop_lag_seconds", "How late the event loop was last second.")
        self.rows = tuple(declare.rows)
        ProcessCollector(registry=self.registry)


def render_metrics() -> str:
    """Returns the document of all metrics, as Markdown."""
    rows = sorted(Metrics().rows)
    head = (
        "<!-- Generated by `make docs`; change felix/obs/metrics.py, not this file. -->\n"
        "# Metrics\n\n"
        "Served at `/metrics` on `PrometheusMetricsPort` when `PrometheusMetricsEnabled`, in the text format of\n"
        "Prometheus. Counters have no `_total`, as Calico's; the exposition calls them untyped. Besides, there are\n"
        "`process_*`, unless `PrometheusProcessMetricsEnabled` is off.\n\n"
        "| name | type | labels | meaning |\n| --- | --- | --- | --- |\n"
    )
    dns = (
        "\n## Of `felix dns`\n\n"
        "Served at `/metrics` on its `httpport`, with `process_*`.\n\n"
        "| name | type | labels | meaning |\n| --- | --- | --- | --- |\n"
    )
    return head + _render_rows(rows) + dns + _render_rows(sorted(DnsMetrics().rows))


def _render_rows(rows: Iterable[Row]) -> str:
    return "".join(
        f"| `{row.name}` | {row.type} | {', '.join(f'`{label}`' for label in row.labels)} | {row.text} |\n"
        for row in rows
    )
