"""`felix status`: what people read, what programs read, and how it ends."""

from __future__ import annotations

import asyncio
import json
from collections.abc import Mapping
from pathlib import Path

import pytest
from msgspec import structs

from felix.__main__ import main
from felix.cli.status import Bgp, Dataplane, Datastore, Endpoint, Status, Vxlan, render_status
from felix.config.exits import ExitCode
from felix.obs.serve import serve_local_api

WELL = Status(
    host="h1",
    ready=True,
    datastore=Datastore(("http://10.0.0.254:2379",), True, "", 49),
    dataplane=Dataplane(49),
    endpoints={"WorkloadEndpoint(default/a)": Endpoint("up"), "WorkloadEndpoint(default/b)": Endpoint("up")},
    bgp=Bgp("", {"Mesh_10_0_0_2": "Established"}),
)
ILL = Status(
    host="h1",
    held="9 of 10 endpoints would go at once",
    datastore=Datastore(("http://a:1", "http://b:1"), False, "Connection refused", 49),
    dataplane=Dataplane(40),
    endpoints={"WorkloadEndpoint(default/a)": Endpoint("up"), "WorkloadEndpoint(default/b)": Endpoint("error", "bad")},
    bgp=Bgp("BIRD is away"),
    problems=("/calico/x: does not exist",),
)


def test_status_of_an_agent_that_is_well_is_a_summary_and_its_tables() -> None:
    assert list(render_status(WELL)) == [
        "agent      h1: ready",
        "etcd       connected to http://10.0.0.254:2379, revision 49",
        "kernel     programmed as of revision 49",
        "endpoints  2 up",
        "BGP        1 Established",
        "",
        "ENDPOINT                     STATUS  REASON",
        "WorkloadEndpoint(default/a)  up",
        "WorkloadEndpoint(default/b)  up",
        "",
        "SESSION        STATE",
        "Mesh_10_0_0_2  Established",
    ]


def test_status_of_an_agent_that_is_not_well_names_what_is_wrong_first() -> None:
    lines = list(render_status(ILL))
    assert lines[:9] == [
        "agent      h1: NOT ready",
        "etcd       NOT connected to http://a:1, http://b:1: Connection refused; "
        "what was read until revision 49 is enforced",
        "kernel     programmed as of revision 40, 9 revisions behind etcd",
        "endpoints  1 error, 1 up",
        "BGP        BIRD is away",
        "held       9 of 10 endpoints would go at once",
        "",
        "PROBLEMS",
        "/calico/x: does not exist",
    ]
    assert lines[11] == "WorkloadEndpoint(default/b)  error   bad"


def test_status_calls_resources_in_problems_as_manifests_do() -> None:
    resources = "/calico/resources/v3/projectcalico.org"
    problems = (
        f"{resources}/nodes/h1: spec.bgp: is missing (seen: a: b)",
        f"{resources}/workloadendpoints/default/h1-cni-a-eth0: is no valid JSON",
        "FelixConfiguration default: VXLANVNI: give another",
    )
    lines = list(render_status(Status(host="h1", problems=problems)))
    assert lines[lines.index("PROBLEMS") + 1 :] == [
        "Node(h1): spec.bgp: is missing (seen: a: b)",
        "WorkloadEndpoint(default/h1-cni-a-eth0): is no valid JSON",
        "FelixConfiguration default: VXLANVNI: give another",
    ]


def test_status_tells_that_the_host_was_given_up_and_that_its_agent_collects() -> None:
    lines = list(render_status(Status(host="h1", fenced="h1 was given up as lost", collector=True)))
    assert lines[5:] == [
        "fenced     h1 was given up as lost; it has to clean up before it takes part again",
        "collector  this agent collects leaked addresses and lost hosts",
    ]


def test_status_tells_of_a_tunnel_only_where_there_is_one() -> None:
    vxlan = Vxlan({"IPv6": "", "IPv4": "192.168.1.1"}, hosts=3, routes=5)
    lines = list(render_status(structs.replace(WELL, vxlan=vxlan)))
    assert "VXLAN      192.168.1.1, no IPv6 address yet; 3 other ends, 5 prefixes behind them" in lines


def test_status_of_an_empty_host_says_that_there_is_nothing() -> None:
    lines = list(render_status(Status(host="h1", ready=True)))
    assert lines[3:] == ["endpoints  none on this host", "BGP        no sessions"]


@pytest.mark.parametrize(("ready", "code"), [(True, ExitCode.OK), (False, ExitCode.FAILED)])
async def test_status_command_asks_the_agent_and_its_exit_code_says_whether_it_is_ready(
    ready: bool, code: ExitCode, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setenv("FELIX_RUNDIR", str(tmp_path))

    async def answer(_: Mapping[str, str]) -> object:
        return {"host": "h1", "ready": ready, "unheard-of": 1}

    door = await serve_local_api(tmp_path / "felix.sock", {"/v1/status": answer})
    try:
        assert await asyncio.to_thread(main, ["status"]) == code
        assert capsys.readouterr().out.startswith(f"agent      h1: {'' if ready else 'NOT '}ready\n")
        assert await asyncio.to_thread(main, ["status", "-o", "json"]) == code
        assert json.loads(capsys.readouterr().out) == {"host": "h1", "ready": ready, "unheard-of": 1}
    finally:
        await door.close()


def test_status_command_without_agent_says_so_with_the_code_of_an_unavailable_service(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setenv("FELIX_RUNDIR", str(tmp_path))
    assert main(["status"]) == ExitCode.UNAVAILABLE
    expected = f"felix: no agent answers on {tmp_path}/felix.sock (No such file or directory); is felix running?\n"
    expected += (
        "Start it with systemctl start felix, or felix run. Of a host of a lab: felix lab exec h1 -- felix status.\n"
    )
    assert capsys.readouterr().err == expected


def test_status_command_with_a_bad_setting_ends_as_the_agent_would(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setenv("FELIX_HEALTHPORT", "abc")
    assert main(["status"]) == ExitCode.BAD_SETTING
    assert "felix: environment FELIX_HEALTHPORT: HealthPort: " in capsys.readouterr().err
