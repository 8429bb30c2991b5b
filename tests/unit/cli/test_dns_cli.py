"""`felix dns`: files that cannot be used, and what --check says, with codes that scripts can use."""

from pathlib import Path

import pytest

from felix.__main__ import main
from felix.config.exits import ExitCode


def run(tmp_path: Path, text: str, *words: str) -> int:
    path = tmp_path / "dns.json"
    path.write_text(text)
    return main(["dns", "--config", str(path), *words])


def test_check_of_a_good_file_says_so(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert run(tmp_path, '{"masters": ["10.0.0.1:5050"]}', "--check") == ExitCode.OK
    assert "nothing is wrong" in capsys.readouterr().out


def test_check_tells_keys_that_do_nothing(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert run(tmp_path, '{"masters": ["10.0.0.1:5050"], "listner": "10.0.0.1"}', "--check") == ExitCode.FAILED
    assert "listner is no setting and does nothing; did you mean listener?" in capsys.readouterr().out


def test_bad_value_ends_with_the_code_for_bad_settings(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert run(tmp_path, '{"masters": ["10.0.0.1:5050"], "port": "53"}') == ExitCode.BAD_SETTING
    assert "dns.json: port: expected a whole number from 1 to 65535 (seen: 53)" in capsys.readouterr().err


def test_missing_file_ends_with_the_code_for_bad_settings(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["dns", "--config", str(tmp_path / "none")]) == ExitCode.BAD_SETTING
    assert "cannot be read" in capsys.readouterr().err


def test_address_that_this_host_lacks_is_an_error_with_the_remedy(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    text = '{"masters": ["10.0.0.1:5050"], "listener": "192.0.2.77", "httpon": false}'
    assert run(tmp_path, text) == ExitCode.UNAVAILABLE
    assert "192.0.2.77:53" in capsys.readouterr().err
