"""A blocking netlink socket for worker threads: transactions and dumps."""

from __future__ import annotations

import contextlib
import errno
import os
import socket
import struct
import time
from collections.abc import Callable, Iterator, Sequence

from felix.dataplane.netlink.message import (
    FLAGS_OFFSET,
    HEADER,
    HEADER_BYTES,
    NETLINK_NETFILTER,
    NFNL_MSG_BATCH_BEGIN,
    NLM_F_ACK,
    NLM_F_DUMP,
    NLM_F_DUMP_INTR,
    NLMSG_DONE,
    NLMSG_ERROR,
    SEQUENCE_OFFSET,
    Message,
    Refusal,
    parse_answer,
    parse_messages,
)
from felix.dataplane.netlink.read import NETLINK_GET_STRICT_CHK, SOL_NETLINK, DatagramReader, open_netlink
from felix.errors import KernelRefused, PeerError, ResyncRequired

ANSWER_WAIT_S = 10.0
BUFFER_BYTES = 8 << 20
_ANSWER_BYTES = 2048  # what one answer takes of the receive buffer, with the kernel's overhead, rounded up
# Changes that interrupt a dump come in bursts, many interfaces at once: attempts without pause would all fall into one.
_DUMP_PAUSES_S = (0.0, 0.001, 0.002, 0.005, 0.01, 0.02, 0.05, 0.1, 0.2, 0.4)
_TIMEVAL = struct.Struct("@ll")
_U16 = struct.Struct("=H")
_U32 = struct.Struct("=I")
_SEQUENCE_MASK = 0xFFFFFFFF


class NetlinkSocket:
    """One netlink socket of the network namespace of the thread that made it. One thread at a time may use it.

    protocol: NETLINK_ROUTE or NETLINK_NETFILTER. Raises OSError when the kernel lacks the family.
    The kernel works inside `send`: never call these methods on the event loop's thread.
    """

    def __init__(self, protocol: int, buffer_bytes: int = BUFFER_BYTES, answer_wait_s: float = ANSWER_WAIT_S) -> None:
        self._protocol = protocol
        self._socket = open_netlink(protocol, buffer_bytes)
        # Not settimeout(): it would also wait where MSG_DONTWAIT asks not to.
        self._socket.setsockopt(
            socket.SOL_SOCKET, socket.SO_RCVTIMEO, _TIMEVAL.pack(int(answer_wait_s), int(answer_wait_s % 1 * 1e6))
        )
        self._reader = DatagramReader(self._socket)
        self._sequence = 0
        self.port: int = self._socket.getsockname()[0]
        self.send_limit_bytes = self._socket.getsockopt(socket.SOL_SOCKET, socket.SO_SNDBUF) // 2
        receive_bytes = self._socket.getsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF)
        self._answer_limit = max(1, receive_bytes // _ANSWER_BYTES)
        with contextlib.suppress(OSError):  # kernels since 4.20 filter dumps by the request's fields, older ones do not
            self._socket.setsockopt(SOL_NETLINK, NETLINK_GET_STRICT_CHK, 1)

    def close(self) -> None:
        """The socket is closed; it may be called again."""
        self._socket.close()

    def transact(self, messages: Sequence[bytes]) -> list[Refusal | None]:
        """The kernel has seen every message, in order; returns one answer for each: None, or why it was refused.

        Sequence numbers are set here. Refusals come without asking (NLM_F_ACK is not needed on the messages).
        Outside of an nfnetlink batch a refused message does not stop those after it. A batch (`message.batch`) is sent
        whole: any refusal in it means that nothing of it took effect, and the messages without own refusal say None.
        Raises ResyncRequired when answers were lost, PeerError when none came; what was applied is then unknown.
        """
        self._drain()
        answers: list[Refusal | None] = []
        for chunk in self._chunks(messages):
            answers += self._transact_chunk(chunk)
        return answers

    def get(self, request: bytes) -> Message | Refusal:
        """Returns the one message that answers `request`, or why the kernel refused it (ENODEV: no such interface).

        Raises ResyncRequired when the answer was lost, PeerError when none came.
        """
        self._drain()
        sequence = self._sequence
        self._sequence = (sequence + 1) & _SEQUENCE_MASK
        numbered = bytearray(request)
        _U32.pack_into(numbered, SEQUENCE_OFFSET, sequence)
        self._socket.sendto(numbered, (0, 0))
        while True:
            datagram = self._reader.read()
            if datagram is None:
                raise PeerError("netlink: the kernel did not answer a question")
            for answer in parse_messages(datagram):
                if answer.sequence != sequence:
                    continue
                refusal = parse_answer(answer) if answer.type == NLMSG_ERROR else None
                return answer if refusal is None else refusal

    def dump(self, request: bytes, keep: Callable[[bytes], bool] | None = None) -> list[bytes]:
        """Returns the datagrams that answer `request`: whole messages without control messages, for `parse_messages`.

        keep: datagrams for which it says False are left out, so that a huge dump need not lie in memory.
        NLM_F_DUMP is set here. A dump that the kernel calls interrupted is done again.
        Raises KernelRefused when the kernel refuses, ResyncRequired when it stays inconsistent or datagrams were lost.
        """
        for pause_s in _DUMP_PAUSES_S:
            time.sleep(pause_s)
            datagrams = self._dump_once(request, keep)
            if datagrams is not None:
                return datagrams
        raise ResyncRequired(f"netlink: a dump was interrupted by changes {len(_DUMP_PAUSES_S)} times in a row")

    def _chunks(self, messages: Sequence[bytes]) -> Iterator[Sequence[bytes]]:
        """Yields runs that fit into the send buffer and whose answers would fit into the receive buffer."""
        if messages and self._is_batch(messages[0]):
            yield messages
            return
        start = size_bytes = 0
        for position, one in enumerate(messages):
            if position > start and (
                position - start >= self._answer_limit or size_bytes + len(one) > self.send_limit_bytes
            ):
                yield messages[start:position]
                start, size_bytes = position, 0
            size_bytes += len(one)
        if start < len(messages):
            yield messages[start:]

    def _is_batch(self, first: bytes) -> bool:
        return self._protocol == NETLINK_NETFILTER and _U16.unpack_from(first, 4)[0] == NFNL_MSG_BATCH_BEGIN

    def _transact_chunk(self, messages: Sequence[bytes]) -> list[Refusal | None]:
        is_batch = self._is_batch(messages[0])
        # The kernel answers in order: the acknowledged last message (of a batch: the last inside) proves those before.
        last = len(messages) - 2 if is_batch else len(messages) - 1
        first_sequence = self._send(messages, acknowledge=last)
        answers: list[Refusal | None] = [None] * len(messages)
        is_proven = last == 0 and is_batch  # an empty batch has nobody to answer
        flags = int(socket.MSG_DONTWAIT)
        while True:
            datagram = self._reader.read(flags)
            if datagram is None:
                if is_proven:
                    return answers
                if not flags:
                    raise PeerError("netlink: the kernel did not answer; what it applied is unknown")
                flags = 0
                continue
            for answer in parse_messages(datagram):
                position = (answer.sequence - first_sequence) & _SEQUENCE_MASK
                if answer.type == NLMSG_ERROR and position < len(messages):
                    refusal = parse_answer(answer)
                    answers[position] = refusal
                    # A refusal of the frame is the last word about a batch; the messages inside stay unanswered.
                    is_proven = is_proven or position == last or (is_batch and refusal is not None)
            if is_proven:
                flags = socket.MSG_DONTWAIT

    def _send(self, messages: Sequence[bytes], acknowledge: int) -> int:
        """Sends `messages` as one datagram with consecutive sequence numbers; returns the first."""
        first_sequence = self._sequence
        buffer = bytearray().join(messages)
        offset = 0
        for position, one in enumerate(messages):
            _U32.pack_into(buffer, offset + SEQUENCE_OFFSET, (first_sequence + position) & _SEQUENCE_MASK)
            if position == acknowledge:
                (flags,) = _U16.unpack_from(buffer, offset + FLAGS_OFFSET)
                _U16.pack_into(buffer, offset + FLAGS_OFFSET, flags | NLM_F_ACK)
            offset += len(one)
        self._sequence = (first_sequence + len(messages)) & _SEQUENCE_MASK
        self._socket.sendto(buffer, (0, 0))
        return first_sequence

    def _dump_once(self, request: bytes, keep: Callable[[bytes], bool] | None) -> list[bytes] | None:
        self._drain()
        length, type_, flags, _, _ = HEADER.unpack_from(request)
        numbered = HEADER.pack(length, type_, flags | NLM_F_DUMP, self._sequence, 0) + request[HEADER_BYTES:]
        sequence = self._sequence
        self._sequence = (sequence + 1) & _SEQUENCE_MASK
        self._socket.sendto(numbered, (0, 0))
        datagrams: list[bytes] = []
        is_consistent = True
        while True:
            datagram = self._reader.read()
            if datagram is None:
                raise PeerError("netlink: the kernel stopped answering in the middle of a dump")
            kept_bytes, flags_seen, end = _scan_dump(datagram, sequence)
            is_consistent = is_consistent and not flags_seen & NLM_F_DUMP_INTR
            if kept_bytes and (keep is None or keep(datagram)):
                datagrams.append(datagram if kept_bytes == len(datagram) else datagram[:kept_bytes])
            if end is not None:
                refusal = parse_answer(end)
                if refusal is not None and refusal != errno.EINTR:
                    raise KernelRefused(f"netlink: dump refused: {os.strerror(refusal)} {refusal.text}".rstrip())
                return datagrams if is_consistent and refusal is None else None

    def _drain(self) -> None:
        """Takes away what an abandoned dump or transaction left; an undrained socket refuses the next dump, and has no
        room for the next answers.
        """
        while True:
            try:
                if self._reader.read(socket.MSG_DONTWAIT) is None:
                    return
            except ResyncRequired:  # what was lost was going to be thrown away
                continue


def _scan_dump(datagram: bytes, sequence: int) -> tuple[int, int, Message | None]:
    """Returns how many leading bytes are messages of this dump, all their flags together, and the end if it is here."""
    offset, flags_seen, size = 0, 0, len(datagram)
    unpack = HEADER.unpack_from
    while offset + HEADER_BYTES <= size:
        length, type_, flags, number, port = unpack(datagram, offset)
        if number != sequence or length < HEADER_BYTES:
            break
        if type_ in (NLMSG_DONE, NLMSG_ERROR):
            body = datagram[offset + HEADER_BYTES : offset + length]
            return offset, flags_seen | flags, Message(type_, flags, number, port, body)
        flags_seen |= flags
        offset += (length + 3) & ~3
    return min(offset, size), flags_seen, None
