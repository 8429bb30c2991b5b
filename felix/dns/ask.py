"""Asks resolvers what is not ours to answer: over the client's own transport, one after the other, within a deadline.

A question goes out as it came, with a number that nobody can guess, from a port of its own; an answer counts only if
it comes from the resolver asked, with that number and that question. A resolver that failed is asked last for a while.
"""

from __future__ import annotations

import asyncio
import secrets
import struct
from collections import Counter

from felix.clock import monotonic_s
from felix.dns.respond import Forward
from felix.dns.state import Place

_NUMBER = struct.Struct("!H")
_SHUNNED_S = 10.0
_SERVFAIL, _REFUSED = 2, 5


class Forwarder:
    """Forwards questions; at most `most` at a time, each for at most `timeout_s` in all."""

    def __init__(self, timeout_s: float, most: int) -> None:
        self.under_way = 0
        self.outcomes: Counter[str] = Counter()
        self._timeout_s = timeout_s
        self._most = most
        self._shunned_until: dict[Place, float] = {}

    @property
    def is_full(self) -> bool:
        """Whether no more can be asked at the moment."""
        return self.under_way >= self._most

    async def ask(self, forward: Forward, *, is_tcp: bool) -> bytes | None:
        """Returns a resolver's answer under the client's number; None when there is none in time, or too much to do."""
        if self.is_full:
            self.outcomes["overload"] += 1
            return None
        self.under_way += 1
        try:
            answer = await self._ask_all(forward, is_tcp=is_tcp)
        finally:
            self.under_way -= 1
        self.outcomes["failed" if answer is None else "answered"] += 1
        return None if answer is None else forward.packet[:2] + answer[2:]

    async def _ask_all(self, forward: Forward, *, is_tcp: bool) -> bytes | None:
        now = monotonic_s()
        deadline = now + self._timeout_s
        order = sorted(forward.resolvers, key=lambda place: self._shunned_until.get(place, 0.0) > now)
        unhelpful: bytes | None = None
        for at, place in enumerate(order):
            # the first gets half of what is left, so that a dead one leaves time for the others
            left_s = deadline - monotonic_s()
            share_s = left_s if at == len(order) - 1 else left_s / 2
            try:
                async with asyncio.timeout(share_s):
                    answer = await (_ask_tcp if is_tcp else _ask_udp)(place, forward)
            except (OSError, TimeoutError, EOFError):
                self._shunned_until[place] = monotonic_s() + _SHUNNED_S
                self.outcomes["resolver_failed"] += 1
                continue
            self._shunned_until.pop(place, None)
            if answer[3] & 0xF not in {_SERVFAIL, _REFUSED}:
                return answer
            unhelpful = answer
        return unhelpful


class _Exchange(asyncio.DatagramProtocol):
    """Waits for the answer to one question on a socket that hears one resolver only."""

    def __init__(self, number: bytes, question: bytes) -> None:
        self.answer: asyncio.Future[bytes] = asyncio.get_running_loop().create_future()
        self._number = number
        self._question = question

    def datagram_received(self, data: bytes, addr: object) -> None:
        """An answer that is one ends the waiting."""
        if not self.answer.done() and _is_answer(data, self._number, self._question):
            self.answer.set_result(data)

    def error_received(self, exc: Exception) -> None:
        """Nobody listens there."""
        if not self.answer.done():
            self.answer.set_exception(OSError(f"unreachable: {exc}"))


async def _ask_udp(place: Place, forward: Forward) -> bytes:
    number = _NUMBER.pack(secrets.randbits(16))
    loop = asyncio.get_running_loop()
    transport, exchange = await loop.create_datagram_endpoint(
        lambda: _Exchange(number, forward.query.question), remote_addr=place
    )
    try:
        transport.sendto(number + forward.packet[2:])
        return await exchange.answer
    finally:
        transport.close()


async def _ask_tcp(place: Place, forward: Forward) -> bytes:
    number = _NUMBER.pack(secrets.randbits(16))
    reader, writer = await asyncio.open_connection(*place)
    try:
        packet = number + forward.packet[2:]
        writer.write(_NUMBER.pack(len(packet)) + packet)
        await writer.drain()
        (size,) = _NUMBER.unpack(await reader.readexactly(2))
        answer = await reader.readexactly(size)
        if not _is_answer(answer, number, forward.query.question):
            raise OSError(f"{place.host} answers something else")
        return answer
    finally:
        writer.close()


def _is_answer(packet: bytes, number: bytes, question: bytes) -> bool:
    if len(packet) < 12 or packet[:2] != number or not packet[2] & 0x80:
        return False
    # A resolver that refuses or fails may leave the question out.
    asked = packet[12 : 12 + len(question)]
    is_same = asked[:-4].lower() == question[:-4].lower() and asked[-4:] == question[-4:]
    return is_same or (packet[4:6] == b"\0\0" and packet[3] & 0xF != 0)
