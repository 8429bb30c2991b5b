"""Denied packets that are answered: the sender is told at once, on the real kernel, in both families."""

from __future__ import annotations

import pytest

from felix.calc.desired import Action, CompiledPolicy, CompiledRule, DesiredDelta, LocalEndpoint, Stack, StackTier
from felix.dataplane.nft.apply import NftWorker
from felix.dataplane.nft.plan import NftPlan
from felix.dataplane.nft.types import DenyAction, KernelTable, NftConfig
from felix.model.keys import ResourceKey
from felix.model.net import parse_net
from felix.policy.packet import TCP, UDP, Packet
from tests.model.nft_worlds import drive
from tests.support.wire import UPLINK, Sent, Wire

pytestmark = pytest.mark.fv

_POLICY = ResourceKey("GlobalNetworkPolicy", "", "p")
_UNREACHABLE = {4: (14 + 20, bytes((3, 3))), 6: (14 + 40, bytes((1, 4)))}  # where ICMP stands, type and code of "port"


@pytest.mark.parametrize("deny", DenyAction)
def test_denied_packet_is_answered_if_settings_say_so(deny: DenyAction) -> None:
    own, other = (parse_net("10.65.0.1"), parse_net("fd00:65::1")), (parse_net("192.0.2.1"), parse_net("2001:db8::1"))
    rules = (CompiledRule(Action.DENY, protocol=UDP), CompiledRule(Action.ALLOW, protocol=132))
    stack = Stack((StackTier("default", (_POLICY,), Action.DENY),), ())
    key = ResourceKey("WorkloadEndpoint", "default", "w")
    endpoint = LocalEndpoint(key, "cali0", own, None, stack, stack, 1)
    plan = NftPlan(NftConfig(deny=deny))
    plan.replace_believed(KernelTable())
    plan.on_delta(DesiredDelta(policies={_POLICY: CompiledPolicy(rules, rules)}, endpoints={key: endpoint}))
    wire = Wire(["cali0"], [(net, "cali0") for net in own])
    worker = NftWorker(wire.host.enter_thread)
    try:
        assert not any(result.error for result in worker.call_blocking(drive, plan))
        wire.route([(net, "cali0") for net in own])
        for mine, theirs in zip(own, other, strict=True):
            for protocol in (UDP, TCP):  # by a rule, and by the end of the tier
                out = Packet(mine.version, mine.value, theirs.value, protocol, 1, 2)
                back = Packet(mine.version, theirs.value, mine.value, protocol, 1, 3)
                assert wire.exchange([Sent(out, "cali0"), Sent(back, UPLINK)]) == ["", ""]
                start, expected = _UNREACHABLE[mine.version]
                answers = [name for name, frame in wire.strange if frame[start : start + 2] == expected]
                assert answers == (["cali0", UPLINK] if deny is DenyAction.REJECT else [])
    finally:
        worker.close()
        wire.close()
