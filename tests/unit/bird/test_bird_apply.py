"""What is left out when BIRD refuses a configuration, and what is not."""

from __future__ import annotations

from dataclasses import replace

import pytest

from felix.dataplane.bird.apply import leave_out_refused
from felix.dataplane.bird.context import build_context
from felix.dataplane.bird.types import BirdContext
from felix.errors import PeerError
from tests.support.bird import make_inputs, node, resource


def large_context() -> BirdContext:
    peers = [
        resource("BGPPeer", f"p{number}", peerIP=f"10.0.1.{number}", asNumber=1, filters=[f"f{number % 3}"])
        for number in range(1, 41)
    ]
    filters = [resource("BGPFilter", f"f{number}", importV4=[{"action": "Accept"}]) for number in range(3)]
    built = build_context(make_inputs([node(1), *peers, *filters]))
    assert built.problems == ()
    return built.context


async def test_refused_sessions_are_found_in_few_checks_and_all_others_stay() -> None:
    context = large_context()
    bad = {"Global_10_0_1_7", "Global_10_0_1_31"}
    checks: list[int] = []

    async def check(draft: BirdContext) -> str:
        checks.append(len(draft.sessions))
        return "line 7" if bad & {session.name for session in draft.sessions} else ""

    rest, problems = await leave_out_refused(context, check)

    assert {session.name for session in context.sessions} - {session.name for session in rest.sessions} == bad
    assert {problem.subject for problem in problems} == {"BGPPeer(p7)", "BGPPeer(p31)"}
    assert len(checks) < 30


async def test_refused_filter_closes_its_sessions_and_is_named_once() -> None:
    context = large_context()

    async def check(draft: BirdContext) -> str:
        return "line 9" if any(function.name.startswith("filter_f1_") for function in draft.filters) else ""

    rest, problems = await leave_out_refused(context, check)

    assert [problem.subject for problem in problems] == ["BGPFilter(f1)"]
    assert len(rest.sessions) == 40
    assert all(session.is_closed == ("f1" in session.filter_names) for session in rest.sessions)
    assert all(not session.imports for session in rest.sessions if session.is_closed)


async def test_refusal_of_the_part_without_sessions_leaves_nothing_to_write() -> None:
    async def check(draft: BirdContext) -> str:
        return f"line 1, {len(draft.sessions)}"

    with pytest.raises(PeerError, match="without sessions already: line 1, 0"):
        await leave_out_refused(replace(large_context(), router_id="x"), check)
