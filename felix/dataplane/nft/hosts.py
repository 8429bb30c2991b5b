"""Policy at the host's own interfaces: which chains hang on which hooks, and which interface leads to which stack.

Nothing of it is there without a host endpoint, and only those hooks are taken at which one has something to say. An
interface with a host endpoint of its own is found in a verdict map; what is in no map goes to the one for all
interfaces, if there is one, except workload interfaces and `lo`.
"""

from __future__ import annotations

from collections.abc import Collection, Mapping
from typing import NamedTuple

from felix.calc.desired import ALL_INTERFACES, HostStacks, LocalHostEndpoint, Stack
from felix.dataplane.nft.base import declare
from felix.dataplane.nft.chains import ChainBook
from felix.dataplane.nft.elements import name_key
from felix.dataplane.nft.members import MemberBook
from felix.dataplane.nft.names import (
    FORWARD_EGRESS,
    FORWARD_INGRESS,
    HOST_EGRESS,
    HOST_INGRESS,
    PRE_DNAT,
    UNTRACKED_EGRESS,
    UNTRACKED_INGRESS,
    stack_chain,
)
from felix.dataplane.nft.stack import render_closed
from felix.dataplane.nft.tunnels import render_tunnel_passes
from felix.dataplane.nft.types import ElementShape, KernelTable, Lines, NftConfig, ObjectName
from felix.model.keys import ResourceKey
from felix.model.net import Net
from felix.policy.staged import is_staged
from felix.reconcile.delta import DeltaTracker

HOST_PREFIX = "host-"
_ASIDE = "host-aside"
_LEAVING = "host-leaving"


class _Place(NamedTuple):
    """Where packets of one direction are met. map: from interface to stack. chain: hangs on the hook."""

    map: str
    chain: str
    hook: str
    priority: int
    word: str


_PLACES = {
    UNTRACKED_INGRESS: _Place("untracked-in", "host-untracked-in", "prerouting", -299, "iifname"),
    UNTRACKED_EGRESS: _Place("untracked-out", "host-untracked-out", "output", -300, "oifname"),
    PRE_DNAT: _Place("pre-dnat", "host-pre-dnat", "prerouting", -150, "iifname"),
    HOST_INGRESS: _Place("to-host", "host-input", "input", 0, "iifname"),
    HOST_EGRESS: _Place("from-host", "host-output", "output", 0, "oifname"),
    FORWARD_INGRESS: _Place("forward-in", "host-forward-in", "forward", -1, "iifname"),
    FORWARD_EGRESS: _Place("forward-out", "host-forward-out", "forward", 2, "oifname"),
}
HOST_SHAPES = {place.map: ElementShape.NAME_CHAIN for place in _PLACES.values()}
"""The maps that lead packets of the host's own interfaces to policy; there while somebody needs them."""
_NOTHING = Stack((), ())
GUARD_PREFIX = f"{HOST_PREFIX}guard-"
_GUARDED = {
    HOST_INGRESS: (),
    HOST_EGRESS: (),
    FORWARD_INGRESS: (PRE_DNAT, UNTRACKED_INGRESS),
    FORWARD_EGRESS: (),
}
"""Where interfaces are closed while the table is built anew, and the earlier places whose interfaces are meant too."""


class HostDispatch:
    """Which host endpoint each interface has, and what the table needs for that."""

    def __init__(
        self, config: NftConfig, chains: ChainBook, objects: DeltaTracker[ObjectName, Lines], members: MemberBook
    ) -> None:
        self._config = config
        self._chains = chains
        self._objects = objects
        self._members = members
        self._endpoint_by_interface: dict[str, LocalHostEndpoint] = {}
        self._closed: dict[str, str] = {}
        self._maps_count = 0
        self._tunnels: dict[int, Net] = {}
        self._hooked: dict[str, Lines] | None = {}  # None: something was bound or closed since
        self._distinct: tuple[HostStacks, ...] | None = None  # the same
        self._led: dict[str, set[str]] = {}

    @property
    def closed(self) -> Collection[str]:
        """The interfaces (ALL_INTERFACES among them) that are closed because the kernel refuses their chains."""
        return self._closed

    @property
    def endpoints(self) -> Mapping[str, LocalHostEndpoint]:
        """The host endpoint of each interface that has one, ALL_INTERFACES among them."""
        return self._endpoint_by_interface

    def find_stacks(self, interface: str) -> HostStacks | None:
        """Returns what decides at an interface (empty: an unknown one), None if nothing; closed, its stacks deny."""
        if interface not in self._endpoint_by_interface:
            if interface in ("", "lo") or interface.startswith(self._config.interface_prefixes):
                return None
            interface = ALL_INTERFACES
        endpoint = self._endpoint_by_interface.get(interface)
        return None if endpoint is None else self._stacks_of(interface, endpoint)

    @property
    def distinct_stacks(self) -> tuple[HostStacks, ...]:
        """What decides at one interface or another, each once."""
        if self._distinct is None:
            found = (self._stacks_of(name, endpoint) for name, endpoint in self._endpoint_by_interface.items())
            self._distinct = tuple(dict.fromkeys(found))
        return self._distinct

    @property
    def reason_by_key(self) -> Mapping[ResourceKey, str]:
        """Why a host endpoint is closed: the kernel refuses its chains."""
        return {self._endpoint_by_interface[name].key: reason for name, reason in self._closed.items()}

    def bind(self, interface: str, endpoint: LocalHostEndpoint | None) -> None:
        """The interface (ALL_INTERFACES: each without its own) has this host endpoint; None: none."""
        before = self._wanted_stacks(interface)
        self._closed.pop(interface, None)
        if endpoint is None:
            self._endpoint_by_interface.pop(interface, None)
        else:
            self._endpoint_by_interface[interface] = endpoint
        self._move(before, self._wanted_stacks(interface))

    def close(self, interface: str, reason: str) -> bool:
        """The kernel does not lead packets of the interface to its policy: all but failsafes are to be dropped there.

        Returns whether that is news.
        """
        is_news = interface in self._endpoint_by_interface and interface not in self._closed
        if is_news:
            before = self._wanted_stacks(interface)
            self._closed[interface] = reason
            self._move(before, self._wanted_stacks(interface))
        return is_news

    def forgive(self) -> None:
        """What was refused is tried again."""
        for interface in list(self._closed):
            self.bind(interface, self._endpoint_by_interface[interface])

    def set_tunnels(self, owns: Mapping[int, Net]) -> None:
        """This host has tunnels of these families, whose packets no policy stops between its own address and those of
        known hosts.
        """
        if owns != self._tunnels:
            self._tunnels = dict(owns)
            self._hooked = None

    def settle(self) -> dict[str, Lines]:
        """Maps are wanted as bound; returns the chains that hang on hooks, and those that they go to."""
        if self._hooked is None:
            self._hooked = self._settle_bound()
        return self._hooked

    def _settle_bound(self) -> dict[str, Lines]:
        if not self._endpoint_by_interface and not self._maps_count:
            return {}
        chains: dict[str, Lines] = {}
        default = self._wanted_stacks(ALL_INTERFACES)
        for direction, place in _PLACES.items():
            stack_by_interface = {
                name: self._wanted_stacks(name).get(direction)
                for name in self._endpoint_by_interface
                if name != ALL_INTERFACES
            }
            is_needed = direction in default or any(stack is not None for stack in stack_by_interface.values())
            self._settle_map(direction, place, stack_by_interface if is_needed else None, direction in default)
            if is_needed:
                passes = render_tunnel_passes(self._config.vxlan_port, self._tunnels, place.hook)
                chains |= _hook_chains(self._config, direction, place, default.get(direction), passes)
        if default:
            chains[_ASIDE] = ()
        return chains

    def note_table(self, table: KernelTable) -> None:
        """`table` was read: interfaces whose packets it leads to policy are closed if it is built anew."""
        self._led = {
            direction: {
                key.rstrip(b"\0").decode(errors="surrogateescape")
                for key, chain in table.elements.get(place.map, {}).items()
                if chain != _ASIDE
            }
            | ({ALL_INTERFACES} if _has_default(table, place) else set())
            for direction, place in _PLACES.items()
        }

    def render_guards(self) -> dict[str, Lines]:
        """Returns chains that close interfaces with host endpoints, now or in the table before, but for failsafes and
        what is open; they look into no map. Those on hooks bear the names of the chains that will replace them.
        """
        chains: dict[str, Lines] = {}
        for direction, earlier in _GUARDED.items():
            names = set().union(*(self._find_led(one) for one in (direction, *earlier)))
            if not names:
                continue
            place = _PLACES[direction]
            guard = f"{GUARD_PREFIX}{place.map}"
            chains[guard] = render_closed(self._config, direction, "closed until its policy is in place")
            lines = [f'{place.word} "{name}" goto {guard}' for name in sorted(names - {ALL_INTERFACES})]
            if ALL_INTERFACES in names:
                lines += [*_render_spared(self._config, place.word), f"goto {guard}"]
            chains[place.chain] = (_render_hook(place), *lines)
        return chains

    def _find_led(self, direction: str) -> set[str]:
        bound = {name for name in self._endpoint_by_interface if direction in self._wanted_stacks(name)}
        return bound | self._led.get(direction, set())

    def is_enforced(self, interface: str, believed_hooks: Mapping[str, Lines]) -> bool:
        """Whether the kernel is believed to lead the packets of the interface to its policy."""
        believed, desired = self._chains.tracker.believed, self._chains.tracker.desired
        wanted = self.settle()
        for direction, stack in self._wanted_stacks(interface).items():
            chain, place = stack_chain(direction, stack), _PLACES[direction]
            hooks = (place.chain, _LEAVING) if direction == HOST_EGRESS else (place.chain,)
            if believed.get(chain) != desired[chain] or any(believed_hooks.get(hook) != wanted[hook] for hook in hooks):
                return False
            if interface != ALL_INTERFACES and not self._members.is_there(place.map, name_key(interface)):
                return False
        return True

    def _wanted_stacks(self, interface: str) -> dict[str, Stack]:
        endpoint = self._endpoint_by_interface.get(interface)
        if endpoint is None:
            return {}
        stacks = self._stacks_of(interface, endpoint)
        found = {
            HOST_INGRESS: stacks.ingress,
            HOST_EGRESS: stacks.egress,
            FORWARD_INGRESS: stacks.forward_ingress,
            FORWARD_EGRESS: stacks.forward_egress,
            PRE_DNAT: stacks.pre_dnat,
            UNTRACKED_INGRESS: stacks.untracked_ingress,
            UNTRACKED_EGRESS: stacks.untracked_egress,
        }
        return {direction: stack for direction, stack in found.items() if stack is not None}

    def _stacks_of(self, interface: str, endpoint: LocalHostEndpoint) -> HostStacks:
        return _close(endpoint.stacks) if interface in self._closed else endpoint.stacks

    def _move(self, before: Mapping[str, Stack], after: Mapping[str, Stack]) -> None:
        self._hooked = self._distinct = None
        for directed in after.items():
            self._chains.add_user(directed)
        for directed in before.items():
            self._chains.drop_user(directed)

    def _settle_map(
        self, direction: str, place: _Place, stack_by_interface: Mapping[str, Stack | None] | None, has_default: bool
    ) -> None:
        name = ObjectName("map", place.map)
        if stack_by_interface is None:
            if name in self._objects.desired:
                self._maps_count -= 1
                self._members.close_set(place.map)
                self._objects.drop_desired(name)
            return
        self._maps_count += name not in self._objects.desired
        self._members.open_set(place.map, HOST_SHAPES[place.map])
        self._objects.set_desired(name, declare(HOST_SHAPES[place.map]))
        wanted = {
            name_key(interface): stack_chain(direction, stack) if stack is not None else _ASIDE
            for interface, stack in stack_by_interface.items()
            if stack is not None or has_default
        }
        for key in self._members.desired(place.map) - wanted.keys():
            self._members.drop(place.map, key)
        for key, chain in wanted.items():
            self._members.want(place.map, key, chain)


def _close(stacks: HostStacks) -> HostStacks:
    """Returns stacks that deny wherever these decide, and need no other hook."""
    forward = (_NOTHING if _is_deciding(one) else None for one in (stacks.forward_ingress, stacks.forward_egress))
    return HostStacks(_NOTHING, _NOTHING, *forward)


def _is_deciding(stack: Stack | None) -> bool:
    """Whether a stack that leaves the rest to others has policies that are not only tried."""
    return stack is not None and any(not is_staged(key.kind) for tier in stack.tiers for key in tier.policies)


def _has_default(table: KernelTable, place: _Place) -> bool:
    chain = _LEAVING if place.chain == _PLACES[HOST_EGRESS].chain else place.chain
    return any(line.startswith("goto ") for line in table.chains.get(chain, ()))


def _render_hook(place: _Place) -> str:
    return f"type filter hook {place.hook} priority {place.priority}; policy accept;"


def _render_spared(config: NftConfig, word: str) -> list[str]:
    return [f'{word} "{name}" accept' for name in ("lo", *(f"{prefix}*" for prefix in config.interface_prefixes))]


def _hook_chains(
    config: NftConfig, direction: str, place: _Place, default: Stack | None, passes: Lines
) -> dict[str, Lines]:
    hook = _render_hook(place)
    lines = [*passes, f"{place.word} vmap @{place.map}"]
    if default is not None:
        lines += _render_spared(config, place.word)
        lines.append(f"goto {stack_chain(direction, default)}")
    if direction != HOST_EGRESS:
        return {place.chain: (hook, *lines)}
    # On output the interface is still that of the first destination: what was translated is asked when it leaves.
    late = "type filter hook postrouting priority 0; policy accept;"
    return {
        _LEAVING: tuple(lines),
        place.chain: (hook, "ct status 0x20 accept", f"goto {_LEAVING}"),
        "host-translated": (late, f"iif 0 ct status 0x20 goto {_LEAVING}"),
    }
