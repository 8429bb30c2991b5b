"""From workload endpoints to records: who may have which name, and who has it.

Endpoints of one *service* share names: an address record per endpoint, which is a record set. What a service is, is
said by raw values, by default those that the template uses and the namespace; so `my.app` and `my_app` are two
services though their names come out alike, and so are the `web` of two namespaces. Two services that want one name
*collide*: the one with the oldest endpoint has it, the others are without and are reported. A template marked
`unique` makes each endpoint a service of its own. Which is older depends on what is stored and on nothing else, so
that all servers agree, whenever they were started: creation time, then key; endpoints without creation time come last.
"""

from __future__ import annotations

import bisect
from collections.abc import Hashable, Iterable, Iterator, Mapping, Sequence
from typing import NamedTuple

from felix.dns.names import hash5, normalize_address, reverse_name
from felix.dns.templates import Field, Template, Values, find_service, render_name
from felix.dns.zone import Record, Zone, address_record
from felix.model.endpoints import EndpointPort, WorkloadEndpoint

_PROTOCOL_BY_NUMBER = {6: "tcp", 17: "udp", 33: "dccp", 132: "sctp"}
_WITHOUT_TIME = "~"  # behind every time


class Port(NamedTuple):
    """One port of an endpoint, with the protocol in small letters."""

    name: str
    protocol: str
    number: int


class Facts(NamedTuple):
    """What matters of an endpoint. created: RFC 3339, or `~`. addresses: in their usual text, without length."""

    created: str
    values: Values
    addresses: tuple[str, ...]
    ports: tuple[Port, ...]


class Collision(NamedTuple):
    """One name that several services want. Endpoints are `namespace/name`, the oldest of each service."""

    name: str
    holder: str
    losers: tuple[str, ...]

    def __str__(self) -> str:
        return f"{self.name} belongs to {self.holder}; not to {', '.join(self.losers)}, which came later"


Service = Hashable


class Claim(NamedTuple):
    """One name that an endpoint wants. port: None for its addresses."""

    name: str
    service: Service
    is_unique: bool
    port: Port | None


def read_facts(endpoint: WorkloadEndpoint) -> Facts:
    """Returns what matters of an endpoint for its names."""
    metadata, spec = endpoint.metadata, endpoint.spec
    values = {
        ("namespace", ""): metadata.namespace,
        ("name", ""): metadata.name,
        ("node", ""): spec.node,
        ("orchestrator", ""): spec.orchestrator,
        ("workload", ""): spec.workload,
        ("endpoint", ""): spec.endpoint,
        ("pod", ""): spec.pod,
        ("id", ""): hash5(f"{metadata.namespace}/{metadata.name}"),
    }
    values |= {("label", key): value for key, value in metadata.labels.items()}
    values |= {("annotation", key): value for key, value in metadata.annotations.items()}
    addresses = (normalize_address(text.partition("/")[0]) for text in spec.ip_networks)
    return Facts(
        metadata.creation_timestamp or _WITHOUT_TIME,
        values,
        tuple(dict.fromkeys(address for address in addresses if address)),
        tuple(_read_port(port) for port in spec.ports),
    )


class EndpointNames:
    """Keeps in `zone` what endpoints are called by `templates`. has_reverse: whether addresses have names, too."""

    def __init__(self, zone: Zone, templates: Sequence[Template], *, has_reverse: bool = True) -> None:
        self.collision_by_name: dict[str, Collision] = {}
        self._zone = zone
        self._templates = tuple((one, one.service_fields) for one in templates)
        self._has_reverse = has_reverse
        self._facts_by_key: dict[str, Facts] = {}
        self._claims_by_key: dict[str, tuple[Claim, ...]] = {}
        self._claimants_by_name: dict[str, dict[Service, list[tuple[str, str]]]] = {}
        self._holder_by_name: dict[str, Service] = {}
        self._news: dict[str, Collision | None] = {}

    @property
    def endpoints_count(self) -> int:
        """How many endpoints are known."""
        return len(self._facts_by_key)

    @property
    def nameless_count(self) -> int:
        """How many of them no template gives a name."""
        return sum(not claims for claims in self._claims_by_key.values())

    def is_known(self, key: str) -> bool:
        """Whether there is an endpoint `key`."""
        return key in self._facts_by_key

    def put(self, key: str, facts: Facts | None) -> None:
        """The endpoint `key` (`namespace/name`) is as `facts` say, gone for None; the zone has its names.

        Touches its own names, and those who win or lose one of them by it.
        """
        old, before = self._claims_by_key.get(key, ()), self._facts_by_key.get(key)
        if before == facts:
            return
        new = () if facts is None else tuple(self._iterate_claims(key, facts))
        if before is not None:
            for claim in old:
                self._drop(claim, (before.created, key))
        if facts is None:
            self._facts_by_key.pop(key)
            self._claims_by_key.pop(key)
        else:
            self._facts_by_key[key] = facts
            self._claims_by_key[key] = new
            age = (facts.created, key)
            for claim in new:
                services = self._claimants_by_name.setdefault(claim.name, {})
                bisect.insort(services.setdefault(claim.service, []), age)
        concerned = {key}
        for name in dict.fromkeys(claim.name for claim in (*old, *new)):
            concerned |= self._settle(name)
        for one in concerned:
            self._zone.put(("endpoint", one), self._iterate_records(one))

    def pop_news(self) -> dict[str, Collision | None]:
        """Returns the collisions that began or changed since the last call, by name; None for those that ended."""
        news, self._news = self._news, {}
        return news

    def _iterate_claims(self, key: str, facts: Facts) -> Iterator[Claim]:
        if not facts.addresses:
            return
        seen: set[tuple[str, Port | None]] = set()
        owner_by_name: dict[str, Service] = {}
        service_by_fields: dict[tuple[Field, ...], Service] = {}
        for template, fields in self._templates:
            service: Service = key
            if not template.is_unique:
                service = service_by_fields.setdefault(fields, find_service(fields, facts.values))
            for name, port in _iterate_names(template, facts):
                # what two templates call alike is not in its own way
                mine = owner_by_name.setdefault(name, service)
                if name and (name, port) not in seen:
                    seen.add((name, port))
                    yield Claim(name, mine, template.is_unique, port)

    def _drop(self, claim: Claim, age: tuple[str, str]) -> None:
        services = self._claimants_by_name.get(claim.name, {})
        claimants = services.get(claim.service, [])
        at = bisect.bisect_left(claimants, age)
        if at < len(claimants) and claimants[at] == age:
            del claimants[at]
        if not claimants:
            services.pop(claim.service, None)

    def _settle(self, name: str) -> set[str]:
        """The oldest service holds `name`; returns the endpoints that won or lost it by that."""
        services = self._claimants_by_name.get(name, {})
        holder = min(services, key=lambda service: services[service][0]) if services else None
        old = self._holder_by_name.get(name)
        if holder is None:
            self._claimants_by_name.pop(name, None)
            self._holder_by_name.pop(name, None)
        else:
            self._holder_by_name[name] = holder
        self._note_collision(name, holder, services)
        if holder == old:
            return set()
        return {key for one in (old, holder) if one is not None for _, key in services.get(one, ())}

    def _note_collision(
        self, name: str, holder: Service | None, services: Mapping[Service, list[tuple[str, str]]]
    ) -> None:
        collision = None
        if holder is not None and len(services) > 1:
            losers = sorted(claimants[0] for service, claimants in services.items() if service != holder)
            collision = Collision(name, services[holder][0][1], tuple(key for _, key in losers))
        if collision == self.collision_by_name.get(name):
            return
        self._news[name] = collision
        if collision is None:
            del self.collision_by_name[name]
        else:
            self.collision_by_name[name] = collision

    def _iterate_records(self, key: str) -> Iterator[Record]:
        facts = self._facts_by_key.get(key)
        if facts is None:
            return
        held = [claim for claim in self._claims_by_key[key] if self._holder_by_name[claim.name] == claim.service]
        names = [claim for claim in held if claim.port is None]
        if not names:
            return
        target = next((claim.name for claim in names if claim.is_unique), names[0].name)
        for claim in held:
            if claim.port is None:
                yield from (address_record(claim.name, address) for address in facts.addresses)
            else:
                yield Record(claim.name, "SRV", target, claim.port.number)
        if self._has_reverse:
            yield from (Record(reverse_name(address), "PTR", target) for address in facts.addresses)


def _iterate_names(template: Template, facts: Facts) -> Iterable[tuple[str, Port | None]]:
    if not template.is_of_ports:
        yield render_name(template, facts.values), None
        return
    for port in facts.ports:
        values = {**facts.values, ("port", ""): port.name, ("protocol", ""): port.protocol}
        yield render_name(template, values), port


def _read_port(port: EndpointPort) -> Port:
    protocol = port.protocol
    if isinstance(protocol, int) or protocol.isdecimal():
        return Port(port.name, _PROTOCOL_BY_NUMBER.get(int(protocol), str(protocol)), port.port)
    return Port(port.name, protocol.lower(), port.port)
