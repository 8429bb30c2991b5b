"""Hosts in two subnets whose router knows of no container, without BGP: what VXLAN does for them, and to whom not.

h1 and h3 share a subnet, h2 is behind the router. The tests share one lab, and each leaves it as it found it.
"""

from __future__ import annotations

import contextlib
import itertools
import os
import socket
import struct
from collections.abc import Iterator, Mapping
from functools import partial

import pytest

from felix.calc.tunnels import derive_mac
from felix.lab import documents
from felix.lab.host import Host
from felix.lab.lab import Lab, Workload
from felix.lab.namespace import create_namespaces, delete_namespaces, write_sysctls
from felix.lab.place import Place, wait_until
from felix.lab.store import Json
from felix.plugins.ask import ask
from tests.support.e2e import (
    guarded_profile,
    metric,
    open_profile,
    problems,
    status,
    stream,
    wait_revision,
    wait_up,
)
from tests.support.flows import open_raw, receive_mark
from tests.support.frames import PROTOCOL, make_packet

pytestmark = pytest.mark.fv

DEVICES = {4: "vxlan.calico", 6: "vxlan-v6.calico"}
WAIT_S = 20.0
OPEN_S = 10.0
SHUT_S = 0.3  # for what must not come; what does takes a millisecond
TCP = 8080


@pytest.fixture(scope="module")
def lab(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Lab]:
    lab = Lab(f"e2eover{os.getpid()}", tmp_path_factory.mktemp("l"))
    try:
        lab.up(hosts=3, bird=False, vxlan_mode="Always", is_apart=True)
        lab.apply(open_profile())
        lab.apply(guarded_profile("guarded", "role == 'friend'"))
        for host in lab.hosts:
            lab.add_workload(host, f"w{host.name}", profiles=["open"], labels={"role": "friend"})
        lab.add_workload(lab.hosts[0], "stranger", profiles=["open"])
        lab.add_workload(lab.hosts[1], "server", profiles=["guarded"])
        for workload in lab.workloads.values():
            workload.listen(TCP)
        for host in lab.hosts:
            host.wait_agent_ready()
        for workload in lab.workloads.values():
            wait_up(lab.host(workload.record.host), workload.name, timeout_s=WAIT_S)
        yield lab
    finally:
        for host in lab.hosts:
            if host.agent_log.exists():
                print(f"--- {host.name} ---\n{host.agent_log.read_text()[-20000:]}")
        lab.down()


@pytest.fixture(autouse=True)
def joined(lab: Lab) -> None:
    """Everybody reaches everybody, both families."""
    for one, other in itertools.permutations(dwellers(lab), 2):
        wait_joined(one, other)


def dwellers(lab: Lab) -> list[Workload]:
    return [lab.workloads[f"w{host.name}"] for host in lab.hosts]


def wait_joined(one: Workload, other: Workload) -> None:
    for address in (other.ipv4, other.ipv6):
        wait_until(partial(is_answered, one, address), WAIT_S, f"{one.name} to reach {other.name} at {address}")


def is_answered(place: Place, address: str) -> bool:
    return place.connect(address, 0, "icmp").ok


def set_mode(lab: Lab, mode: str) -> int:
    """Returns the revision at which both pools have that mode."""
    return [lab.apply(documents.pool_document(version, mode)) for version in (4, 6)][-1]


def route_to(host: Host, address: str) -> str:
    """Returns how the kernel of the host would reach an address."""
    return host.run(["ip", "route", "get", address]).stdout


def vxlan_of(host: Host) -> Mapping[str, Json]:
    found = status(host)["vxlan"]
    assert isinstance(found, dict)
    return found


def dropped(host: Host) -> float:
    return metric(host, "felix_dropped_packets", reason="tunnelled")


def node_spec(lab: Lab, host: Host) -> Mapping[str, Json]:
    found = lab.store.get(f"/calico/resources/v3/projectcalico.org/nodes/{host.name}")
    assert found is not None
    spec = found[0]["spec"]
    assert isinstance(spec, dict)
    return spec


def send_wrapped(sender: Place, host: Host, inner: bytes) -> None:
    """A VXLAN packet with `inner` in it has left `sender` for the host's end of the IPv4 tunnel."""
    ethernet = bytes.fromhex(derive_mac(host.name, 4).replace(":", "")) + bytes.fromhex("020000000001") + b"\x08\0"
    head = struct.pack(">B3xI", 0x08, 4096 << 8)
    with sender.call(lambda: socket.socket(socket.AF_INET, socket.SOCK_DGRAM)) as outer:
        outer.sendto(head + ethernet + inner, (host.ipv4, 4789))


def is_decapsulated(sender: Place, host: Host, source: str, target: Workload, timeout_s: float) -> bool:
    """Whether a workload of the host gets what `sender` wraps in the name of `source`."""
    mark = os.urandom(16)
    with open_raw(target, 4, PROTOCOL) as raw:
        send_wrapped(sender, host, make_packet(source, target.ipv4, mark))
        return receive_mark(raw, mark, timeout_s)


def test_hosts_without_bgp_are_joined_and_policy_counts_across_them(lab: Lab) -> None:
    one, two, three = dwellers(lab)
    server, stranger = lab.workloads["server"], lab.workloads["stranger"]
    for host in lab.hosts:
        write_sysctls(host.namespace, {"net/ipv4/conf/all/rp_filter": "1", "net/ipv4/conf/eth0/rp_filter": "1"})
    for source, target in ((one, two), (two, one), (one, three), (three, two)):
        for address in (target.ipv4, target.ipv6):
            assert source.connect(address, TCP, timeout_s=OPEN_S).ok
            assert source.connect(address, 0, "icmp", OPEN_S).ok
    for address in (server.ipv4, server.ipv6):
        assert one.connect(address, TCP, timeout_s=OPEN_S).ok
        assert three.connect(address, TCP, timeout_s=OPEN_S).ok
        assert not stranger.connect(address, TCP, timeout_s=SHUT_S).ok
        assert not stranger.connect(address, 0, "icmp", SHUT_S).ok
    first, second, _ = lab.hosts
    assert first.connect(two.ipv4, TCP, timeout_s=OPEN_S).ok  # a host by its own address in the tunnel
    assert first.connect(two.ipv6, TCP, timeout_s=OPEN_S).ok
    for version, address in ((4, two.ipv4), (6, two.ipv6)):
        assert f"dev {DEVICES[version]}" in route_to(first, address)
    assert (vxlan_of(first)["hosts"], vxlan_of(first)["routes"]) == (4, 4)
    assert [problems(host) for host in lab.hosts] == [[], [], []]
    assert "192.168." not in lab.fabric.run(["ip", "route"]).stdout
    assert node_spec(lab, second)["vxlanTunnelMACAddr"] == derive_mac("h2", 4)
    for host in lab.hosts:
        write_sysctls(host.namespace, {"net/ipv4/conf/all/rp_filter": "0", "net/ipv4/conf/eth0/rp_filter": "0"})


def test_borrowed_address_is_reached_at_the_host_that_has_it(lab: Lab) -> None:
    first, _, third = lab.hosts
    guest = lab.add_workload(first, "guest", profiles=["open"], ipv4="192.168.2.40", ipv6="fd00:192:168::2:28")
    try:
        for workload in dwellers(lab)[1:]:
            wait_joined(workload, guest)
        assert first.ipv4 not in route_to(third, guest.ipv4)
        assert "via 192.168.1." in route_to(third, guest.ipv4)
    finally:
        lab.remove_workload("guest")
    wait_until(lambda: "via 192.168.2." in route_to(third, "192.168.2.40"), WAIT_S, "the block's own route")


def test_full_packets_pass_and_containers_are_made_to_fit(lab: Lab) -> None:
    one, two, _ = dwellers(lab)
    assert one.run(["ping", "-c1", "-W5", "-Mdo", "-s1422", two.ipv4]).returncode == 0  # with its heads 1450
    assert one.run(["ping", "-c1", "-W5", "-Mdo", "-s1382", two.ipv6]).returncode == 0  # 1430
    for address in (two.ipv4, two.ipv6):  # of interfaces that take more: the host says how much is too much
        with contextlib.closing(one.open(address, TCP)) as connection:
            connection.settimeout(WAIT_S)
            for _ in range(20):  # a few packets each: what answers has little room for what it cannot send at once
                sent = os.urandom(5000)
                connection.sendall(sent)
                received = b""
                while len(received) < len(sent):
                    received += connection.recv(65536)
                assert received == sent
    name = f"fxv-{os.getpid()}"
    create_namespaces([name])
    try:
        request = {"network": "net", "container": "fit", "netns": f"/run/netns/{name}", "ipv4": 1, "ipv6": 1}
        socket_path = str(lab.hosts[0].rundir / "felix.sock")
        answer = ask(socket_path, "POST", "/v1/attach", request, WAIT_S)
        assert isinstance(answer, dict)
        assert answer["mtu"] == 1430
        assert ask(socket_path, "POST", "/v1/check", request, WAIT_S) is not None
        ask(socket_path, "POST", "/v1/detach", {"network": "net", "container": "fit"}, WAIT_S)
    finally:
        delete_namespaces([name])


def test_restarted_agent_writes_nothing_and_loses_no_packet(lab: Lab) -> None:
    one, two, _ = dwellers(lab)
    revision = lab.store.put("/calico/mark", {})
    with stream(one, two, [two.ipv4, two.ipv6], 7001, 500.0) as passed:
        for host in lab.hosts[:2]:
            assert host.stop_agent()
            host.start_agent()
        for host in lab.hosts[:2]:
            host.wait_agent_ready()
            assert metric(host, "felix_kernel_writes") == 0
            assert vxlan_of(host)["hosts"] == 4
    assert passed.lost == 0
    nodes = lab.fabric.run(
        ["etcdctl", "get", "--prefix", "/calico/resources/v3/projectcalico.org/nodes/", "-w", "json"]
    )
    assert all(int(text.partition(",")[0].strip('"}')) < revision for text in nodes.stdout.split('"mod_revision":')[1:])


def test_mode_is_switched_while_packets_pass(lab: Lab) -> None:
    one, two, three = dwellers(lab)
    first = lab.hosts[0]
    with (
        stream(one, two, [two.ipv4, two.ipv6], 7001, 500.0) as far,
        stream(one, three, [three.ipv4, three.ipv6], 7002, 500.0) as near,
    ):
        for mode, way in (
            ("CrossSubnet", {4: "via 10.0.0.3 dev eth0", 6: "via fd00:10::3 dev eth0"}),
            ("Always", DEVICES),
        ):
            revision = set_mode(lab, mode)
            for host in lab.hosts:
                wait_revision(host, revision, WAIT_S)
            for version, (behind, beside) in {4: (two.ipv4, three.ipv4), 6: (two.ipv6, three.ipv6)}.items():
                assert way[version] in route_to(first, beside)
                assert f"dev {DEVICES[version]}" in route_to(first, behind)
            for other in (two, three):
                wait_joined(one, other)
    assert far.lost == 0
    assert near.lost <= 25  # of a thousand, should neighbours take their time to find each other
    assert [problems(host) for host in lab.hosts] == [[], [], []]


def test_tunnel_packet_of_a_stranger_is_dropped_and_counted(lab: Lab) -> None:
    first, _, third = lab.hosts
    target, pretended = lab.workloads["wh1"], lab.workloads["wh3"].ipv4
    assert is_decapsulated(third, first, pretended, target, WAIT_S)  # what follows is about its sender only
    before = dropped(first)
    assert not is_decapsulated(lab.fabric, first, pretended, target, SHUT_S)
    wait_until(lambda: dropped(first) == before + 1, WAIT_S, "the packet to be counted")
    other = dwellers(lab)[2]
    assert not is_decapsulated(other, first, pretended, target, SHUT_S)  # and what a container wraps leaves no host


def test_host_endpoints_that_deny_all_stop_no_tunnel(lab: Lab) -> None:
    one, two, three = dwellers(lab)
    first = lab.hosts[0]
    first.listen(TCP)
    assert lab.fabric.connect(first.ipv4, TCP, timeout_s=OPEN_S).ok
    closed = [
        documents.resource("HostEndpoint", f"{host.name}-all", {"node": host.name, "interfaceName": "*"})
        for host in lab.hosts[:2]
    ]
    spec: dict[str, Json] = {"selector": "has(none) || !has(none)", "types": ["Ingress", "Egress"], "order": 1}
    raw: dict[str, Json] = {"doNotTrack": True, "applyOnForward": True}
    raw |= {"ingress": [{"action": "Deny"}], "egress": [{"action": "Deny"}]}
    closed.append(documents.resource("GlobalNetworkPolicy", "default.raw", {**spec, **raw, "selector": "host == 'h2'"}))
    try:
        revision = [lab.apply(document) for document in closed][-1]
        for host in lab.hosts[:2]:
            wait_revision(host, revision, WAIT_S)
        assert not lab.fabric.connect(first.ipv4, TCP, timeout_s=SHUT_S).ok
        for source, target in ((one, two), (two, one), (three, one)):
            for address in (target.ipv4, target.ipv6):
                assert source.connect(address, TCP, timeout_s=OPEN_S).ok
    finally:
        for document in reversed(closed):
            lab.store.delete(documents.key_of(document))
    wait_until(lambda: lab.fabric.connect(first.ipv4, TCP).ok, WAIT_S, "the host to be open")
    first.close_listeners()


def test_pools_without_mode_leave_nothing_of_the_tunnel_and_with_it_all_is_back(lab: Lab) -> None:
    first = lab.hosts[0]
    set_mode(lab, "Never")
    try:
        for host in lab.hosts:
            wait_until(partial(has_no_tunnel, host), WAIT_S, f"no tunnel on {host.name}")
            wait_until(partial(tells_of_none, lab, host), WAIT_S, f"no tunnel of {host.name}")
        assert lab.store.list_prefix("/calico/ipam/v2/handle/vxlan-") == {}
        assert "vxlan" not in first.run(["nft", "list", "table", "inet", "felix"]).stdout
        assert [problems(host) for host in lab.hosts] == [[], [], []]
    finally:
        set_mode(lab, "Always")
    for one, other in itertools.permutations(dwellers(lab), 2):
        wait_joined(one, other)
    assert len(lab.store.list_prefix("/calico/ipam/v2/handle/vxlan-")) == 2 * len(lab.hosts)


def has_no_tunnel(host: Host) -> bool:
    """Whether the kernel of the host has nothing of a tunnel."""
    links = host.run(["ip", "-o", "link"]).stdout
    routes = host.run(["ip", "route"]).stdout + host.run(["ip", "-6", "route"]).stdout
    return "vxlan" not in links + routes + host.run(["bridge", "fdb"]).stdout


def tells_of_none(lab: Lab, host: Host) -> bool:
    """Whether the Node says nothing of a tunnel."""
    return not any("vxlan" in name.lower() for name in node_spec(lab, host))
