"""Which interfaces of the host belong to which host endpoint, and how each host endpoint stands. Pure.

A host endpoint names its interface, or all, or addresses; addresses come and go with the host's own configuration. An
interface that several claim is the one's with the lowest key, whatever came first.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence

from felix.calc.claims import Claims
from felix.calc.desired import ALL_INTERFACES, LocalHostEndpoint
from felix.dataplane.addresses.types import AddressEvent
from felix.errors import Problem
from felix.model.keys import ResourceKey, format_key
from felix.model.net import Net


class HostInterfaces:
    """Host endpoints, interfaces with their addresses, and who has which interface."""

    def __init__(self, workload_prefixes: Sequence[str]) -> None:
        self._prefixes = tuple(workload_prefixes)
        self._endpoint_by_key: dict[ResourceKey, LocalHostEndpoint] = {}
        self._keys_by_address: dict[Net, set[ResourceKey]] = {}
        self._name_by_index: dict[int, str] = {}
        self._addresses_by_index: dict[int, set[Net]] = {}
        self._indexes_by_address: dict[Net, set[int]] = {}
        self._claims: Claims[str] = Claims()
        self._interfaces_by_key: dict[ResourceKey, tuple[str, ...]] = {}
        self._touched: dict[ResourceKey, None] = {}
        self._told: dict[str, LocalHostEndpoint] = {}
        self._replay: list[AddressEvent] | None = None

    @property
    def endpoints(self) -> Mapping[ResourceKey, LocalHostEndpoint]:
        """The host endpoints that are wanted."""
        return self._endpoint_by_key

    def on_delta(self, endpoints: Mapping[ResourceKey, LocalHostEndpoint | None]) -> None:
        """These host endpoints are wanted from now on, or not any more (None)."""
        for key, endpoint in endpoints.items():
            before = self._endpoint_by_key.pop(key, None)
            for address in before.addresses if before is not None else ():
                self._keys_by_address[address].discard(key)
                if not self._keys_by_address[address]:
                    del self._keys_by_address[address]
            if endpoint is not None:
                self._endpoint_by_key[key] = endpoint
                for address in endpoint.addresses:
                    self._keys_by_address.setdefault(address, set()).add(key)
            self._touched[key] = None

    def on_link(self, index: int, name: str | None) -> None:
        """The interface has this name; None: it is gone, with its addresses."""
        if self._name_by_index.get(index) == name:
            return
        if name is None:
            del self._name_by_index[index]
            for address in list(self._addresses_by_index.get(index, ())):
                self._take(AddressEvent(index, address, False))
            return
        self._name_by_index[index] = name
        for address in self._addresses_by_index.get(index, ()):
            self._touch(address)

    def on_address(self, event: AddressEvent) -> None:
        """One address came or went."""
        if self._replay is not None:
            self._replay.append(event)
        self._take(event)

    def start_read(self) -> None:
        """A dump begins: events from now on are told again after it."""
        self._replay = []

    def replace_believed(self, links: Iterable[tuple[int, str]], addresses: Iterable[AddressEvent]) -> None:
        """Exactly these interfaces and addresses were read since `start_read`."""
        replay, self._replay = self._replay or [], None
        name_by_index = dict(links)
        for index in self._name_by_index.keys() - name_by_index.keys():
            self.on_link(index, None)
        for index, name in name_by_index.items():
            self.on_link(index, name)
        there = {(event.link, event.address) for event in addresses}
        before = {(index, address) for index, held in self._addresses_by_index.items() for address in held}
        for index, address in before - there:
            self._take(AddressEvent(index, address, False))
        for index, address in there - before:
            self._take(AddressEvent(index, address, True))
        for event in replay:
            self._take(event)

    def pop_bindings(self) -> dict[str, LocalHostEndpoint | None]:
        """Returns the interfaces whose host endpoint is another one than was told; None: they have none."""
        changed: dict[str, LocalHostEndpoint | None] = {}
        touched, self._touched = self._touched, {}
        names: dict[str, None] = {}
        for key in touched:
            before = self._interfaces_by_key.pop(key, ())
            after = self._find_interfaces(self._endpoint_by_key.get(key))
            if after:
                self._interfaces_by_key[key] = after
            self._claims.set_claims(key, after)
            names.update(dict.fromkeys((*before, *after)))
        for name in names:
            winner = self._claims.find_winner(name)
            endpoint = None if winner is None else self._endpoint_by_key[winner]
            if endpoint == self._told.get(name):
                continue
            changed[name] = endpoint
            if endpoint is None:
                del self._told[name]
            else:
                self._told[name] = endpoint
        return changed

    @property
    def is_settled(self) -> bool:
        """Whether `pop_bindings` would return nothing new."""
        return not self._touched

    def find_interfaces(self, key: ResourceKey) -> list[str]:
        """Returns the interfaces that are this host endpoint's, ALL_INTERFACES among them."""
        return [name for name in self._interfaces_by_key.get(key, ()) if self._claims.find_winner(name) == key]

    def find_holders(self, address: Net) -> list[str]:
        """Returns the interfaces that have this address, the oldest first."""
        indexes = sorted(self._indexes_by_address.get(address, ()))
        return [self._name_by_index[index] for index in indexes if index in self._name_by_index]

    def find_lost_claims(self, key: ResourceKey) -> list[Problem]:
        """Returns what is wrong with the interfaces that this host endpoint claims."""
        endpoint = self._endpoint_by_key[key]
        if self._is_workload(endpoint.interface):
            reason = "is a workload's, by its name; policy of host endpoints does not apply there"
            return [Problem(format_key(key), "spec.interfaceName", endpoint.interface, reason)]
        problems = []
        for name in self._interfaces_by_key.get(key, ()):
            winner = self._claims.find_winner(name)
            if winner != key:
                reason = f"belongs to {winner}, which claims it too and has the lower key; remove one of them"
                problems.append(Problem(format_key(key), "spec.interfaceName", name, reason))
        return problems

    def _find_interfaces(self, endpoint: LocalHostEndpoint | None) -> tuple[str, ...]:
        if endpoint is None or self._is_workload(endpoint.interface):
            return ()
        if endpoint.interface:
            return (endpoint.interface,)
        indexes = {index for address in endpoint.addresses for index in self._indexes_by_address.get(address, ())}
        names = {self._name_by_index[index] for index in indexes if index in self._name_by_index}
        return tuple(sorted(name for name in names if not self._is_workload(name)))

    def _is_workload(self, name: str) -> bool:
        return name != ALL_INTERFACES and name.startswith(self._prefixes)

    def _take(self, event: AddressEvent) -> None:
        held, places = (
            self._addresses_by_index.setdefault(event.link, set()),
            self._indexes_by_address.setdefault(event.address, set()),
        )
        if event.is_there:
            held.add(event.address)
            places.add(event.link)
        else:
            held.discard(event.address)
            places.discard(event.link)
        if not held:
            del self._addresses_by_index[event.link]
        if not places:
            del self._indexes_by_address[event.address]
        self._touch(event.address)

    def _touch(self, address: Net) -> None:
        self._touched.update(dict.fromkeys(self._keys_by_address.get(address, ())))
