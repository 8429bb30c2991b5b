"""Containers attached through the local API of a real agent: packets when the answer comes, nothing left afterwards."""

from __future__ import annotations

import contextlib
import itertools
import os
import signal
import time
from collections.abc import Iterator, Mapping
from concurrent.futures import ThreadPoolExecutor

import pytest

from felix.lab.host import Host
from felix.lab.lab import Lab
from felix.lab.namespace import create_namespaces, delete_namespaces
from felix.lab.place import Place, wait_until
from felix.lab.store import Json
from felix.plugins.ask import NoAgent, Refused, ask
from tests.support.e2e import guarded_profile, metric, open_profile, problems, status

pytestmark = pytest.mark.fv

_numbers = itertools.count()
Answer = Mapping[str, Json]


class Yard:
    """Containers that are plain namespaces, on one host of a lab."""

    def __init__(self, lab: Lab) -> None:
        self.lab = lab
        self.host: Host = lab.hosts[0]
        self.places: dict[str, Place] = {}
        self._prefix = f"fxa-{os.getpid()}-{next(_numbers)}-"

    @property
    def socket(self) -> str:
        return str(self.host.rundir / "felix.sock")

    def add(self, *names: str) -> list[Place]:
        """The containers exist, without any interface."""
        for name in names:
            self.places[name] = Place(name, self._prefix + name, self.lab.directory / "responder.ctl", {})
        create_namespaces([self._prefix + name for name in names])
        return [self.places[name] for name in names]

    def clear(self) -> None:
        for place in self.places.values():
            place.close_listeners()
        delete_namespaces([place.namespace for place in self.places.values()])
        self.places.clear()

    def request(self, name: str, **fields: Json) -> dict[str, Json]:
        path = f"/run/netns/{self.places[name].namespace}"
        return {"network": "net1", "container": name, "netns": path, "ipv4": 1, "ipv6": 1, **fields}

    def attach(self, name: str, **fields: Json) -> Answer:
        answer = ask(self.socket, "POST", "/v1/attach", self.request(name, **fields), 40.0)
        assert isinstance(answer, dict)
        return answer

    def detach(self, name: str, **fields: Json) -> Answer:
        answer = ask(self.socket, "POST", "/v1/detach", {"network": "net1", "container": name, **fields}, 40.0)
        assert isinstance(answer, dict)
        return answer

    def keys(self) -> list[str]:
        """Returns what etcd holds of containers."""
        prefixes = ("resources/v3/projectcalico.org/workloadendpoints/", "ipam/v2/handle/")
        return [key for prefix in prefixes for key in self.lab.store.list_prefix(f"/calico/{prefix}")]

    def held(self) -> int:
        """Returns how many addresses somebody holds."""
        blocks = self.lab.store.list_prefix("/calico/ipam/v2/assignment/").values()
        return sum(one is not None for block in blocks for one in as_list(block["allocations"]))

    def links(self) -> list[str]:
        lines = self.host.run(["ip", "-o", "link", "show", "type", "veth"]).stdout.splitlines()
        return [name for line in lines if (name := line.split()[1].partition("@")[0]).startswith("cali")]

    def is_clean(self) -> bool:
        """Whether host and etcd have nothing of any container."""
        routes = [self.host.run(["ip", family, "route", "show", "proto", "80"]).stdout for family in ("-4", "-6")]
        elements = self.host.run(["nft", "list", "table", "inet", "felix"]).stdout
        is_free = not any("cali" in text for text in (*routes, elements.replace('"cali*"', "")))
        return is_free and not (self.keys() or self.held() or self.links() or status(self.host)["attachments"])


@pytest.fixture
def yard(lab: Lab) -> Iterator[Yard]:
    lab.up(hosts=1, bird=False)
    lab.hosts[0].wait_agent_ready()
    yard = Yard(lab)
    try:
        yield yard
    finally:
        yard.clear()


def ask_until_answered(socket: str, route: str, body: object) -> object:
    """Returns the answer; asks again while agents end before they answer, as a plug-in does."""
    answers: list[object] = []

    def has_answered() -> bool:
        with contextlib.suppress(NoAgent):
            answers.append(ask(socket, "POST", route, body, 40.0))
        return bool(answers)

    wait_until(has_answered, 40.0, f"an answer to {route}")
    return answers[0]


def as_list(value: Json) -> list[Json]:
    assert isinstance(value, list)
    return value


def address_of(answer: Answer, version: int = 4) -> str:
    texts = [str(text) for text in as_list(answer["addresses"])]
    return next(text.partition("/")[0] for text in texts if (":" in text) == (version == 6))


def test_container_talks_by_policy_at_the_answer_and_leaves_nothing(yard: Yard) -> None:
    yard.lab.apply(guarded_profile("guarded", "role == 'friend'"))
    yard.lab.apply(open_profile())
    server, friend, stranger = yard.add("server", "friend", "stranger")
    own: dict[str, Json] = {"network_profile": False}
    at = yard.attach("server", profiles=["guarded"], **own)
    server.listen(80)
    for place in (friend, stranger):
        yard.attach(place.name, profiles=["open"], labels={"role": place.name}, **own)
        for version in (4, 6):  # no waiting: what the answer says holds when it comes
            result = place.connect(address_of(at, version), 80, timeout_s=2.0 if place is friend else 0.3)
            assert result.ok == (place is friend), (place.name, version, result)
    assert problems(yard.host) == []
    assert status(yard.host)["attachments"] == 3
    assert metric(yard.host, "felix_attach_seconds_count", step="total") == 3
    for name in ("server", "friend", "stranger"):
        assert len(as_list(yard.detach(name)["released"])) == 2
    assert "eth0" not in server.run(["ip", "link"]).stdout
    wait_until(yard.is_clean, 20.0, "nothing to be left")
    assert yard.detach("server") == {"was_there": False, "released": []}


def test_groups_decide_who_talks_with_whom_and_with_the_host(yard: Yard) -> None:
    one, two, other, lonely = yard.add("one", "two", "other", "lonely")
    at = {}
    for place, text in ((one, "blue"), (two, "blue green"), (other, "red public"), (lonely, "")):
        groups: list[Json] = [*text.split()]
        at[place.name] = address_of(yard.attach(place.name, groups=groups, orchestrator="mesos", ipv6=0))
        place.listen(80)
    assert one.connect(at["two"], 80).ok
    assert two.connect(at["other"], 80).ok  # public lets everybody in
    assert not other.connect(at["one"], 80, timeout_s=0.3).ok
    assert not one.connect(at["lonely"], 80, timeout_s=0.3).ok
    assert not lonely.connect(at["other"], 80, timeout_s=0.3).ok
    assert yard.host.connect(at["lonely"], 80).ok


def test_attach_repeats_and_refuses_what_cannot_be(yard: Yard) -> None:
    yard.add("c1", "c2")
    first = yard.attach("c1")
    again = yard.attach("c1")
    assert (again["addresses"], again["is_new"]) == (first["addresses"], False)
    refusals: tuple[tuple[dict[str, Json], str, int], ...] = (
        ({"addresses": [address_of(first)]}, "conflict", 409),
        ({"netns": "/run/netns/fxa-missing"}, "not-found", 404),
        ({"netns": ""}, "invalid", 400),
        ({"colour": "blue"}, "invalid", 400),
        ({"pools": ["192.0.2.0/24"]}, "exhausted", 409),
    )
    for fields, code, http in refusals:
        with pytest.raises(Refused) as refused:
            yard.attach("c2", **fields)
        assert (refused.value.code, refused.value.status) == (code, http), refused.value
    assert yard.held() == 2
    assert len(yard.links()) == 1
    with pytest.raises(Refused) as refused:
        ask(yard.socket, "POST", "/v1/attach", {"netns": "x" * (1 << 20)}, 10.0)
    assert (refused.value.code, refused.value.status) == ("invalid", 413)


def test_check_sees_what_somebody_removed(yard: Yard) -> None:
    (place,) = yard.add("c1")
    answer = yard.attach("c1")
    body = {**yard.request("c1", ipv4=0, ipv6=0), "addresses": answer["addresses"]}
    assert ask(yard.socket, "POST", "/v1/check", body) == {"differences": []}
    place.configure(f"addr del {address_of(answer)}/32 dev eth0")
    with pytest.raises(Refused, match=address_of(answer)) as refused:
        ask(yard.socket, "POST", "/v1/check", body)
    assert refused.value.code == "differs"


def test_fifty_containers_at_once_are_attached_and_collected(yard: Yard) -> None:
    names = [f"c{number}" for number in range(50)]
    yard.add(*names)
    with ThreadPoolExecutor(50) as pool:
        answers = list(pool.map(yard.attach, names))
    assert len({address_of(answer) for answer in answers}) == 50
    gone = ask(yard.socket, "POST", "/v1/gc", {"network": "net1", "valid": [{"container": "c0"}]}, 60.0)
    assert isinstance(gone, dict)
    assert (len(gone["detached"]), len(gone["released"]), gone["failures"]) == (49, 98, [])
    yard.detach("c0")
    wait_until(yard.is_clean, 20.0, "nothing to be left")


def test_agent_killed_again_and_again_while_it_attaches_loses_nothing(yard: Yard) -> None:
    names = [f"c{number}" for number in range(12)]
    yard.add(*names)

    def attach(name: str) -> Answer:
        answer = ask_until_answered(yard.socket, "/v1/attach", yard.request(name))
        assert isinstance(answer, dict)
        return answer

    with ThreadPoolExecutor(4) as pool:
        asked = [pool.submit(attach, name) for name in names]
        for delay_s in (0.01, 0.02, 0.03, 0.045, 0.06):
            time.sleep(delay_s)
            yard.host.stop_agent(signal.SIGKILL)
            yard.host.start_agent()
            wait_until(lambda: _is_ready(yard), 20.0, "the agent to take containers", 0.002)
        at = {name: address_of(one.result(60.0)) for name, one in zip(names, asked, strict=True)}
    assert len(set(at.values())) == len(names)
    assert (yard.held(), len(yard.links()), status(yard.host)["attachments"]) == (24, 12, 12)
    for name in names:
        assert yard.places[name].connect(at["c0"], protocol="icmp").ok
    for name in names:
        yard.detach(name)
    wait_until(yard.is_clean, 20.0, "nothing to be left")


def _is_ready(yard: Yard) -> bool:
    try:
        return ask(yard.socket, "GET", "/v1/ready-to-attach") == {}
    except (NoAgent, Refused):
        return False


@pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGKILL, signal.SIGSTOP])
def test_etcd_stopped_while_containers_are_attached_leaves_nothing_half(yard: Yard, number: int) -> None:
    names = [f"c{number}" for number in range(8)]
    yard.add(*names)
    codes: list[str] = []

    def attach(name: str) -> None:
        try:
            yard.attach(name, deadline_s=1.0)
        except Refused as refused:
            codes.append(refused.code)

    with ThreadPoolExecutor(8) as pool:
        asked = [pool.submit(attach, name) for name in names]
        time.sleep(0.02)
        if number == signal.SIGSTOP:
            yard.lab.send_etcd_signal(number)  # it keeps its connections, and what was sent is carried out later
            wait_until(lambda: len(codes) + sum(one.done() for one in asked) > 0, 20.0, "the first one to give up")
            yard.lab.send_etcd_signal(signal.SIGCONT)
        else:
            yard.lab.stop_etcd(number)
        for one in asked:
            one.result(40.0)
    assert set(codes) <= {"unavailable", "timeout"}
    if number != signal.SIGSTOP:
        yard.lab.start_etcd()
    wait_until(lambda: metric(yard.host, "felix_attach_debts") == 0, 20.0, "what is owed to be paid", 0.1)
    wait_until(lambda: metric(yard.host, "felix_etcd_connected") == 1, 20.0, "the watch to stand", 0.1)
    there = len(names) - len(codes)
    wait_until(lambda: status(yard.host)["attachments"] == there, 20.0, "the agent to know what there is")
    wait_until(lambda: (yard.held(), len(yard.links())) == (2 * there, there), 20.0, "the rest to be undone", 0.1)
    for name in names:
        yard.detach(name)
    wait_until(yard.is_clean, 20.0, "nothing to be left")


def test_containers_that_vanished_are_removed_after_the_grace(lab: Lab) -> None:
    lab.up(hosts=1, agents=False, bird=False)
    lab.hosts[0].start_agent(environment={"FELIX_ATTACHMENTGRACESECS": "0.4"})
    lab.hosts[0].wait_agent_ready()
    yard = Yard(lab)
    yard.add("c1")
    try:
        yard.attach("c1")
        lab.add_workload(lab.hosts[0], "other", profiles=[])  # not attached by the agent: not its to remove
        lab.host("h1").configure(f"link del {lab.workloads['other'].interface}")
        assert len(yard.keys()) == 4
    finally:
        yard.clear()  # as by a reboot: the namespace is gone, and the interface with it
    wait_until(lambda: len(yard.keys()) == 2, 20.0, "the attachment to be removed")
    assert yard.held() == 2
