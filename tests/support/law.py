"""What the laws about packets share: a table in two kernels, made and changed by deltas, and where things are in a
generated world.
"""

from __future__ import annotations

import os
from collections import Counter
from collections.abc import Mapping
from typing import Generic, TypeVar

from hypothesis import HealthCheck, Phase, settings

from felix.calc.desired import DesiredDelta, LocalHostEndpoint
from felix.calc.graph import CalcGraph
from felix.dataplane.addresses.types import AddressEvent
from felix.dataplane.hosts import HostInterfaces
from felix.dataplane.nft.apply import NftWorker, apply_teardown
from felix.dataplane.nft.plan import NftPlan
from felix.dataplane.nft.read import read_table
from felix.dataplane.nft.types import KernelTable, NftConfig
from felix.model.keys import ResourceKey
from felix.model.net import Net, parse_net
from felix.policy.evaluate import World, find_workload
from tests.model.fake_nft import FakeNft
from tests.model.nft_worlds import drive
from tests.model.worlds import PolicyRecord, world_updates
from tests.support.wire import UPLINK, Wire

W = TypeVar("W", bound=Wire)
HOST_ADDRESSES = (parse_net("192.0.2.130"), parse_net("2001:db8::82"))
"""Those that the host itself has at its uplink, where it has some."""

_WORKLOADS = 6
WORKLOAD_INTERFACES = tuple(f"cali{number}" for number in range(_WORKLOADS))
WORKLOAD_ADDRESSES = tuple(
    (parse_net(text), name)
    for number, name in enumerate(WORKLOAD_INTERFACES, 1)
    for text in (f"10.65.0.{number}", f"fd00:65::{number:x}")
)
"""Every address that a workload can have, with its interface."""


def law(examples: int, *, is_made_small: bool) -> settings:
    """Returns the settings of a law: FELIX_LAW_EXAMPLES other examples each time, or else these many, always the same.

    is_made_small: whether a counter-example is made smaller, which takes minutes.
    """
    wanted = int(os.environ.get("FELIX_LAW_EXAMPLES", "0"))
    phases = (Phase.explicit, Phase.generate, Phase.shrink) if is_made_small else (Phase.explicit, Phase.generate)
    return settings(
        max_examples=wanted or examples,
        derandomize=not wanted,
        phases=phases,
        deadline=None,
        suppress_health_check=list(HealthCheck),
        database=None,
    )


class Bench(Generic[W]):
    """Both kernels, the wire through the real one, and what has been tried on them."""

    def __init__(self, wire: W) -> None:
        self.wire = wire
        self.worker = NftWorker(wire.host.enter_thread)
        self.tried: Counter[str] = Counter()

    def close(self) -> None:
        """Tells what was tried; nothing is left of it."""
        print("\ntried:", *(f"{count} {what}," for what, count in sorted(self.tried.items())))
        self.worker.close()
        self.wire.close()


class Tables:
    """One host's table in the fake kernel and in the real one. plans: of these two, in this order.

    has_host_endpoints: whether those of the worlds protect the interfaces of the host.
    """

    def __init__(self, worker: NftWorker, node: str, config: NftConfig, *, has_host_endpoints: bool) -> None:
        self.fake = FakeNft()
        self.worker = worker
        self.plans = NftPlan(config), NftPlan(config)
        self._node = node
        self._config = config
        self._graph = CalcGraph(node)
        self._hosts = _make_interfaces() if has_host_endpoints else None
        self._stored: dict[ResourceKey, PolicyRecord] = {}
        for plan in self.plans:
            plan.replace_believed(KernelTable())
        assert worker.call_blocking(apply_teardown) == ""

    def enter(self, world: World) -> DesiredDelta:
        """Both tables are those of `world`; only what differs was written, and is returned."""
        wanted = dict(world_updates(world))
        for key in self._stored.keys() - wanted.keys():
            self._graph.on_update(key, None)
        for key, record in wanted.items():
            if self._stored.get(key) != record:
                self._graph.on_update(key, record)
        self._stored = dict(wanted)
        delta = self._graph.flush()
        bindings = _bind(self._hosts, delta)
        faked, real = self.plans
        for plan in self.plans:
            plan.on_delta(delta)
            plan.bind_hosts(bindings)
        for result in (*drive(self.fake, faked), *self.worker.call_blocking(drive, real)):
            assert (result.error, result.closed, result.refused, result.skipped) == ("", {}, [], {}), result
        assert faked.is_settled
        assert real.is_settled
        return delta

    def check_restart(self, world: World) -> None:
        """Who starts now, in this world, finds both tables as they should be."""
        graph = CalcGraph(self._node)
        for key, record in world_updates(world):
            graph.on_update(key, record)
        delta = graph.flush()
        bindings = _bind(None if self._hosts is None else _make_interfaces(), delta)
        for table in (read_table(self.fake), self.worker.call_blocking(read_table)):
            plan = NftPlan(self._config)
            plan.replace_believed(table)
            plan.on_delta(delta)
            plan.bind_hosts(bindings)
            assert plan.is_settled


def _bind(hosts: HostInterfaces | None, delta: DesiredDelta) -> Mapping[str, LocalHostEndpoint | None]:
    """Returns which interfaces of the host have other host endpoints now."""
    if hosts is None:
        return {}
    hosts.on_delta(delta.host_endpoints)
    return hosts.pop_bindings()


def _make_interfaces() -> HostInterfaces:
    hosts = HostInterfaces(("cali",))
    hosts.on_link(7, UPLINK)
    for net in HOST_ADDRESSES:
        hosts.on_address(AddressEvent(7, net, True))
    return hosts


def find_local_addresses(world: World, host: str) -> list[tuple[Net, str]]:
    """Returns the addresses of a host's workloads, each with its interface."""
    return [
        (parse_net(text), workload.spec.interface_name)
        for workload in world.workloads.values()
        if workload.spec.node == host
        for text in workload.spec.ip_networks
    ]


def find_interface(world: World, host: str, address: Net) -> str:
    """Returns the interface of a host behind which an address is."""
    owner = find_workload(world, address)
    if owner is None or world.workloads[owner].spec.node != host:
        return UPLINK
    return world.workloads[owner].spec.interface_name
