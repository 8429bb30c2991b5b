"""What a result and an error must look like in each version of the specification. Computes only."""

from __future__ import annotations

import re
from collections.abc import Callable, Iterator, Mapping
from ipaddress import ip_address, ip_interface, ip_network

from felix.lab.store import Json

VERSIONS = ("0.1.0", "0.2.0", "0.3.0", "0.3.1", "0.4.0", "1.0.0", "1.1.0")
_MAC = re.compile(r"[0-9a-f]{2}(:[0-9a-f]{2}){5}")
_DNS = {"nameservers", "domain", "search", "options"}
Object = Mapping[str, Json]


def rank(version: str) -> tuple[int, ...]:
    """Returns what versions are ordered by: those that are numbers come after those that are not."""
    parts = version.split(".")
    return tuple(int(part) for part in parts) if all(part.isdigit() for part in parts) else ()


def is_old(version: str) -> bool:
    """Whether results have `ip4` and `ip6` and name no interfaces."""
    return rank(version) < rank("0.3.0")


def addresses_of(result: Object) -> list[str]:
    """Returns the addresses of a result of any shape, with their prefix lengths, as text."""
    found = [entry.get("ip") for entry in _objects([result.get("ip4"), result.get("ip6")])]
    found += [entry.get("address") for entry in _objects(result.get("ips"))]
    return [str(ip_interface(text)) for text in found if isinstance(text, str) and _is(ip_interface, text)]


def routes_of(result: Object) -> list[str]:
    """Returns the destinations of the routes of a result of any shape, as prefixes."""
    found = list(_objects(result.get("routes")))
    for entry in _objects([result.get("ip4"), result.get("ip6")]):
        found += _objects(entry.get("routes"))
    targets = [entry.get("dst") for entry in found]
    return [str(ip_network(text)) for text in targets if isinstance(text, str) and _is(ip_network, text)]


def find_result_faults(version: str, result: Object, sandbox: str, interface: str) -> list[str]:
    """Returns what is wrong with the form of ADD's result, empty when nothing is.

    sandbox, interface: where the container's interface must be said to be; both empty for an address plug-in's result,
    which names no interfaces.
    """
    if is_old(version):
        return [*_find_version_faults(version, result), *_find_old_faults(result)]
    faults = [*_find_version_faults(version, result)]
    faults += _foreign("the result", result, {"cniVersion", "interfaces", "ips", "routes", "dns"})
    own = -1
    if sandbox:
        own, found = _find_interfaces(version, result, sandbox, interface)
        faults += found
    elif result.get("interfaces"):
        faults.append("interfaces: an address plug-in makes none")
    faults += _find_ip_faults(version, result, own)
    for index, route in enumerate(_objects(result.get("routes"))):
        later = {"mtu", "advmss", "priority", "table", "scope"} if rank(version) >= rank("1.1.0") else set()
        faults += _find_route_faults(f"routes[{index}]", route, later)
    return [*faults, *_find_dns_faults(result)]


def find_error_faults(answer: Object | None) -> list[str]:
    """Returns what is wrong with the form of an error, empty when nothing is.

    That it says its version is a case of its own: libraries in wide use leave it out, and no runtime reads it.
    """
    if answer is None:
        return ["stdout is not one JSON object"]
    faults = list(_foreign("the error", answer, {"cniVersion", "code", "msg", "details"}))
    if not isinstance(answer.get("cniVersion", ""), str):
        faults.append("cniVersion is not a text")
    code = answer.get("code")
    if not isinstance(code, int) or isinstance(code, bool) or code < 1:
        faults.append(f"code is {code!r}, not a number above 0")
    if not isinstance(answer.get("msg"), str) or not answer["msg"]:
        faults.append("msg is not a text")
    if not isinstance(answer.get("details", ""), str):
        faults.append("details is not a text")
    return faults


def _find_version_faults(version: str, result: Object) -> Iterator[str]:
    said = result.get("cniVersion")
    # Results of 0.1.0 had no version yet.
    if said != version and not (version == "0.1.0" and said is None):
        yield f"cniVersion is {said!r}, not {version!r} as asked for"


def _find_old_faults(result: Object) -> Iterator[str]:
    yield from _foreign("the result", result, {"cniVersion", "ip4", "ip6", "dns"})
    if not result.get("ip4") and not result.get("ip6"):
        yield "neither ip4 nor ip6"
    for key, family in (("ip4", 4), ("ip6", 6)):
        entry = result.get(key)
        if entry is None:
            continue
        if not isinstance(entry, dict):
            yield f"{key} is no object"
            continue
        yield from _foreign(key, entry, {"ip", "gateway", "routes"})
        yield from _find_address_faults(f"{key}.ip", entry.get("ip"), family)
        if entry.get("gateway") is not None and not _is(ip_address, entry["gateway"]):
            yield f"{key}.gateway is {entry['gateway']!r}"
        for index, route in enumerate(_objects(entry.get("routes"))):
            yield from _find_route_faults(f"{key}.routes[{index}]", route, set())
    yield from _find_dns_faults(result)


def _find_interfaces(version: str, result: Object, sandbox: str, name: str) -> tuple[int, list[str]]:
    """Returns the place of the container's interface in the list, -1 when it is not there, and what is wrong."""
    faults: list[str] = []
    own = -1
    known = {"name", "mac", "sandbox"}
    if rank(version) >= rank("1.1.0"):
        known |= {"mtu", "socketPath", "pciID"}
    for index, entry in enumerate(_objects(result.get("interfaces"))):
        where = f"interfaces[{index}]"
        faults += _foreign(where, entry, known)
        if not isinstance(entry.get("name"), str) or not entry["name"]:
            faults.append(f"{where} has no name")
        mac = entry.get("mac")
        if mac and not (isinstance(mac, str) and _MAC.fullmatch(mac.lower())):
            faults.append(f"{where}.mac is {mac!r}")
        if entry.get("name") == name and entry.get("sandbox") == sandbox:
            own = index
            if not mac:
                faults.append(f"{where} has no mac")
    if own < 0:
        faults.append(f"interfaces: none is {name!r} with sandbox {sandbox!r}")
    return own, faults


def _find_ip_faults(version: str, result: Object, own: int) -> Iterator[str]:
    entries = list(_objects(result.get("ips")))
    if not entries:
        yield "ips: no address"
    for index, entry in enumerate(entries):
        where = f"ips[{index}]"
        has_family = rank(version) < rank("1.0.0")
        yield from _foreign(where, entry, {"address", "gateway", "interface", *(["version"] if has_family else [])})
        family = None
        if has_family:
            family = {"4": 4, "6": 6}.get(str(entry.get("version")))
            if family is None or not isinstance(entry.get("version"), str):
                yield f'{where}.version is {entry.get("version")!r}, not "4" or "6"'
        yield from _find_address_faults(f"{where}.address", entry.get("address"), family)
        if entry.get("gateway") is not None and not _is(ip_address, entry["gateway"]):
            yield f"{where}.gateway is {entry['gateway']!r}"
        if own >= 0 and entry.get("interface") != own:
            yield f"{where}.interface is {entry.get('interface')!r}, but the container's interface is number {own}"
        if own < 0 and entry.get("interface") is not None:
            yield f"{where}.interface is {entry['interface']!r}, but there are no interfaces"


def _find_address_faults(where: str, text: Json, family: int | None) -> Iterator[str]:
    if not isinstance(text, str) or "/" not in text or not _is(ip_interface, text):
        yield f"{where} is {text!r}, not an address with prefix length"
    elif family and ip_interface(text).version != family:
        yield f"{where} is {text!r}, not of IPv{family}"


def _find_route_faults(where: str, route: Object, later: set[str]) -> Iterator[str]:
    yield from _foreign(where, route, {"dst", "gw", *later})
    if not isinstance(route.get("dst"), str) or not _is(ip_network, route["dst"]):
        yield f"{where}.dst is {route.get('dst')!r}, not a prefix"
    if route.get("gw") is not None and not _is(ip_address, route["gw"]):
        yield f"{where}.gw is {route['gw']!r}"


def _find_dns_faults(result: Object) -> Iterator[str]:
    dns = result.get("dns")
    if dns is not None and not isinstance(dns, dict):
        yield "dns is no object"
    elif dns:
        yield from _foreign("dns", dns, _DNS)


def _foreign(where: str, entry: Object, known: set[str]) -> Iterator[str]:
    for name in sorted(entry.keys() - known):
        yield f"{where} has {name!r}, which this version does not know"


def _objects(value: Json) -> Iterator[dict[str, Json]]:
    if isinstance(value, list):
        yield from (entry for entry in value if isinstance(entry, dict))


def _is(read: Callable[[str], object], text: Json) -> bool:
    try:
        return isinstance(text, str) and read(text) is not None
    except ValueError:
        return False
