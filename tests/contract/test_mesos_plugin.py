"""felix-mesos as a process, on a small agent in memory: the contract of net-modules, and agents that misbehave."""

from __future__ import annotations

import itertools
import json
import os
import pty
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from tests.support.fake_agent import DROP, HANG, FakeAgent
from tests.support.net_modules import Launch, NetModulesContract, Said, Scene, call_plugin, new_launch
from tools.launchers import ROOT

ALLOCATE = {"hostname": "h1", "num_ipv4": 1, "num_ipv6": 0, "uid": "0f6b3c0e-6a0b-4f4e-9d3e-2b1a5c7d8e9f"}
CLEANUP = {"command": "cleanup", "args": {"hostname": "h1", "container_id": "c1"}}


class SceneInMemory(Scene):
    """The small agent; a namespace is only a number."""

    static4 = tuple(f"10.1.0.{number}" for number in range(200, 206))
    static6 = tuple(f"fd00:10::{number}" for number in range(200, 206))

    def __init__(self, agent: FakeAgent) -> None:
        self.agent = agent
        self.environment = {"FELIX_RUNDIR": str(agent.path.parent), "FELIX_MESOS_TIMEOUT": "10"}
        self._pids = itertools.count(1000)

    def call(self, command: str, **args: Any) -> Said:
        return call_plugin({"command": command, "args": args}, self.environment)

    def launch(self) -> Launch:
        return new_launch(next(self._pids))

    def held(self) -> dict[str, str]:
        return {address: handle for address, (handle, _) in self.agent.holders.items()}

    def attached(self) -> dict[str, set[str]]:
        return {key[1]: set(made["all"]) for key, made in self.agent.attachments.items()}

    def hold_for_others(self, address: str) -> None:
        self.agent.holders[address] = ("net1.c9", {"felix.use": "ipam-only"})


@pytest.fixture
def scene(tmp_path: Path) -> Iterator[SceneInMemory]:
    with FakeAgent(tmp_path / "felix.sock") as agent:
        yield SceneInMemory(agent)


class TestOnASmallAgent(NetModulesContract):
    """The contract."""


def _cleanup(scene: SceneInMemory, **environment: str) -> Said:
    return call_plugin(CLEANUP, scene.environment | environment)


def test_defect_7_agent_that_hangs_ends_in_an_error_in_time(scene: SceneInMemory) -> None:
    scene.agent.answers["/v1/detach"] = HANG
    said = _cleanup(scene, FELIX_MESOS_TIMEOUT="0.3")
    assert said.error.startswith(f"no agent answers on {scene.agent.path} (no answer in time)")
    assert said.log.startswith("felix-mesos[")


def test_defect_7_allocate_on_an_agent_that_hangs_gives_back_what_it_may_have_got(scene: SceneInMemory) -> None:
    scene.agent.answers["/v1/ipam/allocate"] = HANG
    said = call_plugin({"command": "allocate", "args": ALLOCATE}, scene.environment | {"FELIX_MESOS_TIMEOUT": "1"})
    assert "no answer in time" in said.error
    assert [body["handle"] for body in scene.agent.asked("/v1/ipam/release")] == [ALLOCATE["uid"]]


def test_agent_is_told_how_long_it_may_take(scene: SceneInMemory) -> None:
    _cleanup(scene, FELIX_MESOS_TIMEOUT="5")
    assert 0 < scene.agent.asked("/v1/detach")[0]["deadline_s"] < 5


def test_standard_input_that_never_ends_is_an_error_in_time() -> None:
    process = subprocess.Popen(
        [sys.executable, "-IS", "-c", _launcher_body()],
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
        stderr=subprocess.DEVNULL,
        env={"FELIX_MESOS_TIMEOUT": "0.2"},
    )
    assert process.stdin is not None
    assert process.stdout is not None
    with process.stdin, process.stdout:
        process.stdin.write(b'{"command"')
        process.stdin.flush()
        assert json.loads(process.stdout.read()) == {"error": "the request took too long; see FELIX_MESOS_TIMEOUT"}
    assert process.wait(10) == 1


def test_no_agent_is_an_error_that_says_where_and_what_to_look_at(tmp_path: Path) -> None:
    said = call_plugin(CLEANUP, {"FELIX_RUNDIR": str(tmp_path), "FELIX_MESOS_TIMEOUT": "0.2"})
    assert said.error == f"no agent answers on {tmp_path}/felix.sock (No such file or directory); is felix running?"


@pytest.mark.parametrize(
    "answer", [DROP, (503, {"error": "etcd is away", "code": "unavailable"}), b"HTTP/1.0 500 x\r\n\r\n<html>"]
)
def test_agent_that_restarts_is_asked_again(scene: SceneInMemory, answer: object) -> None:
    scene.agent.answers["/v1/detach"] = [answer, answer]
    assert _cleanup(scene).answer == {"error": None}
    assert len(scene.agent.asked("/v1/detach")) == 3


def test_allocate_is_not_asked_again_by_an_agent_that_may_have_done_it(scene: SceneInMemory) -> None:
    scene.agent.answers["/v1/ipam/allocate"] = [DROP]
    assert "ended before it answered" in scene.call("allocate", **ALLOCATE).error
    assert len(scene.agent.asked("/v1/ipam/allocate")) == 1
    assert len(scene.agent.asked("/v1/ipam/release")) == 1


@pytest.mark.parametrize(
    ("status", "code"),
    [(400, "invalid"), (404, "not-found"), (409, "exhausted"), (504, "timeout"), (500, "internal"), (418, "")],
)
def test_what_the_agent_refuses_is_the_error(scene: SceneInMemory, status: int, code: str) -> None:
    scene.agent.answers["/v1/attach"] = (status, {"error": "it cannot be", "code": code})
    assert scene.isolate(scene.launch(), ["10.1.0.7"]).error == "it cannot be"


def test_defect_8_answer_of_the_agent_that_is_huge_is_an_error_that_net_modules_can_read(scene: SceneInMemory) -> None:
    scene.agent.answers["/v1/detach"] = (500, {"error": "x" * 200_000, "code": "internal"})
    said = _cleanup(scene)
    assert len(json.dumps(said.answer)) < 40960


@pytest.mark.parametrize(
    "answer", [[], "x", None, {"addresses": 5}, {"addresses": [5]}, {"addresses": ["10.1.0.1/32"] * 500}]
)
def test_answer_of_the_agent_that_makes_no_sense_is_an_error_and_given_back(
    scene: SceneInMemory, answer: object
) -> None:
    scene.agent.answers["/v1/ipam/allocate"] = (200, answer)
    assert scene.call("allocate", **ALLOCATE).error
    assert len(scene.agent.asked("/v1/ipam/release")) == 1


@pytest.mark.parametrize("data", [b"", b"{", b"\xff\xfe", b"[]", b"null", b'{"command": "x", "args": {}}'])
def test_bad_request_is_an_error_in_json_with_exit_code_1(data: bytes) -> None:
    said = call_plugin(data, {})
    assert said.code == 1
    assert said.error
    assert said.error in said.log


def test_defect_2_8_eval_label_runs_nothing(scene: SceneInMemory, tmp_path: Path) -> None:
    label = f"__import__('pathlib').Path('{tmp_path}/was-here').touch()"
    said = scene.call("allocate", **ALLOCATE, labels=[{"key": "ipv4_addrs", "value": label}])
    assert said.error.startswith("Label ipv4_addrs is no list of IP addresses: ")
    assert not (tmp_path / "was-here").exists()
    assert scene.agent.requests == []


def test_environment_of_mesos_may_be_empty_and_hostname_chooses_nothing(scene: SceneInMemory) -> None:
    launch = scene.launch()
    args = {"hostname": "172.17.0.5", "container_id": launch.container, "pid": launch.pid, "ipv4_addrs": ["10.1.0.7"]}
    assert scene.call("isolate", **args).error is None
    assert "172.17.0.5" not in json.dumps(scene.agent.asked("/v1/attach"))


def test_standard_input_that_is_closed_is_an_error_in_json() -> None:
    done = subprocess.run(
        ["sh", "-c", f'exec {sys.executable} -IS -c "$0" <&-', _launcher_body()],
        capture_output=True,
        check=False,
        timeout=60,
    )
    assert json.loads(done.stdout)["error"]
    assert done.returncode == 1


def test_reader_that_went_away_is_exit_code_1_and_no_noise() -> None:
    reader, writer = os.pipe()
    os.close(reader)
    done = subprocess.run(
        [sys.executable, "-IS", "-c", _launcher_body()],
        input=b"{}",
        stdout=writer,
        stderr=subprocess.PIPE,
        check=False,
        timeout=60,
    )
    os.close(writer)
    assert done.returncode == 1
    assert done.stderr.count(b"\n") == 1


def test_terminal_gets_help_instead_of_waiting_for_json() -> None:
    controller, terminal = pty.openpty()
    try:
        done = subprocess.run(
            [sys.executable, "-IS", "-c", _launcher_body()],
            stdin=terminal,
            capture_output=True,
            check=False,
            timeout=60,
        )
    finally:
        os.close(controller)
        os.close(terminal)
    assert done.returncode == 0
    assert b"ipam_command" in done.stdout


def test_request_needs_none_of_the_slow_modules() -> None:
    code = (
        "import sys\nsys.argv[1:] = []\nimport felix.plugins.mesos.main as plugin\nplugin.main()\n"
        "print(*sorted(sys.modules), file=sys.stderr)"
    )
    done = subprocess.run(
        [sys.executable, "-IS", "-c", f"import sys; sys.path.append({str(ROOT)!r})\n{code}"],
        input=json.dumps(CLEANUP).encode(),
        capture_output=True,
        env={"FELIX_RUNDIR": "/nonexistent", "FELIX_MESOS_TIMEOUT": "0.1"},
        check=True,
        timeout=60,
    )
    loaded = set(done.stderr.decode().splitlines()[-1].split())
    slow = {"asyncio", "dataclasses", "inspect", "logging", "subprocess", "ast", "uuid", "argparse", "http", "pathlib"}
    assert loaded & slow == set()
    assert all(name.startswith("felix.plugins") for name in loaded if name.startswith("felix."))


def _launcher_body() -> str:
    return f"import sys\nsys.path.append({str(ROOT)!r})\nfrom felix.plugins.mesos.main import main\nsys.exit(main())"
