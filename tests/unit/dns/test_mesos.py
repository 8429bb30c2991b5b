"""Records from a master's state: every row of Mesos-DNS's table, sources of addresses, bad states."""

import copy
from collections.abc import Mapping
from typing import Any

import msgspec
import pytest
from hypothesis import given
from hypothesis import strategies as st

from felix.dns.mesos import MesosNames, MesosOptions, find_hosts
from felix.dns.names import hash5, is_name
from felix.dns.state import BadState, Place, parse_pid, parse_ranges, read_state
from felix.dns.zone import Zone
from tests.support.dns import discovery_of, make_state, make_task, slide_task

DEFAULTS = MesosOptions()


def serve(
    state: Mapping[str, object], options: MesosOptions = DEFAULTS, addresses: Mapping[str, list[str]] | None = None
) -> Zone:
    zone = Zone()
    for _ in MesosNames(zone, options).apply(read_state(msgspec.json.encode(state)), addresses):
        pass
    return zone


def values(zone: Zone, name: str, rtype: str = "A") -> list[str]:
    found = zone.find(name, rtype)
    return sorted(f"{one.value}:{one.port}" if rtype == "SRV" else one.value for one in found)


def test_slides_have_their_two_lookups_exactly() -> None:
    zone = serve(make_state(slide_task()))
    assert values(zone, "nginx_prod.marathon.mesos") == ["10.13.17.95"]
    (service,) = zone.find("_nginx_prod._tcp.marathon.mesos", "SRV")
    assert service.port == 8181
    assert values(zone, service.value) == ["10.13.17.95"]
    assert values(zone, "nginx-prod.marathon.mesos") == ["10.13.17.95"]


def test_task_without_discovery_has_names_and_services_of_its_ports_on_the_agent() -> None:
    task = make_task("probe-a.star", "star_probe.1", ports="[9000-9001, 31000-31000]", addresses=["192.168.0.3"])
    zone = serve(make_state(task))
    own = f"probe-a-star-{hash5('star_probe.1')}-s0"
    assert values(zone, "probe-a-star.marathon.mesos") == ["192.168.0.3"]
    assert values(zone, f"{own}.marathon.mesos") == ["192.168.0.3"]
    assert values(zone, "probe-a-star.marathon.slave.mesos") == ["10.0.0.2"]
    assert values(zone, f"{own}.marathon.slave.mesos") == ["10.0.0.2"]
    on_agent = f"{own}.marathon.slave.mesos"
    ports = [f"{on_agent}:{port}" for port in (31000, 9000, 9001)]
    for protocol in ("tcp", "udp"):
        assert values(zone, f"_probe-a-star._{protocol}.marathon.mesos", "SRV") == ports
        assert values(zone, f"_probe-a-star._{protocol}.marathon.slave.mesos", "SRV") == ports
    assert values(zone, "probe-a.star.marathon.mesos") == []


def test_task_with_discovery_has_each_name_twice_and_services_of_its_discovery_ports() -> None:
    found = discovery_of("probe-a.star", ("status", 9000, "tcp"), ("", 9001, ""))
    task = make_task("other", "t.1", discovery=found, ports="[31000-31000]", addresses=["192.168.0.3", "fd00::3"])
    zone = serve(make_state(task))
    for name in ("probe-a.star", "probe-a-star"):
        own = f"{name}-{hash5('t.1')}-s0.marathon"
        for one in (f"{name}.marathon", own):
            assert values(zone, f"{one}.mesos") == ["192.168.0.3"]
            assert values(zone, f"{one}.mesos", "AAAA") == ["fd00::3"]
            assert values(zone, f"{one}.slave.mesos") == ["10.0.0.2"]
        both = [f"{own}.mesos:9000", f"{own}.mesos:9001"]
        assert values(zone, f"_{name}._tcp.marathon.mesos", "SRV") == both
        assert values(zone, f"_{name}._udp.marathon.mesos", "SRV") == both[1:]
        assert values(zone, f"_status._{name}._tcp.marathon.mesos", "SRV") == both[:1]
        assert values(zone, f"_status._{name}._udp.marathon.mesos", "SRV") == []
        assert values(zone, f"_{name}._tcp.marathon.slave.mesos", "SRV") == [f"{own}.slave.mesos:31000"]
    assert values(zone, "other.marathon.mesos") == []
    assert values(zone, "3.0.168.192.in-addr.arpa", "PTR") == ["probe-a-star.marathon.mesos"]


def test_frameworks_agents_and_masters_have_names() -> None:
    state = make_state(agents={"a-S0": "10.0.0.2", "a-S1": "fd00::2"}, framework="Chronos 2.4.0_x")
    zone = serve(state, MesosOptions(masters=("10.0.0.8:5050", "10.0.0.1:5050", "10.0.0.8:5050")))
    assert values(zone, "chronos2.4.0-x.mesos") == ["10.0.0.9"]
    assert values(zone, "_framework._tcp.chronos2.4.0-x.mesos", "SRV") == ["chronos2.4.0-x.mesos:25501"]
    assert values(zone, "slave.mesos") == ["10.0.0.2"]
    assert values(zone, "slave.mesos", "AAAA") == ["fd00::2"]
    assert values(zone, "_slave._tcp.mesos", "SRV") == ["slave.mesos:5051"]
    assert values(zone, "leader.mesos") == ["10.0.0.1"]
    assert values(zone, "_leader._tcp.mesos", "SRV") == ["leader.mesos:5050"]
    assert values(zone, "_leader._udp.mesos", "SRV") == ["leader.mesos:5050"]
    assert values(zone, "master.mesos") == ["10.0.0.1", "10.0.0.8"]
    assert values(zone, "master0.mesos") == ["10.0.0.8"]
    assert values(zone, "master1.mesos") == ["10.0.0.1"]
    assert values(zone, "master2.mesos") == []


def test_leader_that_is_not_configured_gets_the_next_number() -> None:
    zone = serve(make_state(), MesosOptions(masters=("10.0.0.8:5050",)))
    assert values(zone, "master1.mesos") == ["10.0.0.1"]
    assert values(serve(make_state()), "master0.mesos") == ["10.0.0.1"]


def test_hosts_that_are_names_are_looked_up_by_whoever_can() -> None:
    state = make_state()
    state["frameworks"] = [{"id": "f", "name": "fw", "hostname": "sched.example", "tasks": []}]
    state["slaves"] = [{"id": "s", "hostname": "agent.example"}]
    assert find_hosts(read_state(msgspec.json.encode(state))) == {"sched.example", "agent.example"}
    zone = serve(state, addresses={"sched.example": ["10.0.0.7", "fd00::7"], "agent.example": ["10.0.0.6"]})
    assert values(zone, "fw.mesos", "AAAA") == ["fd00::7"]
    assert values(zone, "slave.mesos") == ["10.0.0.6"]
    assert values(zone, "_framework._tcp.fw.mesos", "SRV") == []


@pytest.mark.parametrize("state", ["TASK_STAGING", "TASK_FINISHED", ""])
def test_task_that_does_not_run_has_no_names(state: str) -> None:
    zone = serve(make_state(make_task("web", "t", state=state, addresses=["10.1.1.1"])))
    assert values(zone, "web.marathon.mesos") == []


def test_task_on_an_unknown_agent_has_no_names() -> None:
    zone = serve(make_state(make_task("web", "t", agent="gone-S9", addresses=["10.1.1.1"])))
    assert values(zone, "web.marathon.mesos") == []


_DOCKER = {"Docker.NetworkSettings.IPAddress": "10.2.0.1"}
_MESOS = {"MesosContainerizer.NetworkSettings.IPAddress": "10.3.0.1"}


@pytest.mark.parametrize(
    ("sources", "addresses", "labels", "expected"),
    [
        (("netinfo", "mesos", "host"), ["10.1.0.1", "10.1.0.2"], _MESOS, ["10.1.0.1", "10.1.0.2"]),
        (("netinfo", "mesos", "host"), [], _MESOS, ["10.3.0.1"]),
        (("netinfo", "mesos", "host"), [], _DOCKER, ["10.0.0.2"]),
        (("docker",), [], _DOCKER, ["10.2.0.1"]),
        (("docker",), ["10.1.0.1"], {}, []),
        (("host", "netinfo"), ["10.1.0.1"], {}, ["10.0.0.2"]),
        (("mesos", "docker"), [], {**_MESOS, **_DOCKER}, ["10.3.0.1"]),
        (("netinfo", "host"), ["nonsense"], {}, ["10.0.0.2"]),
        (("netinfo",), ["nonsense", "10.1.0.1"], {}, ["10.1.0.1"]),
    ],
)
def test_first_source_with_an_address_gives_all_of_its_addresses(
    sources: tuple[str, ...], addresses: list[str], labels: dict[str, str], expected: list[str]
) -> None:
    task = make_task("web", "t", addresses=addresses, labels=labels)
    assert values(serve(make_state(task), MesosOptions(sources=sources)), "web.marathon.mesos") == expected


def test_newest_running_status_counts_and_the_flat_address_of_old_mesos_too() -> None:
    task = make_task("web", "t")
    task["statuses"] = [
        {"state": "TASK_RUNNING", "timestamp": 2, "container_status": {"network_infos": [{"ip_address": "10.1.0.2"}]}},
        {"state": "TASK_RUNNING", "timestamp": 1, "container_status": {"network_infos": [{"ip_address": "10.1.0.1"}]}},
        {"state": "TASK_KILLED", "timestamp": 3, "container_status": {"network_infos": [{"ip_address": "10.1.0.3"}]}},
    ]
    assert values(serve(make_state(task)), "web.marathon.mesos") == ["10.1.0.2"]


def test_tasks_of_one_name_share_it_and_addresses_of_agents_have_no_task_behind_them() -> None:
    tasks = [make_task("web", f"t{number}", addresses=[f"10.1.0.{number}"]) for number in (1, 2)]
    zone = serve(make_state(*tasks, make_task("web", "t3")))
    assert values(zone, "web.marathon.mesos") == ["10.0.0.2", "10.1.0.1", "10.1.0.2"]
    assert values(zone, "2.0.0.10.in-addr.arpa", "PTR") == []


def test_next_state_touches_only_the_names_of_what_changed() -> None:
    zone = Zone()
    names = MesosNames(zone, MesosOptions())
    tasks = [make_task(f"web{number}", f"t{number}", addresses=[f"10.1.0.{number}"]) for number in range(5)]

    def apply(state: Mapping[str, object]) -> set[str]:
        for _ in names.apply(read_state(msgspec.json.encode(state))):
            pass
        return zone.pop_changed()

    apply(make_state(*tasks))
    assert apply(make_state(*tasks)) == set()
    moved = copy.deepcopy(tasks)
    moved[1] = make_task("web1", "t1", addresses=["10.1.0.77"])
    changed = apply(make_state(*moved[:4]))
    assert {name for name in changed if name.startswith("web")} == {
        "web1.marathon.mesos",
        f"web1-{hash5('t1')}-s0.marathon.mesos",
        "web4.marathon.mesos",
        f"web4-{hash5('t4')}-s0.marathon.mesos",
        "web4.marathon.slave.mesos",
        f"web4-{hash5('t4')}-s0.marathon.slave.mesos",
    }
    apply(make_state())
    assert values(zone, "web0.marathon.mesos") == []
    assert [framework.tasks for framework in names.frameworks] == [()]


@pytest.mark.parametrize(
    ("name", "expected"),
    [
        ("with.dots", "with-dots"),
        ("under_scored", "under-scored"),
        ("x" * 70, "x" * 63),
        ("größe", "gre"),
        ("/star/probe", "starprobe"),
    ],
)
def test_strange_task_names_are_mangled(name: str, expected: str) -> None:
    zone = serve(make_state(make_task(name, "t", addresses=["10.1.0.1"], ports="[80-80]")))
    assert values(zone, f"{expected}.marathon.mesos") == ["10.1.0.1"]
    if len(expected) < 62:
        (service, *_) = zone.find(f"_{expected}._tcp.marathon.mesos", "SRV")
        assert values(zone, service.value) == ["10.0.0.2"]


def test_twenty_frameworks_with_equal_tasks_have_names_of_their_own() -> None:
    state: dict[str, Any] = make_state()
    task = make_task("web", "t")
    state["frameworks"] = [
        {"id": f"f{one}", "name": f"fw{one}", "tasks": [{**task, "id": f"t{one}"}]} for one in range(20)
    ]
    zone = serve(state)
    assert all(values(zone, f"web.fw{one}.mesos") == ["10.0.0.2"] for one in range(20))


@pytest.mark.parametrize(
    ("text", "ports"),
    [
        ("[9000-9000, 31000-31001]", [9000, 31000, 31001]),
        ("[]", []),
        ("", []),
        ("[x-1,5-y,7,8-8]", [8]),
        ("[5-4]", []),
        ("[65535-70000]", [65535]),
    ],
)
def test_port_ranges_are_read_as_far_as_they_can_be(text: str, ports: list[int]) -> None:
    assert parse_ranges(text) == ports


def test_port_ranges_are_bounded() -> None:
    assert len(parse_ranges("[1-65535]")) == 1024


@pytest.mark.parametrize(
    ("text", "place"),
    [
        ("slave(1)@10.0.0.1:5051", Place("10.0.0.1", 5051)),
        ("a@[fd00::1]:80", Place("fd00::1", 80)),
        ("a@fd00::1:80", Place("fd00::1", 80)),
        ("nothing", None),
        ("a@b", None),
        ("a@b:x", None),
        ("a@b:99999", None),
    ],
)
def test_process_ids_tell_where_they_listen(text: str, place: Place | None) -> None:
    assert parse_pid(text) == place


def test_one_bad_task_is_told_and_the_others_have_names() -> None:
    bad: list[Any] = [{"id": 5, "name": []}, "text", None, {**make_task("x", "t"), "statuses": 7}]
    state = make_state(*bad, make_task("web", "good", addresses=["10.1.0.1"]), make_task("///", "t2"))
    zone = Zone()
    names = MesosNames(zone, MesosOptions())
    for _ in names.apply(read_state(msgspec.json.encode(state))):
        pass
    assert values(zone, "web.marathon.mesos") == ["10.1.0.1"]
    assert len(names.problems) == 5


JSON = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats(allow_nan=False, allow_infinity=False) | st.text(max_size=12),
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(st.text(max_size=8), inner, max_size=3),
    max_leaves=8,
)


def _paths(value: object, path: tuple[str | int, ...] = ()) -> list[tuple[str | int, ...]]:
    found = [path] if path else []
    if isinstance(value, dict):
        for key, one in value.items():
            found += _paths(one, (*path, key))
    elif isinstance(value, list):
        for at, one in enumerate(value):
            found += _paths(one, (*path, at))
    return found


_WHOLE = make_state(
    make_task("a", "t1", ports="[1-2]", addresses=["10.1.0.1"], labels=_DOCKER),
    make_task("b", "t2", discovery=discovery_of("b.c", ("p", 80, "tcp")), addresses=["fd00::1"]),
)


@given(st.data())
def test_state_with_anything_in_any_place_is_refused_or_gives_good_names(data: st.DataObject) -> None:
    state: Any = copy.deepcopy(_WHOLE)
    for _ in range(data.draw(st.integers(1, 3))):
        *above, last = data.draw(st.sampled_from(_paths(state)))
        place = state
        for step in above:
            place = place[step]
        place[last] = data.draw(JSON)
    try:
        zone = serve(state)
    except BadState:
        return
    for record in zone.iterate():
        assert is_name(record.name)
        assert record.rtype in {"A", "AAAA", "SRV", "PTR"}
        assert record.rtype not in {"SRV", "PTR"} or is_name(record.value)


@given(st.binary(max_size=200))
def test_bytes_that_are_no_state_are_refused(body: bytes) -> None:
    with pytest.raises(BadState):
        read_state(body)
