"""Who wants which address: from endpoints to one interface per address, whatever order the news came in."""

from __future__ import annotations

from collections.abc import Iterable, Mapping

from felix.calc.desired import LocalEndpoint
from felix.model.keys import ResourceKey
from felix.model.net import Net


class AddressClaims:
    """Addresses claimed by endpoints. Of several claims on one address the lowest key counts, the others wait."""

    def __init__(self) -> None:
        self._endpoint_by_key: dict[ResourceKey, LocalEndpoint] = {}
        self._interface_by_key_by_net: dict[Net, dict[ResourceKey, str]] = {}
        self._nets_by_interface: dict[str, dict[Net, None]] = {}  # of all claims, counting or not

    def on_delta(self, endpoints: Mapping[ResourceKey, LocalEndpoint | None]) -> Iterable[Net]:
        """Returns the addresses whose owner may have changed, in order of mention."""
        touched: dict[Net, None] = {}
        for key, endpoint in endpoints.items():
            before = self._endpoint_by_key.pop(key, None)
            if before is not None:
                self._withdraw(before)
                touched.update(dict.fromkeys(before.routed))
            if endpoint is not None:
                self._endpoint_by_key[key] = endpoint
                self._claim(endpoint)
                touched.update(dict.fromkeys(endpoint.routed))
        return touched

    def find_interface(self, net: Net) -> str | None:
        """Returns the interface that the address belongs to, None if nobody claims it."""
        interface_by_key = self._interface_by_key_by_net.get(net)
        return interface_by_key[min(interface_by_key)] if interface_by_key else None

    def nets_of(self, interface: str) -> Iterable[Net]:
        """Returns every address that some endpoint on `interface` claims, even where another claim counts."""
        return self._nets_by_interface.get(interface, ())

    def _claim(self, endpoint: LocalEndpoint) -> None:
        for net in endpoint.routed:
            self._interface_by_key_by_net.setdefault(net, {})[endpoint.key] = endpoint.interface
            self._nets_by_interface.setdefault(endpoint.interface, {})[net] = None

    def _withdraw(self, endpoint: LocalEndpoint) -> None:
        nets = self._nets_by_interface.get(endpoint.interface, {})
        for net in endpoint.routed:
            interface_by_key = self._interface_by_key_by_net.get(net, {})
            interface_by_key.pop(endpoint.key, None)
            if not interface_by_key:
                self._interface_by_key_by_net.pop(net, None)
            if endpoint.interface not in interface_by_key.values():
                nets.pop(net, None)
        if not nets:
            self._nets_by_interface.pop(endpoint.interface, None)
