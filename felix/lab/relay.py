"""A loopback port of this machine that leads to an address inside a namespace. Nothing of the machine is configured.

async with Relay(lab.fabric, "192.168.1.2", 9001) as relay:
    print(relay.url)
"""

from __future__ import annotations

import asyncio
import contextlib
import errno
import socket

from felix.errors import PeerError
from felix.lab.place import Place

CONNECTIONS_MOST = 128
_CONNECT_S = 5.0
_PIECE_BYTES = 1 << 16


class Relay:
    """Passes on what comes, both ways, while the block is entered. local_port: 0, or if it is taken, any free one."""

    def __init__(self, place: Place, address: str, port: int, local_port: int = 0) -> None:
        self._place = place
        self._target = (address, port)
        self._local_port = local_port
        self._server: asyncio.Server | None = None
        self._tasks: set[asyncio.Task[None]] = set()

    async def __aenter__(self) -> Relay:
        listener = listen_locally(self._local_port)
        self._local_port = listener.getsockname()[1]
        self._server = await asyncio.start_server(self._accept, sock=listener)
        return self

    async def __aexit__(self, *_: object) -> None:
        assert self._server is not None
        self._server.close()
        tasks = list(self._tasks)
        for task in tasks:
            task.cancel()
        await asyncio.gather(*tasks, return_exceptions=True)
        await self._server.wait_closed()

    @property
    def url(self) -> str:
        """Where a browser of this machine finds it."""
        return f"http://127.0.0.1:{self._local_port}/"

    def _accept(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        task = asyncio.create_task(self._pass_on(reader, writer))
        self._tasks.add(task)
        task.add_done_callback(self._tasks.discard)

    async def _pass_on(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        try:
            if len(self._tasks) > CONNECTIONS_MOST:
                return
            with contextlib.suppress(OSError, TimeoutError):
                await self._connect_and_pass(reader, writer)
        finally:
            await _close(writer)

    async def _connect_and_pass(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        family = socket.AF_INET6 if ":" in self._target[0] else socket.AF_INET
        inside = self._place.call(lambda: socket.socket(family, socket.SOCK_STREAM))
        try:
            inside.setblocking(False)
            async with asyncio.timeout(_CONNECT_S):
                await asyncio.get_running_loop().sock_connect(inside, self._target)
            far_reader, far_writer = await asyncio.open_connection(sock=inside)
        except BaseException:
            inside.close()
            raise
        try:
            async with asyncio.TaskGroup() as group:
                group.create_task(_copy(reader, far_writer))
                await _copy(far_reader, writer)
                raise _Done  # what the browser still wants to say has no reader any more
        except* (_Done, OSError):
            pass
        finally:
            await _close(far_writer)


class _Done(Exception):
    """The far end has said all."""


def listen_locally(port: int) -> socket.socket:
    """Returns a listener on 127.0.0.1; if the port is taken, on any free one. Raises PeerError."""
    for wanted in dict.fromkeys((port, 0)):
        try:
            return socket.create_server(("127.0.0.1", wanted))
        except OSError as failure:
            if failure.errno != errno.EADDRINUSE:
                raise PeerError(f"cannot listen on 127.0.0.1 port {wanted}: {failure.strerror}") from failure
    raise PeerError("no port of 127.0.0.1 is free")


async def _copy(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
    while piece := await reader.read(_PIECE_BYTES):
        writer.write(piece)
        await writer.drain()
    if writer.can_write_eof():
        with contextlib.suppress(OSError):
            writer.write_eof()


async def _close(writer: asyncio.StreamWriter) -> None:
    writer.close()
    with contextlib.suppress(OSError):
        await writer.wait_closed()
