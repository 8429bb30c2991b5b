"""How an agent ends, and what it refuses to begin."""

from __future__ import annotations

from pathlib import Path

import pytest

from felix.lab.lab import Lab
from felix.lab.probe import echo
from tests.support.e2e import Monitor, guarded_profile, log_count, open_profile, wait_up

pytestmark = pytest.mark.fv


def test_stopped_agent_leaves_the_kernel_as_it_is_and_a_second_one_is_refused(lab: Lab, tmp_path: Path) -> None:
    lab.up(hosts=1, bird=False)
    host = lab.hosts[0]
    lab.apply(open_profile())
    lab.apply(guarded_profile("guarded", "role == 'friend'"))
    friend = lab.add_workload(host, "friend", profiles=["open"], labels={"role": "friend"})
    stranger = lab.add_workload(host, "stranger", profiles=["open"])
    server = lab.add_workload(host, "server", profiles=["guarded"])
    server.listen(80)
    host.wait_agent_ready()
    wait_up(host, "friend", "stranger", "server")

    with friend.open(server.ipv4, 80) as flow, Monitor(host, tmp_path) as monitor:
        second = host.run(["felix", "run"], check=False)
        assert second.returncode == 69
        assert f"another agent answers on {host.rundir}/felix.sock" in second.stderr
        assert "Traceback" not in second.stderr
        assert host.is_agent_ready()

        assert host.stop_agent()
        assert log_count(host, "stopped; what is in the kernel stays in force") == 1
        echo(flow)
        assert friend.connect(server.ipv6, 80).ok
        assert not stranger.connect(server.ipv4, 80, "tcp", 0.3).ok
        unclaimed = lab.add_workload(host, "unclaimed", profiles=["open"])
        monitor.restart()
        host.configure(f"route add {unclaimed.ipv4} dev {unclaimed.interface}")
        assert not unclaimed.connect(server.ipv4, 80, "tcp", 0.3).ok
        assert not friend.connect(unclaimed.ipv4, 0, "icmp", 0.3).ok
        host.configure(f"route del {unclaimed.ipv4} dev {unclaimed.interface}")
        assert [line for line in monitor.lines() if unclaimed.ipv4 not in line] == []
