"""The simulated master over HTTP: Mesos' state and events, Marathon's groups, health checks, what is refused."""

from __future__ import annotations

import asyncio
import http.client
import json
import os
from collections.abc import AsyncIterator, Iterator
from pathlib import Path
from typing import Any

import aiohttp
import pytest

from felix.__main__ import main
from felix.config.exits import ExitCode
from felix.lab.lab import Lab
from felix.lab.mesos.agent import Limits
from felix.lab.mesos.ask import MasterClient, find_master, read_containers
from felix.lab.mesos.cluster import Settings
from felix.lab.mesos.master import Master
from felix.lab.mesos.serve import MasterServer
from felix.lab.mesos.types import NET_MODULES
from felix.lab.relay import Relay
from tests.support.mesos import PlugIn, remains

pytestmark = pytest.mark.fv

RESOLV_CONF = "# Written by the simulated agent of Mesos.\nnameserver 169.254.1.53\noptions timeout:1 attempts:3\n"
SERVER = "exec python3 -m http.server 8000"


@pytest.fixture(scope="module")
def lab(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Lab]:
    with Lab(f"master{os.getpid()}", tmp_path_factory.mktemp("l")) as lab:
        lab.up(hosts=1, agents=False, bird=False)
        yield lab


class Scene:
    """A master on the lab, asked over HTTP as people ask it; nothing may be left in the end."""

    def __init__(self, lab: Lab, plug_in: PlugIn) -> None:
        self.lab = lab
        self.plug_in = plug_in
        self.before = remains(lab, lab.hosts[0])
        self.settings = Settings(
            door=NET_MODULES,
            ipam=plug_in.command,
            virtualizer=plug_in.command,
            limits=Limits(grace_s=1.0),
            has_dns=True,
        )
        self.master = Master(lab, self.settings)
        self.page = ""

    async def ask(self, method: str, path: str, document: object = None) -> tuple[int, Any]:
        """Returns status and JSON of an answer that comes from the fabric."""

        def ask() -> tuple[int, Any]:
            connection = http.client.HTTPConnection("10.0.0.254", 8080)
            connection.sock = self.lab.fabric.open("10.0.0.254", 8080)
            connection.request(method, path, None if document is None else json.dumps(document))
            response = connection.getresponse()
            body = response.read()
            connection.close()
            return response.status, json.loads(body) if body else None

        return await asyncio.to_thread(ask)

    async def change(self, method: str, path: str, document: object = None) -> None:
        """The change is made, all of it."""
        status, answer = await self.ask(method, path, document)
        assert status == 200, answer
        assert set(answer) == {"version", "deploymentId"}
        await self.master.wait_idle()
        assert not self.master.failures

    async def tasks(self) -> dict[str, Any]:
        """Returns Marathon's tasks by application."""
        _, answer = await self.ask("GET", "/v2/tasks")
        return {task["appId"]: task for task in answer["tasks"]}


@pytest.fixture
async def scene(lab: Lab, tmp_path: Path) -> AsyncIterator[Scene]:
    scene = Scene(lab, PlugIn(tmp_path / "plug-in"))
    async with scene.master:
        server = MasterServer(scene.master)
        try:
            scene.page = await server.open()
            yield scene
        finally:
            for path in list(scene.master.apps()):
                scene.master.remove(path)
            await scene.master.wait_idle()
            await server.close()
    assert remains(lab, lab.hosts[0]) == scene.before


def app(name: str, **more: object) -> dict[str, object]:
    return {"id": name, "cmd": SERVER, "cpus": 0.1, "mem": 32, "ipAddress": {"groups": ["a"]}, **more}


def nested(depth: int) -> dict[str, object]:
    """Returns groups in groups in groups."""
    group: dict[str, object] = {"id": "x", "apps": [app("one")]}
    for _ in range(depth):
        group = {"groups": [group]}
    return group


async def test_group_when_put_changed_and_deleted_is_what_runs(scene: Scene) -> None:
    await scene.change("PUT", "/v2/groups/g", {"apps": [app("one"), app("two")]})
    first = await scene.tasks()
    assert sorted(first) == ["/g/one", "/g/two"]
    assert first["/g/one"]["ipAddresses"] == [{"ipAddress": "10.9.0.1", "protocol": "IPv4"}]
    assert first["/g/one"]["host"] == "10.0.0.1"

    changed = app("two", env={"X": "1"})
    await scene.change("PUT", "/v2/groups/g", {"id": "/g", "apps": [app("one"), changed, app("three")]})
    second = await scene.tasks()
    assert sorted(second) == ["/g/one", "/g/three", "/g/two"]
    assert second["/g/one"]["id"] == first["/g/one"]["id"]
    assert second["/g/two"]["id"] != first["/g/two"]["id"]

    await scene.change("PUT", "/v2/groups/g", {"apps": [app("one", instances=3)]})
    status, answer = await scene.ask("GET", "/v2/apps//g/one")
    assert (status, answer["app"]["tasksRunning"], answer["app"]["instances"]) == (200, 3, 3)
    assert first["/g/one"]["id"] in [task["id"] for task in answer["app"]["tasks"]]
    await scene.change("PUT", "/v2/apps/g/one", app("/g/one", instances=1))
    assert (await scene.tasks())["/g/one"]["id"] == first["/g/one"]["id"]

    status, group = await scene.ask("GET", "/v2/groups")
    assert [one["id"] for one in group["groups"]] == ["/g"]
    await scene.change("DELETE", "/v2/groups/g?force=true")
    assert await scene.tasks() == {}
    assert (await scene.ask("GET", "/v2/groups/g"))[0] == 404


async def test_state_has_what_readers_of_a_master_need(scene: Scene) -> None:
    discovery = {"ports": [{"name": "http", "number": 8000, "protocol": "tcp"}]}
    await scene.change(
        "PUT", "/v2/apps/nginx_prod", app("nginx_prod", ipAddress={"groups": ["a"], "discovery": discovery})
    )
    states = [
        (await scene.ask("GET", path))[1] for path in ("/master/state", "/master/state.json", "/state", "/state.json")
    ]
    assert all(state == states[0] for state in states)
    state = states[0]
    assert state["leader"] == "master@10.0.0.254:5050"
    assert [(one["hostname"], one["pid"]) for one in state["slaves"]] == [("10.0.0.1", "slave(1)@10.0.0.1:5051")]
    (framework,) = state["frameworks"]
    (task,) = framework["tasks"]
    assert (framework["name"], task["name"], task["state"]) == ("marathon", "nginx_prod", "TASK_RUNNING")
    assert task["discovery"]["name"] == "nginx_prod"
    assert task["discovery"]["ports"]["ports"] == [{"number": 8000, "name": "http", "protocol": "tcp"}]
    infos = task["statuses"][-1]["container_status"]["network_infos"]
    assert infos[0]["ip_addresses"] == [{"protocol": "IPv4", "ip_address": "10.9.0.1"}]


def read_settings_of_the_machine() -> bytes:
    return Path("/etc/resolv.conf").read_bytes()


async def test_container_has_a_resolv_conf_of_its_own_and_nobody_else_has(scene: Scene) -> None:
    before = read_settings_of_the_machine()
    await scene.change("PUT", "/v2/groups/g", {"apps": [app("one")]})
    container = scene.master.cluster.find("g/one")
    place = scene.master.cluster.place_of(container)
    assert "nameserver 169.254.1.53\n" in place.run(["cat", "/etc/resolv.conf"]).stdout
    assert read_settings_of_the_machine() == before


async def test_health_checks_say_who_answers_and_who_does_not(scene: Scene) -> None:
    quick = {"gracePeriodSeconds": 20, "intervalSeconds": 0.2, "timeoutSeconds": 2, "maxConsecutiveFailures": 1}
    checks = {
        "good": [
            {"protocol": "MESOS_HTTP", "path": "/", "port": 8000, **quick},
            {"protocol": "COMMAND", "command": {"value": "true"}, **quick},
        ],
        "bad": [{"protocol": "MESOS_TCP", "port": 8001, **quick, "gracePeriodSeconds": 0}],
        "missing": [{"protocol": "MESOS_HTTP", "path": "/none", "port": 8000, **quick, "gracePeriodSeconds": 0}],
    }
    queue = scene.master.feed.listen()
    assert queue is not None
    await scene.change("PUT", "/v2/groups/g", {"apps": [app(name, healthChecks=own) for name, own in checks.items()]})
    seen: dict[str, bool] = {}
    async with asyncio.timeout(20):
        while seen != {"/g/good": True, "/g/bad": False, "/g/missing": False}:
            event = await queue.get()
            assert event is not None
            if event.marathon.get("eventType") == "health_status_changed_event":
                seen[str(event.marathon["appId"])] = bool(event.marathon["alive"])
    tasks = await scene.tasks()
    results = {name: task["healthCheckResults"][0] for name, task in tasks.items()}
    assert (results["/g/good"]["alive"], results["/g/good"]["lastFailureCause"]) == (True, None)
    assert "Connect call failed" in results["/g/bad"]["lastFailureCause"]
    _, state = await scene.ask("GET", "/master/state")
    healthy = {task["name"]: task["statuses"][-1]["healthy"] for task in state["frameworks"][0]["tasks"]}
    assert healthy == {"good.g": True, "bad.g": False, "missing.g": False}


async def test_listeners_hear_of_tasks_in_mesos_and_in_marathons_form(scene: Scene) -> None:
    async with Relay(scene.lab.fabric, "10.0.0.254", 5050) as relay, aiohttp.ClientSession() as session:
        async with (
            session.post(f"{relay.url}api/v1", data=b'{"type":"SUBSCRIBE"}') as mesos,
            session.get(f"{scene.page}v2/events") as marathon,
        ):
            assert await read_record(mesos.content) == "SUBSCRIBED"
            assert (mesos.status, marathon.status) == (200, 200)
            await scene.change("PUT", "/v2/groups/g", {"apps": [app("one")]})
            assert await read_record(mesos.content) == "TASK_ADDED"
            await scene.change("DELETE", "/v2/groups/g")
            assert await read_record(mesos.content) == "TASK_UPDATED"
            kinds = [await read_event(marathon.content) for _ in range(5)]
        async with session.post(f"{relay.url}api/v1", data=b'{"type":"GET_STATE"}') as other:
            assert other.status == 501
    assert kinds == [
        "event_stream_attached",
        "status_update_event",
        "deployment_success",
        "status_update_event",
        "deployment_success",
    ]


async def read_record(stream: aiohttp.StreamReader) -> str:
    """Returns the type of the next record of RecordIO that is no heartbeat."""
    async with asyncio.timeout(10):
        size = int(await stream.readuntil(b"\n"))
        kind: str = json.loads(await stream.readexactly(size))["type"]
    return kind if kind != "HEARTBEAT" else await read_record(stream)


async def read_event(stream: aiohttp.StreamReader) -> str:
    """Returns the name of the next event."""
    async with asyncio.timeout(10):
        while not (line := await stream.readline()).startswith(b"event: "):
            assert line, "the stream has ended"
    return line.removeprefix(b"event: ").decode().strip()


async def test_page_on_loopback_shows_everything_and_changes_nothing(scene: Scene) -> None:
    await scene.change("PUT", "/v2/groups/g", {"apps": [app("one"), app("two", cpus=99)]})
    async with aiohttp.ClientSession() as session:
        async with session.get(scene.page) as page:
            assert "simulator" in await page.text()
            assert "default-src 'none'" in page.headers["Content-Security-Policy"]
        async with session.get(f"{scene.page}overview") as overview:
            seen = await overview.json()
        for method, path in (("PUT", "v2/groups/g"), ("DELETE", "v2/groups/g"), ("POST", "v2/apps")):
            async with session.request(method, f"{scene.page}{path}", json={"id": "g", "apps": []}) as refused:
                assert refused.status == 403
    assert [task["appId"] for task in seen["tasks"]] == ["/g/one"]
    assert seen["waiting"] == ["g/two"]


@pytest.mark.parametrize(
    ("request_line", "document", "status", "text"),
    [
        ("PUT /v2/groups/g", {"apps": 7}, 422, "/g: apps: expected a list, saw 7"),
        ("PUT /v2/groups/g", [1], 422, "no JSON object"),
        ("PUT /v2/groups/g", {"apps": [app("/h/one")]}, 422, "/h/one is not below /g"),
        ("PUT /v2/groups/g", {"apps": [app("one"), app("one")]}, 422, "two applications have it"),
        ("PUT /v2/groups/g", {"cmd": "true"}, 422, "it goes to /v2/apps"),
        ("PUT /v2/groups", {"apps": []}, 422, "id: a group needs one"),
        ("PUT /v2/apps/a", {"healthChecks": [{"protocol": "SMTP"}]}, 422, "healthChecks[0]: protocol: expected"),
        ("PUT /v2/apps/a", {"ipAddress": {"groups": "x"}}, 422, "ipAddress.groups: expected a list"),
        ("PUT /v2/apps", [app("a"), {"cmd": "true"}], 422, "id: every application"),
        ("PUT /v2/apps/a", {"id": "../../etc/passwd"}, 422, "id: expected at most 200 characters"),
        ("PUT /v2/apps/a", {"cmd": "true \0"}, 422, "cmd: expected text without NUL"),
        ("PUT /v2/apps/a", {"env": {"A": "\0"}}, 422, "env: expected texts without NUL"),
        ("PUT /v2/groups/g", {"apps": [app(f"a{n}", instances=1000) for n in range(3)]}, 422, "more than 2000 in all"),
        ("PUT /v2/groups/g", nested(100), 422, "groups: nested more than 32 times"),
        ("POST /v2/apps", {"cmd": "true"}, 422, "id: an application needs one"),
        ("DELETE /v2/groups/none", None, 404, "does not exist"),
        ("GET /v2/apps/none", None, 404, "App '/none' does not exist"),
        ("GET /v2/groups/none", None, 404, "Group '/none' does not exist"),
    ],
)
async def test_request_that_cannot_be_used_is_refused_with_the_field_and_changes_nothing(
    scene: Scene, request_line: str, document: object, status: int, text: str
) -> None:
    method, path = request_line.split()
    seen, answer = await scene.ask(method, path, document)
    assert (seen, text in answer["message"]) == (status, True), answer
    assert scene.master.apps() == {}
    assert scene.plug_in.calls() == []


async def test_launch_that_fails_is_told_and_leaves_nothing(scene: Scene) -> None:
    scene.plug_in.fail("isolate", "error")
    await scene.ask("PUT", "/v2/groups/g", {"apps": [app("one")]})
    await scene.master.wait_idle()
    (failure,) = scene.master.failures.values()
    assert failure.startswith("one.g: ")
    assert await scene.tasks() == {}


async def test_next_master_goes_on_with_the_applications_of_the_last(lab: Lab, tmp_path: Path) -> None:
    plug_in = PlugIn(tmp_path / "plug-in")
    settings = Settings(door=NET_MODULES, ipam=plug_in.command, virtualizer=plug_in.command)
    async with Master(lab, settings) as master:
        master.put("g", {"apps": [app("one")]})
        await master.wait_idle()
        before = master.tasks()
    assert [container.task.source for _, container in read_containers(lab) if container.is_live] == ["g/one"]
    async with Master(lab, settings) as master:
        assert [task["id"] for task in master.tasks()] == [task["id"] for task in before]
        master.put("g", {"apps": [app("one")]})
        await master.wait_idle()
        assert [task["id"] for task in master.tasks()] == [task["id"] for task in before]
        master.remove("g")
        await master.wait_idle()
        assert master.tasks() == []


async def test_command_that_asks_finds_the_master_only_while_it_is_there(scene: Scene) -> None:
    client = await asyncio.to_thread(find_master, scene.lab)
    assert isinstance(client, MasterClient)
    await asyncio.to_thread(client.put, "/v2/groups", {"id": "/g", "apps": [app("one")]})
    assert list(await scene.tasks()) == ["/g/one"]
    await asyncio.to_thread(client.delete, "/v2/groups/g")
    assert await scene.tasks() == {}


async def test_verbs_ask_the_master_while_it_holds_the_agents(
    scene: Scene, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capfd: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setattr("felix.cli.lab_mesos.Lab", lambda _: scene.lab)

    async def felix(*words: str) -> tuple[int, str]:
        code = await asyncio.to_thread(main, ["lab", "mesos", *words])
        return code, "".join(capfd.readouterr())

    good, bad = tmp_path / "good.json", tmp_path / "bad.json"
    good.write_text(json.dumps({"id": "/g", "apps": [app("one"), app("two", cpus=99)]}))
    bad.write_text(json.dumps(app("three")))
    code, table = await felix("run", str(good))
    assert code == 0
    assert [line.split()[:3] for line in table.splitlines()[3:]] == [
        ["one.g", "h1", "TASK_RUNNING"],
        ["g/two", "-", "WAITING"],
    ]
    assert await felix("exec", "one.g", "--", "cat", "/etc/resolv.conf") == (0, RESOLV_CONF)
    assert '"name": "one.g"' in (await felix("status", "-o", "json"))[1]

    scene.plug_in.fail("isolate", "error")
    code, said = await felix("run", str(bad))
    assert (code, said.startswith("felix: /apps: three: ")) == (ExitCode.BAD_DATA, True), said
    assert (await felix("kill", "/none"))[0] == ExitCode.BAD_DATA
    assert (await felix("kill", "/g"))[0] == 0
    assert await scene.tasks() == {}


def test_command_that_asks_without_a_master_finds_none(lab: Lab) -> None:
    assert find_master(lab) is None
