"""What the simulated Mesos reads and writes: NetworkInfo, requests, placement, tasks, the master's state."""

from __future__ import annotations

import json
from pathlib import Path

import pytest

from felix.errors import DataError
from felix.lab.marathon import Application, Port, Program, load_applications
from felix.lab.mesos.place import Offer, make_task, place
from felix.lab.mesos.state import Framework, Slave, render_ports, render_state
from felix.lab.mesos.types import (
    Container,
    ContainerId,
    ContainerStatus,
    IpAddress,
    Label,
    Labels,
    NetworkInfo,
    Resources,
    TaskStatus,
    parse_task,
)
from felix.lab.mesos.wanted import LaunchRefused, allocate_request, isolate_request, read_wanted, reserve_request

ANY = IpAddress()
DEMO = Path(__file__).parents[3] / "demo" / "stars-isolated.json"


def test_network_info_when_read_tells_certain_addresses_from_any() -> None:
    asked = (IpAddress(ip_address="10.0.0.9"), ANY, IpAddress(ip_address="fd00::9"), IpAddress(protocol="IPv6"), ANY)
    wanted = read_wanted([NetworkInfo(asked, ("a",))])

    assert (wanted.static_v4, wanted.static_v6) == (("10.0.0.9",), ("fd00::9",))
    assert (wanted.auto_v4, wanted.auto_v6, wanted.total) == (2, 1, 5)


@pytest.mark.parametrize(
    ("infos", "reason"),
    [
        ([NetworkInfo((ANY,)), NetworkInfo((ANY,))], "one NetworkInfo"),
        ([NetworkInfo()], "at least one IP"),
        ([NetworkInfo((ANY,), ip_address="10.0.0.1")], "of Mesos 0.25"),
        ([NetworkInfo((ANY,), protocol="IPv4")], "of Mesos 0.25"),
        ([NetworkInfo((IpAddress("IPv4", "10.0.0.1"),))], "give one of both"),
        ([NetworkInfo((IpAddress("IPX"),))], "expected IPv4 or IPv6"),
        ([NetworkInfo((IpAddress(ip_address="10.0.0.300"),))], "not an address"),
    ],
)
def test_network_info_that_net_modules_refuses_is_refused(infos: list[NetworkInfo], reason: str) -> None:
    with pytest.raises(LaunchRefused, match=reason):
        read_wanted(infos)


def test_requests_have_sorted_keys_and_no_empty_lists() -> None:
    plain = read_wanted([NetworkInfo((ANY,))])
    rich = read_wanted([NetworkInfo((IpAddress(ip_address="fd00::9"), ANY), ("star-1",), Labels((Label("k", "v"),)))])

    assert allocate_request("h1", "u", plain) == (
        b'{"args":{"hostname":"h1","num_ipv4":1,"num_ipv6":0,"uid":"u"},"command":"allocate"}'
    )
    assert reserve_request("h1", "u", rich) == (
        b'{"args":{"hostname":"h1","ipv6_addrs":["fd00::9"],"labels":[{"key":"k","value":"v"}],'
        b'"netgroups":["star-1"],"uid":"u"},"command":"reserve"}'
    )
    assert json.loads(isolate_request("172.17.0.5", "ba1", 3789, ["192.168.0.3"], plain)) == {
        "args": {"container_id": "ba1", "hostname": "172.17.0.5", "ipv4_addrs": ["192.168.0.3"], "pid": 3789},
        "command": "isolate",
    }


def test_task_of_json_is_read_as_mesos_writes_it() -> None:
    task = parse_task(
        {
            "task_id": "t",
            "name": "n",
            "command": "true",
            "container": {
                "type": "MESOS",
                "network_infos": [{"ip_addresses": [{}], "labels": {"labels": [{"key": "k"}]}}],
            },
        }
    )
    assert task.network_infos == (NetworkInfo((ANY,), (), Labels((Label("k"),))),)
    with pytest.raises(DataError, match="command"):
        parse_task({"task_id": "t", "name": "n"})


def make_app(ports: tuple[Port, ...] = (), *, require: bool = False, cpus: float = 0.1) -> Application:
    return Application("a", (), (), has_address=False, program=Program("true", {}, cpus, 10, ports, require))


def test_instances_are_placed_in_turn_and_wait_for_what_no_offer_has() -> None:
    offers = [Offer("h1", 1, 100, (9000, 9100)), Offer("h2", 1, 100, (9000, 9100), frozenset({9000}))]

    assert [place(make_app(), offers, start) for start in range(3)] == [
        (offers[0], ()),
        (offers[1], ()),
        (offers[0], ()),
    ]
    assert place(make_app((Port(9000),), require=True), offers, 1) == (offers[0], (9000,))
    assert place(make_app((Port(9000),), require=True), offers[1:], 0) is None
    assert place(make_app((Port(80),), require=True), offers, 0) is None
    assert place(make_app(cpus=2), offers, 0) is None


def test_ports_that_are_not_required_are_found_from_31000_on() -> None:
    offer = Offer("h1", 1, 100, (9000, 31100), frozenset({31000}))
    assert place(make_app((Port(8080), Port(0))), [offer], 0) == (offer, (31001, 31002))


def test_application_of_marathon_becomes_a_task_with_one_address_and_discovery() -> None:
    app = load_applications(DEMO)[0]
    task = make_task(app, "id", ())

    assert task.name == "probe-a.star-iso"
    assert task.network_infos == (NetworkInfo((ANY,), ("star-1",)),)
    assert task.discovery is not None
    assert task.discovery.name == "probe-a.star-iso"
    assert [(port.number, port.name) for port in task.discovery.ports.ports] == [(9000, "status")]
    assert (task.resources.cpus, task.resources.mem) == (0.1, 64)


def test_application_without_address_gets_its_ports_in_the_environment() -> None:
    task = make_task(make_app((Port(0), Port(0))), "id", (31000, 31001))

    assert task.network_infos == ()
    assert task.discovery is None
    wanted = {"PORT": "31000", "PORT0": "31000", "PORT1": "31001", "PORTS": "31000,31001"}
    assert wanted.items() <= task.environment.items()


@pytest.mark.parametrize(
    ("app", "has_address", "ports"),
    [
        ({"ports": [9000], "requirePorts": True}, False, ()),
        ({}, False, ()),
        ({"portDefinitions": [{"port": 9000, "name": "web"}]}, False, ()),
        ({"networks": [{"mode": "host"}], "portDefinitions": []}, False, ()),
        ({"ipAddress": {}}, True, ()),
        ({"networks": [{"mode": "container", "name": "felix"}]}, True, ()),
        (
            {"networks": [{"mode": "container"}], "container": {"portMappings": [{"containerPort": 80, "name": "w"}]}},
            True,
            (80,),
        ),
    ],
)
def test_network_of_an_application_in_each_form_is_read(
    tmp_path: Path, app: dict[str, object], has_address: bool, ports: tuple[int, ...]
) -> None:
    path = tmp_path / "app.json"
    path.write_text(json.dumps({"id": "a", **app}))
    (found,) = load_applications(path)

    assert (found.has_address, found.ports) == (has_address, ports)


@pytest.mark.parametrize(
    ("app", "message"),
    [
        ({"networks": [{"mode": "container/bridge"}]}, "the lab has no bridges"),
        ({"networks": [], "ipAddress": {}}, "not together with ipAddress"),
        ({"networks": [{}, {}]}, "expected a list of one object"),
        ({"networks": [{}], "container": {"portMappings": [{"containerPort": 80, "hostPort": 8}]}}, "maps no ports"),
        ({"cpus": -1}, "cpus: expected a number"),
        ({"env": {"A": 1}}, "env: expected an object of texts"),
        ({"cmd": 7}, "cmd: expected text"),
        ({"args": ["x"]}, "use cmd"),
        ({"ports": [70000]}, "ports: expected a number 0 to 65535"),
        ({"ports": "80"}, "ports: expected a list"),
        ({"portDefinitions": [{"port": 80, "protocol": "sctp"}]}, "protocol: expected tcp or udp"),
        ({"ipAddress": 5}, "ipAddress: expected an object"),
    ],
)
def test_application_that_cannot_run_is_refused_with_its_field(
    tmp_path: Path, app: dict[str, object], message: str
) -> None:
    path = tmp_path / "app.json"
    path.write_text(json.dumps({"id": "a", **app}))
    with pytest.raises(DataError) as refused:
        load_applications(path)
    assert f"{path}: a: " in str(refused.value)
    assert message in str(refused.value)


def test_state_has_what_readers_of_the_master_need() -> None:
    app = load_applications(DEMO)[0]
    running = Container("c", "u", "f", make_task(app, "id", (9000,)))
    info = NetworkInfo((IpAddress("IPv4", "10.1.0.7"),))
    running.statuses.append(
        TaskStatus("id", "S0", "TASK_RUNNING", 5.0, container_status=ContainerStatus((info,), ContainerId("c")))
    )
    ended = Container("d", "v", "f", make_task(app, "id2", ()))
    ended.statuses.append(TaskStatus("id2", "S0", "TASK_FAILED", 6.0, "why", "REASON"))
    state = render_state(
        "10.0.0.254",
        [Slave("S0", "10.0.0.1", "slave(1)@10.0.0.1:5051", Resources(4, 8192), (9000, 31100))],
        [Framework("f", "marathon", "10.0.0.254", "scheduler@10.0.0.254:8080")],
        [running, ended],
    )

    assert state["leader"] == "master@10.0.0.254:5050"
    assert "simulator" in state
    document = json.loads(json.dumps(state))
    assert document["slaves"][0]["pid"] == "slave(1)@10.0.0.1:5051"
    (framework,) = document["frameworks"]
    (task,) = framework["tasks"]
    assert (task["name"], task["state"], task["slave_id"]) == ("probe-a.star-iso", "TASK_RUNNING", "S0")
    assert task["resources"]["ports"] == "[9000-9000]"
    assert task["discovery"]["ports"] == {"ports": [{"number": 9000, "name": "status", "protocol": "tcp"}]}
    assert task["statuses"] == [
        {
            "state": "TASK_RUNNING",
            "timestamp": 5.0,
            "container_status": {
                "container_id": {"value": "c"},
                "network_infos": [{"ip_addresses": [{"protocol": "IPv4", "ip_address": "10.1.0.7"}]}],
            },
        }
    ]
    assert [one["id"] for one in framework["completed_tasks"]] == ["id2"]


def test_ports_are_rendered_as_ranges() -> None:
    assert render_ports([31000, 9000, 31001]) == "[9000-9000, 31000-31001]"
    assert render_ports([]) == "[]"
