"""From stored pairs to what an audit looks at; pair by pair, in any order. Pure."""

from __future__ import annotations

from collections.abc import Iterable

import msgspec

from felix.datastore.types import KeyValue
from felix.ipam.audit import Inventory, StoredEndpoint
from felix.ipam.draft import StoredBlock
from felix.ipam.pools import Pool
from felix.ipam.records import Affinity, Handle, parse_affinity, parse_handle
from felix.model.codec import decode
from felix.model.keys import HANDLES, AffinityKey, BlockKey, ResourceKey, parse_key
from felix.model.net import Net, parse_net
from felix.model.records import Node, WorkloadEndpoint


class InventoryBuilder:
    """Takes in what is stored under blocks, handles, claims, nodes and endpoints; others are passed over."""

    def __init__(self) -> None:
        self._blocks: dict[Net, StoredBlock] = {}
        self._handles: dict[str, Handle] = {}
        self._affinities: dict[AffinityKey, Affinity] = {}
        self._users: dict[Net, list[str]] = {}
        self._hosts: set[str] = set()
        self._endpoints: dict[str, StoredEndpoint] = {}
        self._unreadable: list[str] = []

    def add(self, pairs: Iterable[KeyValue]) -> None:
        """These are stored."""
        for pair in pairs:
            if pair.key.startswith(HANDLES):
                name = pair.key.removeprefix(HANDLES)
                self._handles[name] = parse_handle(name, pair.value, pair.mod_revision)
                continue
            match key := parse_key(pair.key):
                case BlockKey(block):
                    self._blocks[block] = StoredBlock(block, pair.mod_revision, pair.value)
                case AffinityKey():
                    self._affinities[key] = parse_affinity(pair.value, pair.mod_revision)
                case ResourceKey("Node"):
                    self._add_node(key, pair)
                case ResourceKey("WorkloadEndpoint"):
                    self._add_endpoint(key, pair)

    def build(self, revision: int, pools: Iterable[Pool] = ()) -> Inventory:
        """Returns everything that was added."""
        return Inventory(
            revision,
            tuple(pools),
            self._blocks,
            self._handles,
            self._affinities,
            self._users,
            frozenset(self._hosts),
            self._endpoints,
            tuple(self._unreadable),
        )

    def _add_node(self, key: ResourceKey, pair: KeyValue) -> None:
        self._hosts.add(key.name)  # it exists, whatever it says
        record = decode(key, pair.value).record
        if isinstance(record, Node):
            for address in _tunnel_addresses(record):
                self._users.setdefault(address, []).append(f"tunnel of {key.name}")

    def _add_endpoint(self, key: ResourceKey, pair: KeyValue) -> None:
        record = decode(key, pair.value).record
        name = f"{key.namespace}/{key.name}"
        if isinstance(record, WorkloadEndpoint):
            spec = record.spec
            host, container, texts = spec.node, spec.container_id or spec.workload, spec.ip_networks
        else:
            # Nobody enforces it, but its container may be there and have its addresses all the same.
            found = _find_fields(pair.value)
            if found is None:
                self._unreadable.append(pair.key)
                return
            host, container, texts = found
        self._endpoints[pair.key] = StoredEndpoint(name, host, container.lower(), pair.mod_revision)
        for text in texts:
            try:
                self._users.setdefault(parse_net(text), []).append(name)
            except ValueError:
                self._unreadable.append(pair.key)


def _find_fields(value: bytes) -> tuple[str, str, tuple[str, ...]] | None:
    """Returns host, container and addresses of an endpoint that cannot be used; None when even they cannot be read."""
    try:
        document = msgspec.json.decode(value)
    except (ValueError, RecursionError):
        return None
    spec = document.get("spec") if isinstance(document, dict) else None
    if not isinstance(spec, dict):
        return None
    host, container, nets = spec.get("node"), spec.get("containerID") or spec.get("workload"), spec.get("ipNetworks")
    if not isinstance(host, str) or not isinstance(nets, list):
        return None
    return host, container if isinstance(container, str) else "", tuple(str(net) for net in nets)


def _tunnel_addresses(node: Node) -> list[Net]:
    spec = node.spec
    texts = [spec.ipv4_vxlan_tunnel_addr, spec.ipv6_vxlan_tunnel_addr]
    if spec.bgp is not None:
        texts.append(spec.bgp.ipv4_ipip_tunnel_addr)
    if spec.wireguard is not None:
        texts += [spec.wireguard.interface_ipv4_address, spec.wireguard.interface_ipv6_address]
    return [parse_net(text) for text in texts if text]
