"""Which TCP connections may not be taken up again, and for how long."""

from __future__ import annotations

from felix.dataplane.nft.cuts import CUT_CHAINS, KEPT_S
from felix.dataplane.nft.plan import NftPlan
from felix.dataplane.nft.read import read_table
from felix.dataplane.nft.types import KernelTable, NftConfig
from felix.model.net import parse_address
from felix.policy.packet import TCP, Packet
from tests.model.fake_nft import FakeNft
from tests.model.nft_worlds import drive

ANSWER = Packet(4, parse_address("10.1.0.1").value, parse_address("10.9.0.1").value, TCP, 80, 40000)
ANSWER6 = Packet(6, parse_address("fd01::1").value, parse_address("fd09::1").value, TCP, 80, 40000)
KEY = bytes.fromhex("0a010001 0050 0000 0a090001 9c40 0000")


def start(kernel: FakeNft) -> NftPlan:
    plan = NftPlan(NftConfig())
    plan.replace_believed(read_table(kernel) if kernel.table is not None else KernelTable())
    for result in drive(kernel, plan):
        assert not result.error
    return plan


def cut(kernel: FakeNft, plan: NftPlan, *packets: Packet, now: float) -> None:
    plan.cut(packets, now)
    for result in drive(kernel, plan):
        assert not result.error
        assert not result.skipped
    assert plan.is_settled


def test_connection_is_in_the_kernel_until_its_time_is_over_and_then_nothing_is_left() -> None:
    kernel = FakeNft()
    plan = start(kernel)
    before = read_table(kernel)
    cut(kernel, plan, ANSWER, now=0.0)
    cut(kernel, plan, ANSWER6, now=5.0)
    table = read_table(kernel)
    assert list(table.elements["cut4"]) == [KEY]
    assert len(table.elements["cut6"]) == 1
    assert [len(table.chains[chain]) for chain in CUT_CHAINS] == [3, 3, 3]
    cut(kernel, plan, now=KEPT_S + 1)
    table = read_table(kernel)
    assert "cut4" not in table.elements
    assert len(table.elements["cut6"]) == 1
    cut(kernel, plan, now=KEPT_S + 6)
    assert read_table(kernel) == before


def test_restart_keeps_what_was_cut_and_writes_nothing() -> None:
    kernel = FakeNft()
    cut(kernel, start(kernel), ANSWER, now=0.0)
    writes = kernel.writes
    plan = start(kernel)
    cut(kernel, plan, now=0.0)
    assert kernel.writes == writes
    cut(kernel, plan, now=KEPT_S + 1)
    assert not CUT_CHAINS.keys() & read_table(kernel).chains.keys()


def test_element_that_somebody_adds_later_is_thrown_out() -> None:
    kernel = FakeNft()
    plan = start(kernel)
    cut(kernel, plan, ANSWER, now=0.0)
    table = read_table(kernel)
    table.elements["cut4"][bytes(16)] = ""
    plan.replace_believed(table)
    assert [change.removed for change in plan.plan_fill().changes] == [((bytes(16), ""),)]
