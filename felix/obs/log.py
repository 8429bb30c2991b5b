"""Where log records go and how they look. Call `start_logging` once; every module logs through `logging` as usual.

A message that repeats is held back after some times per minute, and how often it was is said later: a fault that
happens at every packet or event must not hide the others. Passwords in addresses (`http://user:password@host`)
never reach a log.
"""

from __future__ import annotations

import copy
import logging
import logging.handlers
import os
import re
import sys
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import NamedTuple, TextIO

import msgspec

from felix.clock import Clock, monotonic_s

TRACE = 5
OFF = logging.CRITICAL + 1
LEVEL_BY_NAME = {
    "TRACE": TRACE,
    "DEBUG": logging.DEBUG,
    "INFO": logging.INFO,
    "WARNING": logging.WARNING,
    "ERROR": logging.ERROR,
    "FATAL": logging.CRITICAL,
    "NONE": OFF,
}

_SECRET_IN_URL = re.compile(r"(://[^/@\s:]*:)[^/@\s]+@")
_SYSLOG_PRIORITY_BY_LEVEL = {logging.CRITICAL: 2, logging.ERROR: 3, logging.WARNING: 4, logging.INFO: 6}


class LogHooks(NamedTuple):
    """on_dropped: called for each record held back. on_error: for each one of severity ERROR or worse."""

    on_dropped: Callable[[], None] = lambda: None
    on_error: Callable[[], None] = lambda: None


NO_HOOKS = LogHooks()


class LogCounts:
    """How many records were held back on the screen, and how many were of severity ERROR or worse; `hooks` count."""

    def __init__(self) -> None:
        self.dropped = 0
        self.errors = 0
        self.hooks = LogHooks(self._note_dropped, self._note_error)

    def _note_dropped(self) -> None:
        self.dropped += 1

    def _note_error(self) -> None:
        self.errors += 1


@dataclass(frozen=True, slots=True)
class LogOptions:
    """screen, file: least severity written there, a key of LEVEL_BY_NAME. path: of the log file, empty for none."""

    screen: str = "INFO"
    file: str = "INFO"
    path: str = ""
    is_json: bool = False


class RateLimit(logging.Filter):
    """Lets a message pass `burst` times per `period_s` and place in the code, and counts what it holds back.

    The first record that passes after some were held back says how many there were.
    on_dropped: called once per record that is held back.
    """

    MAX_PLACES = 2000

    def __init__(
        self,
        clock: Clock = monotonic_s,
        *,
        burst: int = 20,
        period_s: float = 60.0,
        on_dropped: Callable[[], None] = lambda: None,
    ) -> None:
        super().__init__()
        self._clock = clock
        self._burst = burst
        self._period_s = period_s
        self._on_dropped = on_dropped
        self._state_by_place: dict[tuple[str, int, str], tuple[float, int]] = {}

    def filter(self, record: logging.LogRecord) -> bool:
        """Whether the record may be written; adds a word on those that were not, before it."""
        now = self._clock()
        place = (record.name, record.levelno, str(record.msg))
        since, seen = self._state_by_place.get(place, (now, 0))
        held_back = max(0, seen - self._burst)
        suffix = ""
        if now - since >= self._period_s:
            since, seen = now, 0
            if held_back:
                suffix = f" (and {held_back} times more before, held back)"
        # An attribute, not a new text: other handlers see the same record and count it by its text.
        record.held_back = suffix
        if len(self._state_by_place) >= self.MAX_PLACES and place not in self._state_by_place:
            del self._state_by_place[next(iter(self._state_by_place))]
        self._state_by_place[place] = (since, seen + 1)
        if seen >= self._burst:
            self._on_dropped()
            return False
        return True


class PlainFormatter(logging.Formatter):
    """One line per record; for the journal without time, which it adds itself, and with its mark of severity."""

    def __init__(self, *, is_journal: bool) -> None:
        layout = "%(levelname)s %(name)s: %(message)s"
        super().__init__(layout if is_journal else f"%(asctime)s.%(msecs)03d {layout}", "%Y-%m-%d %H:%M:%S")
        self._is_journal = is_journal

    def format(self, record: logging.LogRecord) -> str:
        """Returns the text of a record on one line, whatever it quotes; a traceback on lines of its own."""
        record = copy.copy(record)
        record.msg, record.args = _make_printable(record.getMessage()), None
        text = _hide_secrets(super().format(record)) + getattr(record, "held_back", "")
        if not self._is_journal:
            return text
        mark = f"<{_SYSLOG_PRIORITY_BY_LEVEL.get(record.levelno, 7)}>"
        return "\n".join(mark + line for line in text.splitlines())


class JsonFormatter(logging.Formatter):
    """One JSON object per record: time (seconds since 1970), level, logger, message, and traceback if there is one."""

    def format(self, record: logging.LogRecord) -> str:
        """Returns the object, on one line."""
        entry = {
            "time": round(record.created, 6),
            "level": record.levelname,
            "logger": record.name,
            "message": _make_encodable(_hide_secrets(record.getMessage())) + getattr(record, "held_back", ""),
        }
        if record.exc_info:
            entry["traceback"] = _make_encodable(_hide_secrets(self.formatException(record.exc_info)))
        return msgspec.json.encode(entry).decode()


class _Tally(logging.Handler):
    """Writes nothing; calls `on_error` for each record of severity ERROR or worse."""

    def __init__(self, on_error: Callable[[], None]) -> None:
        super().__init__(logging.ERROR)
        self._on_error = on_error

    def emit(self, record: logging.LogRecord) -> None:
        self._on_error()


class LogControl:
    """The log handlers of this process. Attributes are for reading."""

    def __init__(self, screen: logging.Handler, file: logging.Handler | None, tally: logging.Handler) -> None:
        self.screen = screen
        self.file = file
        self._tally = tally
        logging.getLogger().addHandler(tally)

    def set_levels(self, screen: str, file: str) -> None:
        """From now on writes records of these severities, keys of LEVEL_BY_NAME, and worse."""
        levels = [LEVEL_BY_NAME[screen]]
        self.screen.setLevel(levels[0])
        if self.file is not None:
            levels.append(LEVEL_BY_NAME[file])
            self.file.setLevel(levels[1])
        logging.getLogger("felix").setLevel(min(levels))

    def close(self) -> None:
        """Takes the handlers away again and closes the file."""
        for handler in (self.screen, self.file, self._tally):
            if handler is not None:
                logging.getLogger().removeHandler(handler)
                handler.close()


def start_logging(options: LogOptions, *, stream: TextIO | None = None, hooks: LogHooks = NO_HOOKS) -> LogControl:
    """Sends log records to `stream` (None: standard error) and to the file of `options`.

    A file that cannot be opened is reported on the stream and left out.
    """
    logging.addLevelName(TRACE, "TRACE")
    logging.addLevelName(logging.CRITICAL, "FATAL")
    is_journal = "JOURNAL_STREAM" in os.environ and stream is None
    screen = logging.StreamHandler(stream or sys.stderr)
    file, fault = _open_file(options.path)
    for handler in filter(None, (screen, file)):
        plain = PlainFormatter(is_journal=is_journal and handler is screen)
        handler.setFormatter(JsonFormatter() if options.is_json else plain)
        handler.addFilter(RateLimit(on_dropped=hooks.on_dropped) if handler is screen else RateLimit())
        logging.getLogger().addHandler(handler)
    control = LogControl(screen, file, _Tally(hooks.on_error))
    control.set_levels(options.screen, options.file)
    if fault:
        logging.getLogger(__name__).warning("log file %s cannot be written, screen only: %s", options.path, fault)
    return control


def _open_file(path: str) -> tuple[logging.Handler | None, str]:
    if not path:
        return None, ""
    try:
        Path(path).parent.mkdir(parents=True, exist_ok=True)
        # Opens the file again when a log rotation moved it away.
        return logging.handlers.WatchedFileHandler(path, encoding="utf-8"), ""
    except OSError as error:
        return None, str(error)


def _make_printable(text: str) -> str:
    """Returns `text` without what could pass for another line, or steer a terminal: names may come from anybody."""
    if text.isprintable():
        return text
    return "".join(one if one.isprintable() else one.encode("unicode_escape").decode() for one in text)


def _make_encodable(text: str) -> str:
    """Returns `text` without the surrogates that stand for bytes which are no UTF-8: JSON cannot hold them."""
    return text if text.isascii() else text.encode("utf-8", "backslashreplace").decode()


def _hide_secrets(text: str) -> str:
    return _SECRET_IN_URL.sub(r"\1(secret)@", text) if "://" in text else text
