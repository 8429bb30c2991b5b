"""The agent with a kernel that refuses every transaction in which a certain text stands: run in its place by tests.

refusing_agent.py TEXT
"""

from __future__ import annotations

import sys
from unittest import mock

from felix.__main__ import main
from felix.dataplane.nft.apply import Kernel

_run = Kernel.run


def _run_unless_refused(kernel: Kernel, text: str) -> str:
    refused = sys.argv[1]
    if refused in text:
        # The kernel takes no transaction with a rule about a set that does not exist, and so says no itself.
        text = text.replace(refused, "ip saddr @no-such-set " + refused)
    return _run(kernel, text)


if __name__ == "__main__":
    with mock.patch.object(Kernel, "run", _run_unless_refused):
        raise SystemExit(main(["run"]))
