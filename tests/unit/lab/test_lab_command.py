"""`felix lab` on the command line, as far as nothing is built: help, refusals, and what to type."""

from __future__ import annotations

import sys
from pathlib import Path

import pytest

from felix.__main__ import main
from felix.config.exits import ExitCode
from felix.lab.own import find_own_command, name_option

VERBS = ("up", "add", "remove", "status", "exec", "demo", "reach", "stop", "start", "cni-check", "down")


@pytest.mark.parametrize("verb", VERBS)
def test_help_of_a_verb_shows_examples_of_that_verb_alone(verb: str, capsys: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(SystemExit) as left:
        main(["lab", verb, "--help"])
    assert left.value.code == ExitCode.OK
    examples = capsys.readouterr().out.partition("examples:\n")[2].splitlines()
    assert examples
    assert all(line.startswith(f"  felix lab {verb}") for line in examples)


@pytest.mark.parametrize("verb", VERBS)
def test_verb_without_root_says_that_it_needs_root(
    verb: str, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("os.geteuid", lambda: 65534)
    operands = {
        "add": ["h1", "w"],
        "remove": ["w"],
        "exec": ["h1"],
        "stop": ["h1"],
        "start": ["h1"],
        "cni-check": ["bridge"],
    }
    assert main(["lab", verb, "--name", "nobodys", *operands.get(verb, [])]) == ExitCode.UNAVAILABLE
    assert capsys.readouterr().err == "felix: a lab needs root, for network namespaces; try again with sudo\n"


@pytest.mark.parametrize("port", ["0", "65536", "-1", "web"])
def test_port_that_cannot_be_is_refused_before_anybody_tries_it(port: str, capsys: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(SystemExit) as left:
        main(["lab", "reach", f"--port={port}"])
    assert left.value.code == ExitCode.USAGE
    assert f"'{port}': expected a port from 1 to 65535" in capsys.readouterr().err


@pytest.mark.parametrize("number", ["0", "9999"])
def test_number_of_hosts_that_cannot_be_is_refused_before_anything_is_done(
    number: str, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("felix.lab.lab.check_machine", lambda: None)
    monkeypatch.setattr("felix.lab.lab.Lab.down", lambda _: pytest.fail("the lab that is up is gone"))
    assert main(["lab", "up", "--name", "nobodys", "--hosts", number]) == ExitCode.BAD_DATA
    assert capsys.readouterr().err == f"felix: a lab has 1 to 250 hosts, not {number}\n"


def test_own_command_is_what_the_shell_finds(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    folder = tmp_path / "x" / "bin"
    folder.mkdir(parents=True)
    (folder / "felix").touch(mode=0o755)
    monkeypatch.setattr(sys, "executable", str(folder / "python"))
    monkeypatch.setenv("PATH", "/nowhere")
    assert find_own_command() == str(folder / "felix")
    monkeypatch.chdir(tmp_path)
    assert find_own_command() == "x/bin/felix"
    monkeypatch.setenv("PATH", str(folder))
    assert find_own_command() == "felix"
    linked = tmp_path / "linked"
    linked.mkdir()
    (linked / "felix").symlink_to(folder / "felix")
    monkeypatch.setenv("PATH", str(linked))
    assert find_own_command() == "felix"


def test_name_of_a_lab_is_said_only_if_it_is_not_the_usual_one() -> None:
    assert name_option("demo") == ""
    assert name_option("other") == " --name other"
