"""Packets at a steady rate from one network namespace to another, counted at both ends.

python -m tests.bench.packets PID_FROM PID_TO ADDRESS_TO RATE: sends until its input ends, then prints what was sent,
what arrived, and the longest silence between two arrivals in milliseconds, as JSON.
"""

from __future__ import annotations

import ctypes
import itertools
import json
import os
import select
import socket
import struct
import sys
import threading
import time
from collections.abc import Callable

_PORT = 9000
_NUMBER = struct.Struct("!Q")
_DRAIN_S = 0.5


def main() -> None:
    """Runs as said above; a line on the output tells when the first packet has arrived."""
    sender, receiver, address, rate = int(sys.argv[1]), int(sys.argv[2]), sys.argv[3], int(sys.argv[4])
    outgoing = _open_inside(sender, lambda: socket.socket(socket.AF_INET, socket.SOCK_DGRAM))
    incoming = _open_inside(receiver, lambda: socket.socket(socket.AF_INET, socket.SOCK_DGRAM))
    incoming.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, 4 << 20)
    incoming.bind((address, _PORT))
    incoming.settimeout(0.2)
    arrivals: list[float] = []
    is_over = threading.Event()

    def receive() -> None:
        while not is_over.is_set():
            try:
                incoming.recv(64)
            except TimeoutError:
                continue
            arrivals.append(time.monotonic())
            if len(arrivals) == 1:
                print("flowing", flush=True)

    thread = threading.Thread(target=receive, daemon=True)
    thread.start()
    outgoing.connect((address, _PORT))
    sent = 0
    started_at = time.monotonic()
    while not select.select([sys.stdin], [], [], 0)[0]:
        due = int((time.monotonic() - started_at) * rate)
        while sent < due:
            outgoing.send(_NUMBER.pack(sent))
            sent += 1
        time.sleep(0.5 / rate)
    time.sleep(_DRAIN_S)
    is_over.set()
    thread.join()
    gap_s = max((b - a for a, b in itertools.pairwise(arrivals)), default=0.0)
    print(json.dumps({"sent": sent, "received": len(arrivals), "longest_gap_ms": round(gap_s * 1000, 1)}))


def _open_inside(pid: int, make: Callable[[], socket.socket]) -> socket.socket:
    """Returns a socket that lives in the namespace of process `pid`."""
    made: list[socket.socket] = []

    def enter_and_make() -> None:
        with open(f"/proc/{pid}/ns/net", "rb") as handle:
            if ctypes.CDLL(None, use_errno=True).setns(handle.fileno(), 0x40000000) != 0:
                raise OSError(ctypes.get_errno(), os.strerror(ctypes.get_errno()))
        made.append(make())

    thread = threading.Thread(target=enter_and_make)
    thread.start()
    thread.join()
    return made[0]


if __name__ == "__main__":
    main()
