"""What is written comes back as it was written: a restart that finds what is right writes nothing."""

from __future__ import annotations

from collections.abc import Iterator

import pytest
from hypothesis import HealthCheck, given, settings

from felix.calc.desired import DesiredDelta
from felix.dataplane.nft.apply import NftWorker, apply_teardown
from felix.dataplane.nft.plan import NftPlan
from felix.dataplane.nft.read import read_table
from felix.dataplane.nft.types import KernelTable, NftConfig, NftPort
from tests.model.namespaces import enter_private_network
from tests.model.nft_worlds import deltas, drive

pytestmark = pytest.mark.fv


@pytest.fixture(scope="module")
def kernel() -> Iterator[NftWorker]:
    worker = NftWorker(enter_private_network)
    yield worker
    worker.close()


def _program(port: NftPort, delta: DesiredDelta) -> None:
    apply_teardown(port)
    plan = NftPlan(NftConfig())
    plan.replace_believed(KernelTable())
    plan.on_delta(delta)
    for result in drive(port, plan):
        assert not result.error
        assert not result.closed
        assert not result.refused
    assert plan.is_settled
    again = NftPlan(NftConfig())
    again.replace_believed(read_table(port))
    again.on_delta(delta)
    assert not again.plan_fill()
    assert not again.plan_structure()
    assert not again.plan_cleanup()


@settings(max_examples=60, deadline=None, suppress_health_check=list(HealthCheck))
@given(delta=deltas())
def test_restart_after_any_program_writes_nothing(kernel: NftWorker, delta: DesiredDelta) -> None:
    kernel.call_blocking(_program, delta)
