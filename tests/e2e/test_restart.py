"""An agent that is stopped or killed and started again: packets and kernel do not notice."""

from __future__ import annotations

import re
import signal
import time
from pathlib import Path

import pytest

from felix.lab.host import Host
from felix.lab.lab import Lab
from felix.lab.place import wait_until
from felix.lab.probe import echo
from tests.support.e2e import Monitor, guarded_profile, log_count, metric, problems, start_guarded, stream, wait_up

pytestmark = [pytest.mark.fv, pytest.mark.alone]

_RESTARTS = [signal.SIGTERM, signal.SIGKILL] * 5


def test_ten_restarts_under_load_lose_pass_and_write_nothing(lab: Lab, tmp_path: Path) -> None:
    host, friend, stranger, server = start_guarded(lab)
    targets = [server.ipv4, server.ipv6]

    with (
        friend.open(server.ipv4, 80) as flow,
        Monitor(host, tmp_path) as monitor,
        stream(friend, server, targets, 7001) as allowed,
        stream(stranger, server, targets, 7002) as denied,
    ):
        echo(flow)
        began_at = time.monotonic()
        ids = _connection_ids(host)
        for number in _RESTARTS:
            assert host.stop_agent(number)
            echo(flow)
            host.start_agent()
            host.wait_agent_ready()
            assert metric(host, "felix_kernel_writes") == 0
        echo(flow)
        assert _connection_ids(host) == ids
        elapsed_s = time.monotonic() - began_at
        written = monitor.lines()

    assert written == []
    assert log_count(host, ", 0 kernel writes") == len(_RESTARTS)
    assert min(*allowed.sent.values(), *denied.sent.values()) > 950 * elapsed_s
    assert allowed.lost == 0
    assert denied.received == {}
    print(f"sent {allowed.sent} allowed, {denied.sent} denied; lost {allowed.lost}, passed {denied.received}")


def test_agent_killed_again_and_again_while_it_starts_with_news_ends_right(lab: Lab) -> None:
    host, friend, stranger, server = start_guarded(lab)
    targets = [server.ipv4, server.ipv6]
    with (
        stream(friend, server, targets, 7001) as allowed,
        stream(stranger, server, targets, 7002) as denied,
    ):
        host.stop_agent(signal.SIGKILL)
        # From the first word to the end of the first cycle it is some 15 ms: snapshot, calculation, transactions.
        for number, delay_s in enumerate((0.0, 0.003, 0.006, 0.009, 0.012, 0.015, 0.018)):
            lab.apply(guarded_profile("guarded", f"role in {{ 'friend', 'nobody{number}' }}"))
            lab.add_workload(host, f"late{number}", profiles=["guarded"])
            host.agent_log.unlink()
            host.start_agent()
            wait_until(lambda: _has_begun(host), 20.0, "the agent's first word", 0.001)
            time.sleep(delay_s)
            host.stop_agent(signal.SIGKILL)
        host.start_agent()
        host.wait_agent_ready()
        wait_up(host, *(f"late{number}" for number in range(7)))
        assert problems(host) == []
    assert friend.connect(lab.workloads["late6"].ipv4, protocol="icmp").ok
    assert not stranger.connect(lab.workloads["late6"].ipv4, 0, "icmp", 0.2).ok
    assert allowed.lost == 0
    assert denied.received == {}
    host.stop_agent()
    host.start_agent()
    host.wait_agent_ready()
    assert metric(host, "felix_kernel_writes") == 0


def _has_begun(host: Host) -> bool:
    return host.agent_log.exists() and log_count(host, "watching http") > 0


def _connection_ids(host: Host) -> set[str]:
    """Returns the ids of the tracked TCP connections to port 80."""
    listed = host.run(["conntrack", "-L", "-o", "id", "-p", "tcp", "--dport", "80"]).stdout
    ids = set(re.findall(r"id=(\d+)", listed))
    assert ids
    return ids
