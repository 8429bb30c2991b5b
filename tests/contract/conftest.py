"""What contracts are tried on: nf_tables, a fake and the kernel's in a namespace; etcd, a fake and a real one."""

from __future__ import annotations

from collections.abc import AsyncIterator, Callable, Iterator

import pytest

from felix.dataplane.nft.apply import NftWorker, apply_teardown
from felix.dataplane.nft.types import NftPort
from felix.datastore.etcd import EtcdClient, EtcdSettings
from felix.ipam.read import Store
from tests.model.fake_nft import FakeNft
from tests.model.fake_store import FakeStore
from tests.model.namespaces import enter_private_network
from tests.support.etcd import EtcdServer, running_etcd

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


@pytest.fixture(scope="module")
def server() -> Iterator[EtcdServer]:
    with running_etcd() as one:
        yield one


@pytest.fixture(params=["fake", "etcd"])
async def store(request: pytest.FixtureRequest) -> AsyncIterator[Store]:
    if request.param == "fake":
        yield FakeStore()
        return
    server: EtcdServer = request.getfixturevalue("server")
    client = EtcdClient(EtcdSettings((server.endpoint,), timeout_s=5.0))
    await client.delete_prefix("/")
    yield client
    await client.close()
