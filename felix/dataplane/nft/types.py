"""What the files of the nft family hand to each other: configuration, plans, results, and what the kernel has.

One table, `inet felix`. Structure (chains, rules, declarations) is lines in nft's words, which are encoded as netlink
messages or handed to libnftables; set and map elements are `SetChange`s that travel in netlink batches of our own.
"""

from __future__ import annotations

import enum
import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import NamedTuple, Protocol

from felix.errors import DataError
from felix.model.net import Net
from felix.policy.host_settings import FAILSAFES_IN, FAILSAFES_OUT, Failsafe

TABLE = "felix"
_PREFIX = re.compile(r"[A-Za-z0-9_.-]{1,14}")


class ToHostAction(enum.Enum):
    """What happens to traffic from a workload to this host that the workload's egress policy allows."""

    DROP = "DROP"
    ACCEPT = "ACCEPT"
    RETURN = "RETURN"


class DenyAction(enum.Enum):
    """What becomes of packets that policy denies: silence, or an answer that says so (ICMP port unreachable)."""

    DROP = "DROP"
    REJECT = "REJECT"


class LogRate(NamedTuple):
    """How often a Log rule may write: `packets` per `unit` (second, minute, hour, day) after `burst` at once."""

    packets: int
    unit: str
    burst: int


@dataclass(frozen=True, slots=True)
class NatConfig:
    """How addresses are translated.

    address: what traffic to the outside hides behind, of either family; None, and for the other family: the address of
    the interface that it leaves by. ports: first and last source port for TCP and UDP; None: any.
    spares_hosts: whether traffic to the addresses of hosts keeps its source, as that to pools does in any case.
    interface: traffic is hidden only where it leaves by this one (`+` at the end: by all that begin so); empty: by any.
    has_floating: whether external addresses of endpoints lead to them.
    """

    address: Net | None = None
    ports: tuple[int, int] | None = None
    spares_hosts: bool = False
    interface: str = ""
    has_floating: bool = False

    def __post_init__(self) -> None:
        if not re.fullmatch(r"[A-Za-z0-9_.-]{0,15}[+]?", self.interface) or len(self.interface) > 15:
            raise DataError(f"interface of outgoing traffic {self.interface!r}: give at most 15 of A-Z a-z 0-9 _ . -")


@dataclass(frozen=True, slots=True)
class FloodConfig:
    """How many new connections a second one source may open from or to workloads of this host; per_s 0: any number.

    burst: how many at once. sources: how many are remembered, per family.
    """

    per_s: int = 0
    burst: int = 100
    sources: int = 65_536


@dataclass(frozen=True, slots=True)
class NftConfig:
    """Settings that shape the table. Raises DataError for a prefix that could not be an interface name's beginning.

    interface_prefixes: FELIX_INTERFACEPREFIX, split; interfaces that begin so are workloads and nothing else is.
    to_host: FELIX_DEFAULTENDPOINTTOHOSTACTION. drop_invalid: not FELIX_DISABLECONNTRACKINVALIDCHECK.
    log_prefix: FELIX_LOGPREFIX with ": " behind it, as written by the Log action; at most 120 plain characters.
        It may have %t, %k, %n, %p: the tier, kind, name, and namespace with name of the policy.
    log_rate: FELIX_LOGACTIONRATELIMIT with its burst; None: no limit. deny: FELIX_NFTABLESFILTERDENYACTION.
    counts_policies: whether what policies decide is counted. counted_rules: how many rules of each policy and
        direction, from the first on, have a counter of their own.
    allows_vxlan, allows_ipip: whether workloads may send packets in packets; vxlan_port: FELIX_VXLANPORT.
    failsafes_in, failsafes_out: what host endpoints never stop, FELIX_FAILSAFEINBOUNDHOSTPORTS and …OUTBOUND….
    allows_spoofing: FELIX_WORKLOADSOURCESPOOFING is Any. checks_macs: whether packets need their endpoint's MAC.
    nat: how addresses are translated. flood: how many connections a source may open.
    """

    interface_prefixes: tuple[str, ...] = ("cali",)
    to_host: ToHostAction = ToHostAction.DROP
    drop_invalid: bool = True
    log_prefix: str = "calico-packet: "
    log_rate: LogRate | None = None
    deny: DenyAction = DenyAction.DROP
    counts_policies: bool = True
    counted_rules: int = 0
    allows_vxlan: bool = False
    allows_ipip: bool = False
    vxlan_port: int = 4789
    failsafes_in: tuple[Failsafe, ...] = FAILSAFES_IN
    failsafes_out: tuple[Failsafe, ...] = FAILSAFES_OUT
    allows_spoofing: bool = False
    checks_macs: bool = False
    nat: NatConfig = field(default_factory=NatConfig)
    flood: FloodConfig = field(default_factory=FloodConfig)

    def __post_init__(self) -> None:
        for prefix in self.interface_prefixes:
            if not _PREFIX.fullmatch(prefix):
                raise DataError(f"interface prefix {prefix!r}: give 1-14 of A-Z a-z 0-9 _ . -")
        if not self.interface_prefixes:
            raise DataError("interface prefix: give at least one; without it no interface would be protected")
        if not re.fullmatch(r"[A-Za-z0-9 _.:/+%-]{0,120}", self.log_prefix):
            raise DataError(f"log prefix {self.log_prefix!r}: give at most 120 of A-Z a-z 0-9 space _ . : / + % -")


class ElementShape(enum.Enum):
    """How the elements of one set or map look in the kernel; the value is the set's declared type."""

    IPV4 = "ipv4_addr"
    IPV6 = "ipv6_addr"
    IPV4_RANGE = "ipv4_addr interval"
    IPV6_RANGE = "ipv6_addr interval"
    IPV4_PORT = "ipv4_addr . inet_proto . inet_service"
    IPV6_PORT = "ipv6_addr . inet_proto . inet_service"
    IPV4_FLOW = "ipv4_addr . inet_service . ipv4_addr . inet_service"
    IPV6_FLOW = "ipv6_addr . inet_service . ipv6_addr . inet_service"
    NAME = "ifname"
    NAME_IPV4 = "ifname . ipv4_addr"
    NAME_IPV6 = "ifname . ipv6_addr"
    NAME_MAC = "ifname . ether_addr"
    NAME_CHAIN = "ifname : verdict"
    IPV4_IPV4 = "ipv4_addr : ipv4_addr"
    IPV6_IPV6 = "ipv6_addr : ipv6_addr"

    @property
    def is_range(self) -> bool:
        """Whether an element is a range of addresses: its key is first and last address, both included."""
        return self in (ElementShape.IPV4_RANGE, ElementShape.IPV6_RANGE)

    @property
    def is_map(self) -> bool:
        """Whether an element has a value: the chain that packets go to, or an address."""
        return self is ElementShape.NAME_CHAIN or self.is_translation

    @property
    def is_translation(self) -> bool:
        """Whether the value of an element is an address."""
        return self in (ElementShape.IPV4_IPV4, ElementShape.IPV6_IPV6)


class Element(NamedTuple):
    """One element. key: as the kernel has it (a range: first and last address).

    chain: empty unless in a map; in one of addresses the other address, in hexadecimal digits.
    """

    key: bytes
    chain: str = ""


@dataclass(frozen=True, slots=True)
class SetChange:
    """Elements that go from and come into one set or map, at once; those that go first.

    A key is in both only to give it another chain.
    """

    set: str
    shape: ElementShape
    removed: tuple[Element, ...]
    added: tuple[Element, ...]


class ObjectName(NamedTuple):
    """A thing of the table that is not a chain. kind: `set`, `map` or `counter`, or what a stranger put there."""

    kind: str
    name: str


Lines = tuple[str, ...]
"""The lines of one object exactly as `nft --stateless --numeric list` prints them, without indentation."""


@dataclass(slots=True)
class KernelTable:
    """The whole own table as read. exists: false when there is none. is_plain: no table flags, nothing unparsable.

    chains, objects: their lines. elements: of every set and map, key -> chain (empty for sets).
    """

    exists: bool = False
    is_plain: bool = True
    chains: dict[str, Lines] = field(default_factory=dict)
    objects: dict[ObjectName, Lines] = field(default_factory=dict)
    elements: dict[str, dict[bytes, str]] = field(default_factory=dict)


@dataclass(frozen=True, slots=True)
class FillPlan:
    """First step: what closes the gate and what rules will look into.

    objects: declarations, those that base chains need first. chains: base chains and what they go to.
    existing: chains of those that are replaced. rebuilds: the old table goes in the same transaction.
    counters: of policies, to be made. changes: elements of address sets.
    guards: chains that close interfaces of the host until theirs stand, in the same transaction; only when it rebuilds.
    """

    objects: tuple[tuple[ObjectName, Lines], ...] = ()
    chains: tuple[tuple[str, Lines], ...] = ()
    existing: tuple[str, ...] = ()
    guards: tuple[tuple[str, Lines], ...] = ()
    rebuilds: bool = False
    changes: tuple[SetChange, ...] = ()
    counters: tuple[str, ...] = ()

    def __bool__(self) -> bool:
        return bool(self.objects or self.chains or self.rebuilds or self.changes or self.counters)


@dataclass(frozen=True, slots=True)
class StructurePlan:
    """Second step: chains, then the elements that send the packets of endpoints there.

    chains: name and lines. extras: those of features beside policy (see `extras`), in the order in which they refer
    to each other. existing: names of those that are replaced, the others are new.
    dispatch: the changes of all dispatch maps and of the sets of claimed interfaces and sources: one transaction.
    unguarding: extras that open interfaces of the host to their policy; last, and only if all of `dispatch` is in.
    """

    chains: tuple[tuple[str, Lines], ...] = ()
    existing: frozenset[str] = frozenset()
    dispatch: tuple[SetChange, ...] = ()
    extras: tuple[tuple[str, Lines], ...] = ()
    unguarding: tuple[tuple[str, Lines], ...] = ()

    def __bool__(self) -> bool:
        return bool(self.chains or self.dispatch or self.extras or self.unguarding)


@dataclass(frozen=True, slots=True)
class CleanupPlan:
    """Third step: what nothing refers to any more. objects: sets, maps, and strangers' things in our table."""

    chains: tuple[str, ...] = ()
    objects: tuple[ObjectName, ...] = ()

    def __bool__(self) -> bool:
        return bool(self.chains or self.objects)


class RefusedChange(NamedTuple):
    """Elements that the kernel did not take, with its words. is_stale: because it is not as was believed."""

    change: SetChange
    reason: str
    is_stale: bool = False


@dataclass(frozen=True, slots=True)
class TableWrite:
    """One transaction of structure, in this order.

    rebuilds: the whole old table goes first. objects: declared. chains: have exactly these lines afterwards.
    existing: those of them that may be there already. removed_chains, removed_objects: gone, whatever was in them.
    """

    objects: tuple[tuple[ObjectName, Lines], ...] = ()
    chains: tuple[tuple[str, Lines], ...] = ()
    existing: frozenset[str] = frozenset()
    rebuilds: bool = False
    removed_chains: tuple[str, ...] = ()
    removed_objects: tuple[ObjectName, ...] = ()


@dataclass(frozen=True, slots=True)
class WriteRefusal:
    """Why nothing of a transaction took effect. reason_by_chain: of those whose own lines were refused, if known."""

    reason: str
    reason_by_chain: Mapping[str, str] = field(default_factory=dict)

    def __str__(self) -> str:
        return self.reason


@dataclass(slots=True)
class ApplyResult:
    """What became of one plan.

    chains, objects, changes: what now stands as planned (cleanup: what is gone).
    closed: chains that were refused and now only drop, with the reason. refused: elements that are not in.
    skipped: chains of features that were refused: empty now, or not there if they would hang on a hook; the reason.
    needs_read: the kernel is not as believed, or the outcome is unknown: read the table before the next plan.
    error: why nothing more could be done; empty otherwise.
    """

    chains: list[str] = field(default_factory=list)
    objects: list[ObjectName] = field(default_factory=list)
    changes: list[SetChange] = field(default_factory=list)
    closed: dict[str, str] = field(default_factory=dict)
    refused: list[RefusedChange] = field(default_factory=list)
    skipped: dict[str, str] = field(default_factory=dict)
    needs_read: bool = False
    error: str = ""


class Count(NamedTuple):
    """What a counter has seen since it was declared."""

    packets: int
    size_bytes: int


class NftPort(Protocol):
    """What the family needs of a kernel: the real one behind the worker, or the fake one of the tests."""

    def run(self, text: str) -> str:
        """All of `text` took effect (then the answer is empty) or nothing of it (then it says why)."""

    def write(self, write: TableWrite) -> WriteRefusal | None:
        """All of `write` took effect (then the answer is None) or nothing of it.

        Raises PeerError when the outcome is unknown.
        """

    def change(self, changes: Sequence[SetChange]) -> list[RefusedChange]:
        """All of `changes` took effect (then the answer is empty) or nothing (then: parts that were refused).

        Raises PeerError when the outcome is unknown.
        """

    def set_counters(self, made: Sequence[str], removed: Sequence[str]) -> str:
        """All of these counters are made or gone (then the answer is empty) or none (then it says why).

        Raises PeerError when the outcome is unknown.
        """

    def list_table(self) -> str:
        """Returns the listing of the table without elements; empty when there is none."""

    def dump(self, set_: str, shape: ElementShape) -> dict[bytes, str]:
        """Returns the elements of a set or map. Raises KernelRefused when there is none, PeerError."""

    def count(self) -> dict[str, Count]:
        """Returns what the counters of the table say, by name; empty without table. Raises KernelRefused, PeerError."""


@dataclass(frozen=True, slots=True)
class Culprit:
    """Who changed our table. pid: as the kernel saw it, 0 if unknown. name: of the program, may be empty."""

    pid: int
    name: str

    def __str__(self) -> str:
        return f"{self.name or 'unknown program'} (pid {self.pid})" if self.pid else self.name or "unknown program"
