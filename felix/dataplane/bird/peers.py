"""Which BGP sessions this host has: the mesh, BGPPeers that name it, select it, or are meant for all. Pure."""

from __future__ import annotations

import math
import re
from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass, replace
from typing import NamedTuple

from felix.calc.bgp import BgpInputs
from felix.dataplane.bird.render import is_quotable
from felix.dataplane.bird.types import BirdOptions, Secret, Session
from felix.errors import Problem, shorten
from felix.model.bgp import BGPConfigurationSpec, BGPPeerSpec
from felix.model.keys import ResourceKey
from felix.model.net import Net, parse_address
from felix.model.records import BGPPeer, Node
from felix.selector.parse import SelectorError, parse

DEFAULT_AS = 64512
DEFAULT_PORT = 179
_MESH_KEY = ResourceKey("BGPConfiguration", "", "default")
_DURATION = re.compile(r"(?:[0-9]+(?:\.[0-9]+)?(?:h|m|s|ms|us|µs|ns))+")
_DURATION_PART = re.compile(r"([0-9]+(?:\.[0-9]+)?)([a-zµ]+)")
_UNIT_S = {"h": 3600.0, "m": 60.0, "s": 1.0, "ms": 1e-3, "us": 1e-6, "µs": 1e-6, "ns": 1e-9}


class HostBgp(NamedTuple):
    """What BGP needs to know of one host: addresses (empty for none), AS number, port, cluster id (empty for none)."""

    name: str
    address_by_version: Mapping[int, str]
    as_number: int
    port: int
    cluster_id: str
    labels: Mapping[str, str]


class Target(NamedTuple):
    """The other end of a session. `host` is None when it is no host of ours."""

    address: Net
    port: int
    as_number: int
    host: HostBgp | None


@dataclass(frozen=True, slots=True)
class Sessions:
    """All sessions of this host by name, gateways of peers that need one, and what could not be used."""

    sessions: tuple[Session, ...]
    reachable: tuple[tuple[Net, Net], ...]
    problems: tuple[Problem, ...]


def build_sessions(inputs: BgpInputs, options: BirdOptions) -> Sessions:
    """Returns the sessions of this host, explicit peers before selected ones before the mesh, one per neighbour."""
    spec = global_spec(inputs)
    problems: list[Problem] = []
    host_by_name = {
        name: host for name, node in sorted(inputs.nodes.items()) if (host := _build_host(inputs, name, node, problems))
    }
    local = host_by_name.get(inputs.hostname)
    if local is None:
        key = ResourceKey("Node", "", inputs.hostname)
        missing = Problem(str(key), "spec.bgp", "", "this host has no BGP address, so it speaks with nobody")
        return Sessions((), (), (*problems, missing))
    builder = _Builder(inputs, options, local, host_by_name)
    for name, peer in sorted(inputs.peers.items(), key=_explicit_first):
        builder.add_peer(name, peer)
    if spec is None or spec.node_to_node_mesh_enabled is not False:
        builder.add_mesh(spec)
    return Sessions(
        tuple(sorted(builder.session_by_neighbor.values(), key=lambda session: session.name)),
        tuple(sorted(builder.reachable)),
        (*problems, *builder.problems),
    )


def global_spec(inputs: BgpInputs) -> BGPConfigurationSpec | None:
    """Returns what BGPConfiguration `default` says, None when there is none."""
    found = inputs.configurations.get("default")
    return found.spec if found else None


def host_spec(inputs: BgpInputs, host: str) -> BGPConfigurationSpec | None:
    """Returns what BGPConfiguration `node.<host>` says, None when there is none."""
    found = inputs.configurations.get(f"node.{host}")
    return found.spec if found else None


def host_address(inputs: BgpInputs, host: str, version: int) -> str:
    """Returns the host's own address of that family, empty when it has none or it is unreadable."""
    node = inputs.nodes.get(host)
    if node is None or node.spec.bgp is None:
        return ""
    text = node.spec.bgp.ipv4_address if version == 4 else node.spec.bgp.ipv6_address
    try:
        address = parse_address(text.partition("/")[0]) if text else None
    except ValueError:
        return ""
    return address.address if address and address.version == version else ""


def parse_duration_s(text: str) -> int:
    """Returns the whole seconds, rounded up, of a duration such as `120s` or `1h30m`; raises ValueError."""
    if text in {"", "0"}:
        return 0
    if not _DURATION.fullmatch(text):
        raise ValueError(f"duration {shorten(text)!r} is not of the form 1h30m20s")
    return math.ceil(sum(float(number) * _UNIT_S[unit] for number, unit in _DURATION_PART.findall(text)))


class _Builder:
    """Collects sessions; one per neighbour address and port, the first one wins."""

    def __init__(
        self, inputs: BgpInputs, options: BirdOptions, local: HostBgp, host_by_name: Mapping[str, HostBgp]
    ) -> None:
        self.session_by_neighbor: dict[tuple[str, int], Session] = {}
        self.reachable: set[tuple[Net, Net]] = set()
        self.problems: list[Problem] = []
        self._inputs = inputs
        self._options = options
        self._local = local
        self._host_by_name = host_by_name
        self._host_by_address = {
            address: host for host in host_by_name.values() for address in host.address_by_version.values()
        }
        spec = global_spec(inputs)
        self._is_strict_bind = spec is not None and spec.bind_mode == "NodeIP"

    def add_mesh(self, spec: BGPConfigurationSpec | None) -> None:
        """A session with each other host, unless it or we reflect routes."""
        if self._local.cluster_id:
            return
        try:
            base = self._base(_MESH_KEY)
            if spec is not None and spec.node_mesh_max_restart_time:
                base = replace(base, restart_time_s=parse_duration_s(spec.node_mesh_max_restart_time))
            if spec is not None and spec.node_mesh_password is not None:
                reference = spec.node_mesh_password.secret_key_ref
                base = replace(base, password=self._get_secret(reference.name, reference.key) if reference else None)
        except ValueError as reason:
            self._complain(_MESH_KEY, "spec", f"{reason}; there is no mesh")
            return
        for host in self._other_hosts():
            if host.cluster_id:
                continue
            for target in self._targets_of(host):
                # As Calico does it, as text: of two hosts exactly one dials, also when only one of them is ours.
                own = self._local.address_by_version[target.address.version]
                self._add("Mesh", replace(base, is_passive=target.address.address > own), target)

    def add_peer(self, name: str, peer: BGPPeer) -> None:
        """The sessions that one BGPPeer asks for on this host."""
        key = ResourceKey("BGPPeer", "", name)
        spec = peer.spec
        try:
            targets = list(self._targets(spec))
            base = self._base_of_peer(key, spec) if targets else None
        except (ValueError, SelectorError) as reason:
            self._complain(key, "spec", f"{reason}; it has no session")
            return
        kind = "Node" if spec.node or spec.node_selector else "Global"
        for target in targets:
            if base is not None:
                self._add(kind, self._with_next_hop(base, spec), target)
                if spec.reachable_by:
                    self._add_gateway(key, target.address, spec.reachable_by)

    def _targets(self, spec: BGPPeerSpec) -> Iterator[Target]:
        if spec.local_workload_selector:
            raise ValueError("localWorkloadSelector is not supported")
        if spec.node and spec.node_selector:
            raise ValueError("node and nodeSelector exclude each other")
        if spec.peer_ip and spec.peer_selector:
            raise ValueError("peerIP and peerSelector exclude each other")
        applies = self._is_asked(spec, self._local)
        if spec.peer_ip:
            if applies:
                yield self._explicit_target(spec)
            return
        if not spec.peer_selector:
            raise ValueError("neither peerIP nor peerSelector says who the peer is")
        selector = parse(spec.peer_selector)
        is_selected: bool = selector.matches(self._local.labels)
        for host in self._other_hosts():
            forth = applies and selector.matches(host.labels)
            back = is_selected and spec.reverse_peering != "Manual" and self._is_asked(spec, host)
            if forth or back:
                yield from self._targets_of(host)

    def _is_asked(self, spec: BGPPeerSpec, host: HostBgp) -> bool:
        if spec.node:
            return spec.node == host.name
        return not spec.node_selector or parse(spec.node_selector).matches(host.labels)

    def _explicit_target(self, spec: BGPPeerSpec) -> Target:
        address, port = parse_peer(spec.peer_ip)
        host = self._host_by_address.get(address.address)
        if host is not None:
            as_number = spec.as_number or host.as_number
            return Target(address, port or host.port, as_number, host)
        if not spec.as_number:
            raise ValueError("asNumber is missing")
        return Target(address, port or DEFAULT_PORT, spec.as_number, None)

    def _targets_of(self, host: HostBgp) -> Iterator[Target]:
        for version, address in sorted(host.address_by_version.items()):
            if version in self._local.address_by_version:
                yield Target(parse_address(address), host.port, host.as_number, host)

    def _other_hosts(self) -> Iterable[HostBgp]:
        return (host for host in self._host_by_name.values() if host.name != self._local.name)

    def _base(self, origin: ResourceKey) -> Session:
        return Session(
            name="",
            origin=origin,
            version=4,
            neighbor="",
            neighbor_port=DEFAULT_PORT,
            neighbor_as=0,
            local_address="",
            local_port=self._local.port,
            local_as=self._local.as_number,
            is_strict_bind=self._is_strict_bind,
        )

    def _base_of_peer(self, key: ResourceKey, spec: BGPPeerSpec) -> Session:
        hops = spec.ttl_security or 0
        allowed = spec.num_allowed_local_as_numbers or 0
        if not 0 <= allowed <= 255:
            raise ValueError(f"numAllowedLocalASNumbers {allowed} does not lie in 0-255")
        reference = spec.password.secret_key_ref if spec.password else None
        return replace(
            self._base(key),
            local_as=spec.local_as_number or self._local.as_number,
            is_source_fixed=spec.source_address != "None",
            password=self._get_secret(reference.name, reference.key) if reference else None,
            hops=hops,
            ttl_security=hops > 0,
            restart_time_s=_seconds(spec.max_restart_time, 4095),
            keepalive_time_s=_seconds(spec.keepalive_time, 21845),
            allowed_local_as=allowed,
            filter_names=spec.filters,
        )

    def _with_next_hop(self, base: Session, spec: BGPPeerSpec) -> Session:
        mode = spec.next_hop_mode or ("Keep" if spec.keep_original_next_hop else "Auto")
        return replace(base, next_hop={"Self": "self", "Keep": "keep"}.get(mode, ""))

    def _add(self, kind: str, base: Session, target: Target) -> None:
        version = target.address.version
        neighbor = (target.address.address, target.port)
        own = self._local.address_by_version.get(version, "")
        if target.address.address in self._local.address_by_version.values() or neighbor in self.session_by_neighbor:
            return
        if not own and base.is_source_fixed:
            self._complain(base.origin, "", f"this host has no IPv{version} address to reach {neighbor[0]} from")
            return
        is_ebgp = base.local_as != target.as_number
        other_cluster = target.host.cluster_id if target.host else ""
        is_client = bool(self._local.cluster_id) and not is_ebgp and other_cluster != self._local.cluster_id
        self.session_by_neighbor[neighbor] = replace(
            base,
            name=protocol_name(kind, *neighbor),
            version=version,
            neighbor=neighbor[0],
            neighbor_port=target.port,
            neighbor_as=target.as_number,
            local_address=own if base.is_source_fixed else "",
            next_hop=base.next_hop or ("self" if is_ebgp else ""),
            is_client=is_client,
            cluster_id=self._local.cluster_id if is_client else "",
            is_strict_bind=base.is_strict_bind and base.is_source_fixed,
        )

    def _add_gateway(self, key: ResourceKey, peer: Net, gateway: str) -> None:
        try:
            through = parse_address(gateway)
            if through.version != peer.version:
                raise ValueError(f"{gateway} is not of the peer's family")
        except ValueError as reason:
            self._complain(key, "spec.reachableBy", f"{reason}; the peer is looked for without it")
            return
        self.reachable.add((peer, through))

    def _get_secret(self, name: str, key: str) -> Secret:
        secret = self._options.secret_by_key.get((name, key))
        if secret is None:
            raise ValueError(f"secret {shorten(name)!r}, key {shorten(key)!r} is not among this host's secrets")
        if not is_quotable(secret):
            raise ValueError(f"secret {shorten(name)!r}, key {shorten(key)!r}: use 1 to 200 printable ASCII, no quotes")
        return secret

    def _complain(self, key: ResourceKey, field: str, reason: str) -> None:
        self.problems.append(Problem(subject=str(key), field=field, value="", reason=reason))


def parse_peer(text: str) -> tuple[Net, int]:
    """Returns address and port (0 when not given) of `1.2.3.4`, `1.2.3.4:179`, `fd00::1` or `[fd00::1]:179`."""
    address, port = text, ""
    if text.startswith("["):
        address, _, rest = text[1:].partition("]")
        port = rest.removeprefix(":")
    elif text.count(":") == 1:
        address, _, port = text.partition(":")
    if port and (not port.isascii() or not port.isdigit() or not 0 < int(port) < 65536):
        raise ValueError(f"port {shorten(port)!r} does not lie in 1-65535")
    return parse_address(address), int(port or 0)


def protocol_name(kind: str, address: str, port: int) -> str:
    """Returns the protocol's name: it depends on kind and neighbour alone, so that nothing else renames a session."""
    suffix = "" if port == DEFAULT_PORT else f"_port_{port}"
    return f"{kind}_{re.sub('[.:]', '_', address)}{suffix}"


def _seconds(text: str | None, limit: int) -> int:
    seconds = parse_duration_s(text) if text else 0
    if seconds > limit:
        raise ValueError(f"duration {text} is longer than {limit} s")
    return seconds


def _cluster_id(text: str) -> str:
    net = parse_address(text)
    if net.version != 4:
        raise ValueError(f"routeReflectorClusterID {shorten(text)!r} is not of the form 1.2.3.4")
    return net.address


def _explicit_first(item: tuple[str, BGPPeer]) -> tuple[bool, bool, str]:
    name, peer = item
    return not peer.spec.peer_ip, not (peer.spec.node or peer.spec.node_selector), name


def _build_host(inputs: BgpInputs, name: str, node: Node, problems: list[Problem]) -> HostBgp | None:
    bgp = node.spec.bgp
    if bgp is None:
        return None
    key = ResourceKey("Node", "", name)
    spec = global_spec(inputs)
    own_spec = host_spec(inputs, name)
    addresses = {version: address for version in (4, 6) if (address := host_address(inputs, name, version))}
    for field, text, version in (("ipv4Address", bgp.ipv4_address, 4), ("ipv6Address", bgp.ipv6_address, 6)):
        if text and version not in addresses:
            problems.append(Problem(str(key), f"spec.bgp.{field}", shorten(text), f"is no IPv{version} address"))
    try:
        as_number = bgp.as_number or (spec.as_number if spec else None) or DEFAULT_AS
        cluster = _cluster_id(bgp.route_reflector_cluster_id) if bgp.route_reflector_cluster_id else ""
    except ValueError as reason:
        problems.append(Problem(str(key), "spec.bgp", "", f"{reason}; nobody speaks BGP with this host"))
        return None
    port = (own_spec.listen_port if own_spec else None) or (spec.listen_port if spec else None) or DEFAULT_PORT
    if not addresses or not 0 < port < 65536:
        return None
    return HostBgp(name, addresses, as_number, port, cluster, node.metadata.labels)
