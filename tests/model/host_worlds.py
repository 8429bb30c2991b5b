"""Generated host endpoints for the nft family, as `nft_worlds` does for workloads."""

from __future__ import annotations

from dataclasses import replace

from hypothesis import strategies as st

from felix.calc.desired import ALL_INTERFACES, Action, HostStacks, LocalHostEndpoint, Stack, StackTier
from felix.model.keys import ResourceKey
from felix.model.records import GlobalNetworkPolicy, HostEndpoint, StagedGlobalNetworkPolicy
from felix.policy.evaluate import World
from tests.model.nft_worlds import stacks, tiers
from tests.model.worlds import LABELS, PROFILES, RULE_LISTS, Document, PolicyType, read_record, worlds

_TIERS = st.lists(tiers, max_size=2).map(tuple)


def _stack(tiers: tuple[StackTier, ...], *earlier: tuple[StackTier, ...]) -> Stack | None:
    return Stack(tiers, (), Action.PASS, *earlier) if tiers else None


@st.composite
def host_stacks(draw: st.DrawFn) -> HostStacks:
    """Yields what calculation could hand out: tiers of earlier hooks pass where nothing matches."""
    in_, out = draw(stacks), draw(stacks)
    raw_in, raw_out, pre = (tuple(tier._replace(default_action=Action.PASS) for tier in draw(_TIERS)) for _ in range(3))
    return HostStacks(
        in_._replace(untracked=raw_in, pre_dnat=pre),
        out._replace(untracked=raw_out),
        _stack(draw(_TIERS), raw_in, pre),
        _stack(draw(_TIERS)),
        _stack(pre, raw_in),
        _stack(raw_in),
        _stack(raw_out),
    )


@st.composite
def bindings(draw: st.DrawFn) -> dict[str, LocalHostEndpoint]:
    """Yields interfaces with their host endpoints; may be none."""
    names = draw(st.lists(st.sampled_from(("eth0", "eth1", ALL_INTERFACES)), max_size=3, unique=True))
    return {name: make_host_endpoint(name, draw(host_stacks())) for name in names}


_FLAGS = st.sampled_from(
    [
        {},
        {"applyOnForward": True},
        {"applyOnForward": True, "preDNAT": True},
        {"applyOnForward": True, "doNotTrack": True},
    ]
)
_TYPES = st.sampled_from([["Ingress"], ["Egress"], ["Ingress", "Egress"]])
_INTERFACES = st.sampled_from(["eth0", "eth0", "*", "", "eth9"])
_SELECTORS = st.sampled_from(["", "", "has(host)", "all()"])
_KINDS: st.SearchStrategy[PolicyType] = st.sampled_from(
    (GlobalNetworkPolicy, GlobalNetworkPolicy, GlobalNetworkPolicy, StagedGlobalNetworkPolicy)
)
_ENDINGS = st.sampled_from([[Document(action="Allow")], [], [], [Document(action="Pass")]])


@st.composite
def host_worlds(draw: st.DrawFn) -> World:
    """Draws a world with up to three host endpoints on both hosts and policies of every kind for them."""
    world = draw(worlds())
    endpoints = {}
    for name in draw(st.sampled_from(["a", "ab", "b", "abc"])):
        key = ResourceKey("HostEndpoint", "", name)
        spec: Document = {
            "node": draw(st.sampled_from(["h1", "h1", "h1", "h2"])),
            "interfaceName": draw(_INTERFACES),
            "expectedIPs": draw(st.sampled_from([["192.0.2.130"], ["192.0.2.1", "2001:db8::82"]])),
            "profiles": draw(st.lists(st.sampled_from(PROFILES), max_size=2, unique=True)),
        }
        endpoints[key] = read_record(key, spec, {**draw(LABELS), "host": "yes"}, HostEndpoint)
    policies = dict(world.policies)
    for number in range(draw(st.sampled_from([3, 2, 4, 1, 0]))):
        kind = draw(_KINDS)
        key = ResourceKey(kind.__name__, "", f"host-{number}")
        spec = {
            "tier": draw(st.sampled_from(["default", "early", "late"])),
            "order": draw(st.sampled_from([1, 2, 3])),
            "selector": draw(_SELECTORS),
            "types": draw(_TYPES),
            "ingress": [*draw(RULE_LISTS)[:3], *draw(_ENDINGS)],
            "egress": [*draw(RULE_LISTS)[:3], *draw(_ENDINGS)],
            **draw(_FLAGS),
        }
        if spec.get("preDNAT"):
            spec |= {"types": ["Ingress"], "egress": []}
        policies[key] = read_record(key, spec, None, kind)
    return replace(world, host_endpoints=endpoints, policies=policies)


def make_host_endpoint(interface: str, stacks: HostStacks) -> LocalHostEndpoint:
    """Returns a host endpoint of one interface."""
    return LocalHostEndpoint(ResourceKey("HostEndpoint", "", f"h-{interface}"), interface, (), stacks)
