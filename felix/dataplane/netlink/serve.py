"""A thread that owns a netlink socket: the kernel works inside `send`, so it must not be the event loop's thread."""

from __future__ import annotations

import asyncio
import concurrent.futures
from collections.abc import Callable
from typing import Concatenate, ParamSpec, TypeVar

from felix.dataplane.netlink.apply import ANSWER_WAIT_S, NetlinkSocket

P = ParamSpec("P")
T = TypeVar("T")


class NetlinkWorker:
    """One thread with one socket of `protocol`; calls run in it one after the other.

    answer_wait_s: how long the kernel may take to answer one request.
    """

    def __init__(self, protocol: int, name: str, answer_wait_s: float = ANSWER_WAIT_S) -> None:
        self._protocol = protocol
        self._answer_wait_s = answer_wait_s
        self._executor = concurrent.futures.ThreadPoolExecutor(1, name)
        self._socket: NetlinkSocket | None = None

    async def open(self) -> int:
        """The socket is open; returns its netlink port. Raises OSError when the kernel lacks the family."""
        return await self.call(lambda socket: socket.port)

    async def call(self, function: Callable[Concatenate[NetlinkSocket, P], T], *args: P.args, **kwargs: P.kwargs) -> T:
        """Returns what `function(socket, …)` returned in the thread; once begun it ends, whoever waits."""
        loop = asyncio.get_running_loop()
        return await asyncio.shield(loop.run_in_executor(self._executor, lambda: self._run(function, *args, **kwargs)))

    def close(self) -> None:
        """What has begun is finished, and the thread is gone."""
        if self._socket is not None:
            self._executor.submit(self._socket.close).result()
        self._executor.shutdown(wait=True)

    def _run(self, function: Callable[Concatenate[NetlinkSocket, P], T], *args: P.args, **kwargs: P.kwargs) -> T:
        if self._socket is None:
            self._socket = NetlinkSocket(self._protocol, answer_wait_s=self._answer_wait_s)
        return function(self._socket, *args, **kwargs)
