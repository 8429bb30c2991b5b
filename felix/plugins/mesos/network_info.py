"""NetworkInfo, in which Mesos says what network a container asks for and what it got, in its historical forms. Pure.

| form   | Mesos         | addresses                                   | also                 |
| LABEL  | before 0.25   | a label of the status                       |                      |
| FLAT   | 0.25          | `protocol`, `ip_address`: one               | groups, labels       |
| LISTED | 0.26 to 0.28  | `ip_addresses`: several; the flat are there | the same             |
| NAMED  | 1.0 and later | `ip_addresses`; no flat ones                | name, port_mappings  |
"""

from __future__ import annotations

import enum
import ipaddress
from collections.abc import Iterable, Mapping, Sequence
from types import MappingProxyType
from typing import NamedTuple

from felix.plugins.mesos.labels import BadLabels, parse_labels, render_labels

STATUS_LABEL = "MesosContainerizer.NetworkSettings.IPAddress"
"""The label of a status in which the address stood before Mesos 0.25."""

VERSION_BY_PROTOCOL = {"IPv4": 4, "IPv6": 6}
INFOS_LIMIT = 64
ADDRESSES_LIMIT = 64
_PROTOCOL_BY_NUMBER = {1: "IPv4", 2: "IPv6"}
_PORT_LIMIT = 65535
_SHOWN = 100  # characters of a bad value in an error

Json = dict[str, object]


class BadNetworkInfo(ValueError):
    """It cannot be used, or cannot be said in a form; the text begins with the field."""


class Form(enum.Enum):
    """How NetworkInfo is written; the value is the first version of Mesos that did."""

    LABEL = "0.23"
    FLAT = "0.25"
    LISTED = "0.26"
    NAMED = "1.0"


class IpAddress(NamedTuple):
    """An address asked for or given. protocol: `IPv4`, `IPv6`, or empty; ip_address: canonical, or empty for any."""

    protocol: str = ""
    ip_address: str = ""


class PortMapping(NamedTuple):
    """A port of the host that leads to one of the container. protocol: `tcp`, `udp`, or empty: both."""

    host_port: int
    container_port: int
    protocol: str = ""


class NetworkInfo(NamedTuple):
    """One network interface of a container. name: of the network, empty for none."""

    ip_addresses: tuple[IpAddress, ...] = ()
    groups: tuple[str, ...] = ()
    labels: Mapping[str, str] = MappingProxyType({})
    name: str = ""
    port_mappings: tuple[PortMapping, ...] = ()


class Demand(NamedTuple):
    """What a request asks for: so many addresses of each family, whichever, and these."""

    ipv4: int = 0
    ipv6: int = 0
    addresses: tuple[str, ...] = ()


def find_form(version: str) -> Form:
    """Returns which form a version of Mesos writes, such as `0.28.2`. Raises BadNetworkInfo."""
    number = _parse_version(version)
    if number < _parse_version(Form.LABEL.value):
        raise BadNetworkInfo(f"version: Mesos {version} knows no networks; {Form.LABEL.value} is the first that does")
    return max(
        (form for form in Form if _parse_version(form.value) <= number), key=lambda form: _parse_version(form.value)
    )


def parse_network_infos(value: object, where: str = "network_infos", form: Form | None = None) -> list[NetworkInfo]:
    """Returns the interfaces of a list, none when it is missing. Arguments and errors as `parse_network_info`."""
    return [
        parse_network_info(entry, f"{where}[{index}]", form)
        for index, entry in enumerate(_read_list(value, where, INFOS_LIMIT))
    ]


def parse_network_info(value: object, where: str = "network_info", form: Form | None = None) -> NetworkInfo:
    """Returns what a NetworkInfo in JSON says. Fields that are not known are ignored, as protobuf does.

    form: the one it must have, None to tell from its fields. A flat address beside a list repeats one of the list.
    Raises BadNetworkInfo, with the field.
    """
    if not isinstance(value, dict):
        raise BadNetworkInfo(f"{where}: must be an object, not {_kind(value)}")
    seen = _tell_form(value) if form is None else form
    addresses = tuple(
        _parse_address(entry, f"{where}.ip_addresses[{index}]", seen)
        for index, entry in enumerate(_read_list(value.get("ip_addresses"), f"{where}.ip_addresses", ADDRESSES_LIMIT))
    )
    if form is Form.FLAT and addresses:
        raise BadNetworkInfo(f"{where}.ip_addresses: Mesos 0.25 has one address, in ip_address")
    if _has_flat(value) and form is Form.NAMED:
        field = "ip_address" if value.get("ip_address") is not None else "protocol"
        raise BadNetworkInfo(f"{where}.{field}: Mesos 1.0 has no such field any more; use ip_addresses")
    if _has_flat(value):
        flat = _parse_address(value, where, Form.FLAT)
        if not addresses:
            addresses = (flat,)
        elif flat.ip_address not in ("", *(address.ip_address for address in addresses)):
            raise BadNetworkInfo(f"{where}.ip_address: {flat.ip_address} is not among its ip_addresses")
    elif form is Form.FLAT:
        addresses = (IpAddress(),)  # 0.25 means one address even if it says nothing of it
    return NetworkInfo(
        addresses,
        tuple(_read_text(entry, f"{where}.groups[{index}]") for index, entry in enumerate(_read_groups(value, where))),
        _read_labels(value, where),
        _read_text(value.get("name"), f"{where}.name"),
        tuple(
            _parse_mapping(entry, f"{where}.port_mappings[{index}]")
            for index, entry in enumerate(_read_list(value.get("port_mappings"), f"{where}.port_mappings", _PORT_LIMIT))
        ),
    )


def count_demand(infos: Iterable[NetworkInfo]) -> Demand:
    """Returns what addresses these ask for: an entry with an address is that one, else any one of its protocol.

    Without protocol that is IPv4.
    """
    entries = [entry for info in infos for entry in info.ip_addresses]
    chosen = [entry for entry in entries if not entry.ip_address]
    ipv6 = sum(entry.protocol == "IPv6" for entry in chosen)
    return Demand(len(chosen) - ipv6, ipv6, tuple(entry.ip_address for entry in entries if entry.ip_address))


def make_status(addresses: Sequence[str], request: NetworkInfo | None = None) -> NetworkInfo:
    """Returns what is reported of an interface that got these addresses: the request's name, groups and labels too."""
    entries = tuple(IpAddress(_protocol_of(address), address) for address in map(_canonical, addresses))
    return (request or NetworkInfo())._replace(ip_addresses=entries)


def render_network_info(info: NetworkInfo, form: Form = Form.NAMED, where: str = "network_info") -> Json:
    """Returns the JSON of a form; what is empty is left out. Raises BadNetworkInfo when the form cannot say it."""
    if form is Form.LABEL:
        raise BadNetworkInfo(f"{where}: Mesos before 0.25 has no NetworkInfo; see render_status")
    if form is not Form.NAMED:
        for field, content in (("name", info.name), ("port_mappings", info.port_mappings)):
            if content:
                raise BadNetworkInfo(f"{where}.{field}: Mesos {form.value} has no such field")
    entries = [_render_address(address) for address in info.ip_addresses]
    if form is Form.FLAT and len(entries) > 1:
        raise BadNetworkInfo(f"{where}.ip_addresses: Mesos 0.25 has one address, not {len(entries)}")
    flat: Json = entries[0] if form is Form.FLAT and entries else {}
    mappings = [
        {key: value for key, value in mapping._asdict().items() if value != ""} for mapping in info.port_mappings
    ]
    document: Json = {
        **flat,
        "ip_addresses": [] if form is Form.FLAT else entries,
        "groups": list(info.groups),
        "labels": render_labels(info.labels) if info.labels else {},
        "name": info.name,
        "port_mappings": mappings,
    }
    return {field: content for field, content in document.items() if content}


def render_status(infos: Sequence[NetworkInfo], form: Form = Form.NAMED) -> Json:
    """Returns the fields of a TaskStatus that report these interfaces. Raises BadNetworkInfo."""
    if form is not Form.LABEL:
        rendered = [render_network_info(info, form, f"network_infos[{index}]") for index, info in enumerate(infos)]
        return {"container_status": {"network_infos": rendered}}
    addresses = [address.ip_address for info in infos for address in info.ip_addresses]
    if len(addresses) != 1:
        raise BadNetworkInfo(f"network_infos: a label of a status can say one address, not {len(addresses)}")
    return {"labels": render_labels({STATUS_LABEL: addresses[0]})}


def read_status_addresses(status: object) -> list[str]:
    """Returns the addresses that a TaskStatus in JSON reports, in whichever form; empty when it reports none.

    Raises BadNetworkInfo.
    """
    if not isinstance(status, dict):
        raise BadNetworkInfo(f"status: must be an object, not {_kind(status)}")
    container = status.get("container_status")
    if container is not None and not isinstance(container, dict):
        raise BadNetworkInfo(f"container_status: must be an object, not {_kind(container)}")
    infos = parse_network_infos((container or {}).get("network_infos"), "container_status.network_infos")
    found = [address.ip_address for info in infos for address in info.ip_addresses if address.ip_address]
    label = "" if found else _read_labels(status, "status").get(STATUS_LABEL, "")
    return [_parse_ip(label, f"status.labels.{STATUS_LABEL}")] if label else found


def _tell_form(value: Json) -> Form:
    if value.get("name") or value.get("port_mappings"):
        return Form.NAMED
    return Form.FLAT if _has_flat(value) and not value.get("ip_addresses") else Form.LISTED


def _has_flat(value: Json) -> bool:
    return value.get("protocol") is not None or value.get("ip_address") is not None


def _parse_address(value: object, where: str, form: Form) -> IpAddress:
    """Returns an address with its protocol, when it says one.

    Since Mesos 1.4 `IPv4` is what protocol is when nobody set it, and is written even so: there the address decides.
    """
    if not isinstance(value, dict):
        raise BadNetworkInfo(f"{where}: must be an object, not {_kind(value)}")
    protocol = value.get("protocol")
    protocol = "" if protocol is None else protocol
    if isinstance(protocol, int) and not isinstance(protocol, bool):
        protocol = _PROTOCOL_BY_NUMBER.get(protocol, protocol)
    if protocol != "" and (not isinstance(protocol, str) or protocol not in VERSION_BY_PROTOCOL):
        raise BadNetworkInfo(f"{where}.protocol: {_show(protocol)} is neither IPv4 nor IPv6")
    text = _read_text(value.get("ip_address"), f"{where}.ip_address")
    if not text:
        return IpAddress(protocol)
    address = _parse_ip(text, f"{where}.ip_address")
    actual = _protocol_of(address)
    if protocol not in ("", actual) and (protocol, form) != ("IPv4", Form.NAMED):
        raise BadNetworkInfo(f"{where}.protocol: is {protocol}, but {address} is {actual}")
    return IpAddress(actual if protocol else "", address)


def _parse_mapping(value: object, where: str) -> PortMapping:
    if not isinstance(value, dict):
        raise BadNetworkInfo(f"{where}: must be an object, not {_kind(value)}")
    ports = []
    for field in ("host_port", "container_port"):
        port = value.get(field)
        if not isinstance(port, int) or isinstance(port, bool) or not 0 <= port <= _PORT_LIMIT:
            raise BadNetworkInfo(f"{where}.{field}: must be a port, not {_show(port)}")
        ports.append(port)
    return PortMapping(ports[0], ports[1], _read_text(value.get("protocol"), f"{where}.protocol"))


def _parse_ip(text: str, where: str) -> str:
    """Returns an address canonically. Its length, which Mesos' own CNI isolator leaves at IPv6 ones, is cut off."""
    address, slash, bits = text.partition("/")
    try:
        if "%" in text or (slash and not (bits.isascii() and bits.isdigit() and int(bits) <= 128)):
            raise ValueError
        return _canonical(address)
    except ValueError:
        raise BadNetworkInfo(f"{where}: {_show(text)} is no IP address") from None


def _canonical(address: str) -> str:
    return str(ipaddress.ip_address(address))


def _protocol_of(address: str) -> str:
    return "IPv6" if ":" in address else "IPv4"


def _parse_version(text: str) -> tuple[int, int]:
    numbers = text.split(".")[:2]
    if len(numbers) != 2 or not all(number.isascii() and number.isdigit() and len(number) < 6 for number in numbers):
        raise BadNetworkInfo(f"version: {_show(text)} is no version of Mesos, such as 0.28.2")
    return int(numbers[0]), int(numbers[1])


def _render_address(address: IpAddress) -> Json:
    return {field: text for field, text in address._asdict().items() if text}


def _read_groups(value: Json, where: str) -> list[object]:
    return _read_list(value.get("groups"), f"{where}.groups", INFOS_LIMIT)


def _read_labels(value: Json, where: str) -> dict[str, str]:
    try:
        return parse_labels(value.get("labels"), f"{where}.labels")
    except BadLabels as error:
        raise BadNetworkInfo(str(error)) from None


def _read_list(value: object, where: str, limit: int) -> list[object]:
    if value is None:
        return []
    if not isinstance(value, list):
        raise BadNetworkInfo(f"{where}: must be a list, not {_kind(value)}")
    if len(value) > limit:
        raise BadNetworkInfo(f"{where}: has {len(value)} entries; {limit} is the most")
    return value


def _read_text(value: object, where: str) -> str:
    if value is None:
        return ""
    if not isinstance(value, str):
        raise BadNetworkInfo(f"{where}: must be text, not {_kind(value)}")
    return value


def _kind(value: object) -> str:
    return "nothing" if value is None else type(value).__name__


def _show(value: object) -> str:
    text = repr(value)
    return text if len(text) <= _SHOWN else f"{text[:_SHOWN]}…"
