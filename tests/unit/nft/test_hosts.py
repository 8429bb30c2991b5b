"""Host endpoints in the plan: what is refused is closed except for failsafes, and nothing is left behind."""

from __future__ import annotations

import pytest

from felix.calc.desired import (
    ALL_INTERFACES,
    Action,
    CompiledPolicy,
    CompiledRule,
    DesiredDelta,
    EntityMatch,
    HostStacks,
    PortRange,
    Stack,
    StackTier,
)
from felix.dataplane.nft.apply import apply_fill
from felix.dataplane.nft.plan import NftPlan
from felix.dataplane.nft.read import read_table
from felix.dataplane.nft.types import KernelTable, NftConfig, ObjectName
from felix.model.keys import ResourceKey
from felix.model.net import parse_net
from felix.policy.host_settings import Failsafe
from felix.policy.packet import ICMPV6, TCP, Packet
from tests.model.fake_nft import FakeNft
from tests.model.host_worlds import make_host_endpoint
from tests.model.nft_worlds import drive

_OPEN = ResourceKey("Profile", "", "open")
_ALLOWED = HostStacks(Stack((), (_OPEN,)), Stack((), (_OPEN,)))
_PASSING = ResourceKey("GlobalNetworkPolicy", "", "default.passing")
_ALL = CompiledPolicy((CompiledRule(Action.ALLOW),), (CompiledRule(Action.ALLOW),))
_PASS = CompiledPolicy((CompiledRule(Action.PASS),), (CompiledRule(Action.PASS),))


def _packet(port: int) -> Packet:
    return Packet(4, parse_net("198.51.100.1").value, parse_net("192.0.2.1").value, TCP, 5, port)


def _deep() -> HostStacks:
    """Returns stacks that pass more often than the kernel follows."""
    tiers = tuple(StackTier(f"t{number}", (_PASSING,), Action.PASS) for number in range(20))
    return HostStacks(Stack(tiers, (_OPEN,)), Stack(tiers, (_OPEN,)))


def _start(config: NftConfig | None = None) -> tuple[FakeNft, NftPlan]:
    kernel, plan = FakeNft(), NftPlan(config or NftConfig())
    plan.replace_believed(KernelTable())
    plan.on_delta(DesiredDelta(policies={_OPEN: _ALL, _PASSING: _PASS}))
    return kernel, plan


def _is_received(kernel: FakeNft, port: int) -> bool:
    return kernel.is_received(_packet(port), "eth0")


@pytest.mark.parametrize("interface", ["eth0", ALL_INTERFACES])
def test_host_endpoint_that_the_kernel_cannot_follow_is_closed_except_for_failsafes(interface: str) -> None:
    kernel, plan = _start()
    endpoint = make_host_endpoint(interface, _deep())
    plan.bind_hosts({interface: endpoint})
    drive(kernel, plan)
    assert endpoint.key in plan.host_refusals
    assert _is_received(kernel, 22)
    assert not _is_received(kernel, 80)
    assert not kernel.is_sent(_packet(80), "eth0")
    assert plan.is_settled

    plan.bind_hosts({interface: make_host_endpoint(interface, _ALLOWED)})
    drive(kernel, plan)
    assert not plan.host_refusals
    assert _is_received(kernel, 80)


def test_refused_host_endpoint_for_all_opens_no_other_interface_for_a_moment(monkeypatch: pytest.MonkeyPatch) -> None:
    kernel, plan = _start()
    plan.bind_hosts({"eth0": make_host_endpoint("eth0", HostStacks(Stack((), ()), Stack((), ())))})
    drive(kernel, plan)
    run, seen = kernel.run, []

    def run_and_look(text: str) -> str:
        refusal = run(text)
        seen.append(_is_received(kernel, 80) or kernel.is_sent(_packet(80), "eth0"))
        return refusal

    monkeypatch.setattr(kernel, "run", run_and_look)
    plan.bind_hosts({ALL_INTERFACES: make_host_endpoint(ALL_INTERFACES, _deep())})
    drive(kernel, plan)
    assert plan.host_refusals
    assert len(seen) > 1
    assert not any(seen)
    assert plan.is_settled


def test_table_with_a_host_endpoint_is_mended_in_place_and_not_built_anew() -> None:
    kernel, plan = _start()
    plan.bind_hosts({"eth0": make_host_endpoint("eth0", _ALLOWED)})
    drive(kernel, plan)
    kernel.run("flush chain inet felix host-input")
    plan.replace_believed(read_table(kernel))
    assert not plan.plan_fill()
    drive(kernel, plan)
    assert plan.is_settled


def test_refused_rule_of_a_host_endpoint_leaves_failsafes_open() -> None:
    kernel, plan = _start()
    kernel.is_refused = lambda line: "accept comment" in line
    plan.bind_hosts({"eth0": make_host_endpoint("eth0", _ALLOWED)})
    drive(kernel, plan)
    assert _is_received(kernel, 22)
    assert not _is_received(kernel, 80)


def test_hooks_and_maps_of_host_endpoints_go_with_the_last_of_them() -> None:
    kernel, plan = _start()
    drive(kernel, plan)
    bare = kernel.list_table()
    plan.bind_hosts({"eth0": make_host_endpoint("eth0", _ALLOWED), "*": make_host_endpoint("*", _ALLOWED)})
    drive(kernel, plan)
    assert "chain host-input" in kernel.list_table()
    plan.bind_hosts({"eth0": None, "*": None})
    drive(kernel, plan)
    assert plan.is_settled
    assert kernel.list_table() == bare
    writes = kernel.writes
    drive(kernel, plan)
    assert kernel.writes == writes


def test_interface_without_policy_for_a_hook_is_not_the_concern_of_the_one_for_all() -> None:
    closed = Stack((StackTier("default", (_PASSING,), Action.DENY),), (), Action.PASS)
    kernel, plan = _start()
    nothing = CompiledPolicy((), ())
    plan.on_delta(DesiredDelta(policies={_PASSING: nothing}))
    everywhere = _ALLOWED._replace(forward_ingress=closed)
    plan.bind_hosts({"eth0": make_host_endpoint("eth0", _ALLOWED), "*": make_host_endpoint("*", everywhere)})
    drive(kernel, plan)
    assert kernel.is_forwarded(_packet(80), "eth0", "eth1")
    assert not kernel.is_forwarded(_packet(80), "eth1", "eth0")
    assert not kernel.is_forwarded(_packet(22), "eth1", "eth0")
    assert kernel.is_received(_packet(80), "lo")


def test_failsafes_are_those_of_the_settings_in_their_direction_and_from_their_prefix() -> None:
    failsafes = (Failsafe(TCP, 2222, parse_net("198.51.100.0/24")), Failsafe(TCP, 2223, parse_net("10.0.0.0/8")))
    kernel, plan = _start(NftConfig(failsafes_in=failsafes, failsafes_out=()))
    plan.bind_hosts({"eth0": make_host_endpoint("eth0", HostStacks(Stack((), ()), Stack((), ())))})
    drive(kernel, plan)
    assert [port for port in (22, 2222, 2223) if _is_received(kernel, port)] == [2222]
    assert not kernel.is_sent(_packet(179), "eth0")
    fe80 = parse_net("fe80::1").value
    assert kernel.is_received(Packet(6, fe80, fe80 + 1, ICMPV6, icmp_type=135, icmp_code=0), "eth0")


_SERVED = ResourceKey("GlobalNetworkPolicy", "", "default.served")


def _serving() -> HostStacks:
    tiers = (StackTier("default", (_SERVED,), Action.DENY),)
    return HostStacks(Stack(tiers, ()), Stack((), (_OPEN,)), Stack(tiers, (), Action.PASS))


def _start_serving(kernel: FakeNft, interface: str) -> NftPlan:
    """Returns the plan of an agent that knows everything, and that the kernel has what it wants."""
    plan = NftPlan(NftConfig())
    plan.replace_believed(read_table(kernel))
    rule = CompiledRule(Action.ALLOW, protocol=TCP, destination=EntityMatch(ports=(PortRange(80, 80),)))
    plan.on_delta(DesiredDelta(policies={_OPEN: _ALL, _SERVED: CompiledPolicy((rule,), ())}))
    plan.bind_hosts({interface: make_host_endpoint(interface, _serving())})
    drive(kernel, plan)
    assert plan.is_settled
    return plan


@pytest.mark.parametrize("interface", ["eth0", ALL_INTERFACES])
@pytest.mark.parametrize("is_restarted", [False, True], ids=["at work", "started anew"])
def test_table_that_is_built_anew_closes_interfaces_of_the_host_until_their_policy_stands(
    interface: str, *, is_restarted: bool
) -> None:
    kernel = FakeNft()
    plan = _start_serving(kernel, interface)
    before = read_table(kernel)
    table = read_table(kernel)
    table.objects[ObjectName("set", "claimed")] = ("type mark",)
    seen = []

    def check() -> None:
        passing = [_is_received(kernel, port) for port in (22, 80, 81)]
        passing += [kernel.is_forwarded(_packet(port), "eth0", "eth1") for port in (80, 81)]
        seen.append(passing)
        assert kernel.is_received(_packet(80), "eth0", "established")
        assert kernel.is_forwarded(_packet(80), "eth0", "eth1", "established")
        assert kernel.is_received(_packet(81), "lo")

    kernel.after_write = check
    if is_restarted:
        plan = NftPlan(NftConfig())
        plan.replace_believed(table)
        fill = plan.plan_fill()  # what an agent writes that finds a table which guards nothing
        plan.absorb_fill(fill, apply_fill(kernel, fill))
        table = read_table(kernel)
        _start_serving(kernel, interface)
    else:
        plan.replace_believed(table)
        assert "claimed" in plan.rebuild_reason
        drive(kernel, plan)
        assert plan.is_settled
    closed, opened = [True, False, False, False, False], [True, True, False, True, False]
    assert seen[0] == closed
    assert seen[-1] == opened
    assert all(passing in (closed, opened) for passing in seen)
    after = read_table(kernel)
    assert (after.chains, after.elements) == (before.chains, before.elements)
