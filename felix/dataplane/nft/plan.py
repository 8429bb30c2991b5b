"""What the table should be, what it is believed to be, and the next transactions: pure, no kernel in sight.

Order makes one common transaction of structure and elements unnecessary: close the gate, declare and fill sets
(`plan_fill`); write chains, then the elements that lead packets there (`plan_structure`); remove what nothing refers
to any more (`plan_cleanup`). After each step `absorb_…` notes what the kernel took, and the next plan is what is left.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from types import MappingProxyType

from felix.calc.desired import ALL_INTERFACES, DesiredDelta, LocalEndpoint, LocalHostEndpoint
from felix.dataplane.nft.addresses import AddressSets
from felix.dataplane.nft.base import (
    CLAIMED,
    DISPATCH_SHAPES,
    FROM_WORKLOAD,
    SOURCES4,
    SOURCES6,
    TO_WORKLOAD,
    base_chains,
    base_objects,
)
from felix.dataplane.nft.chains import ChainBook
from felix.dataplane.nft.counters import Counted, CounterBook
from felix.dataplane.nft.elements import name_key
from felix.dataplane.nft.extras import Extras, is_extra, is_guard, is_hooked
from felix.dataplane.nft.hosts import GUARD_PREFIX, HOST_PREFIX, HOST_SHAPES, HostDispatch
from felix.dataplane.nft.limits import LIMIT_MAPS
from felix.dataplane.nft.members import MemberBook
from felix.dataplane.nft.names import EGRESS, INGRESS, stack_chain
from felix.dataplane.nft.ports import PortSets
from felix.dataplane.nft.sources import SOURCE_SHAPES, source_chains, source_elements, source_shapes
from felix.dataplane.nft.types import (
    ApplyResult,
    CleanupPlan,
    FillPlan,
    KernelTable,
    Lines,
    NftConfig,
    ObjectName,
    SetChange,
    StructurePlan,
)
from felix.dataplane.nft.verdicts import Verdicts
from felix.errors import Problem, shorten
from felix.model.keys import ResourceKey
from felix.policy.packet import Packet
from felix.reconcile.delta import DeltaTracker

_HOOK = "type "
_FEW_ELEMENTS = 1000  # surely one transaction
_LED_SHAPES = {**DISPATCH_SHAPES, **SOURCE_SHAPES, **LIMIT_MAPS, **HOST_SHAPES}
"""Whatever leads packets to chains, which therefore have to be there before."""


class NftPlan:
    """Desired and believed state of the table `inet felix`. A plan is a value: it stays valid while the state moves on.

    Nothing is known of the kernel before the first `replace_believed`: plan nothing before it, nor before desired
    state is complete, since plans also remove.
    """

    def __init__(self, config: NftConfig) -> None:
        self._config = config
        self._chains = ChainBook(config, base_chains(config))
        self._objects: DeltaTracker[ObjectName, Lines] = DeltaTracker()
        self._members = MemberBook()
        self._addresses = AddressSets(self._objects, self._members)
        self._counters = CounterBook(config, self._objects)
        self._ports = PortSets(self._objects, self._members)
        self._extras = Extras(config, self._objects, self._members)
        self._hosts = HostDispatch(config, self._chains, self._objects, self._members)
        self.verdicts = Verdicts(config, self._chains, self._members, self._hosts)
        self._endpoints: dict[ResourceKey, LocalEndpoint] = {}
        self._key_by_interface: dict[bytes, ResourceKey] = {}
        self._problems: dict[ResourceKey, Problem] = {}
        self._suspended: dict[ResourceKey, str] = {}
        self._problems_version = 0
        self._rebuilds = False
        self.rebuild_reason = ""  # of the last time
        self._is_guarding = False
        for name, lines in base_objects(config).items():
            self._objects.set_desired(name, lines)
        for set_, shape in (DISPATCH_SHAPES | source_shapes(config)).items():
            self._members.open_set(set_, shape)
        self._extras.settle()

    # --- What should be ---

    def on_delta(self, delta: DesiredDelta) -> None:
        """Desired state has changed by `delta`; costs what the change costs.

        Never between `plan_fill` and `plan_cleanup`: the later steps would refer to sets that the first has not filled,
        or remove chains still referred to.
        """
        for set_id, wanted in delta.sets.items():
            if wanted:
                self._addresses.open(set_id)
        for set_id, wanted in delta.port_sets.items():
            if wanted:
                self._ports.open(set_id)
        for key, policy in delta.policies.items():
            self._addresses.set_references(key, policy)
            self._chains.set_policy(key, policy)
            self._counters.set_policy(key, policy)
        for set_id, members in delta.members.items():
            self._addresses.change(set_id, members.added, members.removed)
        for set_id, ports in delta.port_members.items():
            self._ports.change(set_id, ports.added, ports.removed)
        for key in delta.endpoints:
            self._release(key)
        for key, endpoint in delta.endpoints.items():
            if endpoint is not None:
                self._claim(key, endpoint)
        for set_id, wanted in delta.sets.items():
            if not wanted:
                self._addresses.close(set_id)
        for set_id, wanted in delta.port_sets.items():
            if not wanted:
                self._ports.close(set_id)
        self._extras.on_delta(delta)
        self._settle()

    def bind_hosts(self, endpoint_by_interface: Mapping[str, LocalHostEndpoint | None]) -> None:
        """These interfaces of the host have these host endpoints from now on, or none; when `on_delta` may be called.

        ALL_INTERFACES stands for each that has none of its own. Their policies were told before, or with `on_delta`.
        """
        for interface, endpoint in endpoint_by_interface.items():
            self._hosts.bind(interface, endpoint)
        if endpoint_by_interface:
            self._settle()

    def on_tunnel_devices(self, versions: frozenset[int]) -> None:
        """Devices of tunnels of these families stand, wanted or not; until they go, what guards them stays."""
        if self._extras.on_tunnel_devices(versions):
            self._settle()

    @property
    def guards_tunnels(self) -> bool:
        """Whether the kernel is believed to take packets of tunnels from known hosts only; if not, none may be made."""
        return self._extras.guards_tunnels

    def _settle(self) -> None:
        self._chains.settle()
        self._hosts.set_tunnels(self._extras.tunnels)
        self._extras.settle(self._hosts.settle())

    def cut(self, packets: Sequence[Packet], now: float) -> None:
        """TCP connections to which these packets would be an answer do not go on; the time of others may be over."""
        self._extras.cuts.cut(packets, now)
        if self._extras.cuts.expire(now) or packets:
            self._extras.settle()

    def replace_believed(self, table: KernelTable) -> None:
        """`table` is what the kernel has. What was refused before is tried again."""
        self._extras.cuts.adopt(table.elements)
        self._extras.settle()
        self._rebuilds = bool(reason := self._why_unmendable(table))
        self.rebuild_reason = reason or self.rebuild_reason
        self._hosts.note_table(table)
        self._is_guarding = self._has_gates(table)
        if self._rebuilds:
            table = KernelTable()
        self._chains.forgive()
        self._hosts.forgive()
        self._chains.tracker.replace_believed(item for item in table.chains.items() if not is_extra(item[0]))
        self._extras.replace_believed(item for item in table.chains.items() if is_extra(item[0]))
        self._objects.replace_believed(table.objects.items())
        self._members.replace_believed(table.elements)
        for key in list(self._suspended):
            del self._suspended[key]
            endpoint = self._endpoints[key]
            self._release(key)
            self._claim(key, endpoint)
        self._settle()

    def _why_unmendable(self, table: KernelTable) -> str:
        """Returns why not every difference can be mended in place, or nothing: declarations and hooks of what is used
        cannot change.
        """
        if not table.exists:
            return ""
        if not table.is_plain:
            return "it is dormant or has something that no table of ours has"
        wanted_objects = self._objects.desired
        wanted_chains = {**self._chains.tracker.desired, **self._extras.tracker.desired}
        wanted_names = {name: kind for kind, name in wanted_objects if kind != "counter"}
        for (kind, name), lines in table.objects.items():
            if kind != "counter" and wanted_names.get(name, kind) != kind:
                return f"{name} is a {kind}, not a {wanted_names[name]}"
            wanted = wanted_objects.get(ObjectName(kind, name), lines)
            if wanted != lines:
                return f"{kind} {name} is declared as {'; '.join(lines)}, not as {'; '.join(wanted)}"
        for name, lines in table.chains.items():
            hooks = _hook_of(wanted_chains.get(name, lines)), _hook_of(lines)
            if hooks[0] != hooks[1]:
                return f"chain {name} has {hooks[1] or 'no hook'}, not {hooks[0] or 'none'}"
        return ""

    def _has_gates(self, table: KernelTable) -> bool:
        wanted = self._chains.tracker.desired
        base = {name: lines for name, lines in wanted.items() if self._chains.is_base(name)}
        if not self._rebuilds:
            return all(table.chains.get(name) == lines for name, lines in base.items())
        # Of another version, perhaps: it guards in its own way if it sees what ours would see, and is not asleep.
        hooks = [name for name, lines in base.items() if _hook_of(lines)]
        return table.is_plain and all(len(table.chains.get(name, ())) > 1 for name in hooks)

    @property
    def is_guarding(self) -> bool:
        """Whether the table as last read closes interfaces that nobody claims.

        If not, `plan_fill` is due at once, even before desired state is known: until that is known it only writes what
        every table of ours begins with.
        """
        return self._is_guarding

    # --- What to do ---

    def plan_fill(self) -> FillPlan:
        """Returns the first step: missing or wrong base chains and declarations, and elements of address sets."""
        base = base_objects(self._config)
        pending = list(self._objects.pending_updates())
        counters = tuple(name.name for name, _ in pending if self._counters.is_counter(name))
        others = [(name, lines) for name, lines in pending if not self._counters.is_counter(name)]
        objects = sorted(others, key=lambda item: item[0] not in base)
        tracker = self._chains.tracker
        chains = tuple((name, lines) for name, lines in tracker.pending_updates() if self._chains.is_base(name))
        existing = tuple(name for name, _ in chains if name in tracker.believed)
        address_sets = [name for name in self._members.unsettled_sets() if name not in _LED_SHAPES]
        changes = tuple(self._members.pending(address_sets))
        guards = tuple(self._hosts.render_guards().items()) if self._rebuilds else ()
        return FillPlan(tuple(objects), chains, existing, guards, self._rebuilds, changes, counters)

    def plan_structure(self) -> StructurePlan:
        """Returns the second step, for when the first has been absorbed."""
        tracker = self._chains.tracker
        chains = [(name, lines) for name, lines in tracker.pending_updates() if not self._chains.is_base(name)]
        existing = frozenset(name for name, _ in chains if name in tracker.believed)
        extras = self._extras.plan()
        believed = self._extras.tracker.believed
        existing |= {name for name, _ in extras if name in believed}
        is_guarded = any(name.startswith(GUARD_PREFIX) for name in believed)
        last = [name for name, lines in extras if is_guarded and is_guard(name) and is_hooked(lines)]
        return StructurePlan(
            tuple(chains),
            existing,
            tuple(self._members.pending(_LED_SHAPES)),
            tuple(one for one in extras if one[0] not in last),
            tuple(one for one in extras if one[0] in last),
        )

    def plan_elements(self, fill: FillPlan) -> StructurePlan:
        """Returns both steps as one where a few elements are all there is to do: one transaction costs half of two.

        Empty where there is more to do, or nothing. fill: the first step, as planned just now.
        """
        if fill != FillPlan(changes=fill.changes):
            return StructurePlan()
        structure = self.plan_structure()
        changes = fill.changes + structure.dispatch
        if structure != StructurePlan(dispatch=structure.dispatch) or _count_elements(changes) > _FEW_ELEMENTS:
            return StructurePlan()
        return StructurePlan(dispatch=changes)

    @property
    def is_closing(self) -> bool:
        """Whether endpoints are to be cut off whose chains the kernel does not lead to: `plan_structure` is due again.

        What leads to their former chains would otherwise stay, and with it a policy that is no longer wanted.
        """
        return any(not self.is_host_enforced(interface) for interface in self._hosts.closed) or any(
            self._members.is_believed(set_, element)
            for key in self._suspended
            for set_, element, _ in _dispatch(self._config, self._endpoints[key])
        )

    def plan_cleanup(self) -> CleanupPlan:
        """Returns the third step, for when the second has been absorbed."""
        chains = (*self._extras.tracker.pending_deletes(), *self._chains.tracker.pending_deletes())
        return CleanupPlan(chains, tuple(self._objects.pending_deletes()))

    @property
    def is_settled(self) -> bool:
        """Whether nothing is left to do."""
        is_structured = self._chains.tracker.is_settled and self._extras.tracker.is_settled
        return is_structured and self._objects.is_settled and not self._rebuilds and not self._members.unsettled_sets()

    # --- What became of it ---

    def absorb_fill(self, plan: FillPlan, result: ApplyResult) -> None:
        """What the kernel took of `plan` is believed."""
        if result.chains or result.objects:
            self._rebuilds = self._rebuilds and not plan.rebuilds
        self._absorb_written(plan.chains, result)
        self._extras.absorb(plan.guards, result)
        for name, lines in plan.objects:
            if name in result.objects:
                self._objects.note_present(name, lines)
        made = set(result.objects) if plan.counters else set()
        for counter in plan.counters:
            if (named := ObjectName("counter", counter)) in made:
                self._objects.note_present(named, ())
        self._absorb_elements(result)

    def absorb_structure(self, plan: StructurePlan, result: ApplyResult) -> None:
        """What the kernel took of `plan` is believed; what it refused is closed and reported in `problems`."""
        self._absorb_written(plan.chains, result)
        self._extras.absorb((*plan.extras, *plan.unguarding), result)
        for chain, reason in result.skipped.items():
            if chain.startswith(HOST_PREFIX):
                self._close_host(ALL_INTERFACES, reason)
        self._absorb_elements(result)

    def absorb_cleanup(self, plan: CleanupPlan, result: ApplyResult) -> None:
        """What is gone of `plan` is believed to be gone."""
        for chain in result.chains:
            tracker = self._extras.tracker if is_extra(chain) else self._chains.tracker
            tracker.note_absent(chain)
        for name in result.objects:
            self._objects.note_absent(name)
            self._members.note_set_gone(name.name)

    def _absorb_written(self, chains: Iterable[tuple[str, Lines]], result: ApplyResult) -> None:
        written = set(result.chains)
        for name, lines in chains:
            if name in written:
                self._chains.tracker.note_present(name, lines)
            elif name in result.closed:
                self._chains.close_chain(name, lines)

    def _absorb_elements(self, result: ApplyResult) -> None:
        for change in result.changes:
            self._members.note_done(change)
        for change, reason, is_stale in result.refused:
            if is_stale or change.set not in _LED_SHAPES:
                continue  # the first is tried again after a read, the second is nobody's in particular
            if change.set in HOST_SHAPES:
                for element in change.added:
                    self._close_host(element.key.rstrip(b"\0").decode(errors="surrogateescape"), reason)
                continue
            for element in (*change.removed, *change.added):
                key = self._key_by_interface.get(element.key[:16])
                if key is not None and key not in self._suspended:
                    self._suspend(key, reason)

    def _close_host(self, interface: str, reason: str) -> None:
        if self._hosts.close(interface, reason):
            self._extras.retry(HOST_PREFIX)
        self._problems_version += 1
        self._settle()

    # --- Endpoints ---

    @property
    def problems(self) -> Mapping[ResourceKey, Problem]:
        """What is wrong with endpoints that are therefore closed; of chains see `closed_chains`."""
        return MappingProxyType(self._problems)

    @property
    def endpoints(self) -> Mapping[ResourceKey, LocalEndpoint]:
        """The workload endpoints that are wanted."""
        return MappingProxyType(self._endpoints)

    @property
    def problems_version(self) -> int:
        """Another number than before when `problems`, `closed_chains` or `shortfalls` may say something else."""
        return self._problems_version + self._chains.refusals_version + self._extras.version

    def find_shortfall(self, endpoint: LocalEndpoint) -> str:
        """Returns which limits of an endpoint the kernel does not have, and why; empty when all is well."""
        refused = ""
        if endpoint.spoofed and not self._config.allows_spoofing:
            refused = "allowSpoofedSourcePrefixes count for nothing unless WorkloadSourceSpoofing is Any"
        return "; ".join(filter(None, (refused, self._extras.find_shortfall(endpoint))))

    @property
    def shortfalls(self) -> Mapping[str, str]:
        """Why the kernel does not have a feature's chain, by chain; nobody is closed because of it."""
        return self._extras.reason_by_chain

    def closed_chains(self) -> list[tuple[str, ResourceKey | None, list[ResourceKey]]]:
        """Returns refused chains, the policy each belongs to (None: to a stack), and the endpoints that it closes.

        Looks at everything there is; for reports after a refusal.
        """
        reports = []
        for chain in self._chains.closed_chains():
            stacks = set(self._chains.stacks_with(chain))
            keys = [
                key
                for key, endpoint in self._endpoints.items()
                if (INGRESS, endpoint.ingress) in stacks or (EGRESS, endpoint.egress) in stacks
            ]
            reports.append((chain, self._chains.find_policy(chain), keys))
        return reports

    @property
    def believed_interfaces(self) -> tuple[str, ...]:
        """The interfaces whose packets the kernel leads to the policy of an endpoint, as far as is known."""
        names = self._members.believed(FROM_WORKLOAD)
        return tuple(name.rstrip(b"\0").decode(errors="surrogateescape") for name in names)

    @property
    def chains_count(self) -> int:
        """How many chains the table has, as far as is known."""
        return len(self._chains.tracker.believed) + len(self._extras.tracker.believed)

    @property
    def sets_count(self) -> int:
        """How many sets and maps the table has, as far as is known."""
        return sum(kind != "counter" for kind, _ in self._objects.believed)

    @property
    def counted_by_name(self) -> Mapping[str, Counted]:
        """What the counters of policies count, by their name; a live view."""
        return self._counters.counted_by_name

    def is_unclaimed(self, interface: str) -> bool:
        """Whether it is an interface for workloads, and no endpoint is led to by it."""
        return interface.startswith(self._config.interface_prefixes) and not self._members.is_there(
            CLAIMED, name_key(interface)
        )

    def is_servable(self, endpoint: LocalEndpoint) -> bool:
        """Whether the endpoint's interface can be a workload's, by its name; any other is none of ours."""
        return not self._why_unusable(endpoint)

    def is_enforced(self, key: ResourceKey) -> bool:
        """Whether the kernel is believed to lead the endpoint's packets, and nobody else's, to its chains."""
        endpoint = self._endpoints.get(key)
        if endpoint is None or key in self._problems:
            return False
        believed, desired = self._chains.tracker.believed, self._chains.tracker.desired
        stacks = (stack_chain(INGRESS, endpoint.ingress), stack_chain(EGRESS, endpoint.egress))
        return all(believed.get(chain) == desired[chain] for chain in stacks) and all(
            self._members.is_there(set_, element) for set_, element, _ in _dispatch(self._config, endpoint)
        )

    def is_host_enforced(self, interface: str) -> bool:
        """Whether the kernel is believed to lead the packets of this interface to its host endpoint's policy."""
        return self._hosts.is_enforced(interface, self._extras.tracker.believed)

    @property
    def host_refusals(self) -> Mapping[ResourceKey, str]:
        """Why host endpoints are closed, but for failsafes."""
        return self._hosts.reason_by_key

    def _claim(self, key: ResourceKey, endpoint: LocalEndpoint) -> None:
        self._endpoints[key] = endpoint
        self.verdicts.claim(endpoint)
        self._chains.add_user((INGRESS, endpoint.ingress))
        self._chains.add_user((EGRESS, endpoint.egress))
        reason = self._why_unusable(endpoint)
        if reason:
            self._problems[key] = Problem(str(key), "spec.interfaceName", shorten(endpoint.interface), reason)
            self._problems_version += 1
            return
        self._key_by_interface[name_key(endpoint.interface)] = key
        for chain, lines in source_chains(self._config, endpoint).items():
            self._chains.want_apart(chain, lines)
        for set_, element, chain in _dispatch(self._config, endpoint):
            self._members.want(set_, element, chain)
        self._extras.claim(endpoint)

    def _release(self, key: ResourceKey) -> None:
        endpoint = self._endpoints.pop(key, None)
        if endpoint is None:
            return
        self.verdicts.release(endpoint)
        self._chains.drop_user((INGRESS, endpoint.ingress))
        self._chains.drop_user((EGRESS, endpoint.egress))
        self._suspended.pop(key, None)
        if self._problems.pop(key, None) is not None:
            self._problems_version += 1
        if not self._why_unusable(endpoint):
            self._key_by_interface.pop(name_key(endpoint.interface), None)
            self._undispatch(endpoint)
            for chain in source_chains(self._config, endpoint):
                self._chains.drop_apart(chain)
            self._extras.release(endpoint)

    def _suspend(self, key: ResourceKey, reason: str) -> None:
        """The endpoint is closed until it changes or the table is read again: the kernel will not dispatch to it."""
        endpoint = self._endpoints[key]
        self._suspended[key] = reason
        self.verdicts.close(key)
        self._undispatch(endpoint)
        self._problems[key] = Problem(
            str(key), "", endpoint.interface, f"closed: the kernel refuses its chains: {reason}"
        )
        self._problems_version += 1

    def _undispatch(self, endpoint: LocalEndpoint) -> None:
        for set_, element, _ in _dispatch(self._config, endpoint):
            self._members.drop(set_, element)

    def _why_unusable(self, endpoint: LocalEndpoint) -> str:
        try:
            name_key(endpoint.interface)
        except ValueError as error:
            return str(error)
        if not endpoint.interface.startswith(self._config.interface_prefixes):
            return (
                f"not a workload interface: its name has to begin with {' or '.join(self._config.interface_prefixes)}"
            )
        return ""


def _count_elements(changes: Iterable[SetChange]) -> int:
    return sum(len(change.removed) + len(change.added) for change in changes)


def _dispatch(config: NftConfig, endpoint: LocalEndpoint) -> list[tuple[str, bytes, str]]:
    """Returns set, key and chain of every element that opens the endpoint."""
    name = name_key(endpoint.interface)
    elements = [
        (CLAIMED, name, ""),
        (FROM_WORKLOAD, name, stack_chain(EGRESS, endpoint.egress)),
        (TO_WORKLOAD, name, stack_chain(INGRESS, endpoint.ingress)),
    ]
    for net in endpoint.addresses:
        elements.append((SOURCES4 if net.version == 4 else SOURCES6, name + net.packed, ""))
    return elements + source_elements(config, endpoint)


def _hook_of(lines: Lines) -> str:
    return lines[0] if lines and lines[0].startswith(_HOOK) else ""
