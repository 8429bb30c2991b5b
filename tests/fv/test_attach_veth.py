"""Container interfaces in the real kernel: made, made again, refused, removed; with packets through them."""

from __future__ import annotations

import contextlib
import functools
import json
import os
import socket
import subprocess
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest

from felix.attach.apply import apply_veth, open_namespace, remove_veth
from felix.attach.read import read_veth
from felix.attach.veth import HOST_MAC, NoNamespace, Taken, Veth, VethSpec
from felix.errors import DataError, FelixError, KernelRefused
from felix.lab.place import wait_until
from felix.model.net import parse_net
from tests.support.netns import Namespace, private_namespace

pytestmark = pytest.mark.fv

HOST_END = "cali0123456789a"
V4, V6 = parse_net("10.1.0.7"), parse_net("fd00::7")
SPEC = VethSpec(HOST_END, "eth0", mac="02:00:00:00:00:07", addresses=(V4, V6), mtu=1400)
GATEWAY_V6 = "fe80::ecee:eeff:feee:eeee"


@pytest.fixture
def host() -> Iterator[Namespace]:
    with private_namespace("k") as namespace:
        yield namespace


@pytest.fixture
def container() -> Iterator[Namespace]:
    """As a runtime leaves it: nothing but a lo, which is down."""
    with private_namespace("k") as namespace:
        namespace.ip("link set lo down")
        yield namespace


def path_of(namespace: Namespace) -> str:
    return f"/run/netns/{namespace.name}"


def attach(host: Namespace, container: Namespace, spec: VethSpec = SPEC) -> Veth:
    def act() -> Veth:
        with open_namespace(path_of(container)) as namespace:
            return apply_veth(namespace, spec)

    return host.run(act)


def check(host: Namespace, container: Namespace, spec: VethSpec = SPEC) -> list[str]:
    def act() -> list[str]:
        with open_namespace(path_of(container)) as namespace:
            return read_veth(namespace, spec)

    return host.run(act)


def detach(host: Namespace, host_end: str = HOST_END) -> bool:
    return host.run(lambda: remove_veth(host_end))


def links(namespace: Namespace) -> dict[str, dict[str, Any]]:
    return {link["ifname"]: link for link in json.loads(namespace.ip("-j -d link show"))}


def routes(namespace: Namespace, family: str = "-4") -> set[str]:
    lines = namespace.ip(f"{family} route show").splitlines()
    return {" ".join(line.replace(" pref medium", "").split()) for line in lines if "proto kernel" not in line}


def addresses(namespace: Namespace, interface: str = "eth0") -> list[str]:
    (link,) = json.loads(namespace.ip(f"-j addr show dev {interface} scope global"))
    return [f"{one['local']}/{one['prefixlen']}" for one in link["addr_info"] if "local" in one]


def exchange(host: Namespace, container: Namespace, host_address: str, container_address: str) -> bytes:
    """A datagram goes from the container to the host and is answered; returns the answer."""
    family = socket.AF_INET6 if ":" in host_address else socket.AF_INET

    def open_socket() -> socket.socket:
        return socket.socket(family, socket.SOCK_DGRAM)

    with host.run(open_socket) as server, container.run(open_socket) as client:
        server.settimeout(5)
        client.settimeout(5)
        server.bind((host_address, 0))
        client.sendto(b"question", server.getsockname()[:2])
        question, client_name = server.recvfrom(100)
        assert question == b"question"
        assert client_name[0] == container_address
        server.sendto(b"answer", client_name)
        return client.recv(100)


def test_new_interface_has_all_of_its_spec_and_both_ends_are_up(host: Namespace, container: Namespace) -> None:
    veth = attach(host, container)
    inside, outside = links(container), links(host)
    assert veth == Veth(outside[HOST_END]["ifindex"], inside["eth0"]["ifindex"], "02:00:00:00:00:07", 1400, True)
    assert (outside[HOST_END]["address"], outside[HOST_END]["mtu"]) == (HOST_MAC, 1400)
    assert set(outside) == {"lo", HOST_END}
    assert all("UP" in link["flags"] for link in (inside["lo"], inside["eth0"], outside[HOST_END]))
    assert addresses(container) == ["10.1.0.7/32", "fd00::7/128"]
    assert "tentative" not in container.ip("addr show")
    assert routes(container) == {"169.254.1.1 dev eth0 scope link", "default via 169.254.1.1 dev eth0 onlink"}
    assert routes(container, "-6") == {f"default via {GATEWAY_V6} dev eth0 metric 1024"}
    neighbours = {(one["dst"], one["lladdr"]) for one in json.loads(container.ip("-j neigh show nud permanent"))}
    assert neighbours == {("169.254.1.1", HOST_MAC), (GATEWAY_V6, HOST_MAC)}
    assert check(host, container) == []


@pytest.mark.parametrize("disabled", ["0", "1"])
def test_packets_pass_at_once_in_both_families_even_where_ipv6_was_off(
    host: Namespace, container: Namespace, disabled: str
) -> None:
    container.write_sysctl("net/ipv6/conf/all/disable_ipv6", disabled)
    host.ip("addr add 10.0.0.1/32 dev lo")
    host.ip("addr add fd00::1/128 dev lo")
    attach(host, container)
    host.ip(f"route add 10.1.0.7 dev {HOST_END}")
    host.ip(f"route add fd00::7 dev {HOST_END}")
    assert exchange(host, container, "10.0.0.1", "10.1.0.7") == b"answer"
    assert exchange(host, container, "fd00::1", "fd00::7") == b"answer"
    assert "inet6 ::1/128" in container.ip("addr show dev lo")


def test_ipv6_that_the_runtime_switched_off_stays_off_without_an_ipv6_address(
    host: Namespace, container: Namespace
) -> None:
    container.write_sysctl("net/ipv6/conf/all/disable_ipv6", "1")
    spec = replace(SPEC, addresses=(V4,))
    attach(host, container, spec)
    assert "inet6" not in container.ip("addr show")
    assert check(host, container, spec) == []


def test_host_end_has_its_link_local_address_where_the_host_makes_others(host: Namespace, container: Namespace) -> None:
    host.write_sysctl("net/ipv6/conf/default/addr_gen_mode", "3")
    host.write_sysctl("net/ipv6/conf/default/disable_ipv6", "1")
    attach(host, container)
    with container.run(lambda: socket.socket(socket.AF_INET6, socket.SOCK_DGRAM)) as client:
        client.connect((GATEWAY_V6, 9, 0, links(container)["eth0"]["ifindex"]))
    assert f"inet6 {GATEWAY_V6}/64" in host.ip(f"addr show dev {HOST_END}")


@pytest.mark.parametrize("forwarding", [False, True])
def test_container_forwards_only_when_asked_whatever_it_inherited(
    host: Namespace, container: Namespace, forwarding: bool
) -> None:
    switches = ("net/ipv4/ip_forward", "net/ipv6/conf/all/forwarding")
    for path in switches:
        container.write_sysctl(path, str(int(not forwarding)))
    spec = replace(SPEC, forwarding=forwarding)
    attach(host, container, spec)
    assert [container.read_sysctl(path) for path in switches] == [str(int(forwarding))] * 2
    assert check(host, container, spec) == []


def test_interface_without_default_route_still_knows_its_gateways(host: Namespace, container: Namespace) -> None:
    spec = replace(SPEC, default_route=False)
    attach(host, container, spec)
    assert routes(container) == {"169.254.1.1 dev eth0 scope link"}
    assert routes(container, "-6") == set()
    assert check(host, container, spec) == []
    container.ip("route add 10.9.0.0/16 via 169.254.1.1")


def test_interface_without_addresses_has_no_routes_and_the_kernels_mac(host: Namespace, container: Namespace) -> None:
    spec = replace(SPEC, addresses=(), mac="", mtu=0)
    veth = attach(host, container, spec)
    assert (veth.mac, veth.mtu) == (links(container)["eth0"]["address"], 1500)
    assert routes(container) == routes(container, "-6") == set()
    assert check(host, container, spec) == []


def test_second_interface_stands_behind_the_default_route_of_the_first(host: Namespace, container: Namespace) -> None:
    second = VethSpec("calisecond", "eth1", addresses=(parse_net("10.2.0.7"), parse_net("fd02::7")))
    attach(host, container)
    for _ in range(2):
        attach(host, container, second)
        assert routes(container) >= {"default via 169.254.1.1 dev eth0 onlink", "169.254.1.1 dev eth0 scope link"}
        assert len(routes(container)) == 4
        assert len(routes(container, "-6")) == 2
        assert "dev eth0" in container.ip("route get 10.9.9.9")
        assert "dev eth1" in container.ip("route get 10.9.9.9 oif eth1")
        assert "dev eth1" in container.ip("route get fd99::9 oif eth1")
        assert check(host, container) == check(host, container, second) == []


TAMPERINGS = [
    ("in", "addr del 10.1.0.7/32 dev eth0", "address 10.1.0.7/32 is missing on eth0"),
    ("in", "addr del fd00::7/128 dev eth0", "address fd00::7/128 is missing on eth0"),
    ("in", "route del default", "default route via 169.254.1.1 is missing on eth0"),
    ("in", "-6 route del default", f"default route via {GATEWAY_V6} is missing on eth0"),
    ("in", "neigh del 169.254.1.1 dev eth0", "permanent neighbour 169.254.1.1 is missing on eth0"),
    ("in", f"neigh del {GATEWAY_V6} dev eth0", f"permanent neighbour {GATEWAY_V6} is missing on eth0"),
    (
        "in",
        "neigh replace 169.254.1.1 dev eth0 lladdr 02:00:00:00:00:99",
        f"neighbour 169.254.1.1 on eth0 is 02:00:00:00:00:99, not {HOST_MAC}",
    ),
    ("in", "link set eth0 address 02:00:00:00:00:99", "mac of eth0 is 02:00:00:00:00:99, not 02:00:00:00:00:07"),
    ("in", "link set eth0 mtu 1300", "mtu of eth0 is 1300, not 1400"),
    ("in", "link set lo down", "lo is down in network namespace"),
    ("in", "link set eth0 down", "interface eth0 is down"),
    ("out", f"link set {HOST_END} down", f"interface {HOST_END} is down"),
    ("out", f"link set {HOST_END} address 02:00:00:00:00:99", f"mac of {HOST_END} is 02:00:00:00:00:99, not"),
    ("out", f"link set {HOST_END} mtu 1300", f"mtu of {HOST_END} is 1300, not 1400"),
]


def test_whatever_is_taken_away_is_named_and_the_next_attach_restores_it(host: Namespace, container: Namespace) -> None:
    veth = attach(host, container)
    for place, command, difference in TAMPERINGS:
        (container if place == "in" else host).ip(command)
        found = check(host, container)
        assert any(one.startswith(difference) for one in found), f"{command}: {found}"
        assert attach(host, container) == replace(veth, is_new=False), command
        assert check(host, container) == [], command


def test_half_made_interface_of_an_agent_that_was_killed_is_completed(host: Namespace, container: Namespace) -> None:
    host.ip(f"link add {HOST_END} type veth peer name eth0 netns {container.name}")
    assert not attach(host, container).is_new
    assert check(host, container) == []
    host.ip("link add filler type bridge")  # numbers of the two ends differ from here on
    assert detach(host)
    host.ip(f"link add {HOST_END} type veth peer name eth0 netns {container.name}")
    assert not attach(host, container).is_new
    assert check(host, container) == []


def test_interfaces_of_one_container_made_at_the_same_time_are_all_whole(host: Namespace, container: Namespace) -> None:
    specs = [
        VethSpec(f"calimany{n}", f"net{n}", addresses=(parse_net(f"10.3.0.{n}"), parse_net(f"fd03::{n}")))
        for n in range(1, 9)
    ]
    with ThreadPoolExecutor(len(specs)) as pool:
        veths = list(pool.map(lambda spec: attach(host, container, spec), specs))
    assert all(veth.is_new for veth in veths)
    assert [check(host, container, spec) for spec in specs] == [[]] * len(specs)


def test_addresses_of_an_earlier_attempt_go_when_the_same_interface_gets_others(
    host: Namespace, container: Namespace
) -> None:
    attach(host, container)
    attach(host, container, replace(SPEC, addresses=(parse_net("10.1.0.8"),)))
    assert addresses(container) == ["10.1.0.8/32"]


def test_what_chained_plug_ins_add_is_no_difference(host: Namespace, container: Namespace) -> None:
    attach(host, container)
    container.ip("addr add 192.0.2.1/24 dev eth0")
    container.ip("route add 10.9.0.0/16 via 169.254.1.1")
    container.ip("neigh add 192.0.2.9 lladdr 02:00:00:00:00:99 dev eth0")
    container.ip("link add name br0 type bridge")
    container.write_sysctl("net/ipv4/ip_forward", "1")
    assert check(host, container) == []


def test_check_names_ends_that_are_missing_or_belong_to_others(host: Namespace, container: Namespace) -> None:
    name = path_of(container)
    missing = [f"lo is down in network namespace {name}", f"interface eth0 is missing in network namespace {name}"]
    assert check(host, container) == [f"interface {HOST_END} is missing on the host", *missing]
    attach(host, container, replace(SPEC, host_end="caliother"))
    host.ip(f"link add {HOST_END} address {HOST_MAC} mtu 1400 up type veth peer name other")
    assert check(host, container) == [f"interface eth0 is not the other end of {HOST_END}"]


def test_interface_of_others_inside_is_taken_and_stays(host: Namespace, container: Namespace) -> None:
    container.ip("link add eth0 type bridge")
    with pytest.raises(Taken, match=rf"eth0 exists already in network namespace {path_of(container)}: bridge eth0"):
        attach(host, container)
    assert set(links(host)) == {"lo"}
    assert links(container)["eth0"]["linkinfo"]["info_kind"] == "bridge"


def test_veth_of_another_network_inside_is_taken_and_a_leftover_host_end_stays_too(
    host: Namespace, container: Namespace
) -> None:
    attach(host, container, replace(SPEC, host_end="caliother"))
    host.ip(f"link add {HOST_END} type veth peer name other")
    with pytest.raises(Taken, match=f"whose other end is not {HOST_END}"):
        attach(host, container)
    assert {"caliother", HOST_END} <= set(links(host))
    assert check(host, container, replace(SPEC, host_end="caliother")) == []


def test_host_end_that_leads_to_an_earlier_namespace_is_replaced(host: Namespace, container: Namespace) -> None:
    with private_namespace("k") as earlier:
        attach(host, earlier)
        assert attach(host, container).is_new
        assert "eth0" not in links(earlier)
    assert check(host, container) == []


def test_host_end_whose_namespace_has_no_name_any_more_is_replaced(host: Namespace, container: Namespace) -> None:
    with private_namespace("k") as earlier:
        held = host.run(lambda: open_namespace(path_of(earlier)))
        attach(host, earlier)
    with held:
        assert HOST_END in links(host)
        assert attach(host, container).is_new
    assert check(host, container) == []


def test_host_end_whose_peer_was_renamed_is_replaced(host: Namespace, container: Namespace) -> None:
    attach(host, container)
    container.ip("link set eth0 down")
    container.ip("link set eth0 name eth7")
    assert attach(host, container).is_new
    assert set(links(container)) == {"lo", "eth0"}


def test_interface_on_the_host_that_is_no_veth_is_never_touched(host: Namespace, container: Namespace) -> None:
    host.ip(f"link add {HOST_END} type bridge")
    for act in (lambda: attach(host, container), lambda: detach(host)):
        with pytest.raises(Taken, match=f"interface {HOST_END} is bridge"):
            act()
    assert HOST_END in links(host)
    assert set(links(container)) == {"lo"}


def test_alternative_name_of_another_interface_is_taken(host: Namespace, container: Namespace) -> None:
    host.ip("link add other type veth peer name peer")
    host.ip(f"link property add dev other altname {HOST_END}")
    with pytest.raises(Taken, match="veth other"):
        attach(host, container)
    assert "other" in links(host)


def test_failure_in_the_middle_leaves_no_interface(host: Namespace, container: Namespace) -> None:
    with pytest.raises(KernelRefused, match=r"eth0 in network namespace .*: setting address ff02::5/128: "):
        attach(host, container, replace(SPEC, addresses=(V4, parse_net("ff02::5"))))
    assert set(links(host)) == set(links(container)) == {"lo"}
    assert not detach(host)
    assert attach(host, container).is_new


def test_failure_on_an_interface_that_was_there_leaves_it(host: Namespace, container: Namespace) -> None:
    attach(host, container)
    with pytest.raises(KernelRefused):
        attach(host, container, replace(SPEC, addresses=(V4, V6, parse_net("ff02::5"))))
    assert check(host, container) == []


def test_spec_that_cannot_be_made_is_refused_before_anything_is(host: Namespace, container: Namespace) -> None:
    with pytest.raises(DataError, match=r"interface of .*: mtu: 3"):
        attach(host, container, replace(SPEC, mtu=3))
    assert set(links(host)) == {"lo"}


def test_removal_takes_both_ends_and_may_be_repeated(host: Namespace, container: Namespace) -> None:
    attach(host, container)
    assert [detach(host) for _ in range(3)] == [True, False, False]
    assert set(links(host)) == set(links(container)) == {"lo"}
    assert not detach(host, "no such interface at all")


def test_namespace_of_a_process_is_found_until_it_ends(host: Namespace, container: Namespace) -> None:
    with subprocess.Popen(
        ["ip", "netns", "exec", container.name, "sh", "-c", "echo; exec cat"], stdin=-1, stdout=-1
    ) as process:
        assert process.stdout is not None
        process.stdout.readline()  # it is inside now

        def act() -> Veth:
            with open_namespace("", process.pid) as namespace:
                assert namespace.inode == os.stat(path_of(container)).st_ino
                return apply_veth(namespace, SPEC)

        assert host.run(act).is_new
        process.kill()
    with pytest.raises(NoNamespace, match=f"process {process.pid} does not exist"):
        open_namespace("", process.pid)


def test_namespace_whose_path_vanishes_stays_usable_while_it_is_held(host: Namespace) -> None:
    with private_namespace("k") as container:
        held = host.run(lambda: open_namespace(path_of(container)))
    with held:
        assert not Path(held.name).exists()
        assert host.run(lambda: apply_veth(held, SPEC)).is_new
        assert host.run(lambda: read_veth(held, SPEC)) == []
    held.close()


def test_what_is_no_namespace_is_refused_with_its_reason(host: Namespace, tmp_path: Path) -> None:
    plain, pipe = tmp_path / "plain", tmp_path / "pipe"
    plain.touch()
    os.mkfifo(pipe)
    cases: list[tuple[str, int, str]] = [
        ("", 0, "no network namespace given"),
        ("", -1, "no network namespace given"),
        ("/run/netns/fxk-none", 0, "fxk-none does not exist"),
        (str(plain), 0, "is a file, but no namespace"),
        (str(plain / "x"), 0, "cannot be opened"),
        (str(pipe), 0, "another kind of file"),
        (str(tmp_path), 0, "another kind of file"),
        ("/dev/null", 0, "another kind of file"),
        ("/proc/self/ns/mnt", 0, "not of the network"),
        ("a\0b", 0, "cannot be a path"),
        ("x" * 5000, 0, "cannot be opened"),
        (path_of(host), 0, "the host's own network namespace"),
    ]
    before = count_descriptors()
    for path, pid, reason in cases:
        with pytest.raises(NoNamespace, match=reason):
            host.run(functools.partial(open_namespace, path, pid))
    assert count_descriptors() == before


def count_descriptors() -> int:
    return len(os.listdir("/proc/self/fd"))


def thread_namespaces() -> list[int]:
    """Returns the namespace of each thread; one that was joined is seen for a moment more, or has none already."""
    found = []
    for task in os.listdir("/proc/self/task"):
        with contextlib.suppress(OSError):
            found.append(os.stat(f"/proc/self/task/{task}/ns/net").st_ino)
    return found


def test_two_hundred_cycles_leak_no_descriptor_and_no_thread(host: Namespace, container: Namespace) -> None:
    refused = replace(SPEC, addresses=(parse_net("ff02::5"),))
    inside = os.stat(path_of(container)).st_ino

    def cycle(number: int) -> None:
        with open_namespace(path_of(container)) as namespace:
            assert apply_veth(namespace, SPEC).is_new
            assert not apply_veth(namespace, SPEC).is_new
            if number % 20 == 0:
                assert read_veth(namespace, SPEC) == []
        assert remove_veth(HOST_END)
        if number % 20 == 0:
            with open_namespace(path_of(container)) as namespace, pytest.raises(FelixError):
                apply_veth(namespace, refused)

    def act() -> None:
        cycle(0)  # loads what is loaded once
        wait_until(lambda: inside not in thread_namespaces(), 20.0, "threads to end")
        before = count_descriptors(), len(thread_namespaces())
        for number in range(200):
            cycle(number)

        def has_no_more() -> bool:
            threads = thread_namespaces()
            return inside not in threads and len(threads) <= before[1] and count_descriptors() <= before[0]

        wait_until(has_no_more, 20.0, "nothing to be left of it")

    host.run(act)
