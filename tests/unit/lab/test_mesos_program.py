"""Running a plug-in of the simulated Mesos: what is an answer, and what becomes of one that misbehaves."""

from __future__ import annotations

import asyncio
import os
import sys
from pathlib import Path

import pytest

from felix.lab.mesos.program import PlugInFailed, Program, read_answer
from felix.lab.place import wait_until
from felix.lab.process import identify


def make_program(tmp_path: Path, script: str, deadline_s: float = 10.0) -> Program:
    return Program(
        (sys.executable, "-S", "-E", "-c", script), (), {"PATH": os.environ["PATH"]}, tmp_path / "log", deadline_s
    )


async def test_plug_in_that_answers_is_heard_with_its_exit_status(tmp_path: Path) -> None:
    program = make_program(
        tmp_path, "import sys; print(sys.stdin.read().upper()); print('oh', file=sys.stderr); sys.exit(4)"
    )

    assert await program.run(b"abc") == (4, b"ABC\n")
    assert (tmp_path / "log").read_text() == "oh\n"


async def test_plug_in_that_is_late_is_killed_with_its_children(tmp_path: Path) -> None:
    script = (
        "import os, subprocess, sys\n"
        "child = subprocess.Popen(['sleep', '60'])\n"
        f"open({str(tmp_path / 'pid')!r}, 'w').write(str(child.pid))\n"
        "child.wait()"
    )
    with pytest.raises(PlugInFailed, match=r"did not answer within 0\.5 s and was killed"):
        await make_program(tmp_path, script, 0.5).run(b"")

    child = int((tmp_path / "pid").read_text())  # told to end at once too; the kernel does it when it comes to it
    await asyncio.to_thread(wait_until, lambda: identify(child, "child") is None, 5.0, "its child to end")


async def test_plug_in_that_says_too_much_is_killed(tmp_path: Path) -> None:
    with pytest.raises(PlugInFailed, match="said more than 1048576 bytes"):
        await make_program(tmp_path, "import os\nwhile True: os.write(1, b'x' * 65536)").run(b"")


async def test_plug_in_that_does_not_listen_is_still_heard(tmp_path: Path) -> None:
    program = make_program(tmp_path, "import os; os.close(0); os.write(1, b'{}')")

    assert await program.run(b"x" * (1 << 20)) == (0, b"{}")


async def test_plug_in_that_does_not_exist_is_named(tmp_path: Path) -> None:
    with pytest.raises(PlugInFailed, match="/nowhere/at-all cannot be started"):
        await Program(("/nowhere/at-all",), (), {}, tmp_path / "log").run(b"")


@pytest.mark.parametrize(
    ("status", "answer", "reason"),
    [
        (0, b"", "no response"),
        (0, b" \n", "no response"),
        (0, b"{", "not JSON"),
        (0, b"[]", "expected an object"),
        (1, b'{"error": "taken"}', '"taken"'),
        (0, b'{"error": {"a": 1}}', '{"a": 1}'),
        (3, b'{"error": null}', "exit status 3 without an error"),
    ],
)
def test_answer_that_is_no_success_is_refused(status: int, answer: bytes, reason: str) -> None:
    with pytest.raises(PlugInFailed) as refused:
        read_answer("p", "allocate", status, answer)
    assert str(refused.value).startswith("p allocate: ")
    assert reason in str(refused.value)


def test_answer_with_null_error_and_unknown_keys_is_a_success() -> None:
    assert read_answer("p", "reserve", 0, b'{"error": null, "new": 1}') == {"error": None, "new": 1}
