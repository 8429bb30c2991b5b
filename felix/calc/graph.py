"""From records to desired state: every update goes to the indexes that it concerns, a flush tells what changed.

    records ─▶ matches (policies × local endpoints) ─▶ endpoints (claims, stacks) ─▶ rules (of used policies)
          ├──▶ nets (pools, hosts), for address translation
          ├──▶ tunnels (pools, nodes, blocks): how pools with VXLAN are reached at other hosts
          └──▶ address sets (endpoints and network sets of the whole cluster × selectors of those rules)

What comes out depends on what is there, not on the order in which it came.
"""

from __future__ import annotations

from collections.abc import Iterable

from felix.calc.address_sets import AddressSets
from felix.calc.bgp import BGP_KINDS, BgpBoard, BgpInputs
from felix.calc.changes import ChangeLog
from felix.calc.desired import DesiredDelta
from felix.calc.endpoints import LocalEndpoints
from felix.calc.host_endpoints import LocalHostEndpoints, place_host_policy, read_host_endpoint
from felix.calc.matches import PolicyMatches
from felix.calc.pools import PoolNets
from felix.calc.port_sets import EndpointPorts, PortSets
from felix.calc.rules import ActiveRules
from felix.calc.sources import place_policy, read_endpoint, read_nets, read_node_addresses, read_ports
from felix.calc.stats import CalcStats, ClusterTally
from felix.calc.tunnels import Tunnels
from felix.errors import Problem
from felix.model.keys import AffinityKey, BlockKey, Key, ResourceKey
from felix.model.net import Net
from felix.model.records import (
    AllocationBlock,
    BlockAffinity,
    GlobalNetworkPolicy,
    GlobalNetworkSet,
    HostEndpoint,
    IPPool,
    NetworkSet,
    Node,
    Policy,
    Profile,
    Record,
    StagedGlobalNetworkPolicy,
    Tier,
    WorkloadEndpoint,
)
from felix.policy.order import tier_sort_key
from felix.policy.scope import endpoint_labels, host_endpoint_labels, network_set_labels, network_set_parents
from felix.policy.staged import is_staged


class CalcGraph:
    """The desired state of host `hostname`, kept up to date with the records of the cluster.

    reserved: addresses besides those of nodes that no workload may have, such as the datastore's and the gateway's.
    """

    def __init__(self, hostname: str, reserved: Iterable[Net] = ()) -> None:
        self._hostname = hostname
        self._problems: ChangeLog[Key, tuple[Problem, ...]] = ChangeLog()
        self._sets = AddressSets()
        self._port_sets = PortSets()
        self._matches = PolicyMatches(self._problems)
        self._endpoints = LocalEndpoints(self._matches, self._problems)
        self._hosts = LocalHostEndpoints()
        self._rules = ActiveRules(self._sets, self._port_sets, self._problems)
        self._blocks: ChangeLog[Net, bool] = ChangeLog()
        self._pools = PoolNets()
        self.tunnels = Tunnels(hostname)
        self._bgp = BgpBoard(hostname)
        self._tally = ClusterTally()
        self._endpoints.reserve(ResourceKey("Host", "", hostname), reserved)

    def on_update(self, key: Key, record: Record | None, revision: int = 0) -> None:
        """`record` is stored under `key` at etcd mod revision `revision`; None: nothing usable is.

        Nothing is told before `flush`. Kinds that decide nothing here (settings) are ignored.
        """
        if isinstance(key, AffinityKey):
            self._on_affinity(key, record if isinstance(record, BlockAffinity) else None)
        elif isinstance(key, BlockKey):
            self.tunnels.set_block(key.block, record if isinstance(record, AllocationBlock) else None)
        elif isinstance(key, ResourceKey):
            self._tally.count(key, is_stored=record is not None)
            self._on_resource(key, record, revision)

    def settle(self, limit: int | None = None) -> bool:
        """Does the work that `flush` would do first, for up to `limit` policies; returns whether all is done.

        For a first snapshot: many short calls with pauses between them, so that nobody waits for one long flush.
        """
        self._endpoints.settle()
        self._hosts.settle()
        for key in {**self._endpoints.pop_changed_profiles(), **self._hosts.pop_changed_profiles()}:
            self._rules.set_used(key, is_used=self._endpoints.is_using(key) or self._hosts.is_using(key))
        for key in {**self._matches.pop_changed_policies(), **self._hosts.matches.pop_changed_policies()}:
            is_used = self._matches.is_selecting(key) or self._hosts.matches.is_selecting(key)
            self._rules.set_used(key, is_used=is_used)
        return self._rules.settle(limit)

    def flush(self) -> DesiredDelta:
        """Returns everything that changed since the last call; may be empty."""
        self.settle()
        delta = DesiredDelta(
            endpoints=self._endpoints.results.pop_changes(),
            blocks=self._blocks.pop_changes(),
            nets=self._pools.pop_changes(),
            host_endpoints=self._hosts.results.pop_changes(),
        )
        self._rules.pop_changes(delta)
        self.tunnels.pop_changes(delta)
        return delta

    def find_leaving(self) -> list[str]:
        """Returns the interfaces of endpoints that the next flush will tell as gone; call it when all is settled."""
        return [one.interface for one in self._endpoints.results.find_leaving() if not self.is_claimed(one.interface)]

    def is_claimed(self, interface: str) -> bool:
        """Whether an endpoint of this host names that interface."""
        return self._endpoints.is_claimed(interface)

    def pop_problems(self) -> dict[Key, tuple[Problem, ...]]:
        """Returns what is wrong with each object of which that changed since the last call; empty: nothing any more.

        Speaks of the state at the last flush or later. Problems of decoding are not among them.
        """
        logs: tuple[ChangeLog[Key, tuple[Problem, ...]], ...]
        logs = (self._problems, self._hosts.problems, self.tunnels.problems)
        changed: dict[Key, None] = {key: None for log in logs for key in log.pop_changes()}
        return {key: tuple(dict.fromkeys(one for log in logs for one in log.find(key) or ())) for key in changed}

    def pop_bgp_inputs(self) -> BgpInputs | None:
        """Returns the picture for the routing daemon, or None if it is as it was at the last call."""
        return self._bgp.pop_inputs()

    def stats(self) -> CalcStats:
        """Returns the counts that metrics show, as of the last flush."""
        return CalcStats(
            local_endpoints=len(self._endpoints.results) + len(self._hosts.results),
            policies=sum(key.kind != "Profile" and not is_staged(key.kind) for key in self._rules.results.values),
            selectors=len(self._sets),
            set_items=self._sets.items_count,
            tunnel_ends=self.tunnels.ends_count,
            tunnel_routes=self.tunnels.routes_count,
            cluster=self._tally.get_totals(),
        )

    def _on_affinity(self, key: AffinityKey, record: BlockAffinity | None) -> None:
        if key.host != self._hostname:
            return
        is_own = record is not None and record.state == "confirmed" and not record.deleted
        self._blocks.set(key.block, True if is_own else None)
        self._bgp.set_block(key.block, is_own=is_own)

    def _on_resource(self, key: ResourceKey, record: Record | None, revision: int) -> None:
        match key.kind:
            case "WorkloadEndpoint":
                self._on_workload(key, record if isinstance(record, WorkloadEndpoint) else None, revision)
            case "HostEndpoint":
                self._on_host_endpoint(key, record if isinstance(record, HostEndpoint) else None)
            case "GlobalNetworkSet" | "NetworkSet":
                self._on_network_set(key, record if isinstance(record, GlobalNetworkSet | NetworkSet) else None)
            case "GlobalNetworkPolicy" | "NetworkPolicy" | "StagedGlobalNetworkPolicy" | "StagedNetworkPolicy":
                self._on_policy(key, record if isinstance(record, Policy) else None)
            case "Profile":
                self._on_profile(key, record if isinstance(record, Profile) else None)
            case "Tier":
                self._on_tier(key, record if isinstance(record, Tier) else None)
            case kind if kind in BGP_KINDS:
                self._bgp.set_record(key, record)
                if kind == "Node":
                    addresses = read_node_addresses(record) if isinstance(record, Node) else ()
                    self._endpoints.reserve(key, addresses)
                    self._pools.set_host(key, addresses)
                    self.tunnels.set_node(key, record if isinstance(record, Node) else None)
                elif kind == "IPPool":
                    self.tunnels.set_pool(key, record if isinstance(record, IPPool) else None)
                    self._pools.set_pool(key, record if isinstance(record, IPPool) else None)

    def _on_workload(self, key: ResourceKey, record: WorkloadEndpoint | None, revision: int) -> None:
        if record is None:
            self._sets.drop_item(key)
            self._port_sets.drop_item(key)
            self._endpoints.set_spec(key, None)
            return
        read = read_nets(key, "spec.ipNetworks", record.spec.ip_networks, addresses_only=True)
        labels = endpoint_labels(record)
        self._sets.set_item(key, read.nets, labels, record.spec.profiles)
        ports = read_ports(key, record.spec.ports)
        self._port_sets.set_item(key, EndpointPorts(read.nets, ports.ports), labels, record.spec.profiles)
        read = read._replace(problems=read.problems + ports.problems)
        is_local = record.spec.node == self._hostname
        self._endpoints.set_spec(key, read_endpoint(key, record, read, revision) if is_local else None)

    def _on_host_endpoint(self, key: ResourceKey, record: HostEndpoint | None) -> None:
        if record is None:
            self._sets.drop_item(key)
            self._port_sets.drop_item(key)
            self._problems.set(key, None)
            self._hosts.set_spec(key, None)
            return
        read = read_nets(key, "spec.expectedIPs", record.spec.expected_ips, addresses_only=True)
        ports = read_ports(key, record.spec.ports)
        problems = read.problems + ports.problems
        spec = read_host_endpoint(key, record, read) if record.spec.node == self._hostname else None
        if isinstance(spec, Problem):
            problems, spec = (*problems, spec), None
        self._hosts.set_spec(key, spec)
        self._problems.set(key, problems or None)
        labels = host_endpoint_labels(record.metadata.labels)
        self._sets.set_item(key, read.nets, labels, record.spec.profiles)
        self._port_sets.set_item(key, EndpointPorts(read.nets, ports.ports), labels, record.spec.profiles)

    def _on_network_set(self, key: ResourceKey, record: GlobalNetworkSet | NetworkSet | None) -> None:
        if record is None:
            self._sets.drop_item(key)
            self._problems.set(key, None)
            return
        read = read_nets(key, "spec.nets", record.spec.nets)
        self._problems.set(key, read.problems or None)
        labels = network_set_labels(key.namespace, record.metadata.labels)
        self._sets.set_item(key, read.nets, labels, network_set_parents(key.namespace))

    def _on_policy(self, key: ResourceKey, record: Policy | None) -> None:
        placement = place_policy(key, record) if record is not None else None
        if isinstance(placement, Problem):
            self._problems.set(key, (placement,))
            placement = None
        elif placement is None:
            self._problems.set(key, None)
        self._matches.set_policy(key, placement)
        at_host = None
        if isinstance(record, GlobalNetworkPolicy | StagedGlobalNetworkPolicy):
            at_host = place_host_policy(key, record)
        if isinstance(at_host, Problem):
            self._problems.set(key, (at_host,))
            at_host = None
        self._hosts.matches.set_policy(key, at_host)
        self._rules.set_source(key, record if placement is not None or at_host is not None else None)

    def _on_profile(self, key: ResourceKey, record: Profile | None) -> None:
        labels = record.spec.labels_to_apply if record is not None else {}
        self._matches.set_parent_labels(key.name, labels)
        self._hosts.matches.set_parent_labels(key.name, labels)
        self._sets.set_parent_labels(key.name, labels)
        self._port_sets.set_parent_labels(key.name, labels)
        self._rules.set_source(key, record)

    def _on_tier(self, key: ResourceKey, record: Tier | None) -> None:
        place = tier_sort_key(key.name, record.spec.order, record.spec.default_action) if record is not None else None
        self._matches.set_tier(key.name, place)
        self._hosts.matches.set_tier(key.name, place)
