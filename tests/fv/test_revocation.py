"""Open connections are cut when policy ceases to allow them; all others stay the very connections they were."""

from __future__ import annotations

import functools
import re
import signal
import socket
import threading
import time
from collections.abc import Iterable, Iterator
from contextlib import ExitStack, contextmanager, suppress

import pytest

from felix.lab.host import Host
from felix.lab.place import wait_until
from felix.lab.store import Json
from tests.support.flows import Flow, parse_flows
from tests.support.fv import Fleet

pytestmark = [pytest.mark.fv, pytest.mark.alone]

CUT_S = 2.0  # a second is promised; a machine that does other things as well gets another
KINDS = {"tcp": socket.SOCK_STREAM, "udp": socket.SOCK_DGRAM}
DENIED = 'felix_conntrack_entries_removed{reason="denied"}'

NOBODY_FROM_CLIENT_BY_TCP = """
{kind: GlobalNetworkPolicy, name: default.revoke, spec: {selector: role == 'server', types: [Ingress], ingress: [
 {action: Deny, protocol: TCP, source: {selector: color == 'green'}}, {action: Allow}]}}"""
ONLY_FRIENDS = """
{kind: GlobalNetworkPolicy, name: default.revoke, spec: {selector: role == 'server', types: [Ingress], ingress: [
 {action: Allow, source: {selector: kind == 'friend'}}]}}"""


class Open:
    """A connection that stays: `try_one` says whether a question on it is answered."""

    def __init__(self, fleet: Fleet, flow: Flow) -> None:
        source, target = fleet.sites[flow.source], fleet.sites[flow.target]
        family = socket.AF_INET if flow.version == 4 else socket.AF_INET6
        self.flow = flow
        self.lost = self.answered = 0
        self._socket = source.place.call(lambda: socket.socket(family, KINDS[flow.protocol]))
        self._socket.settimeout(3.0)
        self._socket.bind((source.address(flow.version), flow.source_port))
        self._socket.connect((target.address(flow.version), flow.number))
        assert self.try_one(3.0), flow

    def close(self) -> None:
        self._socket.close()

    def try_one(self, timeout_s: float) -> bool:
        self._socket.settimeout(timeout_s)
        try:
            self._socket.sendall(b"question")
            is_answered = bool(self._socket.recv(64))
        except OSError:
            is_answered = False
        self.answered += is_answered
        self.lost += not is_answered
        return is_answered


@contextmanager
def opened(fleet: Fleet, *texts: str) -> Iterator[dict[str, list[Open]]]:
    """Connections by the text that asked for them, open while inside."""
    with ExitStack() as stack:
        found: dict[str, list[Open]] = {}
        for text in texts:
            fleet.wait(
                functools.partial(fleet.is_open, text), f"{text} to be open"
            )  # what was denied before may linger
            for flow in parse_flows(text):
                one = Open(fleet, flow)
                stack.callback(one.close)
                found.setdefault(text, []).append(one)
        yield found


@contextmanager
def kept_busy(connections: Iterable[Open]) -> Iterator[None]:
    """While inside, each connection is asked again and again; all answers came."""
    stop = threading.Event()
    many = list(connections)

    def ask(one: Open) -> None:
        while not stop.wait(0.01):
            one.try_one(1.0)

    threads = [threading.Thread(target=ask, args=(one,)) for one in many]
    for thread in threads:
        thread.start()
    try:
        yield
    finally:
        stop.set()
        for thread in threads:
            thread.join()
    assert {str(one.flow): one.lost for one in many if one.lost} == {}
    assert all(one.answered > 2 for one in many)


def read_ids(host: Host, connections: Iterable[Open]) -> dict[int, str]:
    """Returns the identity of the entry of each connection, by source port; only of those that have one."""
    text = "".join(host.run(["conntrack", "-L", "-o", "id", "-f", family]).stdout for family in ("ipv4", "ipv6"))
    ports = {one.flow.source_port for one in connections}
    found = re.findall(r"^(?:udp|tcp) .*?sport=(\d+) .* id=(\d+)", text, re.MULTILINE)
    return {int(port): number for port, number in found if int(port) in ports}


def wait_cut(host: Host, connections: Iterable[Open]) -> None:
    """No connection has an entry or gets an answer."""
    started, many = time.monotonic(), list(connections)
    wait_until(lambda: not read_ids(host, many), 20.0, "the entries to go", 0.02)
    assert time.monotonic() - started < CUT_S
    assert [str(one.flow) for one in many if one.try_one(0.3)] == []


def test_policy_change_cuts_exactly_what_it_denies(fleet: Fleet) -> None:
    with opened(fleet, "tcp 80", "udp 53", "guest tcp 80", "guest udp 53 to far") as connections:
        ended = connections.pop("tcp 80")
        kept = [one for many in connections.values() for one in many]
        before = {host.name: read_ids(host, kept) for host in (fleet.h1, fleet.h2)}
        counted = fleet.metric(fleet.h1, DENIED)
        assert len(before["h1"]) == len(kept)
        with kept_busy(kept), fleet.stored(NOBODY_FROM_CLIENT_BY_TCP):
            for target, host in (("near", fleet.h1), ("far", fleet.h2)):
                wait_cut(host, [one for one in ended if one.flow.target == target])
            assert {host.name: read_ids(host, kept) for host in (fleet.h1, fleet.h2)} == before
        fleet.wait(lambda: fleet.metric(fleet.h1, DENIED) >= counted + 2, "the metric")


@contextmanager
def pouring(fleet: Fleet, target: str, version: int, port: int, *, client: str = "client") -> Iterator[socket.socket]:
    """The client's end of a TCP connection by which the server sends without end, while inside."""
    family = socket.AF_INET if version == 4 else socket.AF_INET6
    opener, server = fleet.sites[client], fleet.sites[target]
    with ExitStack() as stack:
        listener, receiver = (
            stack.enter_context(site.place.call(lambda: socket.socket(family, socket.SOCK_STREAM)))
            for site in (server, opener)
        )
        listener.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        listener.bind((server.address(version), port))
        listener.listen()
        receiver.connect((server.address(version), port))
        sender = stack.enter_context(listener.accept()[0])
        sender.settimeout(0.2)
        stop = threading.Event()

        def pour() -> None:
            while not stop.wait(0.002):
                with suppress(OSError):
                    sender.send(bytes(1000))

        thread = threading.Thread(target=pour)
        thread.start()
        try:
            yield receiver
        finally:
            stop.set()
            thread.join()


@pytest.mark.parametrize("version", [4, 6])
@pytest.mark.parametrize("target", ["near", "far"])
def test_download_is_not_taken_up_again_by_the_server(fleet: Fleet, target: str, version: int) -> None:
    with pouring(fleet, target, version, 8123) as receiver:
        receiver.settimeout(5.0)
        assert receiver.recv(65536)
        with fleet.stored(NOBODY_FROM_CLIENT_BY_TCP):
            check_dry(receiver)


def check_dry(receiver: socket.socket) -> None:
    receiver.settimeout(0.5)  # the server tries again after 0.2 s, 0.4 s and so on
    deadline = time.monotonic() + CUT_S
    with suppress(TimeoutError):
        while receiver.recv(65536):
            assert time.monotonic() < deadline
    receiver.settimeout(1.0)
    with pytest.raises(TimeoutError):
        receiver.recv(65536)


def test_download_from_the_host_itself_is_not_taken_up_again_by_the_host(fleet: Fleet) -> None:
    policy = NOBODY_FROM_CLIENT_BY_TCP.replace("role == 'server'", "color == 'green'")
    policy = (
        policy.replace("Ingress", "Egress")
        .replace("ingress", "egress")
        .replace(", source: {selector: color == 'green'}", "")
    )
    fleet.restart_agent({"FELIX_DEFAULTENDPOINTTOHOSTACTION": "Accept"})
    try:
        with pouring(fleet, "h1", 4, 8125) as receiver:
            receiver.settimeout(5.0)
            assert receiver.recv(65536)
            with fleet.stored(policy):
                check_dry(receiver)
    finally:
        fleet.restart_agent({})


def test_address_that_leaves_a_set_loses_its_connections_and_the_others_theirs_not(fleet: Fleet) -> None:
    client, guest = fleet.sites["client"], fleet.sites["guest"]
    friends: list[Json] = [client.ipv4, client.ipv6, guest.ipv4, guest.ipv6]
    path = fleet.put("GlobalNetworkSet", "friends", {"nets": friends}, labels={"kind": "friend"})
    try:
        fleet.wait_applied(path)
        with fleet.stored(ONLY_FRIENDS), opened(fleet, "tcp 80", "udp 53 to near", "guest tcp 80") as connections:
            kept = connections.pop("guest tcp 80")
            ended = [one for many in connections.values() for one in many if one.flow.target == "near"]
            before = read_ids(fleet.h1, kept)
            with kept_busy(kept):
                fleet.put("GlobalNetworkSet", "friends", {"nets": friends[2:]}, labels={"kind": "friend"})
                wait_cut(fleet.h1, ended)
                assert read_ids(fleet.h1, kept) == before
                assert len(before) == len(kept)
    finally:
        fleet.lab.store.delete("/calico/resources/v3/projectcalico.org/globalnetworksets/friends")


def test_loosened_policy_and_connections_of_the_host_itself_lose_nothing(fleet: Fleet) -> None:
    with fleet.stored(ONLY_FRIENDS), opened(fleet, "h1 tcp 80 to near", "h1 udp 53 to near") as connections:
        kept = [one for many in connections.values() for one in many]
        before = read_ids(fleet.h1, kept)
        with kept_busy(kept), fleet.stored(NOBODY_FROM_CLIENT_BY_TCP):
            asked = [one.answered for one in kept]
            wait_until(
                lambda: all(one.answered > 30 + before for one, before in zip(kept, asked, strict=True)),
                10.0,
                "answers",
            )
            assert read_ids(fleet.h1, kept) == before
    assert len(before) == len(kept)


def test_connection_opened_while_somebody_had_flushed_the_table_is_cut(fleet: Fleet) -> None:
    with fleet.stored(NOBODY_FROM_CLIENT_BY_TCP):
        assert not fleet.is_open("tcp 80 to near")
        fleet.h1.send_signal("agent", signal.SIGSTOP)
        try:
            fleet.h1.run(["nft", "delete", "table", "inet", "felix"])
            with opened(fleet, "tcp 80 to near") as connections:
                fleet.h1.send_signal("agent", signal.SIGCONT)
                wait_cut(fleet.h1, connections["tcp 80 to near"])
        finally:
            with suppress(OSError):
                fleet.h1.send_signal("agent", signal.SIGCONT)


def test_agent_that_was_away_cuts_what_was_denied_meanwhile(fleet: Fleet) -> None:
    with opened(fleet, "tcp 80 to near", "udp 53 to near") as connections:
        fleet.h1.stop_agent()
        revision = fleet.put(
            "GlobalNetworkPolicy",
            "default.revoke",
            {
                "selector": "role == 'server'",
                "types": ["Ingress"],
                "ingress": [{"action": "Deny", "protocol": "TCP"}, {"action": "Allow"}],
            },
        )
        try:
            before = read_ids(fleet.h1, connections["udp 53 to near"])
            fleet.restart_agent({})
            fleet.wait_applied(revision)
            wait_cut(fleet.h1, connections["tcp 80 to near"])
            assert read_ids(fleet.h1, connections["udp 53 to near"]) == before
        finally:
            fleet.lab.store.delete("/calico/resources/v3/projectcalico.org/globalnetworkpolicies/default.revoke")


def test_setting_leaves_open_connections_alone(fleet: Fleet) -> None:
    fleet.restart_agent({"FELIX_REVOKECONNECTIONS": "false"})
    try:
        with opened(fleet, "tcp 80 to near") as connections, fleet.stored(NOBODY_FROM_CLIENT_BY_TCP):
            assert not fleet.is_open("tcp 80 to near")
            assert all(one.try_one(1.0) for one in connections["tcp 80 to near"])
    finally:
        fleet.restart_agent({})
