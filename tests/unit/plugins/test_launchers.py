"""The executables of the plug-ins: they need no environment, lie anywhere, and import little."""

from __future__ import annotations

import json
import os
import shutil
import subprocess
import sys
from pathlib import Path

import pytest

from tools.launchers import MODULE_BY_NAME, ROOT, main

# Each costs milliseconds at every start; those that a rare request needs are imported there.
_SLOW = frozenset(
    """argparse asyncio dataclasses email http inspect ipaddress logging msgspec pathlib site subprocess tempfile
    threading typing urllib""".split()
)


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Where the executables are."""
    path = tmp_path_factory.mktemp("bin")
    assert main([str(path)]) == 0
    return path


@pytest.mark.parametrize("name", list(MODULE_BY_NAME))
def test_executable_says_what_it_is_without_any_environment(folder: Path, name: str) -> None:
    done = subprocess.run([folder / name, "--help"], env={}, capture_output=True, text=True, check=False, cwd="/")
    assert done.returncode == 0, done.stderr
    assert name in done.stdout
    assert done.stderr == ""


def test_executable_works_where_it_was_copied_or_linked_to(folder: Path, tmp_path: Path) -> None:
    shutil.copy(folder / "felix-cni", tmp_path / "copied")
    os.symlink(folder / "felix-cni", tmp_path / "linked")
    for name in ("copied", "linked"):
        answer = subprocess.run(
            [tmp_path / name], env={"CNI_COMMAND": "VERSION"}, capture_output=True, check=True, cwd="/"
        )
        assert json.loads(answer.stdout)["cniVersion"] == "1.1.0"


def test_executable_keeps_the_exit_code_of_a_failure(folder: Path) -> None:
    done = subprocess.run([folder / "felix-cni"], env={"CNI_COMMAND": "ADD"}, capture_output=True, check=False)
    assert done.returncode == 1
    assert json.loads(done.stdout)["code"] == 4


def test_executable_ignores_variables_of_the_interpreter(folder: Path, tmp_path: Path) -> None:
    (tmp_path / "json.py").write_text("raise SystemExit(99)")
    environment = {"CNI_COMMAND": "ADD", "PYTHONPATH": str(tmp_path), "PYTHONWARNINGS": "error"}
    done = subprocess.run([folder / "felix-cni"], env=environment, capture_output=True, check=False, cwd=tmp_path)
    assert done.returncode == 1


def test_installing_again_replaces_the_executables(folder: Path) -> None:
    (folder / "felix-cni").write_text("broken")
    assert main([str(folder)]) == 0
    assert sorted(path.name for path in folder.iterdir()) == sorted(MODULE_BY_NAME)
    subprocess.run([folder / "felix-cni", "--version"], env={}, capture_output=True, check=True)


@pytest.mark.parametrize(
    "modules", ["felix.plugins.cni.driver, felix.plugins.cni.serve", "felix.plugins.cni.ipam.serve"]
)
def test_plugin_imports_nothing_that_is_slow(modules: str) -> None:
    program = f"import sys; sys.path.append({str(ROOT)!r}); import {modules}; print(*sys.modules)"
    python = os.path.realpath(sys.executable)
    done = subprocess.run([python, "-IS", "-c", program], env={}, capture_output=True, text=True, check=True)
    assert _SLOW.isdisjoint(done.stdout.split())
    assert not [name for name in done.stdout.split() if name.startswith("felix.") and ".plugins" not in name]


def test_version_is_answered_without_json(folder: Path) -> None:
    program = (
        f"import sys; sys.path.append({str(ROOT)!r}); from felix.plugins.cni.main import main; main();"
        "print(*sys.modules, file=sys.stderr)"
    )
    done = subprocess.run(
        [os.path.realpath(sys.executable), "-IS", "-c", program],
        env={"CNI_COMMAND": "VERSION"},
        capture_output=True,
        text=True,
        check=True,
    )
    assert {"json", "socket", "re"}.isdisjoint(done.stderr.split())
