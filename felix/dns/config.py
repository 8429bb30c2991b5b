"""Mesos-DNS's configuration, and what Felix adds to it: one table of keys, checked, with hints for typing errors.

Keys are written in any case, as Mesos-DNS takes them. A key that nobody knows is told and left out, as Mesos-DNS leaves
it out; a value that cannot be used is an error.
"""

from __future__ import annotations

import difflib
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from typing import Any, NamedTuple

import msgspec

from felix.dns.mesos import IP_SOURCES
from felix.dns.names import clean_name, is_below, is_name, normalize_address
from felix.dns.state import Place, parse_place
from felix.dns.templates import Template, parse_template
from felix.errors import DataError, shorten

_ALL_SOURCES = ("netinfo", "mesos", "docker", "host")
_LOOPS = {"0.0.0.0": "127.0.0.1", "::": "::1"}
_TTL_MOST = 2**31 - 1

DEFAULT_TEMPLATES: tuple[Mapping[str, object], ...] = (
    {"name": "{label:app}-{id}.{namespace}.DOMAIN", "unique": True},
    {"name": "{label:app}.{namespace}.DOMAIN"},
    {"name": "_{label:app}._{protocol}.{namespace}.DOMAIN"},
    {"name": "_{port}._{label:app}._{protocol}.{namespace}.DOMAIN"},
    {"name": "_{port}._{protocol}.{label:app}.{namespace}.DOMAIN"},
)


@dataclass(frozen=True, slots=True)
class DatastoreNames:
    """Names of endpoints in etcd. ttl: seconds, of every record and of every no."""

    domain: str
    ttl: int
    templates: tuple[Template, ...]
    etcd_endpoints: str = ""


@dataclass(frozen=True, slots=True)
class DnsConfig:
    """All settings, checked. Durations in seconds. datastore: None without names from etcd. masters: may be empty."""

    masters: tuple[str, ...] = ()
    refresh_seconds: int = 60
    state_timeout_seconds: int = 300
    ttl: int = 60
    srv_weight: int = 1
    domain: str = "mesos"
    port: int = 53
    timeout: int = 5
    resolvers: tuple[Place, ...] = (Place("8.8.8.8", 53),)
    zone_resolvers: Mapping[str, tuple[Place, ...]] = field(default_factory=dict)
    listeners: tuple[str, ...] = ("0.0.0.0",)
    http_listener: str = "0.0.0.0"
    http_port: int = 8123
    dns_on: bool = True
    http_on: bool = True
    external_on: bool = True
    recurse_on: bool = True
    set_truncate_bit: bool = True
    enumeration_on: bool = True
    enforce_rfc952: bool = False
    soa_mname: str = "ns1.mesos"
    soa_rname: str = "root.ns1.mesos"
    soa_refresh: int = 60
    soa_retry: int = 600
    soa_expire: int = 86400
    soa_minttl: int = 60
    ip_sources: tuple[str, ...] = IP_SOURCES
    https_on: bool = False
    ca_file: str = ""
    cert_file: str = ""
    key_file: str = ""
    principal: str = ""
    secret: str = ""
    compat: bool = False
    event_refresh: bool = True
    tcp_connections: int = 256
    forwards: int = 1000
    udp_size: int = 1232
    datastore: DatastoreNames | None = None
    notices: tuple[str, ...] = ()

    @property
    def domains(self) -> tuple[str, ...]:
        """The domains that are served."""
        mesos = (self.domain,) if self.masters else ()
        return mesos + ((self.datastore.domain,) if self.datastore else ())


class _Key(NamedTuple):
    """One key of the file: how it is usually spelt, the field, and what makes a value of it, or raises ValueError."""

    spelling: str
    field: str
    read: Callable[[object], object]


def _integer(least: int, most: int) -> Callable[[object], int]:
    def read(value: object) -> int:
        if isinstance(value, bool) or not isinstance(value, int) or not least <= value <= most:
            raise ValueError(f"expected a whole number from {least} to {most}")
        return value

    return read


def _truth(value: object) -> bool:
    if not isinstance(value, bool):
        raise ValueError("expected true or false")
    return value


def _text(value: object) -> str:
    if not isinstance(value, str):
        raise ValueError("expected a text")
    return value


def _texts(value: object) -> tuple[str, ...]:
    if value is None:
        return ()
    if not isinstance(value, list) or not all(isinstance(one, str) for one in value):
        raise ValueError("expected a list of texts")
    return tuple(value)


def _name(value: object) -> str:
    name = clean_name(_text(value)).replace("@", ".")
    if not is_name(name):
        raise ValueError("expected a domain name")
    return name


def _masters(value: object) -> tuple[str, ...]:
    masters = _texts(value)
    for one in masters:
        if parse_place(one) is None:
            raise ValueError(f"{one!r}: expected host:port, as 10.0.0.1:5050")
    if len(set(masters)) != len(masters):
        raise ValueError("names a master twice")
    return masters


def _resolvers(value: object) -> tuple[Place, ...]:
    return tuple(dict.fromkeys(_resolver(one) for one in _texts(value)))


def _resolver(text: str) -> Place:
    """Returns where a resolver listens: an address, or address:port (IPv6: [address]:port)."""
    if address := normalize_address(text):
        return Place(address, 53)
    place = parse_place(text)
    if place is None or not normalize_address(place.host):
        raise ValueError(f"{text!r}: expected an address, as 8.8.8.8 or [2001:db8::1]:5353")
    return Place(normalize_address(place.host), place.port)


def _zone_resolvers(value: object) -> dict[str, tuple[Place, ...]]:
    if value is None:
        return {}
    if not isinstance(value, dict):
        raise ValueError('expected an object, as {"weave": ["10.0.0.1"]}')
    found = {}
    for zone, resolvers in value.items():
        places = _resolvers(resolvers)
        if not places:
            raise ValueError(f"{zone!r} has no resolvers")
        found[_name(zone)] = places
    return found


def _address(value: object) -> str:
    address = normalize_address(_text(value))
    if not address:
        raise ValueError("expected an address of this host, or 0.0.0.0 or :: for all")
    return address


def _listeners(value: object) -> tuple[str, ...]:
    texts = [one.strip() for one in value.split(",")] if isinstance(value, str) else _texts(value)
    if not texts:
        raise ValueError("expected an address of this host, or a list of them")
    return tuple(dict.fromkeys(_address(one) for one in texts))


def _sources(value: object) -> tuple[str, ...]:
    sources = _texts(value)
    if not sources:
        raise ValueError(f"is empty; choose among {', '.join(_ALL_SOURCES)}")
    for one in sources:
        if one not in _ALL_SOURCES:
            raise ValueError(f"there is no source {one!r}; choose among {', '.join(_ALL_SOURCES)}")
    if len(set(sources)) != len(sources):
        raise ValueError("names a source twice")
    return sources


_SECONDS = _integer(1, 86400)
_TTL = _integer(0, _TTL_MOST)
_KEYS = (
    _Key("masters", "masters", _masters),
    _Key("refreshSeconds", "refresh_seconds", _SECONDS),
    _Key("stateTimeoutSeconds", "state_timeout_seconds", _SECONDS),
    _Key("ttl", "ttl", _TTL),
    _Key("SRVRecordDefaultWeight", "srv_weight", _integer(0, 65535)),
    _Key("domain", "domain", _name),
    _Key("port", "port", _integer(1, 65535)),
    _Key("timeout", "timeout", _SECONDS),
    _Key("resolvers", "resolvers", _resolvers),
    _Key("zoneResolvers", "zone_resolvers", _zone_resolvers),
    _Key("listener", "listeners", _listeners),
    _Key("httpListener", "http_listener", _address),
    _Key("httpport", "http_port", _integer(1, 65535)),
    _Key("dnson", "dns_on", _truth),
    _Key("httpon", "http_on", _truth),
    _Key("externalon", "external_on", _truth),
    _Key("recurseon", "recurse_on", _truth),
    _Key("setTruncateBit", "set_truncate_bit", _truth),
    _Key("enumerationOn", "enumeration_on", _truth),
    _Key("enforceRFC952", "enforce_rfc952", _truth),
    _Key("SOAMname", "soa_mname", _name),
    _Key("SOARname", "soa_rname", _name),
    _Key("SOARefresh", "soa_refresh", _TTL),
    _Key("SOARetry", "soa_retry", _TTL),
    _Key("SOAExpire", "soa_expire", _TTL),
    _Key("SOAMinttl", "soa_minttl", _TTL),
    _Key("IPSources", "ip_sources", _sources),
    _Key("mesosHTTPSOn", "https_on", _truth),
    _Key("caCertFile", "ca_file", _text),
    _Key("certFile", "cert_file", _text),
    _Key("keyFile", "key_file", _text),
    _Key("compat", "compat", _truth),
    _Key("eventRefresh", "event_refresh", _truth),
    _Key("tcpConnections", "tcp_connections", _integer(1, 65536)),
    _Key("forwards", "forwards", _integer(1, 65536)),
    _Key("udpSize", "udp_size", _integer(512, 4096)),
)
_KEY_BY_LOWER = {key.spelling.lower(): key for key in _KEYS}
_OTHER_KEYS = ("zk", "zkDetectionTimeout", "mesosCredentials", "mesosAuthentication", "datastore")
_ALL_SPELLINGS = {one.lower(): one for one in (*(key.spelling for key in _KEYS), *_OTHER_KEYS)}
_ALL_SPELLINGS["email"] = "email"  # what SOARname was called once
_DATASTORE_KEYS = {one.lower(): one for one in ("domain", "ttl", "names", "etcdEndpoints")}
_TEMPLATE_KEYS = {one.lower(): one for one in ("name", "unique", "service")}


def read_config(text: bytes, source: str) -> DnsConfig:
    """Returns the settings of a file's text. Raises DataError that names source, key and remedy."""
    try:
        document = msgspec.json.decode(text)
    except (ValueError, RecursionError) as error:
        raise DataError(f"{source}: is no JSON: {error}") from error
    if not isinstance(document, dict):
        raise DataError(f"{source}: expected a JSON object with Mesos-DNS's keys")
    return settle_config(document, source)


def settle_config(document: Mapping[str, object], source: str) -> DnsConfig:
    """Returns the settings of a JSON object. Raises DataError that names source, key and remedy."""
    notices: list[str] = []
    given = _fold(document, _ALL_SPELLINGS, source, "", notices)
    values: dict[str, Any] = {}
    for lower, value in given.items():
        key = _KEY_BY_LOWER.get(lower)
        if key is None:
            continue
        try:
            values[key.field] = key.read(value)
        except ValueError as error:
            raise _refuse(source, key.spelling, value, str(error)) from error
    values |= _read_credentials(given, source)
    if "datastore" in given:
        values["datastore"] = _read_datastore(given["datastore"], source, notices)
    if given.get("zk"):
        if not values.get("masters"):
            text = 'is not asked for the leader; name the masters instead, as "masters": ["10.0.0.1:5050"]'
            raise _refuse(source, "zk", given["zk"], text)
        notices.append(f"{source}: zk is not asked; the leader is found by asking the masters")
    if "soa_mname" not in values and "domain" in values:
        values["soa_mname"] = f"ns1.{values['domain']}"
        values.setdefault("soa_rname", f"root.ns1.{values['domain']}")
    config = DnsConfig(**values, notices=tuple(notices))
    _check_together(config, source)
    return config


def _fold(
    document: Mapping[str, object], known: Mapping[str, str], source: str, where: str, notices: list[str]
) -> dict[str, object]:
    """Returns the values by their keys in small letters; keys that nobody knows are among the notices."""
    folded: dict[str, object] = {}
    for key, value in document.items():
        lower = key.lower()
        if lower not in known:
            close = difflib.get_close_matches(lower, known, 1, 0.7)
            hint = f"; did you mean {known[close[0]]}?" if close else ""
            notices.append(f"{source}: {where}{shorten(key)} is no setting and does nothing{hint}")
        elif lower in folded:
            raise DataError(f"{source}: {where}{known[lower]} is given twice")
        else:
            folded[lower] = value
    return folded


def _read_credentials(given: Mapping[str, object], source: str) -> dict[str, object]:
    way = given.get("mesosauthentication")
    if way not in {None, "", "none", "basic"}:
        raise _refuse(source, "mesosAuthentication", way, "expected none or basic; nothing else is supported")
    credentials = given.get("mesoscredentials")
    if credentials is None:
        return {}
    if not isinstance(credentials, dict):
        raise _refuse(source, "mesosCredentials", "(hidden)", 'expected {"principal": …, "secret": …}')
    folded = {str(key).lower(): value for key, value in credentials.items()}
    principal, secret = folded.get("principal", ""), folded.get("secret", "")
    if not isinstance(principal, str) or not isinstance(secret, str):
        raise _refuse(source, "mesosCredentials", "(hidden)", "principal and secret are texts")
    return {"principal": principal, "secret": secret} if way == "basic" else {}


def _read_datastore(value: object, source: str, notices: list[str]) -> DatastoreNames:
    if not isinstance(value, dict):
        raise _refuse(source, "datastore", value, 'expected an object, as {"domain": "felix"}')
    given = _fold(value, _DATASTORE_KEYS, source, "datastore.", notices)
    try:
        domain = _name(given.get("domain", "felix"))
    except ValueError as error:
        raise _refuse(source, "datastore.domain", given["domain"], str(error)) from error
    try:
        ttl = _TTL(given.get("ttl", 5))
    except ValueError as error:
        raise _refuse(source, "datastore.ttl", given["ttl"], str(error)) from error
    endpoints = given.get("etcdendpoints", "")
    if isinstance(endpoints, list):
        endpoints = ",".join(map(str, endpoints))
    if not isinstance(endpoints, str):
        raise _refuse(source, "datastore.etcdEndpoints", endpoints, "expected addresses of etcd's members")
    names = given.get("names")
    if names is None:
        names = [{**one, "name": str(one["name"]).replace("DOMAIN", domain)} for one in DEFAULT_TEMPLATES]
    if not isinstance(names, list) or not names:
        raise _refuse(source, "datastore.names", names, "expected a list of templates")
    templates = tuple(
        _read_template(one, domain, f"datastore.names[{at}]", source, notices) for at, one in enumerate(names)
    )
    return DatastoreNames(domain, ttl, templates, endpoints)


def _read_template(value: object, domain: str, where: str, source: str, notices: list[str]) -> Template:
    given = {"name": value} if isinstance(value, str) else value
    if not isinstance(given, dict):
        raise _refuse(source, where, value, 'expected a template, or {"name": template, "unique": true}')
    folded = _fold(given, _TEMPLATE_KEYS, source, f"{where}.", notices)
    try:
        is_unique = _truth(folded.get("unique", False))
        service = _texts(folded["service"]) if "service" in folded else None
        if is_unique and service is not None:
            raise ValueError("is unique, so that service says nothing")
        return parse_template(_text(folded.get("name", "")), domain, is_unique=is_unique, service=service)
    except ValueError as error:
        raise _refuse(source, where, value, str(error)) from error


def _check_together(config: DnsConfig, source: str) -> None:
    """Raises DataError for settings that contradict each other."""
    domains = config.domains
    if not domains:
        text = 'names no source: give "masters": ["10.0.0.1:5050"], or "datastore": {"domain": "felix"}, or both'
        raise DataError(f"{source}: {text}")
    if len(domains) == 2 and (is_below(domains[0], domains[1]) or is_below(domains[1], domains[0])):
        raise _refuse(
            source, "datastore.domain", domains[1], f"lies in or above {domains[0]}, the domain of the masters"
        )
    for zone in config.zone_resolvers:
        for domain in domains:
            if is_below(zone, domain):
                raise _refuse(source, "zoneResolvers", zone, f"{domain} is answered here, nobody else is asked")
    resolvers = {place for places in (config.resolvers, *config.zone_resolvers.values()) for place in places}
    own = {Place(listener, config.port) for listener in config.listeners}
    own |= {Place(loop, config.port) for any_, loop in _LOOPS.items() if any_ in config.listeners}
    if itself := own & resolvers:
        place = min(itself)
        raise _refuse(source, "resolvers", f"{place.host}:{place.port}", "is this server itself")
    if not config.dns_on and not config.http_on:
        raise DataError(f"{source}: dnson and httpon are both false, so there is nothing to do")


def describe_config(config: DnsConfig) -> dict[str, object]:
    """Returns all settings in force by their usual keys, without secrets, for `/v1/config`."""
    told: dict[str, object] = {key.spelling: _tell(getattr(config, key.field)) for key in _KEYS}
    told["listener"] = ",".join(config.listeners)
    told["zoneResolvers"] = {zone: _tell(places) for zone, places in config.zone_resolvers.items()}
    told["mesosCredentials"] = {"principal": config.principal}
    if config.datastore is not None:
        names = [
            {
                "name": one.text,
                "unique": one.is_unique,
                "service": None if one.is_unique else [":".join(filter(None, part[:2])) for part in one.service_fields],
            }
            for one in config.datastore.templates
        ]
        told["datastore"] = {"domain": config.datastore.domain, "ttl": config.datastore.ttl, "names": names}
    return told


def format_place(place: Place) -> str:
    """Returns `host:port`, with brackets around IPv6."""
    return f"[{place.host}]:{place.port}" if ":" in place.host else f"{place.host}:{place.port}"


def _tell(value: object) -> object:
    if isinstance(value, tuple):
        return [one.host if isinstance(one, Place) and one.port == 53 else _tell_one(one) for one in value]
    return value


def _tell_one(value: object) -> object:
    return format_place(value) if isinstance(value, Place) else value


def _refuse(source: str, key: str, value: object, reason: str) -> DataError:
    return DataError(f"{source}: {key}: {reason} (seen: {shorten(value)})")
