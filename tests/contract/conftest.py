"""Contracts of the table are tried on the fake nf_tables and on the kernel's, in a network namespace of their own."""

from __future__ import annotations

from collections.abc import Callable, Iterator

import pytest

from felix.dataplane.nft.apply import NftWorker, apply_teardown
from felix.dataplane.nft.types import NftPort
from tests.model.fake_nft import FakeNft
from tests.model.namespaces import enter_private_network

Run = Callable[[Callable[[NftPort], None]], None]
"""Calls the body of a test with a table that is empty."""


@pytest.fixture(scope="module")
def worker() -> Iterator[NftWorker]:
    worker = NftWorker(enter_private_network)
    yield worker
    worker.close()


@pytest.fixture(params=["fake", pytest.param("real", marks=pytest.mark.fv)])
def run(request: pytest.FixtureRequest) -> Run:
    if request.param == "fake":
        return lambda body: body(FakeNft())
    real: NftWorker = request.getfixturevalue("worker")

    def run_real(body: Callable[[NftPort], None]) -> None:
        real.call_blocking(apply_teardown)
        real.call_blocking(body)

    return run_real
