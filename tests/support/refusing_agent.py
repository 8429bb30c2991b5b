"""The agent with a kernel that refuses every transaction in which a certain text stands: run in its place by tests.

refusing_agent.py TEXT
"""

from __future__ import annotations

import sys
from dataclasses import replace
from unittest import mock

from felix.__main__ import main
from felix.dataplane.nft.apply import Kernel
from felix.dataplane.nft.types import TableWrite, WriteRefusal

_write = Kernel.write


def _write_unless_refused(kernel: Kernel, write: TableWrite) -> WriteRefusal | None:
    # The kernel takes no transaction with a rule about a set that does not exist, and so says no itself.
    refused = sys.argv[1]
    chains = tuple(
        (name, tuple(line.replace(refused, "ip saddr @no-such-set " + refused) for line in lines))
        for name, lines in write.chains
    )
    return _write(kernel, replace(write, chains=chains))


if __name__ == "__main__":
    with mock.patch.object(Kernel, "write", _write_unless_refused):
        raise SystemExit(main(["run"]))
