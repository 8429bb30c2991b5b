"""Builds everything that attaches containers, from what the agent has. Shell."""

from __future__ import annotations

import contextlib
import socket
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from urllib.parse import urlsplit

from felix.attach.check import Place
from felix.attach.driver import AttachService, Kernel
from felix.attach.etcd import EndpointStore
from felix.attach.index import AttachmentIndex
from felix.attach.lease import AddressLeases
from felix.attach.serve import AttachRoutes
from felix.attach.sweep import Cleaner
from felix.attach.veth import MTU_LEAST_IPV6
from felix.attach.watch import EnforcementWatch, Gate, Look
from felix.config.table import Settings
from felix.ipam.read import Store
from felix.model.net import Net, parse_address, parse_net


@dataclass(frozen=True, slots=True)
class AttachPorts:
    """What the agent answers and is told; all must be quick.

    find_obstacle: why nothing may be begun, empty when it may. look: how an endpoint stands. has_interface: whether
    the host has it. on_done: milliseconds of an attach, by step. on_refusal: the code of a request that was refused.
    """

    find_obstacle: Callable[[], str]
    look: Look
    has_interface: Callable[[str], bool]
    on_done: Callable[[Mapping[str, float]], None] = lambda _: None
    on_refusal: Callable[[str], None] = lambda _: None


class AttachParts:
    """The parts. Until `configure` says otherwise they work with defaults; the gate is closed until then anyway."""

    def __init__(
        self, node: str, store: Store, index: AttachmentIndex, ports: AttachPorts, kernel: Kernel | None = None
    ) -> None:
        self.enforcement = EnforcementWatch(ports.look)
        self.endpoints = EndpointStore(store, node, index)
        self.service = AttachService(
            Place(node),
            self.endpoints,
            index,
            gate=Gate(ports.find_obstacle),
            enforcement=self.enforcement,
            kernel=kernel,
            on_done=ports.on_done,
        )
        self.leases = AddressLeases(store, self.endpoints.allocator, node, index.find_address, self.service.debts)
        self.cleaner = Cleaner(self.service, self.leases, ports.has_interface, 0.0)
        self.routes = AttachRoutes(self.service, self.leases, self.cleaner, ports.on_refusal)

    def set_mtu(self, mtu: int) -> None:
        """Containers that ask for no MTU get this one from now on, but no less than IPv6 needs; 0: the kernel's own."""
        mtu = max(mtu, MTU_LEAST_IPV6) if mtu else 0
        if self.service.place.mtu != mtu:
            self.service.place = self.service.place._replace(mtu=mtu)

    def configure(self, settings: Settings, *, has_ipv6: bool) -> None:
        """The settings are in force."""
        prefix = min(settings.interface_prefixes, key=len)
        self.service.place = Place(settings.felix_hostname, prefix, has_ipv6, self.service.place.mtu)
        self.endpoints.own_addresses = find_own_addresses(settings.etcd_urls)
        self.endpoints.host_nets = tuple(parse_net(text) for text in settings.host_profile_nets)
        self.cleaner.grace_s = settings.attachment_grace_s


def find_own_addresses(urls: Sequence[str]) -> tuple[Net, ...]:
    """Returns the addresses of this host from which it reaches these places; names are not asked for."""
    found: dict[Net, None] = {}
    for url in urls:
        parts = urlsplit(url)
        with contextlib.suppress(ValueError, OSError):
            target = parse_address(parts.hostname or "")
            family = socket.AF_INET if target.version == 4 else socket.AF_INET6
            with socket.socket(family, socket.SOCK_DGRAM) as probe:  # which sends nothing
                probe.connect((target.address, parts.port or 1))
                found[parse_address(probe.getsockname()[0])] = None
    return tuple(found)
