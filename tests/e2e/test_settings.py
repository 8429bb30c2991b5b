"""Settings that stand in the datastore: all count from the first start, live ones at once, the others are announced."""

from __future__ import annotations

import pytest

from felix.lab import documents
from felix.lab.host import Host
from felix.lab.lab import Lab
from felix.lab.place import wait_until
from felix.lab.store import Json
from tests.support.e2e import metric, problems

pytestmark = pytest.mark.fv

PORT = 9191


def configure(lab: Lab, **spec: Json) -> None:
    """The FelixConfiguration of all hosts says exactly this."""
    lab.apply(documents.resource("FelixConfiguration", "default", {"prometheusMetricsPort": PORT, **spec}))


def is_served(host: Host, port: int) -> bool:
    return host.http_get(port, "/metrics")[0] == 200


def test_settings_of_the_datastore_shape_a_start_and_live_ones_a_running_agent(lab: Lab) -> None:
    lab.up(hosts=1, bird=False)
    host = lab.hosts[0]
    host.wait_agent_ready()
    configure(lab)
    wait_until(lambda: metric(host, "felix_restart_wanted") == 1.0, 20.0, "the new port to be announced")

    assert host.stop_agent()
    host.start_agent()
    host.wait_agent_ready()
    wait_until(lambda: is_served(host, PORT), 20.0, "metrics at the port of the datastore")
    assert not is_served(host, 9091)

    configure(lab, routeRefreshInterval="100ms")
    reads = reads_of(host)
    wait_until(lambda: reads_of(host) >= reads + 5, 20.0, "routes to be read more often")

    configure(lab, logPrefix='no "quotes"', interfacePrefix="cali,tap")
    wait_until(lambda: any("LogPrefix" in text for text in problems(host)), 20.0, "the bad value to be named")
    wait_until(lambda: at_new_port(host, "felix_restart_wanted") == 1.0, 20.0, "the prefix to be announced")
    configure(lab)
    wait_until(lambda: at_new_port(host, "felix_restart_wanted") == 0.0, 20.0, "the announcement to be taken back")
    assert host.is_agent_ready()


def reads_of(host: Host) -> float:
    return at_new_port(host, 'felix_kernel_reads{family="routes"}')


def at_new_port(host: Host, name: str) -> float:
    """Returns the value of a metric as it is exposed, labels included; 0 when it is not yet."""
    lines = host.http_get(PORT, "/metrics")[1].splitlines()
    return next((float(line.removeprefix(name)) for line in lines if line.startswith(f"{name} ")), 0.0)
