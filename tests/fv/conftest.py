"""The two hosts that all functional tests share; each test leaves them as it found them."""

from __future__ import annotations

import os
from collections.abc import Iterator

import pytest

from felix.lab.lab import Lab
from tests.support.fv import ENVIRONMENT, Fleet


@pytest.fixture(scope="session")
def fleet(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Fleet]:
    """Two hosts with four containers, etcd, agents and BIRD, once for all tests."""
    with Lab(f"fv{os.getpid()}", tmp_path_factory.mktemp("labs")) as lab:
        lab.up(hosts=2, agents=False)
        for host in lab.hosts:
            host.start_agent(environment=ENVIRONMENT)
        for host in lab.hosts:
            host.wait_agent_ready()
        fleet = Fleet(lab)
        fleet.furnish()
        yield fleet
