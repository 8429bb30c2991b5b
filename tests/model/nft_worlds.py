"""Generated desired states for the nft family, and how one is brought into a kernel, real or fake."""

from __future__ import annotations

from dataclasses import replace

from hypothesis import strategies as st

from felix.calc.desired import (
    MASQUERADED,
    POOLS,
    Action,
    CompiledPolicy,
    CompiledRule,
    DesiredDelta,
    EntityMatch,
    IcmpMatch,
    Limits,
    LocalEndpoint,
    MemberDelta,
    PacketRate,
    PortDelta,
    PortMember,
    PortRange,
    SetRef,
    SourceRate,
    Stack,
    StackTier,
)
from felix.dataplane.nft.apply import apply_cleanup, apply_fill, apply_structure
from felix.dataplane.nft.plan import NftPlan
from felix.dataplane.nft.types import ApplyResult, NftPort
from felix.model.keys import ResourceKey
from felix.model.net import Net, parse_net

NETS = tuple(
    parse_net(text)
    for text in (
        "0.0.0.0/0 10.0.0.0/8 10.1.0.0/16 10.1.2.3 10.1.2.4 10.1.2.5 10.2.0.0/15 128.0.0.0/1 255.255.255.255 0.0.0.0 "
        "::/0 fd00::/8 fd00::1 fd00::2 fd00::/127 2001:db8::/32 8000::/1 ::ffff:1.2.3.4 ::1.2.3.4 64:ff9b::102:304 "
        "ffff:ffff:ffff:ffff:ffff:ffff:ffff:ffff 1:0:0:2:0:0:0:3 ::1"
    ).split()
)
MEMBERS = tuple(
    parse_net(text)
    for text in (
        "10.1.2.3 10.1.2.4 10.1.3.0/24 10.1.4.0/24 10.1.5.0/24 10.9.0.0/16 240.0.0.0/4 0.0.0.0/8 192.168.0.1 "
        "fd00::1 fd00::2 fd01::/64 fd01:0:0:1::/64 ff00::/8 ::/16"
    ).split()
)
SET_IDS = ("s1", "s2")
PORT_SET_IDS = ("http@s1", "odd name@s2")
PORT_MEMBERS = tuple(
    PortMember(parse_net(text), protocol, port)
    for text in ("10.1.2.3", "fd00::1")
    for protocol, port in ((6, 80), (17, 53), (6, 65535))
)

nets = st.lists(st.sampled_from(NETS), max_size=4).map(tuple)
ports = st.lists(
    st.tuples(st.sampled_from((0, 80, 443, 1000)), st.sampled_from((0, 1, 20, 70000))).map(
        lambda pair: PortRange(pair[0], min(65535, pair[0] + pair[1]))
    ),
    max_size=3,
).map(tuple)
icmps = st.none() | st.tuples(st.sampled_from((0, 8, 128, 254)), st.sampled_from((None, 0, 3, 255))).map(
    lambda pair: IcmpMatch(*pair)
)
protocols = st.sampled_from((None, None, None, 1, 6, 17, 58, 132, 136, 51, 255))
VERSIONS = (None, None, None, 4, 6)


port_references = st.lists(st.sampled_from(PORT_SET_IDS), max_size=2, unique=True).map(tuple)


def entities(references: st.SearchStrategy[tuple[SetRef, ...]]) -> st.SearchStrategy[EntityMatch]:
    """Yields conditions on one side; many have none."""
    return st.just(EntityMatch()) | st.builds(
        EntityMatch,
        nets=st.none() | nets,
        not_nets=st.just(()) | nets,
        sets=st.just(()) | references,
        not_sets=st.just(()) | references,
        ports=st.none() | ports,
        not_ports=st.just(()) | ports,
        port_sets=st.just(()) | port_references,
        not_port_sets=st.just(()) | port_references,
    )


references = st.lists(
    st.builds(SetRef, st.sampled_from(SET_IDS), st.booleans(), st.booleans()), max_size=2, unique_by=lambda ref: ref.id
).map(tuple)
actions = st.sampled_from((Action.ALLOW, Action.ALLOW, Action.DENY, Action.DENY, Action.LOG, Action.PASS))
rules = st.builds(
    CompiledRule,
    action=actions,
    ip_version=st.sampled_from(VERSIONS),
    protocol=protocols,
    not_protocol=protocols,
    icmp=st.none() | icmps,
    not_icmp=st.none() | icmps,
    source=entities(references),
    destination=entities(references),
)
policies = st.builds(
    CompiledPolicy, ingress=st.lists(rules, max_size=3).map(tuple), egress=st.lists(rules, max_size=3).map(tuple)
)

POLICY_KEYS = tuple(ResourceKey("GlobalNetworkPolicy", "", f"p{number}") for number in range(5))
PROFILE_KEYS = tuple(ResourceKey("Profile", "", f"f{number}") for number in range(2))
tiers = st.builds(
    StackTier,
    name=st.sampled_from(("a", "b", "c")),
    policies=st.lists(st.sampled_from(POLICY_KEYS), min_size=1, max_size=3, unique=True).map(tuple),
    default_action=st.sampled_from((Action.DENY, Action.PASS)),
)
stacks = st.builds(
    Stack,
    tiers=st.lists(tiers, max_size=3).map(tuple),
    profiles=st.lists(st.sampled_from(PROFILE_KEYS), max_size=2, unique=True).map(tuple),
    # said, because Hypothesis invents values for what a named tuple has defaults for
    ending=st.just(Action.DENY),
    untracked=st.just(()),
    pre_dnat=st.just(()),
)


def endpoint(number: int, ingress: Stack, egress: Stack) -> LocalEndpoint:
    """Returns a workload endpoint with one address of each family."""
    addresses = (Net(4, 0x0A010000 + number, 32), Net(6, (0xFD02 << 112) + number, 128))
    key = ResourceKey("WorkloadEndpoint", "default", f"host-cni-w{number}-eth0")
    return LocalEndpoint(key, f"cali{number}", addresses, None, ingress, egress, 1)


POOL_NETS = tuple(parse_net(text) for text in ("10.1.0.0/16", "10.2.0.0/16", "10.9.0.1", "fd02::/64"))
limits = st.none() | st.builds(
    Limits,
    packets_in=st.none() | st.builds(PacketRate, st.just(10_000), st.sampled_from((5, 10_000))),
    packets_out=st.none() | st.builds(PacketRate, st.just(10_000), st.sampled_from((5, 10_000))),
    connections_in=st.sampled_from((0, 1_000)),
    connections_out=st.sampled_from((0, 1_000)),
    dscp=st.sampled_from((None, 0, 46)),
    per_source=st.sampled_from((None, SourceRate(1_000_000, 5), SourceRate(1_000_000, 1_000_000))),
)


@st.composite
def deltas(draw: st.DrawFn) -> DesiredDelta:
    """Yields a complete desired state; what its rules name exists."""
    delta = DesiredDelta()
    for set_id in SET_IDS:
        delta.sets[set_id] = True
        delta.members[set_id] = MemberDelta(set(draw(st.lists(st.sampled_from(MEMBERS), max_size=6))), set())
    for set_id in PORT_SET_IDS:
        delta.port_sets[set_id] = True
        delta.port_members[set_id] = PortDelta(set(draw(st.lists(st.sampled_from(PORT_MEMBERS), max_size=4))), set())
    for key in (*POLICY_KEYS, *PROFILE_KEYS):
        if draw(st.integers(0, 7)):
            delta.policies[key] = draw(policies)
    for number in range(draw(st.integers(0, 4))):
        one = replace(endpoint(number, draw(stacks), draw(stacks)), limits=draw(limits))
        delta.endpoints[one.key] = one
    if draw(st.booleans()):
        pools = draw(st.sets(st.sampled_from(POOL_NETS)))
        delta.nets = {POOLS: MemberDelta(set(POOL_NETS)), MASQUERADED: MemberDelta(pools)}
    return delta


def drive(port: NftPort, plan: NftPlan) -> list[ApplyResult]:
    """Runs one apply cycle as the driver does; returns the results of the steps that had something to do."""
    results = []
    fill = plan.plan_fill()
    elements = plan.plan_elements(fill)
    if fill and not elements:
        results.append(apply_fill(port, fill))
        plan.absorb_fill(fill, results[-1])
    if structure := elements or plan.plan_structure():
        results.append(apply_structure(port, structure))
        plan.absorb_structure(structure, results[-1])
    if plan.is_closing:
        structure = plan.plan_structure()
        results.append(apply_structure(port, structure))
        plan.absorb_structure(structure, results[-1])
    if cleanup := plan.plan_cleanup():
        results.append(apply_cleanup(port, cleanup))
        plan.absorb_cleanup(cleanup, results[-1])
    return results
