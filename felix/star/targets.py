"""What a probe tries, and what came of it, in the JSON of the original's `GET /status`."""

from __future__ import annotations

from collections.abc import Iterable
from typing import NamedTuple
from urllib.parse import urlsplit

import msgspec

from felix.star.faults import BadInput

TARGETS_MOST = 256
URL_LENGTH_MOST = 2048
PENDING = "pending"
ANSWERED = "ok"


class Place(NamedTuple):
    """Where a URL leads. scheme: `http`, `https`, or `tcp` for a connection and nothing more."""

    scheme: str
    host: str
    port: int


_PORT_BY_SCHEME = {"http": 80, "https": 443, "tcp": 0}


class Target(msgspec.Struct):
    """One URL and its last result.

    reachable: false until the first try has ended. outcome: `pending` until then; `ok`, or why not: `timeout`,
    `refused`, `reset`, `unreachable`, `no-name`, `tls`, `no-http`.
    """

    url: str
    reachable: bool = False
    outcome: str = PENDING


class Status(msgspec.Struct):
    """All targets of a probe."""

    targets: list[Target]


class StatusDocument(msgspec.Struct):
    """What `GET /status` answers."""

    status: Status


def parse_urls(text: str) -> list[str]:
    """Returns the URLs of a comma list in order, each once, blanks dropped; raises BadInput."""
    urls = list(dict.fromkeys(word.strip() for word in text.split(",") if word.strip()))
    for url in urls:
        parse_place(url)
    if len(urls) > TARGETS_MOST:
        raise BadInput(f"--urls has {len(urls)} URLs, a probe takes {TARGETS_MOST}; start several")
    return urls


def parse_place(url: str, schemes: Iterable[str] = tuple(_PORT_BY_SCHEME)) -> Place:
    """Returns where `url` leads; `host:port` alone is HTTP. Raises BadInput."""
    if len(url) > URL_LENGTH_MOST:
        raise BadInput(f"URL {url[:60]}… is {len(url)} characters long, {URL_LENGTH_MOST} are taken")
    try:
        parts = urlsplit(complete_url(url))
        port = parts.port
    except ValueError as error:
        raise BadInput(f"URL {url!r}: {error}") from error
    if parts.scheme not in schemes:
        raise BadInput(f"URL {url!r}: scheme {parts.scheme!r} is unknown; {', '.join(schemes)} are known")
    if not parts.hostname or any(character.isspace() or not character.isprintable() for character in url):
        raise BadInput(f"URL {url!r} names no host; an example is http://10.0.0.7:9000/status")
    port = _PORT_BY_SCHEME[parts.scheme] if port is None else port
    if port == 0:
        raise BadInput(f"URL {url!r} names no port; an example is tcp://10.0.0.7:9000")
    return Place(parts.scheme, parts.hostname, port)


def complete_url(url: str) -> str:
    """Returns `url` with its scheme: the original's help names URLs like `foo.baz.com:80`."""
    return url if "://" in url else f"http://{url}"
