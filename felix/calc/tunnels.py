"""How the pools of other hosts are reached through VXLAN: both ends of the tunnel, and a route per block.

    pools ──▶ mode of a prefix ─┐
    blocks ─▶ prefix → host ────┼─▶ routes: over the tunnel, or direct within a subnet (CrossSubnet)
    nodes ──▶ ends of the tunnel┘

A change marks the prefixes and nodes that it concerns, a flush looks at those and at no others. Only what concerns
all of them costs all of them: this host's own address, and whether there is a tunnel at all.
"""

from __future__ import annotations

import contextlib
import hashlib
import ipaddress
import re
from collections import Counter
from collections.abc import Iterator, Mapping
from typing import NamedTuple

from felix.calc.changes import ChangeLog
from felix.calc.desired import TUNNEL_PEERS, ClusterRoute, DesiredDelta, MemberDelta, OwnVtep, RemoteVtep
from felix.calc.pools import NetCover
from felix.calc.sorted_keys import SortedKeys
from felix.errors import Problem, shorten
from felix.model.keys import Key, ResourceKey, format_key
from felix.model.net import Net, parse_address, parse_net
from felix.model.records import AllocationBlock, IPPool, Node
from felix.selector.parse import SelectorError, parse

FAMILIES = (4, 6)
ALWAYS, CROSS_SUBNET = "Always", "CrossSubnet"
_BORROWED, _TUNNEL, _BLOCK = range(3)  # what says where a prefix is; the least is believed
_MAC = re.compile(r"[0-9a-f]{2}(:[0-9a-f]{2}){5}")
_HOST = "host:"
_BROADCAST = 0xFFFFFFFF

End = tuple[int, str]
"""A family, and the name of a node."""
Claim = tuple[int, str]
"""What says that a prefix is at a node, and that node's name."""


class TunnelSettings(NamedTuple):
    """is_enabled: None: as pools say; True: IPv4 has a tunnel in any case. mtu4, mtu6: 0: as the interface below says.
    externals: from where tunnel packets are taken besides hosts. has_ipv6: whether there may be a tunnel for IPv6.
    """

    is_enabled: bool | None = None
    vni: int = 4096
    port: int = 4789
    mtu4: int = 0
    mtu6: int = 0
    externals: tuple[Net, ...] = ()
    has_ipv6: bool = True


class TunnelWish(NamedTuple):
    """What this host's node says of its end of the tunnel in one family, and what it should say.

    is_on: whether there is a tunnel. nets: of pools that it leads to, in which an address may stay. pools: names and
    prefixes of those of them that may give one.
    address, mac: what the node says; empty when it says nothing. wanted_mac: what it should.
    """

    is_on: bool
    nets: tuple[Net, ...]
    pools: tuple[tuple[str, Net], ...]
    address: str
    mac: str
    wanted_mac: str


class _NodeEnd(NamedTuple):
    """What a node says of itself in one family. subnet: prefix of its own address."""

    outer: Net | None
    subnet: Net | None
    address: Net | None
    mac: str


class _Pool(NamedTuple):
    """A pool. mode: Always, CrossSubnet or empty. selector: of the nodes that may have addresses of it for the tunnel;
    None: none may.
    """

    net: Net
    mode: str
    selector: str | None


def derive_mac(node: str, family: int) -> str:
    """Returns the MAC address of a node's end of the tunnel: always the same, locally administered, and what Calico
    takes, so that hosts of both kinds find each other without being told.
    """
    name = node if family == 4 else f"{node}-v6"
    digest = hashlib.sha1(name.encode(), usedforsecurity=False).digest()
    return ":".join(f"{byte:02x}" for byte in b"f" + digest[:5])


class Tunnels:
    """The tunnel of host `hostname`, kept up to date by pools, nodes and blocks.

    problems: what keeps nodes from being reached.
    """

    def __init__(self, hostname: str) -> None:
        self._hostname = hostname
        self._settings = TunnelSettings()
        self._pools: dict[Net, dict[ResourceKey, _Pool]] = {}
        self._net_by_pool: dict[ResourceKey, Net] = {}
        self._pool_lengths: tuple[int, ...] = ()  # of the prefixes of pools, the longest first
        self._nodes: dict[str, tuple[_NodeEnd, _NodeEnd]] = {}
        self._own_fields: dict[int, tuple[str, str]] = {}
        self._own_labels: Mapping[str, str] = {}
        self._own_subnets: dict[int, Net | None] = {}
        self._host_by_block: dict[Net, str] = {}
        self._blocks_by_length: dict[tuple[int, int], int] = {}
        self._borrowed_by_block: dict[Net, dict[Net, str]] = {}
        self._claims_by_net: dict[Net, set[Claim]] = {}
        self._nets_by_end: dict[End, set[Net]] = {}
        self._ordered = (SortedKeys(), SortedKeys())
        self._rivals_by_claim: dict[tuple[int, Net | str], set[str]] = {}
        self._outers: Counter[Net] = Counter()
        self._dirty_ends: dict[End, None] = {}
        self._dirty_nets: dict[Net, None] = {}
        self._has_new_pools = False
        self._wish: dict[int, TunnelWish] = {}
        self._is_wish_due = True
        self._own: ChangeLog[int, OwnVtep] = ChangeLog()
        self._remote: ChangeLog[End, RemoteVtep] = ChangeLog()
        self._routes: ChangeLog[Net, ClusterRoute] = ChangeLog()
        self._peers = NetCover()
        self._peers_delta = MemberDelta()
        self._externals: dict[int, tuple[Net, ...]] = {}
        self._said_by_node: dict[str, tuple[Problem, ...]] = {}
        self.problems: ChangeLog[Key, tuple[Problem, ...]] = ChangeLog()

    @property
    def own(self) -> Mapping[int, OwnVtep]:
        """This host's ends of the tunnel, by family."""
        return self._own.values

    @property
    def ends_count(self) -> int:
        """How many other hosts' ends of the tunnel there are."""
        return len(self._remote)

    @property
    def routes_count(self) -> int:
        """How many prefixes of other hosts are reached."""
        return len(self._routes)

    def configure(self, settings: TunnelSettings) -> None:
        """These settings count from now on."""
        if settings != self._settings:
            self._settings = settings
            self._has_new_pools = self._is_wish_due = True

    def set_pool(self, key: ResourceKey, record: IPPool | None) -> None:
        """The pool is so from now on; None: there is none that can be used."""
        pool = _read_pool(record) if record is not None else None
        former = self._net_by_pool.pop(key, None)
        if pool is not None:
            self._net_by_pool[key] = pool.net
        before = self._pools[former].pop(key) if former is not None else None
        if former is not None and not self._pools[former]:
            del self._pools[former]
        if pool is not None:
            self._pools.setdefault(pool.net, {})[key] = pool
        if pool == before:
            return
        self._pool_lengths = tuple(sorted({net.length for net in self._pools}, reverse=True))
        self._has_new_pools = self._is_wish_due = True
        for one in filter(None, (before, pool)):
            self._dirty_nets.update(dict.fromkeys(self._find_inside(one.net)))

    def set_node(self, key: ResourceKey, record: Node | None) -> None:
        """The node is so from now on; None: there is none that can be used."""
        name = key.name
        before = self._nodes.pop(name, None)
        now = None
        self._said_by_node.pop(name, None)
        if record is not None:
            four, six, problems = _read_node(key, record)
            now = self._nodes[name] = (four, six)
            if problems:
                self._said_by_node[name] = problems
        if name == self._hostname:
            self._is_wish_due = True
            self._own_fields = _read_own_fields(record) if record is not None else {}
            self._own_labels = record.metadata.labels if record is not None else {}
        for index, family in enumerate(FAMILIES):
            was, is_now = before[index] if before else None, now[index] if now else None
            self._dirty_ends[family, name] = None  # also for what it says wrong
            if was != is_now:
                self._claim_end((family, name), was, is_now)

    def set_block(self, net: Net, record: AllocationBlock | None) -> None:
        """The allocation block is so from now on; None: there is none."""
        host, borrowed = _read_block(net, record) if record is not None and not record.deleted else ("", {})
        before = self._host_by_block.pop(net, "")
        if host:
            self._host_by_block[net] = host
        if host != before:
            length = (net.version, net.length)
            count = self._blocks_by_length.pop(length, 0) + bool(host) - bool(before)
            if count:
                self._blocks_by_length[length] = count
            self._move(net, _BLOCK, before, host)
            self._dirty_nets.update(dict.fromkeys(self._find_inside(net)))
        former = self._borrowed_by_block.pop(net, {})
        if borrowed:
            self._borrowed_by_block[net] = borrowed
        for address in {**former, **borrowed}:
            self._move(address, _BORROWED, former.get(address, ""), borrowed.get(address, ""))

    def pop_changes(self, delta: DesiredDelta) -> None:
        """Writes what changed since the last call into `delta`."""
        self._settle_own()
        while self._dirty_ends:
            self._settle_end(self._dirty_ends.popitem()[0])
        for net in self._dirty_nets:
            self._routes.set(net, self._find_route(net))
        self._dirty_nets = {}
        delta.own_vteps = self._own.pop_changes()
        delta.remote_vteps = self._remote.pop_changes()
        delta.cluster_routes = self._routes.pop_changes()
        if self._peers_delta.added or self._peers_delta.removed:
            delta.nets[TUNNEL_PEERS] = self._peers_delta
            self._peers_delta = MemberDelta()

    def pop_wishes(self) -> dict[int, TunnelWish] | None:
        """Returns by family what this host's node is to say, as of the last flush; None: as it was at the last call."""
        if not self._is_wish_due:
            return None
        self._is_wish_due = False
        wishes = {family: self._make_wish(family) for family in FAMILIES}
        if wishes == self._wish:
            return None
        self._wish = wishes
        return wishes

    # --- Ends of the tunnel ---

    def _settle_own(self) -> None:
        """This host's ends are as they should be; what depends on them is marked."""
        own = self._nodes.get(self._hostname)
        is_touched = self._has_new_pools or any((family, self._hostname) in self._dirty_ends for family in FAMILIES)
        self._has_new_pools = False
        if not is_touched:
            return
        problems = []
        for index, family in enumerate(FAMILIES):
            self._dirty_ends.pop((family, self._hostname), None)
            end = own[index] if own is not None else None
            wanted = self._find_own(family, end)
            if wanted is None and self._is_on(family):
                field = f"spec.bgp.ipv{family}Address"
                reason = "is missing; pools with vxlanMode are not reached without this address of the host"
                problems.append(Problem(format_key(_node_key(self._hostname)), field, "", reason))
            self._replace_own(family, wanted, end.subnet if end is not None and wanted is not None else None)
        said = (*self._said_by_node.get(self._hostname, ()), *problems)
        self.problems.set(_node_key(self._hostname), said or None)

    def _replace_own(self, family: int, wanted: OwnVtep | None, subnet: Net | None) -> None:
        before = self._own.find(family)
        self._own.set(family, wanted)
        externals = tuple(net for net in self._settings.externals if net.version == family) if wanted else ()
        former = self._externals.pop(family, ())
        if externals:
            self._externals[family] = externals
        for net in externals:
            self._peers.add(net, self._peers_delta)
        for net in former:
            self._peers.remove(net, self._peers_delta)
        is_switched = (wanted is None) != (before is None)
        has_moved = wanted is not None and before is not None and wanted.parent != before.parent
        if is_switched or has_moved:
            self._dirty_ends.update(dict.fromkeys((family, name) for name in self._nodes if name != self._hostname))
        if self._own_subnets.pop(family, None) != subnet or is_switched:
            self._dirty_nets.update(dict.fromkeys(net for net in self._claims_by_net if net.version == family))
        if subnet is not None:
            self._own_subnets[family] = subnet

    def _find_own(self, family: int, end: _NodeEnd | None) -> OwnVtep | None:
        if end is None or end.outer is None or not self._is_on(family):
            return None
        settings = self._settings
        mtu = settings.mtu4 if family == 4 else settings.mtu6
        return OwnVtep(end.address, end.mac, end.outer, settings.vni, settings.port, mtu)

    def _is_on(self, family: int) -> bool:
        if self._settings.is_enabled is False or (family == 6 and not self._settings.has_ipv6):
            return False
        return (self._settings.is_enabled is True and family == 4) or any(self._tunnelled(family))

    def _tunnelled(self, family: int) -> Iterator[tuple[ResourceKey, _Pool]]:
        for net, pools in self._pools.items():
            if net.version == family:
                yield from ((key, pool) for key, pool in pools.items() if pool.mode)

    def _settle_end(self, end: End) -> None:
        family, name = end
        before = self._remote.find(end)
        wanted, problems = self._find_remote(end)
        self._remote.set(end, wanted)
        said = [*self._said_by_node.get(name, ()), *problems]
        said += self._find_remote((10 - family, name))[1]
        self.problems.set(_node_key(name), tuple(said) or None)
        if wanted != before:
            if wanted is not None:
                self._peers.add(wanted.outer, self._peers_delta)
            if before is not None:
                self._peers.remove(before.outer, self._peers_delta)
        self._dirty_nets.update(dict.fromkeys(self._nets_by_end.get(end, ())))

    def _find_remote(self, end: End) -> tuple[RemoteVtep | None, list[Problem]]:
        family, name = end
        node = self._nodes.get(name)
        said = node[family == 6] if node is not None else None
        own = self._own.find(family)
        if said is None or said.outer is None or own is None:
            return None, []
        subject = format_key(_node_key(name))
        if said.outer == own.parent:  # packets to it would come back here, and packets from this host be believed
            field, reason = f"spec.bgp.ipv{family}Address", "is the address of this host, and is not reached by it"
            return None, [Problem(subject, field, said.outer.address, reason)]
        if said.address is None:
            return None, []
        if said.address in self._outers:
            reason = "the tunnel address is a host's own, which must stay reachable without the tunnel"
            return None, [Problem(subject, "spec", said.address.address, reason)]
        for what, claim in (("address", said.address), ("MAC address", said.mac)):
            winner = min(self._rivals_by_claim[family, claim], key=lambda rival: (rival != self._hostname, rival))
            if winner != name:
                text = claim.address if isinstance(claim, Net) else claim
                reason = f"node {winner} has the same tunnel {what}, and is reached by it"
                return None, [Problem(subject, "spec", text, reason)]
        return RemoteVtep(said.address, said.mac, said.outer), []

    def _claim_end(self, end: End, before: _NodeEnd | None, now: _NodeEnd | None) -> None:
        """The addresses of a node's end are claimed; all who claim the same are looked at again."""
        family, name = end
        for claim in self._find_claims(name, before):
            rivals = self._rivals_by_claim[family, claim]
            rivals.remove(name)
            self._dirty_ends.update(dict.fromkeys((family, rival) for rival in rivals))
            if not rivals:
                del self._rivals_by_claim[family, claim]
        for claim in self._find_claims(name, now):
            rivals = self._rivals_by_claim.setdefault((family, claim), set())
            self._dirty_ends.update(dict.fromkeys((family, rival) for rival in rivals))
            rivals.add(name)
        was, is_now = before.outer if before else None, now.outer if now else None
        if was != is_now:
            self._count_outer(was, -1)
            self._count_outer(is_now, 1)
        was, is_now = before.address if before else None, now.address if now else None
        if was != is_now:
            if was is not None:
                self._move(was, _TUNNEL, name, "")
            if is_now is not None:
                self._move(is_now, _TUNNEL, "", name)

    def _count_outer(self, outer: Net | None, step: int) -> None:
        """So many more nodes say that this is their own address; whose tunnel address it is are looked at again."""
        if outer is None:
            return
        self._outers[outer] += step
        if not self._outers[outer]:
            del self._outers[outer]
        rivals = self._rivals_by_claim.get((outer.version, outer), ())
        self._dirty_ends.update(dict.fromkeys((outer.version, rival) for rival in rivals))

    def _find_claims(self, name: str, said: _NodeEnd | None) -> tuple[Net | str, ...]:
        if said is None:
            return ()
        if said.address is None:
            return (said.mac,) if name == self._hostname else ()
        return said.address, said.mac

    # --- Routes ---

    def _move(self, net: Net, kind: int, before: str, now: str) -> None:
        """What says where `net` is said `before`, and says `now`; empty: nothing."""
        if before == now:
            return
        claims = self._claims_by_net.setdefault(net, set())
        if not claims:
            self._ordered[net.version == 6].add(net.value << 8 | net.length)
        if now:
            claims.add((kind, now))
            self._nets_by_end.setdefault((net.version, now), set()).add(net)
        if before:
            claims.discard((kind, before))
            if all(node != before for _, node in claims):
                nets = self._nets_by_end[net.version, before]
                nets.remove(net)
                if not nets:
                    del self._nets_by_end[net.version, before]
        if not claims:
            del self._claims_by_net[net]
            self._ordered[net.version == 6].remove(net.value << 8 | net.length)
        self._dirty_nets[net] = None

    def _find_route(self, net: Net) -> ClusterRoute | None:
        own = self._own.find(net.version)
        claims = self._claims_by_net.get(net)
        if own is None or not claims:
            return None
        around = self._find_host_around(net)  # to the tunnel's address in a host's own block the block leads
        name = min((claim for claim in claims if claim != (_TUNNEL, around)), default=(_BLOCK, ""))[1]
        if name == self._hostname:
            return None
        node, mode = self._nodes.get(name), self._find_mode(net)
        if node is None or not mode:
            return None
        index = net.version == 6
        outer, subnet = node[index].outer, self._own_subnets.get(net.version)
        is_beside = outer not in (None, own.parent) and subnet is not None and subnet.__contains__(outer)
        if mode == CROSS_SUBNET and is_beside:
            return ClusterRoute(name, None, outer)
        remote = self._remote.find((net.version, name))
        return ClusterRoute(name, remote.address, None) if remote is not None else None

    def _find_mode(self, net: Net) -> str:
        """Returns the vxlanMode of the smallest pool around `net`; empty when that is Never, or there is none."""
        for length in self._pool_lengths:
            if length <= net.length:
                shift = net.bits - length
                pools = self._pools.get(Net(net.version, net.value >> shift << shift, length))
                if pools is not None:
                    return pools[min(pools)].mode
        return ""

    def _find_host_around(self, net: Net) -> str:
        """Returns whose the smallest block around `net` is; empty: nobody's."""
        lengths = sorted((length for version, length in self._blocks_by_length if version == net.version), reverse=True)
        for length in lengths:
            shift = net.bits - length
            host = self._host_by_block.get(Net(net.version, net.value >> shift << shift, length))
            if host is not None:
                return host
        return ""

    def _find_inside(self, net: Net) -> Iterator[Net]:
        """Yields every prefix that something is known of and that lies in `net`, itself included."""
        ordered, end = self._ordered[net.version == 6], (net.last + 1) << 8
        key = ordered.find_from(net.value << 8 | net.length)
        while key is not None and key < end:
            yield Net(net.version, key >> 8, key & 0xFF)
            key = ordered.find_from(key + 1)

    def _make_wish(self, family: int) -> TunnelWish:
        own = self._own.find(family)
        address, mac = self._own_fields.get(family, ("", ""))
        if own is None:
            return TunnelWish(False, (), (), address, mac, "")
        nets = sorted({pool.net for _, pool in self._tunnelled(family)})
        pools = sorted((key.name, pool.net) for key, pool in self._tunnelled(family) if self._gives(pool))
        return TunnelWish(True, tuple(nets), tuple(pools), address, mac, own.mac)

    def _gives(self, pool: _Pool) -> bool:
        with contextlib.suppress(SelectorError):
            return pool.selector is not None and (not pool.selector or parse(pool.selector).matches(self._own_labels))
        return False


def _node_key(name: str) -> ResourceKey:
    return ResourceKey("Node", "", name)


def _read_pool(record: IPPool) -> _Pool | None:
    spec = record.spec
    try:
        net = parse_net(spec.cidr)
    except ValueError:
        return None
    mode = spec.vxlan_mode if spec.vxlan_mode in (ALWAYS, CROSS_SUBNET) else ""
    gives = not spec.disabled and (not spec.allowed_uses or "Tunnel" in spec.allowed_uses)
    return _Pool(net, mode, spec.node_selector if gives else None)


def _read_node(key: ResourceKey, record: Node) -> tuple[_NodeEnd, _NodeEnd, tuple[Problem, ...]]:
    spec, bgp = record.spec, record.spec.bgp
    problems = []
    ends = []
    for family, own, tunnel, mac in (
        (4, bgp.ipv4_address if bgp else "", spec.ipv4_vxlan_tunnel_addr, spec.vxlan_tunnel_mac_addr),
        (6, bgp.ipv6_address if bgp else "", spec.ipv6_vxlan_tunnel_addr, spec.vxlan_tunnel_mac_addr_v6),
    ):
        outer = _find_address(own.partition("/")[0], family)
        if outer is not None and not _is_usable(outer):
            reason = "is no address that a host can have; it takes no part in tunnels"
            problems.append(Problem(format_key(key), f"spec.bgp.ipv{family}Address", shorten(own), reason))
            outer = None
        subnet = parse_net(own) if outer is not None else None
        given = mac.lower().replace("-", ":")
        if given and (not _MAC.fullmatch(given) or int(given[:2], 16) & 1 or given == "00:00:00:00:00:00"):
            field = "spec.vxlanTunnelMACAddr" + ("V6" if family == 6 else "")
            reason = "is no MAC address of a single interface; the one that follows from the node's name is used"
            problems.append(Problem(format_key(key), field, shorten(mac), reason))
            given = ""
        ends.append(_NodeEnd(outer, subnet, _find_address(tunnel, family), given or derive_mac(key.name, family)))
    return ends[0], ends[1], tuple(problems)


def _read_own_fields(record: Node) -> dict[int, tuple[str, str]]:
    spec = record.spec
    return {
        4: (spec.ipv4_vxlan_tunnel_addr, spec.vxlan_tunnel_mac_addr),
        6: (spec.ipv6_vxlan_tunnel_addr, spec.vxlan_tunnel_mac_addr_v6),
    }


def _find_address(text: str, family: int) -> Net | None:
    with contextlib.suppress(ValueError):
        net = parse_address(text)
        return net if net.version == family else None
    return None


def _is_usable(outer: Net) -> bool:
    """Whether packets can be sent to that address of another host, and only to that host."""
    address = ipaddress.ip_address(outer.address)
    if address.is_unspecified or address.is_multicast or address.is_loopback:
        return False
    return outer.value != _BROADCAST if outer.version == 4 else not address.is_link_local


def _read_block(net: Net, record: AllocationBlock) -> tuple[str, dict[Net, str]]:
    """Returns whose the block is, empty: no host's, and which addresses of it are at other hosts."""
    affinity = record.affinity or ""
    host = affinity.removeprefix(_HOST) if affinity.startswith(_HOST) else ""
    nodes = [(one.secondary or {}).get("node", "") for one in record.attributes]
    if all(node in ("", host) for node in nodes):
        return host, {}
    borrowed = {}
    for ordinal, index in enumerate(record.allocations[: net.last - net.value + 1]):
        if index is not None and 0 <= index < len(nodes) and nodes[index] not in ("", host):
            borrowed[Net(net.version, net.value + ordinal, net.bits)] = nodes[index]
    return host, borrowed
