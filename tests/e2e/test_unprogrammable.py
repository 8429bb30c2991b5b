"""One rule among a thousand policies that the kernel does not take: the others hold, its own endpoints are closed."""

from __future__ import annotations

import re
import sys
from pathlib import Path

import pytest

from felix.lab import documents
from felix.lab.lab import Lab
from felix.lab.place import wait_until
from felix.lab.store import Document
from tests.support import refusing_agent
from tests.support.e2e import Monitor, log_count, metric, open_profile, problems, stream, wait_revision, wait_up

pytestmark = pytest.mark.fv

_POLICIES = 1000
_OFFENDER = 617
_FIRST_PORT = 20_000
_COMMAND = (sys.executable, str(Path(refusing_agent.__file__)), f"tcp dport {_FIRST_PORT + _OFFENDER} ")
_DENIED = 7001


def _policy(number: int, port: int) -> Document:
    role = "victim" if number == _OFFENDER else "many"
    spec: Document = {
        "order": number,
        "selector": f"role == '{role}'",
        "types": ["Ingress"],
        "ingress": [{"action": "Allow", "protocol": "TCP", "destination": {"ports": [port]}}],
    }
    return documents.resource("GlobalNetworkPolicy", f"default.p{number}", spec)


@pytest.mark.parametrize("is_running", [False, True], ids=["cold", "running"])
def test_unprogrammable_rule_among_a_thousand_policies_closes_its_endpoints_only(
    lab: Lab, tmp_path: Path, is_running: bool
) -> None:
    lab.up(hosts=1, bird=False, agents=False)
    host = lab.hosts[0]
    lab.apply(open_profile())
    client = lab.add_workload(host, "client", profiles=["open"])
    many = lab.add_workload(host, "many", profiles=["open"], labels={"role": "many"})
    victim = lab.add_workload(host, "victim", profiles=["open"], labels={"role": "victim"})
    ports = [_FIRST_PORT + number for number in (0, _OFFENDER - 1, _POLICIES - 1)]
    for port in (*ports, 80):
        many.listen(port)
    victim.listen(_FIRST_PORT + _OFFENDER)
    client.listen(80)
    revision = 0
    for number in range(_POLICIES):
        is_late = is_running and number == _OFFENDER
        revision = lab.apply(_policy(number, 1 if is_late else _FIRST_PORT + number))
    with (
        Monitor(host, tmp_path) as monitor,  # from before the table is there: what it lists first takes it time
        stream(client, victim, [victim.ipv4, victim.ipv6], _DENIED, 200) as denied,
    ):
        host.start_agent(_COMMAND)
        host.wait_agent_ready()
        if is_running:
            wait_up(host, "client", "many", "victim")
            revision = lab.apply(_policy(_OFFENDER, _FIRST_PORT + _OFFENDER))
        wait_revision(host, revision, 20.0)
        wait_up(host, "client", "many")
        wait_until(lambda: bool(problems(host)), 20.0, "the problem")
        for port in ports:
            with client.open(many.ipv4, port), client.open(many.ipv6, port):
                pass
        assert not client.connect(many.ipv4, 80, timeout_s=0.2).ok
        assert not client.connect(victim.ipv4, _FIRST_PORT + _OFFENDER, timeout_s=0.2).ok
        with victim.open(client.ipv4, 80):
            pass
        written = monitor.lines()
    _check_enforced(host.run(["nft", "list", "table", "inet", "felix"]).stdout)
    assert denied.received == {}
    gone = [line for line in written if re.match(r"delete (table|chain) inet felix", line)]
    assert gone == []
    name = f"GlobalNetworkPolicy(default.p{_OFFENDER})"
    (problem,) = problems(host)
    assert name in problem
    assert "victim" in problem
    assert metric(host, "felix_problems", kind="dataplane") == 1
    assert (
        metric(host, "felix_refused_policies")
        == metric(host, "felix_refused_policies", policy=f"default.p{_OFFENDER}")
        == 1
    )
    assert log_count(host, name) > 0
    revision = lab.apply(_policy(_OFFENDER, 81))
    wait_revision(host, revision)
    wait_until(lambda: not problems(host), 20.0, "the problem to be gone")
    assert metric(host, "felix_refused_policies") == 0
    victim.listen(81)
    with client.open(victim.ipv4, 81):
        pass


def _check_enforced(table: str) -> None:
    allowed = {int(port) for port in re.findall(r"tcp dport (\d+) .*accept", table)}
    assert allowed == {_FIRST_PORT + number for number in range(_POLICIES) if number != _OFFENDER}
    base = [name for name, hook in re.findall(r"chain (\S+) \{\n\s+type filter hook (\w+)", table)]
    assert {"prerouting", "input", "forward-egress", "forward-ingress", "output"} <= set(base)
