"""Metrics: Calico's names are exposed exactly, each is documented, one registry does not know of another."""

import re
from pathlib import Path

import pytest
from prometheus_client import CollectorRegistry, Gauge, Histogram, Summary
from prometheus_client.exposition import generate_latest

import felix
from felix.obs.metrics import Count, Metrics, render_metrics


def expose(metrics: Metrics) -> str:
    return generate_latest(metrics.registry).decode()


def test_count_is_exposed_under_its_bare_name() -> None:
    metrics = Metrics()
    metrics.resyncs_started.inc()
    metrics.calc_graph_updates_processed.inc("Node", by=3)
    lines = expose(metrics).splitlines()
    assert "felix_resyncs_started 1.0" in lines
    assert 'felix_calc_graph_updates_processed{type="Node"} 3.0' in lines
    assert metrics.calc_graph_updates_processed.value("Node") == 3.0
    assert metrics.calc_graph_updates_processed.value("Tier") == 0.0


def test_count_refuses_to_shrink_and_wrong_labels() -> None:
    count = Count("felix_x", "text", ("a",))
    with pytest.raises(ValueError, match="grows only"):
        count.inc("1", by=-1)
    with pytest.raises(ValueError, match="takes labels"):
        count.inc()


@pytest.mark.parametrize(
    "name",
    [
        "felix_active_local_endpoints",
        "felix_resync_state",
        "felix_int_dataplane_apply_time_seconds_sum",
        "felix_endpoint_programming_seconds_bucket",
        "felix_cluster_num_policies",
        "felix_oldest_pending_change_seconds",
    ],
)
def test_metric_that_operators_rely_on_is_exposed_from_the_start(name: str) -> None:
    assert any(line.startswith(name) for line in expose(Metrics()).splitlines())


def test_metrics_of_two_registries_are_apart() -> None:
    one, two = Metrics(CollectorRegistry()), Metrics()
    one.active_local_endpoints.set(5)
    assert "felix_active_local_endpoints 5.0" in expose(one)
    assert "felix_active_local_endpoints 0.0" in expose(two)


def test_process_metrics_only_when_wanted() -> None:
    assert "process_cpu_seconds" not in expose(Metrics())
    assert "process_cpu_seconds" in expose(Metrics(has_process_metrics=True))


def test_every_metric_is_an_attribute_and_in_the_document() -> None:
    metrics = Metrics()
    document = render_metrics()
    assert len({row.name for row in metrics.rows}) == len(metrics.rows)
    for row in metrics.rows:
        assert f"| `{row.name}` |" in document
        assert row.text.endswith(".")


def test_every_metric_is_used_by_somebody() -> None:
    package = Path(felix.__file__).parent
    sources = [path for path in package.rglob("*.py") if path.name != "metrics.py"]
    text = "\n".join(path.read_text(encoding="utf-8") for path in sources)
    metrics = Metrics()
    attributes = [
        name for name, value in vars(metrics).items() if isinstance(value, Count | Gauge | Histogram | Summary)
    ]
    assert len(attributes) == len(metrics.rows)
    assert [name for name in attributes if not re.search(rf"metrics\.{name}\b", text)] == []
