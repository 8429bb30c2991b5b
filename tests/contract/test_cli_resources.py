"""Commands on resources against a real etcd: what is stored, what is refused, and what stands when something is."""

from __future__ import annotations

import asyncio
import json
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import NamedTuple

import pytest

from felix.__main__ import main
from felix.config.exits import ExitCode
from felix.datastore.etcd import EtcdClient, EtcdSettings
from felix.ipam.apply import Allocator
from felix.ipam.types import Request
from felix.model.codec import decode
from felix.model.keys import parse_key
from tests.support.etcd import EtcdServer, running_etcd

PREFIX = "/calico/resources/v3/projectcalico.org/"
POLICY = """\
apiVersion: projectcalico.org/v3
kind: GlobalNetworkPolicy
metadata: {name: allow-web}
spec:
  selector: role == 'web'
  ingress:
  - action: Allow
    protocol: TCP
    destination: {ports: [80, 8000:8080]}
"""
MIXED = f"""\
{POLICY}---
apiVersion: projectcalico.org/v3
kind: List
items:
- apiVersion: projectcalico.org/v3
  kind: IPPool
  metadata: {{name: pool}}
  spec: {{cidr: 10.0.0.0/16}}
- apiVersion: projectcalico.org/v3
  kind: WorkloadEndpoint
  metadata: {{name: h--1-cni-c-eth0, namespace: shop}}
  spec:
    node: h-1
    orchestrator: cni
    containerID: c
    workload: c
    endpoint: eth0
    interfaceName: cali1
    ipNetworks: [10.0.0.1/32]
"""


class Result(NamedTuple):
    code: int
    out: str
    err: str


Felix = Callable[..., Result]


@pytest.fixture(scope="module")
def server() -> Iterator[EtcdServer]:
    with running_etcd() as one:
        yield one


async def empty(server: EtcdServer) -> None:
    client = EtcdClient(EtcdSettings((server.endpoint,)))
    await client.delete_prefix("/calico/")
    await client.close()


async def give_addresses(server: EtcdServer, count: int) -> None:
    client = EtcdClient(EtcdSettings((server.endpoint,)))
    await client.put("/calico/resources/v3/projectcalico.org/nodes/h1", b'{"metadata": {"name": "h1"}, "spec": {}}')
    await Allocator(client).auto_assign(Request("h1", "net.one", count, pools=("busy",)))
    await client.close()


@pytest.fixture
def felix(
    server: EtcdServer, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str], tmp_path: Path
) -> Felix:
    """Runs a command on an empty etcd; `text` is given as a file by -f."""
    monkeypatch.setenv("ETCD_ENDPOINTS", server.endpoint)
    asyncio.run(empty(server))

    def run(*words: str, text: str = "") -> Result:
        given = []
        if text:
            path = tmp_path / "m.yaml"
            path.write_text(text)
            given = ["-f", str(path)]
        code = main([*words, *given])
        captured = capsys.readouterr()
        return Result(code, captured.out, captured.err.replace(str(tmp_path) + "/", ""))

    return run


def read(felix: Felix, kind: str, name: str, namespace: str = "default") -> dict[str, dict[str, object]]:
    document: dict[str, dict[str, object]] = json.loads(felix("get", kind, name, "-n", namespace, "-o", "json").out)
    return document


def test_apply_stores_what_calico_stores_and_the_agent_reads(felix: Felix) -> None:
    assert felix("apply", text=MIXED) == (0, "Successfully applied 3 resource(s)\n", "")
    policy = read(felix, "gnp", "allow-web")
    assert policy["spec"]["types"] == ["Ingress"]
    assert policy["spec"]["tier"] == "default"
    assert len(str(policy["metadata"]["uid"])) == 36
    assert str(policy["metadata"]["creationTimestamp"]).endswith("Z")
    assert read(felix, "ippool", "pool")["spec"]["blockSize"] == 26
    endpoint = read(felix, "wep", "h--1-cni-c-eth0", "shop")
    labels = {"projectcalico.org/namespace": "shop", "projectcalico.org/orchestrator": "cni"}
    assert endpoint["metadata"]["labels"] == labels
    key = parse_key(f"{PREFIX}workloadendpoints/shop/h--1-cni-c-eth0")
    assert key is not None
    record, problems = decode(key, json.dumps(endpoint).encode())
    assert (record is not None, problems) == (True, ())


def make_pool(name: str, cidr: str) -> str:
    return (
        "apiVersion: projectcalico.org/v3\nkind: IPPool\n"
        f"metadata: {{name: {name}}}\nspec: {{cidr: {cidr}, natOutgoing: true}}\n"
    )


@pytest.mark.parametrize("cidr", ["10.0.0.0/16", "10.0.128.0/24", "10.0.0.0/8"])
def test_pool_that_shares_addresses_with_another_is_refused(felix: Felix, cidr: str) -> None:
    felix("apply", text=make_pool("first", "10.0.0.0/16"))
    code, out, err = felix("apply", text=make_pool("second", cidr))
    assert (code, out) == (ExitCode.FAILED, "")
    assert "IPPool(second): spec.cidr: shares addresses with IPPool(first), which has 10.0.0.0/16" in err
    assert f"(seen: {cidr})" in err
    assert felix("get", "ippool", "second").code != 0
    assert felix("apply", text=make_pool("first", "10.0.0.0/16").replace("true", "false")).code == 0
    assert felix("apply", text=make_pool("third", "10.1.0.0/16") + "---\n" + make_pool("v6", "fd00::/48")).code == 0


def test_pool_that_goes_while_addresses_are_in_use_is_told_of(felix: Felix, server: EtcdServer) -> None:
    felix("apply", text=make_pool("busy", "10.0.0.0/16") + "---\n" + make_pool("idle", "10.1.0.0/16"))
    asyncio.run(give_addresses(server, 3))
    assert felix("delete", "ippool", "idle").err == ""
    code, _, err = felix("delete", "ippool", "busy")
    assert code == 0
    assert err.startswith("warning: IPPool(busy): 3 of its addresses are in use")


def test_apply_twice_writes_nothing(felix: Felix) -> None:
    felix("apply", text=MIXED)
    revision = read(felix, "gnp", "allow-web")["metadata"]["resourceVersion"]
    assert felix("apply", text=MIXED).out == "Successfully applied 3 resource(s) (3 unchanged)\n"
    assert read(felix, "gnp", "allow-web")["metadata"]["resourceVersion"] == revision


def test_apply_of_a_change_keeps_uid_and_creation_time(felix: Felix) -> None:
    felix("apply", text=POLICY)
    before = read(felix, "gnp", "allow-web")
    felix("apply", text=POLICY.replace("80, ", "443, "))
    after = read(felix, "gnp", "allow-web")
    assert after["spec"] != before["spec"]
    for name in ("uid", "creationTimestamp"):
        assert after["metadata"][name] == before["metadata"][name]


def test_output_of_get_can_be_applied_and_a_stale_one_is_a_conflict(felix: Felix) -> None:
    felix("apply", text=POLICY)
    exported = felix("get", "gnp", "allow-web", "-o", "yaml").out
    assert felix("replace", text=exported.replace("role == 'web'", "role == 'www'")).code == 0
    code, out, err = felix("replace", text=exported)
    assert (code, out) == (ExitCode.CONFLICT, "")
    assert "GlobalNetworkPolicy(allow-web): metadata.resourceVersion: was changed meanwhile" in err
    whole = felix("get", "gnp,ippool", "-o", "yaml").out
    assert felix("apply", text=whole).code == 0


def test_manifest_with_one_fault_writes_nothing_and_says_where(felix: Felix) -> None:
    text = MIXED.replace("cidr: 10.0.0.0/16", "cidr: 10.0.0.0/99")
    code, out, err = felix("apply", text=text)
    assert (code, out) == (ExitCode.BAD_DATA, "")
    assert err == (
        "felix: m.yaml: document 2, line 17: IPPool(pool): spec.cidr: "
        "expected a prefix like 10.0.0.0/16 or 2001:db8::/64 (seen: 10.0.0.0/99)\nNothing was written.\n"
    )
    assert felix("get", "gnp", "-o", "name").out == ""


def test_document_of_which_one_resource_is_refused_is_not_half_written(felix: Felix) -> None:
    felix("create", text=MIXED.split("---\n")[1])
    assert felix("delete", "wep", "h--1-cni-c-eth0", "-n", "shop").code == 0
    code, _, err = felix("create", text=MIXED)
    assert code == ExitCode.FAILED
    assert "IPPool(pool): exists already" in err
    assert "created 1 of 3 resources, then stopped" in err
    assert felix("get", "wep", "-A", "-o", "name").out == ""


def test_the_same_resource_twice_in_a_manifest_is_refused(felix: Felix) -> None:
    code, _, err = felix("apply", text=f"{POLICY}---\n{POLICY}")
    assert code == ExitCode.BAD_DATA
    assert (
        "document 2, line 11: GlobalNetworkPolicy(allow-web): is there twice; before: m.yaml: document 1, line 1" in err
    )


def test_unknown_field_is_refused_unless_allowed_and_then_kept(felix: Felix) -> None:
    text = POLICY.replace("  selector:", "  fromTheFuture: {a: 1}\n  selector:")
    code, _, err = felix("apply", text=text)
    assert code == ExitCode.BAD_DATA
    assert "line 5: GlobalNetworkPolicy(allow-web): spec.fromTheFuture: unknown field" in err
    assert felix("apply", "--allow-unknown", text=text).code == 0
    assert read(felix, "gnp", "allow-web")["spec"]["fromTheFuture"] == {"a": 1}


def test_what_cannot_be_enforced_is_stored_with_a_warning(felix: Felix) -> None:
    code, _, err = felix("apply", text=POLICY + "    http: {methods: [GET]}\n")
    assert code == 0
    assert err.startswith("warning: m.yaml: document 1, line 10: GlobalNetworkPolicy(allow-web): spec.ingress[0].http")


def test_policy_of_a_tier_that_is_not_there_is_stored_with_a_warning_until_it_is(felix: Felix) -> None:
    policy = POLICY.replace("{name: allow-web}", "{name: ops.allow-web}").replace("spec:", "spec:\n  tier: ops")
    code, _, err = felix("apply", text=policy)
    assert code == 0
    where = "warning: m.yaml: document 1, line 5: GlobalNetworkPolicy(ops.allow-web): spec.tier: "
    assert err.startswith(where + "this tier does not exist; ")
    tier = "apiVersion: projectcalico.org/v3\nkind: Tier\nmetadata: {name: ops}\nspec: {order: 5}\n"
    assert felix("apply", text=f"{policy}---\n{tier}").err == ""
    assert felix("apply", text=policy).err == ""


def test_create_replace_and_delete_mind_what_is_there(felix: Felix) -> None:
    assert felix("replace", text=POLICY).err.startswith(
        "felix: m.yaml: document 1, line 1: GlobalNetworkPolicy(allow-web): does not exist"
    )
    assert felix("create", text=POLICY).code == 0
    assert felix("create", text=POLICY).code == ExitCode.FAILED
    skipped = felix("create", "--skip-exists", text=POLICY)
    assert skipped.code == 0
    assert skipped.out == "Successfully created 0 'GlobalNetworkPolicy' resource(s) (1 existed already)\n"
    code, _, err = felix("delete", "gnp", "allow-web", "absent")
    assert code == ExitCode.FAILED
    assert err == "felix: GlobalNetworkPolicy(absent): does not exist\nNothing was deleted.\n"
    assert felix("get", "gnp", "-o", "name").out == "globalnetworkpolicy/allow-web\n"
    assert felix("delete", text=POLICY).out == "Successfully deleted 1 'GlobalNetworkPolicy' resource(s)\n"
    assert felix("delete", "--skip-not-exists", text=POLICY).code == 0


def test_policy_stored_with_the_prefix_of_its_tier_is_found_without(felix: Felix) -> None:
    felix("create", text=POLICY.replace("allow-web", "default.allow-web"))
    felix("apply", text=POLICY.replace("'web'", "'www'"))
    assert felix("get", "gnp", "-o", "name").out == "globalnetworkpolicy/default.allow-web\n"
    assert read(felix, "gnp", "allow-web")["spec"]["selector"] == "role == 'www'"
    assert felix("delete", "gnp", "allow-web").code == 0


def test_addresses_of_a_pool_cannot_be_changed(felix: Felix) -> None:
    felix("apply", text=MIXED)
    code, _, err = felix("apply", text=MIXED.replace("10.0.0.0/16", "10.1.0.0/16"))
    assert code == ExitCode.FAILED
    assert "IPPool(pool): spec.cidr: cannot be changed, it is 10.0.0.0/16; make a new pool (seen: 10.1.0.0/16)" in err


def test_tier_with_policies_or_built_in_is_not_deleted(felix: Felix) -> None:
    tiers = "".join(
        f"---\napiVersion: projectcalico.org/v3\nkind: Tier\nmetadata: {{name: {name}}}\nspec: {{order: 1}}\n"
        for name in ("default", "ops")
    )
    policy = POLICY.replace("spec:", "spec:\n  tier: ops")
    assert felix("apply", text=tiers + "---\n" + policy).code == 0
    assert "Tier(default): is built in" in felix("delete", "tier", "default").err
    assert "Tier(ops): has policies, for one GlobalNetworkPolicy(allow-web)" in felix("delete", "tier", "ops").err
    assert felix("delete", text=policy).code == 0
    assert felix("delete", "tier", "ops").code == 0


def test_get_shows_what_is_there_and_names_what_is_not(felix: Felix) -> None:
    felix("apply", text=MIXED)
    assert felix("get", "gnp").out == "NAME        TIER\nallow-web   default\n"
    assert felix("get", "wep").out == "WORKLOAD   NODE   NETWORKS   INTERFACE\n"
    assert felix("get", "wep", "-A").out.splitlines()[1].split() == ["shop", "c", "h-1", "10.0.0.1/32", "cali1"]
    code, out, err = felix("get", "gnp", "allow-web", "absent")
    assert (code, err) == (ExitCode.FAILED, "felix: GlobalNetworkPolicy(absent): does not exist\n")
    assert "allow-web" in out


def test_list_of_more_resources_than_a_transaction_takes_is_written(felix: Felix) -> None:
    tier = "---\napiVersion: projectcalico.org/v3\nkind: Profile\nmetadata: {{name: p{}}}\nspec: {{}}\n"
    text = "".join(tier.format(number) for number in range(3))
    assert felix("apply", text=text).code == 0
    items = [
        {"apiVersion": "projectcalico.org/v3", "kind": "Profile", "metadata": {"name": f"q{n}"}, "spec": {}}
        for n in range(150)
    ]
    assert felix("apply", text=json.dumps({"kind": "List", "items": items})).code == 0
    assert len(felix("get", "profile", "-o", "name").out.splitlines()) == 153
    assert felix("delete", "profile", *(f"q{number}" for number in range(150))).code == 0
