"""A TCP relay in front of an etcd, which can be cut (connections reset) or made a black hole."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager, suppress

from tests.support.etcd import EtcdServer


class Relay:
    """Passes bytes between clients and one server until told otherwise. address: of the server and of the relay."""

    def __init__(self, target_port: int, address: str = "127.0.0.1") -> None:
        self._address = address
        self._target_port = target_port
        self._port = 0
        self._server: asyncio.Server | None = None
        self._passing: set[asyncio.Task[None]] = set()
        self._is_open = asyncio.Event()
        self._is_open.set()

    @property
    def endpoint(self) -> str:
        return f"http://{self._address}:{self._port}"

    async def mend(self) -> None:
        """Connections are taken and passed on, again."""
        self._is_open.set()
        if self._server is None:
            self._server = await asyncio.start_server(self._serve, self._address, self._port)
            self._port = self._server.sockets[0].getsockname()[1]

    async def cut(self) -> None:
        """All connections are closed, and no new one is taken."""
        if self._server is not None:
            self._server.close()
            self._server = None
        for task in list(self._passing):
            task.cancel()
        if self._passing:
            await asyncio.wait(self._passing)

    def swallow(self) -> None:
        """Connections stay open and are taken, and nothing passes."""
        self._is_open.clear()

    async def _serve(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        task = asyncio.current_task()
        assert task is not None
        self._passing.add(task)
        writers = [writer]
        try:
            far_reader, far_writer = await asyncio.open_connection(self._address, self._target_port)
            writers.append(far_writer)
            async with asyncio.TaskGroup() as group:
                group.create_task(self._pass(reader, far_writer))
                group.create_task(self._pass(far_reader, writer))
        except (OSError, asyncio.CancelledError):
            pass
        finally:
            for one in writers:
                one.close()
            self._passing.discard(task)

    async def _pass(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        with suppress(ConnectionError):
            while data := await reader.read(65536):
                await self._is_open.wait()
                writer.write(data)
                await writer.drain()
        writer.close()


@asynccontextmanager
async def relayed(server: EtcdServer) -> AsyncIterator[Relay]:
    """Gives a relay that passes everything to `server`; gone afterwards."""
    relay = Relay(server.client_port)
    await relay.mend()
    try:
        yield relay
    finally:
        await relay.cut()
