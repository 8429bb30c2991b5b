"""`felix star`: what cannot be used is refused at once, with option, value and remedy, and the right exit code."""

from __future__ import annotations

import socket
from pathlib import Path

import pytest

from felix.__main__ import main
from felix.config.exits import ExitCode


def _run(*words: str) -> int:
    try:
        return main(["star", *words])
    except SystemExit as end:
        return int(end.code or 0)


@pytest.mark.parametrize(
    ("words", "code", "said"),
    [
        (["probe"], ExitCode.USAGE, "--urls"),
        (["probe", "--urls=", "--http-port=65536"], ExitCode.USAGE, "'65536' is no port"),
        (["probe", "--urls=", "--http-probe-seconds=0"], ExitCode.USAGE, "'0' is no number of seconds from 0.05"),
        (["probe", "--urls=", "--http-probe-seconds=nan"], ExitCode.USAGE, "'nan' is no number of seconds"),
        (["probe", "--urls=ftp://a/"], ExitCode.BAD_DATA, "scheme 'ftp' is unknown"),
        (
            ["probe", "--urls=", "--http-probe-timeout-seconds=6"],
            ExitCode.BAD_DATA,
            "--http-probe-timeout-seconds 6 is longer than the interval of 5 s",
        ),
        (["collect", "--resources-file=/nowhere/x"], ExitCode.BAD_DATA, "/nowhere/x: No such file"),
        (["collect", "--http-address=203.0.113.1"], ExitCode.UNAVAILABLE, "cannot listen on 203.0.113.1 port 9001"),
        (["collect", "--logfile=/nowhere/x"], ExitCode.BAD_DATA, "--logfile /nowhere/x: No such file"),
    ],
)
def test_star_with_what_cannot_be_used_ends_and_says_why(
    words: list[str], code: ExitCode, said: str, capsys: pytest.CaptureFixture[str]
) -> None:
    assert _run(*words) == code
    assert said in capsys.readouterr().err


@pytest.mark.parametrize("content", ["", "{}", '[{"id":"A"}]', '[{"id":"A","url":"a b"}]'])
def test_star_collect_with_a_bad_resources_file_ends_and_says_why(
    content: str, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    file = tmp_path / "resources.json"
    file.write_text(content)

    assert _run("collect", f"--resources-file={file}") == ExitCode.BAD_DATA
    assert capsys.readouterr().err.startswith(f"felix: --resources-file {file}: ")


def test_star_probe_on_a_taken_port_ends_and_says_which(capsys: pytest.CaptureFixture[str]) -> None:
    with socket.create_server(("127.0.0.1", 0)) as taken:
        port = taken.getsockname()[1]
        assert _run("probe", "--urls=", "--http-address=127.0.0.1", f"--http-port={port}") == ExitCode.UNAVAILABLE
    assert f"port {port}: Address already in use" in capsys.readouterr().err
