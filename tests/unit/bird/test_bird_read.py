"""What a running BIRD says, understood from its answers."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Awaitable, Callable
from contextlib import asynccontextmanager
from pathlib import Path

import pytest

from felix.dataplane.bird.read import BirdControl, Reply, is_error, parse_protocols
from felix.errors import PeerError

ANSWER = """\
2002-Name       Proto      Table      State  Since         Info
1002-device1    Device     ---        up     2026-11-21T03:21:23+0000  \n1006-
1002-Mesh_10_0_0_2 BGP        ---        start  2026-11-21T03:21:24+0000  Active        Socket: Connection refused
1006-  BGP state:          Active
     Neighbor address: 10.0.0.2
     Neighbor AS:      64512
     Last error:       Socket: Connection refused
   Channel ipv4
     State:          DOWN
     Table:          master4
1002-Node_fd00__9 BGP        ---        up     2026-11-21T03:21:25+0000  Established
1006-  BGP state:          Established
     Neighbor address: fd00::9
     Neighbor AS:      65000
   Channel ipv6
     State:          UP
     Routes:         7 imported, 2 filtered, 3 exported, 5 preferred
0000 \n"""


def replies_of(text: str) -> list[Reply]:
    replies: list[Reply] = []
    for line in text.splitlines():
        if line[:4].isdigit():
            replies.append(Reply(int(line[:4]), line[5:]))
        else:
            replies.append(Reply(replies[-1].code, line[1:]))
    return replies


def test_protocols_of_every_state_are_read() -> None:
    device, dead, alive = parse_protocols(replies_of(ANSWER))

    assert (device.name, device.kind, device.state, device.is_established) == ("device1", "Device", "up", False)
    assert (dead.bgp_state, dead.neighbor, dead.neighbor_as) == ("Active", "10.0.0.2", 64512)
    assert (dead.last_error, dead.is_established) == ("Socket: Connection refused", False)
    assert dead.channels == ()
    assert alive.is_established
    assert alive.since == "2026-11-21T03:21:25+0000"
    assert [(one.name, one.state, one.imported, one.exported, one.preferred) for one in alive.channels] == [
        ("ipv6", "UP", 7, 3, 5)
    ]


@pytest.mark.parametrize(("code", "expected"), [(0, False), (3, False), (8002, True), (9001, True)])
def test_answer_is_an_error_by_its_number_alone(code: int, expected: bool) -> None:
    assert is_error([Reply(code, "Reconfigured")]) is expected


Serve = Callable[[asyncio.StreamReader, asyncio.StreamWriter], Awaitable[None]]


@asynccontextmanager
async def serving(path: Path, serve: Serve) -> AsyncIterator[None]:
    async def serve_and_close(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        try:
            await serve(reader, writer)
        finally:
            writer.close()

    server = await asyncio.start_unix_server(serve_and_close, path)
    async with server:
        yield


async def test_control_reads_answers_with_continuations_and_log_lines_between(tmp_path: Path) -> None:
    async def serve(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        writer.write(b"0001 BIRD ready.\n")
        await reader.readline()
        writer.write(b"1006-one\n+bird: unasked\n two\n0000 \n")
        await writer.drain()

    path = tmp_path / "ctl"
    async with serving(path, serve), BirdControl(path, 2.0) as control:
        assert await control.ask("show") == [(1006, "one"), (1006, "two"), (0, "")]


async def test_control_that_is_closed_in_the_middle_is_a_peers_fault(tmp_path: Path) -> None:
    async def serve(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        writer.write(b"0001 BIRD ready.\n")
        await reader.readline()
        writer.write(b"1006-one\n10")
        await writer.drain()

    path = tmp_path / "ctl"
    async with serving(path, serve), BirdControl(path, 2.0) as control:
        with pytest.raises(PeerError, match="in the middle"):
            await control.ask("show")
