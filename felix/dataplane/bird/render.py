"""A configuration of BIRD as text. Pure, but for reading its own template once.

Whatever comes from outside is either a value that `context` parsed, or passes `quote`: a text that could end its own
quotes is refused here, however it got this far.
"""

from __future__ import annotations

import functools
import hashlib
import re
import sys
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import PurePath

import jinja2

from felix.dataplane.bird.types import BirdContext, Session
from felix.errors import DataError
from felix.model.keys import ResourceKey

TEMPLATE = "bird.conf.j2"
_DEFAULT_HOLD_TIME_S = 240
_DIGEST_LENGTH = 16
_QUOTABLE = re.compile(r"[ !#-~]{1,200}")  # printable ASCII but the quote; BIRD knows no escapes inside quotes


@dataclass(frozen=True, slots=True)
class SessionText:
    """A session as the template prints it: names, and statements without their semicolons."""

    name: str
    origin: ResourceKey
    version: int
    local: str
    remote: str
    options: tuple[str, ...]
    channel_options: tuple[str, ...]
    imports: tuple[str, ...]
    exports: tuple[str, ...]


def is_quotable(text: str) -> bool:
    """Whether BIRD's configuration can hold `text` between quotes."""
    return _QUOTABLE.fullmatch(text) is not None


def quote(text: str) -> str:
    """Returns `text` between quotes; raises DataError, without repeating the text, when BIRD could not read it back."""
    if not is_quotable(text):
        raise DataError("a text for BIRD's configuration is not of 1 to 200 printable ASCII characters without quotes")
    return f'"{text}"'


def render_bird(context: BirdContext) -> str:
    """Returns the whole configuration file, equal for equal contexts; its digest stands in its second line."""
    draft = _render(context, "")
    return _render(context, hashlib.sha256(draft.encode()).hexdigest()[:_DIGEST_LENGTH])


def find_digest(text: str) -> str:
    """Returns the digest that a rendered file carries, empty when it is not one of ours."""
    found = re.search(r'^define felix_digest = "([0-9a-f]*)";$', text, re.MULTILINE)
    return found.group(1) if found else ""


def _render(context: BirdContext, digest: str) -> str:
    sessions = [_session_text(session) for session in context.sessions]
    return _template().render(context=context, sessions=sessions, digest=digest)


@functools.cache
def _template() -> jinja2.Template:
    folders = [
        str(PurePath(__file__).parents[3] / "bird_templates"),
        str(PurePath(sys.prefix) / "share" / "felix" / "bird_templates"),
    ]
    environment = jinja2.Environment(
        loader=jinja2.FileSystemLoader(folders),
        undefined=jinja2.StrictUndefined,
        autoescape=False,  # text, not HTML
    )
    environment.filters["quote"] = quote
    environment.filters["comment"] = _comment
    return environment.get_template(TEMPLATE)


def _comment(thing: object) -> str:
    return re.sub(r"[^ -~]", "?", str(thing))


def _session_text(session: Session) -> SessionText:
    local = f"{session.local_address} port" if session.local_address else "port"
    peer_type = "true" if session.is_ebgp else "false"
    version = session.version
    closed = ("reject",)
    imports = (
        f"never_import{version}()",
        *(f"{name}({peer_type})" for name in session.imports),
        f"usually_import{version}()",
    )
    exports = (
        f"never_export{version}()",
        f"add_communities{version}()",
        *(f"{name}({peer_type})" for name in session.exports),
        f"usually_export{version}()",
    )
    return SessionText(
        name=session.name,
        origin=session.origin,
        version=version,
        local=f"{local} {session.local_port} as {session.local_as}",
        remote=f"{session.neighbor} port {session.neighbor_port} as {session.neighbor_as}",
        options=tuple(_options(session)),
        channel_options=(f"next hop {session.next_hop}",) if session.next_hop else (),
        imports=closed if session.is_closed else imports,
        exports=closed if session.is_closed else exports,
    )


def _options(session: Session) -> Iterator[str]:
    yield f"multihop {session.hops}" if session.hops else "multihop"
    yield f"ttl security {'on' if session.ttl_security else 'off'}"
    if session.is_strict_bind:
        yield "strict bind on"
    if session.is_passive:
        yield "passive on"
    if session.password is not None:
        yield f"password {quote(session.password)}"
    if session.is_client:
        yield "rr client"
        yield f"rr cluster id {session.cluster_id}"
    if session.allowed_local_as:
        yield f"allow local as {session.allowed_local_as}"
    if session.restart_time_s:
        yield f"graceful restart time {session.restart_time_s}"
    if session.keepalive_time_s:
        yield f"hold time {max(_DEFAULT_HOLD_TIME_S, 3 * session.keepalive_time_s)}"
        yield f"keepalive time {session.keepalive_time_s}"
