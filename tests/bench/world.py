"""What is in the datastore when something is measured: endpoints, policies and address sets of a cluster. Pure."""

from __future__ import annotations

import json
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from ipaddress import IPv4Address

from felix.lab.documents import key_of, resource
from felix.lab.store import Document, Json

HOST = "bench"
APPS = 100
ROLES = 20
ZONES = 10
REMOTE_HOSTS = 100
_LOCAL_FIRST = int(IPv4Address("10.65.0.0"))
_REMOTE_FIRST = int(IPv4Address("10.96.0.0"))
_SINGLE_FIRST = int(IPv4Address("172.16.0.0"))
_PREFIX_FIRST = int(IPv4Address("100.64.0.0"))
_NETS_PER_SET = 10_000  # a larger document would exceed what etcd takes in one request

Stored = Iterator[tuple[str, bytes]]


@dataclass(frozen=True, slots=True)
class Sizes:
    """How much there is. spare: interfaces without an endpoint, for the endpoints that are written and timed."""

    local: int = 1000
    remote: int = 10_000
    policies: int = 1000
    spare: int = 200
    set_members: int = 0


@dataclass(frozen=True, slots=True)
class Endpoint:
    """One endpoint as the benchmarks know it."""

    key: str
    value: bytes
    interface: str
    address: str


def local_endpoint(number: int, labels: Mapping[str, str] | None = None, host: str = HOST) -> Endpoint:
    """Returns the local endpoint `number`; by default one of the applications' that all others of it share policy with.

    Every application's endpoints have one policy stack; its role makes it a member of one address set.
    """
    address = str(IPv4Address(_LOCAL_FIRST + number))
    chosen = {"app": f"a{number % APPS}", "role": f"r{number % ROLES}"} if labels is None else labels
    return _endpoint(f"w{number}", host, f"cali{number}", address, chosen)


def lonely_endpoint(number: int, variant: int) -> Endpoint:
    """Returns the local endpoint `number` with labels that give it a policy stack which no other endpoint has."""
    app, zone = variant % APPS, variant // APPS % ZONES
    return local_endpoint(number, {"app": f"a{app}", "zone": f"z{zone}", "role": f"r{number % ROLES}"})


def remote_endpoint(number: int) -> Endpoint:
    """Returns endpoint `number` of other hosts; its role makes it a member of one address set here."""
    address = str(IPv4Address(_REMOTE_FIRST + number))
    labels = {"app": f"b{number % APPS}", "role": f"r{number % ROLES}"}
    return _endpoint(f"x{number}", f"other{number % REMOTE_HOSTS}", f"cali{number}", address, labels)


def policy(number: int, port: int = 80) -> tuple[str, bytes]:
    """Returns key and value of policy `number`: one application, or one zone, open to a role and to a network."""
    chosen = f"zone == 'z{number}'" if number < ZONES else f"app == 'a{number % APPS}'"
    ingress: list[Json] = [
        {
            "action": "Allow",
            "protocol": "TCP",
            "source": {"selector": f"role == 'r{number % ROLES}'"},
            "destination": {"ports": [port, 1000 + number]},
        },
        {"action": "Allow", "protocol": "UDP", "source": {"nets": ["10.0.0.0/8"], "notNets": ["10.9.0.0/16"]}},
    ]
    spec: Document = {
        "order": 100 + number,
        "selector": chosen,
        "types": ["Ingress", "Egress"],
        "ingress": ingress,
        "egress": [{"action": "Allow"}],
    }
    return _stored(resource("GlobalNetworkPolicy", f"default.p{number}", {"tier": "default", **spec}))


def probe_policy() -> tuple[str, bytes]:
    """Returns the policy that lets the two ends of the packet probe talk, and nobody else to them."""
    peers: Json = [{"action": "Allow", "protocol": "UDP", "source": {"selector": "app == 'probe'"}}]
    spec: Document = {
        "tier": "default",
        "order": 1,
        "selector": "app == 'probe'",
        "types": ["Ingress", "Egress"],
        "ingress": peers,
        "egress": [{"action": "Allow"}],
    }
    return _stored(resource("GlobalNetworkPolicy", "default.probe", spec))


def documents(sizes: Sizes) -> Stored:
    """Yields key and value of everything that is there before the agent starts."""
    yield _stored(resource("ClusterInformation", "default", {"datastoreReady": True}))
    yield _stored(resource("Tier", "default", {"order": 1000000, "defaultAction": "Deny"}))
    for number in range(sizes.policies):
        yield policy(number)
    if sizes.set_members:
        yield from _large_sets(sizes.set_members)
    for number in range(sizes.local):
        one = local_endpoint(number)
        yield one.key, one.value
    for number in range(sizes.remote):
        one = remote_endpoint(number)
        yield one.key, one.value


def _large_sets(count: int) -> Stored:
    """Yields `count` single addresses with the role r0, as many prefixes with the role `blocked`, and their user."""
    for start in range(0, count, _NETS_PER_SET):
        numbers = range(start, min(count, start + _NETS_PER_SET))
        singles: list[Json] = [f"{IPv4Address(_SINGLE_FIRST + number)}/32" for number in numbers]
        # every second /28: what does not touch cannot be merged
        prefixes: list[Json] = [f"{IPv4Address(_PREFIX_FIRST + 32 * number)}/28" for number in numbers]
        for role, nets in (("r0", singles), ("blocked", prefixes)):
            yield _stored(resource("GlobalNetworkSet", f"{role}-{start}", {"nets": nets}, labels={"role": role}))
    spec: Document = {
        "tier": "default",
        "order": 10,
        "selector": "all()",
        "types": ["Ingress"],
        "ingress": [{"action": "Deny", "source": {"selector": "role == 'blocked'"}}],
    }
    yield _stored(resource("GlobalNetworkPolicy", "default.blocked", spec))


def _endpoint(name: str, host: str, interface: str, address: str, labels: Mapping[str, str]) -> Endpoint:
    spec: Document = {
        "orchestrator": "cni",
        "node": host,
        "workload": name,
        "containerID": name,
        "endpoint": "eth0",
        "interfaceName": interface,
        "ipNetworks": [f"{address}/32"],
        "profiles": [],
    }
    all_labels: Document = {**labels, "projectcalico.org/namespace": "bench", "projectcalico.org/orchestrator": "cni"}
    full_name = f"{host}-cni-{name}-eth0"
    key, value = _stored(resource("WorkloadEndpoint", full_name, spec, namespace="bench", labels=all_labels))
    return Endpoint(key, value, interface, address)


def _stored(document: Document) -> tuple[str, bytes]:
    return key_of(document), json.dumps(document, separators=(",", ":")).encode()
