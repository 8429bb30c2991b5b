"""The least that the same result could cost: the store alone, the kernel alone, and the tools everybody has."""

from __future__ import annotations

import asyncio
import socket
import subprocess
import time
from collections.abc import Iterable, Sequence
from ipaddress import IPv4Address
from typing import NamedTuple

import nftables

from felix.dataplane.netlink.apply import NetlinkSocket
from felix.dataplane.netlink.message import NETLINK_NETFILTER, NETLINK_ROUTE
from felix.dataplane.nft.base import CLAIMED, FROM_WORKLOAD, SOURCES4, TO_WORKLOAD
from felix.dataplane.nft.elements import name_key, pack_changes
from felix.dataplane.nft.render import render_deleted, render_table
from felix.dataplane.nft.types import Element, ElementShape, SetChange
from felix.dataplane.routes.render import render_operation
from felix.dataplane.routes.types import (
    RTN_UNICAST,
    SCOPE_LINK,
    RouteConfig,
    RouteKey,
    RouteOperation,
    RouteValue,
    Verb,
)
from felix.datastore.etcd import EtcdClient
from felix.model.net import parse_net
from tests.bench.world import Endpoint

_WATCHED = "/bench/"


class State(NamedTuple):
    """What an agent made, as text for `nft -f` and `ip -batch`."""

    nft: str
    routes: str


async def time_store(client: EtcdClient, value: bytes, rounds: int) -> list[float]:
    """Returns seconds from before a put to the arrival of its event at another watch; nothing else happens."""
    latencies: list[float] = []
    start = await client.put(f"{_WATCHED}first", b"")
    async with client.watch(_WATCHED, "/bench0", start) as stream:
        await stream.read(5.0)
        for number in range(rounds):
            began_at = time.perf_counter()
            put = asyncio.create_task(client.put(f"{_WATCHED}{number}", value))
            await stream.read(5.0)
            latencies.append(time.perf_counter() - began_at)
            await put
            await asyncio.sleep(0.02)
    await client.delete_prefix(_WATCHED)
    return latencies


def time_kernel(endpoints: Sequence[Endpoint], chains: tuple[str, str], pause_s: float) -> list[float]:
    """Returns seconds for the elements and the route of each endpoint, one batch and one message, both answered.

    pause_s: before each, since a machine that has just done the same does it in half the time.

    chains: where packets from and to the endpoint are led; they exist. Everything is removed again, untimed.
    """
    latencies = []
    nft, route = NetlinkSocket(NETLINK_NETFILTER), NetlinkSocket(NETLINK_ROUTE)
    for endpoint in endpoints:
        changes = _changes(endpoint, chains)
        operation = _route(endpoint)
        time.sleep(pause_s)
        began_at = time.perf_counter()
        _check(nft.transact(pack_changes(changes)[0]))
        _check(route.transact([render_operation(RouteConfig(), operation)]))
        latencies.append(time.perf_counter() - began_at)
        _check(nft.transact(pack_changes([_reverse(change) for change in changes])[0]))
        _check(route.transact([render_operation(RouteConfig(), operation._replace(verb=Verb.DELETE))]))
    nft.close()
    route.close()
    return latencies


def time_element(set_: str, addresses: Sequence[str]) -> list[float]:
    """Returns seconds for one address into one set as a batch of its own, answered; removed again, untimed."""
    latencies = []
    nft = NetlinkSocket(NETLINK_NETFILTER)
    for address in addresses:
        change = SetChange(set_, ElementShape.IPV4, (), (Element(IPv4Address(address).packed),))
        began_at = time.perf_counter()
        _check(nft.transact(pack_changes([change])[0]))
        latencies.append(time.perf_counter() - began_at)
        _check(nft.transact(pack_changes([_reverse(change)])[0]))
    nft.close()
    return latencies


def time_chains(state: State, chains: Sequence[str], rounds: int) -> list[float]:
    """Returns seconds for libnftables, in process, to write chains with the rules of `chains`, in one transaction.

    The new chains have other names, stand beside those, and are gone afterwards.
    """
    tool = nftables.Nftables()
    copies = [(f"bench-{number}", _rules_of(state, chain)) for number, chain in enumerate(chains)]
    text = render_table((), copies)
    names = [name for name, _ in copies]
    latencies = []
    for _ in range(rounds):
        began_at = time.perf_counter()
        code, _, error = tool.cmd(text)
        latencies.append(time.perf_counter() - began_at)
        assert code == 0, error
        tool.cmd(render_deleted(names, ()))
    return latencies


def _rules_of(state: State, chain: str) -> tuple[str, ...]:
    body = state.nft.partition(f"\tchain {chain} {{\n")[2].partition("\n\t}")[0]
    return tuple(line.strip() for line in body.splitlines())


def time_tools(endpoints: Sequence[Endpoint], chains: tuple[str, str]) -> list[float]:
    """Returns seconds for the same as `time_kernel` done by the programs `nft -f` and `ip route`."""
    outgoing, incoming = chains
    latencies = []
    for endpoint in endpoints:
        lines = [
            f'{CLAIMED} {{ "{endpoint.interface}" }}',
            f'{FROM_WORKLOAD} {{ "{endpoint.interface}" : goto {outgoing} }}',
            f'{TO_WORKLOAD} {{ "{endpoint.interface}" : goto {incoming} }}',
            f'{SOURCES4} {{ "{endpoint.interface}" . {endpoint.address} }}',
        ]
        route = ["ip", "route", "replace", f"{endpoint.address}/32", "dev", endpoint.interface, "proto", "80"]
        added = "".join(f"add element inet felix {line}\n" for line in lines)
        began_at = time.perf_counter()
        _execute(["nft", "-f", "-"], added)
        _execute(route)
        latencies.append(time.perf_counter() - began_at)
        _execute(["nft", "-f", "-"], added.replace("add element", "delete element"))
        _execute(["ip", "route", "del", *route[3:]])
    return latencies


def time_element_tool(set_: str, addresses: Sequence[str]) -> list[float]:
    """Returns seconds for one address into one set by the program `nft -f`; removed again, untimed."""
    latencies = []
    for address in addresses:
        line = f"element inet felix {set_} {{ {address} }}\n"
        began_at = time.perf_counter()
        _execute(["nft", "-f", "-"], f"add {line}")
        latencies.append(time.perf_counter() - began_at)
        _execute(["nft", "-f", "-"], f"delete {line}")
    return latencies


def read_state() -> State:
    """Returns what is in the kernel of this namespace now."""
    lines = _execute(["ip", "route", "show", "proto", "80"]).splitlines()
    return State(
        _execute(["nft", "list", "table", "inet", "felix"]), "".join(f"route add {line} proto 80\n" for line in lines)
    )


def time_load(state: State) -> float:
    """Returns seconds for `nft -f` and `ip -batch` to make `state`; nothing of it may be there before."""
    began_at = time.perf_counter()
    _execute(["nft", "-f", "-"], state.nft)
    _execute(["ip", "-batch", "-"], state.routes)
    return time.perf_counter() - began_at


def find_chains(state: State, interface: str) -> tuple[str, str]:
    """Returns the chains to which packets from and to `interface` are led."""
    found = {}
    for name in (FROM_WORKLOAD, TO_WORKLOAD):
        body = state.nft.partition(f"map {name} {{")[2]
        found[name] = body.partition(f'"{interface}" : goto ')[2].split(",")[0].split()[0]
    return found[FROM_WORKLOAD], found[TO_WORKLOAD]


def packed(address: str) -> bytes:
    """Returns an IPv4 address as the kernel has it."""
    return IPv4Address(address).packed


def _changes(endpoint: Endpoint, chains: tuple[str, str]) -> list[SetChange]:
    outgoing, incoming = chains
    name = name_key(endpoint.interface)
    source = name + IPv4Address(endpoint.address).packed
    return [
        SetChange(CLAIMED, ElementShape.NAME, (), (Element(name),)),
        SetChange(FROM_WORKLOAD, ElementShape.NAME_CHAIN, (), (Element(name, outgoing),)),
        SetChange(TO_WORKLOAD, ElementShape.NAME_CHAIN, (), (Element(name, incoming),)),
        SetChange(SOURCES4, ElementShape.NAME_IPV4, (), (Element(source),)),
    ]


def _route(endpoint: Endpoint) -> RouteOperation:
    index = socket.if_nametoindex(endpoint.interface)
    net = parse_net(f"{endpoint.address}/32")
    return RouteOperation(Verb.REPLACE, RouteKey(net, 0), RouteValue(RTN_UNICAST, SCOPE_LINK, index))


def _reverse(change: SetChange) -> SetChange:
    return SetChange(change.set, change.shape, change.added, change.removed)


def _check(answers: Iterable[int | None]) -> None:
    refused = [answer for answer in answers if answer]
    assert not refused, f"the kernel refused: {refused}"


def _execute(command: Sequence[str], text: str = "") -> str:
    done = subprocess.run(command, input=text, capture_output=True, text=True, check=False)
    assert done.returncode == 0, f"{' '.join(command)}: {done.stderr.strip()[:500]}"
    return done.stdout
