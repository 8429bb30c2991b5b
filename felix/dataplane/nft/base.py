"""What is in the table whatever the endpoints are: hooks, the gate in front of policy, and the sets they look into.

`accept` ends the base chain that it is in and no other, so one hook has two base chains: the first asks the policy of
the workload that a packet comes from, the second that of the workload it goes to. With empty maps nothing passes.
"""

from __future__ import annotations

from collections.abc import Iterator

from felix.dataplane.nft.sources import render_gate, render_jump, render_mac_check, source_shapes
from felix.dataplane.nft.stack import DENIED_COUNTER, ENCAPSULATED_COUNTER
from felix.dataplane.nft.statements import REJECT_CHAIN
from felix.dataplane.nft.types import DenyAction, ElementShape, Lines, NftConfig, ObjectName, ToHostAction

FROM_WORKLOAD = "dispatch-from"
TO_WORKLOAD = "dispatch-to"
CLAIMED = "claimed"
SOURCES4 = "sources4"
SOURCES6 = "sources6"
DISPATCH_SHAPES = {
    FROM_WORKLOAD: ElementShape.NAME_CHAIN,
    TO_WORKLOAD: ElementShape.NAME_CHAIN,
    CLAIMED: ElementShape.NAME,
    SOURCES4: ElementShape.NAME_IPV4,
    SOURCES6: ElementShape.NAME_IPV6,
}
"""The maps and sets whose elements open an endpoint; they change together or not at all."""

COUNTERS = {
    "spoofed": "from a workload, with a source address that is not its own",
    "unclaimed": "from or to a workload interface without endpoint",
    "advertised": "router advertisements, redirects and answers of DHCP servers from workloads",
    "to-host": "from a workload to this host, closed by default",
    ENCAPSULATED_COUNTER: "VXLAN and IP-in-IP packets from workloads",
    "tunnelled": "VXLAN packets to this host from none that is known",
    "limited": "over a limit of an endpoint",
    "flooding": "new connections over the rate of one source",
    DENIED_COUNTER: "by the default of a tier, a missing policy, or because nothing allowed it",
}
"""Counters of dropped packets, with what they count."""

# Sent by every IPv6 host before anybody can know it: MLD, and ND without router advertisement and redirect.
_DISCOVERY = "icmpv6 type { 131, 132, 133, 135, 136, 143 }"
_ADVERTISING = "icmpv6 type { 134, 137 }"
_DUPLICATE_DETECTION = "icmpv6 type { 131, 133, 135, 143 }"
# Who asks for an address has none yet.
_ASKING_DHCP4 = "ip saddr 0.0.0.0 ip daddr 255.255.255.255 udp sport 68 udp dport 67"
_ASKING_DHCP6 = "ip6 saddr fe80::/10 udp sport 546 udp dport 547"
_ANSWERING_DHCP = "udp sport . udp dport { 547 . 546, 67 . 68 }"
_SERVED_BY_HOST = ("udp sport . udp dport { 546 . 547, 68 . 67 }", "udp dport 53")


def declare(shape: ElementShape) -> Lines:
    """Returns the lines that declare a set or map of that shape."""
    type_line = f"type {shape.value.removesuffix(' interval')}"
    return (type_line, "flags interval") if shape.is_range else (type_line,)


def base_objects(config: NftConfig) -> dict[ObjectName, Lines]:
    """Returns the counters, sets and maps that base chains refer to."""
    objects: dict[ObjectName, Lines] = {ObjectName("counter", name): () for name in COUNTERS}
    for name, shape in (DISPATCH_SHAPES | source_shapes(config)).items():
        objects[ObjectName("map" if shape.is_map else "set", name)] = declare(shape)
    return objects


def base_chains(config: NftConfig) -> dict[str, Lines]:
    """Returns base chains and the chains that they go to before any policy; none refers to one behind it."""
    from_workload = [f'iifname "{prefix}*" goto' for prefix in config.interface_prefixes]
    to_workload = [f'oifname "{prefix}*" goto' for prefix in config.interface_prefixes]
    ahead = [f"iifname @{CLAIMED} {packets} accept" for packets in (_DISCOVERY, *_SERVED_BY_HOST)]
    reject: dict[str, Lines] = {REJECT_CHAIN: ("reject",)} if config.deny is DenyAction.REJECT else {}
    return {
        **reject,
        **render_gate(config),
        "gate-source": (
            f"iifname != @{CLAIMED} {drop('unclaimed')}",
            *render_mac_check(config, drop("spoofed")),
            f"{_ADVERTISING} {drop('advertised')}",
            f"{_ANSWERING_DHCP} {drop('advertised')}",
            f"iifname . ip saddr @{SOURCES4} accept",
            f"iifname . ip6 saddr @{SOURCES6} accept",
            f"{_ASKING_DHCP4} accept",
            f"{_ASKING_DHCP6} accept",
            f"ip6 saddr fe80::/10 {_DISCOVERY} accept",
            f"ip6 saddr :: {_DUPLICATE_DETECTION} accept",
            *render_jump(config),
            drop("spoofed"),
        ),
        "gate-from": (f"iifname vmap @{FROM_WORKLOAD}", drop("unclaimed")),
        "gate-to": (f"oifname vmap @{TO_WORKLOAD}", drop("unclaimed")),
        "gate-to-host": (
            *ahead,
            f"iifname vmap @{FROM_WORKLOAD}",
            drop("unclaimed"),
        ),
        "gate-host": (
            "ct state 0x2,0x4 accept",
            *ahead,
            drop("to-host") if config.to_host is ToHostAction.DROP else "accept",
        ),
        "gate-from-host": (f"oifname @{CLAIMED} accept", drop("unclaimed")),
        "prerouting": (_hook("prerouting", -300), *(f"{rule} gate-source" for rule in from_workload)),
        "input": (_hook("input", 0), *_guarded("iifname", config, "gate-to-host")),
        "input-default": (_hook("input", 1), *(f"{rule} gate-host" for rule in from_workload)),
        "forward-egress": (_hook("forward", 0), *_guarded("iifname", config, "gate-from")),
        "forward-ingress": (_hook("forward", 1), *_guarded("oifname", config, "gate-to")),
        "output": (_hook("output", 0), *(f"{rule} gate-from-host" for rule in to_workload)),
    }


def _hook(hook: str, priority: int) -> str:
    return f"type filter hook {hook} priority {priority}; policy accept;"


def _guarded(word: str, config: NftConfig, gate: str) -> Iterator[str]:
    """Yields rules after which nothing of workloads passes by itself.

    The gate leads to chains of endpoints. Should one of those be empty, because somebody flushed it, a packet comes
    back here instead of leaving by the hook's own policy, which is accept for everybody else's sake.
    """
    for prefix in config.interface_prefixes:
        yield f'{word} "{prefix}*" jump {gate}'
        yield f'{word} "{prefix}*" {drop(DENIED_COUNTER)}'


FIRST_OF_CONNECTION = "ct state 0x8 ct status ! 0x8"
"""Matches what opens a connection. What follows is new too until somebody answers, but confirmed by then."""


def drop(counter: str) -> str:
    """Returns the statement that counts a packet and drops it."""
    return f'counter name "{counter}" drop'
