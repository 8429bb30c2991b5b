"""Rules as nft text; that the texts mean what they say is proven by the property and contract tests."""

from __future__ import annotations

import pytest

from felix.calc.desired import ANY_ENTITY, Action, CompiledRule, EntityMatch, IcmpMatch, PortRange, SetRef
from felix.dataplane.nft.match import render_address, render_matches
from felix.dataplane.nft.names import port_set
from felix.dataplane.nft.types import ElementShape
from felix.model.net import Net, parse_net

_HTTP = {
    "ip": port_set("http@x", ElementShape.IPV4_PORT),
    "ip6": port_set("http@x", ElementShape.IPV6_PORT),
}
_A = SetRef("a", nets4=False, nets6=False)
_N = SetRef("n", nets4=True, nets6=False)


def _nets(*texts: str) -> tuple[Net, ...]:
    return tuple(parse_net(text) for text in texts)


def _rule(
    source: EntityMatch = ANY_ENTITY,
    destination: EntityMatch = ANY_ENTITY,
    *,
    version: int | None = None,
    protocol: int | None = None,
    icmp: tuple[IcmpMatch | None, IcmpMatch | None] = (None, None),
) -> CompiledRule:
    return CompiledRule(
        Action.ALLOW,
        ip_version=version,
        protocol=protocol,
        icmp=icmp[0],
        not_icmp=icmp[1],
        source=source,
        destination=destination,
    )


@pytest.mark.parametrize(
    ("rule", "texts"),
    [
        (_rule(), [""]),
        (_rule(version=6), ["meta nfproto 10"]),
        (_rule(version=4, protocol=1), ["ip version 4 meta l4proto 1"]),
        (_rule(EntityMatch(nets=_nets("10.0.0.0/8"))), ["ip saddr 10.0.0.0/8"]),
        (_rule(EntityMatch(nets=())), []),
        (_rule(EntityMatch(nets=_nets("10.0.0.0/8")), version=6), []),
        (_rule(EntityMatch(not_nets=_nets("0.0.0.0/0"))), ["meta nfproto 10"]),
        (_rule(EntityMatch(not_nets=_nets("10.0.0.0/8"))), ["ip saddr != 10.0.0.0/8", "meta nfproto 10"]),
        (
            _rule(EntityMatch(nets=_nets("10.0.0.1", "10.0.0.0", "fd00::1"))),
            ["ip saddr 10.0.0.0/31", "ip6 saddr fd00::1"],
        ),
        (_rule(EntityMatch(sets=(_A,))), ["ip saddr @a4-a", "ip6 saddr @a6-a"]),
        (_rule(EntityMatch(sets=(_N,)), version=4), ["ip saddr @a4-n", "ip saddr @n4-n"]),
        (_rule(EntityMatch(not_sets=(_N,)), version=4), ["ip saddr != @a4-n ip saddr != @n4-n"]),
        (
            _rule(destination=EntityMatch(ports=(PortRange(1, 2), PortRange(3, 3), PortRange(9, 9))), protocol=6),
            ["tcp dport { 1-3, 9 }"],
        ),
        (_rule(destination=EntityMatch(ports=()), protocol=6), []),
        (_rule(destination=EntityMatch(ports=(PortRange(0, 65535),)), protocol=17), ["meta l4proto 17"]),
        (_rule(destination=EntityMatch(not_ports=(PortRange(53, 53),)), protocol=17), ["udp dport != 53"]),
        (
            _rule(
                EntityMatch(not_ports=(PortRange(5000, 5000),)), EntityMatch(not_ports=(PortRange(81, 81),)), protocol=6
            ),
            ["tcp sport != 5000 tcp dport { 0-80, 82-65535 }"],
        ),
        (
            _rule(
                EntityMatch(not_ports=(PortRange(5000, 5000),)),
                EntityMatch(ports=(PortRange(80, 82),), not_ports=(PortRange(82, 82),)),
                protocol=17,
            ),
            ["udp sport != 5000 udp dport 80-81"],
        ),
        (
            _rule(EntityMatch(not_ports=(PortRange(0, 0),)), EntityMatch(not_ports=(PortRange(0, 0),)), protocol=6),
            ["tcp sport != 0 tcp dport 1-65535"],
        ),
        (_rule(destination=EntityMatch(ports=(PortRange(53, 53),)), protocol=1), []),
        (
            _rule(destination=EntityMatch(port_sets=("http@x",)), protocol=6),
            [f"{ip} daddr . meta l4proto . tcp dport @{_HTTP[ip]}" for ip in ("ip", "ip6")],
        ),
        (
            _rule(destination=EntityMatch(ports=(PortRange(90, 90),), port_sets=("http@x",)), version=4, protocol=132),
            ["meta nfproto 2 sctp dport 90", f"ip daddr . meta l4proto . sctp dport @{_HTTP['ip']}"],
        ),
        (
            _rule(EntityMatch(sets=(_A,), not_ports=(PortRange(5, 5),), not_port_sets=("http@x",)), protocol=17),
            [
                f"{ip} saddr @a{n}-a udp sport != 5 {ip} saddr . meta l4proto . udp sport != @{_HTTP[ip]}"
                for ip, n in (("ip", 4), ("ip6", 6))
            ],
        ),
        (_rule(destination=EntityMatch(port_sets=("http@x",)), protocol=1), []),
        (_rule(destination=EntityMatch(ports=(), port_sets=()), protocol=6), []),
        (_rule(protocol=1, icmp=(IcmpMatch(8, 0), None)), ["icmp type 8 icmp code 0"]),
        (_rule(protocol=58, icmp=(IcmpMatch(128, None), None), version=4), []),
        (
            _rule(protocol=1, icmp=(None, IcmpMatch(3, 4))),
            ["icmp type . icmp code != { 3 . 4 }", "meta nfproto 10 meta l4proto 1"],
        ),
    ],
)
def test_rule_with_these_conditions_becomes_these_matches(rule: CompiledRule, texts: list[str]) -> None:
    assert list(render_matches(rule)) == texts


@pytest.mark.parametrize(
    "text", ["::", "::1", "::ffff:1.2.3.4", "::1.2.3.4", "fd00::1", "1:0:0:2::3", "::ffff:ffff:0:0"]
)
def test_ipv6_address_is_written_as_the_c_library_does(text: str) -> None:
    assert render_address(6, parse_net(text).value) == text
