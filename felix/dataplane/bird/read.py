"""What a running BIRD says of itself, over its control socket. Shell.

Answers are told apart by their numbers (BIRD's nest/cmds and doc/reply_codes), not by their words. Inside a protocol's
detail BIRD gives words only; those lines come with number 1006.
"""

from __future__ import annotations

import asyncio
import re
from collections.abc import Iterable, Iterator
from pathlib import Path
from types import TracebackType
from typing import NamedTuple

from felix.dataplane.bird.types import BirdState, ChannelState, ProtocolState, Secret, SecretKey
from felix.errors import EnvironmentFault, PeerError

OK = 0
READING_CONFIGURATION = 2
RECONFIGURED = 3
RECONFIGURING = 4
EVALUATED = 23
_VERSION = 1000
_PROTOCOL = 1002
_PROTOCOL_DETAIL = 1006
_STATUS = 1011
_FIRST_ERROR = 8000
_LINE_LIMIT_BYTES = 1 << 20
_ROUTES = re.compile(r"(\d+) imported(?:, \d+ filtered)?, (\d+) exported(?:, (\d+) preferred)?")


class Reply(NamedTuple):
    """One line of an answer."""

    code: int
    text: str


class BirdControl:
    """A connection to BIRD's control socket, for `async with`. All waits together take at most `timeout_s` each.

    Raises EnvironmentFault when nobody listens there, PeerError when BIRD does not answer in time.
    """

    def __init__(self, path: Path, timeout_s: float = 5.0) -> None:
        self._path = path
        self._timeout_s = timeout_s
        self._reader: asyncio.StreamReader | None = None
        self._writer: asyncio.StreamWriter | None = None

    async def __aenter__(self) -> BirdControl:
        try:
            async with asyncio.timeout(self._timeout_s):
                self._reader, self._writer = await asyncio.open_unix_connection(self._path, limit=_LINE_LIMIT_BYTES)
        except TimeoutError as late:
            raise PeerError(f"BIRD does not accept connections at {self._path}") from late
        except OSError as failure:
            reason = f"BIRD's control socket {self._path}: {failure.strerror}; is BIRD running?"
            raise EnvironmentFault(reason) from failure
        try:
            await self._replies()
        except BaseException:
            self._writer.close()
            raise
        return self

    async def __aexit__(
        self, kind: type[BaseException] | None, failure: BaseException | None, trace: TracebackType | None
    ) -> None:
        if self._writer is not None:
            self._writer.close()

    async def ask(self, command: str) -> list[Reply]:
        """Returns all lines of the answer to one command; error numbers (8000 and above) are returned too."""
        assert self._writer is not None
        self._writer.write(f"{command}\n".encode())
        return await self._replies()

    async def _replies(self) -> list[Reply]:
        assert self._reader is not None
        replies: list[Reply] = []
        try:
            async with asyncio.timeout(self._timeout_s):
                while True:
                    line = (await self._reader.readline()).decode(errors="replace")
                    if not line.endswith("\n"):
                        raise PeerError(f"BIRD closed its control socket {self._path} in the middle of an answer")
                    line = line.rstrip("\n")
                    if line[:4].isdigit():
                        replies.append(Reply(int(line[:4]), line[5:]))
                        if line[4:5] != "-":
                            return replies
                    elif not line.startswith("+"):  # a '+' comes unasked: a log line
                        replies.append(Reply(replies[-1].code if replies else OK, line[1:]))
        except TimeoutError as late:
            raise PeerError(f"BIRD gave no whole answer within {self._timeout_s:g} s at {self._path}") from late
        except (OSError, ValueError) as failure:
            raise PeerError(f"BIRD's control socket {self._path}: {failure}") from failure


async def read_state(path: Path, timeout_s: float = 5.0) -> BirdState:
    """Returns what BIRD runs now: its configuration's digest and all protocols with their states."""
    async with BirdControl(path, timeout_s) as control:
        status = await control.ask("show status")
        digest = await read_digest(control)
        protocols = parse_protocols(await control.ask("show protocols all"))
    version = next((text for code, text in status if code == _VERSION), "")
    words = [text for code, text in status if code == _STATUS and text.startswith("Router ID is ")]
    return BirdState(
        version=version.removeprefix("BIRD "),
        router_id=words[0].removeprefix("Router ID is ") if words else "",
        digest=digest,
        protocols=protocols,
    )


async def read_digest(control: BirdControl) -> str:
    """Returns the digest of the running configuration, empty when it is not one of ours."""
    for code, text in await control.ask("eval felix_digest"):
        if code == EVALUATED:
            return text.strip().strip('"')
    return ""


def is_error(replies: Iterable[Reply]) -> bool:
    """Whether the answer says that the command failed."""
    return any(reply.code >= _FIRST_ERROR for reply in replies)


def parse_protocols(replies: Iterable[Reply]) -> tuple[ProtocolState, ...]:
    """Returns the states in an answer to `show protocols all`, in BIRD's order."""
    states: list[ProtocolState] = []
    heading = ""
    details: list[str] = []
    for code, text in replies:
        if code == _PROTOCOL:
            if heading:
                states.append(_parse_protocol(heading, details))
            heading, details = text, []
        elif code == _PROTOCOL_DETAIL:
            details.append(text)
    if heading:
        states.append(_parse_protocol(heading, details))
    return tuple(states)


def _parse_protocol(heading: str, details: list[str]) -> ProtocolState:
    name, kind, _table, state, since, *info = heading.split(None, 5)
    value_by_title = {
        title.strip(): value.strip() for title, colon, value in (line.partition(":") for line in details) if colon
    }
    neighbor_as = value_by_title.get("Neighbor AS", "")
    return ProtocolState(
        name=name,
        kind=kind,
        state=state,
        since=since,
        info=info[0].strip() if info else "",
        bgp_state=value_by_title.get("BGP state", ""),
        neighbor=value_by_title.get("Neighbor address", ""),
        neighbor_as=int(neighbor_as) if neighbor_as.isdigit() else 0,
        last_error=value_by_title.get("Last error", ""),
        channels=tuple(_parse_channels(details)),
    )


def _parse_channels(details: list[str]) -> Iterator[ChannelState]:
    name, state = "", ""
    for line in details:
        title, _, value = line.strip().partition(":")
        if title.startswith("Channel "):
            name, state = title.removeprefix("Channel "), ""
        elif name and title == "State":
            state = value.strip()
        elif name and title == "Routes":
            found = _ROUTES.search(value)
            counts = [int(count or 0) for count in found.groups()] if found else [0, 0, 0]
            yield ChannelState(name, state, *counts)
            name = ""


def read_file(path: Path) -> str:
    """Returns the configuration file's text, empty when there is none or it is no text. Raises OSError otherwise."""
    try:
        return path.read_text()
    except (FileNotFoundError, UnicodeDecodeError):
        return ""


def read_secrets(directory: Path) -> dict[SecretKey, Secret]:
    """Returns the passwords in `<directory>/<name>/<key>`, one a file, end of line removed; empty when there are none.

    Files that others may read, and files that cannot be read, are left out.
    """
    found: dict[SecretKey, Secret] = {}
    for path in sorted(directory.glob("*/*")):
        try:
            if path.is_file() and not path.stat().st_mode & 0o007:
                found[path.parent.name, path.name] = Secret(path.read_text().rstrip("\r\n"))
        except (OSError, UnicodeDecodeError):
            continue
    return found
