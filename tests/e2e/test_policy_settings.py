"""Settings of the datastore that shape what rules do: answers to denied packets, log lines, counters of rules."""

from __future__ import annotations

import pytest

from felix.lab import documents
from felix.lab.host import Host
from felix.lab.lab import Lab
from felix.lab.store import Document, Json
from felix.plugins.ask import ask
from tests.support.e2e import open_profile, wait_revision, wait_up

pytestmark = pytest.mark.fv

_SETTINGS: Document = {
    "nftablesFilterDenyAction": "Reject",
    "logPrefix": "felix %k %p",
    "logActionRateLimit": "10/minute",
    "logActionRateLimitBurst": 7,
    "policyRuleCounters": 1,  # the first rule is a Log rule, which is not counted
}


def test_settings_of_the_datastore_shape_what_rules_do(lab: Lab) -> None:
    lab.up(hosts=1, bird=False, agents=False)
    host = lab.hosts[0]
    lab.apply(documents.resource("FelixConfiguration", "default", _SETTINGS))
    host.start_agent()
    host.wait_agent_ready()
    lab.apply(open_profile())
    client, server = (lab.add_workload(host, name, profiles=["open"]) for name in ("client", "server"))
    wait_up(host, "client", "server")
    server.listen(80)
    with client.open(server.ipv4, 80):
        pass
    rules: list[Json] = [{"action": "Log"}, {"action": "Deny", "protocol": "TCP"}]
    spec: Document = {"selector": "all()", "types": ["Ingress"], "ingress": rules}
    revision = lab.apply(documents.resource("GlobalNetworkPolicy", "default.strict", spec))
    wait_revision(host, revision)
    with pytest.raises(ConnectionRefusedError):  # not TimeoutError: the client is told
        client.open(server.ipv4, 80)
    table = host.run(["nft", "list", "table", "inet", "felix"]).stdout
    assert 'limit rate 10/minute burst 7 packets log prefix "felix gnp default.strict: " level info' in table
    counted = [row for row in read_counts(host) if row["name"] == "default.strict"]
    assert [(row.get("rule"), row["action"], row["packets"]) for row in counted] == [(None, "Deny", 1)]


def read_counts(host: Host) -> list[dict[str, Json]]:
    answer = ask(str(host.rundir / "felix.sock"), "GET", "/v1/policy-counters")
    assert isinstance(answer, list)
    return answer
