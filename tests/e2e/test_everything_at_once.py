"""A host on which every feature of policy, protection, translation and limits is in use: restarts and tampering.

One feature's chains must not make another one's look wrong, neither to an agent that starts nor to one that mends.
"""

from __future__ import annotations

import re
import signal
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from pathlib import Path

import pytest

from felix.lab import documents
from felix.lab.host import Host
from felix.lab.lab import Lab, Workload
from felix.lab.place import wait_until
from felix.lab.probe import echo
from felix.lab.store import Json
from tests.support.e2e import (
    Monitor,
    Tally,
    log_count,
    metric,
    open_profile,
    problems,
    stream,
    wait_revision,
    wait_up,
)

pytestmark = pytest.mark.fv

_ENVIRONMENT = {
    "FELIX_FLOATINGIPS": "Enabled",
    "FELIX_POLICYRULECOUNTERS": "3",
    "FELIX_NEWCONNECTIONRATEPERSOURCE": "5000",
    "FELIX_NEWCONNECTIONBURSTPERSOURCE": "5000",
    "FELIX_NFTABLESFILTERDENYACTION": "Reject",
    "FELIX_LOGPREFIX": "felix %n",
}
_RESTARTS = [signal.SIGTERM, signal.SIGKILL] * 5
_POOL_KEYS = [f"/calico/resources/v3/projectcalico.org/ippools/default-{family}-ippool" for family in ("ipv4", "ipv6")]
_EXTERNAL = ("172.30.0.9", "fd00:172:30::9")
_EXTERNAL_POOLS = {"floating4": ("172.30.0.0/24", 26), "floating6": ("fd00:172:30::/122", 122)}
_ALLOWED, _OUTER, _DENIED = 7001, 7002, 7003
_PORTS = {"inner": _ALLOWED, "outer": _OUTER}
_ALLOW_ALL: list[Json] = [{"action": "Allow"}]
_FORWARDED: dict[str, Json] = {"applyOnForward": True, "types": ["Ingress"], "selector": "role == 'edge'"}
_POLICIES: dict[str, tuple[str, Mapping[str, Json]]] = {
    "early.look": (
        "GlobalNetworkPolicy",
        {"tier": "early", "selector": "role == 'server'", "types": ["Ingress"], "ingress": [{"action": "Pass"}]},
    ),
    "default.tried": (
        "StagedGlobalNetworkPolicy",
        {"order": 1, "selector": "role == 'server'", "types": ["Ingress"], "ingress": [{"action": "Deny"}]},
    ),
    "default.named": (
        "GlobalNetworkPolicy",
        {
            "order": 2,
            "selector": "role == 'server'",
            "types": ["Ingress"],
            "ingress": [
                {"action": "Log", "protocol": "SCTP"},
                {
                    "action": "Allow",
                    "protocol": "UDP",
                    "source": {"selector": "role == 'friend'"},
                    "destination": {"selector": "all()", "ports": ["inner"]},
                },
                {"action": "Allow", "protocol": "TCP", "source": {"selector": "role == 'friend'"}},
                {
                    "action": "Allow",
                    "protocol": "UDP",
                    "source": {"notSelector": "has(role)"},
                    "destination": {"ports": ["outer"]},
                    "metadata": {"annotations": {"why": "guests from outside"}},
                },
            ],
        },
    ),
    "default.host": (
        "GlobalNetworkPolicy",
        {"selector": "role == 'edge'", "types": ["Ingress"], "ingress": [{"action": "Allow", "protocol": "ICMP"}]},
    ),
    "default.forward": ("GlobalNetworkPolicy", {**_FORWARDED, "ingress": _ALLOW_ALL}),
    "default.before": (
        "GlobalNetworkPolicy",
        {
            **_FORWARDED,
            "preDNAT": True,
            "ingress": [{"action": "Deny", "protocol": "TCP", "destination": {"ports": ["85:87"]}}],
        },
    ),
    "default.raw": (
        "GlobalNetworkPolicy",
        {
            **_FORWARDED,
            "doNotTrack": True,
            "ingress": [{"action": "Deny", "protocol": "UDP", "destination": {"ports": [82]}}],
        },
    ),
}
_LIMITS: dict[str, Json] = {
    "ingressBandwidth": 1_000_000_000,
    "egressBandwidth": 1_000_000_000,
    "ingressBurst": 1_000_000_000,
    "egressBurst": 1_000_000_000,
    "ingressPacketRate": 10_000,
    "egressPacketRate": 10_000,
    "ingressPacketBurst": 5000,  # a busy machine sends in bursts what it could not send in time
    "egressPacketBurst": 5000,
    "ingressMaxConnections": 10_000,
    "egressMaxConnections": 10_000,
    "dscp": "AF41",
}


class World:
    """The host, its containers, and the streams of which all or nothing arrives."""

    def __init__(self, lab: Lab) -> None:
        self.lab = lab
        lab.up(hosts=1, bird=False, agents=False)
        self.host = lab.hosts[0]
        self.start_agent()
        _put_around(lab, self.host)
        self.friend = self._add("friend", "friend")
        self.stranger = self._add("stranger", "stranger")
        self.server = self._add("server", "server", ports=True)
        revision = _furnish(lab, self.server)
        wait_revision(self.host, revision)
        wait_up(self.host, "friend", "stranger", "server")
        self.server.listen(80)

    def start_agent(self) -> None:
        """The agent runs and is ready."""
        self.host.start_agent(environment=_ENVIRONMENT)
        self.host.wait_agent_ready()

    @contextmanager
    def streams(self) -> Iterator[tuple[Tally, Tally, Tally]]:
        """While inside, packets go that are allowed, allowed to external addresses from outside, and denied."""
        own = [self.server.ipv4, self.server.ipv6]
        with (
            stream(self.friend, self.server, own, _ALLOWED, 500) as allowed,
            stream(self.lab.fabric, self.server, list(_EXTERNAL), _OUTER, 500) as outer,
            stream(self.stranger, self.server, own, _DENIED, 200) as denied,
        ):
            yield allowed, outer, denied

    def read_table(self) -> str:
        """Returns the table without what packets change, in a form that does not depend on who wrote it when."""
        text = self.host.run(["nft", "--stateless", "list", "table", "inet", "felix"], check=False).stdout
        text = re.sub(r"\tset flood-sources[46] \{.*?\n\t\}\n", "", text, flags=re.DOTALL)
        return "\n".join(sorted(line.strip(" \t,}") for line in text.splitlines()))

    def read_shapers(self) -> str:
        """Returns the shapers of all interfaces."""
        return self.host.run(["tc", "qdisc", "show"]).stdout

    def read_dropped(self) -> str:
        """Returns what was dropped for which reason, for a failure's text."""
        counted = self.host.run(["nft", "list", "counters", "table", "inet", "felix"]).stdout
        return " ".join(counted.split()) + self.host.run(["tc", "-s", "qdisc", "show"]).stdout

    def _add(self, name: str, role: str, *, ports: bool = False) -> Workload:
        named: list[Mapping[str, Json]] = [
            {"name": one, "protocol": "UDP", "port": port} for one, port in _PORTS.items() if ports
        ]
        return self.lab.add_workload(self.host, name, profiles=["open"], labels={"role": role}, ports=named)


def _put_around(lab: Lab, host: Host) -> None:
    """Pools hide behind their hosts, external addresses have pools and a way from outside."""
    lab.apply(open_profile())
    for key in _POOL_KEYS:
        stored = lab.store.get(key)
        assert stored is not None
        spec = stored[0]["spec"]
        assert isinstance(spec, dict)
        lab.store.put(key, {**stored[0], "spec": {**spec, "natOutgoing": True}})
    for name, (cidr, size) in _EXTERNAL_POOLS.items():
        lab.apply(documents.resource("IPPool", name, {"cidr": cidr, "blockSize": size, "assignmentMode": "Manual"}))
    for external, block, gateway in (
        ("172.30.0.0/24", host.addresses.block_v4, host.ipv4),
        ("fd00:172:30::/122", host.addresses.block_v6, host.ipv6),
    ):
        lab.fabric.configure(f"route add {external} via {gateway}", f"route add {block} via {gateway}")


def _furnish(lab: Lab, server: Workload) -> int:
    """Policies, the host endpoint, limits and external addresses are stored; returns the last revision."""
    lab.apply(documents.resource("Tier", "early", {"order": 1, "defaultAction": "Pass"}))
    for name, (kind, spec) in _POLICIES.items():
        lab.apply(documents.resource(kind, name, spec))
    edge: dict[str, Json] = {"node": lab.hosts[0].name, "interfaceName": "eth0", "profiles": ["open"]}
    lab.apply(documents.resource("HostEndpoint", "edge", edge, labels={"role": "edge"}))
    stored = lab.store.get(server.record.key)
    assert stored is not None
    written = stored[0]["spec"]
    assert isinstance(written, dict)
    internals = server.ipv4, server.ipv6
    nats: list[Json] = [
        {"internalIP": internal, "externalIP": external}
        for internal, external in zip(internals, _EXTERNAL, strict=True)
    ]
    return lab.store.put(server.record.key, {**stored[0], "spec": {**written, "qosControls": _LIMITS, "ipNATs": nats}})


def test_restarts_with_every_feature_in_use_write_nothing_and_lose_nothing(lab: Lab, tmp_path: Path) -> None:
    world = World(lab)
    host = world.host
    assert problems(host) == []
    _check_features_are_there(world.read_table())
    with (
        world.friend.open(world.server.ipv4, 80) as flow,
        Monitor(host, tmp_path) as monitor,
        world.streams() as (allowed, outer, denied),
    ):
        echo(flow)
        shapers = world.read_shapers()
        for number in _RESTARTS:
            assert host.stop_agent(number)
            world.start_agent()
            assert metric(host, "felix_kernel_writes") == 0
        echo(flow)
        assert world.read_shapers() == shapers
        written = monitor.lines()
    assert written == []
    assert log_count(host, ", 0 kernel writes") == len(_RESTARTS)
    assert min(*allowed.sent.values(), *outer.sent.values()) > 1000
    assert (allowed.lost, outer.lost) == (0, 0), world.read_dropped()
    assert denied.received == {}


def test_each_part_of_a_full_table_that_somebody_changes_is_mended(lab: Lab) -> None:
    world = World(lab)
    host, before = world.host, world.read_table()
    behind_hooks, hooks = _damages(host)
    assert len(behind_hooks) > len(hooks) > 20

    def damage(commands: Sequence[str]) -> None:
        for command in commands:
            host.run(["nft", "-f", "-"], stdin=command)
            wait_until(lambda: world.read_table() == before, 20.0, f"'{command}' to be mended", 0.02)

    with world.streams() as (_, _, denied):
        damage(behind_hooks)
    damage([*hooks, "flush ruleset"])  # until it is mended nobody asks policy
    assert problems(host) == []
    with world.streams() as (allowed, outer, late), world.friend.open(world.server.ipv6, 80) as flow:
        echo(flow)
    assert (allowed.lost, outer.lost) == (0, 0), world.read_dropped()
    assert (denied.received, late.received) == ({}, {})


def test_named_port_that_moves_cuts_who_came_by_an_external_address_and_nobody_else(lab: Lab) -> None:
    world = World(lab)
    host = world.host
    stored = lab.store.get(world.server.record.key)
    assert stored is not None
    written = stored[0]["spec"]
    assert isinstance(written, dict)
    ports: list[Json] = [
        {"name": name, "protocol": "UDP", "port": port + 1000 * (name == "outer")} for name, port in _PORTS.items()
    ]

    def count_open(port: int) -> int:
        found = [host.run(["conntrack", "-L", "-f", family, "-p", "udp"]).stdout for family in ("ipv4", "ipv6")]
        return "".join(found).count(f"dport={port} ")

    with world.streams() as (allowed, outer, denied):
        wait_until(lambda: min(count_open(_ALLOWED), count_open(_OUTER)) > 1, 20.0, "the streams")
        revision = lab.store.put(world.server.record.key, {**stored[0], "spec": {**written, "ports": ports}})
        wait_revision(host, revision)
        wait_until(lambda: not count_open(_OUTER), 2.0, "those who came from outside to be cut", 0.02)
        assert count_open(_ALLOWED) > 1
        wait_until(
            lambda: metric(host, "felix_conntrack_entries_removed", reason="denied") > 0, 2.0, "the metric", 0.02
        )
    assert outer.received
    assert outer.lost > 0
    assert allowed.lost == 0, world.read_dropped()
    assert denied.received == {}


def _check_features_are_there(table: str) -> None:
    for part in (
        "chain nat-postrouting",
        "map floating-in4",
        "map floating-out6",
        "chain limits-from",
        "chain limits-new",
        "chain limits-to",
        "chain dscp-34",
        "chain flood-forward",
        "chain host-input",
        "chain host-forward-in",
        "chain host-pre-dnat",
        "chain host-untracked-in",
        "chain staged-in-",
        "goto rejected",
        "ip daddr . meta l4proto . udp dport",
        "guests from outside",
    ):
        assert part in table, part


def _damages(host: Host) -> tuple[list[str], list[str]]:
    """Returns commands that each take something else from the table: what lies behind hooks, and chains on them."""
    listing = host.run(["nft", "-s", "-t", "list", "table", "inet", "felix"]).stdout
    behind_hooks, hooks = [], []
    for kind, name, body in re.findall(r"\t(chain|map|set) (\S+) \{\n(.*?)\n?\t\}", listing, flags=re.DOTALL):
        if " hook " in body:
            hooks += [
                f"flush chain inet felix {name}",
                f"flush chain inet felix {name}; delete chain inet felix {name}",
            ]
        elif "dynamic" not in body and (kind != "chain" or body.strip()):
            behind_hooks.append(f"flush {kind} inet felix {name}")
    return behind_hooks, hooks
