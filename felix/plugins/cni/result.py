"""The result of an ADD, in every version of the specification: parsed from any, rendered as any. Pure.

0.1.0 and 0.2.0 know one address per family, with its routes; 0.3.0 to 0.4.0 name the family of each address; from
1.0.0 on the address says it; 1.1.0 adds what is known of an interface and of a route.
"""

from __future__ import annotations

from felix.plugins.cni.refusal import DECODING_FAILURE, INCOMPATIBLE_VERSION, CniError
from felix.plugins.cni.versions import SUPPORTED, is_before

_NEWER_INTERFACE_KEYS = ("mtu", "socketPath", "pciID")
_NEWER_ROUTE_KEYS = ("mtu", "advmss", "priority", "table", "scope")


class Result:
    """What a container got, in the form of the newest version; keys that a version lacks are left out when rendered.

    interfaces: {name, mac, sandbox, mtu…}, sandbox absent on the host. ips: {address, gateway, interface}, with prefix
    length, gateway and interface (an index into `interfaces`) absent where there is none. routes: {dst, gw, …}.
    dns: {nameservers, domain, search, options}, any of them absent.
    """

    __slots__ = ("dns", "interfaces", "ips", "routes")

    def __init__(
        self,
        interfaces: list[dict[str, object]],
        ips: list[dict[str, object]],
        routes: list[dict[str, object]],
        dns: dict[str, object],
    ) -> None:
        self.interfaces = interfaces
        self.ips = ips
        self.routes = routes
        self.dns = dns


def is_ipv6(address: str) -> bool:
    """Whether an address, or a prefix, is of IPv6."""
    return ":" in address


def parse_result(document: object, fallback: str) -> Result:
    """Returns the result that a document holds. fallback: its version if it names none.

    Raises CniError for what is no result, or one of a version that we do not know.
    """
    fields = _mapping(document, "the result")
    version = fields.get("cniVersion") or fallback
    if version not in SUPPORTED:
        raise CniError(INCOMPATIBLE_VERSION, f"a result of version {version!r} cannot be read", _listed())
    if is_before(str(version), "0.3.0"):
        return _parse_old(fields)
    ips = []
    for entry in _mappings(fields.get("ips"), "ips"):
        ip = {key: entry[key] for key in ("address", "gateway", "interface") if entry.get(key) is not None}
        if not isinstance(ip.get("address"), str):
            raise CniError(DECODING_FAILURE, f"ips: {entry!r} has no address")
        if not isinstance(ip.get("interface", 0), int):
            raise CniError(DECODING_FAILURE, f"ips: the interface of {entry!r} is no number")
        ips.append(ip)
    return Result(
        _mappings(fields.get("interfaces"), "interfaces"),
        ips,
        _mappings(fields.get("routes"), "routes"),
        _mapping(fields.get("dns") or {}, "dns"),
    )


def render_result(result: Result, version: str) -> dict[str, object]:
    """Returns the document of a result in a version that is supported.

    Raises CniError when the version cannot say it: 0.2.0 and before need an address.
    """
    if is_before(version, "0.3.0"):
        return _render_old(result, version)
    has_family = is_before(version, "1.0.0")
    is_newest = not is_before(version, "1.1.0")
    document: dict[str, object] = {"cniVersion": version}
    if result.interfaces:
        document["interfaces"] = [
            _without(one, () if is_newest else _NEWER_INTERFACE_KEYS) for one in result.interfaces
        ]
    if result.ips:
        document["ips"] = [_family(one) | one if has_family else one for one in result.ips]
    if result.routes:
        document["routes"] = [_without(one, () if is_newest else _NEWER_ROUTE_KEYS) for one in result.routes]
    document["dns"] = result.dns
    return document


def addresses_of(result: Result, interface: str) -> list[str]:
    """Returns the addresses, with length, of the container's interface of that name; those that name none count too."""
    names = [(one.get("name"), one.get("sandbox")) for one in result.interfaces]
    found = []
    for ip in result.ips:
        index = ip.get("interface")
        if isinstance(index, int) and 0 <= index < len(names):
            name, sandbox = names[index]
            if name != interface or not sandbox:
                continue
        found.append(str(ip["address"]))
    return found


def _parse_old(fields: dict[str, object]) -> Result:
    ips, routes = [], []
    for key in ("ip4", "ip6"):
        if fields.get(key) is None:
            continue
        entry = _mapping(fields[key], key)
        if not isinstance(entry.get("ip"), str):
            raise CniError(DECODING_FAILURE, f"{key}: {entry!r} has no ip")
        ip: dict[str, object] = {"address": entry["ip"]}
        if entry.get("gateway"):
            ip["gateway"] = entry["gateway"]
        ips.append(ip)
        routes += _mappings(entry.get("routes"), f"{key}.routes")
    return Result([], ips, routes, _mapping(fields.get("dns") or {}, "dns"))


def _render_old(result: Result, version: str) -> dict[str, object]:
    document: dict[str, object] = {"cniVersion": version}
    for key, wants_ipv6 in (("ip4", False), ("ip6", True)):
        for ip in result.ips:
            if is_ipv6(str(ip["address"])) is wants_ipv6:
                entry: dict[str, object] = {"ip": ip["address"]}
                if "gateway" in ip:
                    entry["gateway"] = ip["gateway"]
                routes = [
                    _without(route, _NEWER_ROUTE_KEYS)
                    for route in result.routes
                    if is_ipv6(str(route.get("dst", ""))) is wants_ipv6
                ]
                if routes:
                    entry["routes"] = routes
                document[key] = entry
                break
    if "ip4" not in document and "ip6" not in document:
        text = f"a result without an address cannot be said in version {version}"
        raise CniError(INCOMPATIBLE_VERSION, text, "use cniVersion 0.3.0 or newer, or let the network assign addresses")
    document["dns"] = result.dns
    return document


def _family(ip: dict[str, object]) -> dict[str, object]:
    return {"version": "6" if is_ipv6(str(ip["address"])) else "4"}


def _without(fields: dict[str, object], keys: tuple[str, ...]) -> dict[str, object]:
    return {key: value for key, value in fields.items() if key not in keys}


def _listed() -> str:
    return f"known versions: {', '.join(SUPPORTED)}"


def _mapping(value: object, what: str) -> dict[str, object]:
    if not isinstance(value, dict):
        raise CniError(DECODING_FAILURE, f"{what} must be an object, not {type(value).__name__}")
    return value


def _mappings(value: object, what: str) -> list[dict[str, object]]:
    if value is None:
        return []
    if not isinstance(value, list):
        raise CniError(DECODING_FAILURE, f"{what} must be a list, not {type(value).__name__}")
    return [_mapping(entry, f"each of {what}") for entry in value]
