"""What is written comes back as it was written: a restart that finds what is right writes nothing."""

from __future__ import annotations

from collections.abc import Iterator, Mapping

import pytest
from hypothesis import HealthCheck, given, settings

from felix.calc.desired import DesiredDelta, LocalHostEndpoint
from felix.dataplane.nft.apply import NftWorker, apply_teardown
from felix.dataplane.nft.plan import NftPlan
from felix.dataplane.nft.read import read_table
from felix.dataplane.nft.types import KernelTable, NftConfig, NftPort
from tests.model.host_worlds import bindings
from tests.model.namespaces import enter_private_network
from tests.model.nft_worlds import deltas, drive

pytestmark = pytest.mark.fv


@pytest.fixture(scope="module")
def kernel() -> Iterator[NftWorker]:
    worker = NftWorker(enter_private_network)
    yield worker
    worker.close()


Hosts = Mapping[str, LocalHostEndpoint | None]


def _program(port: NftPort, delta: DesiredDelta, hosts: Hosts) -> None:
    apply_teardown(port)
    plan = NftPlan(NftConfig())
    plan.replace_believed(KernelTable())
    plan.on_delta(delta)
    plan.bind_hosts(hosts)
    for result in drive(port, plan):
        assert not result.error
        assert not result.closed
        assert not result.refused
    assert plan.is_settled
    again = NftPlan(NftConfig())
    again.replace_believed(read_table(port))
    again.on_delta(delta)
    again.bind_hosts(hosts)
    assert not again.plan_fill()
    assert not again.plan_structure()
    assert not again.plan_cleanup()
    again.bind_hosts(dict.fromkeys(hosts))
    for result in drive(port, again):
        assert not result.error
    assert again.is_settled
    bare = NftPlan(NftConfig())
    bare.replace_believed(read_table(port))
    bare.on_delta(delta)
    assert bare.is_settled


@settings(max_examples=60, deadline=None, suppress_health_check=list(HealthCheck))
@given(delta=deltas(), hosts=bindings())
def test_restart_after_any_program_writes_nothing(kernel: NftWorker, delta: DesiredDelta, hosts: Hosts) -> None:
    kernel.call_blocking(_program, delta, hosts)
