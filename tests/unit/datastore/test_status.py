"""Status keys and values, letter by letter as Calico's consumers expect them."""

from __future__ import annotations

from felix.datastore.status import (
    EndpointState,
    StatusKeys,
    WorkloadId,
    render_agent_status,
    render_endpoint_status,
)


def test_keys_of_a_host_are_calicos() -> None:
    keys = StatusKeys("h1")
    assert keys.agent == "/calico/felix/v2/no-region/host/h1/status"
    assert keys.agent_last == "/calico/felix/v2/no-region/host/h1/last_reported_status"
    assert keys.host_endpoint("eth0") == "/calico/felix/v1/host/h1/endpoint/eth0"
    assert StatusKeys("h1", "south").agent == "/calico/felix/v2/south/host/h1/status"


def test_key_of_a_workload_with_slash_and_percent_is_escaped() -> None:
    key = StatusKeys("h1").workload(WorkloadId("cni", "default/a%b", "eth0"))
    assert key == "/calico/felix/v2/no-region/host/h1/workload/cni/default%2fa%25b/endpoint/eth0"


def test_values_are_calicos_json() -> None:
    assert render_endpoint_status(EndpointState.ERROR) == b'{"status":"error"}'
    rendered = render_agent_status(1_700_000_000.9, 12.5, is_first=True)
    assert rendered == b'{"time":"2023-11-14T22:13:20Z","uptime":12.5,"first_update":true}'
