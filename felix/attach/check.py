"""What a request to attach must satisfy before anything is done for it. Pure."""

from __future__ import annotations

import operator
from collections.abc import Iterable, Mapping, Sequence
from typing import NamedTuple

from felix.attach.names import NAME, Attached, handle_name, host_interface, make_mac
from felix.attach.profiles import GROUP_LABEL
from felix.attach.types import ADDRESSES_LIMIT, AttachRequest, Code, Refusal
from felix.attach.veth import GATEWAY_V4, VethSpec, find_problem
from felix.calc.limits import read_limits
from felix.ipam.block import ENDPOINT, NODE
from felix.model.keys import ResourceKey
from felix.model.net import Net, parse_address, parse_net

LABELS_LIMIT = 256
PROFILES_LIMIT = 64
"""Groups, and profiles, of one container: those that are missing are written in one transaction with all else."""
ATTRIBUTES_LIMIT = 16
TEXT_LIMIT = 1024
PATH_LIMIT = 4095  # of the kernel, without the final zero

_LINK_LOCAL_V6 = parse_net("fe80::/10")


class Place(NamedTuple):
    """The host as names and checks need it. prefix: of workload interfaces. mtu: of containers that ask for none."""

    node: str
    prefix: str = "cali"
    has_ipv6: bool = True
    mtu: int = 0


class Wanted(NamedTuple):
    """A request that makes sense, and what follows from it. addresses: to be had. given: allocated by others.

    mtu: 0 for the kernel's own.
    """

    request: AttachRequest
    who: Attached
    handle: str
    interface: str
    mac: str
    addresses: tuple[Net, ...]
    given: tuple[Net, ...]
    mtu: int = 0

    def veth(self, mac: str, interface: str, addresses: Sequence[Net]) -> VethSpec:
        """Returns the interface that the container gets with these addresses."""
        request = self.request
        return VethSpec(
            host_end=interface,
            interface=self.who.interface,
            mac=mac,
            addresses=tuple(addresses),
            mtu=self.mtu,
            default_route=request.default_route,
            forwarding=request.forwarding,
        )


def check_attach(request: AttachRequest, place: Place, least: int = 1) -> Wanted:
    """Returns what a request asks for, `least` addresses or more. Raises Refusal when it cannot be meant."""
    who = check_who(request.orchestrator, request.container, request.interface)
    check_node(request.node, place.node)
    _check_names((("network", request.network), ("namespace", request.namespace)))
    _check_names(("profiles", name) for name in request.profiles)
    for field, texts in (("profiles", request.profiles), ("groups", request.groups or ())):
        if len(texts) > PROFILES_LIMIT:
            raise _invalid(field, str(len(texts)), f"expected at most {PROFILES_LIMIT}")
    if not request.netns and not request.pid:
        raise _invalid("netns", "", "give the path of the container's network namespace, or the pid of its process")
    if request.netns and (not request.netns.startswith("/") or len(request.netns) > PATH_LIMIT):
        raise _invalid("netns", request.netns, f"give an absolute path of at most {PATH_LIMIT} characters")
    _check_labels(request)
    for name, texts in (("groups", request.groups or ()), ("pools", request.pools)):
        for text in texts:
            if not text or len(text) > TEXT_LIMIT:
                raise _invalid(name, text, f"expected 1 to {TEXT_LIMIT} characters")
    addresses, given = _parse("addresses", request.addresses), _parse("given", request.given)
    _check_count(request, addresses, given, least)
    if not place.has_ipv6 and (request.ipv6 or any(net.version == 6 for net in (*addresses, *given))):
        raise _invalid("ipv6", str(request.ipv6), "this host has no IPv6 for workloads (Ipv6Support, or its kernel)")
    _, problems = read_limits(ResourceKey("WorkloadEndpoint", request.namespace, str(who)), request.qos_controls)
    if problems:
        first = problems[0]
        raise _invalid(first.field.removeprefix("spec."), first.value, first.reason)
    mac = request.mac.lower() or make_mac(place.node, who)
    interface = host_interface(place.prefix, request.namespace, who)
    mtu = request.mtu or place.mtu
    wanted = Wanted(request, who, handle_name(request.network, who), interface, mac, addresses, given, mtu)
    reason = find_problem(wanted.veth(mac, interface, (*addresses, *given)))
    if reason is not None:
        raise Refusal(Code.INVALID, f"the interface cannot be made: {reason}")
    return wanted


def check_who(orchestrator: str, container: str, interface: str) -> Attached:
    """Returns who is meant. Raises Refusal for what nobody can be called."""
    _check_names((("orchestrator", orchestrator), ("container", container)))
    if find_problem(VethSpec("cali0", interface)) is not None:
        raise _invalid("interface", interface, "expected the name of an interface, at most 15 characters")
    return Attached(orchestrator, container, interface)


def check_node(meant: str, node: str) -> None:
    """Raises Refusal for what is meant for another host. meant: empty for whichever it is."""
    if meant not in ("", node):
        raise _invalid("node", meant, f"this is host {node}; leave it out, or set it to the agent's FelixHostname")


def check_network(network: str) -> None:
    """Raises Refusal for what no network can be called."""
    _check_names((("network", network),))


def check_addresses(texts: Sequence[str]) -> tuple[Net, ...]:
    """Returns the addresses that the texts name. Raises Refusal."""
    return _parse("addresses", texts)


def check_handle(handle: str) -> str:
    """Returns a handle that can be one. Raises Refusal."""
    if not handle or len(handle) > TEXT_LIMIT or "/" in handle or not handle.isprintable():
        raise _invalid("handle", handle, "expected printable text without a slash")
    return handle


def check_attributes(attributes: Mapping[str, str]) -> None:
    """Raises Refusal for attributes of an allocation that only the agent may write, or that are too large to keep."""
    if len(attributes) > ATTRIBUTES_LIMIT:
        raise _invalid("attributes", str(len(attributes)), f"expected at most {ATTRIBUTES_LIMIT}")
    for key, value in attributes.items():
        if not key or len(key) > TEXT_LIMIT or len(value) > TEXT_LIMIT:
            raise _invalid("attributes", key, f"expected keys and values of at most {TEXT_LIMIT} characters")
        if key in (NODE, ENDPOINT):
            raise _invalid("attributes", key, "the agent itself says whose host and which endpoint an address is")


def _check_names(names: Iterable[tuple[str, str]]) -> None:
    for field, text in names:
        if not NAME.fullmatch(text):
            raise _invalid(field, text, "expected at most 127 of A-Z a-z 0-9 _ . -, a letter or digit first")


def _check_labels(request: AttachRequest) -> None:
    if len(request.labels) > LABELS_LIMIT:
        raise _invalid("labels", str(len(request.labels)), f"expected at most {LABELS_LIMIT}")
    for key, value in request.labels.items():
        if not key or len(key) > TEXT_LIMIT or len(value) > TEXT_LIMIT:
            raise _invalid("labels", key[:50], f"expected keys and values of at most {TEXT_LIMIT} characters")
        if key.startswith(GROUP_LABEL):
            raise _invalid("labels", key, f"labels {GROUP_LABEL}… say who is in a group; ask for the group instead")


def _check_count(request: AttachRequest, addresses: Sequence[Net], given: Sequence[Net], least: int) -> None:
    everything = [*addresses, *given]
    for net in everything:
        if net == GATEWAY_V4 or operator.contains(_LINK_LOCAL_V6, net):
            raise _invalid("addresses", net.address, "it means something on every link: the gateway, or only the link")
    if len(set(everything)) < len(everything):
        raise _invalid("addresses", ", ".join(net.address for net in everything), "one address stands there twice")
    count = len(everything) + request.ipv4 + request.ipv6
    if not least <= count <= ADDRESSES_LIMIT:
        reason = f"expected {least} to {ADDRESSES_LIMIT} addresses in all"
        raise _invalid("ipv4, ipv6, addresses, given", str(count), reason)


def _parse(field: str, texts: Sequence[str]) -> tuple[Net, ...]:
    found = []
    for text in texts:
        try:
            found.append(parse_address(text))
        except ValueError as error:
            raise _invalid(field, text, str(error)) from None
    return tuple(found)


def _invalid(field: str, value: str, reason: str) -> Refusal:
    return Refusal(Code.INVALID, f"{field}: {value[:100]!r}: {reason}")
