"""Numbered UDP packets at a steady rate and who got them: run inside workloads, with the standard library alone.

    stream.py send PORT PACKETS_PER_S ADDRESS...   to each address; prints {"sent": {address: count}} when terminated
    stream.py receive PORT                         prints {"received": {source: [count, first, last]}} when terminated

The sender takes a new source port every 100 packets, so that new flows are tried as well as established ones.
"""

from __future__ import annotations

import contextlib
import json
import select
import signal
import socket
import struct
import sys
import time
from collections.abc import Iterator
from types import FrameType

_NUMBER = struct.Struct("!Q")
_PACKETS_PER_PORT = 100
_QUIET_S = 0.2
_SO_RCVBUFFORCE = 33


class _Stop:
    def __init__(self) -> None:
        self.is_set = False
        signal.signal(signal.SIGTERM, self._on_signal)

    def _on_signal(self, number: int, frame: FrameType | None) -> None:
        self.is_set = True


def _send(port: int, rate: float, addresses: list[str]) -> dict[str, int]:
    stop = _Stop()
    print("ready", flush=True)
    count = 0
    started = time.monotonic()
    sockets: dict[str, socket.socket] = {}
    while not stop.is_set:
        if count % _PACKETS_PER_PORT == 0:
            for old in sockets.values():
                old.close()
            families = {address: socket.AF_INET6 if ":" in address else socket.AF_INET for address in addresses}
            sockets = {address: socket.socket(family, socket.SOCK_DGRAM) for address, family in families.items()}
        for address, one in sockets.items():
            with contextlib.suppress(OSError):
                one.sendto(_NUMBER.pack(count), (address, port))
        count += 1
        ahead_s = started + count / rate - time.monotonic()
        if ahead_s > 0:
            time.sleep(ahead_s)
    return dict.fromkeys(addresses, count)


def _receive(port: int) -> dict[str, list[int]]:
    stop = _Stop()
    numbers_by_source: dict[str, set[int]] = {}
    with socket.socket(socket.AF_INET6, socket.SOCK_DGRAM) as one:
        one.setsockopt(socket.SOL_SOCKET, _SO_RCVBUFFORCE, 8 << 20)
        one.bind(("::", port))
        print("ready", flush=True)
        for source, number in _arrivals(one, stop):
            numbers_by_source.setdefault(source, set()).add(number)
    return {
        source.removeprefix("::ffff:"): [len(numbers), min(numbers), max(numbers)]
        for source, numbers in numbers_by_source.items()
    }


def _arrivals(one: socket.socket, stop: _Stop) -> Iterator[tuple[str, int]]:
    while True:
        readable, _, _ = select.select([one], [], [], _QUIET_S)
        if readable:
            data, source = one.recvfrom(64)
            yield source[0], _NUMBER.unpack(data)[0]
        elif stop.is_set:
            return


def main(arguments: list[str]) -> None:
    match arguments:
        case ["send", port, rate, *addresses]:
            print(json.dumps({"sent": _send(int(port), float(rate), addresses)}), flush=True)
        case ["receive", port]:
            print(json.dumps({"received": _receive(int(port))}), flush=True)
        case _:
            sys.exit(__doc__)


if __name__ == "__main__":
    main(sys.argv[1:])
