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

    def has(self, address: str) -> bool:
        """Whether an address of the same family is in the subnet."""
        import ipaddress

        return ipaddress.ip_address(address) in self.subnet

    def overlaps(self, other: Gateway) -> bool:
        """Whether the subnets of two gateways of one family have addresses in common."""
        longest, shortest = sorted((self, other), key=lambda one: -one.length)
        return shortest.has(str(longest.subnet.network_address))


def handle_of(network: str, container: str, interface: str) -> str:
    """Returns under which handle a container's addresses are found; the same form as the agent's and Calico's."""
    name = f"{network}.{container}"
    return (name if interface == "eth0" else f"{name}.{interface}").lower()


def parse_gateways(ipam: dict[str, object]) -> list[Gateway]:
    """Returns the gateways of a configuration, often none; their subnets do not overlap."""
    gateways = [Gateway(text) for text in take_texts(ipam, "gateway", "ipam.")]
    for index, one in enumerate(gateways):
        for other in gateways[:index]:
            if one.is_ipv6 is other.is_ipv6 and one.overlaps(other):
                text = f'"ipam.gateway": the subnets of {other.address} and {one.address} overlap'
                raise CniError(INVALID_CONFIG, text)
    return gateways


def place_address(address: str, gateways: list[Gateway]) -> dict[str, object]:
    """Returns the entry of a result: in a gateway's subnet if its family has gateways, else a single address.

    Raises CniError when the address lies in no subnet: nothing could be reached from it.
    """
    plain = address.partition("/")[0]
    near = [gateway for gateway in gateways if gateway.is_ipv6 is is_ipv6(plain)]
    for gateway in near:
        if gateway.has(plain):
            return {"address": f"{plain}/{gateway.length}", "gateway": gateway.address}
    if near:
        subnets = ", ".join(f"{gateway.subnet} of {gateway.address}" for gateway in near)
        text = f"{plain} is in no subnet of a gateway: {subnets}"
        raise CniError(INVALID_CONFIG, text, "let ipv4_pools and ipv6_pools name only pools inside of them")
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
