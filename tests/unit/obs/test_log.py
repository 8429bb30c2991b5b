"""Log records: both formats, severities per place, a limit for what repeats, no secrets."""

import io
import json
import logging
from collections.abc import Iterator
from pathlib import Path

import pytest

from felix.obs.log import JsonFormatter, LogControl, LogHooks, LogOptions, RateLimit, start_logging

log = logging.getLogger("felix.test")


@pytest.fixture
def screen() -> io.StringIO:
    return io.StringIO()


@pytest.fixture
def controls() -> Iterator[list[LogControl]]:
    started: list[LogControl] = []
    yield started
    for control in started:
        control.close()
    logging.getLogger("felix").setLevel(logging.NOTSET)


def test_plain_line_has_severity_place_and_message(screen: io.StringIO, controls: list[LogControl]) -> None:
    controls.append(start_logging(LogOptions(), stream=screen))
    log.info("endpoint %s is up", "a")
    log.debug("not this")
    (line,) = screen.getvalue().splitlines()
    assert line.endswith(" INFO felix.test: endpoint a is up")


def test_plain_line_stays_one_line_whatever_it_quotes(screen: io.StringIO, controls: list[LogControl]) -> None:
    controls.append(start_logging(LogOptions(), stream=screen))
    log.warning("profile %s: bad", "x\n2026-01-01 ERROR felix: \x1b[31mfake\u2028")
    (line,) = screen.getvalue().splitlines()
    assert line.endswith(r"profile x\n2026-01-01 ERROR felix: \x1b[31mfake\u2028: bad")
    try:
        raise RuntimeError("why")
    except RuntimeError:
        log.exception("failed")
    assert "RuntimeError: why" in screen.getvalue().splitlines()[-1]


def test_json_line_is_one_object_with_traceback(screen: io.StringIO, controls: list[LogControl]) -> None:
    controls.append(start_logging(LogOptions(is_json=True), stream=screen))
    try:
        raise RuntimeError("why")
    except RuntimeError:
        log.exception('a "quoted" word')
    entry = json.loads(screen.getvalue())
    assert (entry["level"], entry["logger"], entry["message"]) == ("ERROR", "felix.test", 'a "quoted" word')
    assert "RuntimeError: why" in entry["traceback"]


def test_json_line_quotes_bytes_that_are_no_text() -> None:
    # Formatted by hand: pytest would capture a logged record and could not send it from a worker to its master.
    record = logging.makeLogRecord({"name": "felix.x", "levelname": "WARNING", "msg": "key %s", "args": ("a\udcff",)})
    assert json.loads(JsonFormatter().format(record))["message"] == "key a\\udcff"


def test_file_and_screen_have_severities_of_their_own(
    tmp_path: Path, screen: io.StringIO, controls: list[LogControl]
) -> None:
    path = tmp_path / "deep" / "felix.log"
    controls.append(start_logging(LogOptions("ERROR", "DEBUG", str(path)), stream=screen))
    log.debug("detail")
    assert screen.getvalue() == ""
    assert "DEBUG felix.test: detail" in path.read_text(encoding="utf-8")
    controls[0].set_levels("DEBUG", "NONE")
    log.debug("more")
    assert "more" in screen.getvalue()
    assert "more" not in path.read_text(encoding="utf-8")


def test_file_that_cannot_be_opened_is_reported_and_left_out(screen: io.StringIO, controls: list[LogControl]) -> None:
    controls.append(start_logging(LogOptions(path="/dev/null/felix.log"), stream=screen))
    log.info("goes on")
    assert "/dev/null/felix.log cannot be written" in screen.getvalue()
    assert "goes on" in screen.getvalue()


def test_password_in_an_address_is_never_written(screen: io.StringIO, controls: list[LogControl]) -> None:
    controls.append(start_logging(LogOptions(), stream=screen))
    log.warning("cannot reach %s", "https://root:hunter2@etcd:2379")
    assert "hunter2" not in screen.getvalue()
    assert "https://root:(secret)@etcd:2379" in screen.getvalue()


def test_hooks_count_errors_and_dropped_records(screen: io.StringIO, controls: list[LogControl]) -> None:
    counts = {"dropped": 0, "error": 0}

    def count(name: str) -> None:
        counts[name] += 1

    hooks = LogHooks(on_dropped=lambda: count("dropped"), on_error=lambda: count("error"))
    controls.append(start_logging(LogOptions(), stream=screen, hooks=hooks))
    for _ in range(25):
        log.error("the same again")
    assert counts == {"dropped": 5, "error": 25}
    assert len(screen.getvalue().splitlines()) == 20


def record(message: str) -> logging.LogRecord:
    return logging.LogRecord("felix", logging.INFO, "", 0, message, None, None)


def test_rate_limit_holds_back_what_repeats_and_says_so_later() -> None:
    now = 0.0
    limit = RateLimit(lambda: now, burst=2, period_s=60.0)
    assert [limit.filter(record("a")) for _ in range(5)] == [True, True, False, False, False]
    assert limit.filter(record("b"))
    now = 60.0
    later = record("a")
    assert limit.filter(later)
    assert "3 times more" in later.__dict__["held_back"]
    again = record("a")
    assert limit.filter(again)
    assert again.__dict__["held_back"] == ""


def test_rate_limit_remembers_a_bounded_number_of_places() -> None:
    limit = RateLimit(lambda: 0.0, burst=1)
    for number in range(limit.MAX_PLACES + 10):
        assert limit.filter(record(f"message {number}"))
    assert limit.filter(record("message 0"))
    assert not limit.filter(record(f"message {limit.MAX_PLACES + 9}"))
