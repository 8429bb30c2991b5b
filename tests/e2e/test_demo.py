"""`felix lab demo`: the stages once, all of them, as people see them; what it says, and how it ends."""

from __future__ import annotations

import json
import os
import shutil
import signal
import subprocess
import sys
from collections.abc import Iterator, Mapping
from pathlib import Path

import msgspec
import pytest

from felix.lab.lab import Lab
from felix.lab.namespace import list_namespaces
from tests.support.browser import ThisMachine, running_browser

pytestmark = [pytest.mark.fv, pytest.mark.alone]

PICTURE = Path(__file__).parents[2] / "docs" / "star.png"
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
def test_demo_shows_every_cell_as_it_must_be_also_on_its_page_and_leaves_nothing(
    name: str, tmp_path: Path, request: pytest.FixtureRequest
) -> None:
    with (
        (tmp_path / "report.json").open("w+") as printed,  # it is longer than what a pipe holds
        subprocess.Popen(
            [*COMMAND, "--name", name, "--keep", "-o", "json"], stdout=printed, stderr=subprocess.PIPE, text=True
        ) as demo,
    ):
        assert demo.stderr is not None
        page, picture = "", None
        try:
            for line in demo.stderr:
                print(line, end="")
                if line.startswith("The page"):
                    page = line.split()[-1]
                if line.startswith("All of it stays up"):
                    picture = look_at(page, name, tmp_path / "chromium")
                    demo.send_signal(signal.SIGINT)
            demo.wait()
        finally:
            demo.kill()
    if picture and request.config.getoption("--rewrite-golden"):
        shutil.copyfile(picture, PICTURE)
    assert PICTURE.stat().st_size < 200_000
    assert demo.returncode == 0
    report = msgspec.json.decode((tmp_path / "report.json").read_bytes(), type=Report)
    assert (report.page, report.right) == (page, report.total)
    counts = {one.name: (len(one.cells), len(one.checks)) for one in report.chapters}
    assert counts == {
        "1": (20, 5),
        "2": (82, 3),
        "mixed": (20, 2),
        "3": (108, 5),
        "custom": (92, 6),
        "move": (92, 6),
        "names": (0, 6),
        "teardown": (0, 15),
    }
    assert {cell.by for one in report.chapters for cell in one.cells} == {"TCP", "ICMP", "page"}
    assert not list_namespaces(f"fx-{name}-")
    assert not Lab(name).directory.exists()


def apply_profile(name: str, document: Mapping[str, object]) -> None:
    """An operator has changed a profile of the lab."""
    words = ["lab", "exec", "--name", name, "fabric", "--", "felix", "apply", "-f", "-"]
    subprocess.run([sys.executable, "-m", "felix", *words], input=json.dumps(document), text=True, check=True)


def look_at(page: str, name: str, folder: Path) -> Path:
    """A reader sees all three stages, that everything is as expected, and a policy's change; returns a picture."""
    original = Lab(name).store.list_prefix("/calico/resources/v3/projectcalico.org/profiles/star-1")
    (profile,) = (one for key, one in original.items() if key.endswith("/star-1"))
    spec = profile["spec"]
    assert isinstance(spec, dict)
    document = {**profile, "metadata": {"name": "star-1"}}
    with running_browser(ThisMachine(), folder) as browser:
        browser.open(page)
        browser.prefer("light", motion="reduce")
        browser.wait("document.querySelectorAll('.edge.reachable').length === 18")
        browser.wait("document.querySelectorAll('.edge.blocked').length === 8")
        browser.wait("document.getElementById('tile-expected').textContent.trim() === '26 of 26'")
        picture = browser.keep_picture("demo", 1400, 900, scale=0.75)
        only_collectors = {
            "action": "Allow",
            "source": {"selector": "has(group.felix/star-1) && has(group.felix/star-2)"},
        }
        apply_profile(name, {**document, "spec": {**spec, "ingress": [only_collectors]}})
        shut_s = browser.wait("document.querySelectorAll('.edge.blocked').length === 10")
        changes = browser.run("return document.getElementById('changes').innerText")
        assert "3 isolated A to 3 isolated B blocked" in " ".join(str(changes).split())
        browser.keep_picture("demo-changed", 1400, 900)
        apply_profile(name, document)
        open_s = browser.wait("document.querySelectorAll('.edge.blocked').length === 8")
        print(f"the page showed that star-1 was shut after {shut_s:.2f} s, and open again after {open_s:.2f} s")
        assert browser.read_console() == []
    return picture


def test_demo_that_is_interrupted_ends_at_once_and_leaves_nothing(name: str) -> None:
    with subprocess.Popen([*COMMAND, "--name", name], stdout=subprocess.PIPE, text=True) as demo:
        assert demo.stdout is not None
        for line in demo.stdout:
            if line.startswith("Stage 1"):
                demo.send_signal(signal.SIGINT)
                break
        try:
            demo.communicate(timeout=60)
        finally:
            demo.kill()
    assert demo.returncode == 130
    assert not list_namespaces(f"fx-{name}-")
    assert not Lab(name).directory.exists()
