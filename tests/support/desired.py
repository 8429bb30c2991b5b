"""Short ways to say what calculation hands to the dataplane."""

from __future__ import annotations

from felix.calc.desired import LocalEndpoint, Stack
from felix.model.keys import ResourceKey
from felix.model.net import parse_address

NO_STACK = Stack((), ())


def endpoint_key(name: str) -> ResourceKey:
    """Returns the key of a workload endpoint in namespace `default`."""
    return ResourceKey("WorkloadEndpoint", "default", name)


def local_endpoint(name: str, interface: str, *addresses: str, mac: str | None = None) -> LocalEndpoint:
    """Returns an endpoint without any policy."""
    nets = tuple(parse_address(address) for address in addresses)
    return LocalEndpoint(endpoint_key(name), interface, nets, mac, NO_STACK, NO_STACK, 1)
