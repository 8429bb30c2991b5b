"""What Calico 3.32 does wrong with rules and sets, by the number under which it was found; here it is right.

Stored records go through calculation into the fake kernel and into the real one; packets are asked of the fake, which
the three-way law holds against the real one.
"""

from __future__ import annotations

import json
from collections.abc import Callable, Iterator

import pytest

from felix.calc.graph import CalcGraph
from felix.dataplane.nft.apply import NftWorker, apply_teardown
from felix.dataplane.nft.plan import NftPlan
from felix.dataplane.nft.types import KernelTable, NftConfig, NftPort
from felix.model.codec import decode
from felix.model.keys import ResourceKey
from felix.model.net import parse_net
from felix.policy.packet import ICMP, ICMPV6, Packet
from tests.model.fake_nft import FakeNft
from tests.model.namespaces import enter_private_network
from tests.model.nft_worlds import drive

POLICY = ResourceKey("GlobalNetworkPolicy", "", "p")
WORKLOAD = ResourceKey("WorkloadEndpoint", "default", "w")
NETS = ResourceKey("GlobalNetworkSet", "", "nets")


class Table:
    """A table in both kernels that follows what is stored."""

    def __init__(self, worker: NftWorker) -> None:
        self._worker = worker
        self._graph = CalcGraph("h1")
        self.fake = FakeNft()
        self._plans = NftPlan(NftConfig()), NftPlan(NftConfig())
        worker.call_blocking(apply_teardown)
        for plan in self._plans:
            plan.replace_believed(KernelTable())
        spec: dict[str, object] = {"node": "h1", "orchestrator": "cni", "interfaceName": "cali1"}
        self.store(WORKLOAD, {**spec, "ipNetworks": ["10.0.0.1/32", "fd00::1/128"]})

    def store(self, key: ResourceKey, spec: dict[str, object]) -> None:
        """Both kernels took all of it."""
        metadata = {"name": key.name, "namespace": key.namespace, "labels": {"kind": "nets"}}
        document = {"apiVersion": "projectcalico.org/v3", "kind": key.kind, "metadata": metadata, "spec": spec}
        decoded = decode(key, json.dumps(document).encode())
        assert not decoded.problems
        self._graph.on_update(key, decoded.record)
        delta = self._graph.flush()
        ports: tuple[Callable[[NftPlan], object], ...] = (self._drive_fake, self._drive_real)
        for plan, act in zip(self._plans, ports, strict=True):
            plan.on_delta(delta)
            act(plan)
            assert plan.is_settled

    def _drive_fake(self, plan: NftPlan) -> None:
        _drive(self.fake, plan)

    def _drive_real(self, plan: NftPlan) -> None:
        self._worker.call_blocking(_drive, plan)

    def allow_from(self, **members: object) -> None:
        """The policy of the workload allows exactly this."""
        self.store(POLICY, {"selector": "all()", "types": ["Ingress"], "ingress": [{"action": "Allow", **members}]})

    def is_reached(self, source: str, protocol: int = 47, icmp: tuple[int, int] | None = None) -> bool:
        """Whether such a packet comes to the workload."""
        net = parse_net(source)
        target = parse_net("10.0.0.1" if net.version == 4 else "fd00::1")
        packet = Packet(net.version, net.value, target.value, protocol)
        if icmp is not None:
            packet = packet._replace(icmp_type=icmp[0], icmp_code=icmp[1])
        return self.fake.is_forwarded(packet, "eth0", "cali1")


def _drive(port: NftPort, plan: NftPlan) -> None:
    for result in drive(port, plan):
        assert not any((result.error, result.closed, result.refused))


@pytest.fixture(scope="module")
def worker() -> Iterator[NftWorker]:
    worker = NftWorker(enter_private_network)
    yield worker
    worker.close()


@pytest.fixture
def table(worker: NftWorker) -> Table:
    return Table(worker)


pytestmark = pytest.mark.fv
_ICMP_CASES = pytest.mark.parametrize(
    ("protocol", "number", "source"), [("ICMP", ICMP, "192.0.2.1"), ("ICMPv6", ICMPV6, "2001:db8::1")]
)


@_ICMP_CASES
def test_n1_icmp_type_and_code_are_taken_by_the_kernel(table: Table, protocol: str, number: int, source: str) -> None:
    table.allow_from(protocol=protocol, icmp={"type": 8, "code": 0})
    assert table.is_reached(source, number, (8, 0))
    assert not table.is_reached(source, number, (8, 1))
    assert not table.is_reached(source, number, (9, 0))


@_ICMP_CASES
def test_n2_not_icmp_type_and_code_excludes_only_both_together(
    table: Table, protocol: str, number: int, source: str
) -> None:
    table.allow_from(protocol=protocol, notICMP={"type": 8, "code": 0})
    assert not table.is_reached(source, number, (8, 0))
    assert table.is_reached(source, number, (8, 1))
    assert table.is_reached(source, number, (9, 0))


def test_n3_prefix_between_two_others_goes_without_a_trace(table: Table) -> None:
    outer, middle, inner = "192.0.0.0/8", "192.0.0.0/16", "192.0.2.0/24"
    table.allow_from(source={"selector": "kind == 'nets'"})
    table.store(NETS, {"nets": [outer, middle, inner]})
    table.store(NETS, {"nets": [outer, inner]})
    assert table.is_reached("192.0.2.1")
    assert table.is_reached("192.9.9.9")
    table.store(NETS, {"nets": [inner]})
    assert table.is_reached("192.0.2.1")
    assert not table.is_reached("192.9.9.9")


@pytest.mark.parametrize("side", ["source", "destination"])
def test_n8_host_bits_of_nets_do_not_count_on_either_side(table: Table, side: str) -> None:
    nets = {"source": ["192.0.2.77/24", "2001:db8::77/64"], "destination": ["10.0.0.77/24", "fd00::77/64"]}
    table.allow_from(**{side: {"nets": nets[side]}})
    assert table.is_reached("192.0.2.1")
    assert table.is_reached("2001:db8::1")
    assert table.is_reached("198.51.100.1") is (side == "destination")
