"""`felix lab mesos` on the command line, as far as nothing is built."""

from __future__ import annotations

from pathlib import Path

import pytest

from felix.__main__ import main
from felix.config.exits import ExitCode

DEMO = Path(__file__).parents[3] / "demo" / "mesos-pairs.json"
VERBS = ("run", "status", "exec", "kill")


@pytest.mark.parametrize("verb", VERBS)
def test_help_says_that_it_is_a_simulator_and_shows_examples(verb: str, capsys: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(SystemExit) as left:
        main(["lab", "mesos", verb, "--help"])
    assert left.value.code == ExitCode.OK
    text, _, examples = capsys.readouterr().out.partition("examples:\n")
    assert "A simulator, not Mesos" in text
    assert examples.splitlines()
    assert all(line.startswith(f"  felix lab mesos {verb} ") for line in examples.splitlines())


@pytest.mark.parametrize(
    "words", [["run", str(DEMO)], ["status"], ["exec", "t", "--", "true"], ["kill", "t"]], ids=VERBS
)
def test_verb_without_root_says_that_it_needs_root(
    words: list[str], capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("os.geteuid", lambda: 65534)
    assert main(["lab", "mesos", "--name", "nobodys", *words]) == ExitCode.UNAVAILABLE
    assert capsys.readouterr().err == "felix: a lab needs root, for network namespaces; try again with sudo\n"


def test_file_that_cannot_be_used_is_refused_before_anything_is_built(
    tmp_path: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("os.geteuid", lambda: 0)
    monkeypatch.setattr("felix.lab.lab.Lab.up", lambda *_, **__: pytest.fail("a lab is built"))
    path = tmp_path / "bad.json"
    path.write_text('{"id": "/x", "apps": [{"id": "a", "cpus": "many"}]}')
    assert main(["lab", "mesos", "run", str(path), "--name", "nobodys"]) == ExitCode.BAD_DATA
    assert capsys.readouterr().err == f"felix: {path}: x/a: cpus: expected a number from 0, saw 'many'\n"
