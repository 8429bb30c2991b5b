"""How commands that serve end."""

from __future__ import annotations

import asyncio
import logging

import pytest

from felix.cli.serve import run_server
from felix.config.exits import ExitCode
from felix.errors import EnvironmentFault


async def _fail(error: Exception) -> None:
    async def inner() -> None:
        raise error

    async with asyncio.TaskGroup() as group:
        group.create_task(inner())


def test_server_that_lacks_something_says_so_in_one_line(capsys: pytest.CaptureFixture[str]) -> None:
    assert run_server(_fail(EnvironmentFault("no kernel")), "stopped") == ExitCode.UNAVAILABLE
    assert capsys.readouterr().err == "felix: no kernel\n"


def test_server_with_a_bug_asks_for_a_report(caplog: pytest.LogCaptureFixture) -> None:
    with caplog.at_level(logging.CRITICAL):
        assert run_server(_fail(ValueError("oops")), "stopped by a bug of Felix") == ExitCode.BUG
    assert caplog.messages == ["stopped by a bug of Felix; please report this:"]
