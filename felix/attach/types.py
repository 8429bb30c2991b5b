"""What the local API takes and gives to attach containers: requests, answers, and the words of its refusals. Pure.

Fields that no request has are refused, so that a misspelt one does not count as left out.
"""

from __future__ import annotations

import enum
import re
from typing import Annotated, TypeVar

import msgspec

from felix.errors import Blame, FelixError, Remedy
from felix.model.endpoints import QosControls
from felix.model.shape import explain_unknown

DEFAULT_DEADLINE_S = 30.0
DEADLINE_LIMIT_S = 120.0
ADDRESSES_LIMIT = 16
"""Of one interface; more would not fit beside the rest into one transaction of etcd."""

Few = Annotated[int, msgspec.Meta(ge=0, le=ADDRESSES_LIMIT)]
Deadline = Annotated[float, msgspec.Meta(gt=0)]
T = TypeVar("T")
_UNKNOWN_FIELD = re.compile(r"Object contains unknown field `([^`]*)`(?: - at `\$\.([A-Za-z_]+)`)?")


class Code(enum.Enum):
    """Why a request was refused, as programs read it."""

    INVALID = "invalid"
    NOT_FOUND = "not-found"
    CONFLICT = "conflict"
    EXHAUSTED = "exhausted"
    DIFFERS = "differs"
    UNAVAILABLE = "unavailable"
    TIMEOUT = "timeout"
    INTERNAL = "internal"


STATUS_BY_CODE = {
    Code.INVALID: 400,
    Code.NOT_FOUND: 404,
    Code.CONFLICT: 409,
    Code.EXHAUSTED: 409,
    Code.DIFFERS: 409,
    Code.UNAVAILABLE: 503,
    Code.TIMEOUT: 504,
    Code.INTERNAL: 500,
}


class Refusal(FelixError):
    """The request cannot be met; nothing that it began is left. differences: of what is checked, may be empty."""

    blame = Blame.DATA
    remedy = Remedy.IGNORE

    def __init__(self, code: Code, text: str, differences: tuple[str, ...] = ()) -> None:
        super().__init__(text)
        self.code = code
        self.differences = differences

    @property
    def status(self) -> int:
        """The status of HTTP that goes with the code."""
        return STATUS_BY_CODE[self.code]

    def document(self) -> dict[str, object]:
        """Returns what is answered."""
        rest = {"differences": list(self.differences)} if self.differences else {}
        return {"error": str(self), "code": self.code.value, **rest}


class Message(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    """The base of all requests."""


class Port(Message, frozen=True, kw_only=True):
    """A port with a name, as of a WorkloadEndpoint. protocol: TCP, UDP, SCTP."""

    name: str
    protocol: str = "TCP"
    port: Annotated[int, msgspec.Meta(ge=1, le=65535)]


class Controls(QosControls, frozen=True, gc=False, forbid_unknown_fields=True):
    """Limits of an endpoint, named as in its record; a name that is none of them is refused."""


class AttachRequest(Message, frozen=True, kw_only=True):
    """A container that is to have an interface.

    netns or pid: where it lives. orchestrator: `cni` or `mesos`. namespace: of its endpoint. profiles: names, in order.
    network_profile: whether the profile of the network's own name is one of them, made if missing; None: if `groups`
    is None. groups: None when none are meant; an empty list: it may talk with its own host only. ipv4, ipv6: how many
    addresses are chosen for it. addresses: which it must have besides. given: allocated already, by somebody else.
    pools: names or prefixes to choose from. node: which host is meant, empty for whichever this is. mac: empty for one
    that follows from its name. mtu: 0 for what the host chooses: the kernel's own, or what tunnels leave of it.
    qos_controls: limits of its endpoint.
    """

    network: str
    container: str
    interface: str = "eth0"
    netns: str = ""
    pid: Annotated[int, msgspec.Meta(ge=0)] = 0
    orchestrator: str = "cni"
    namespace: str = "default"
    labels: dict[str, str] = {}
    profiles: tuple[str, ...] = ()
    network_profile: bool | None = None
    groups: tuple[str, ...] | None = None
    ipv4: Few = 0
    ipv6: Few = 0
    addresses: tuple[str, ...] = ()
    given: tuple[str, ...] = ()
    pools: tuple[str, ...] = ()
    node: str = ""
    mac: str = ""
    mtu: Annotated[int, msgspec.Meta(ge=0, le=65535)] = 0
    ports: tuple[Port, ...] = ()
    qos_controls: Controls | None = msgspec.field(default=None, name="qosControls")
    default_route: bool = True
    forwarding: bool = False
    deadline_s: Deadline = DEFAULT_DEADLINE_S

    @property
    def has_network_profile(self) -> bool:
        """Whether the network's own profile is asked for."""
        return self.groups is None if self.network_profile is None else self.network_profile


class DetachRequest(Message, frozen=True, kw_only=True):
    """A container that is to have no interface any more. network: empty for whatever it was.

    release: whether its addresses are given back; if not, somebody else does that.
    """

    network: str = ""
    container: str
    interface: str = "eth0"
    orchestrator: str = "cni"
    release: bool = True
    deadline_s: Deadline = DEFAULT_DEADLINE_S


class Valid(Message, frozen=True, kw_only=True):
    """A container and interface that are still wanted."""

    container: str
    interface: str = "eth0"


class GcRequest(Message, frozen=True, kw_only=True):
    """All that is still wanted of a network on this host; everything else of it goes."""

    network: str
    orchestrator: str = "cni"
    valid: tuple[Valid, ...] = ()
    deadline_s: Deadline = DEADLINE_LIMIT_S


class AllocateRequest(Message, frozen=True, kw_only=True):
    """Addresses for a handle, all or none: so many chosen ones, and these. attributes: stored beside each.

    node: which host is meant, empty for whichever this is.
    """

    handle: str
    ipv4: Few = 0
    ipv6: Few = 0
    addresses: tuple[str, ...] = ()
    pools: tuple[str, ...] = ()
    node: str = ""
    attributes: dict[str, str] = {}
    deadline_s: Deadline = DEFAULT_DEADLINE_S


class ReleaseRequest(Message, frozen=True, kw_only=True):
    """What is given back: all of a handle, or these addresses; with both, those of them that the handle holds.

    attributes: when given, only what this host allocated with all of these; net-modules releases by address alone.
    """

    handle: str = ""
    addresses: tuple[str, ...] = ()
    attributes: dict[str, str] = {}
    deadline_s: Deadline = DEFAULT_DEADLINE_S


class FindRequest(Message, frozen=True, kw_only=True):
    """Whose addresses are asked for."""

    handle: str
    deadline_s: Deadline = DEFAULT_DEADLINE_S


class AttachAnswer(msgspec.Struct, frozen=True):
    """The container is attached, and its policy is in force.

    endpoint: namespace and name of its WorkloadEndpoint. addresses: with /32 and /128, IPv4 first.
    gateways: one per family that it has. took_ms: by step. is_new: whether this call did it, wholly or in part; if not,
    all was as asked for already.
    """

    endpoint: str
    host_interface: str
    host_mac: str
    interface: str
    mac: str
    mtu: int
    addresses: list[str]
    gateways: list[str]
    took_ms: dict[str, float]
    is_new: bool = True


class DetachAnswer(msgspec.Struct, frozen=True):
    """The container is not attached. was_there: whether there was anything of it. released: without length."""

    was_there: bool
    released: list[str]


class CheckAnswer(msgspec.Struct, frozen=True):
    """What differs from what was attached; empty when all is right."""

    differences: list[str]


class GcAnswer(msgspec.Struct, frozen=True):
    """What went: interfaces as `container/interface`, addresses; and what could not be removed, and why."""

    detached: list[str]
    released: list[str]
    failures: list[str]


class Addresses(msgspec.Struct, frozen=True):
    """Addresses that a handle has, with /32 and /128."""

    addresses: list[str]


class Released(msgspec.Struct, frozen=True):
    """Addresses that somebody had until now, without length."""

    released: list[str]


def parse_request(body: bytes, wanted: type[T]) -> T:
    """Returns the request that a body holds. Raises Refusal with field and reason."""
    try:
        return msgspec.json.decode(body or b"{}", type=wanted)
    except (msgspec.MsgspecError, UnicodeDecodeError, RecursionError) as error:
        raise Refusal(Code.INVALID, f"the request cannot be used: {_explain(str(error), wanted)}") from None


def _explain(text: str, wanted: type) -> str:
    """Returns what a decoder said, and for a misspelt field the nearest one that there is."""
    found = _UNKNOWN_FIELD.fullmatch(text)
    if found is None:
        return text
    name, inside = found.groups()
    known = {None: wanted, "qosControls": QosControls}.get(inside)
    reason = explain_unknown(name, list(getattr(known, "__struct_encode_fields__", ())))
    return f"{inside}.{name}: {reason}" if inside else f"{name}: {reason}"


def bound_deadline(seconds: float) -> float:
    """Returns how long a call may take: what its caller said, two minutes at most."""
    return min(seconds, DEADLINE_LIMIT_S)
