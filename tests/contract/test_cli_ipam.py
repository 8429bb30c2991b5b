"""`felix ipam` against a real etcd: what is shown, what is found wrong, and what is left after it was released."""

from __future__ import annotations

import asyncio
import json
from collections.abc import Awaitable, Callable, Iterator
from pathlib import Path
from typing import NamedTuple

import pytest

from felix.__main__ import main
from felix.config.exits import ExitCode
from felix.datastore.etcd import EtcdClient, EtcdSettings
from felix.datastore.status import StatusKeys
from felix.ipam.apply import Allocator
from felix.ipam.types import Request
from felix.model.net import parse_address
from tests.support.etcd import EtcdServer, running_etcd
from tests.support.ipam import check_laws, config, pool, resource

Act = Callable[[EtcdClient], Awaitable[None]]


class Result(NamedTuple):
    code: int
    out: str
    err: str


Felix = Callable[..., Result]


@pytest.fixture(scope="module")
def server() -> Iterator[EtcdServer]:
    with running_etcd() as one:
        yield one


@pytest.fixture
def act(server: EtcdServer) -> Callable[[Act], None]:
    """Does something with etcd, which is empty before the first time."""

    def run(what: Act) -> None:
        async def with_client() -> None:
            client = EtcdClient(EtcdSettings((server.endpoint,)))
            await what(client)
            await client.close()

        asyncio.run(with_client())

    async def empty(client: EtcdClient) -> None:
        await client.delete_prefix("/")

    run(empty)
    return run


@pytest.fixture
def felix(server: EtcdServer, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]) -> Felix:
    monkeypatch.setenv("ETCD_ENDPOINTS", server.endpoint)

    def run(*words: str) -> Result:
        code = main(["ipam", *words])
        captured = capsys.readouterr()
        return Result(code, captured.out, captured.err)

    return run


async def fill(client: EtcdClient) -> None:
    """Two hosts; h1 has an endpoint with 10.0.0.0, a leak 10.0.0.1, and 10.0.0.2 lent to h2."""
    endpoint = {"node": "h1", "orchestrator": "cni", "workload": "c1", "containerID": "c1", "endpoint": "eth0"}
    for key, value in (
        pool("pool-1", "10.0.0.0/30", blockSize=30),
        config(),
        resource("Node", "h1", {}),
        resource("Node", "h2", {}),
        resource(
            "WorkloadEndpoint",
            "h1-cni-c1-eth0",
            {**endpoint, "interfaceName": "cali1", "ipNetworks": ["10.0.0.0/32"]},
            namespace="shop",
        ),
    ):
        await client.put(key, value)
    allocator = Allocator(client)
    for host, handle in (("h1", "net.c1"), ("h1", "net.gone"), ("h2", "net.gone2")):
        await allocator.auto_assign(Request(host, handle, 1))


def test_show_draws_pools_and_blocks_as_calicoctl_does(act: Callable[[Act], None], felix: Felix) -> None:
    act(fill)
    assert felix("show", "--show-blocks").out == (
        "+----------+-------------+-----------+------------+----------+\n"
        "| GROUPING |     CIDR    | IPS TOTAL | IPS IN USE | IPS FREE |\n"
        "+----------+-------------+-----------+------------+----------+\n"
        "| IP Pool  | 10.0.0.0/30 | 4         | 3 (75%)    | 1 (25%)  |\n"
        "| Block    | 10.0.0.0/30 | 4         | 3 (75%)    | 1 (25%)  |\n"
        "+----------+-------------+-----------+------------+----------+\n"
    )
    (shown,) = json.loads(felix("show", "-o", "json").out)
    assert (shown["name"], shown["used"], shown["blocks"][0]["affinity"]) == ("pool-1", 3, "host:h1")


def test_show_tells_who_holds_an_address_and_who_borrowed(act: Callable[[Act], None], felix: Felix) -> None:
    act(fill)
    assert felix("show", "--ip", "10.0.0.1") == (
        0,
        "IP 10.0.0.1 is in use\nAttributes:\n  handle: net.gone\n  node: h1\n",
        "",
    )
    assert felix("show", "--ip", "10.0.0.3") == (ExitCode.FAILED, "10.0.0.3 is not assigned\n", "")
    assert felix("show", "--ip", "10.0.0.x").code == ExitCode.BAD_DATA
    row = "| 10.0.0.2 | h2             | 10.0.0.0/30 | h1          | net.gone2    |"
    assert row in felix("show", "--show-borrowed").out


def test_check_names_leaks_and_release_takes_back_what_two_reports_name(
    act: Callable[[Act], None], felix: Felix, tmp_path: Path
) -> None:
    act(fill)
    first, second = str(tmp_path / "a.json"), str(tmp_path / "b.json")
    checked = felix("check", "-o", first)
    assert checked.code == ExitCode.FAILED
    assert "     2 given out, and nobody has it\n         10.0.0.1: handle net.gone, host h1" in checked.out

    async def change(client: EtcdClient) -> None:
        allocator = Allocator(client)
        await allocator.release_handle("net.gone2")
        await allocator.assign(Request("h2", "net.new"), parse_address("10.0.0.2"))

    act(change)
    felix("check", "-o", second)
    # the same address as before, but given to somebody new: no leak of the first report
    assert felix("release", "--from-report", first, "--from-report", second).out == (
        "Successfully released 1 address(es)\n  10.0.0.1\n"
    )
    report = json.loads(felix("check", "-o", "-").out)
    assert [leak["ip"] for leak in report["leaks"]] == ["10.0.0.2"]
    assert felix("release", "--ip", "10.0.0.2").code == ExitCode.OK
    assert felix("release", "--ip", "10.0.0.2") == (ExitCode.FAILED, "", "felix: 10.0.0.2 is not assigned\n")
    assert felix("release", "--handle", "net.gone2") == (
        ExitCode.FAILED,
        "",
        "felix: handle net.gone2 holds no address\n",
    )
    assert felix("check").code == ExitCode.OK
    assert felix("release", "--from-report", str(tmp_path)).code == ExitCode.BAD_DATA


def test_check_finds_what_does_not_agree_and_release_removes_claims_and_handles(
    act: Callable[[Act], None], felix: Felix, tmp_path: Path
) -> None:
    async def spoil(client: EtcdClient) -> None:
        await fill(client)
        await client.put("/calico/ipam/v2/handle/net.c1", b'{"block":{"10.0.0.0/30":5}}')
        await client.put("/calico/ipam/v2/handle/net.empty", b'{"block":{"10.0.0.0/30":1}}')
        await client.put("/calico/ipam/v2/host/h2/ipv4/block/10.0.0.0-30", b'{"state":"pending"}')
        await client.put("/calico/ipam/v2/host/h9/ipv4/block/10.9.0.0-26", b'{"state":"confirmed"}')
        await client.put("/calico/ipam/v2/assignment/ipv4/block/10.8.0.0-26", b"{")
        spec = {"node": "h2", "interfaceName": "cali2", "ipNetworks": ["10.0.0.3/32", "10.0.0.0/32", "11.0.0.1/32"]}
        await client.put(*resource("WorkloadEndpoint", "x", spec, namespace="shop"))

    act(spoil)
    path = str(tmp_path / "report.json")
    report = json.loads(felix("check", "-o", "-").out)
    assert [row["ip"] for row in report["notAllocated"]] == ["10.0.0.3"]
    assert [row["ip"] for row in report["outsidePools"]] == ["11.0.0.1"]
    assert [row["users"] for row in report["duplicates"]] == [["shop/h1-cni-c1-eth0", "shop/x"]]
    assert report["emptyHandles"] == ["net.empty"]
    assert report["wrongCounts"] == [{"handle": "net.c1", "block": "10.0.0.0/30", "counted": 5, "allocated": 1}]
    assert [(row["host"], row["reason"]) for row in report["orphanAffinities"]] == [
        ("h2", "the block is of h1"),
        ("h9", "there is no such block"),
    ]
    assert len(report["unreadable"]) == 1
    assert "     2 claims of blocks that do not hold\n" in felix("check", "-o", path).out
    assert "Removed 1 empty handle(s) and 2 claim(s) of blocks" in felix("release", "--from-report", path).out
    report = json.loads(felix("check", "-o", "-").out)
    assert (report["emptyHandles"], report["orphanAffinities"], report["leaks"]) == ([], [], [])


def test_lost_host_loses_everything_but_only_when_its_node_is_gone(act: Callable[[Act], None], felix: Felix) -> None:
    act(fill)
    refused = felix("release", "--host", "h1")
    assert refused.code == ExitCode.BAD_DATA
    assert "there is a Node h1" in refused.err
    released = felix("release", "--host", "h1", "--force").out
    assert released.startswith("Deleted 1 workload endpoint(s) of h1\nSuccessfully released 2 address(es)\n")
    report = json.loads(felix("check", "-o", "json").out)
    assert [(fence["host"], fence["state"]) for fence in report["fences"]] == [("h1", "done")]
    assert felix("check").code == ExitCode.FAILED  # for what h2 has of h1's block; a fence is no problem
    assert felix("release", "--handle", "net.gone2").out == "Successfully released 1 address(es)\n  10.0.0.2\n"

    async def look(client: EtcdClient) -> None:
        pairs, _ = await client.list_prefix("/calico/ipam/v2/")
        assert [pair.key for pair in pairs] == ["/calico/ipam/v2/config"]
        check_laws({pair.key: pair.value for pair in pairs})

    act(look)


@pytest.mark.parametrize("what", [("--ip", "10.0.0.0"), ("--handle", "net.c1")])
def test_address_that_an_endpoint_has_is_released_by_force_alone(
    what: tuple[str, str], act: Callable[[Act], None], felix: Felix
) -> None:
    act(fill)
    refused = felix("release", *what)
    assert refused.code == ExitCode.BAD_DATA
    assert refused.err.startswith(
        "felix: 10.0.0.0 is in use by shop/h1-cni-c1-eth0: detach its container, or give --force"
    )
    assert felix("show", "--ip", "10.0.0.0").code == ExitCode.OK
    assert felix("release", *what, "--force").out == "Successfully released 1 address(es)\n  10.0.0.0\n"


def test_host_that_nobody_knows_is_not_given_up_and_keeps_no_fence(act: Callable[[Act], None], felix: Felix) -> None:
    act(fill)
    refused = felix("release", "--host", "h11", "--force")
    assert refused.code == ExitCode.BAD_DATA
    assert refused.err.startswith("felix: nobody knows a host h11: ")
    assert json.loads(felix("check", "-o", "json").out)["fences"] == []


def test_help_of_a_verb_has_examples_of_that_verb_alone_and_says_where_etcd_is_looked_for(
    capsys: pytest.CaptureFixture[str],
) -> None:
    for verb in ("show", "check", "release", "configure"):
        with pytest.raises(SystemExit) as left:
            main(["ipam", verb, "--help"])
        assert left.value.code == ExitCode.OK
        examples, _, rest = capsys.readouterr().out.partition("examples:\n")[2].partition("\n\n")
        commands = [line for line in examples.splitlines() if line.startswith("  felix")]
        assert commands
        assert all(line.startswith(f"  felix ipam {verb} ") for line in commands)
        assert rest.startswith("etcd is found by --etcd-endpoints")


def test_host_that_lives_is_not_given_up_even_by_force(act: Callable[[Act], None], felix: Felix) -> None:
    async def live(client: EtcdClient) -> None:
        await fill(client)
        await client.put(StatusKeys("h1").agent, b"{}")

    act(live)
    refused = felix("release", "--host", "h1", "--force")
    assert refused.code == ExitCode.BAD_DATA
    assert "host h1 lives" in refused.err
    assert felix("show", "--ip", "10.0.0.0").code == ExitCode.OK
    assert json.loads(felix("check", "-o", "json").out)["fences"] == []


def test_check_tells_what_is_kept_and_what_an_agent_takes_back(act: Callable[[Act], None], felix: Felix) -> None:
    async def give(client: EtcdClient) -> None:
        await fill(client)
        await Allocator(client).release_handle("net.gone2")
        for handle, attributes in (("pool-only", {"felix.use": "ipam-only"}), ("vm", {"vmi": "x"})):
            await Allocator(client).auto_assign(Request("h1", handle, 1, attributes=attributes))

    act(give)
    leaks = {row["handle"]: row["kept"] for row in json.loads(felix("check", "-o", "json").out)["leaks"]}
    assert leaks == {"net.gone": "", "vm": "nobody knows who asked for it"}
    told = felix("check").out
    assert "no endpoint has it; kept: nobody knows who asked for it\n" in told
    assert "IPAMLeakGracePeriod" in told


def test_configure_changes_what_it_is_told_and_show_shows_it(act: Callable[[Act], None], felix: Felix) -> None:
    assert json.loads(felix("show", "--show-configuration", "-o", "json").out) == {
        "StrictAffinity": False,
        "AutoAllocateBlocks": True,
        "MaxBlocksPerHost": 0,
    }
    assert "| StrictAffinity     | true  |" in felix("configure", "--strictaffinity=true").out
    assert "| MaxBlocksPerHost   | 4     |" in felix("configure", "--max-blocks-per-host", "4").out
    assert felix("configure").code == ExitCode.BAD_DATA
    assert felix("configure", "--strict-affinity=false", "--auto-allocate-blocks=false").code == ExitCode.BAD_DATA

    async def look(client: EtcdClient) -> None:
        pair = await client.get("/calico/ipam/v2/config")
        assert pair is not None
        assert json.loads(pair.value) == {
            "strict_affinity": True,
            "auto_allocate_blocks": True,
            "maxBlocksPerHost": 4,
        }

    act(look)
