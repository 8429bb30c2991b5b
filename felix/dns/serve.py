"""UDP and TCP: packets in, packets out. Bounded in packets per turn, connections, sizes and time.

On an address that stands for all of them, an answer leaves from the address that was asked, or clients would not take
it: Linux tells that address with each packet (man 7 ip, IP_PKTINFO; man 7 ipv6).
"""

from __future__ import annotations

import asyncio
import logging
import socket
import struct
from collections.abc import Callable, Coroutine
from contextlib import suppress
from functools import partial

from felix.dns.ask import Forwarder
from felix.dns.query import QUERY_LIMIT
from felix.dns.respond import Forward, Responder
from felix.errors import EnvironmentFault

log = logging.getLogger(__name__)

_PACKETS_PER_TURN = 64
_BUFFER_BYTES = 1 << 20
_IDLE_S = 10.0
_SIZE = struct.Struct("!H")
_ANCILLARY_BYTES = 64

_Client = tuple[str, int] | tuple[str, int, int, int]
_Told = tuple[int, int, bytes]


class Server:
    """Serves one address on UDP and TCP. Make it with `bind`, then `start` and `close` it."""

    def __init__(self, udp: socket.socket, tcp: socket.socket, responder: Responder, forwarder: Forwarder) -> None:
        self.queries_udp = 0
        self.queries_tcp = 0
        self.bugs = 0
        self.evicted = 0
        self._udp = udp
        self._tcp = tcp
        self._responder = responder
        self._forwarder = forwarder
        self._connections_most = 256
        self._tasks: set[asyncio.Task[None]] = set()
        self._writers: dict[asyncio.StreamWriter, None] = {}  # the one that was quiet longest is first
        self._server: asyncio.Server | None = None
        self._is_any = udp.getsockname()[0] in {"0.0.0.0", "::"}

    @property
    def connections(self) -> int:
        """How many TCP connections are open."""
        return len(self._writers)

    async def start(self, connections_most: int) -> None:
        """Questions are answered from now on."""
        self._connections_most = connections_most
        self._server = await asyncio.start_server(self._serve_connection, sock=self._tcp, limit=QUERY_LIMIT + 2)
        read = self._read_with_address if self._is_any else self._read_plain
        asyncio.get_running_loop().add_reader(self._udp.fileno(), read)

    async def close(self) -> None:
        """Nothing listens any more; what was under way is dropped."""
        if self._server is not None:
            asyncio.get_running_loop().remove_reader(self._udp.fileno())
            self._server.close()
        for writer in list(self._writers):
            writer.close()
        for task in list(self._tasks):
            task.cancel()
        await asyncio.gather(*self._tasks, return_exceptions=True)
        self._udp.close()
        self._tcp.close()

    def _read_plain(self) -> None:
        for _ in range(_PACKETS_PER_TURN):
            try:
                packet, client = self._udp.recvfrom(QUERY_LIMIT + 1)
            except BlockingIOError:
                return
            except OSError as error:  # such as an ICMP error for an earlier answer
                log.debug("UDP socket: %s", error)
                continue
            self._on_packet(packet, partial(self._send_plain, client))

    def _read_with_address(self) -> None:
        for _ in range(_PACKETS_PER_TURN):
            try:
                packet, told, _, client = self._udp.recvmsg(QUERY_LIMIT + 1, _ANCILLARY_BYTES)
            except BlockingIOError:
                return
            except OSError as error:
                log.debug("UDP socket: %s", error)
                continue
            source = [_answer_from(one) for one in told]
            self._on_packet(packet, partial(self._send_with_address, client, source))

    def _send_plain(self, client: _Client, answer: bytes) -> None:
        # The client went away, or the buffer is full: as with any lost packet, it will ask again.
        with suppress(OSError):
            self._udp.sendto(answer, client)

    def _send_with_address(self, client: _Client, source: list[_Told], answer: bytes) -> None:
        with suppress(OSError):
            self._udp.sendmsg([answer], source, 0, client)

    def _on_packet(self, packet: bytes, send: Callable[[bytes], None]) -> None:
        self.queries_udp += 1
        answer = self._respond(packet, is_tcp=False)
        if isinstance(answer, Forward):
            if self._forwarder.is_full:
                answer = self._responder.fail(answer.query)
            else:
                self._start(self._forward(answer, send))
                return
        if answer is not None:
            send(answer)

    def _respond(self, packet: bytes, *, is_tcp: bool) -> bytes | Forward | None:
        try:
            return self._responder.respond(packet, is_tcp=is_tcp)
        except Exception:  # the guard of each question: a bug costs the answer to one, not the server
            self.bugs += 1
            log.exception("a question could not be answered, please report this: %s", packet[:300].hex())
            return None if len(packet) < 12 else packet[:2] + b"\x80\x02" + bytes(8)

    async def _forward(self, forward: Forward, send: Callable[[bytes], None]) -> None:
        answer = await self._forwarder.ask(forward, is_tcp=False)
        send(self._responder.fail(forward.query) if answer is None else answer)

    def _start(self, work: Coroutine[object, object, None]) -> None:
        task = asyncio.get_running_loop().create_task(work)
        self._tasks.add(task)
        task.add_done_callback(self._tasks.discard)

    async def _serve_connection(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        while len(self._writers) >= self._connections_most:
            quiet = next(iter(self._writers))
            del self._writers[quiet]
            quiet.transport.abort()
            self.evicted += 1
        self._writers[writer] = None
        try:
            while True:
                async with asyncio.timeout(_IDLE_S):
                    (size,) = _SIZE.unpack(await reader.readexactly(2))
                    if size > QUERY_LIMIT:
                        return
                    packet = await reader.readexactly(size)
                if writer in self._writers:
                    del self._writers[writer]
                    self._writers[writer] = None
                answer = await self._answer_tcp(packet)
                if answer is None:
                    return
                async with asyncio.timeout(_IDLE_S):
                    writer.write(_SIZE.pack(len(answer)) + answer)
                    await writer.drain()
        except (OSError, TimeoutError, EOFError):
            return  # closed, or quiet for too long
        finally:
            self._writers.pop(writer, None)
            writer.close()

    async def _answer_tcp(self, packet: bytes) -> bytes | None:
        self.queries_tcp += 1
        answer = self._respond(packet, is_tcp=True)
        if isinstance(answer, Forward):
            return await self._forwarder.ask(answer, is_tcp=True) or self._responder.fail(answer.query)
        return answer


def bind(address: str, port: int) -> tuple[socket.socket, socket.socket]:
    """Returns sockets for UDP and TCP that hold the address; nothing listens yet.

    Raises EnvironmentFault that names the address and what to do.
    """
    family = socket.AF_INET6 if ":" in address else socket.AF_INET
    sockets = []
    try:
        for kind in (socket.SOCK_DGRAM, socket.SOCK_STREAM):
            one = socket.socket(family, kind | socket.SOCK_CLOEXEC | socket.SOCK_NONBLOCK)
            sockets.append(one)
            if kind == socket.SOCK_STREAM:
                one.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
            else:
                one.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, _BUFFER_BYTES)
                one.setsockopt(socket.SOL_SOCKET, socket.SO_SNDBUF, _BUFFER_BYTES)
                if family == socket.AF_INET:
                    one.setsockopt(socket.IPPROTO_IP, _IP_PKTINFO, 1)
            if family == socket.AF_INET6:
                one.setsockopt(socket.IPPROTO_IPV6, socket.IPV6_V6ONLY, 1)
                if kind == socket.SOCK_DGRAM:
                    one.setsockopt(socket.IPPROTO_IPV6, socket.IPV6_RECVPKTINFO, 1)
            one.bind((address, port))
    except OSError as error:
        for one in sockets:
            one.close()
        raise EnvironmentFault(_explain(address, port, error)) from error
    return sockets[0], sockets[1]


_IP_PKTINFO = 8  # missing in Python's socket module before 3.14
_REMEDY_BY_ERRNO = {
    98: "another program listens there; find it with `ss -lunpt` and stop it, or give another listener or port",
    99: "this host has no such address; add it (ip address add ADDRESS/32 dev lo), or give another listener",
    13: "ports below 1024 need root or CAP_NET_BIND_SERVICE",
}


def _explain(address: str, port: int, error: OSError) -> str:
    where = f"[{address}]:{port}" if ":" in address else f"{address}:{port}"
    remedy = _REMEDY_BY_ERRNO.get(error.errno or 0, "")
    return f"DNS cannot be served on {where}: {error.strerror or error}" + (f"; {remedy}" if remedy else "")


def _answer_from(told: _Told) -> _Told:
    """Returns what makes an answer leave from where the question came to."""
    level, kind, content = told
    if level == socket.IPPROTO_IP and kind == _IP_PKTINFO:
        # struct in_pktinfo: interface, local address, address of the header. No interface: routing chooses.
        return level, kind, struct.pack("=i4s4s", 0, content[4:8], bytes(4))
    if level == socket.IPPROTO_IPV6 and kind == socket.IPV6_PKTINFO:
        is_local = content[:2] == b"\xfe\x80"
        return level, kind, content[:16] + (content[16:20] if is_local else bytes(4))
    return told
