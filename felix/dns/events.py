"""Reads the stream of events of a Mesos master, RecordIO: length in digits, line feed, so many bytes of JSON."""

from __future__ import annotations

import msgspec

RECORD_LIMIT = 256 * 1024 * 1024
SUBSCRIBE = b'{"type":"SUBSCRIBE"}'

_QUIET = frozenset({"HEARTBEAT", "SUBSCRIBED"})


class BadStream(ValueError):
    """What comes is no RecordIO."""


class _Event(msgspec.Struct):
    type: str = ""


class RecordReader:
    """Takes bytes as they come; gives the types of the events that are whole."""

    def __init__(self) -> None:
        self._rest = bytearray()

    def feed(self, chunk: bytes) -> list[str]:
        """Returns the types of the events that ended with `chunk`, in their order. Raises BadStream."""
        self._rest += chunk
        types: list[str] = []
        while True:
            end = self._rest.find(b"\n", 0, 21)
            if end < 0:
                if len(self._rest) > 20:
                    raise BadStream(f"expected a length, not {bytes(self._rest[:20])!r}")
                return types
            digits = bytes(self._rest[:end])
            if not digits.isdigit() or int(digits) > RECORD_LIMIT:
                raise BadStream(f"expected a length of at most {RECORD_LIMIT}, not {digits!r}")
            size = int(digits)
            if len(self._rest) < end + 1 + size:
                return types
            record = bytes(self._rest[end + 1 : end + 1 + size])
            del self._rest[: end + 1 + size]
            try:
                types.append(msgspec.json.decode(record, type=_Event).type)
            except (ValueError, RecursionError) as error:
                raise BadStream(f"an event is no JSON: {error}") from error


def is_news(event_type: str) -> bool:
    """Whether names may be other ones after an event of this type."""
    return event_type not in _QUIET
