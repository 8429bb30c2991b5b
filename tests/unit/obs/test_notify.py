"""The service manager hears what it should, on a real socket; without one nothing happens."""

import os
import socket
from collections.abc import Iterator
from pathlib import Path

import pytest

from felix.obs.notify import Notifier


@pytest.fixture
def manager(tmp_path: Path) -> Iterator[socket.socket]:
    with socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM) as listening:
        listening.bind(str(tmp_path / "notify"))
        listening.settimeout(5.0)
        yield listening


def test_notifier_says_each_thing_in_the_managers_words(manager: socket.socket) -> None:
    notifier = Notifier({"NOTIFY_SOCKET": manager.getsockname()})
    assert notifier.is_active
    notifier.ready("in sync")
    notifier.status("1 endpoint")
    notifier.status("1 endpoint")
    notifier.alive()
    notifier.stopping()
    heard = [manager.recv(1000) for _ in range(4)]
    assert heard == [b"READY=1\nSTATUS=in sync", b"STATUS=1 endpoint", b"WATCHDOG=1", b"STOPPING=1"]


def test_notifier_abstract_socket_is_reached() -> None:
    name = f"felix-test-{os.getpid()}"
    with socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM) as listening:
        listening.bind("\0" + name)
        listening.settimeout(5.0)
        Notifier({"NOTIFY_SOCKET": "@" + name}).ready()
        assert listening.recv(100) == b"READY=1"


def test_notifier_without_a_manager_or_with_a_dead_one_goes_on(tmp_path: Path) -> None:
    Notifier({}).ready()
    assert not Notifier({}).is_active
    Notifier({"NOTIFY_SOCKET": str(tmp_path / "gone")}).alive()


@pytest.mark.parametrize(
    ("variables", "interval_s"),
    [
        ({"WATCHDOG_USEC": "30000000"}, 15.0),
        ({"WATCHDOG_USEC": "30000000", "WATCHDOG_PID": str(os.getpid())}, 15.0),
        ({"WATCHDOG_USEC": "30000000", "WATCHDOG_PID": "1"}, 0.0),
        ({"WATCHDOG_USEC": "soon"}, 0.0),
        ({}, 0.0),
    ],
)
def test_watchdog_interval_is_half_and_only_for_this_process(variables: dict[str, str], interval_s: float) -> None:
    assert Notifier(variables).watchdog_interval_s == interval_s
