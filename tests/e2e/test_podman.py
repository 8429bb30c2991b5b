"""Real CNI clients, podman and containerd, with felix-cni as their network on two hosts."""

from __future__ import annotations

import os
import re
from collections.abc import Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import pytest

from felix.lab import documents
from felix.lab.host import Host
from felix.lab.lab import Lab
from felix.lab.namespace import list_namespaces
from felix.lab.place import wait_until
from felix.lab.store import Json
from tests.support.cni_clients import Containerd, Podman, Running, clients_directory, network_list
from tests.support.e2e import wait_revision

pytestmark = [pytest.mark.fv, pytest.mark.timeout(180)]

_DENY_ALL = documents.resource("GlobalNetworkPolicy", "nobody", {"selector": "all()", "types": ["Ingress", "Egress"]})


@pytest.fixture(scope="module")
def lab(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Lab]:
    """Two hosts with agents and BIRD."""
    with Lab(f"pod{os.getpid()}", tmp_path_factory.mktemp("l")) as lab:
        lab.up(hosts=2)
        for host in lab.hosts:
            host.wait_agent_ready()
        yield lab


@pytest.fixture(scope="module")
def directory() -> Iterator[Path]:
    with clients_directory() as directory:
        yield directory


@pytest.fixture(scope="module")
def clients(lab: Lab, directory: Path) -> list[Podman]:
    """podman on each host, warm: the first container of a host gets it a block of addresses."""
    clients = [Podman(host, directory, network_list(host)) for host in lab.hosts]
    for client in clients:
        client.start("warm")
        client.remove("warm")
    return clients


@pytest.fixture
def podmen(lab: Lab, clients: list[Podman]) -> Iterator[list[Podman]]:
    """podman on each host; after the test no container is left, and nothing of any."""
    before = [_survey(lab, host) for host in lab.hosts]
    try:
        yield clients
    finally:
        for client in clients:
            client.remove()
    for host, wanted in zip(lab.hosts, before, strict=True):
        _wait_survey(lab, host, wanted)


def test_containers_talk_within_a_host_and_across_until_a_policy_denies_it(lab: Lab, podmen: list[Podman]) -> None:
    first, second = podmen
    web, client, far = first.start("web"), first.start("client"), second.start("far")
    assert len({web.ipv4, client.ipv4, far.ipv4, web.ipv6, client.ipv6, far.ipv6}) == 6
    pairs = [(client, web), (far, web), (web, far)]
    for one in (web, far):
        one.listen(80)
    for source, target in pairs:
        _wait_connected(source, target)

    revision = lab.apply(_DENY_ALL)
    try:
        for host in lab.hosts:
            wait_revision(host, revision)
        for source, target in pairs:
            for address in (target.ipv4, target.ipv6):
                assert source.connect(address, 80, timeout_s=0.3).outcome == "timeout"
    finally:
        lab.store.delete(documents.key_of(_DENY_ALL))
    for source, target in pairs:
        _wait_connected(source, target)


def test_container_of_another_network_is_not_let_in(lab: Lab, podmen: list[Podman]) -> None:
    web = podmen[0].start("web")
    web.listen(80)
    stranger = lab.add_workload(lab.hosts[0], "stranger", profiles=["other"])
    try:
        assert stranger.connect(web.ipv4, 80, timeout_s=0.3).outcome == "timeout"
    finally:
        lab.remove_workload("stranger")


def test_address_and_mac_that_are_requested_are_had(lab: Lab, podmen: list[Podman]) -> None:
    wanted = str(lab.hosts[0].addresses.block_v4).replace(".0/26", ".44")
    one = podmen[0].start("one", "--ip", wanted, "--mac-address", "02:00:00:00:0f:01")

    assert (one.ipv4, one.mac) == (wanted, "02:00:00:00:0f:01")
    refused = podmen[1].run("other", "--ip", wanted)
    assert refused.returncode != 0
    assert wanted in refused.stderr


@pytest.mark.parametrize("how", ["stop", "kill"])
def test_container_that_ends_leaves_nothing_before_it_is_removed(how: str, lab: Lab, podmen: list[Podman]) -> None:
    (client, _), (host, _) = podmen, lab.hosts
    before = _survey(lab, host)
    client.start("brief")
    assert _survey(lab, host) != before

    done = client.call(*({"stop": ["stop", "--time", "0"], "kill": ["kill"]}[how]), "brief")

    assert done.returncode == 0, done.stderr
    _wait_survey(lab, host, before)


def test_containers_that_start_at_once_have_addresses_of_their_own(podmen: list[Podman]) -> None:
    names = [f"many{number}" for number in range(4)]
    with ThreadPoolExecutor(2 * len(names)) as threads:
        started = [threads.submit(podman.start, name) for podman in podmen for name in names]
        running = [one.result() for one in started]

    assert len({one.ipv4 for one in running}) == len({one.ipv6 for one in running}) == 2 * len(names)


def test_container_that_goes_while_the_agent_is_away_leaves_nothing_once_it_is_back(
    lab: Lab, podmen: list[Podman]
) -> None:
    podman, host = podmen[1], lab.hosts[1]
    before = _survey(lab, host)
    podman.start("orphan")
    host.stop_agent()
    try:
        podman.remove("orphan")
        late = podman.run("late")
    finally:
        host.start_agent(environment={"FELIX_ATTACHMENTGRACESECS": "0.5"})
        host.wait_agent_ready()

    assert late.returncode != 0
    assert "is felix running?" in late.stderr
    podman.remove("late")
    _wait_survey(lab, host, before)


def test_published_port_leads_to_the_container(lab: Lab, podmen: list[Podman]) -> None:
    rule = "OUTPUT -p tcp --dport 1 -m addrtype --dst-type LOCAL -j DNAT --to-destination 192.0.2.1:1".split()
    probe = lab.hosts[0].run(["iptables", "-t", "nat", "-A", *rule], check=False)
    if probe.returncode != 0:
        pytest.skip(f"portmap needs iptables with nat and addrtype: {probe.stderr.strip()}")
    lab.hosts[0].run(["iptables", "-t", "nat", "-D", *rule])
    web = podmen[0].start("web", "--publish", "8080:80")
    web.listen(80)
    opened: dict[str, Json] = {
        "selector": "all()",
        "types": ["Ingress"],
        "ingress": [{"action": "Allow", "protocol": "TCP", "destination": {"ports": [80]}}],
    }
    policy = documents.resource("GlobalNetworkPolicy", "published", opened)
    revision = lab.apply(policy)
    try:
        wait_revision(lab.hosts[0], revision)
        assert lab.hosts[1].connect(lab.hosts[0].ipv4, 8080).ok
        podmen[0].remove("web")
        assert not lab.hosts[1].connect(lab.hosts[0].ipv4, 8080, timeout_s=0.3).ok
    finally:
        lab.store.delete(documents.key_of(policy))


def test_containerd_attaches_and_detaches_without_a_namespace(lab: Lab, podmen: list[Podman], directory: Path) -> None:
    host = lab.hosts[0]
    web = podmen[0].start("web")
    web.listen(80)
    before = _survey(lab, host)
    containerd = Containerd(host, directory, network_list(host))
    try:
        one = containerd.start("one")
        assert one.ipv4
        assert one.ipv6
        _wait_connected(one, web)
        # ctr calls DEL with an empty CNI_NETNS, once the container's process is gone.
        containerd.stop("one")
        _wait_survey(lab, host, before)
    finally:
        containerd.close()


def _survey(lab: Lab, host: Host) -> dict[str, Sequence[str]]:
    """Returns what containers on a host could leave behind: in etcd, in its kernel, on the machine."""
    links = host.run(["ip", "-o", "link"]).stdout.splitlines()
    routes = host.run(["ip", "route"]).stdout + host.run(["ip", "-6", "route"]).stdout
    endpoints = lab.store.list_prefix("/calico/resources/v3/projectcalico.org/workloadendpoints/default/")
    blocks = lab.store.list_prefix("/calico/ipam/v2/assignment/")
    return {
        "links": [line.split(":")[1] for line in links],
        "routes": sorted(route for route in routes.splitlines() if "dev cali" in route),
        "firewall": _firewall(host),
        "endpoints": [key for key in endpoints if f"/{host.name}-" in key],
        "handles": sorted(lab.store.list_prefix("/calico/ipam/v2/handle/")),
        "addresses": [
            f"{key}: {count}"
            for key, block in sorted(blocks.items())
            if isinstance(block, dict) and (count := _count_given(block["allocations"]))
        ],
        "namespaces": list_namespaces("netns-"),
    }


def _firewall(host: Host) -> list[str]:
    """Returns the objects of the table but for cut connections, which are remembered for hours on purpose."""
    text = host.run(["nft", "--stateless", "list", "table", "inet", "felix"]).stdout
    parts = [part.rstrip("}\n\t") for part in text.split("\n\n")]  # the last one ends the table too
    return [part for part in parts if not re.search(r"^\t(?:set|chain) cut", part, re.MULTILINE)]


def _count_given(allocations: Json) -> int:
    assert isinstance(allocations, list)
    return sum(holder is not None for holder in allocations)


def _wait_survey(lab: Lab, host: Host, wanted: dict[str, Sequence[str]]) -> None:
    def is_reached() -> bool:
        return _survey(lab, host) == wanted

    try:
        wait_until(is_reached, 20.0, "nothing to be left", 0.05)
    finally:
        assert _survey(lab, host) == wanted


def _wait_connected(source: Running, target: Running) -> None:
    """Both families connect; across hosts that is so when BIRD has told of a new block."""

    def is_reached() -> bool:
        return all(source.connect(address, 80, timeout_s=0.3).ok for address in (target.ipv4, target.ipv6))

    wait_until(is_reached, 20.0, f"{source} to reach {target}", 0.05)
