"""Packets of the tunnel at the host's own interfaces: from whom they are taken, and that policy does not stop them."""

from __future__ import annotations

import pytest

from felix.calc.desired import (
    ALL_INTERFACES,
    TUNNEL_PEERS,
    Action,
    CompiledPolicy,
    CompiledRule,
    DesiredDelta,
    HostStacks,
    MemberDelta,
    OwnVtep,
    Stack,
    StackTier,
)
from felix.dataplane.nft.plan import NftPlan
from felix.dataplane.nft.types import KernelTable, NftConfig
from felix.model.keys import ResourceKey
from felix.model.net import parse_net
from felix.policy.packet import UDP, Packet
from tests.model.fake_nft import FakeNft
from tests.model.host_worlds import make_host_endpoint
from tests.model.nft_worlds import drive

OWN = {4: "192.0.2.1", 6: "2001:db8::1"}
KNOWN = {4: "192.0.2.2", 6: "2001:db8::2"}
STRANGER = {4: "192.0.2.3", 6: "2001:db8::3"}
_DENY = ResourceKey("GlobalNetworkPolicy", "", "default.deny")
_DENIED = Stack((StackTier("default", (_DENY,), Action.DENY),), ())
_OPEN = Stack((), (), Action.ALLOW)
_NOTHING = CompiledRule(Action.DENY)


def make_packet(version: int, source: str, destination: str, port: int = 4789) -> Packet:
    return Packet(version, parse_net(source).value, parse_net(destination).value, UDP, 40000, port)


def start(*families: int) -> tuple[FakeNft, NftPlan]:
    """Returns a table with tunnels of those families."""
    kernel, plan = FakeNft(), NftPlan(NftConfig())
    plan.replace_believed(KernelTable())
    own = {one: OwnVtep(None, "66:00:00:00:00:01", parse_net(OWN[one]), 4096, 4789, 0) for one in families}
    peers = MemberDelta({parse_net(KNOWN[one]) for one in families})
    policies = {_DENY: CompiledPolicy((_NOTHING,), (_NOTHING,))}
    plan.on_delta(DesiredDelta(own_vteps=dict(own), nets={TUNNEL_PEERS: peers}, policies=dict(policies)))
    drive(kernel, plan)
    return kernel, plan


@pytest.mark.parametrize("version", [4, 6])
def test_tunnel_packet_is_taken_from_known_hosts_only(version: int) -> None:
    kernel, plan = start(4, 6)
    assert kernel.is_received(make_packet(version, KNOWN[version], OWN[version]), "eth0")
    assert not kernel.is_received(make_packet(version, STRANGER[version], OWN[version]), "eth0")
    assert kernel.is_received(make_packet(version, STRANGER[version], OWN[version], 4790), "eth0")
    peers = MemberDelta({parse_net(STRANGER[version])}, {parse_net(KNOWN[version])})
    plan.on_delta(DesiredDelta(nets={TUNNEL_PEERS: peers}))
    drive(kernel, plan)
    assert not kernel.is_received(make_packet(version, KNOWN[version], OWN[version]), "eth0")
    assert kernel.is_received(make_packet(version, STRANGER[version], OWN[version]), "eth0")


def test_port_of_a_family_without_tunnel_is_left_to_others() -> None:
    kernel, _ = start(4)
    assert kernel.is_received(make_packet(6, STRANGER[6], OWN[6]), "eth0")
    assert not kernel.is_received(make_packet(4, STRANGER[4], OWN[4]), "eth0")


@pytest.mark.parametrize("interface", ["eth0", ALL_INTERFACES])
@pytest.mark.parametrize("version", [4, 6])
def test_host_endpoint_that_denies_all_stops_no_tunnel_between_known_hosts(interface: str, version: int) -> None:
    kernel, plan = start(4, 6)
    stacks = HostStacks(_DENIED, _DENIED, pre_dnat=_DENIED, untracked_ingress=_DENIED, untracked_egress=_DENIED)
    plan.bind_hosts({interface: make_host_endpoint(interface, stacks)})
    drive(kernel, plan)
    assert not plan.host_refusals
    assert kernel.is_received(make_packet(version, KNOWN[version], OWN[version]), "eth0")
    assert kernel.is_sent(make_packet(version, OWN[version], KNOWN[version]), "eth0")
    assert not kernel.is_received(make_packet(version, KNOWN[version], OWN[version], 4790), "eth0")
    assert not kernel.is_received(make_packet(version, STRANGER[version], OWN[version]), "eth0")
    assert not kernel.is_sent(make_packet(version, OWN[version], STRANGER[version]), "eth0")
    plan.on_delta(DesiredDelta(own_vteps={4: None, 6: None}))
    drive(kernel, plan)
    assert not kernel.is_received(make_packet(version, KNOWN[version], OWN[version]), "eth0")
    assert not kernel.is_sent(make_packet(version, OWN[version], KNOWN[version]), "eth0")


@pytest.mark.parametrize("version", [4, 6])
def test_packet_of_a_known_host_to_others_than_this_host_is_no_tunnels(version: int) -> None:
    kernel, plan = start(4, 6)
    packet = make_packet(version, KNOWN[version], {4: "192.0.2.77", 6: "2001:db8::77"}[version])
    assert kernel.is_forwarded(packet, "eth0", "eth1")
    for stacks in (HostStacks(_OPEN, _OPEN, pre_dnat=_DENIED), HostStacks(_OPEN, _OPEN, untracked_ingress=_DENIED)):
        plan.bind_hosts({"eth0": make_host_endpoint("eth0", stacks)})
        drive(kernel, plan)
        assert not plan.host_refusals
        assert not kernel.is_forwarded(packet, "eth0", "eth1")
        assert kernel.is_received(make_packet(version, KNOWN[version], OWN[version]), "eth0")
