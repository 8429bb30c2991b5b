"""An agent that is stopped or killed and started again: packets and kernel do not notice."""

from __future__ import annotations

import re
import signal
from pathlib import Path

import pytest

from felix.lab.host import Host
from felix.lab.lab import Lab
from felix.lab.probe import echo
from tests.support.e2e import Monitor, guarded_profile, log_count, metric, open_profile, stream, wait_up

pytestmark = pytest.mark.fv

_RESTARTS = [signal.SIGTERM, signal.SIGKILL] * 5


def test_ten_restarts_under_load_lose_pass_and_write_nothing(lab: Lab, tmp_path: Path) -> None:
    lab.up(hosts=1, bird=False)
    host = lab.hosts[0]
    lab.apply(open_profile())
    lab.apply(guarded_profile("guarded", "role == 'friend'"))
    friend = lab.add_workload(host, "friend", profiles=["open"], labels={"role": "friend"})
    stranger = lab.add_workload(host, "stranger", profiles=["open"], labels={"role": "stranger"})
    server = lab.add_workload(host, "server", profiles=["guarded"])
    server.listen(80)
    host.wait_agent_ready()
    wait_up(host, "friend", "stranger", "server")
    targets = [server.ipv4, server.ipv6]

    with (
        friend.open(server.ipv4, 80) as flow,
        Monitor(host, tmp_path) as monitor,
        stream(friend, server, targets, 7001) as allowed,
        stream(stranger, server, targets, 7002) as denied,
    ):
        echo(flow)
        ids = _connection_ids(host)
        for number in _RESTARTS:
            assert host.stop_agent(number)
            echo(flow)
            host.start_agent()
            host.wait_agent_ready()
            assert metric(host, "felix_kernel_writes") == 0
        echo(flow)
        assert _connection_ids(host) == ids
        written = monitor.lines()

    assert written == []
    assert log_count(host, ", 0 kernel writes") == len(_RESTARTS)
    assert min(allowed.sent.values()) > 1000 * len(_RESTARTS) // 2
    assert allowed.lost == 0
    assert denied.received == {}
    print(f"sent {allowed.sent} allowed, {denied.sent} denied; lost {allowed.lost}, passed {denied.received}")


def _connection_ids(host: Host) -> set[str]:
    """Returns the ids of the tracked TCP connections to port 80."""
    listed = host.run(["conntrack", "-L", "-o", "id", "-p", "tcp", "--dport", "80"]).stdout
    ids = set(re.findall(r"id=(\d+)", listed))
    assert ids
    return ids
