"""How an address of ours looks under a plug-in that makes a network of its own: length, gateway, routes. Pure."""

from __future__ import annotations

from felix.plugins.cni.conf import take_objects, take_texts
from felix.plugins.cni.refusal import INVALID_CONFIG, CniError
from felix.plugins.cni.result import is_ipv6

GATEWAY = "gateway"
"""Under this container's name a network holds its gateways."""

_ROUTE_KEYS = ("dst", "gw", "mtu", "advmss", "priority", "table", "scope")


class Gateway:
    """A gateway that the configuration names. address: without length; subnet: of containers that use it."""

    __slots__ = ("address", "is_ipv6", "length", "subnet")

    def __init__(self, text: str) -> None:
        import ipaddress

        try:
            interface = ipaddress.ip_interface(text)
        except ValueError as error:
            raise CniError(INVALID_CONFIG, f'"ipam.gateway": {text!r} is no address with length: {error}') from None
        self.address = str(interface.ip)
        self.subnet = interface.network
        self.length = interface.network.prefixlen
        self.is_ipv6 = interface.version == 6
        if interface.network.num_addresses == 1:
            details = "its length is that of the subnet"
            raise CniError(INVALID_CONFIG, f'"ipam.gateway": say {text}/24 or so, not a single address', details)


def handle_of(network: str, container: str, interface: str) -> str:
    """Returns under which handle a container's addresses are found; the same form as the agent's and Calico's."""
    name = f"{network}.{container}"
    return (name if interface == "eth0" else f"{name}.{interface}").lower()


def parse_gateways(ipam: dict[str, object]) -> list[Gateway]:
    """Returns the gateways of a configuration, one per family at most; often none."""
    gateways = [Gateway(text) for text in take_texts(ipam, "gateway", "ipam.")]
    if len({gateway.is_ipv6 for gateway in gateways}) != len(gateways):
        raise CniError(INVALID_CONFIG, '"ipam.gateway" names two gateways of one family')
    return gateways


def place_address(address: str, gateways: list[Gateway]) -> dict[str, object]:
    """Returns the entry of a result: in its gateway's subnet if there is one, else a single address.

    Raises CniError when the address lies outside the subnet: nothing could be reached from it.
    """
    plain = address.partition("/")[0]
    for gateway in gateways:
        if gateway.is_ipv6 is not is_ipv6(plain):
            continue
        import ipaddress

        if ipaddress.ip_address(plain) not in gateway.subnet:
            text = f"{plain} is not in {gateway.subnet}, the subnet of the gateway {gateway.address}"
            raise CniError(INVALID_CONFIG, text, "let ipv4_pools and ipv6_pools name only pools inside of it")
        return {"address": f"{plain}/{gateway.length}", "gateway": gateway.address}
    return {"address": f"{plain}/{128 if is_ipv6(plain) else 32}"}


def plan_routes(
    ipam: dict[str, object], gateways: list[Gateway], ips: list[dict[str, object]]
) -> list[dict[str, object]]:
    """Returns the routes: those of the configuration, else a default route through each gateway that is used."""
    routes = take_objects(ipam, "routes", "ipam.")
    for route in routes:
        if not isinstance(route.get("dst"), str):
            raise CniError(INVALID_CONFIG, f'"ipam.routes": {route} has no dst')
    if "routes" in ipam:
        return [{key: route[key] for key in _ROUTE_KEYS if key in route} for route in routes]
    used = {ip.get("gateway") for ip in ips}
    return [
        {"dst": "::/0" if gateway.is_ipv6 else "0.0.0.0/0", "gw": gateway.address}
        for gateway in gateways
        if gateway.address in used
    ]
