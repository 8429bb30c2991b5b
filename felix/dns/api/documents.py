"""What the HTTP routes answer, as JSON values and as a zone file. Shapes of `/v1/...` are Mesos-DNS's."""

from __future__ import annotations

from collections.abc import Iterator

from felix.dns.answer import Origin
from felix.dns.endpoints import Collision
from felix.dns.mesos import ListedFramework
from felix.dns.names import clean_name, clean_wild
from felix.dns.zone import Record, Zone


def describe_host(zone: Zone, asked: str) -> list[dict[str, str]]:
    """Returns the addresses of a name, IPv4 first; one object of empty texts when there is none."""
    name = clean_wild(clean_name(asked))
    found = [{"host": name + ".", "ip": datum.value} for rtype in ("A", "AAAA") for datum in zone.find(name, rtype)]
    return found or [{"host": "", "ip": ""}]


def describe_service(zone: Zone, asked: str) -> list[dict[str, str]]:
    """Returns one object per port and address of a service; one of empty texts when there is none."""
    name = clean_wild(clean_name(asked))
    found = []
    for target, port in zone.find(name, "SRV"):
        addresses = [datum.value for rtype in ("A", "AAAA") for datum in zone.find(target, rtype)]
        for address in addresses or [""]:
            found.append({"service": asked, "host": target + ".", "ip": address, "port": str(port)})
    return found or [{"service": "", "host": "", "ip": "", "port": ""}]


def describe_tasks(zone: Zone, frameworks: tuple[ListedFramework, ...]) -> dict[str, object]:
    """Returns frameworks, their tasks, and all records of each task but those of addresses' names."""
    return {
        "frameworks": [
            {
                "name": framework.name,
                "tasks": [
                    {
                        "name": task.name,
                        "id": task.id,
                        "records": [
                            {"name": one.name + ".", "host": _describe_value(one), "rtype": one.rtype}
                            for one in zone.get_records(task.owner)
                            if one.rtype != "PTR"
                        ],
                    }
                    for task in framework.tasks
                ],
            }
            for framework in frameworks
        ]
    }


def describe_zone(zone: Zone, origin: Origin, refresh_s: int) -> dict[str, object]:
    """Returns all records of a domain, as `/v1/axfr` of Mesos-DNS."""
    sets: dict[str, dict[str, list[str]]] = {"A": {}, "AAAA": {}, "SRV": {}}
    for record in zone.iterate(origin.name):
        if record.rtype in sets:
            sets[record.rtype].setdefault(record.name + ".", []).append(_describe_value(record))
    return {
        "TTL": origin.ttl,
        "Serial": origin.serial,
        "RefreshSeconds": refresh_s,
        "Mname": origin.mname + ".",
        "Rname": origin.rname + ".",
        "Domain": origin.name,
        "Records": {"As": sets["A"], "AAAAs": sets["AAAA"], "SRVs": sets["SRV"]},
    }


def render_zone(zone: Zone, origin: Origin, srv_weight: int) -> Iterator[str]:
    """Yields the lines of a zone file (RFC 1035 §5) with all records of a domain, sorted, for another server."""
    yield f"$ORIGIN {origin.name}."
    yield f"$TTL {origin.ttl}"
    times = f"{origin.serial} {origin.refresh} {origin.retry} {origin.expire} {origin.negative_ttl}"
    yield f"@ SOA {origin.mname}. {origin.rname}. {times}"
    yield f"@ NS {origin.mname}."
    for record in sorted(zone.iterate(origin.name)):
        if record.rtype == "SRV":
            yield f"{record.name}. SRV 0 {srv_weight} {record.port} {record.value}."
        else:
            yield f"{record.name}. {record.rtype} {record.value}"


def describe_collisions(collisions: dict[str, Collision]) -> list[dict[str, object]]:
    """Returns who has each name that several services want, and who has not."""
    return [
        {"name": one.name, "holder": one.holder, "without": list(one.losers)} for one in sorted(collisions.values())
    ]


def _describe_value(record: Record) -> str:
    return f"{record.value}.:{record.port}" if record.rtype == "SRV" else record.value
