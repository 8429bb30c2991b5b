"""The first process of a simulated Mesos container: it blocks on a pipe, then becomes the executor of one task.

A program of its own (standard library only, run by path), already in the container's network namespace. It says on
descriptor 4 that it is there, and waits on descriptor 3 for one JSON object. When the pipe is closed instead, the
agent has failed or is gone, and it ends without having done anything. Otherwise it registers with the agent over the
container's network, runs the task, and leaves how that ended in a file.

    {"command": "sleep 5", "environment": {}, "agent": ["10.0.0.1", 5051], "container_id": "…", "timeout_s": 5,
     "exit_file": "exit", "loopback": true}
"""

from __future__ import annotations

import fcntl
import json
import os
import signal
import socket
import struct
import subprocess
import sys
import time
from pathlib import Path
from types import FrameType

_GO, _READY = 3, 4
_SIOCGIFFLAGS, _SIOCSIFFLAGS = 0x8913, 0x8914
_IFF_UP = 1
_RETRY_S = 0.1


def main() -> int:
    """Runs to the end of the task; returns its exit status."""
    os.write(_READY, b"r")
    os.close(_READY)
    with os.fdopen(_GO, "rb") as pipe:
        line = pipe.readline()
    if not line.endswith(b"\n"):
        return 0
    order = json.loads(line)
    if order["loopback"]:
        _raise_loopback()
    with _register(order) as agent:
        return _run(order, agent)


def _register(order: dict[str, object]) -> socket.socket:
    """Returns the connection to the agent, which has accepted this executor; tries until the time is up."""
    address, port = _address_of(order["agent"])
    deadline = time.monotonic() + float(str(order["timeout_s"]))
    while True:
        left = deadline - time.monotonic()
        try:
            connection = socket.create_connection((address, port), timeout=max(left, 0.01))
            connection.sendall(json.dumps({"container_id": order["container_id"]}).encode() + b"\n")
            if connection.makefile("rb").readline() == b"registered\n":
                return connection
            connection.close()
            raise SystemExit("the agent does not know this container")
        except OSError as failure:
            if left <= 0:
                raise SystemExit(f"cannot register with the agent at {address}:{port}: {failure}") from failure
        time.sleep(_RETRY_S)


def _address_of(pair: object) -> tuple[str, int]:
    assert isinstance(pair, list)
    return str(pair[0]), int(pair[1])


def _run(order: dict[str, object], agent: socket.socket) -> int:
    environment = order["environment"]
    assert isinstance(environment, dict)
    try:
        task = subprocess.Popen(
            ["/bin/sh", "-c", str(order["command"])], env={**os.environ, **environment}, stdin=subprocess.DEVNULL
        )
    except OSError as failure:
        agent.sendall(b"failed\n")
        raise SystemExit(f"cannot run the task: {failure}") from failure

    def pass_on(number: int, _frame: FrameType | None) -> None:
        task.send_signal(number)

    signal.signal(signal.SIGTERM, pass_on)
    agent.sendall(b"running\n")
    agent.close()
    status = task.wait()
    path = Path(str(order["exit_file"]))
    draft = path.with_suffix(".new")
    draft.write_text(str(status))
    draft.replace(path)
    return 0 if status == 0 else 1


def _raise_loopback() -> None:
    """`lo` is up; Mesos' own isolator brings it up since MESOS-6269."""
    with socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as control:
        flags = struct.unpack_from("16sh", fcntl.ioctl(control, _SIOCGIFFLAGS, struct.pack("16sh14x", b"lo", 0)))[1]
        fcntl.ioctl(control, _SIOCSIFFLAGS, struct.pack("16sh14x", b"lo", flags | _IFF_UP))


if __name__ == "__main__":
    sys.exit(main())
