"""Labs for scenarios: gone afterwards, with the agents' logs shown when the scenario failed."""

from __future__ import annotations

import itertools
import os
from collections.abc import Iterator

import pytest

from felix.lab.lab import Lab

_numbers = itertools.count(1)


@pytest.fixture
def lab(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Lab]:
    """A lab that is not up yet; its directory is short, because sockets lie in it."""
    lab = Lab(f"e2e{os.getpid()}x{next(_numbers)}", tmp_path_factory.mktemp("l"))
    try:
        yield lab
    finally:
        for host in lab.hosts:
            if host.agent_log.exists():
                print(f"--- {host.name} ---\n{host.agent_log.read_text()[-20000:]}")
        lab.down()
