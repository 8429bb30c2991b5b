"""The chains and sets of features beside policy, each as people would read it with `nft list table inet felix`."""

from __future__ import annotations

from dataclasses import replace

from felix.calc.desired import (
    HOSTS,
    MASQUERADED,
    POOLS,
    TUNNEL_PEERS,
    Action,
    Bandwidth,
    CompiledPolicy,
    CompiledRule,
    DesiredDelta,
    EntityMatch,
    FloatingAddress,
    HostStacks,
    Limits,
    MemberDelta,
    OwnVtep,
    PacketRate,
    PortRange,
    SourceRate,
    Stack,
    StackTier,
)
from felix.dataplane.nft.cuts import CUT_CHAINS
from felix.dataplane.nft.extras import is_extra
from felix.dataplane.nft.plan import NftPlan
from felix.dataplane.nft.sources import SOURCE_SHAPES
from felix.dataplane.nft.types import FloodConfig, KernelTable, NatConfig, NftConfig
from felix.model.keys import ResourceKey
from felix.model.net import parse_address, parse_net
from felix.policy.packet import Packet
from tests.conftest import CheckGolden
from tests.model.fake_nft import FakeNft
from tests.model.host_worlds import make_host_endpoint
from tests.model.nft_worlds import drive, endpoint
from tests.support.desired import local_endpoint


def _nets(*texts: str) -> MemberDelta:
    return MemberDelta({parse_net(text) for text in texts})


_EMPTY = Stack((), ())
_POOLS = {
    POOLS: _nets("10.65.0.0/16", "10.66.0.0/16", "fd65::/64"),
    MASQUERADED: _nets("10.65.0.0/16", "fd65::/64"),
    HOSTS: _nets("192.0.2.1", "2001:db8::1"),
}


def listing(config: NftConfig, delta: DesiredDelta) -> str:
    """Returns what the features have in the table, without what every table has."""
    texts = []
    for settings, one in ((NftConfig(), DesiredDelta()), (config, delta)):
        kernel, plan = FakeNft(), NftPlan(settings)
        plan.replace_believed(KernelTable())
        plan.on_delta(one)
        drive(kernel, plan)
        assert plan.is_settled
        assert kernel.table is not None
        texts.append(kernel)
    usual, table = (kernel.table for kernel in texts)
    assert usual is not None
    assert table is not None
    lines = []
    for kind, name in table.objects:
        if (kind, name) not in usual.objects:
            lines += [f"{kind} {name} {{", *(f"\t{line}" for line in table.objects[kind, name]), "}"]
            lines += [f"# {key.hex()} {value}".rstrip() for key, value in sorted(table.elements.get(name, {}).items())]
    for chain, rules in table.rules.items():
        if is_extra(chain):
            hook = [f"\t{table.hooks[chain]}"] if chain in table.hooks else []
            lines += [f"chain {chain} {{", *hook, *(f"\t{rule.line}" for rule in rules), "}"]
    return "\n".join([*lines, ""])


def test_outgoing_traffic_that_hides_behind_its_host_is_as_expected(check_golden: CheckGolden) -> None:
    check_golden("nft/outgoing.nft", listing(NftConfig(), DesiredDelta(nets=_POOLS)))


def test_outgoing_traffic_with_every_setting_is_as_expected(check_golden: CheckGolden) -> None:
    nat = NatConfig(parse_address("203.0.113.9"), (1024, 2048), True, "eth+")
    check_golden("nft/outgoing_settings.nft", listing(NftConfig(nat=nat), DesiredDelta(nets=_POOLS)))


def test_limits_of_two_endpoints_are_as_expected(check_golden: CheckGolden) -> None:
    every = Limits(
        PacketRate(100, 5), PacketRate(200, 50), 20, 30, Bandwidth(10**7, 10**6), Bandwidth(10**8, 65536), 46
    )
    every = replace(every, per_source=SourceRate(50, 100))
    ends = [
        replace(endpoint(1, _EMPTY, _EMPTY), limits=every),
        replace(endpoint(2, _EMPTY, _EMPTY), limits=Limits(connections_out=8)),
        endpoint(3, _EMPTY, _EMPTY),
    ]
    check_golden("nft/limits.nft", listing(NftConfig(), DesiredDelta(endpoints={one.key: one for one in ends})))


def test_limit_of_new_connections_per_source_is_as_expected(check_golden: CheckGolden) -> None:
    check_golden("nft/floods.nft", listing(NftConfig(flood=FloodConfig(100, 200)), DesiredDelta()))


def test_tunnels_of_both_families_are_as_expected(check_golden: CheckGolden) -> None:
    mac = "66:00:00:00:00:01"
    own = {
        4: OwnVtep(None, mac, parse_net("192.0.2.1"), 4096, 4789, 0),
        6: OwnVtep(None, mac, parse_net("2001:db8::1"), 4096, 4789, 0),
    }
    peers = _nets("192.0.2.2", "198.51.100.0/24", "2001:db8::2")
    delta = DesiredDelta(own_vteps=dict(own), nets={TUNNEL_PEERS: peers})
    check_golden("nft/tunnels.nft", listing(NftConfig(), delta))


def test_external_addresses_are_as_expected(check_golden: CheckGolden) -> None:
    floating = (
        FloatingAddress(parse_net("192.0.2.7"), parse_net("10.1.0.1")),
        FloatingAddress(parse_net("2001:db8::7"), parse_net("fd02::1")),
    )
    one = replace(endpoint(1, _EMPTY, _EMPTY), floating=floating)
    config = NftConfig(nat=NatConfig(has_floating=True))
    check_golden("nft/floating.nft", listing(config, DesiredDelta(nets=_POOLS, endpoints={one.key: one})))
    assert listing(NftConfig(), DesiredDelta(endpoints={one.key: one})) == ""


def test_pools_of_which_none_hides_need_nothing() -> None:
    assert listing(NftConfig(), DesiredDelta(nets={POOLS: _POOLS[POOLS], HOSTS: _POOLS[HOSTS]})) == ""


_NORMAL = ResourceKey("GlobalNetworkPolicy", "", "default.ssh")
_RAW = ResourceKey("GlobalNetworkPolicy", "", "default.raw")
_BEFORE = ResourceKey("GlobalNetworkPolicy", "", "default.before")


def test_host_endpoints_with_policies_of_all_kinds_are_as_expected(check_golden: CheckGolden) -> None:
    def tiers(key: ResourceKey, action: Action = Action.PASS) -> tuple[StackTier, ...]:
        return (StackTier("default", (key,), action),)

    def allow(port: int) -> CompiledPolicy:
        to = EntityMatch(nets=(parse_net("192.0.2.0/24"),), ports=(PortRange(port, port), PortRange(8000, 8010)))
        rules = (CompiledRule(Action.ALLOW, protocol=6, destination=to),)
        return CompiledPolicy(rules, rules)

    normal = tiers(_NORMAL, Action.DENY)
    stacks = HostStacks(
        ingress=Stack(normal, (), Action.DENY, tiers(_RAW), tiers(_BEFORE)),
        egress=Stack(normal, (), Action.DENY, tiers(_RAW)),
        forward_ingress=Stack(normal, (), Action.PASS, tiers(_RAW), tiers(_BEFORE)),
        pre_dnat=Stack(tiers(_BEFORE), (), Action.PASS, tiers(_RAW)),
        untracked_ingress=Stack(tiers(_RAW), (), Action.PASS),
        untracked_egress=Stack(tiers(_RAW), (), Action.PASS),
    )
    everywhere = HostStacks(Stack((), ()), Stack((), ()))
    kernel, plan = FakeNft(), NftPlan(NftConfig())
    plan.replace_believed(KernelTable())
    plan.on_delta(DesiredDelta(policies={_NORMAL: allow(22), _RAW: allow(53), _BEFORE: allow(80)}))
    plan.bind_hosts({"eth0": make_host_endpoint("eth0", stacks), "*": make_host_endpoint("*", everywhere)})
    drive(kernel, plan)
    assert plan.is_settled
    assert kernel.table is not None
    lines = []
    for chain, rules in kernel.table.rules.items():
        if chain.startswith(("host-", "endpoint-", "tier-", "policy-")):
            hook = [f"\t{kernel.table.hooks[chain]}"] if chain in kernel.table.hooks else []
            lines += [f"chain {chain} {{", *hook, *(f"\t{rule.line}" for rule in rules), "}"]
    for set_, chain_by_key in kernel.table.elements.items():
        lines += [f"# {set_}: {key.rstrip(bytes(1)).decode()} {chain}" for key, chain in sorted(chain_by_key.items())]
    check_golden("nft/host_endpoints.nft", "\n".join([*lines, ""]))


def _print_chains(kernel: FakeNft, *prefixes: str) -> list[str]:
    assert kernel.table is not None
    chains = kernel.table.rules.items()
    return [
        line
        for name, rules in chains
        if name.startswith(prefixes)
        for line in (f"chain {name} {{", *(f"\t{rule.line}" for rule in rules), "}")
    ]


def test_cut_connections_are_as_expected(check_golden: CheckGolden) -> None:
    kernel, plan = FakeNft(), NftPlan(NftConfig())
    plan.replace_believed(KernelTable())
    addresses = ((4, "10.1.0.1", "10.9.0.1"), (6, "fd01::1", "fd09::1"))
    plan.cut([Packet(v, parse_address(a).value, parse_address(b).value, 6, 80, 40000) for v, a, b in addresses], 0.0)
    drive(kernel, plan)
    check_golden("nft/cut.nft", "\n".join([*_print_chains(kernel, *CUT_CHAINS), ""]))


def test_sources_beyond_own_addresses_are_as_expected(check_golden: CheckGolden) -> None:
    kernel, plan = FakeNft(), NftPlan(NftConfig(allows_spoofing=True, checks_macs=True))
    plan.replace_believed(KernelTable())
    nets = tuple(parse_net(text) for text in ("10.9.0.0/16", "192.0.2.7", "fd09::/64"))
    one = replace(local_endpoint("a", "calia", "10.1.0.1", mac="02:00:00:00:00:0a"), spoofed=nets)
    plan.on_delta(DesiredDelta(endpoints={one.key: one}))
    drive(kernel, plan)
    assert kernel.table is not None
    elements = [
        f"# {name} {key.hex()} {chain}".rstrip()
        for name in SOURCE_SHAPES
        for key, chain in kernel.table.elements[name].items()
    ]
    chains = _print_chains(kernel, "gate-source", "gate-allowed", "sources-")
    check_golden("nft/sources.nft", "\n".join([*chains, *elements, ""]))
