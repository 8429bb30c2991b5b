"""Two virtual hosts with everything real, and what tests ask of them: documents, enforcement, packets, verdicts.

The containers: `client` and `guest` (host h1, namespaces blue and red), `near` (h1, blue), `far` (h2, red). `outside`
is a machine on the fabric that is no container. Everybody's profiles allow everything until policy says otherwise.
"""

from __future__ import annotations

import http.client
import json
import socket
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from pathlib import Path
from typing import TypeVar

import msgspec
import yaml

from felix.errors import PeerError
from felix.lab.host import Host
from felix.lab.lab import Lab, Workload
from felix.lab.place import wait_until
from felix.lab.store import Document, Json
from felix.model.codec import decode
from felix.model.keys import ResourceKey, parse_key
from felix.model.records import (
    GlobalNetworkPolicy,
    GlobalNetworkSet,
    HostEndpoint,
    NetworkPolicy,
    NetworkSet,
    Profile,
    StagedGlobalNetworkPolicy,
    StagedNetworkPolicy,
    Tier,
    WorkloadEndpoint,
)
from felix.policy.evaluate import Verdict, World, evaluate
from tests.support.flows import OPEN_S, SHUT_S, Flow, Site, is_passing, make_packet, parse_flows

RESOURCES = "/calico/resources/v3/projectcalico.org/"
_PLURALS = {
    "FelixConfiguration": "felixconfigurations",
    "GlobalNetworkPolicy": "globalnetworkpolicies",
    "GlobalNetworkSet": "globalnetworksets",
    "HostEndpoint": "hostendpoints",
    "NetworkPolicy": "networkpolicies",
    "NetworkSet": "networksets",
    "Profile": "profiles",
    "StagedGlobalNetworkPolicy": "stagedglobalnetworkpolicies",
    "StagedNetworkPolicy": "stagednetworkpolicies",
    "Tier": "tiers",
    "WorkloadEndpoint": "workloadendpoints",
}
ENVIRONMENT = {"FELIX_ENDPOINTREPORTINGENABLED": "true", "FELIX_ENDPOINTREPORTINGDELAYSECS": "0.1"}
"""Settings of the agents beside those of the lab."""
_OPEN: Document = {"ingress": [{"action": "Allow"}], "egress": [{"action": "Allow"}]}
R = TypeVar("R", bound=msgspec.Struct)


class Fleet:
    """The lab, its containers by name, and the documents that a test has stored."""

    def __init__(self, lab: Lab) -> None:
        self.lab = lab
        self.h1, self.h2 = lab.hosts
        self.sites: dict[str, Site] = {}
        self._listening: set[tuple[str, str, int]] = set()

    def furnish(self) -> None:
        """The containers exist, and whatever they send arrives."""
        self.lab.fabric.configure(
            *(f"route add {block} via {gateway}" for host in self.lab.hosts for block, gateway in _ways(host))
        )
        self.put("Profile", "open", _OPEN)
        self.put("Profile", "kns.blue", {"labelsToApply": {"pcns.team": "web"}})
        self.put("Profile", "kns.red", {"labelsToApply": {"pcns.team": "db"}})
        http: Document = {"name": "http", "protocol": "TCP", "port": 80}
        dns: Document = {"name": "dns", "protocol": "UDP", "port": 53}
        status: Document = {"name": "status", "protocol": "TCP", "port": 5000}
        self.add("client", self.h1, "blue", "10", ports=(status,), role="client", color="green")
        self.add("guest", self.h1, "red", "12", role="client")
        self.add("near", self.h1, "blue", "20", ports=(http, dns), role="server", grade="gold")
        self.add("far", self.h2, "red", "20", ports=({**http, "port": 8000}, dns), role="server", grade="silver")
        self.sites["outside"] = Site(self.lab.fabric, "10.0.0.254", "fd00:10::fe")
        self.sites["h1"] = Site(self.h1, self.h1.ipv4, self.h1.ipv6)
        self.sites["h2"] = Site(self.h2, self.h2.ipv4, self.h2.ipv6)
        for name in ("client", "guest", "near", "far"):
            self.wait_up(name)
        wait_until(lambda: self.is_open("icmp 8 to far") and self.is_open("icmp6 128 to far"), 20.0, "BGP")

    def add(
        self,
        name: str,
        host: Host,
        namespace: str,
        last: str,
        *,
        block: int | None = None,
        ports: Sequence[Mapping[str, Json]] = (),
        **labels: str,
    ) -> Workload:
        """The container exists, with addresses that end in `last` (decimal) in the blocks of its host, or of another.

        block: the number of that other host.
        """
        number = int(host.name[1:]) if block is None else block
        workload = self.lab.add_workload(
            host,
            name,
            profiles=[f"kns.{namespace}", "open"],
            labels=labels,
            ports=ports,
            ipv4=f"192.168.{number}.{last}",
            ipv6=f"fd00:192:168::{number}:{int(last):x}",
            namespace_name=namespace,
        )
        self.sites[name] = Site(workload, workload.ipv4, workload.ipv6)
        return workload

    def remove(self, name: str) -> None:
        """The container does not exist."""
        self.lab.remove_workload(name)
        self.sites.pop(name, None)
        self._listening = {one for one in self._listening if one[0] != name}

    def close_listeners(self, name: str) -> None:
        """None of the servers that checks of packets opened there listens any more; the next check opens its own."""
        self.sites[name].place.close_listeners()
        self._listening = {one for one in self._listening if one[0] != name}

    # --- Documents, in the form in which Calico's tools leave them ---

    def put(self, kind: str, name: str, spec: Mapping[str, Json], **metadata: Json) -> int:
        """etcd holds the resource; returns the revision."""
        document: Document = {
            "apiVersion": "projectcalico.org/v3",
            "kind": kind,
            "metadata": {"name": name, "uid": "6c6e8b1c", "creationTimestamp": "2024-05-01T08:00:00Z", **metadata},
            "spec": dict(spec),
        }
        return self.lab.store.put(make_path(kind, str(metadata.get("namespace", "")), name), document)

    @contextmanager
    def stored(self, manifests: str) -> Iterator[int]:
        """While inside, the resources of the YAML text (documents with kind, name, spec…) are stored and enforced."""
        paths: list[str] = []
        revision = 0
        try:
            for manifest in yaml.safe_load_all(manifests):
                metadata = {word: manifest[word] for word in ("namespace", "labels", "annotations") if word in manifest}
                paths.append(make_path(manifest["kind"], metadata.get("namespace", ""), manifest["name"]))
                revision = self.put(manifest["kind"], manifest["name"], manifest.get("spec", {}), **metadata)
            self.wait_applied(revision)
            yield revision
        finally:
            for path in paths:
                self.lab.store.delete(path)

    @contextmanager
    def changed(self, name: str, **fields: Json) -> Iterator[int]:
        """While inside, the spec of the container's endpoint has these fields, and that is enforced."""
        path = self.lab.workloads[name].record.key
        stored = self.lab.store.get(path)
        assert stored is not None
        before, _ = stored
        spec = before["spec"]
        assert isinstance(spec, dict)
        try:
            revision = self.lab.store.put(path, {**before, "spec": {**spec, **fields}})
            self.wait_applied(revision)
            yield revision
        finally:
            self.wait_applied(self.lab.store.put(path, before))

    def world(self) -> World:
        """Returns what etcd holds, as the reference meaning of policy takes it."""
        world = World({}, {}, {}, {}, {}, {})
        for path, document in self.lab.store.list_prefix(RESOURCES).items():
            key = parse_key(path)
            if isinstance(key, ResourceKey):
                _file(world, key, decode(key, json.dumps(document).encode()).record)
        return world

    # --- Agents ---

    def status(self, host: Host) -> Document:
        """Returns what the agent of a host says about itself; empty when it does not answer."""
        return ask_agent(host.rundir / "felix.sock", "/v1/status")

    def wait_applied(self, revision: int) -> None:
        """Every agent has in its kernel everything up to this revision."""
        for host in self.lab.hosts:
            self.wait_host_applied(host, revision)

    def wait_host_applied(self, host: Host, revision: int) -> None:
        """The agent of a host has in its kernel everything up to this revision."""
        wait_until(lambda: _applied(self.status(host)) >= revision, 20.0, f"revision {revision} on {host.name}", 0.005)

    def restart_agent(self, environment: Mapping[str, str]) -> None:
        """The agent of h1 has been started anew with these settings, and everything is as before."""
        self.h1.stop_agent()
        self.h1.start_agent(environment={**ENVIRONMENT, **environment})
        self.h1.wait_agent_ready()
        for name in ("client", "guest", "near"):
            self.wait_up(name)
        wait_until(lambda: self.is_open("icmp 8 to far"), 20.0, "BGP")

    def endpoint_status(self, name: str) -> tuple[str, str]:
        """Returns status and reason of a container's endpoint, as its host's agent says; empty when unknown."""
        workload = self.lab.workloads[name]
        endpoints = self.status(self.lab.host(workload.record.host)).get("endpoints")
        key = parse_key(workload.record.key)
        found = endpoints.get(str(key)) if isinstance(endpoints, dict) else None
        return (str(found["status"]), str(found["reason"])) if isinstance(found, dict) else ("", "")

    def wait_up(self, name: str) -> None:
        """The container's endpoint is enforced and connected."""
        self.wait(lambda: self.endpoint_status(name)[0] == "up", f"{name} to be up")

    def wait(self, condition: Callable[[], bool], what: str, timeout_s: float = 10.0) -> None:
        """The condition holds; what agents say and have logged is in the failure otherwise."""
        try:
            wait_until(condition, timeout_s, what)
        except PeerError as error:
            said = [
                f"{host.name}: {self.status(host)}\n{host.agent_log.read_text()[-2000:]}" for host in self.lab.hosts
            ]
            raise AssertionError("\n".join([str(error), *said])) from error

    def metric(self, host: Host, line: str) -> float:
        """Returns the value of the metric that the line starts with, 0 when there is none."""
        values = [text.rpartition(" ")[2] for text in host.metrics().splitlines() if text.startswith(f"{line} ")]
        return float(values[0]) if values else 0.0

    # --- Packets ---

    def is_open(self, text: str) -> bool:
        """Returns whether all flows of the text work, each tried briefly."""
        flows = list(parse_flows(text))
        self._listen(flows)
        return all(is_passing(flow, self.sites, SHUT_S) for flow in flows)

    def check(
        self, allowed: Iterable[str], denied: Iterable[str], skips: Callable[[Flow], bool] = lambda _: False
    ) -> None:
        """Flows are as expected, by real packets and by the reference meaning of policy; new connections each time."""
        expected = {flow: True for text in allowed for flow in parse_flows(text) if not skips(flow)}
        expected |= {flow: False for text in denied for flow in parse_flows(text) if not skips(flow)}
        world = self.world()
        meant = {flow: evaluate(world, make_packet(flow, self.sites)) for flow in expected}
        seen = self.try_flows(expected)
        wrong = [
            _describe(flow, wanted, seen[flow], meant[flow])
            for flow, wanted in expected.items()
            if not wanted == seen[flow] == meant[flow].allowed
        ]
        assert expected
        assert not wrong, "\n".join(["", *wrong])

    def check_packets(self, allowed: Iterable[str], denied: Iterable[str]) -> None:
        """Flows are as expected, by real packets alone: for what is no question of policy."""
        expected = {flow: True for text in allowed for flow in parse_flows(text)}
        expected |= {flow: False for text in denied for flow in parse_flows(text)}
        seen = self.try_flows(expected)
        wrong = [
            f"{flow}: expected {wanted}, seen {seen[flow]}" for flow, wanted in expected.items() if wanted != seen[flow]
        ]
        assert not wrong, "\n".join(["", *wrong])

    def try_flows(self, expected: Mapping[Flow, bool]) -> dict[Flow, bool]:
        """Returns what happened to each flow, all tried at once, as connections that nobody has seen before."""
        self._listen(expected)
        self.forget_connections()
        with ThreadPoolExecutor(max_workers=48) as pool:
            tries = {
                flow: pool.submit(is_passing, flow, self.sites, OPEN_S if wanted else SHUT_S)
                for flow, wanted in expected.items()
            }
            return {flow: one.result() for flow, one in tries.items()}

    def forget_connections(self) -> None:
        """No host tracks any connection."""
        for host in self.lab.hosts:
            host.run(["conntrack", "-F"])

    def _listen(self, flows: Iterable[Flow]) -> None:
        for flow in flows:
            server = flow.target, flow.protocol, flow.number
            if flow.protocol in ("tcp", "udp") and server not in self._listening:
                self.sites[flow.target].place.listen(flow.number, flow.protocol)
                self._listening.add(server)


def make_path(kind: str, namespace: str, name: str) -> str:
    """Returns where Calico keeps a resource."""
    return RESOURCES + "/".join(filter(None, (_PLURALS[kind], namespace, name)))


def ask_agent(path: Path, question: str) -> Document:
    """Returns the answer of a local API; empty when nobody answers."""
    connection = http.client.HTTPConnection("localhost")
    try:
        connection.sock = socket.socket(socket.AF_UNIX, socket.SOCK_STREAM)
        connection.sock.settimeout(2.0)
        connection.sock.connect(str(path))
        connection.request("GET", question)
        answer: Document = json.loads(connection.getresponse().read())
    except (OSError, http.client.HTTPException, ValueError):
        return {}
    finally:
        connection.close()
    return answer


def _applied(status: Document) -> int:
    dataplane = status.get("dataplane")
    return int(str(dataplane["revision"])) if isinstance(dataplane, dict) else 0


def _ways(host: Host) -> Sequence[tuple[object, str]]:
    return (host.addresses.block_v4, host.ipv4), (host.addresses.block_v6, host.ipv6)


def _file(world: World, key: ResourceKey, record: object) -> None:
    match record:
        case WorkloadEndpoint():
            _add(world.workloads, key, record)
        case HostEndpoint():
            _add(world.host_endpoints, key, record)
        case Profile():
            _add(world.profiles, key, record)
        case Tier():
            _add(world.tiers, key, record)
        case NetworkSet() | GlobalNetworkSet():
            _add(world.network_sets, key, record)
        case GlobalNetworkPolicy() | NetworkPolicy() | StagedGlobalNetworkPolicy() | StagedNetworkPolicy():
            _add(world.policies, key, record)
        case _:
            pass


def _add(records: Mapping[ResourceKey, R], key: ResourceKey, record: R) -> None:
    assert isinstance(records, dict)
    records[key] = record


def _describe(flow: Flow, wanted: bool, seen: bool, meant: Verdict) -> str:
    last = meant.trace[-1] if meant.trace else "nobody's policy"
    return f"{flow}: expected {wanted}, packets say {seen}, the meaning is {meant.allowed} by {last}"
