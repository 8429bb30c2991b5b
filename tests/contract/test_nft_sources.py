"""What workloads may send under other addresses, and with which MAC, on the fake nf_tables and on the real one."""

from __future__ import annotations

from dataclasses import replace

from felix.calc.desired import DesiredDelta, LocalEndpoint
from felix.dataplane.nft.plan import NftPlan
from felix.dataplane.nft.read import read_table
from felix.dataplane.nft.sources import ALLOWED, MAC_CHECKED, MACS
from felix.dataplane.nft.types import KernelTable, NftConfig, NftPort
from felix.model.net import parse_net
from tests.contract.conftest import Run
from tests.model.nft_worlds import drive
from tests.support.desired import local_endpoint

CONFIG = NftConfig(allows_spoofing=True, checks_macs=True)


def spoofing(*texts: str) -> LocalEndpoint:
    plain = local_endpoint("a", "calia", "10.1.0.1", mac="02:00:00:00:00:0a")
    return replace(plain, spoofed=tuple(parse_net(text) for text in texts))


def settle(port: NftPort, plan: NftPlan, *endpoints: LocalEndpoint, gone: LocalEndpoint | None = None) -> KernelTable:
    delta = DesiredDelta()
    delta.endpoints.update({one.key: one for one in endpoints})
    if gone is not None:
        delta.endpoints[gone.key] = None
    plan.on_delta(delta)
    for result in drive(port, plan):
        assert not result.error
        assert not result.closed
        assert not result.refused
    assert plan.is_settled
    table = read_table(port)
    plan.replace_believed(table)
    assert plan.is_settled
    return table


def find_lines(table: KernelTable) -> list[str]:
    return [line for name, lines in table.chains.items() if name.startswith("sources-") for line in lines]


def test_prefixes_and_mac_are_read_as_written_and_go_with_their_endpoint(run: Run) -> None:
    one, other = spoofing("10.9.0.0/16", "10.9.1.1", "fd09::/64"), local_endpoint("b", "calib", "10.1.0.2")

    def body(port: NftPort) -> None:
        plan = NftPlan(CONFIG)
        plan.replace_believed(read_table(port))
        before = settle(port, plan)
        table = settle(port, plan, one, other)
        assert find_lines(table) == ["ip saddr 10.9.0.0/16 accept", "ip6 saddr fd09::/64 accept"]
        assert [len(table.elements[name]) for name in (ALLOWED, MACS, MAC_CHECKED)] == [1, 1, 1]
        table = settle(port, plan, spoofing("0.0.0.0/0", "10.8.0.0/31"))
        assert find_lines(table) == ["meta nfproto 2 accept"]
        assert not find_lines(settle(port, plan, spoofing()))
        settle(port, plan, one, gone=other)
        assert settle(port, plan, gone=one) == before

    run(body)


def test_endpoint_on_another_interface_takes_its_prefixes_along_and_leaves_none_behind(run: Run) -> None:
    one = spoofing("10.9.0.0/16")

    def body(port: NftPort) -> None:
        plan = NftPlan(CONFIG)
        plan.replace_believed(read_table(port))
        settle(port, plan, one)
        table = settle(port, plan, replace(one, interface="calinew"))
        for name in (ALLOWED, MACS, MAC_CHECKED):
            assert [key[:16].rstrip(bytes(1)) for key in table.elements[name]] == [b"calinew"]
        assert [name for name in table.chains if name.startswith("sources-")] == [*table.elements[ALLOWED].values()]

    run(body)


def test_without_the_settings_nothing_of_it_is_in_the_table_and_the_endpoint_says_so(run: Run) -> None:
    def body(port: NftPort) -> None:
        plan = NftPlan(NftConfig())
        plan.replace_believed(read_table(port))
        table = settle(port, plan, spoofing("10.9.0.0/16"))
        assert not find_lines(table)
        assert not {ALLOWED, MACS, MAC_CHECKED} & table.elements.keys()
        assert "WorkloadSourceSpoofing" in plan.find_shortfall(spoofing("10.9.0.0/16"))

    run(body)
