"""Names of our chains and sets: readable in front, unique by a hash behind, and never anything but plain characters."""

from __future__ import annotations

import base64
import hashlib
import re

from felix.calc.desired import Action, Stack, StackTier
from felix.dataplane.nft.types import ElementShape
from felix.model.keys import ResourceKey
from felix.policy.staged import is_staged

INGRESS = "ingress"
EGRESS = "egress"
HOST_INGRESS, HOST_EGRESS = "host ingress", "host egress"
FORWARD_INGRESS, FORWARD_EGRESS = "forward ingress", "forward egress"
PRE_DNAT = "pre-DNAT ingress"
UNTRACKED_INGRESS, UNTRACKED_EGRESS = "untracked ingress", "untracked egress"
# The same question again on a later hook, about a packet that has passed the first: what allows it says so silently.
PRE_DNAT_AGAIN = "pre-DNAT again ingress"
UNTRACKED_INGRESS_AGAIN, UNTRACKED_EGRESS_AGAIN = "untracked again ingress", "untracked again egress"
STAGED = "staged"
"""What the names of chains begin with whose rules are tried and not enforced."""

_HASH_BYTES = 10  # 80 bits: nobody finds two policies with one chain by trying
_READABLE_CHARACTERS = 40
_UNPLAIN = re.compile(r"[^A-Za-z0-9_.-]")
_UNPLAIN_COMMENT = re.compile(r"[^A-Za-z0-9_.:/()=,; -]")
_SET_ID = re.compile(r"[A-Za-z0-9_.-]{1,40}")
_COMMENT_CHARACTERS = 120  # the kernel's tools keep 128 bytes with a closing zero


def is_inward(direction: str) -> bool:
    """Whether packets on that way come towards the endpoint, and the ingress rules of policies are meant."""
    return direction.endswith(INGRESS)


def policy_chain(direction: str, key: ResourceKey) -> str:
    """Returns the name of the chain that holds one direction of a policy or profile."""
    where = f"{key.namespace}." if key.namespace else ""
    kind = "profile" if key.kind == "Profile" else STAGED if is_staged(key.kind) else "policy"
    return f"{kind}-{_SHORT[direction]}-{_plain(where + key.name)}-{_digest(key.kind, key.namespace, key.name)}"


def key_digest(key: ResourceKey) -> str:
    """Returns what the names of all things of one policy or profile end in."""
    return _digest(key.kind, key.namespace, key.name)


def stack_chain(direction: str, stack: Stack) -> str:
    """Returns the name of the chain that endpoints with this stack are dispatched to."""
    return f"endpoint-{_FRONT.get(direction, _SHORT[direction])}-{_stack_digest(stack)}"


def segment_chain(direction: str, rest: Stack) -> str:
    """Returns the name of the chain that decides what the tiers and profiles in `rest` decide."""
    first = _plain(rest.tiers[0].name) if rest.tiers else "profiles"
    return f"tier-{_SHORT[direction]}-{first}-{_stack_digest(rest)}"


def address_set(set_id: str, shape: ElementShape) -> str:
    """Returns the name of the kernel set that holds one part of an address set. shape: one of the four of addresses."""
    return f"{_ADDRESS_PREFIX[shape]}-{set_id if _SET_ID.fullmatch(set_id) else 'x' + _digest(set_id)}"


def port_set(set_id: str, shape: ElementShape) -> str:
    """Returns the name of the kernel set that holds one family of a port set. shape: IPV4_PORT or IPV6_PORT."""
    name = set_id.partition("@")[0]
    return f"{_ADDRESS_PREFIX[shape]}-{_plain(name)}-{_digest(set_id)}"


def source_chain(interface: str) -> str:
    """Returns the name of the chain of what an interface may send under addresses that are not its own."""
    return f"sources-{_plain(interface)}-{_digest(interface)}"


def limit_chain(map_: str, interface: str) -> str:
    """Returns the name of the chain that one map of limits leads an interface's packets to."""
    return f"{map_}-{_plain(interface)}-{_digest(interface)}"


def comment(text: str) -> str:
    """Returns `text` as a rule's comment, quotes included: plain characters only, at most 120 of them."""
    return f'"{_UNPLAIN_COMMENT.sub("_", text)[:_COMMENT_CHARACTERS]}"'


# Ways with the same word here share the chains of policies: their rules end in the same statements.
_SHORT = {
    INGRESS: "in",
    EGRESS: "out",
    HOST_INGRESS: "in",
    HOST_EGRESS: "leave",
    FORWARD_INGRESS: "in",
    FORWARD_EGRESS: "out",
    PRE_DNAT: "pre",
    UNTRACKED_INGRESS: "raw-in",
    UNTRACKED_EGRESS: "raw-out",
    PRE_DNAT_AGAIN: "was-pre",
    UNTRACKED_INGRESS_AGAIN: "was-raw-in",
    UNTRACKED_EGRESS_AGAIN: "was-raw-out",
}
_FRONT = {
    HOST_INGRESS: "host-in",
    HOST_EGRESS: "host-out",
    FORWARD_INGRESS: "forward-in",
    FORWARD_EGRESS: "forward-out",
}
DIRECTIONS = tuple(_SHORT)
"""Every way of packets that stacks can be about."""

_ADDRESS_PREFIX = {
    ElementShape.IPV4: "a4",
    ElementShape.IPV6: "a6",
    ElementShape.IPV4_RANGE: "n4",
    ElementShape.IPV6_RANGE: "n6",
    ElementShape.IPV4_PORT: "p4",
    ElementShape.IPV6_PORT: "p6",
}


def _stack_digest(stack: Stack) -> str:
    parts = _tier_parts(stack.tiers)
    for key in stack.profiles:
        parts += ["p", key.kind, key.namespace, key.name]
    if stack.ending is not Action.DENY or stack.untracked or stack.pre_dnat:
        parts += ["e", stack.ending.value]
        parts += ["u", *_tier_parts(stack.untracked), "d", *_tier_parts(stack.pre_dnat)]
    return _digest(*parts)


def _tier_parts(tiers: tuple[StackTier, ...]) -> list[str]:
    parts = []
    for tier in tiers:
        parts += ["t", tier.name, tier.default_action.value]
        for key in tier.policies:
            parts += [key.kind, key.namespace, key.name]
    return parts


def _plain(text: str) -> str:
    return _UNPLAIN.sub("_", text)[:_READABLE_CHARACTERS]


def _digest(*parts: str) -> str:
    hashed = hashlib.blake2b(digest_size=_HASH_BYTES)
    for part in parts:
        encoded = part.encode("utf-8", "surrogatepass")
        hashed.update(len(encoded).to_bytes(4, "big"))
        hashed.update(encoded)
    return base64.b32encode(hashed.digest()).decode().lower()
