"""`felix lab demo`: the stages once, all of them, as people see them; what it says, and how it ends."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
from collections.abc import Iterator

import msgspec
import pytest

from felix.lab.lab import Lab
from felix.lab.namespace import list_namespaces

pytestmark = pytest.mark.fv

COMMAND = [sys.executable, "-m", "felix", "lab", "demo", "--page-port", "0", "--master-port", "0"]


class Cell(msgspec.Struct, rename={"source": "from", "target": "to"}):
    """One cell of the report."""

    source: str
    target: str
    by: str
    expected: bool
    seen: str
    right: bool


class Check(msgspec.Struct):
    """One check of the report."""

    text: str
    right: bool
    seen: str


class Chapter(msgspec.Struct):
    """One part of the report."""

    name: str
    cells: list[Cell]
    checks: list[Check]


class Report(msgspec.Struct):
    """What `-o json` prints."""

    right: int
    total: int
    page: str
    chapters: list[Chapter]


@pytest.fixture
def name() -> Iterator[str]:
    name = f"demo{os.getpid()}"
    yield name
    Lab(name).down()


@pytest.mark.timeout(300)
def test_demo_shows_every_cell_as_it_must_be_and_leaves_nothing(name: str) -> None:
    done = subprocess.run([*COMMAND, "--name", name, "-o", "json"], capture_output=True, text=True, check=False)
    print(done.stderr)
    assert done.returncode == 0
    report = msgspec.json.decode(done.stdout, type=Report)
    assert report.right == report.total
    counts = {one.name: (len(one.cells), len(one.checks)) for one in report.chapters}
    assert counts == {
        "1": (20, 5),
        "2": (82, 3),
        "mixed": (20, 2),
        "3": (108, 5),
        "custom": (92, 4),
        "move": (92, 3),
        "names": (0, 6),
        "teardown": (0, 15),
    }
    assert {cell.by for one in report.chapters for cell in one.cells} == {"TCP", "ICMP", "page"}
    assert not list_namespaces(f"fx-{name}-")
    assert not Lab(name).directory.exists()


def test_demo_that_is_interrupted_ends_at_once_and_leaves_nothing(name: str) -> None:
    with subprocess.Popen([*COMMAND, "--name", name], stdout=subprocess.PIPE, text=True) as demo:
        assert demo.stdout is not None
        for line in demo.stdout:
            if line.startswith("Stage 1"):
                demo.send_signal(signal.SIGINT)
                break
        demo.communicate(timeout=60)
    assert demo.returncode == 130
    assert not list_namespaces(f"fx-{name}-")
    assert not Lab(name).directory.exists()
