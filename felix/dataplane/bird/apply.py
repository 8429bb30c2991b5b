"""A configuration is checked, swapped in and taken over by BIRD; what BIRD refuses is found and left out. Shell.

The file changes only when its text does, BIRD is told only when it runs something else, and a configuration that
`bird -p` refuses never replaces a good one.
"""

from __future__ import annotations

import asyncio
import contextlib
import logging
import os
import tempfile
from collections.abc import Awaitable, Callable, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import TypeVar

from felix.dataplane.bird.plan import plan_bird
from felix.dataplane.bird.read import (
    RECONFIGURED,
    RECONFIGURING,
    BirdControl,
    is_error,
    read_digest,
    read_file,
)
from felix.dataplane.bird.render import quote, render_bird
from felix.dataplane.bird.types import BirdContext, BirdOutcome, FilterFunction, Session
from felix.errors import EnvironmentFault, FelixError, PeerError, Problem

_log = logging.getLogger(__name__)
_MODE = 0o640

Part = TypeVar("Part", FilterFunction, Session)
Check = Callable[[BirdContext], Awaitable[str]]
"""Returns why BIRD refuses a configuration, empty when it takes it."""


@dataclass(frozen=True, slots=True)
class BirdPlace:
    """Where BIRD's configuration file and control socket are, and the program that checks configurations."""

    config: Path
    socket: Path
    program: str = "bird"
    timeout_s: float = 5.0


async def apply_bird(place: BirdPlace, context: BirdContext) -> BirdOutcome:
    """The file holds the configuration, less what BIRD refuses, and BIRD runs it if it is there.

    Raises nothing for a missing, dead or unwilling BIRD: the outcome's `fault` says so and the file is ready for it.
    A second apply of the same context writes nothing and configures nothing.
    """
    problems: tuple[Problem, ...] = ()
    try:
        believed = read_file(place.config)
        plan = plan_bird(context, believed)
        if not plan.is_empty and await _check(place, context):
            context, problems = await leave_out_refused(context, lambda draft: _check(place, draft))
            plan = plan_bird(context, believed)
        if not plan.is_empty:
            _swap(place, plan.text)
    except OSError as failure:
        return BirdOutcome(False, False, False, "", problems, f"{place.config}: {failure.strerror}")
    except FelixError as failure:
        return BirdOutcome(False, False, False, "", problems, str(failure))
    return await _configure(place, plan.digest, problems, is_written=not plan.is_empty)


async def leave_out_refused(context: BirdContext, check: Check) -> tuple[BirdContext, tuple[Problem, ...]]:
    """Returns the largest part of the configuration that `check` takes, and a problem for each thing left out.

    A refused filter closes the sessions that use it. Raises PeerError when even the part without filters and
    sessions is refused: nothing may be written then.
    """
    bare = replace(context, filters=(), sessions=())
    if reason := await check(bare):
        raise PeerError(f"BIRD refuses the configuration without sessions already: {reason}")

    async def check_filters(part: Sequence[FilterFunction]) -> str:
        return await check(replace(bare, filters=tuple(part)))

    bad_filters = dict(await _find_refused(context.filters, check_filters))
    names = {function.name for function in bad_filters}
    kept = tuple(function for function in context.filters if function.name not in names)
    sessions = [
        replace(session, imports=(), exports=(), is_closed=True)
        if not names.isdisjoint((*session.imports, *session.exports))
        else session
        for session in context.sessions
    ]

    async def check_sessions(part: Sequence[Session]) -> str:
        return await check(replace(context, filters=kept, sessions=tuple(part)))

    bad_sessions = dict(await _find_refused(sessions, check_sessions))
    problems = [
        *(_refusal(bad, f"sessions that use it pass nothing: {why}") for bad, why in bad_filters.items()),
        *(_refusal(bad, f"it has no session {bad.name}: {why}") for bad, why in bad_sessions.items()),
    ]
    good = tuple(session for session in sessions if session not in bad_sessions)
    return replace(context, filters=kept, sessions=good), tuple(problems)


async def _find_refused(
    parts: Sequence[Part], check: Callable[[Sequence[Part]], Awaitable[str]]
) -> list[tuple[Part, str]]:
    reason = await check(parts) if parts else ""
    if not reason:
        return []
    if len(parts) == 1:
        return [(parts[0], reason)]
    middle = len(parts) // 2
    found = await _find_refused(parts[:middle], check)
    found += await _find_refused(parts[middle:], check)
    return found


def _refusal(bad: FilterFunction | Session, reason: str) -> Problem:
    return Problem(subject=str(bad.origin), field="", value="", reason=f"BIRD refuses what it asks for; {reason}")


async def _check(place: BirdPlace, context: BirdContext) -> str:
    place.config.parent.mkdir(parents=True, exist_ok=True)
    draft = _write_draft(place.config, render_bird(context))
    try:
        program = await asyncio.create_subprocess_exec(
            *(place.program, "-p", "-c", str(draft)),
            stdin=asyncio.subprocess.DEVNULL,
            stdout=asyncio.subprocess.PIPE,
            stderr=asyncio.subprocess.STDOUT,
        )
        try:
            async with asyncio.timeout(place.timeout_s):
                errors, _ = await program.communicate()
        except TimeoutError as late:
            program.kill()
            await program.wait()
            raise PeerError(f"{place.program} -p did not end within {place.timeout_s:g} s") from late
        if program.returncode == 0:
            return ""
        # Where and what, never the line itself: it may hold a password.
        words = errors.decode(errors="replace").strip().replace(f"{draft}:", "line ")
        return words.removeprefix("bird: ") or f"exit {program.returncode}"
    except FileNotFoundError as missing:
        raise EnvironmentFault(f"the program {place.program!r} is not installed; no BGP until it is") from missing
    finally:
        draft.unlink(missing_ok=True)


async def _configure(place: BirdPlace, digest: str, problems: tuple[Problem, ...], *, is_written: bool) -> BirdOutcome:
    is_configured = False
    fault = ""
    try:
        async with BirdControl(place.socket, place.timeout_s) as control:
            if await read_digest(control) != digest:
                _log.info("BIRD takes over configuration %s", digest)
                replies = await control.ask(f"configure {quote(str(place.config))}")
                is_configured = any(reply.code in {RECONFIGURED, RECONFIGURING} for reply in replies)
                if is_error(replies) or not is_configured:
                    fault = f"BIRD does not take over {place.config}: {replies[-1].code} {replies[-1].text}"
                elif await read_digest(control) != digest:
                    fault = f"BIRD does not run {place.config} though it was told to; is the file the same for it?"
    except FelixError as failure:
        fault = str(failure)
    return BirdOutcome(not fault, is_written, is_configured, digest, problems, fault)


def _swap(place: BirdPlace, text: str) -> None:
    draft = _write_draft(place.config, text)
    try:
        draft.chmod(_MODE)
        with contextlib.suppress(FileNotFoundError, PermissionError):
            # BIRD gives up root; the group of its socket is one that it has kept.
            os.chown(draft, -1, place.socket.stat().st_gid)
        draft.replace(place.config)
    except BaseException:
        draft.unlink(missing_ok=True)
        raise


def _write_draft(path: Path, text: str) -> Path:
    descriptor, name = tempfile.mkstemp(prefix=f".{path.name}.", dir=path.parent)
    with os.fdopen(descriptor, "w") as draft:
        draft.write(text)
    return Path(name)
