"""A host that forwards, with everything around it within reach: frames go in at one interface and come out at another.

One namespace is the host: workload interfaces `cali0`…, an uplink `eth0`, routes and permanent neighbours, nothing
else. Another holds the far ends of all of them; it has no addresses and answers nothing.
"""

from __future__ import annotations

import contextlib
import os
import socket
import subprocess
from collections.abc import Collection, Iterator, Sequence
from typing import NamedTuple

from felix.dataplane.netlink.apply import NetlinkSocket
from felix.dataplane.netlink.message import NETLINK_NETFILTER, message, nfnetlink_header
from felix.model.net import Net, parse_net
from felix.policy.packet import UDP, Packet
from tests.support.netns import Namespace
from tests.support.packets import Ends, build_frame, read_identity

UPLINK = "eth0"
_ETH_P_ALL = 3
_PACKET_OUTGOING = 4
_CT_DELETE = 1 << 8 | 2
_HOST_MAC = "02:aa:aa:aa:aa:aa"
_FAR_MAC = "02:bb:bb:bb:bb:bb"
ENDS = Ends(bytes.fromhex(_FAR_MAC.replace(":", "")), bytes.fromhex(_HOST_MAC.replace(":", "")))
_PATIENCE_S = 10.0
_SENTINEL = Packet(4, parse_net("198.18.0.1").value, parse_net("198.18.0.2").value, UDP, 9, 9)
# Connection tracking checks the sums of UDPLite as if it were UDP (nf_conntrack_proto_udp.c), and calls all invalid.
_SETTINGS = """
net.netfilter.nf_conntrack_checksum=0
net.ipv4.ip_forward=1 net.ipv4.conf.all.rp_filter=0 net.ipv4.conf.default.rp_filter=0
net.ipv4.conf.all.send_redirects=0 net.ipv4.conf.default.send_redirects=0 net.ipv4.icmp_ratelimit=0
net.ipv6.conf.all.disable_ipv6=0 net.ipv6.conf.default.disable_ipv6=0 net.ipv6.conf.default.accept_dad=0
net.ipv6.conf.default.accept_ra=0 net.ipv6.conf.default.addr_gen_mode=1 net.ipv6.conf.all.forwarding=1
"""
_FAR_SETTINGS = "net.ipv6.conf.all.disable_ipv6=1 net.ipv6.conf.default.disable_ipv6=1"


class Sent(NamedTuple):
    """A packet that goes in at the far end of `interface`. has_options: as `build_frame` says."""

    packet: Packet
    interface: str
    has_options: bool = False


class Wire:
    """The two namespaces, up to `close`. interfaces: names of the workload interfaces of the host."""

    def __init__(self, interfaces: Sequence[str], addresses: Collection[tuple[Net, str]]) -> None:
        """addresses: every address that may be at a workload interface, with that; none has a route yet."""
        self.stack = contextlib.ExitStack()
        with contextlib.ExitStack() as stack:
            self.host = Namespace("law")
            stack.callback(self.host.delete)
            self._far = Namespace("lawfar")
            stack.callback(self._far.delete)
            self._connect(interfaces, addresses)
            self.socket = self._far.run(lambda: socket.socket(socket.AF_PACKET, socket.SOCK_RAW, _ETH_P_ALL << 8))
            stack.callback(self.socket.close)
            self.socket.settimeout(_PATIENCE_S)
            self.netfilter = self.host.run(lambda: NetlinkSocket(NETLINK_NETFILTER))
            stack.callback(self.netfilter.close)
            self.stack = stack.pop_all()
        self._routed: frozenset[tuple[Net, str]] = frozenset()
        self._count = 0
        self.strange: list[tuple[str, bytes]] = []
        """Interface and frame of what came out of the host in the last exchange without having been sent."""

    def close(self) -> None:
        """Nothing of it is left."""
        self.stack.close()

    def route(self, addresses: Collection[tuple[Net, str]]) -> None:
        """Exactly these addresses are at the workload interfaces given; all others are behind the uplink."""
        wanted = frozenset(addresses)
        changes = [f"route del {net} dev {name}" for net, name in self._routed - wanted]
        changes += [f"route add {net} dev {name}" for net, name in wanted - self._routed]
        if changes:
            self._configure(self.host, changes)
        self._routed = wanted

    def forget_flows(self) -> None:
        """The host tracks no connection."""
        (refusal,) = self.netfilter.transact([message(_CT_DELETE, 0, nfnetlink_header(0))])
        assert not refusal, f"flushing tracked connections: {os.strerror(refusal)}"

    def exchange(self, sends: Sequence[Sent]) -> list[str]:
        """Sends frames and returns for each where the very frame came out: the interface, or empty for nowhere.

        Everything happens on one processor, whose backlog keeps the order: a last packet that no rule is about comes
        out behind all others. AssertionError when it does not within some seconds.
        """
        position_by_identity: dict[bytes, int] = {}
        with one_processor():
            for position, sent in enumerate([*sends, Sent(_SENTINEL, UPLINK)]):
                self._count = (self._count + 1) % 0xFFFF
                frame = build_frame(sent.packet, self._count, ENDS, sent.has_options)
                position_by_identity[read_identity(frame)] = position
                self.socket.sendto(frame, (_far_end(sent.interface), 0))
            return self._collect(position_by_identity)

    def _collect(self, position_by_identity: dict[bytes, int]) -> list[str]:
        """Returns by position where frames came out; the last position is the one that ends the wait."""
        last = len(position_by_identity) - 1
        self.strange.clear()
        arrived = [""] * last
        while True:
            try:
                frame, (interface, _, kind, *_) = self.socket.recvfrom(65535)
            except TimeoutError:
                raise AssertionError("the last packet did not come out: the wire is broken") from None
            position = position_by_identity.get(read_identity(frame))
            if kind == _PACKET_OUTGOING or position is None:
                if kind != _PACKET_OUTGOING:
                    self.strange.append((interface.removeprefix("far-"), frame))
                continue
            if position == last:
                return arrived
            arrived[position] = interface.removeprefix("far-")

    def _connect(self, interfaces: Sequence[str], addresses: Collection[tuple[Net, str]]) -> None:
        self.host.execute("sysctl", "-q", "-w", *_SETTINGS.split())
        self._far.execute("sysctl", "-q", "-w", *_FAR_SETTINGS.split())
        lines = []
        for name in (*interfaces, UPLINK):
            far = f"{_far_end(name)} address {_FAR_MAC} netns {self._far.name}"
            lines.append(f"link add {name} address {_HOST_MAC} type veth peer name {far}")
            lines.append(f"link set {name} up")
        self._configure(self.host, lines)
        self._configure(self._far, [f"link set {_far_end(name)} up" for name in (*interfaces, UPLINK)])
        gateways = ("169.254.1.1", "fe80::1")
        neighbours = [(gateway, UPLINK) for gateway in gateways]
        neighbours += [(str(net).partition("/")[0], name) for net, name in addresses]
        lines = [f"neigh replace {address} lladdr {_FAR_MAC} dev {name} nud permanent" for address, name in neighbours]
        lines += [f"route add default via {gateway} dev {UPLINK} onlink" for gateway in gateways]
        self._configure(self.host, lines)

    @staticmethod
    def _configure(namespace: Namespace, lines: Sequence[str]) -> None:
        command = ["ip", "-n", namespace.name, "-batch", "-"]
        done = subprocess.run(command, check=False, input="\n".join(lines), capture_output=True, text=True, timeout=60)
        assert done.returncode == 0, f"{lines}: {done.stderr.strip()}"


def _far_end(interface: str) -> str:
    return f"far-{interface}"


@contextlib.contextmanager
def one_processor() -> Iterator[None]:
    allowed = os.sched_getaffinity(0)
    os.sched_setaffinity(0, {min(allowed)})
    try:
        yield
    finally:
        os.sched_setaffinity(0, allowed)
