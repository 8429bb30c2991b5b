"""The table of a small host as people would read it with `nft list table inet felix`."""

from __future__ import annotations

from felix.calc.desired import (
    Action,
    CompiledPolicy,
    CompiledRule,
    DesiredDelta,
    EntityMatch,
    IcmpMatch,
    MemberDelta,
    PortRange,
    SetRef,
    Stack,
    StackTier,
)
from felix.dataplane.nft.plan import NftPlan
from felix.dataplane.nft.types import KernelTable, NftConfig, ToHostAction
from felix.model.keys import ResourceKey
from felix.model.net import parse_net
from tests.conftest import CheckGolden
from tests.model.fake_nft import FakeNft
from tests.model.nft_worlds import drive, endpoint

_SECURITY = ResourceKey("GlobalNetworkPolicy", "", "security.quarantine")
_WEB = ResourceKey("NetworkPolicy", "shop", "default.web")
_OPEN = ResourceKey("Profile", "", "open")
_CLIENTS = SetRef("clients", nets4=True, nets6=False)


def _small_host() -> DesiredDelta:
    bad = EntityMatch(nets=(parse_net("192.0.2.0/24"), parse_net("198.51.100.7"), parse_net("2001:db8::/32")))
    quarantine = (
        CompiledRule(Action.LOG, source=bad),
        CompiledRule(Action.DENY, source=bad),
        CompiledRule(Action.PASS),
    )
    web = (
        CompiledRule(
            Action.ALLOW,
            protocol=6,
            source=EntityMatch(sets=(_CLIENTS,)),
            destination=EntityMatch(ports=(PortRange(80, 80), PortRange(8000, 8010))),
        ),
        CompiledRule(Action.ALLOW, protocol=1, not_icmp=IcmpMatch(5, 1)),
        CompiledRule(Action.DENY, not_protocol=17, destination=EntityMatch(not_sets=(_CLIENTS,))),
    )
    tiers = (StackTier("security", (_SECURITY,), Action.DENY), StackTier("default", (_WEB,), Action.DENY))
    delta = DesiredDelta(
        sets={"clients": True},
        members={"clients": MemberDelta({parse_net("10.65.0.7"), parse_net("10.66.0.0/24"), parse_net("fd00::7")})},
        policies={
            _SECURITY: CompiledPolicy(quarantine, ()),
            _WEB: CompiledPolicy(web, ()),
            _OPEN: CompiledPolicy((), (CompiledRule(Action.ALLOW),)),
        },
    )
    for one in (endpoint(1, Stack(tiers, (_OPEN,)), Stack((), (_OPEN,))), endpoint(2, Stack((), ()), Stack((), ()))):
        delta.endpoints[one.key] = one
    return delta


def _listing(config: NftConfig, delta: DesiredDelta) -> str:
    kernel = FakeNft()
    plan = NftPlan(config)
    plan.replace_believed(KernelTable())
    plan.on_delta(delta)
    drive(kernel, plan)
    assert plan.is_settled
    elements = [
        f"# {set_}: {key.rstrip(bytes(1)).decode() if set_ == 'claimed' else key.hex()} {chain}".rstrip()
        for set_, chain_by_key in (kernel.table.elements if kernel.table else {}).items()
        for key, chain in sorted(chain_by_key.items())
    ]
    return kernel.list_table() + "\n".join([*elements, ""])


def test_table_of_a_small_host_is_as_expected(check_golden: CheckGolden) -> None:
    check_golden("nft/small_host.nft", _listing(NftConfig(), _small_host()))


def test_table_without_endpoints_and_with_other_settings_is_as_expected(check_golden: CheckGolden) -> None:
    config = NftConfig(interface_prefixes=("cali", "tap"), to_host=ToHostAction.ACCEPT)
    check_golden("nft/empty_host.nft", _listing(config, DesiredDelta()))
