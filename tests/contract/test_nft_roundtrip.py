"""What is written comes back as it was written: a restart that finds what is right writes nothing."""

from __future__ import annotations

from collections.abc import Iterator, Mapping

import pytest
from hypothesis import HealthCheck, given, settings

from felix.calc.desired import (
    Action,
    CompiledPolicy,
    CompiledRule,
    DesiredDelta,
    EntityMatch,
    HostStacks,
    LocalHostEndpoint,
    PortRange,
    Stack,
    StackTier,
)
from felix.dataplane.nft.apply import NftWorker, apply_teardown
from felix.dataplane.nft.plan import NftPlan
from felix.dataplane.nft.read import read_table
from felix.dataplane.nft.types import KernelTable, NftConfig, NftPort
from felix.model.keys import ResourceKey
from felix.model.net import parse_net
from tests.model.host_worlds import bindings, make_host_endpoint
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


@settings(max_examples=40, deadline=None, suppress_health_check=list(HealthCheck))
@given(delta=deltas(), hosts=bindings())
def test_restart_after_any_program_writes_nothing(kernel: NftWorker, delta: DesiredDelta, hosts: Hosts) -> None:
    kernel.call_blocking(_program, delta, hosts)


_ASKED_AGAIN = [
    (EntityMatch(not_port_sets=("http@s1",)), EntityMatch(not_ports=(PortRange(0, 0),))),
    (EntityMatch(), EntityMatch((parse_net("10.1.2.3"),), ports=(PortRange(0, 80),), not_ports=(PortRange(8, 9),))),
]


@pytest.mark.parametrize(("source", "destination"), _ASKED_AGAIN, ids=["source ports in a set", "two words on a port"])
def test_rule_on_tracked_port_is_taken_and_read_back(
    kernel: NftWorker, source: EntityMatch, destination: EntityMatch
) -> None:
    key = ResourceKey("GlobalNetworkPolicy", "", "p0")
    rule = CompiledRule(Action.ALLOW, source=source, destination=destination)
    pre_dnat = (StackTier("a", (key,), Action.PASS),)
    ingress = Stack((), (), pre_dnat=pre_dnat)
    stacks = HostStacks(ingress, Stack((), ()), pre_dnat=Stack(pre_dnat, (), Action.PASS))
    delta = DesiredDelta(port_sets={"http@s1": True}, policies={key: CompiledPolicy((rule,), ())})
    kernel.call_blocking(_program, delta, {"eth0": make_host_endpoint("eth0", stacks)})
